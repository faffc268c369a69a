-- A picture in another size, as Pillow's Image.resize makes it: each line of pixels by itself, along the rows and along the columns. Which are first shows where
-- the first pass runs over black or white, and is cut off: the columns, where that takes away more than twice as many rows as the other takes columns.

create function sql_diffusion.resize_filter(x double precision, method text) returns double precision
language sql immutable strict parallel safe
return
  case method
  when 'bilinear' then
    greatest(0, 1 - abs(x))
  when 'bicubic' then                                              -- Keys (1981), a = -1/2
    case
    when abs(x) < 1 then (1.5 * abs(x) - 2.5) * x * x + 1
    when abs(x) < 2 then ((2.5 - 0.5 * abs(x)) * abs(x) - 4) * abs(x) + 2
    else 0
    end
  when 'lanczos' then                                              -- sinc(x) sinc(x / 3)
    case
    when x = 0 then 1
    when abs(x) < 3 then 3 * sin(pi() * x) * sin(pi() * x / 3) / (pi() * x) ^ 2
    else 0
    end
  end;
comment on function sql_diffusion.resize_filter(double precision, text) is 'The weight of a pixel at distance x by a method, bilinear, bicubic or lanczos.';

create function sql_diffusion.resize_weights(input int, output int, method text) returns table (place int, first int, weights double precision[])
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- Where the picture gets smaller, the filter gets as much wider: every pixel counts. What of it lies outside is left out.
  select
    c.place,
    f.first,
    (select array_agg(w.weight / w.sum order by w.source)
     from (select s.source, w.weight, sum(w.weight) over () as sum
           from generate_series(f.first, f.last) as s (source),
             lateral (select sql_diffusion.resize_filter((s.source - c.center + 0.5) / c.stretch, resize_weights.method) as weight) w) w)
  from (select
          i.place,
          (i.place + 0.5::double precision) * resize_weights.input / resize_weights.output as center,
          greatest(1, resize_weights.input::double precision / resize_weights.output) as stretch,
          case resize_weights.method when 'bilinear' then 1 when 'bicubic' then 2 when 'lanczos' then 3 end as support
        from generate_series(0, resize_weights.output - 1) as i (place)
        where resize_weights.method <> 'nearest') c,
    lateral (select
               greatest(0, trunc(c.center - c.support * c.stretch + 0.5))::int as first,
               least(resize_weights.input, trunc(c.center + c.support * c.stretch + 0.5))::int - 1 as last) f
  union all
  -- the pixel that holds the centre; centres are added up as Pillow does, which decides where one lies between two
  select n.place, least(resize_weights.input - 1, trunc(n.center))::int, '{1}'
  from (select i.place,
          sum(case when i.place = 0 then 0.5 else 1 end * (resize_weights.input::double precision / resize_weights.output)) over (order by i.place) as center
        from generate_series(0, resize_weights.output - 1) as i (place)
        where resize_weights.method = 'nearest') n;
end;
comment on function sql_diffusion.resize_weights(int, int, text) is
  'The weights by which a line of input pixels becomes one of output pixels: of each, those of the pixels from first on. Places count from 0.';

