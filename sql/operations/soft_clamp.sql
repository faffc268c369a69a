create function sql_diffusion.run_soft_clamp(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select ((step).settings ->> 'limit')::float8 as most offset 0) bound,
       lateral (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg((tanh(element.x / bound.most) * bound.most)::real) from (select unnest((inputs[1]).planes)::float8 as x) element),
                                                                (inputs[1]).height * (inputs[1]).width), (inputs[1]).height, (inputs[1]).width) as maps
                offset 0) done;
end;
comment on function sql_diffusion.run_soft_clamp(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'tanh(x / limit) * limit of every element, with the limit of the settings: small values stay, none goes beyond.';
