create function sql_diffusion.run_output(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select inputs[1] as maps offset 0) given, lateral (select (given.maps).*) maps;
end;
comment on function sql_diffusion.run_output(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'What the network gives under the name of its key: the input as it is.';
