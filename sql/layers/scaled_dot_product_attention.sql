-- softmax(Q K^T / sqrt(E)) V, Vaswani et al. 2017, equation 1, with the big numbers of conv2d (sql/layers/conv2d.sql; doc/fast-sql.md).
-- A number holds one feature of all keys, a slot to a key: feature times number, summed over the features, is a query's
-- score with every key. A number holds all features of one value: weight times number, summed over the keys, is the output.
-- More keys than a number has room for are cut into runs, whose scores are put together before the softmax.

create function sql_diffusion.slots(input real[], unit double precision) returns setof numeric
language sql immutable parallel safe rows 1
begin atomic
  select array_to_string(array_agg((element * unit)::int + 55000000), '00000000')::numeric
  from (select unnest(input) as element) elements
  offset 0;
end;
comment on function sql_diffusion.slots(real[], double precision) is
  'The elements as one big number, 16 digits to each, the first the most significant: round(element * unit) + 55000000, which is to have 8 digits. A set of one row, so that '
  'the planner puts the query in its place.';

-- Said to be stable, for PostgreSQL 18 computes immutable functions of its arguments ahead, in the branches of a CASE that are not taken too.
create function sql_diffusion.attention_numbers(
  query real[], key real[], value real[], name text, attn_mask real[] default null, is_causal boolean default false, scale double precision default null
) returns real[]
language sql stable parallel safe
set jit = off
set join_collapse_limit = 1                        -- the order of the joins is given; to search for another takes tens of milliseconds
set enable_memoize = off
return (
  select sql_diffusion.transpose(array_agg(attended.features order by token.i))
  from (select array_length(query, 1) as features,
               array_length(query, 2) as queries,
               array_length(key, 2) as keys,
               array_length(value, 1) as value_features,
               (array_length(key, 2) + 8189) / 8190 as runs,
               least(4499999, sqrt(4.9e15 / array_length(query, 1))) as query_limit,
               least(44999999, sqrt(4.9e15 / array_length(key, 2))) as weight_limit,
               (select max(abs(element)) from (select unnest(query)::float8 as element) elements) as query_size,
               (select max(abs(element)) from (select unnest(key)::float8 as element) elements) as key_size,
               (select max(abs(element)) from (select unnest(value)::float8 as element) elements) as value_size offset 0) size
       -- a sum of products stays below 4.9e15: of query and key over the features, of weight and value over the keys
       cross join lateral (select case when size.value_features > 8190 then
                                    sql_diffusion.fail(format('%s has values of %s features, expected at most 8190', name, size.value_features), errcode => '0A000')::int
                                  when greatest(size.query_size, size.key_size, size.value_size) < 'infinity' then size.query_limit / coalesce(nullif(size.query_size, 0), 1)
                                  else sql_diffusion.fail(name || ' holds NaN or infinite values')::int
                                  end as q,
                                  least(44999999, 4.9e15 / (size.query_limit * size.features)) / coalesce(nullif(size.key_size, 0), 1) as k,
                                  size.weight_limit / coalesce(nullif(size.value_size, 0), 1) as v offset 0) unit
       -- (runs, features + 1)
       cross join lateral (select array_agg(run.numbers order by run.first) as keys,
                                  array_agg(run.half order by run.first) as halves
                           from (select first,
                                        array_agg(number order by e)
                                        || -55000000 * repeat('0000000000000001', least(8190, size.keys - first + 1))::numeric as numbers,
                                        ('1' || repeat('5000000000000000', least(8190, size.keys - first + 1) + 1))::numeric as half
                                 from generate_series(1, size.keys, 8190) first,
                                      generate_series(1, size.features) e,
                                      sql_diffusion.slots(key[e:e][first : first + 8189], unit.k) number
                                 group by first) run offset 0) keys
       cross join lateral (select array_agg(number order by j) as values,
                                  repeat('0000000000000001', size.value_features)::numeric as ones,
                                  ('1' || repeat('5000000000000000', size.value_features + 1))::numeric as half
                           from (select sql_diffusion.transpose(value) as tokens offset 0) transposed,
                                generate_series(1, size.keys) j,
                                sql_diffusion.slots(transposed.tokens[j:j], unit.v) number offset 0) values
       cross join lateral (select array_agg(element * unit.q) as elements
                           from (select unnest(query) as element) elements offset 0) flat
       cross join lateral (select generate_series(1, size.queries) as i) token
       cross join lateral (select array_agg(feature::numeric) || sum(feature)::numeric as kernels
                           from (select flat.elements[i]::int as feature
                                 from (select generate_series(token.i, size.features * size.queries, size.queries) as i) column_) features offset 0) query_kernel
       cross join lateral (select convert_to(case size.runs
                                             when 1 then
                                               ((select sum(kernel * number) from (select unnest(query_kernel.kernels) as kernel, unnest(keys.keys) as number) pair)
                                                + keys.halves[1])::text
                                             else
                                               -- each run's digits begin with those of no key, of which one is enough
                                               (select string_agg(substr(run.digits, case run.i when 1 then 1 else 18 end), '' order by run.i)
                                                from (select r as i,
                                                             substr(((select sum(kernel * number) from (select unnest(query_kernel.kernels) as kernel, unnest(keys.keys[r:r]) as number) pair)
                                                                     + keys.halves[r])::text, 1, 17 + 16 * least(8190, size.keys - 8190 * (r - 1))) as digits
                                                      from generate_series(1, size.runs) r) run)
                                             end, 'SQL_ASCII') as digits offset 0) product
       cross join lateral (select array_agg(s) as scores,
                                  max(s) as largest
                           from (select (encode(substring(product.digits from slot for 16), 'escape')::bigint - 5000000000000000) * score.factor as s
                                 from (select coalesce(scale / (unit.q * unit.k), 1 / (unit.q * unit.k * sqrt(size.features))) as factor offset 0) score,
                                      (select generate_series(18, 2 + 16 * size.keys, 16) as slot) slots offset 0) parsed) score
       -- what a query may not see has the score -infinity, and the weight 0
       cross join lateral (select case
                                  when attn_mask is not null then
                                    (select array_agg(s + m) from (select unnest(score.scores) as s, unnest(attn_mask[token.i:token.i]) as m) pair)
                                  when is_causal then
                                    score.scores[: token.i] || array_fill('-infinity'::float8, array[greatest(size.keys - token.i, 0)])
                                  else score.scores
                                  end as scores offset 0) masked
       cross join lateral (select case when attn_mask is not null or is_causal
                                  then (select coalesce(nullif(max(s), '-infinity'), 0) from (select unnest(masked.scores) as s) scores)
                                  else score.largest
                                  end as largest offset 0) visible
       -- the sum of the weights takes the offset of the values out again
       cross join lateral (select sum(w::numeric * number) - 55000000 * sum(w)::numeric * values.ones as number,
                                  sum(w) as total
                           from (select (exp(greatest(s - visible.largest, -80)) * size.weight_limit)::int as w, number
                                 from (select unnest(masked.scores) as s, unnest(values.values) as number) pair offset 0) weights) weight
       cross join lateral (select convert_to((weight.number + values.half)::text, 'SQL_ASCII') as digits offset 0) output
       cross join lateral (select array_agg(((encode(substring(output.digits from slot for 16), 'escape')::bigint - 5000000000000000) * scale.output + 1e-29 - 1e-29)::real) as features
                           from (select coalesce(1 / nullif(weight.total * unit.v, 0), 0) as output offset 0) scale,
                                (select generate_series(18, 2 + 16 * size.value_features, 16) as slot) slots offset 0) attended);
