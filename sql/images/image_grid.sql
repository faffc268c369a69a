-- Several pictures side by side.

create function @extschema@.image_grid(images real[], columns int default null) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(image_grid.images, 'image_grid: images', 'images, channels, height, width'),
    sql_diffusion.check_values(image_grid.images, 'image_grid: images');
  select case
    when array_length(image_grid.images, 2) > 4
      then sql_diffusion.fail(format('image_grid: images have %s channels, expected 1 to 4', array_length(image_grid.images, 2)), 'An image is channels first: real[channels][height][width].')
    when image_grid.columns < 1
      then sql_diffusion.fail(format('image_grid: columns is %s, expected at least 1', image_grid.columns))
    end;
  with size as materialized (
    select s.number, s.channels, s.height, s.width, c.columns, (s.number + c.columns - 1) / c.columns as rows
    from (select array_length(image_grid.images, 1) as number, array_length(image_grid.images, 2) as channels,
            array_length(image_grid.images, 3) as height, array_length(image_grid.images, 4) as width) s,
      lateral (select least(s.number, coalesce(image_grid.columns, ceil(sqrt(s.number))::int)) as columns) c
  ),
  flat as materialized (
    select array_agg(v.value) as elements
    from (select unnest(image_grid.images) as value) v
  )
  select sql_diffusion.with_shape((
      select array_agg(case when n.number < s.number
        then f.elements[((n.number * s.channels + n.channel) * s.height + n.y % s.height) * s.width + n.x % s.width + 1]
        else 0 end order by k.place)
      from generate_series(0, s.channels * s.rows * s.height * s.columns * s.width - 1) as k (place),
        lateral (select p.channel, p.y, p.x, p.y / s.height * s.columns + p.x / s.width as number
                 from (select
                         k.place / (s.columns * s.width) / (s.rows * s.height) as channel,
                         k.place / (s.columns * s.width) % (s.rows * s.height) as y,
                         k.place % (s.columns * s.width) as x
                       offset 0) p
                 offset 0) n), array[s.channels, s.rows * s.height, s.columns * s.width])
  from size s, flat f
  where sql_diffusion.check_size(array[s.channels, s.rows * s.height, s.columns * s.width], 'image_grid: output');
end;
comment on function @extschema@.image_grid(real[], int) is
  'Images of one size (images, channels, height, width), as array_agg(image) gathers them, side by side in one (channels, height, width): row by row, in so many columns, by default about as many as rows. '
  'Places that are left over are black, or transparent where there is an alpha channel. 22023 for anything else, 54000 for more than 67108864 values.';
