-- PNG (ISO/IEC 15948) read.

create function sql_diffusion.png_chunks(png bytea) returns table (number int, at int, name text, size bigint)
language sql immutable strict parallel safe rows 10
set jit = off
begin atomic
  with recursive content as materialized (
    select png_chunks.png || ''::bytea as bytes
  ),
  chunk (number, at, name, size) as (
    select 0, -4, ''::text, 0::bigint
    union all
    select
      k.number + 1,
      h.at,
      encode(substring(c.bytes from h.at + 5 for 4), 'escape'),
      ('x' || encode(substring(c.bytes from h.at + 1 for 4), 'hex'))::bit(32)::bigint
    from chunk k,
      content c,
      lateral (select (k.at + k.size + 12)::int as at) h
    where k.name <> 'IEND'
      and k.at + k.size + 12 + 8 <= length(c.bytes)
  )
  select k.number, k.at, k.name, k.size
  from chunk k
  where k.number > 0;
end;
comment on function sql_diffusion.png_chunks(bytea) is
  'The chunks of a PNG up to IEND, in their order: the byte, from 0, at which each begins with its size and its name; data begin 8 bytes later. The last may reach beyond the end.';

create function sql_diffusion.png_header(png bytea,
    out width bigint, out height bigint, out depth int, out colour int, out interlace int, out samples int, out channels int)
language sql immutable strict parallel safe
begin atomic
  select
    ('x' || encode(substring(png_header.png from 17 for 4), 'hex'))::bit(32)::bigint,
    ('x' || encode(substring(png_header.png from 21 for 4), 'hex'))::bit(32)::bigint,
    get_byte(png_header.png, 24),
    get_byte(png_header.png, 25),
    get_byte(png_header.png, 28),
    s.samples,
    case
      when get_byte(png_header.png, 25) = 3 then 3
      else s.samples
    end + case when exists (select from sql_diffusion.png_chunks(png_header.png) c where c.name = 'tRNS') then 1 else 0 end
  from (select case get_byte(png_header.png, 25) when 0 then 1 when 2 then 3 when 3 then 1 when 4 then 2 when 6 then 4 end as samples) s
  where length(png_header.png) >= 33;
end;
comment on function sql_diffusion.png_header(bytea) is
  'What the first chunk of a PNG says: width, height, bits a sample, colour type, interlace method; and what follows: samples a pixel in the file, and channels of the picture that it gives.';

create function sql_diffusion.png_passes(width int, height int, bits int, interlace int)
  returns table (pass int, x int, y int, step_x int, step_y int, columns int, rows int, row_bytes int, start int)
language sql immutable strict parallel safe rows 7
begin atomic
  -- Adam7: each pass is a picture of its own, of every step-th pixel from x and y on. start counts the bytes of the rows before, without those for their filters.
  select
    p.pass, p.x, p.y, p.step_x, p.step_y, p.columns, p.rows, p.row_bytes,
    (coalesce(sum(p.rows * p.row_bytes) over (order by p.pass rows between unbounded preceding and 1 preceding), 0))::int
  from (select s.pass, s.x, s.y, s.step_x, s.step_y, s.columns, s.rows, (s.columns * png_passes.bits + 7) / 8 as row_bytes
        from (select a.pass, a.x, a.y, a.step_x, a.step_y,
                (png_passes.width - a.x + a.step_x - 1) / a.step_x as columns,
                (png_passes.height - a.y + a.step_y - 1) / a.step_y as rows
              from (values
                (0, 0, 0, 1, 1),
                (1, 0, 0, 8, 8), (2, 4, 0, 8, 8), (3, 0, 4, 4, 8), (4, 2, 0, 4, 4), (5, 0, 2, 2, 4), (6, 1, 0, 2, 2), (7, 0, 1, 1, 2)
              ) as a (pass, x, y, step_x, step_y)
              where (a.pass > 0) = (png_passes.interlace = 1)) s
        where s.columns > 0
          and s.rows > 0) p;
