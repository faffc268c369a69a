-- PNG (ISO/IEC 15948) written: a signature, then chunks.

create function sql_diffusion.check_image_png(image real[], scale int) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_image(check_image_png.image, 'image_png: image');
  select case
    when check_image_png.scale < 1
      then sql_diffusion.fail(format('image_png: scale is %s, expected at least 1', check_image_png.scale))
    when check_image_png.scale::numeric ^ 2 * cardinality(check_image_png.image) > 50000000
      then sql_diffusion.fail(format('image_png: scale %s makes a picture of %s values, expected at most 50000000',
        check_image_png.scale, round(check_image_png.scale::numeric ^ 2 * cardinality(check_image_png.image))))
    else true
    end;
end;
comment on function sql_diffusion.check_image_png(real[], int) is 'Refuses what image_png makes no picture of.';

create function sql_diffusion.png_chunk(name text, data bytea) returns bytea
language sql immutable strict parallel safe
return int4send(length(data)) || convert_to(name, 'SQL_ASCII') || data || substring(int8send(sql_diffusion.crc32(convert_to(name, 'SQL_ASCII') || data)) from 5);
comment on function sql_diffusion.png_chunk(text, bytea) is 'A chunk of a PNG: length, name of four letters, data, CRC.';

create function sql_diffusion.png_file(width int, height int, channels int, data bytea) returns bytea
language sql immutable strict parallel safe
return E'\\x89504e470d0a1a0a'::bytea
  || sql_diffusion.png_chunk('IHDR',
    int4send(width)
    || int4send(height)
    || E'\\x08'::bytea                                                           -- bits a sample
    || (array[E'\\x00', E'\\x04', E'\\x02', E'\\x06']::bytea[])[channels]               -- gray, gray and alpha, RGB, RGBA
    || E'\\x000000'::bytea)
  || sql_diffusion.png_chunk('IDAT', data)
  || sql_diffusion.png_chunk('IEND', ''::bytea);
comment on function sql_diffusion.png_file(int, int, int, bytea) is 'A PNG of 8 bits a sample and 1 to 4 channels; data is its filtered rows as a zlib stream.';

create function sql_diffusion.image_png_stored(image real[], scale int default 1) returns bytea
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_image_png(image_png_stored.image, image_png_stored.scale);
  with pixel as (
    select b.y, b.x, repeat(string_agg(lpad(to_hex(b.byte), 2, '0'), '' order by b.channel), image_png_stored.scale) as hex
    from sql_diffusion.image_bytes(image_png_stored.image) b
    group by b.y, b.x
  ), row_of_pixels as (
    -- each row begins with the number of its filter: 0, none
    select p.y, repeat('00' || string_agg(p.hex, '' order by p.x), image_png_stored.scale) as hex
    from pixel p
    group by p.y
  )
  select sql_diffusion.png_file(
    array_length(image_png_stored.image, 3) * image_png_stored.scale, array_length(image_png_stored.image, 2) * image_png_stored.scale,
    array_length(image_png_stored.image, 1), sql_diffusion.zlib_stored(decode(string_agg(r.hex, '' order by r.y), 'hex')))
  from row_of_pixels r;
end;
comment on function sql_diffusion.image_png_stored(real[], int) is
  'image_png without compression. Views that were made before version 1.2.0 call it, since ALTER EXTENSION UPDATE lets them keep the function that they had.';

create function sql_diffusion.png_filter_row(line int[], above int[], step int) returns int[]
language sql immutable parallel safe
set jit = off
begin atomic
  -- Each byte less what Paeth's predictor makes of those left of it, above it, and between them: the one nearest to left + above - corner.
  select array_agg((n.byte - case
      when abs(n.above - n.corner) <= abs(n.left - n.corner) and abs(n.above - n.corner) <= abs(n.left + n.above - 2 * n.corner) then n.left
      when abs(n.left - n.corner) <= abs(n.left + n.above - 2 * n.corner) then n.above
      else n.corner
    end) & 255 order by n.place)
  from (select
          i.place,
          png_filter_row.line[i.place] as byte,
          coalesce(png_filter_row.line[i.place - png_filter_row.step], 0) as left,
          coalesce(png_filter_row.above[i.place], 0) as above,
          coalesce(png_filter_row.above[i.place - png_filter_row.step], 0) as corner
        from generate_series(1, cardinality(png_filter_row.line)) as i (place)
        offset 0) n;
end;
comment on function sql_diffusion.png_filter_row(int[], int[], int) is
  'A row''s bytes as filter 4 leaves them; above is the row above, NULL for none, step the bytes from a pixel to the next.';

create function sql_diffusion.image_png(image real[], scale int default 1, compression int default 6) returns bytea
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_image_png(image_png.image, image_png.scale);
  select case when image_png.compression not between 0 and 9
    then sql_diffusion.fail(format('image_png: compression is %s, expected 0 to 9', image_png.compression))
    end;
  -- A row of the picture stands for scale rows of the file, and all but the first of them equal the row above: nothing but
  -- zeros is left of them by filter 2.
  with size as materialized (
    select s.channels, s.height, s.width, s.width * image_png.scale * s.channels as row_bytes
    from (select array_length(image_png.image, 1) as channels, array_length(image_png.image, 2) as height, array_length(image_png.image, 3) as width) s
    where image_png.compression > 0
      and cardinality(image_png.image)::bigint * image_png.scale <= 16777216                     -- what takes hundreds of megabytes is stored
  ),
  level as materialized (
    select sql_diffusion.image_levels(image_png.image) as levels
    from size
  ),
  line as materialized (
    select y.y, (
      select array_agg(l.levels[(k.place % s.channels * s.height + y.y) * s.width + k.place / s.channels / image_png.scale + 1] order by k.place)
      from generate_series(0, s.row_bytes - 1) as k (place)) as bytes
    from size s, level l, lateral generate_series(0, s.height - 1) as y (y)
  ),
  filtered as materialized (
    select l.y, 4 || sql_diffusion.png_filter_row(l.bytes, lag(l.bytes) over (order by l.y), s.channels) as bytes, 1 as repeats
    from size s, line l
    union all
    select l.y, 2 || array_fill(0, array[s.row_bytes]), image_png.scale - 1
    from size s, line l
    where image_png.scale > 1
  ),
  compressed as materialized (
    select sql_diffusion.zlib_compress(array_agg(f.bytes order by f.y, f.bytes[1] desc), array_agg(f.repeats order by f.y, f.bytes[1] desc)) as data
    from filtered f
  )
  select coalesce((
    select sql_diffusion.png_file(s.width * image_png.scale, s.height * image_png.scale, s.channels, c.data)
    from size s, compressed c
    where length(c.data) < (s.row_bytes + 1) * s.height * image_png.scale), sql_diffusion.image_png_stored(image_png.image, image_png.scale));
end;
comment on function sql_diffusion.image_png(real[], int, int) is
  'An image as the bytes of a PNG, in pure SQL: see the verb of this name. compression is 0 for none; 1 to 9 are the same here. Rows that hold more than 16777216 values in all, each but once, are stored.';
