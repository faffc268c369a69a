create function sql_diffusion.attention_heads(query real[], key real[], value real[], features int, first int, last int) returns real[]
language sql immutable parallel safe cost 1000000
set jit = off
return (
  select sql_diffusion.array_cat_agg(sql_diffusion.attention_core(query[(h - 1) * features + 1 : h * features],
                                                                  key[(h - 1) * features + 1 : h * features],
                                                                  value[(h - 1) * features + 1 : h * features], 'attention_block') order by h)
  from generate_series(first, last) h);
comment on function sql_diffusion.attention_heads(real[], real[], real[], int, int, int) is
  'Attention of the heads first to last, each so many features: query, key and value (channels, pixels) to (channels of these heads, pixels).';

create function sql_diffusion.attention_heads_packed(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, features int, first int, last int
) returns real[]
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.attention_heads(q.planes, k.planes, v.planes, features, 1, last - first + 1)
  from sql_diffusion.conv2d_packed(query, (first - 1) * features + 1, last * features) q,
       sql_diffusion.conv2d_packed(attention_heads_packed.key, (first - 1) * features + 1, last * features) k,
       sql_diffusion.conv2d_packed(value, (first - 1) * features + 1, last * features) v);
comment on function sql_diffusion.attention_heads_packed(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int, int, int) is
  'attention_heads of what three convolutions are going to give.';

create function sql_diffusion.attention_heads_parallel(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, features int
) returns table (share int, planes real[])
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share,
         sql_diffusion.attention_heads_packed(query, attention_heads_parallel.key, value, features, s.first, s.last) as planes
  from sql_diffusion.shares_of((query).out_channels / features) s;
end;
comment on function sql_diffusion.attention_heads_parallel(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int) is
  'attention_heads_packed of all heads, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.attention_block_of_maps(
  input sql_diffusion.feature_maps, model text, key text, heads int, num_groups int, eps double precision, output_scale_factor double precision, component text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- Pixels are tokens: a linear layer of tokens is a 1x1 convolution of (channels, height, width), and a head is a run of channels.
  select output.planes, output.height, output.width, output.mean, output.variance, output.low, output.high
  from (select case when p.weight is not null and (heads is null or heads < 1 or array_length(p.weight, 1) % heads <> 0) then
                 sql_diffusion.fail(format('attention_block: heads is %s, expected a divisor of the %s outputs of %s.to_q', coalesce(heads::text, 'null'),
                                           array_length(p.weight, 1), attention_block_of_maps.key))
               end as refused
        from (values (1)) one
             left join sql_diffusion.parameters p
             on p.model = attention_block_of_maps.model and p.component = attention_block_of_maps.component and p.key = attention_block_of_maps.key || '.to_q'
        offset 0) heads_check
       left join lateral (select norm
                          from sql_diffusion.group_norm_of_module(input, model, component, key || '.group_norm', num_groups, eps, false, 'attention_block') norm
                          where num_groups is not null and heads_check.refused is null
                          offset 0) hidden
       on true
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_q', 1, 0, 'attention_block', norm => hidden.norm) q
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_k', 1, 0, 'attention_block', norm => hidden.norm) k
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_v', 1, 0, 'attention_block', norm => hidden.norm) v
       cross join lateral (select case
                                  when q.layer is null or k.layer is null or v.layer is null
                                  then (select sql_diffusion.attention_heads(query.planes, keys.planes, value.planes, array_length(query.planes, 1) / heads, 1, heads)
                                        from sql_diffusion.conv2d_module(input, model, component, key || '.to_q', 1, 0, 'attention_block', norm => hidden.norm) query,
                                             sql_diffusion.conv2d_module(input, model, component, key || '.to_k', 1, 0, 'attention_block', norm => hidden.norm) keys,
                                             sql_diffusion.conv2d_module(input, model, component, key || '.to_v', 1, 0, 'attention_block', norm => hidden.norm) value)
                                  when sql_diffusion.worth_workers(heads * ((input).height * (input).width)::float8 ^ 2 * 1400 + 3 * sql_diffusion.conv2d_nanoseconds(q))
                                  then (select sql_diffusion.array_cat_agg(h.planes order by h.share)
                                        from sql_diffusion.attention_heads_parallel(q, k, v, q.out_channels / heads) h)
                                  else sql_diffusion.attention_heads_packed(q, k, v, q.out_channels / heads, 1, heads)
                                  end as planes offset 0) attended
       cross join lateral (select sql_diffusion.to_maps(attended.planes, (input).height, (input).width) as maps offset 0) described
       cross join sql_diffusion.conv2d_module(described.maps, model, component, key || '.to_out.0', 1, 0, 'attention_block', residual => (input).planes,
                                              output_scale => 1 / output_scale_factor) output
  offset 0;
end;
comment on function sql_diffusion.attention_block_of_maps(sql_diffusion.feature_maps, text, text, int, int, double precision, double precision, text) is
  'attention_block of feature maps, without the checks of its settings but for heads. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.attention_block(
  input real[],
  model text,
  key text,
  heads int,
  num_groups int default null,
  eps double precision default 1e-5,
  output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
set join_collapse_limit = 1
begin atomic
  select sql_diffusion.check_tensor(input, 'attention_block: input', 'channels, height, width'),
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('attention_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('attention_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.attention_block_of_maps(given.maps, model, key, heads, num_groups, eps, output_scale_factor, component) output;
end;
comment on function sql_diffusion.attention_block(real[], text, text, int, int, double precision, double precision, text) is
  'Self-attention among the pixels with a residual, diffusers'' Attention: group_norm (none where num_groups is NULL), to_q, to_k and to_v, scaled_dot_product_attention '
  'in so many heads, to_out.0, plus the input, divided by output_scale_factor. input and output (channels, height, width); the parameters are those below the key.';
