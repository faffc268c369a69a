create function sql_diffusion.mish(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'mish: input'),
         sql_diffusion.check_values(input, 'mish: input');
  -- tanh(ln(1 + e)) is (e^2 + 2 e) / (e^2 + 2 e + 2) with e = exp(x); above 30 that is 1
  select sql_diffusion.with_shape(array_agg((x * (1 - 2 / ((e + 2) * e + 2)) + 1e-29 - 1e-29)::real), sql_diffusion.shape(input))
  from (select unnest(input)::float8 as x offset 0) elements,
       lateral (select exp(greatest(least(x, 30), -80)) as e offset 0) power;
end;
comment on function sql_diffusion.mish(real[]) is
  'x tanh(softplus(x)) of every element, where softplus(x) is ln(1 + exp(x)): Misra 2019 (arXiv 1908.08681), equation 1; torch.nn.functional.mish. A tensor of any shape; the output has the same.';

create function sql_diffusion.mish_of_maps(input sql_diffusion.feature_maps) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by channel), (input).height, (input).width, array_agg(plane.mean order by channel), array_agg(plane.variance order by channel),
         array_agg(plane.low order by channel), array_agg(plane.high order by channel)
  from generate_series(1, array_length((input).planes, 1)) channel,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (x * (1 - 2 / ((e + 2) * e + 2)) + 1e-29 - 1e-29)::real as pixel
                      from (select unnest((input).planes[channel:channel])::float8 as x offset 0) elements,
                           lateral (select exp(greatest(least(x, 30), -80)) as e offset 0) power) activated offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.mish_of_maps(sql_diffusion.feature_maps) is 'mish of feature maps. A set of one row, so that the planner puts the query in its place.';
