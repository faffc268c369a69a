create function sql_diffusion.geglu(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'geglu: input');
  select case when array_length(input, array_ndims(input)) % 2 <> 0 then
           sql_diffusion.fail(format('geglu: input has shape %s, expected an even last dimension', sql_diffusion.shape(input)))
         end,
         sql_diffusion.check_values(input, 'geglu: input');
  select sql_diffusion.with_shape((select array_agg((flat.elements[first + i] * flat.gates[first + i + size.half]::float8 + 1e-29 - 1e-29)::real order by first, i)
                                   from generate_series(0, cardinality(input) - 1, 2 * size.half) first,
                                        generate_series(1, size.half) i),
                                  (sql_diffusion.shape(input))[: array_ndims(input) - 1] || array_length(input, array_ndims(input)) / 2)
  from (select array_length(input, array_ndims(input)) / 2 as half offset 0) size,
       lateral (select array_agg(x) as elements,
                       array_agg(x::float8 / 2 * (1 + tanh(x * sql_diffusion.gelu_factor(square, 'none')))) as gates
                from (select x, least(x::float8 * x, 36) as square
                      from (select unnest(input) as x offset 0) elements offset 0) squared offset 0) flat;
end;
comment on function sql_diffusion.geglu(real[]) is
  'hidden gelu(gate), where the first half of the last dimension is hidden and the second gate: input (..., 2 features), output (..., features). Shazeer 2020 (arXiv 2002.05202), equation 6; '
  'what diffusers'' GEGLU does after its linear layer.';

create function sql_diffusion.geglu_of_maps(input sql_diffusion.feature_maps) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by channel), (input).height, (input).width, array_agg(plane.mean order by channel), array_agg(plane.variance order by channel),
         array_agg(plane.low order by channel), array_agg(plane.high order by channel)
  from (select array_length((input).planes, 1) / 2 as half offset 0) size,
       generate_series(1, size.half) channel,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (hidden * (x / 2 * (1 + tanh(x * sql_diffusion.gelu_factor(square, 'none')))) + 1e-29 - 1e-29)::real as pixel
                      from (select hidden, x, least(x * x, 36) as square
                            from (select unnest((input).planes[channel:channel]) as hidden,
                                         unnest((input).planes[size.half + channel : size.half + channel])::float8 as x offset 0) elements offset 0) squared) activated offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.geglu_of_maps(sql_diffusion.feature_maps) is
  'geglu over the channels of feature maps, of which there are an even number: half as many come out. A set of one row, so that the planner puts the query in its place.';
