-- softmax(Q K^T / sqrt(E)) V, Vaswani et al. 2017, equation 1. Both products are 1x1 convolutions: a convolution of a
-- kernel of one tap is a matrix product, weight (out, in) x input (in, columns).

create function sql_diffusion.transpose(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
return (
  select array_agg((select array_agg(flat.elements[i])
                    from generate_series(y, cardinality(input), array_length(input, 2)) i) order by y)
  from (select array_agg(element) as elements
        from (select unnest(input) as element) elements) flat,
       generate_series(1, array_length(input, 2)) y);
comment on function sql_diffusion.transpose(real[]) is 'The transpose of a matrix, (rows, columns) to (columns, rows). It checks nothing.';

create function sql_diffusion.attention_core(query real[], key real[], value real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.fold(array_agg(output.element), array_length(query, 2))
  from (select sql_diffusion.conv2d_core(sql_diffusion.with_shape((select array_agg(element) from (select unnest(query) as element) elements),
                                                                  array[array_length(query, 1), 1, array_length(query, 2)]),
                                         sql_diffusion.transpose(key), null, 1, 0, 'scaled_dot_product_attention: query') as scores offset 0) product,
       lateral (select array_agg(element) as flat
                from (select unnest(product.scores) as element) elements) score,                                     -- (keys, queries)
       lateral (select array_agg((select max(score.flat[i])
                                  from generate_series(x, cardinality(score.flat), array_length(query, 2)) i)) as maxima
                from generate_series(1, array_length(query, 2)) x) largest,                                          -- (queries)
       lateral (select sql_diffusion.with_shape(array_agg(exp(greatest((s - m) / sqrt(array_length(query, 1)), -80))::real), sql_diffusion.shape(product.scores)) as weights
                from (select unnest(line)::float8 as s, unnest(largest.maxima)::float8 as m
                      from (select score.flat[start : start + array_length(query, 2) - 1] as line
                            from generate_series(1, cardinality(score.flat), array_length(query, 2)) start) lines) shifted) exponential,
       -- a last row of ones makes the sums that the softmax divides by
       lateral (select array_agg(element) as flat
                from (select unnest(sql_diffusion.conv2d_core(exponential.weights, value || array_fill(1::real, array[1, array_length(value, 2)]),
                                                              null, 1, 0, 'scaled_dot_product_attention: value')) as element) elements) sums,
       lateral (select (unnest(line) / unnest(sums.flat[array_length(value, 1) * array_length(query, 2) + 1 :]))::real as element
                from (select sums.flat[start : start + array_length(query, 2) - 1] as line
                      from generate_series(1, array_length(value, 1) * array_length(query, 2), array_length(query, 2)) start) lines) output);
comment on function sql_diffusion.attention_core(real[], real[], real[]) is
  'Attention of one head, features first: query (E, queries), key (E, keys), value (Ev, keys) to (Ev, queries). It checks nothing.';

create function sql_diffusion.scaled_dot_product_attention(query real[], key real[], value real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_tensor(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_tensor(value, 'scaled_dot_product_attention: value'),
         case when array_ndims(query) not between 2 and 4 then
           sql_diffusion.fail(format('scaled_dot_product_attention: query has shape %s, expected 2 to 4 dimensions (batch, heads, length, features), the first two optional',
                                     sql_diffusion.shape(query)))
         end;
  select case when (sql_diffusion.shape(key))[: array_ndims(key) - 2] is distinct from (sql_diffusion.shape(query))[: array_ndims(query) - 2]
                   or array_length(key, array_ndims(key)) <> array_length(query, array_ndims(query)) or array_ndims(key) <> array_ndims(query) then
           sql_diffusion.fail(format('scaled_dot_product_attention: key has shape %s, expected that of query, %s, but for the length',
                                     sql_diffusion.shape(key), sql_diffusion.shape(query)))
         end,
         case when (sql_diffusion.shape(value))[: array_ndims(value) - 1] <> (sql_diffusion.shape(key))[: array_ndims(key) - 1] or array_ndims(value) <> array_ndims(key) then
           sql_diffusion.fail(format('scaled_dot_product_attention: value has shape %s, expected that of key, %s, but for the features',
                                     sql_diffusion.shape(value), sql_diffusion.shape(key)))
         end,
         sql_diffusion.check_values(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_values(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_values(value, 'scaled_dot_product_attention: value');
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
                        sql_diffusion.transpose(sql_diffusion.fold(flat.v[h * keys * value_features + 1 : (h + 1) * keys * value_features], value_features))
                      )) as output
               from generate_series(0, cardinality(query) / (queries * features) - 1) h) head) output;
end;
comment on function sql_diffusion.scaled_dot_product_attention(real[], real[], real[]) is
  'softmax(query key^T / sqrt(E)) value, Vaswani et al. 2017, equation 1: query (..., L, E), key (..., S, E), value (..., S, Ev) to (..., L, Ev), with up to two '
  'leading dimensions, the same in all three. torch.nn.functional.scaled_dot_product_attention, without a mask.';
