create function sql_diffusion.run_add(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg(pair.x + pair.y) from (select unnest((inputs[1]).planes) as x, unnest((inputs[2]).planes) as y) pair),
                                                         (inputs[1]).height * (inputs[1]).width), (inputs[1]).height, (inputs[1]).width) as maps
        offset 0) done,
       lateral (select (done.maps).*) maps;
end;
comment on function sql_diffusion.run_add(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is 'The sum of two inputs of one shape.';