end;
comment on function sql_diffusion.png_passes(int, int, int, int) is
  'The passes in which a PNG brings its pixels of so many bits: one, or up to seven where it is interlaced. The first pixel, the steps to the next, columns, rows, bytes a row, and the bytes of the passes before.';

create function sql_diffusion.png_unfilter_row(line int[], above int[], filter int, step int) returns int[]
language sql immutable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select case
    when png_unfilter_row.filter in (0, 2) then (
      select array_agg(case when png_unfilter_row.filter = 0 then b.byte else (b.byte + coalesce(b.above, 0)) & 255 end)
      from (select unnest(png_unfilter_row.line) as byte, unnest(png_unfilter_row.above) as above) b)
    else (
      -- A byte is told by how it differs from what its neighbours let expect: left of it, above it, and the corner between them.
      -- From pixel to pixel; the bytes of one are side by side.
      with recursive pixel (place, value, above) as (
        select s.lane - png_unfilter_row.step, 0, 0
        from generate_series(1, png_unfilter_row.step) as s (lane)
        union all
        select
          n.place,
          (png_unfilter_row.line[n.place] + case png_unfilter_row.filter
            when 1 then p.value
            when 3 then (p.value + n.above) / 2
            when 4 then case                                                                                   -- Paeth's predictor
              when abs(n.above - p.above) <= abs(p.value - p.above) and abs(n.above - p.above) <= abs(p.value + n.above - 2 * p.above) then p.value
              when abs(p.value - p.above) <= abs(p.value + n.above - 2 * p.above) then n.above
              else p.above
            end
          end) & 255,
          n.above
        from pixel p,
          lateral (select p.place + png_unfilter_row.step as place, coalesce(png_unfilter_row.above[p.place + png_unfilter_row.step], 0) as above offset 0) n
        where n.place <= cardinality(png_unfilter_row.line)
      )
      select array_agg(p.value order by p.place)
      from pixel p
      where p.place > 0)
    end;
end;
comment on function sql_diffusion.png_unfilter_row(int[], int[], int, int) is
  'A row''s bytes of what its filter, 0 to 4, has made of them; above is the row above, NULL for none, step the bytes from a pixel to the next.';