comment on function sql_diffusion.attention_numbers(real[], real[], real[], text, real[], boolean, double precision) is
  'Attention of one head, features first: query (E, queries), key (E, keys), value (Ev, keys) to (Ev, queries), with the mask, (queries, keys), and the scale of scaled_dot_product_attention. '
  'It does not check the shapes. The name opens the message where a value is not finite.';

-- Small heads, up to 8 features, are faster as rows: a row for each query and key, a column for each feature. Where no score
-- can be larger than 300 the softmax needs no maximum: exp stays far from the ends of a float8.
create function sql_diffusion.attention_columns(query real[], key real[], value real[], scale double precision default null) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  with token as materialized (
    select coalesce(k1, 0) as k1, coalesce(k2, 0) as k2, coalesce(k3, 0) as k3, coalesce(k4, 0) as k4,
           coalesce(k5, 0) as k5, coalesce(k6, 0) as k6, coalesce(k7, 0) as k7, coalesce(k8, 0) as k8,
           coalesce(v1, 0) as v1, coalesce(v2, 0) as v2, coalesce(v3, 0) as v3, coalesce(v4, 0) as v4,
           coalesce(v5, 0) as v5, coalesce(v6, 0) as v6, coalesce(v7, 0) as v7, coalesce(v8, 0) as v8
    from (select unnest(key[1:1])::float8 as k1, unnest(key[2:2])::float8 as k2, unnest(key[3:3])::float8 as k3, unnest(key[4:4])::float8 as k4,
                 unnest(key[5:5])::float8 as k5, unnest(key[6:6])::float8 as k6, unnest(key[7:7])::float8 as k7, unnest(key[8:8])::float8 as k8,
                 unnest(value[1:1])::float8 as v1, unnest(value[2:2])::float8 as v2, unnest(value[3:3])::float8 as v3, unnest(value[4:4])::float8 as v4,
                 unnest(value[5:5])::float8 as v5, unnest(value[6:6])::float8 as v6, unnest(value[7:7])::float8 as v7, unnest(value[8:8])::float8 as v8) columns
  )
  select (sql_diffusion.transpose(array_agg(array[o1, o2, o3, o4, o5, o6, o7, o8]::real[])))[1 : array_length(value, 1)]
  from (select coalesce(q1 * factor, 0) as q1, coalesce(q2 * factor, 0) as q2, coalesce(q3 * factor, 0) as q3, coalesce(q4 * factor, 0) as q4,
               coalesce(q5 * factor, 0) as q5, coalesce(q6 * factor, 0) as q6, coalesce(q7 * factor, 0) as q7, coalesce(q8 * factor, 0) as q8
        from (select coalesce(scale, 1 / sqrt(array_length(query, 1)::float8)) as factor offset 0) score,
             (select unnest(query[1:1]) as q1, unnest(query[2:2]) as q2, unnest(query[3:3]) as q3, unnest(query[4:4]) as q4,
                     unnest(query[5:5]) as q5, unnest(query[6:6]) as q6, unnest(query[7:7]) as q7, unnest(query[8:8]) as q8) columns offset 0) asked,
       lateral (select sum(e * v1) / sum(e) + 1e-29 - 1e-29 as o1, sum(e * v2) / sum(e) + 1e-29 - 1e-29 as o2,
                       sum(e * v3) / sum(e) + 1e-29 - 1e-29 as o3, sum(e * v4) / sum(e) + 1e-29 - 1e-29 as o4,
                       sum(e * v5) / sum(e) + 1e-29 - 1e-29 as o5, sum(e * v6) / sum(e) + 1e-29 - 1e-29 as o6,
                       sum(e * v7) / sum(e) + 1e-29 - 1e-29 as o7, sum(e * v8) / sum(e) + 1e-29 - 1e-29 as o8
                from (select exp(q1 * k1 + q2 * k2 + q3 * k3 + q4 * k4 + q5 * k5 + q6 * k6 + q7 * k7 + q8 * k8) as e,
                             v1, v2, v3, v4, v5, v6, v7, v8
                      from token offset 0) weighted) output;
