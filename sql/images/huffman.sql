-- Prefix codes of deflate (RFC 1951, 3.2.2): a code is told by the lengths of its words alone, 0 for a symbol that has none.

create function sql_diffusion.huffman_codes(lengths int[]) returns table (symbol int, length int, code int)
language sql immutable strict parallel safe rows 300
begin atomic
  -- Words in the order of their lengths, then of their symbols, follow each other as numbers: each begins where the share
  -- 2 ^ -length of all 2 ^ 15 longest words ends that the one before takes. A word's first bit is to be the lowest: reversed.
  select
    w.symbol,
    w.length,
    reverse((w.share >> (15 - w.length))::bit(16)::text)::bit(16)::int >> (16 - w.length)
  from (select
          l.ordinality::int - 1 as symbol,
          l.length,
          (coalesce(sum(1 << (15 - l.length)) over (order by l.length, l.ordinality rows between unbounded preceding and 1 preceding), 0))::int as share
        from unnest(huffman_codes.lengths) with ordinality as l (length)
        where l.length between 1 and 15) w
  where w.share < 32768;
end;
comment on function sql_diffusion.huffman_codes(int[]) is
  'The words of a prefix code of deflate, whose lengths are given in the order of the symbols, which count from 0; 0 is no word. A word''s first bit is the lowest of code.';

create function sql_diffusion.huffman_table(lengths int[], meanings int[], lenient boolean) returns int[]
language sql immutable strict parallel safe
set jit = off
return (
  -- As many bits are looked up at once as the longest word has: a word's entry stands at each number that ends in it.
  select case
    when c.shares = 32768 then (
      select array_agg(e.entry order by e.place)
      from (select (huffman_table.meanings[w.symbol + 1] << 4) | w.length as entry, generate_series(w.code, (1 << c.bits) - 1, 1 << w.length) as place
            from sql_diffusion.huffman_codes(huffman_table.lengths) w) e)
    when huffman_table.lenient and c.bits <= 1 then
      array[coalesce((huffman_table.meanings[array_position(huffman_table.lengths, 1)] << 4) | 1, 0), 0]
    end
  from (select max(l.length) as bits, sum(1 << (15 - l.length)) filter (where l.length > 0) as shares
        from unnest(huffman_table.lengths) as l (length)) c);
comment on function sql_diffusion.huffman_table(int[], int[], boolean) is
  'A prefix code as a table of 2 ^ n numbers, n the length of its longest word: the meaning of the word that the place''s low bits begin with, times 16, plus its length. '
  'NULL for lengths that make no complete code; lenient lets pass what zlib does, one word of one bit or none, with 0 where there is no word.';

create function sql_diffusion.huffman_lengths(frequencies int[], most int) returns int[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- Huffman (1952): the two lightest nodes become the children of a new one, until one is left. The new ones come in the order of their
  -- weights, so that the two lightest are found at the heads of two queues, of leaves and of these. A word of most + 1 bits takes
  -- weights like Fibonacci's numbers, whose sum is that of most + 4 less one: weights that are none too small keep it from coming about.
  with recursive bound as materialized (
    select sum(f.frequency) / greatest(1, round(power((1 + sqrt(5::double precision)) / 2, huffman_lengths.most + 4) / sqrt(5::double precision)) - 2 - count(*)) as least
    from unnest(huffman_lengths.frequencies) as f (frequency)
    where f.frequency > 0
  ),
  leaf as materialized (
    select array_agg(l.symbol order by l.weight, l.symbol) as symbols, array_agg(l.weight order by l.weight, l.symbol) as weights
    from (select f.ordinality::int as symbol, greatest(f.frequency, ceil(b.least))::bigint as weight
          from unnest(huffman_lengths.frequencies) with ordinality as f (frequency), bound b
          where f.frequency > 0) l
  ),
  -- a child above 0 is a leaf, one below a node
  half (number, leaf, node, child, weight, weights) as (
    select 0, 1, 1, 0, 0::bigint, '{}'::bigint[]
    union all
    select
      h.number + 1,
      h.leaf + c.is_leaf::int,
      h.node + 1 - c.is_leaf::int,
      case when c.is_leaf then h.leaf else - h.node end,
      c.weight,
      case when h.number % 2 = 1 then h.weights || h.weight + c.weight else h.weights end
    from half h,
      leaf l,
      lateral (select w.is_leaf, case when w.is_leaf then l.weights[h.leaf] else h.weights[h.node] end as weight
               from (select coalesce(l.weights[h.leaf] <= h.weights[h.node], l.weights[h.leaf] is not null) as is_leaf offset 0) w
               offset 0) c
    where h.number < 2 * cardinality(l.weights) - 2
  ),
  depth (child, depth) as (
    select 1 - cardinality(l.weights), 0
    from leaf l
    union all
    select h.child, d.depth + 1
    from depth d
      join half h on h.number in (- 2 * d.child, - 2 * d.child - 1)
    where d.child < 0
  )
  select array_agg(coalesce(w.depth, 0) order by f.symbol)
  from generate_series(1, cardinality(huffman_lengths.frequencies)) as f (symbol)
    left join (select l.symbols[d.child] as symbol, d.depth from leaf l, depth d where d.child > 0) w on w.symbol = f.symbol;
end;
comment on function sql_diffusion.huffman_lengths(int[], int) is
  'The lengths of the words of a prefix code of at most most bits for symbols of these frequencies, at least two of them not 0, the shortest together or all but; 0 for a symbol of frequency 0.';
