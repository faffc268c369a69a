-- What goes from layer to layer inside a network: the planes of an image, flat, and what the next layer wants to know of each
-- channel. Whoever makes a plane learns that on the way, and so nobody has to read the planes for it again.
create type sql_diffusion.feature_maps as (
  planes    real[],
  height    int,
  width     int,
  mean      double precision[],
  variance  double precision[],
  low       double precision[],
  high      double precision[]
);
comment on type sql_diffusion.feature_maps is
  'An image inside a network: planes (channels, height * width), and of each channel the mean, the population variance, the least and the greatest value.';

create function sql_diffusion.to_maps(input real[], height int default null, width int default null) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
return (
  select row(case when array_ndims(input) = 3 then sql_diffusion.fold(array(select unnest(input)), array_length(input, 2) * array_length(input, 3)) else input end, coalesce(height, array_length(input, 2)), coalesce(width, array_length(input, 3)), array_agg(own.mean order by channel), array_agg(own.variance order by channel),
             array_agg(own.low order by channel), array_agg(own.high order by channel))::sql_diffusion.feature_maps
  from generate_series(1, array_length(input, 1)) channel,
       lateral (select avg(element) as mean, var_pop(element) as variance, min(element) as low, max(element) as high
                from (select unnest(input[channel:channel])::float8 as element) elements) own);
comment on function sql_diffusion.to_maps(real[], int, int) is
  'The feature maps of a tensor (channels, height, width), or (channels, height * width) whose height and width are given.';

create function sql_diffusion.from_maps(maps sql_diffusion.feature_maps) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select sql_diffusion.with_shape(array_agg(element), array[array_length((maps).planes, 1), (maps).height, (maps).width])
  from (select unnest((maps).planes) as element) elements);
comment on function sql_diffusion.from_maps(sql_diffusion.feature_maps) is 'The tensor (channels, height, width) of feature maps.';

create function sql_diffusion.join_maps(a sql_diffusion.feature_maps, b sql_diffusion.feature_maps) returns sql_diffusion.feature_maps
language sql immutable parallel safe
return row((a).planes || (b).planes, (a).height, (a).width, (a).mean || (b).mean, (a).variance || (b).variance,
           (a).low || (b).low, (a).high || (b).high)::sql_diffusion.feature_maps;
comment on function sql_diffusion.join_maps(sql_diffusion.feature_maps, sql_diffusion.feature_maps) is
  'The channels of a, then those of b, of flat planes and one size: concatenate for feature maps.';

create function sql_diffusion.vector_to_maps(vector real[]) returns sql_diffusion.feature_maps
language sql immutable strict parallel safe
return row(sql_diffusion.fold(vector, 1), 1, 1, vector::double precision[], array_fill(0::double precision, array[cardinality(vector)]),
           vector::double precision[], vector::double precision[])::sql_diffusion.feature_maps;
comment on function sql_diffusion.vector_to_maps(real[]) is 'The feature maps of a vector (channels), such as the time embedding: an image of one pixel.';

create function sql_diffusion.vector_of_maps(maps sql_diffusion.feature_maps) returns real[]
language sql immutable parallel safe
return (select array_agg(element) from (select unnest((maps).planes) as element) elements);
comment on function sql_diffusion.vector_of_maps(sql_diffusion.feature_maps) is 'The vector (channels) of feature maps of one pixel; NULL of none.';
