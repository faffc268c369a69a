create function sql_diffusion.run_mish(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.mish_of_maps(inputs[1]) maps;
end;
comment on function sql_diffusion.run_mish(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'mish of every element.';
