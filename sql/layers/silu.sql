create function sql_diffusion.silu(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'silu: input'),
         sql_diffusion.check_values(input, 'silu: input');
  -- tanh cannot overflow, as exp would. What is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow.
  select sql_diffusion.with_shape(array_agg((x / 2 * (1 + tanh(x / 2)) + 1e-29 - 1e-29)::real), sql_diffusion.shape(input))
  from (select unnest(input)::float8 as x) elements;
end;
comment on function sql_diffusion.silu(real[]) is
  'x / (1 + exp(-x)), which is x/2 (1 + tanh(x/2)), of every element, torch.nn.functional.silu. A tensor of any shape; the output has the same.';

create function sql_diffusion.silu_of_maps(input sql_diffusion.feature_maps) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by channel), (input).height, (input).width, array_agg(plane.mean order by channel), array_agg(plane.variance order by channel),
         array_agg(plane.low order by channel), array_agg(plane.high order by channel)
  from generate_series(1, array_length((input).planes, 1)) channel,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (x / 2 * (1 + tanh(x / 2)) + 1e-29 - 1e-29)::real as pixel
                      from (select unnest((input).planes[channel:channel])::float8 as x offset 0) elements) activated offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.silu_of_maps(sql_diffusion.feature_maps) is 'silu of feature maps. A set of one row, so that the planner puts the query in its place.';
