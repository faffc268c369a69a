create function sql_diffusion.add(a real[], b real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(a, 'add: a'),
         sql_diffusion.check_tensor(b, 'add: b');
  select sql_diffusion.check_same_shape(b, a, 'add: b', 'a'),
         sql_diffusion.check_values(a, 'add: a'),
         sql_diffusion.check_values(b, 'add: b');
  select sql_diffusion.with_shape(array_agg(pair.x + pair.y), sql_diffusion.shape(a))
  from (select unnest(a) as x, unnest(b) as y) pair;
end;
comment on function sql_diffusion.add(real[], real[]) is 'a + b, element by element: two tensors of one shape.';

create function sql_diffusion.add_channels(input real[], vector real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'add_channels: input'),
         sql_diffusion.check_tensor(vector, 'add_channels: vector', 'channels');
  select case when array_length(vector, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('add_channels: vector has %s elements, expected one for each of the %s channels of input',
                                     array_length(vector, 1), array_length(input, 1)))
         end,
         sql_diffusion.check_values(input, 'add_channels: input'),
         sql_diffusion.check_values(vector, 'add_channels: vector');
  select sql_diffusion.with_shape(array_agg(pair.x + pair.y), sql_diffusion.shape(input))
  from (select unnest(input) as x,
               unnest((select array_agg(term)
                       from (select unnest(array_fill(element, array[cardinality(input) / cardinality(vector)])) as term
                             from (select unnest(vector) as element) elements) terms)) as y) pair;
end;
comment on function sql_diffusion.add_channels(real[], real[]) is
  'Adds to each channel of the input, shape (channels, ...), its element of the vector, shape (channels): input + vector[:, None, None].';

create function sql_diffusion.add_of_maps(a sql_diffusion.feature_maps, b sql_diffusion.feature_maps) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by channel), (a).height, (a).width, array_agg(plane.mean order by channel), array_agg(plane.variance order by channel),
         array_agg(plane.low order by channel), array_agg(plane.high order by channel)
  from generate_series(1, array_length((a).planes, 1)) channel,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select x + y as pixel
                      from (select unnest((a).planes[channel:channel]) as x, unnest((b).planes[channel:channel]) as y offset 0) pair) sums offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.add_of_maps(sql_diffusion.feature_maps, sql_diffusion.feature_maps) is
  'add of two feature maps of one shape. A set of one row, so that the planner puts the query in its place.';