end;
comment on function sql_diffusion.attention_columns(real[], real[], real[], double precision) is
  'attention_core without a mask for at most 8 features of query and key and 8 of value, and scores of at most 300 either way.';

create function sql_diffusion.attention_core(
  query real[], key real[], value real[], name text, attn_mask real[] default null, is_causal boolean default false, scale double precision default null
) returns real[]
language sql immutable parallel safe cost 100000
set jit = off
return (
  select case when greatest(array_length(query, 1), array_length(value, 1)) <= 8
                   and size.q * size.k * coalesce(abs(scale) * array_length(query, 1), sqrt(array_length(query, 1))) < 300
                   and size.v < 'infinity'
                   and attn_mask is null
                   and not is_causal
         then sql_diffusion.attention_columns(query, key, value, scale)
         else sql_diffusion.attention_numbers(query, key, value, name, attn_mask, is_causal, scale)
         end
  from (select (select max(abs(element)) from (select unnest(query)::float8 as element) elements) as q,
               (select max(abs(element)) from (select unnest(key)::float8 as element) elements) as k,
               (select max(abs(element)) from (select unnest(value)::float8 as element) elements) as v offset 0) size);
comment on function sql_diffusion.attention_core(real[], real[], real[], text, real[], boolean, double precision) is
  'Attention of one head, features first: query (E, queries), key (E, keys), value (Ev, keys) to (Ev, queries), with the mask, (queries, keys), and the scale of scaled_dot_product_attention. '
  'It does not check the shapes. The name opens the message where a value is not finite.';

create function sql_diffusion.check_mask(mask real[], name text) returns boolean
language sql immutable strict parallel safe
return (
  select case
         when count(element) < count(*) then
           sql_diffusion.fail(name || ' holds null elements')
         when max(element) >= 'infinity' then                             -- NaN sorts above infinity
           sql_diffusion.fail(name || ' holds NaN or Infinity, expected finite numbers and -Infinity')
         else
           true
         end
  from (select unnest(mask) as element) elements);
comment on function sql_diffusion.check_mask(real[], text) is
  'Refuses a mask of attention with an element that is NULL, NaN or Infinity. The name opens the message: "scaled_dot_product_attention: attn_mask".';

