create function sql_diffusion.linear_of_maps(input sql_diffusion.feature_maps, model text, component text, key text, name text, residual real[] default null) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select sql_diffusion.vector_to_maps(sql_diffusion.linear_module(sql_diffusion.vector_of_maps(input), model, component, key, name)) as maps offset 0) done, lateral (select (done.maps).*) maps;
end;
