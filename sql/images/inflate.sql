-- Deflate undone: RFC 1950 and 1951.
--
-- Two steps. The first walks through the words of the code, for where one begins is known when the one before is read: one row of a
-- recursive query each, whose state is four integers; all that is large (the stream, the tables) stands outside and is looked up. Its result
-- is not the bytes but where each comes from: from a literal, or from an earlier place. The second follows these references, all
-- at once and twice as far at each turn.

create function sql_diffusion.inflate_windows(data bytea) returns bigint[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- 48 bits is what a length and a distance take at most: 15 + 5 + 15 + 13
  select (
    select array_agg(
      get_byte(b.bytes, i.place)::bigint
      | (get_byte(b.bytes, i.place + 1)::bigint << 8)
      | (get_byte(b.bytes, i.place + 2)::bigint << 16)
      | (get_byte(b.bytes, i.place + 3)::bigint << 24)
      | (get_byte(b.bytes, i.place + 4)::bigint << 32)
      | (get_byte(b.bytes, i.place + 5)::bigint << 40)
      | (get_byte(b.bytes, i.place + 6)::bigint << 48)
      | (get_byte(b.bytes, i.place + 7)::bigint << 56) order by i.place)
    from generate_series(0, length(inflate_windows.data) + 5, 2) as i (place))
  from (select inflate_windows.data || E'\\x0000000000000000000000000000'::bytea as bytes offset 0) b;
end;
comment on function sql_diffusion.inflate_windows(bytea) is
  'The bits of a stream from every second byte on, 64 at a time, the first the lowest: windows[bit / 16 + 1] >> (bit % 16) has at least the 48 bits from there. Behind the end are zeros.';

create function sql_diffusion.inflate_lengths(windows bigint[], from_bit int, out lengths int[], out literals int, out next int)
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- RFC 1951, 3.2.7: the lengths of both codes' words, themselves in a code, whose own lengths come first.
  with recursive head as materialized (
    select
      (h.bits & 31)::int + 257 as literals,
      ((h.bits >> 5) & 31)::int + 1 as distances,
      ((h.bits >> 10) & 15)::int + 4 as codes
    from (select inflate_lengths.windows[inflate_lengths.from_bit / 16 + 1] >> (inflate_lengths.from_bit % 16) as bits) h
  ),
  code as materialized (
    select t.entries, (cardinality(t.entries) - 1)::bigint as mask
    from (select sql_diffusion.huffman_table(
            (select array_agg(coalesce((select ((inflate_lengths.windows[b.bit / 16 + 1] >> (b.bit % 16)) & 7)::int
                                        from (select inflate_lengths.from_bit + 14 + 3 * (o.turn - 1)::int as bit) b, head h
                                        where o.turn <= h.codes), 0) order by o.symbol)
             from unnest('{16,17,18,0,8,7,9,6,10,5,11,4,12,3,13,2,14,1,15}'::int[]) with ordinality as o (symbol, turn)),
            '{0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18}'::int[],
            false) as entries) t
  ),
  step (bit, place, length, times) as (
    select inflate_lengths.from_bit + 14 + 3 * h.codes, 0, null::int, 0
    from head h
    union all
    select
      s.bit + (e.entry & 15) + case e.entry >> 4 when 16 then 2 when 17 then 3 when 18 then 7 else 0 end,
      s.place + n.times,
      case when e.entry >> 4 < 16 then e.entry >> 4 when e.entry >> 4 = 16 then s.length else 0 end,
      n.times
    from step s, head h, code c,
      lateral (select inflate_lengths.windows[s.bit / 16 + 1] >> (s.bit % 16) as bits offset 0) b,
      lateral (select c.entries[(b.bits & c.mask) + 1] as entry offset 0) e,
      lateral (select case e.entry >> 4
                 when 16 then 3 + ((b.bits >> (e.entry & 15)) & 3)::int
                 when 17 then 3 + ((b.bits >> (e.entry & 15)) & 7)::int
                 when 18 then 11 + ((b.bits >> (e.entry & 15)) & 127)::int
                 else 1 end as times offset 0) n
    where s.place < h.literals + h.distances
      and e.entry > 0
      and (e.entry >> 4 <> 16 or s.length is not null)
  )
  select r.lengths, h.literals, r.bit
  from head h,
    lateral (select array_agg(s.length order by s.place) as lengths, max(s.bit) as bit
             from (select s.length, s.place, s.bit, generate_series(1, s.times) from step s) s) r
  where h.literals <= 286
    and h.distances <= 30
    and cardinality(r.lengths) = h.literals + h.distances
    and r.lengths[257] > 0;
end;
comment on function sql_diffusion.inflate_lengths(bigint[], int) is
  'The lengths of the words of both codes of a block, those for literals and lengths first, of which there are literals; from_bit is where their description begins, next where it has ended. NULL where it is wrong.';

create function sql_diffusion.inflate_symbols(windows bigint[], literals int[], distances int[], from_bit int, place int, size int,
    out origins int[], out next int, out reached int)
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
begin atomic
  -- symbol is -1 - byte for a literal, the distance back for a copy, 0 for the block's end, and NULL for what cannot be.
  with recursive step (bit, start, place, symbol) as (
    select inflate_symbols.from_bit, inflate_symbols.place, inflate_symbols.place, 1
    union all
    select
      s.bit + (l.entry & 15) + ((l.entry >> 4) & 15) + case when l.entry >> 8 > 256 then (d.entry & 15) + ((d.entry >> 4) & 15) else 0 end,
      s.place,
      s.place + case
        when l.entry >> 8 < 256 then 1
        when l.entry >> 8 = 256 then 0
        else (l.entry >> 8) - 512 + ((w.bits >> (l.entry & 15)) & ((1 << ((l.entry >> 4) & 15)) - 1))::int
      end,
      case
        when l.entry = 0 or d.entry = 0 then null
        when l.entry >> 8 < 256 then -1 - (l.entry >> 8)
        when l.entry >> 8 = 256 then 0
        when (d.entry >> 8) + ((d.bits >> (d.entry & 15)) & ((1 << ((d.entry >> 4) & 15)) - 1))::int <= s.place
          then (d.entry >> 8) + ((d.bits >> (d.entry & 15)) & ((1 << ((d.entry >> 4) & 15)) - 1))::int
      end
    from step s,
      lateral (select inflate_symbols.windows[(s.bit >> 4) + 1] >> (s.bit & 15) as bits offset 0) w,
      lateral (select inflate_symbols.literals[(w.bits & (cardinality(inflate_symbols.literals) - 1)) + 1] as entry offset 0) l,
      lateral (select b.bits, inflate_symbols.distances[(b.bits & (cardinality(inflate_symbols.distances) - 1)) + 1] as entry
               from (select case when l.entry >> 8 > 256 then w.bits >> ((l.entry & 15) + ((l.entry >> 4) & 15)) end as bits) b
               offset 0) d
    where s.symbol <> 0
      and s.place <= inflate_symbols.size
  )
  select
    (select array_agg(case when c.symbol < 0 then c.symbol else c.start - c.symbol + c.k % c.symbol end order by c.start, c.k)
     from (select s.start, s.symbol, generate_series(0, s.place - s.start - 1) as k from step s where s.symbol <> 0) c),
    (select s.bit from step s where s.symbol = 0),
    (select max(s.place) from step s);
end;
comment on function sql_diffusion.inflate_symbols(bigint[], int[], int[], int, int, int) is
  'The symbols of a block, by the tables of its two codes; from_bit is where they begin, place how many bytes the blocks before have made. origins: where each byte comes from, -1 - byte for a literal, else the earlier place, counted from 0. '
  'next is the bit behind the block, NULL where it is wrong; reached how many bytes there are now. It ends where there are more than size.';

create function sql_diffusion.zlib_decompress(data bytea, size int) returns int[]
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
begin atomic
  with recursive stream as materialized (
    select sql_diffusion.inflate_windows(zlib_decompress.data) as windows, 8 * length(zlib_decompress.data) as bits, zlib_decompress.data || ''::bytea as data
    where length(zlib_decompress.data) >= 6
      and get_byte(zlib_decompress.data, 0) & 15 = 8                                                          -- deflate
      and get_byte(zlib_decompress.data, 0) < 128                                                             -- a window of 32 KiB at most
      and (256 * get_byte(zlib_decompress.data, 0) + get_byte(zlib_decompress.data, 1)) % 31 = 0
      and get_byte(zlib_decompress.data, 1) & 32 = 0                                                          -- no dictionary
  ),
  meaning as materialized (
    -- 16 times what it stands for, plus the number of extra bits: a byte, 256 for the block's end, 512 more than a length; a distance. RFC 1951, 3.2.5
    select
      array_agg(16 * l.stands_for + l.extra order by l.symbol) as literals,
      array_agg(16 * l.distance + l.distance_extra order by l.symbol) filter (where l.symbol < 30) as distances
    from (select
            s.symbol,
            case when s.symbol <= 256 then s.symbol when s.symbol < 265 then 512 + s.symbol - 254 when s.symbol = 285 then 512 + 258
              else 512 + 3 + ((4 + (s.symbol - 261) % 4) << ((s.symbol - 261) / 4)) end as stands_for,
            case when s.symbol < 265 or s.symbol = 285 then 0 else (s.symbol - 261) / 4 end as extra,
            case when s.symbol < 4 then s.symbol + 1 when s.symbol < 30 then 1 + ((2 + s.symbol % 2) << (s.symbol / 2 - 1)) end as distance,
            case when s.symbol < 4 then 0 else s.symbol / 2 - 1 end as distance_extra
          from generate_series(0, 285) as s (symbol)) l
  ),
  fixed as materialized (
    select
      sql_diffusion.huffman_table(array_fill(8, '{144}') || array_fill(9, '{112}') || array_fill(7, '{24}') || array_fill(8, '{8}'), m.literals, false) as literals,
      sql_diffusion.huffman_table(array_fill(5, '{32}'), m.distances, false) as distances
    from meaning m
  ),
  block (number, bit, place, last, origins) as (
    select 0, 16, 0, false, null::int[]
    from stream
    union all
    select b.number + 1, d.next, d.reached, h.bits & 1 = 1, d.origins
    from block b,
      stream s,
      lateral (select ((s.windows[b.bit / 16 + 1] >> (b.bit % 16)) & 7)::int as bits offset 0) h,
      lateral (
        select t.origins, t.next, t.reached
        from (select (b.bit + 10) / 8 as byte, (s.windows[(b.bit + 10) / 8 / 2 + 1] >> ((b.bit + 10) / 8 % 2 * 8)) & 4294967295 as head offset 0) a,
          lateral (select (a.head & 65535)::int as length, (a.head >> 16)::int as complement offset 0) l,
          lateral (
            select
              (select array_agg(-1 - get_byte(s.data, i.place) order by i.place)
               from generate_series(a.byte + 4, a.byte + 3 + l.length) as i (place)) as origins,
              8 * (a.byte + 4 + l.length) as next,
              b.place + l.length as reached
            where a.byte + 4 + l.length <= length(s.data)
              and l.length + l.complement = 65535) t
        where h.bits >> 1 = 0
        union all
        select t.origins, t.next, t.reached
        from fixed f, sql_diffusion.inflate_symbols(s.windows, f.literals, f.distances, b.bit + 3, b.place, zlib_decompress.size) t
        where h.bits >> 1 = 1
        union all
        select t.origins, t.next, t.reached
        from sql_diffusion.inflate_lengths(s.windows, b.bit + 3) l,
          meaning m,
          lateral (select
                     sql_diffusion.huffman_table(l.lengths[: l.literals], m.literals, true) as literals,
                     sql_diffusion.huffman_table(l.lengths[l.literals + 1 :], m.distances, true) as distances
                   offset 0) c,
          sql_diffusion.inflate_symbols(s.windows, c.literals, c.distances, l.next, b.place, zlib_decompress.size) t
        where h.bits >> 1 = 2
      ) d
    where not b.last
      and b.place <= zlib_decompress.size
      and d.next <= s.bits
  ),
  resolved (turn, origins) as (
    select 0, (select array_agg(o.origin order by o.number, o.ordinality)
               from (select b.number, o.origin, o.ordinality from block b, unnest(b.origins) with ordinality as o (origin)) o)
    from block b
    where b.last
      and b.place = zlib_decompress.size
      and (b.bit + 7) / 8 + 4 = length(zlib_decompress.data)
    union all
    select r.turn + 1,
      (select array_agg(case when o.origin < 0 then o.origin else r.origins[o.origin + 1] end)
       from (select unnest(r.origins) as origin) o)
    from resolved r
    where 0 <= any (r.origins)
  )
  select d.bytes
  from (select (select array_agg(-1 - o.origin) from (select unnest(r.origins) as origin) o) as bytes
        from resolved r
        order by r.turn desc
        limit 1) d,
    lateral (select sum(b.byte) as sum, sum((zlib_decompress.size - b.ordinality + 1) * b.byte) as sums from unnest(d.bytes) with ordinality as b (byte)) a,
    stream s
  where substring(s.data from length(s.data) - 3)                                                             -- Adler-32
    = substring(int8send((65536 * ((zlib_decompress.size + a.sums) % 65521) + (1 + a.sum) % 65521)::bigint) from 5);
end;
comment on function sql_diffusion.zlib_decompress(bytea, int) is
  'The bytes, 0 to 255, of a zlib stream that is known to hold size of them. NULL for whatever is no such stream, is damaged, or has something behind it; it is left as soon as that is seen.';