create function sql_diffusion.resize_axis(input double precision[], lines int, size int, step int, output int, method text) returns double precision[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select case when resize_axis.output = resize_axis.size then resize_axis.input else (
    select array_agg(greatest(0, least(1, v.value)) order by l.line, w.place, s.place)
    from generate_series(0, resize_axis.lines - 1) as l (line),
      sql_diffusion.resize_weights(resize_axis.size, resize_axis.output, resize_axis.method) w,
      generate_series(1, resize_axis.step) as s (place),
      lateral (select sum(k.weight * resize_axis.input[(l.line * resize_axis.size + w.first + k.ordinality - 1) * resize_axis.step + s.place]) as value
               from unnest(w.weights) with ordinality as k (weight)) v)
    end;
end;
comment on function sql_diffusion.resize_axis(double precision[], int, int, int, int, text) is
  'Resizes the middle one of three dimensions (lines, size, step) of a flat array to output values, clamped to 0..1.';

create function sql_diffusion.resizes_columns_first(height int, width int, new_height int, new_width int) returns boolean
language sql immutable strict parallel safe
return height > new_height and height::bigint - new_height > 2 * (width::bigint - new_width);
comment on function sql_diffusion.resizes_columns_first(int, int, int, int) is 'Whether Pillow (13) resizes a picture along its columns first, and along its rows then.';

create function sql_diffusion.image_resize(image real[], height int, width int, method text default 'lanczos') returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_image(image_resize.image, 'image_resize: image');
  select case
    when image_resize.height < 1 or image_resize.width < 1
      then sql_diffusion.fail(format('image_resize: height is %s and width is %s, expected at least 1', image_resize.height, image_resize.width))
    when image_resize.method not in ('nearest', 'bilinear', 'bicubic', 'lanczos')
      then sql_diffusion.fail(format('image_resize: method is "%s", expected nearest, bilinear, bicubic or lanczos', image_resize.method))
    end;
  -- What is between the two passes is never larger than both the picture that comes and the one that goes.
  select sql_diffusion.check_size(array[array_length(image_resize.image, 1), image_resize.height, image_resize.width], 'image_resize: output');
  -- Colours count as much as they cover: they are multiplied by alpha before, and divided by it afterwards.
  with size as materialized (
    select s.channels, s.height, s.width, s.height * s.width as area, image_resize.height * image_resize.width as new_area,
      s.channels in (2, 4) and image_resize.method <> 'nearest' as covers,
      sql_diffusion.resizes_columns_first(s.height, s.width, image_resize.height, image_resize.width) as columns_first
    from (select array_length(image_resize.image, 1) as channels, array_length(image_resize.image, 2) as height, array_length(image_resize.image, 3) as width) s
  ),
  flat as materialized (
    select array_agg(greatest(0, least(1, v.value))::double precision) as elements
    from (select unnest(image_resize.image) as value) v
  ),
  covering as materialized (
    select case when s.covers then (
        select array_agg(case when v.ordinality > (s.channels - 1) * s.area then v.value
          else v.value * f.elements[(s.channels - 1) * s.area + (v.ordinality - 1) % s.area + 1] end order by v.ordinality)
        from unnest(f.elements) with ordinality as v (value))
      else f.elements end as elements
    from size s, flat f
  ),
  half as materialized (
    select case when s.columns_first
      then sql_diffusion.resize_axis(c.elements, s.channels, s.height, s.width, image_resize.height, image_resize.method)
      else sql_diffusion.resize_axis(c.elements, s.channels * s.height, s.width, 1, image_resize.width, image_resize.method)
      end as elements
    from size s, covering c
  ),
  whole as materialized (
    select case when s.columns_first
      then sql_diffusion.resize_axis(h.elements, s.channels * image_resize.height, s.width, 1, image_resize.width, image_resize.method)
      else sql_diffusion.resize_axis(h.elements, s.channels, s.height, image_resize.width, image_resize.height, image_resize.method)
      end as elements
    from size s, half h
  )
  select sql_diffusion.with_shape((
      select array_agg((case
          when not s.covers or v.ordinality > (s.channels - 1) * s.new_area then v.value
          when h.elements[(s.channels - 1) * s.new_area + (v.ordinality - 1) % s.new_area + 1] = 0 then 0
          else least(1, v.value / h.elements[(s.channels - 1) * s.new_area + (v.ordinality - 1) % s.new_area + 1])
        end)::real order by v.ordinality)
      from unnest(h.elements) with ordinality as v (value)), array[s.channels, image_resize.height, image_resize.width])
  from size s, whole h;
end;
comment on function sql_diffusion.image_resize(real[], int, int, text) is
  'A picture in another size, in pure SQL: see the verb of this name.';
