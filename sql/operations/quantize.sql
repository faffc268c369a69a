create function sql_diffusion.quantize_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('', array[((step).settings ->> 'num_embeddings')::int, (step).in_channels], false, null)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.quantize_modules(sql_diffusion.plan_step) is 'The codebook, a row a vector.';

create function sql_diffusion.run_quantize(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  with given as materialized (
    select p.weight || '{}'::real[] as weight, inputs[1] as maps
    from sql_diffusion.parameters p
    where p.model = run_quantize.model
      and p.component = run_quantize.component
      and p.key = (run_quantize.step).key
  ),
  codebook as materialized (
    select (e.position - 1) / (step).in_channels as number, ((e.position - 1) % (step).in_channels + 1)::int as channel, e.element::float8 as element
    from given, unnest(given.weight) with ordinality e (element, position)
  ),
  nearest as materialized (
    select pixel, n.number::int + 1 as number
    from given, generate_series(1, (given.maps).height * (given.maps).width) pixel,
         lateral (select array(select (given.maps).planes[channel][pixel]::float8 from generate_series(1, (step).in_channels) channel) as vector offset 0) own,
         lateral (select d.number
                  from (select c.number, sum((c.element - own.vector[c.channel]) * (c.element - own.vector[c.channel])) as distance from codebook c group by c.number) d
                  order by d.distance, d.number
                  limit 1) n
  )
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.fold((select array_agg(given.weight[n.number][channel] order by channel, n.pixel)
                                                         from nearest n, generate_series(1, (step).in_channels) channel), (given.maps).height * (given.maps).width),
                                     (given.maps).height, (given.maps).width) as maps
        from given
        offset 0) done;
end;
comment on function sql_diffusion.run_quantize(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'For each pixel of the input the nearest vector of the codebook, the first of several. van den Oord et al. (arXiv 1711.00937), equation 1.';
