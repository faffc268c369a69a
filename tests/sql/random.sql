-- Random numbers: the stream of torch's generator on the CPU. Many more seeds and shapes: tests/test_random.py.
\set SHOW_CONTEXT never
\pset null NULL
set search_path to sql_diffusion;
set extra_float_digits to -1;

-- torch.randn(5, generator=torch.Generator().manual_seed(42)) is 0.3367, 0.1288, 0.2345, 0.2303, -1.1229
select array(select round(v::numeric, 4) from unnest(randn(42, '{5}')) v);
-- torch.randn(20, ...)[:4] is 1.9269, 1.4873, 0.9007, -2.1055: 16 numbers and more are drawn in another way
select array(select round(v::numeric, 4) from unnest((randn(42, '{20}'))[1:4]) v);
-- the shape changes nothing but the shape
select array_dims(randn(7, '{2,3,4}')), randn(7, '{24}') = array(select unnest(randn(7, '{2,3,4}')));
-- the lower 32 bits of a seed count
select randn(-1, '{3}') = randn(4294967295, '{3}'), randn(1, '{3}') = randn(4294967297, '{3}'), randn(1, '{3}') = randn(2, '{3}');

-- 5489 is the seed of the generator's authors; its words 1, 2 and 10000, the last one as the C++ standard states it
select words[1:2], words[10000] from random_words(manual_seed(5489), 10000);

-- a stream goes on: 2 + 2 + 1 numbers are the same as 5 ...
with first as (select * from randn(manual_seed(3), '{2}')),
  second as (select r.* from first f, randn(f.next, '{2}') r),
  third as (select r.* from second s, randn(s.next, '{1}') r)
select first.sample || second.sample || third.sample = randn(3, '{5}'), (third.next).position, (third.next).next_normal is not null as one_is_left
from first, second, third;
-- ... and 16 after 32 are the last of 48
with first as (select * from randn(manual_seed(3), '{32}'))
select f.sample || r.sample = randn(3, '{48}') from first f, randn(f.next, '{16}') r;

select randn(null::bigint, '{2}'), randn(1, null);
select randn(1, '{}');
select randn(1, '{2,0}');
select randn(1, '{2,NULL}');
select randn(1, '{{2}}');
select randn(1, '[0:0]={2}');
select randn(1, '{1,1,1,1,1,1,1}');
select randn(1, '{2147483647,2147483647,2147483647,2147483647}');
select randn(row('{1,2,3}', 1, null)::generator, '{2}');
