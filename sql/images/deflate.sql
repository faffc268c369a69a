-- Deflate (RFC 1950 and 1951): stored, and compressed by run lengths and a Huffman code of its own for each picture.

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

create function sql_diffusion.deflate_words(lengths int[]) returns text[]
language sql immutable strict parallel safe
set jit = off
return (
  select array_agg(substring(reverse(c.code::bit(16)::text) for c.length) order by s.symbol)
  from generate_series(0, cardinality(lengths) - 1) as s (symbol)
    left join sql_diffusion.huffman_codes(lengths) c on c.symbol = s.symbol);
comment on function sql_diffusion.deflate_words(int[]) is 'The words of a prefix code, by symbol, as zeros and ones in the order in which they go into the stream; NULL for a symbol that has none.';

create function sql_diffusion.deflate_tokens(line int[]) returns int[]
language sql immutable strict parallel safe
set jit = off
return (
  -- A run of equal bytes is that byte, and copies at distance 1, of 3 to 258 bytes; what is too short for one are bytes again.
  select array_agg(case when t.number = 0 or t.number > t.rest / 258 and t.rest % 258 < 3 then t.byte else 256 + least(258, t.rest - (t.number - 1) * 258) end order by t.place, t.number)
  from (select r.place, r.byte, r.rest, generate_series(0, r.rest / 258 + case when r.rest % 258 < 3 then r.rest % 258 else 1 end) as number
        from (select b.place, b.byte, (lead(b.place, 1, cardinality(line) + 1::bigint) over (order by b.place) - b.place - 1)::int as rest
              from unnest(line) with ordinality as b (byte, place)
              where b.byte is distinct from line[b.place - 1]) r) t);
comment on function sql_diffusion.deflate_tokens(int[]) is
  'Bytes as what deflate has symbols for, where only the last byte is looked back at: each a byte, or 256 plus the length of a copy of it.';

create function sql_diffusion.zlib_compress(lines int[], repeats int[]) returns bytea
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- One block with codes of its own (RFC 1951, 3.2.7)
  with size as materialized (
    select array_length(zlib_compress.lines, 2) as line_bytes
  ),
  line as materialized (
    select array_agg(l.before order by l.number) as before
    from (select r.ordinality as number, sum(r.repeats) over (order by r.ordinality) - r.repeats as before from unnest(zlib_compress.repeats) with ordinality as r (repeats)) l
  ),
  token as materialized (
    select l.line, sql_diffusion.deflate_tokens(array(select unnest(zlib_compress.lines[l.line : l.line]))) as tokens
    from generate_series(1, cardinality(zlib_compress.repeats)) as l (line)
  ),
  -- RFC 1951, 3.2.5
  meaning as materialized (
    select t.token,
      case when t.token < 256 then t.token when l.length < 11 then 254 + l.length when l.length = 258 then 285 else 4 * l.bits + 261 + (l.length - 3) / (1 << l.bits) - 4 end as symbol,
      case when t.token >= 256 and l.length between 11 and 257 then substring(reverse((l.length - 3)::bit(16)::text) for l.bits) else '' end
        || case when t.token >= 256 then '0' else '' end as extra                                            -- the word of the one distance
    from generate_series(0, 514) as t (token),
      lateral (select t.token - 256 as length, width_bucket(t.token - 259, '{8,16,32,64,128}'::int[]) as bits) l
    where t.token not between 256 and 258
  ),
  code as materialized (
    select sql_diffusion.huffman_lengths(array_agg(coalesce(f.frequency, (s.symbol = 256)::int) order by s.symbol), 15) as lengths
    from generate_series(0, 285) as s (symbol)
      left join (select m.symbol, least(1000000000, sum(t.times))::int as frequency
                 from (select t.token, sum(zlib_compress.repeats[t.line]) as times
                       from (select l.line, unnest(l.tokens) as token from token l) t
                       group by t.token) t
                   join meaning m on m.token = t.token
                 group by m.symbol) f on f.symbol = s.symbol
  ),
  -- the lengths of the words of literals and lengths, and that of the one distance, in a code of their own, whose lengths take three bits each
  lengths_code as materialized (
    select l.lengths, sql_diffusion.deflate_words(l.lengths) as words
    from (select sql_diffusion.huffman_lengths(array_agg(f.frequency order by n.length), 7) as lengths
          from generate_series(0, 18) as n (length),
            lateral (select count(*)::int as frequency from code c, unnest(c.lengths || 1) as l (length) where l.length = n.length) f) l
  ),
  head as (
    select '101' || '10111' || '00000' || '1111'                                                            -- the last block, of this kind; 286 lengths, 1, and 19
      || (select string_agg(reverse(l.lengths[o.length + 1]::bit(3)::text), '' order by o.ordinality)
          from unnest('{16,17,18,0,8,7,9,6,10,5,11,4,12,3,13,2,14,1,15}'::int[]) with ordinality as o (length))
      || (select string_agg(l.words[n.length + 1], '' order by n.ordinality) from code c, unnest(c.lengths || 1) with ordinality as n (length)) as bits
    from lengths_code l
  ),
  word as materialized (
    select (
      select array_agg(w.words[m.symbol + 1] || m.extra order by n.token)
      from generate_series(0, 514) as n (token)
        left join meaning m on m.token = n.token) as words, w.words[257] as last
    from (select sql_diffusion.deflate_words(c.lengths) as words from code c offset 0) w
  ),
  body as (
    select string_agg(c.bits, '' order by c.line) as bits
    from (select l.line, repeat((select string_agg(w.words[t.token + 1], '' order by t.ordinality) from unnest(l.tokens) with ordinality as t (token)),
            zlib_compress.repeats[l.line]) as bits
          from token l, word w
          offset 0) c
  ),
  sums as (
    -- Adler-32, of a line's repeats at once: each is a line further from the end than the next
    select sum(r.repeats * b.sum) as sum, max(t.size) as size,
      sum(r.repeats * ((t.size - l.before[r.line] * s.line_bytes) * b.sum - b.sums) - s.line_bytes * (r.repeats * (r.repeats - 1) / 2) * b.sum) as sums
    from size s,
      line l,
      (select sum(r.repeats) * (select s.line_bytes from size s) as size from unnest(zlib_compress.repeats) as r (repeats)) t,
      lateral (select r.ordinality as line, r.repeats::bigint from unnest(zlib_compress.repeats) with ordinality as r (repeats)) r,
      lateral (select sum(b.byte) as sum, sum((b.ordinality - 1) * b.byte) as sums
               from unnest(zlib_compress.lines[r.line : r.line]) with ordinality as b (byte)) b
  )
  select E'\\x78da'::bytea || substring(varbit_send(sql_diffusion.reversed_bits(substring(varbit_send((s.bits || repeat('0', -length(s.bits) & 7))::bit varying) from 5))) from 5)
    || substring(int8send((65536 * ((a.size + a.sums) % 65521) + (1 + a.sum) % 65521)::bigint) from 5)
  from (select h.bits || b.bits || w.last as bits from head h, body b, word w) s, sums a;
end;
comment on function sql_diffusion.zlib_compress(int[], int[]) is
  'A zlib stream of lines of bytes (lines, bytes), each of which comes as often as repeats says, by run lengths and one dynamic Huffman code.';
