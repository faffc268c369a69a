-- Pictures: what a person looks at. An image is real[channels][height][width] with values 0..1; 1 channel is gray, 2 are gray and
-- alpha, 3 are red, green and blue, 4 have alpha too.

create function sql_diffusion.check_image(image real[], name text) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(image, name, 'channels, height, width');
  select sql_diffusion.check_values(image, name);
  select case
    when array_length(image, 1) > 4
      then sql_diffusion.fail(format('%s has %s channels, expected 1 to 4', name, array_length(image, 1)),
        'An image is channels first: real[channels][height][width].')
    else true
  end;
end;
comment on function sql_diffusion.check_image(real[], text) is
  'Refuses what is no image (channels, height, width) of 1 to 4 channels. The name opens the message: "image_png: image".';

create function sql_diffusion.image_bytes(image real[]) returns table (y int, x int, channel int, byte int)
language sql immutable parallel safe
begin atomic
  -- The product is rounded to real before the half goes to the even neighbour: so do NumPy and diffusers.
  select
    (v.place / d.width % d.height)::int,
    (v.place % d.width)::int,
    (v.place / d.width / d.height)::int,
    round((greatest(0::real, least(1::real, v.value)) * 255::real)::double precision)::int
  from (select array_length(image_bytes.image, 2) as height, array_length(image_bytes.image, 3) as width offset 0) d,      -- once, not for each value
    lateral (select u.value, u.ordinality - 1 as place from unnest(image_bytes.image) with ordinality as u (value)) v;
end;
comment on function sql_diffusion.image_bytes(real[]) is
  'The samples of an image as a picture file holds them: one row a value, counted from 0; byte is round(255 x) after x was clamped to 0..1, halves to the even number.';

-- PNG (ISO/IEC 15948): a signature, then chunks.

create function sql_diffusion.adler32(bytes bytea) returns bigint
language sql immutable strict parallel safe
begin atomic
  -- RFC 1950: one sum of the bytes, and one of that sum's values, in which a byte counts once for itself and once for each byte behind it
  select (65536 * ((length(adler32.bytes) + coalesce(sum((length(adler32.bytes) - b.i)::bigint * get_byte(adler32.bytes, b.i)), 0)) % 65521)
    + (1 + coalesce(sum(get_byte(adler32.bytes, b.i)), 0)) % 65521)::bigint
  from generate_series(0, length(adler32.bytes) - 1) as b (i);
end;
comment on function sql_diffusion.adler32(bytea) is 'The checksum of zlib, RFC 1950: 0 .. 4294967295.';

create function sql_diffusion.crc32(bytes bytea) returns bigint
language sql immutable strict parallel safe
begin atomic
  -- The bits are the coefficients of one long polynomial M(x); their CRC is the remainder of M(x) x^32 by
  -- P(x) = x^32 + x^26 + x^23 + ... + 1, over the field of 0 and 1. Byte by byte that would be a loop. But where M = H x^k + L,
  -- the remainder is also that of H (x^k mod P) + L, which is about half as long where k is half of the length, and a product by a
  -- polynomial of 32 coefficients is up to 32 shifts and an exclusive or, each of all bits at once. So it is folded until 32 bits are left.
  with recursive power (k, x_to_k) as (
    -- x^32, x^64, x^128, ... mod P, each the square of the one before
    select 32 << (p.ordinality - 1)::int, p.x_to_k
    from unnest(array[
      x'04c11db7', x'490d678d', x'e8a45605', x'75be46b7', x'e6228b11', x'567fddeb', x'88fe2237', x'0e857e71',
      x'7001e426', x'075de2b2', x'f12a7f90', x'f0b4a1c1', x'58f46c0c', x'c3395ade', x'96837f8c', x'544037f9',
      x'23b7b136', x'b2e16ba8', x'725e7bfa', x'ec709b5d', x'f77a7274', x'2845d572', x'034e2515', x'79695942',
      x'540cb128']) with ordinality as p (x_to_k)
  ), swapped (bits) as (
    -- a byte goes in with its lowest bit first: swap its halves, then the halves of these, then the halves of those
    select ((b.bits >> 1) & m.m55) | ((b.bits & m.m55) << 1)
    from (select
            ('x' || repeat('0f', length(crc32.bytes)))::bit varying as m0f,
            ('x' || repeat('33', length(crc32.bytes)))::bit varying as m33,
            ('x' || repeat('55', length(crc32.bytes)))::bit varying as m55
          offset 0) m,
      lateral (select ('x' || encode(crc32.bytes, 'hex'))::bit varying as bits offset 0) a,
      lateral (select ((a.bits >> 4) & m.m0f) | ((a.bits & m.m0f) << 4) as bits offset 0) a4,
      lateral (select ((a4.bits >> 2) & m.m33) | ((a4.bits & m.m33) << 2) as bits offset 0) b
  ), message (bits) as (
    select s.bits || repeat('0', 32)::bit varying
    from swapped s
  ), fold (bits) as (
    select ~ substring(m.bits from 1 for 32) || substring(m.bits from 33)                    -- a CRC begins with 32 ones
    from message m
    union all
    select
      (repeat('0', p.k - w.high - 31)::bit varying || product.bits) # (repeat('0', w.high + 31 - p.k)::bit varying || substring(f.bits from w.high + 1))
    from fold f,
      lateral (select p.k, p.x_to_k from power p where p.k < length(f.bits) order by p.k desc limit 1) p,
      lateral (select length(f.bits) - p.k as high) w,                                       -- coefficients of H
      lateral (select bit_xor((substring(f.bits from 1 for w.high) || repeat('0', 31)::bit varying) >> s.shift) as bits
               from generate_series(0, 31) as s (shift)
               where get_bit(p.x_to_k, s.shift) = 1) product
  )
  select reverse((~ f.bits)::text)::bit(32)::bigint
  from fold f
  where length(f.bits) = 32;
