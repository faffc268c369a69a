-- Random numbers: the stream of torch's generator on the CPU, so that one seed gives one picture here and there.
--
-- The bits are those of MT19937 (Matsumoto and Nishimura, Mersenne Twister, ACM TOMACS 8(1), 1998): 624 words of 32 bits,
-- held as bigint so that no sign and no float is in the way. A new generation of words comes from the old one by
--   x[k+624] = x[k+397] xor A(upper bit of x[k], lower 31 bits of x[k+1])                              (equation 2.1)
-- and each word is tempered before it is given out (equations 2.2 to 2.5).

create type sql_diffusion.generator as (
  words        bigint[],
  position     int,
  next_normal  double precision
);
comment on type sql_diffusion.generator is 'The state of a random number generator, as torch.Generator has it: pass it to randn, and what randn gives back to the next one.';
comment on column sql_diffusion.generator.words is 'the 624 words of MT19937, each 0 .. 4294967295';
comment on column sql_diffusion.generator.position is 'the word to be read next, 1 .. 624; 625 when all are read and a new generation is to be made';
comment on column sql_diffusion.generator.next_normal is
  'the second number of a pair of which only the first was given out; NULL where there is none. Only draws of fewer than 16 values leave and take one.';

create function sql_diffusion.manual_seed(seed bigint) returns sql_diffusion.generator
language sql immutable strict parallel safe
begin atomic
  with recursive init_genrand (k, word) as (
    select 0, manual_seed.seed & 4294967295
    union all
    select
      g.k + 1,
      (1812433253 * (g.word # (g.word >> 30)) + g.k + 1) & 4294967295
    from init_genrand g
    where g.k < 623
  )
  select row(array_agg(g.word order by g.k), 625, null)::sql_diffusion.generator
  from init_genrand g;
end;
comment on function sql_diffusion.manual_seed(bigint) is
  'A generator at the start of the stream of this seed, as torch.Generator().manual_seed(seed) makes it. MT19937 takes the lower 32 bits of the seed '
  '(of its two''s complement where it is negative), so 1 and 4294967297 give the same stream.';

-- x[k+397] xor A(...): the equation above for one word; A shifts to the right and, where the last bit was 1, adds the constant.
create function sql_diffusion.mt19937_word(word bigint, next_word bigint, far_word bigint) returns bigint
language sql immutable strict parallel safe
return far_word # (((word & 2147483648) | (next_word & 2147483647)) >> 1) # ((next_word & 1) * 2567483615);
comment on function sql_diffusion.mt19937_word(bigint, bigint, bigint) is
  'One word of the next generation of MT19937, from x[k], x[k+1] and x[k+397]: equation 2.1.';

create function sql_diffusion.mt19937_twist(words bigint[]) returns bigint[]
language sql immutable strict parallel safe
begin atomic
  -- x[k+397] is a word of the old generation for the first 227 words; then it is a word of the new one, 227 places back.
  -- So a generation is three sets, each made at once from what is known before it.
  with first_227 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from unnest(mt19937_twist.words[1:227], mt19937_twist.words[2:228], mt19937_twist.words[398:624])
      with ordinality as w (word, next_word, far_word, k)
  ), second_227 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from first_227 f,
      unnest(mt19937_twist.words[228:454], mt19937_twist.words[229:455], f.words)
        with ordinality as w (word, next_word, far_word, k)
  ), last_170 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from first_227 f, second_227 s,
      unnest(mt19937_twist.words[455:624], mt19937_twist.words[456:624] || f.words[1], s.words[1:170])
        with ordinality as w (word, next_word, far_word, k)
  )
  select f.words || s.words || l.words
  from first_227 f, second_227 s, last_170 l;
end;
comment on function sql_diffusion.mt19937_twist(bigint[]) is 'The next generation of MT19937: 624 words from 624 words.';

