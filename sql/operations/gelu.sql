create function sql_diffusion.run_gelu(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.gelu_of_maps(inputs[1], coalesce((step).settings ->> 'approximate', 'none')) maps;
end;
comment on function sql_diffusion.run_gelu(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'gelu of every element.';
