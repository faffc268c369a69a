create function sql_diffusion.fourier_embedding_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
return row('', array[(step).out_channels / 2], false, null)::sql_diffusion.plan_module;
comment on function sql_diffusion.fourier_embedding_modules(sql_diffusion.plan_step) is 'The frequencies, which the checkpoint has.';

create function sql_diffusion.run_fourier_embedding(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select case when not (inputs[1]).planes[1][1] > 0
               then sql_diffusion.fail(format('%s: %s takes the logarithm of its input, which is %s, expected above 0', component, (step).key, (inputs[1]).planes[1][1]),
                                       'Its timesteps are standard deviations of the noise: of training timesteps 0 can be left out, timesteps => ''{900,600,300}''.') end as refused
        offset 0) checked,
       lateral (select sql_diffusion.vector_to_maps(array_agg(sin(angle)::real order by ordinality) || array_agg(cos(angle)::real order by ordinality)) as maps
        from sql_diffusion.parameters p,
             unnest(p.weight) with ordinality frequency (value, ordinality),
             lateral (select (((ln((inputs[1]).planes[1][1]::float8)::real * frequency.value)::real * 2::real)::real * pi()::real)::real::float8 as angle offset 0) product
        where p.model = run_fourier_embedding.model
          and p.component = run_fourier_embedding.component
          and p.key = (step).key
          and checked.refused is null
        offset 0) done,
       lateral (select (done.maps).*) maps;
end;
comment on function sql_diffusion.run_fourier_embedding(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Sines and cosines of the logarithm of the input, the noise''s standard deviation, at the checkpoint''s own frequencies: diffusers'' GaussianFourierProjection. Tancik et al. 2020 (arXiv 2006.10739), section 5.';