create function sql_diffusion.random_words(generator sql_diffusion.generator, count int, out words bigint[], out next sql_diffusion.generator)
language sql immutable strict parallel safe
begin atomic
  with recursive generation (number, words) as (
    select 0, (random_words.generator).words
    union all
    select g.number + 1, sql_diffusion.mt19937_twist(g.words)
    from generation g
    where (random_words.generator).position - 1 + random_words.count > 624 * (g.number + 1)
  ), untempered as (
    select 624 * g.number + w.k - (random_words.generator).position as place, w.word as y
    from generation g, unnest(g.words) with ordinality as w (word, k)
  ), tempered_2 as (                                                                             -- tempering, equations
    select u.place, u.y # (u.y >> 11) as y
    from untempered u
    where u.place between 0 and random_words.count - 1
    offset 0                                               -- keeps each step a step: merged into one expression they double
  ), tempered_3 as (
    select t.place, t.y # ((t.y << 7) & 2636928640) as y                                                 -- 2.3
    from tempered_2 t
    offset 0
  ), tempered_4 as (
    select t.place, t.y # ((t.y << 15) & 4022730752) as y                                                -- 2.4
    from tempered_3 t
    offset 0
  )
  select
    (select array_agg(t.y # (t.y >> 18) order by t.place)                                                -- 2.5
     from tempered_4 t),
    (select row(g.words, (random_words.generator).position + random_words.count - 624 * g.number, (random_words.generator).next_normal)::sql_diffusion.generator
     from generation g
     order by g.number desc
     limit 1);
end;
comment on function sql_diffusion.random_words(sql_diffusion.generator, int) is
  'The next count words of 32 bits (0 .. 4294967295) of the stream, NULL for none, and the generator after them.';

-- Both ways of drawing are Box and Muller's (A note on the generation of random normal deviates, 1958): of two uniform numbers,
-- u1 in (0, 1] and u2 in [0, 1), they make sqrt(-2 ln u1) cos(2 pi u2) and sqrt(-2 ln u1) sin(2 pi u2).

create function sql_diffusion.normals_by_blocks(words bigint[], count int) returns real[]
language sql immutable strict parallel safe
begin atomic
  -- The angle is rounded to real before its cosine is taken, as torch does it: without that the values are up to 2e-6 away.
  select array_agg(n.radius * case when n.place < 8 then cos(n.angle)::real else sin(n.angle)::real end order by n.i)
  from (select
          v.i,
          v.place,
          sqrt(-2 * ln(1 - (normals_by_blocks.words[v.block + v.place % 8 + 1] & 16777215) / 16777216::double precision)::real)::real as radius,
          6.2831855::real * ((normals_by_blocks.words[v.block + v.place % 8 + 9] & 16777215) / 16777216::double precision)::real as angle
        from (select b.i, b.i - b.i % 16 as block, b.i % 16 as place
              from generate_series(0, normals_by_blocks.count - 1 - case when normals_by_blocks.count % 16 > 0 then 16 else 0 end) as b (i)
              union all
              -- where the count is no multiple of 16, the last 16 values come from 16 words behind those of the others
              select b.i, normals_by_blocks.count, b.i - normals_by_blocks.count + 16
              from generate_series(normals_by_blocks.count - 16, normals_by_blocks.count - 1) as b (i)
              where normals_by_blocks.count % 16 > 0) v) n;
end;
comment on function sql_diffusion.normals_by_blocks(bigint[], int) is
  'Standard normal numbers as torch draws 16 and more of them: 16 at a time from 16 words, of which the first 8 give u1 and the last 8 give u2, each by its lower 24 bits; '
  'the cosines come first, then the sines. It takes count words, and 16 more where count is no multiple of 16.';

create function sql_diffusion.normals_by_pairs(words bigint[]) returns double precision[]
language sql immutable strict parallel safe
begin atomic
  select array_agg(sqrt(-2 * ln(u.u1)) * case when s.sine then sin(2 * pi() * u.u2) else cos(2 * pi() * u.u2) end order by u.i, s.sine)
  from (select
          p.i,
          1 - ((normals_by_pairs.words[4 * p.i + 3] & 2097151) * 4294967296 + normals_by_pairs.words[4 * p.i + 4]) / 9007199254740992::double precision as u1,
          ((normals_by_pairs.words[4 * p.i + 1] & 2097151) * 4294967296 + normals_by_pairs.words[4 * p.i + 2]) / 9007199254740992::double precision as u2
        from generate_series(0, cardinality(normals_by_pairs.words) / 4 - 1) as p (i)) u,
    (values (false), (true)) as s (sine);
end;
comment on function sql_diffusion.normals_by_pairs(bigint[]) is
  'Standard normal numbers as torch draws fewer than 16 of them: two from four words, the first two words give u2 by 53 bits (the upper half first), the last two u1.';

create function sql_diffusion.randn(generator sql_diffusion.generator, shape int[], out sample real[], out next sql_diffusion.generator)
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_shape(randn.shape, 'randn: shape');
  select case
    when (select sum(ln(s.size)) from unnest(randn.shape) as s (size)) > ln(67108864.5)         -- the product itself could overflow
      then sql_diffusion.fail(format('randn: shape is %s, expected at most 67108864 elements', randn.shape))
    when (randn.generator).position is null or (randn.generator).position not between 1 and 625
      or array_ndims((randn.generator).words) is distinct from 1 or array_lower((randn.generator).words, 1) <> 1
      or cardinality((randn.generator).words) <> 624
      or exists (select from unnest((randn.generator).words) as w (word) where w.word is null or w.word not between 0 and 4294967295)
      or (randn.generator).next_normal in ('NaN', 'Infinity', '-Infinity')
      then sql_diffusion.fail('randn: generator is not the state of a generator',
        'Take what sql_diffusion.manual_seed(seed) or an earlier call of randn gave back.')
    end;
  with asked as (
    select a.count, case when a.count < 16 then 4 * ((a.count + 1 - num_nonnulls((randn.generator).next_normal)) / 2)
                         else a.count + case when a.count % 16 > 0 then 16 else 0 end end as words
    from (select sql_diffusion.numel(randn.shape)::int as count) a
  ), drawn as (
    select a.count, w.next, case when a.count < 16 then array_remove(array[(randn.generator).next_normal], null) || sql_diffusion.normals_by_pairs(w.words)
                                 else sql_diffusion.normals_by_blocks(w.words, a.count) end as normals
    from asked a, sql_diffusion.random_words(randn.generator, a.words) w
  )
  select
    sql_diffusion.reshape(d.normals[1:d.count]::real[], randn.shape),
    row((d.next).words, (d.next).position, case when d.count < 16 then d.normals[d.count + 1] else (d.next).next_normal end)::sql_diffusion.generator
  from drawn d;
end;
comment on function sql_diffusion.randn(sql_diffusion.generator, int[]) is
  'Standard normal numbers of this shape, the ones that torch.randn(shape, generator=...) draws in float32 on the CPU, and the generator after them, '
  'with which the stream goes on. 22023 for a shape that is not 1 to 6 positive sizes.';

create function sql_diffusion.randn(seed bigint, shape int[]) returns real[]
language sql immutable strict parallel safe
return (sql_diffusion.randn(sql_diffusion.manual_seed(seed), shape)).sample;
comment on function sql_diffusion.randn(bigint, int[]) is
  'Standard normal numbers of this shape, the ones that torch.randn(shape, generator=torch.Generator().manual_seed(seed)) draws in float32 on the CPU.';