create function sql_diffusion.png_unfilter(bytes int[], start int, rows int, row_bytes int, step int) returns int[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  with recursive line (number, bytes) as (
    select 0, null::int[]
    union all
    select l.number + 1,
      sql_diffusion.png_unfilter_row(png_unfilter.bytes[r.place + 1 : r.place + png_unfilter.row_bytes], l.bytes, png_unfilter.bytes[r.place], png_unfilter.step)
    from line l,
      lateral (select png_unfilter.start + l.number * (png_unfilter.row_bytes + 1) + 1 as place) r
    where l.number < png_unfilter.rows
  )
  select array_agg(b.byte order by l.number, b.ordinality)
  from line l,
    unnest(l.bytes) with ordinality as b (byte);
end;
comment on function sql_diffusion.png_unfilter(int[], int, int, int, int) is
  'The bytes of a pass, rows of row_bytes, of what the filters have made of them, which begins behind start bytes with the number of the first row''s filter; step is the bytes from a pixel to the next.';

create function sql_diffusion.check_png(png bytea, name text) returns boolean
language sql immutable parallel safe
set jit = off
begin atomic
  -- What the header says is looked at before anything is done that takes as long or as much memory as the picture is large.
  select case
    when check_png.png is null
      then sql_diffusion.fail(check_png.name || ' is null')
    when length(check_png.png) > 134217728
      then sql_diffusion.fail(format('%s has %s bytes, expected at most 134217728', check_png.name, length(check_png.png)), errcode => '54000')
    when substring(check_png.png for 8) <> E'\\x89504e470d0a1a0a'::bytea
      then sql_diffusion.fail(format('%s does not begin with the signature of a PNG', check_png.name), 'No other format is read: convert the picture first.')
    when length(check_png.png) < 33
      then sql_diffusion.fail(format('%s ends after %s bytes, within its header', check_png.name, length(check_png.png)))
    when substring(check_png.png from 9 for 8) <> E'\\x0000000d49484452'::bytea
      then sql_diffusion.fail(format('%s does not begin with the chunk IHDR of 13 bytes', check_png.name))
    when substring(check_png.png from 30 for 4) <> substring(int8send(sql_diffusion.crc32(substring(check_png.png from 13 for 17))) from 5)
      then sql_diffusion.fail(format('%s is damaged: the checksum of the chunk IHDR at byte 8 does not fit', check_png.name))
    end;
  select case
    when h.width not between 1 and 2147483647 or h.height not between 1 and 2147483647
      then sql_diffusion.fail(format('%s has the width %s and the height %s, expected 1 to 2147483647', check_png.name, h.width, h.height))
    when not (case h.colour when 0 then h.depth in (1, 2, 4, 8, 16) when 3 then h.depth in (1, 2, 4, 8) else h.colour in (2, 4, 6) and h.depth in (8, 16) end)
      then sql_diffusion.fail(format('%s has the colour type %s with %s bits a sample, expected 0 with 1, 2, 4, 8 or 16, 3 with 1, 2, 4 or 8, or 2, 4 or 6 with 8 or 16', check_png.name, h.colour, h.depth))
    when get_byte(check_png.png, 26) <> 0 or get_byte(check_png.png, 27) <> 0 or h.interlace > 1
      then sql_diffusion.fail(format('%s has the methods %s, %s and %s of compression, filters and interlacing, expected 0, 0 and 0 or 1', check_png.name,
        get_byte(check_png.png, 26), get_byte(check_png.png, 27), h.interlace))
    when h.width::numeric * h.height * h.channels > 16777216
      then sql_diffusion.fail(format('%s is a picture of %s x %s pixels and %s channels, expected at most 16777216 values', check_png.name, h.width, h.height, h.channels), errcode => '54000')
    end
  from sql_diffusion.png_header(check_png.png) h;
  with chunk as (
    select c.number, c.at, c.name, c.size,
      lag(c.name) over w as before,
      count(*) filter (where c.name = 'PLTE') over w as palettes,
      count(*) filter (where c.name = 'tRNS') over w as transparencies,
      count(*) filter (where c.name = 'IDAT') over w as data,
      max(c.size / 3) filter (where c.name = 'PLTE') over w as entries,
      (select h.colour from sql_diffusion.png_header(check_png.png) h) as colour
    from sql_diffusion.png_chunks(check_png.png) c
    window w as (order by c.number rows between unbounded preceding and 1 preceding)
  ),
  problem (number, message) as (
    select p.number, p.message
    from (select c.number, case
            when c.name !~ '^[A-Za-z]{4}$' then format('has no chunk at byte %s, expected a name of four letters', c.at)
            when c.at + c.size + 12 > length(check_png.png) then format('ends within the chunk %s at byte %s', c.name, c.at)
            when substring(check_png.png from c.at + c.size::int + 9 for 4)
                <> substring(int8send(sql_diffusion.crc32(substring(check_png.png from c.at + 5 for c.size::int + 4))) from 5)
              then format('is damaged: the checksum of the chunk %s at byte %s does not fit', c.name, c.at)
            when c.name ~ '^[A-Z]' and c.name not in ('IHDR', 'PLTE', 'IDAT', 'IEND')
              then format('has the chunk %s at byte %s, which is not known, and without which a picture cannot be read', c.name, c.at)
            when case c.name
                when 'IHDR' then c.number > 1
                when 'PLTE' then c.palettes + c.transparencies + c.data > 0 or c.colour in (0, 4)
                when 'tRNS' then c.transparencies + c.data > 0 or c.colour in (4, 6) or c.colour = 3 and c.palettes = 0
                when 'IDAT' then c.data > 0 and c.before <> 'IDAT' or c.colour = 3 and c.palettes = 0
                when 'IEND' then c.data = 0
              end
              then format('has the chunk %s at byte %s, where none can be', c.name, c.at)
            when case c.name
                when 'PLTE' then c.size % 3 <> 0 or c.size not between 3 and 768
                when 'tRNS' then case c.colour when 0 then c.size <> 2 when 2 then c.size <> 6 else c.size not between 1 and c.entries end
                when 'IEND' then c.size > 0
              end
              then format('has %s bytes in the chunk %s at byte %s, which it cannot have', c.size, c.name, c.at)
            end as message
          from chunk c) p
    where p.message is not null
    union all
    select 2147483647, 'ends without the chunk IEND'
    where not exists (select from chunk c where c.name = 'IEND')
    order by 1
    limit 1
  )
  select coalesce((select sql_diffusion.fail(format('%s %s', check_png.name, p.message)) from problem p), true);
end;
comment on function sql_diffusion.check_png(bytea, text) is
  'Refuses what is no PNG, one whose header, chunks or checksums are wrong (22023), and one of more than 16777216 values or 134217728 bytes (54000). The name opens the message.';

create function sql_diffusion.image_from_png(png bytea) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_png(image_from_png.png, 'image_from_png: png');
  with header as materialized (
    select h.width::int, h.height::int, h.depth, h.colour, h.interlace, h.samples, h.channels
    from sql_diffusion.png_header(image_from_png.png) h
  ),
  pass as materialized (
    select p.pass, p.x, p.y, p.step_x, p.step_y, p.rows, p.row_bytes, p.start, (p.start + sum(p.rows) over (order by p.pass) - p.rows)::int as filtered_start
    from header h, sql_diffusion.png_passes(h.width, h.height, h.depth * h.samples, h.interlace) p
  ),
  filtered as materialized (
    select d.bytes
    from (select sum(p.rows * (p.row_bytes + 1))::int as size from pass p) s,
      lateral (select sql_diffusion.zlib_decompress(string_agg(substring(image_from_png.png from c.at + 9 for c.size::int), ''::bytea order by c.number), s.size) as bytes
               from sql_diffusion.png_chunks(image_from_png.png) c
               where c.name = 'IDAT'
               offset 0) d
    where case when d.bytes is null
      then sql_diffusion.fail(format('image_from_png: png is damaged: its chunks IDAT hold no zlib stream of %s bytes', s.size))
      else true
    end
  ),
  unfiltered as materialized (
    select (
      select sql_diffusion.array_cat_agg(
        case when f.worst > 4
        then sql_diffusion.fail(format('image_from_png: png has a row with the filter %s, expected 0 to 4', f.worst))::text::int[]
        else sql_diffusion.png_unfilter(d.bytes, p.filtered_start, p.rows, p.row_bytes, greatest(1, h.depth * h.samples / 8))
        end order by p.pass)
      from pass p,
        lateral (select max(d.bytes[p.filtered_start + r.row * (p.row_bytes + 1) + 1]) as worst from generate_series(0, p.rows - 1) as r (row) offset 0) f) as bytes
    from header h, filtered d
  ),
  layout as materialized (
    -- of each pass, counted from 0, where there is one
    select
      array_agg(p.x order by n.pass) as x, array_agg(p.y order by n.pass) as y,
      array_agg(p.step_x order by n.pass) as step_x, array_agg(p.step_y order by n.pass) as step_y,
      array_agg(p.row_bytes order by n.pass) as row_bytes, array_agg(p.start order by n.pass) as start
    from generate_series(0, 7) as n (pass)
      left join pass p on p.pass = n.pass
  ),
  sampled as materialized (
    -- (height, width, samples)
    select (
      select array_agg(case h.depth
          when 8 then u.bytes[b.byte]
          when 16 then 256 * u.bytes[b.byte] + u.bytes[b.byte + 1]
          else (u.bytes[b.byte] >> (8 - h.depth - b.bit % 8)) & ((1 << h.depth) - 1)
        end order by k.place)
      from generate_series(0, h.height * h.width * h.samples - 1) as k (place),
        lateral (select
                   k.place / h.samples / h.width as y,
                   k.place / h.samples % h.width as x,
                   case when h.interlace = 0 then 1 else 1 + ('{{1,6,4,6,2,6,4,6},{7,7,7,7,7,7,7,7},{5,6,5,6,5,6,5,6},{7,7,7,7,7,7,7,7},
                       {3,6,4,6,3,6,4,6},{7,7,7,7,7,7,7,7},{5,6,5,6,5,6,5,6},{7,7,7,7,7,7,7,7}}'::int[])[k.place / h.samples / h.width % 8 + 1][k.place / h.samples % h.width % 8 + 1]
                   end as pass
                 offset 0) n,
        lateral (select q.bit, l.start[n.pass] + (n.y - l.y[n.pass]) / l.step_y[n.pass] * l.row_bytes[n.pass] + q.bit / 8 + 1 as byte
                 from (select ((n.x - l.x[n.pass]) / l.step_x[n.pass] * h.samples + k.place % h.samples) * h.depth as bit offset 0) q
                 offset 0) b) as samples
    from header h, unfiltered u, layout l
  ),
  colours as materialized (
    select
      (select substring(image_from_png.png from c.at + 9 for c.size::int) from sql_diffusion.png_chunks(image_from_png.png) c where c.name = 'PLTE') as palette,
      (select substring(image_from_png.png from c.at + 9 for c.size::int) from sql_diffusion.png_chunks(image_from_png.png) c where c.name = 'tRNS') as transparency
  )
  select case
    when h.colour = 3 and p.last >= length(c.palette) / 3
      then sql_diffusion.fail(format('image_from_png: png has the colour %s of its palette, expected at most %s', p.last, length(c.palette) / 3 - 1))::text::real[]
    when h.colour = 3 then (
      select sql_diffusion.with_shape(array_agg((case
          when k.place / p.area < 3 then get_byte(c.palette, 3 * s.samples[k.place % p.area + 1] + k.place / p.area)
          when s.samples[k.place % p.area + 1] < length(c.transparency) then get_byte(c.transparency, s.samples[k.place % p.area + 1])
          else 255
        end / 255.0::double precision)::real order by k.place), array[h.channels, h.height, h.width])
      from generate_series(0, p.area * h.channels - 1) as k (place))
    else (
      select sql_diffusion.with_shape(array_agg(case
          when k.place / p.area < h.samples then (s.samples[k.place % p.area * h.samples + k.place / p.area + 1] / p.most)::real
          when s.samples[k.place % p.area * h.samples + 1 : k.place % p.area * h.samples + h.samples] = p.transparent then 0
          else 1
        end order by k.place), array[h.channels, h.height, h.width])
      from generate_series(0, p.area * h.channels - 1) as k (place))
    end
  from header h, sampled s, colours c,
    lateral (select
               h.height * h.width as area,
               ((1 << h.depth) - 1)::double precision as most,
               case when h.colour = 3 then (select max(i.colour) from unnest(s.samples) as i (colour)) end as last,
               (select array_agg((256 * get_byte(c.transparency, 2 * i.sample) + get_byte(c.transparency, 2 * i.sample + 1)) & ((1 << h.depth) - 1) order by i.sample)
                from generate_series(0, h.samples - 1) as i (sample)
                where h.colour <> 3
                  and h.channels > h.samples) as transparent
             offset 0) p;
end;
comment on function sql_diffusion.image_from_png(bytea) is
  'A PNG as an image (channels, height, width), values 0..1, in pure SQL: see the verb of this name.';
