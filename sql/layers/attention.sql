create function sql_diffusion.attention_heads(
  query real[], key real[], value real[], features int, value_features int, first int, last int, is_causal boolean, name text
) returns real[]
language sql immutable parallel safe cost 1000000
set jit = off
return (
  select sql_diffusion.array_cat_agg(sql_diffusion.attention_core(query[(h - 1) * features + 1 : h * features],
                                                                  key[(h - 1) * features + 1 : h * features],
                                                                  value[(h - 1) * value_features + 1 : h * value_features], name, null, is_causal) order by h)
  from generate_series(first, last) h);
comment on function sql_diffusion.attention_heads(real[], real[], real[], int, int, int, int, boolean, text) is
  'Attention of the heads first to last, each so many features of query and key and so many of value: query (channels, queries), key and value (channels, keys) to (channels of these heads, queries). '
  'The name opens error messages.';

create function sql_diffusion.attention_heads_of_planes(query real[], key real[], value real[], heads int, is_causal boolean, name text) returns table (share int, planes real[])
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
set parallel_leader_participation = off
begin atomic
  select s.share,
         sql_diffusion.attention_heads(query, attention_heads_of_planes.key, value, array_length(query, 1) / heads, array_length(value, 1) / heads, s.first, s.last, is_causal, name) as planes
  from sql_diffusion.shares_of(heads) s;
end;
comment on function sql_diffusion.attention_heads_of_planes(real[], real[], real[], int, boolean, text) is
  'attention_heads of all heads, by two workers or more where the server allows it (sql/parallel.sql).';

create function sql_diffusion.attention_heads_packed(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, features int, value_features int, first int, last int, is_causal boolean, name text
) returns real[]
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.attention_heads(q.planes, k.planes, v.planes, features, value_features, 1, last - first + 1, is_causal, name)
  from sql_diffusion.conv2d_packed(query, (first - 1) * features + 1, last * features) q,
       sql_diffusion.conv2d_packed(attention_heads_packed.key, (first - 1) * features + 1, last * features) k,
       sql_diffusion.conv2d_packed(value, (first - 1) * value_features + 1, last * value_features) v);
comment on function sql_diffusion.attention_heads_packed(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int, int, int, int, boolean, text) is
  'attention_heads of what three convolutions are going to give.';

create function sql_diffusion.attention_heads_parallel(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, heads int, is_causal boolean, name text
) returns table (share int, planes real[])
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share,
         sql_diffusion.attention_heads_packed(query, attention_heads_parallel.key, value, (query).out_channels / heads, (value).out_channels / heads, s.first, s.last, is_causal, name) as planes
  from sql_diffusion.shares_of(heads) s;
end;
comment on function sql_diffusion.attention_heads_parallel(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int, boolean, text) is
  'attention_heads_packed of all heads, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.attention_of_maps(
  input sql_diffusion.feature_maps, context sql_diffusion.feature_maps, model text, component text, key text, heads int, name text, residual real[] default null,
  is_causal boolean default false, output_scale_factor double precision default 1, num_groups int default null, eps double precision default 1e-5,
  projections text[] default '{to_q,to_k,to_v,to_out.0}'
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- Pixels are tokens: a linear layer of tokens is a 1x1 convolution of (channels, height, width), and a head is a run of channels.
  select output.planes, output.height, output.width, output.mean, output.variance, output.low, output.high
  from (select case
               when p.key is not null and (heads is null or heads < 1 or p.weight_shape[1] % heads <> 0)
               then sql_diffusion.fail(format('%s: heads is %s, expected a divisor of the %s outputs of %s.%s', name, coalesce(heads::text, 'null'),
                                              p.weight_shape[1], attention_of_maps.key, projections[1]))
               end as refused,
               case when context is null then input else context end as source,
               heads * ((input).height * (input).width)::float8 * (coalesce((context).height, (input).height) * coalesce((context).width, (input).width)) * 1400 as nanoseconds
        from (values (1)) one
             left join sql_diffusion.parameters p
             on p.model = attention_of_maps.model and p.component = attention_of_maps.component and p.key = attention_of_maps.key || '.' || projections[1]
        offset 0) given
       left join lateral (select norm
                          from sql_diffusion.group_norm_of_module(input, model, component, key || '.group_norm', num_groups, eps, false, name) norm
                          where num_groups is not null and given.refused is null
                          offset 0) hidden
       on true
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.' || projections[1], 1, 0, name, norm => hidden.norm) q
       cross join sql_diffusion.conv2d_prepared(given.source, model, component, key || '.' || projections[2], 1, 0, name, norm => case when context is null then hidden.norm end) k
       cross join sql_diffusion.conv2d_prepared(given.source, model, component, key || '.' || projections[3], 1, 0, name, norm => case when context is null then hidden.norm end) v
       cross join lateral (select case
                                  when q.layer is null or k.layer is null or v.layer is null
                                  then (select case
                                               when sql_diffusion.worth_two_workers(given.nanoseconds)
                                               then (select sql_diffusion.array_cat_agg(h.planes order by h.share)
                                                     from sql_diffusion.attention_heads_of_planes(query.planes, keys.planes, value.planes, heads, is_causal, name) h)
                                               else sql_diffusion.attention_heads(query.planes, keys.planes, value.planes, array_length(query.planes, 1) / heads, array_length(value.planes, 1) / heads,
                                                                                  1, heads, is_causal, name)
                                               end
                                        from sql_diffusion.conv2d_module(input, model, component, key || '.' || projections[1], 1, 0, name, norm => hidden.norm) query,
                                             sql_diffusion.conv2d_module(given.source, model, component, key || '.' || projections[2], 1, 0, name,
                                                                         norm => case when context is null then hidden.norm end) keys,
                                             sql_diffusion.conv2d_module(given.source, model, component, key || '.' || projections[3], 1, 0, name,
                                                                         norm => case when context is null then hidden.norm end) value)
                                  when sql_diffusion.worth_workers(given.nanoseconds + sql_diffusion.conv2d_nanoseconds(q) + sql_diffusion.conv2d_nanoseconds(k) + sql_diffusion.conv2d_nanoseconds(v))
                                  then (select sql_diffusion.array_cat_agg(h.planes order by h.share)
                                        from sql_diffusion.attention_heads_parallel(q, k, v, heads, is_causal, name) h)
                                  else sql_diffusion.attention_heads_packed(q, k, v, q.out_channels / heads, v.out_channels / heads, 1, heads, is_causal, name)
                                  end as planes offset 0) attended
       cross join lateral (select sql_diffusion.to_maps(attended.planes, (input).height, (input).width) as maps offset 0) described
       cross join sql_diffusion.conv2d_module(described.maps, model, component, key || '.' || projections[4], 1, 0, name, residual => attention_of_maps.residual,
                                              output_scale => 1 / output_scale_factor) output
  offset 0;
end;
comment on function sql_diffusion.attention_of_maps(sql_diffusion.feature_maps, sql_diffusion.feature_maps, text, text, text, int, text, real[], boolean, double precision, int, double precision, text[]) is
  'Attention of the pixels of the input to those of the context, which is the input itself where NULL: diffusers'' Attention. First group_norm of KEY.group_norm, where num_groups is not NULL; the query comes of the '
  'input, key and value of the context, through the first three of the projections, modules below the key; then scaled_dot_product_attention in so many heads, and the fourth. The residual, '
  '(channels, height * width), is added, and the sum divided by output_scale_factor. With is_causal a pixel sees those up to its own place. input and output have one height and width, the context its own. '
  'The name opens error messages. A set of one row, so that the planner puts the query in its place.';
