create function sql_diffusion.run_timestep_embedding(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select sql_diffusion.vector_to_maps(array_agg(e.element order by t.ordinality, e.ordinality)) as vector
        from unnest((inputs[1]).planes) with ordinality t (timestep),
             unnest(sql_diffusion.timestep_embedding(t.timestep, (step).out_channels / (step).in_channels, ((step).settings ->> 'flip_sin_to_cos')::boolean,
                                                     ((step).settings ->> 'downscale_freq_shift')::double precision)) with ordinality e (element)
        offset 0) embedded,
       lateral (select (embedded.vector).*) maps;
end;
comment on function sql_diffusion.run_timestep_embedding(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Sines and cosines of the input, a timestep or another number: of each of its channels, one after the other.';
