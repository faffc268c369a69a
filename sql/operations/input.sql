create function sql_diffusion.run_input(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select inputs[1] as maps offset 0) given,
       lateral (select (given.maps).*) maps;
end;
comment on function sql_diffusion.run_input(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'What comes from outside under the name of the step''s key, which run_pass puts among the inputs: as it is.';
