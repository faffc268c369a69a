-- The checksums of PNG and of zlib.

create function sql_diffusion.adler32(bytes bytea) returns bigint
language sql immutable strict parallel safe
begin atomic
  -- RFC 1950: one sum of the bytes, and one of that sum's values, in which a byte counts once for itself and once for each byte behind it
  select (65536 * ((length(adler32.bytes) + coalesce(sum((length(adler32.bytes) - b.i)::bigint * get_byte(adler32.bytes, b.i)), 0)) % 65521)
    + (1 + coalesce(sum(get_byte(adler32.bytes, b.i)), 0)) % 65521)::bigint
  from generate_series(0, length(adler32.bytes) - 1) as b (i);
end;
comment on function sql_diffusion.adler32(bytea) is 'The checksum of zlib, RFC 1950: 0 .. 4294967295.';

create function sql_diffusion.reversed_bits(bytes bytea) returns bit varying
language sql immutable strict parallel safe
begin atomic
  -- swap the halves of each byte, then the halves of these, then the halves of those
  select ((b.bits >> 1) & m.m55) | ((b.bits & m.m55) << 1)
  from (select
          ('x' || repeat('0f', length(reversed_bits.bytes)))::bit varying as m0f,
          ('x' || repeat('33', length(reversed_bits.bytes)))::bit varying as m33,
          ('x' || repeat('55', length(reversed_bits.bytes)))::bit varying as m55
        offset 0) m,
    lateral (select ('x' || encode(reversed_bits.bytes, 'hex'))::bit varying as bits offset 0) a,
    lateral (select ((a.bits >> 4) & m.m0f) | ((a.bits & m.m0f) << 4) as bits offset 0) a4,
    lateral (select ((a4.bits >> 2) & m.m33) | ((a4.bits & m.m33) << 2) as bits offset 0) b;
end;
comment on function sql_diffusion.reversed_bits(bytea) is 'The bits of these bytes, the lowest of each byte first.';

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
  ), message (bits) as (
    select sql_diffusion.reversed_bits(crc32.bytes) || repeat('0', 32)::bit varying
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
