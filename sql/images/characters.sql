-- Pictures made of characters.

create function @extschema@.image_ascii(image real[], width int default null, dark boolean default true) returns setof text
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_image(image_ascii.image, 'image_ascii: image');
  select case
    when image_ascii.width not between 1 and 1000
      then sql_diffusion.fail(format('image_ascii: width is %s, expected 1 to 1000 columns', image_ascii.width))
    when image_ascii.dark is null
      then sql_diffusion.fail('image_ascii: dark is null, expected true or false')
    end;
  -- Ink is what a letter adds to its ground: brightness (the luma of ITU-R BT.601) on a dark one, darkness on a light one.
  -- A letter stands for the average of the pixels that it covers, and is twice as high as it is wide. The letters are in the
  -- order of their ink, in even steps.
  with pixel as (
    select p.y, p.x,
      case when cardinality(p.bytes) in (2, 4) then p.bytes[cardinality(p.bytes)] / 255.0 else 1 end
        * abs(case when image_ascii.dark then 0 else 1 end
          - case when cardinality(p.bytes) < 3 then p.bytes[1] else 0.299 * p.bytes[1] + 0.587 * p.bytes[2] + 0.114 * p.bytes[3] end / 255.0) as ink
    from (select b.y, b.x, array_agg(b.byte order by b.channel) as bytes
          from sql_diffusion.image_bytes(image_ascii.image) b
          group by b.y, b.x) p
  ), plane as (
    select d.height, d.width, d.columns, greatest(1, round(d.height::numeric * d.columns / d.width / 2)::int) as lines,
      (select sql_diffusion.with_shape(array_agg(p.ink::real order by p.y, p.x), array[d.height, d.width]) from pixel p) as ink
    from (select
            array_length(image_ascii.image, 2) as height,
            array_length(image_ascii.image, 3) as width,
            coalesce(image_ascii.width, least(array_length(image_ascii.image, 3), 80)) as columns) d
    offset 0
  )
  select (select string_agg(substr(' .-,:~;!*+|c7JyoeXmKg8@M', 1 + round(23 * letter.ink)::int, 1), '' order by c.place)
          from generate_series(0, p.columns - 1) as c (place),
            lateral (select avg(i.ink) as ink
                     from unnest(p.ink[l.place * p.height / p.lines + 1 : ((l.place + 1) * p.height + p.lines - 1) / p.lines]
                                      [c.place * p.width / p.columns + 1 : ((c.place + 1) * p.width + p.columns - 1) / p.columns]) as i (ink)) letter)
  from plane p, generate_series(0, p.lines - 1) as l (place)
  order by l.place;
end;
comment on function @extschema@.image_ascii(real[], int, boolean) is
  'An image (channels, height, width), values 0..1, as lines of ASCII characters, one row a line. width is the number of columns: the image''s own, at most 80, unless told otherwise; the number '
  'of lines follows, as a character is twice as high as it is wide. dark: true for light letters on a dark ground, false for dark letters on a light one.';

create function @extschema@.image_ansi(image real[], scale int default 1) returns setof text
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_image(image_ansi.image, 'image_ansi: image');
  select case
    when image_ansi.scale not between 1 and 100
      then sql_diffusion.fail(format('image_ansi: scale is %s, expected 1 to 100', image_ansi.scale))
    when getdatabaseencoding() not in ('UTF8', 'SQL_ASCII')
      then sql_diffusion.fail(format('image_ansi: the encoding of the database is %s, expected UTF8, which has half blocks', getdatabaseencoding()),
                              'image_ascii draws with letters, in every encoding.', '55000')
    end;
  -- A character cell shows two pixels: the upper half block is painted with the upper one's colour, its ground with the lower one's.
  with pixel as (
    select b.y, b.x, array_agg(b.byte order by b.channel) as bytes
    from sql_diffusion.image_bytes(image_ansi.image) b
    group by b.y, b.x
  ), coloured as (
    select p.y, p.x, format('%s;%s;%s',
      round(p.bytes[c.red] * c.alpha), round(p.bytes[c.green] * c.alpha), round(p.bytes[c.blue] * c.alpha)) as colour
    from pixel p,
      lateral (select
                 1 as red,
                 case when cardinality(p.bytes) < 3 then 1 else 2 end as green,
                 case when cardinality(p.bytes) < 3 then 1 else 3 end as blue,
                 case when cardinality(p.bytes) in (2, 4) then p.bytes[cardinality(p.bytes)] / 255.0 else 1 end as alpha) c
  )
  select string_agg(format(E'\033[38;2;%s;%sm%s', upper_pixel.colour, coalesce('48;2;' || lower_pixel.colour, '49'),
      repeat(half_block.character, image_ansi.scale)), '' order by upper_pixel.x) || E'\033[0m'
  from generate_series(0, array_length(image_ansi.image, 2) * image_ansi.scale - 1, 2) as line (y)
    join coloured upper_pixel on upper_pixel.y = line.y / image_ansi.scale
    left join coloured lower_pixel on lower_pixel.y = (line.y + 1) / image_ansi.scale and lower_pixel.x = upper_pixel.x
    -- Not a constant, which the planner would convert, and fail, before the encoding is looked at.
    cross join (select convert_from(case when getdatabaseencoding() in ('UTF8', 'SQL_ASCII') then E'\\xe29680'::bytea end, 'UTF8') as character) half_block
  group by line.y
  order by line.y;
end;
comment on function @extschema@.image_ansi(real[], int) is
  'An image (channels, height, width), values 0..1, as lines of half blocks in true colour, two rows of pixels a line: psql -At shows the picture. Each pixel becomes a square of '
  'scale by scale. An alpha channel fades to black. Error 55000 where the database''s encoding has no half blocks: neither UTF8 nor SQL_ASCII.';