end;
comment on function sql_diffusion.crc32(bytea) is 'The cyclic redundancy check of PNG, zlib and Ethernet: 0 .. 4294967295. At most 67108860 bytes.';

create function sql_diffusion.zlib_stored(bytes bytea) returns bytea
language sql immutable strict parallel safe
begin atomic
  -- RFC 1950 around RFC 1951: the header, stored blocks (last or not, length, its complement, bytes), and the checksum
  select E'\\x7801'::bytea
    || string_agg(
      case when b.start + 65535 < length(zlib_stored.bytes) then E'\\x00'::bytea else E'\\x01'::bytea end
        || set_byte(set_byte(E'\\x0000'::bytea, 0, b.size & 255), 1, b.size >> 8)
        || set_byte(set_byte(E'\\x0000'::bytea, 0, (65535 - b.size) & 255), 1, (65535 - b.size) >> 8)
        || substring(zlib_stored.bytes from b.start + 1 for b.size),
      ''::bytea order by b.start)
    || substring(int8send(sql_diffusion.adler32(zlib_stored.bytes)) from 5)
  from (select s.start, least(65535, length(zlib_stored.bytes) - s.start) as size
        from generate_series(0, greatest(0, length(zlib_stored.bytes) - 1), 65535) as s (start)) b;
end;
comment on function sql_diffusion.zlib_stored(bytea) is 'The bytes as a zlib stream that does not compress them.';

create function sql_diffusion.png_chunk(name text, data bytea) returns bytea
language sql immutable strict parallel safe
return int4send(length(data)) || convert_to(name, 'SQL_ASCII') || data || substring(int8send(sql_diffusion.crc32(convert_to(name, 'SQL_ASCII') || data)) from 5);
comment on function sql_diffusion.png_chunk(text, bytea) is 'A chunk of a PNG: length, name of four letters, data, CRC.';

create function @extschema@.image_png(image real[], scale int default 1) returns bytea
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_image(image_png.image, 'image_png: image');
  select case
    when image_png.scale < 1
      then sql_diffusion.fail(format('image_png: scale is %s, expected at least 1', image_png.scale))
    when image_png.scale::numeric ^ 2 * cardinality(image_png.image) > 50000000
      then sql_diffusion.fail(format('image_png: scale %s makes a picture of %s values, expected at most 50000000',
        image_png.scale, round(image_png.scale::numeric ^ 2 * cardinality(image_png.image))))
    end;
  with pixel as (
    select b.y, b.x, repeat(string_agg(lpad(to_hex(b.byte), 2, '0'), '' order by b.channel), image_png.scale) as hex
    from sql_diffusion.image_bytes(image_png.image) b
    group by b.y, b.x
  ), row_of_pixels as (
    -- each row begins with the number of its filter: 0, none
    select p.y, repeat('00' || string_agg(p.hex, '' order by p.x), image_png.scale) as hex
    from pixel p
    group by p.y
  )
  select E'\\x89504e470d0a1a0a'::bytea
    || sql_diffusion.png_chunk('IHDR',
      int4send(array_length(image_png.image, 3) * image_png.scale)
      || int4send(array_length(image_png.image, 2) * image_png.scale)
      || E'\\x08'::bytea                                                                       -- bits a sample
      || (array[E'\\x00', E'\\x04', E'\\x02', E'\\x06']::bytea[])[array_length(image_png.image, 1)]   -- gray, gray and alpha, RGB, RGBA
      || E'\\x000000'::bytea)
    || sql_diffusion.png_chunk('IDAT', sql_diffusion.zlib_stored(decode(string_agg(r.hex, '' order by r.y), 'hex')))
    || sql_diffusion.png_chunk('IEND', ''::bytea)
  from row_of_pixels r;
end;
comment on function @extschema@.image_png(real[], int) is
  'An image (channels, height, width), values 0..1, as the bytes of a PNG: 1 channel is gray, 2 gray and alpha, 3 RGB, 4 RGBA. Values are clamped to 0..1 and rounded as diffusers and '
  'Pillow do. Each pixel becomes a square of scale by scale pixels. 22023 for anything that is not such an image, and for more than 50 million values.';

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
