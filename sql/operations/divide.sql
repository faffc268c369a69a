create function sql_diffusion.run_divide(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg((element / (inputs[2]).planes[1][1])::real) from (select unnest((inputs[1]).planes) as element) elements),
                                                         (inputs[1]).height * (inputs[1]).width), (inputs[1]).height, (inputs[1]).width) as maps
        offset 0) done,
       lateral (select (done.maps).*) maps;
end;
comment on function sql_diffusion.run_divide(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is 'The first input divided by the second, a number.';
