create function sql_diffusion.run_center_input_sample(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg(2::real * element.x - 1::real) from (select unnest((inputs[1]).planes) as x) element),
                                                         (inputs[1]).height * (inputs[1]).width), (inputs[1]).height, (inputs[1]).width) as maps
        offset 0) done;
end;
comment on function sql_diffusion.run_center_input_sample(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Values 0 to 1 become values -1 to 1.';