create function sql_diffusion.scaled_dot_product_attention(
  query real[],
  key real[],
  value real[],
  attn_mask real[] default null,
  is_causal boolean default false,
  scale double precision default null
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_tensor(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_tensor(value, 'scaled_dot_product_attention: value'),
         case when array_ndims(query) not between 2 and 4 then
           sql_diffusion.fail(format('scaled_dot_product_attention: query has shape %s, expected 2 to 4 dimensions (batch, heads, length, features), the first two optional',
                                     sql_diffusion.shape(query)))
         end,
         case when attn_mask is not null then sql_diffusion.check_tensor(attn_mask, 'scaled_dot_product_attention: attn_mask', 'queries, keys') end;
  select case when (sql_diffusion.shape(key))[: array_ndims(key) - 2] is distinct from (sql_diffusion.shape(query))[: array_ndims(query) - 2]
                   or array_length(key, array_ndims(key)) <> array_length(query, array_ndims(query)) or array_ndims(key) <> array_ndims(query) then
           sql_diffusion.fail(format('scaled_dot_product_attention: key has shape %s, expected that of query, %s, but for the length',
                                     sql_diffusion.shape(key), sql_diffusion.shape(query)))
         end,
         case when (sql_diffusion.shape(value))[: array_ndims(value) - 1] <> (sql_diffusion.shape(key))[: array_ndims(key) - 1] or array_ndims(value) <> array_ndims(key) then
           sql_diffusion.fail(format('scaled_dot_product_attention: value has shape %s, expected that of key, %s, but for the features',
                                     sql_diffusion.shape(value), sql_diffusion.shape(key)))
         end,
         case when array_length(attn_mask, 1) <> array_length(query, array_ndims(query) - 1) or array_length(attn_mask, 2) <> array_length(key, array_ndims(key) - 1) then
           sql_diffusion.fail(format('scaled_dot_product_attention: attn_mask has shape %s, expected %s, a row for each query and an element for each key',
                                     sql_diffusion.shape(attn_mask), array[array_length(query, array_ndims(query) - 1), array_length(key, array_ndims(key) - 1)]))
         end,
         case when is_causal is null then sql_diffusion.fail('scaled_dot_product_attention: is_causal is null, expected true or false') end,
         case when is_causal and attn_mask is not null then
           sql_diffusion.fail('scaled_dot_product_attention: attn_mask is given and is_causal is true, expected one of the two')
         end,
         case when not abs(scale) <= 1e30 then
           sql_diffusion.fail(format('scaled_dot_product_attention: scale is %s, expected from -1e30 to 1e30', scale))
         end,
         sql_diffusion.check_values(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_values(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_values(value, 'scaled_dot_product_attention: value'),
         sql_diffusion.check_mask(attn_mask, 'scaled_dot_product_attention: attn_mask');
  select sql_diffusion.with_shape(array_agg(output.element),
                                  (sql_diffusion.shape(query))[: array_ndims(query) - 1] || array_length(value, array_ndims(value)))
  from (select array_length(query, array_ndims(query) - 1) as queries,
               array_length(key, array_ndims(key) - 1) as keys,
               array_length(query, array_ndims(query)) as features,
               array_length(value, array_ndims(value)) as value_features offset 0) size,
       lateral (select (select array_agg(element) from (select unnest(query) as element) elements) as q,
                       (select array_agg(element) from (select unnest(key) as element) elements) as k,
                       (select array_agg(element) from (select unnest(value) as element) elements) as v offset 0) flat,
       lateral (
         select unnest(head.output) as element
         from (select sql_diffusion.transpose(sql_diffusion.attention_core(
                        sql_diffusion.transpose(sql_diffusion.fold(flat.q[h * queries * features + 1 : (h + 1) * queries * features], features)),
                        sql_diffusion.transpose(sql_diffusion.fold(flat.k[h * keys * features + 1 : (h + 1) * keys * features], features)),
                        sql_diffusion.transpose(sql_diffusion.fold(flat.v[h * keys * value_features + 1 : (h + 1) * keys * value_features], value_features)),
                        'scaled_dot_product_attention', attn_mask, is_causal, scale
                      )) as output
               from generate_series(0, cardinality(query) / (queries * features) - 1) h) head) output;
end;
comment on function sql_diffusion.scaled_dot_product_attention(real[], real[], real[], real[], boolean, double precision) is
  'softmax(scale query key^T + attn_mask) value, Vaswani et al. 2017, equation 1: query (..., L, E), key (..., S, E), value (..., S, Ev) to (..., L, Ev), with up to two leading dimensions, the '
  'same in all three. scale is 1 / sqrt(E) unless told otherwise; attn_mask, (L, S), is added to the scores, -Infinity where a query is not to see a key; with is_causal query i sees the keys up '
  'to i. A query that sees no key gets zeros. torch.nn.functional.scaled_dot_product_attention.';
