create function sql_diffusion.run_affine(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select ((step).settings ->> 'scale')::float8 as scale, ((step).settings ->> 'shift')::float8 as shift offset 0) factor,
       lateral (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg((element.x * factor.scale + factor.shift)::real) from (select unnest((inputs[1]).planes)::float8 as x) element),
                                                                (inputs[1]).height * (inputs[1]).width), (inputs[1]).height, (inputs[1]).width) as maps
                offset 0) done;
end;
comment on function sql_diffusion.run_affine(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Every element times the scale, plus the shift of the settings.';
