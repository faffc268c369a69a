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

create function sql_diffusion.attention_heads_parallel(query real[], key real[], value real[], features int)
returns table (share int, planes real[])
language sql immutable parallel safe rows 16
set jit = off
begin atomic
  select s.share,
         sql_diffusion.attention_heads(query, attention_heads_parallel.key, value, features,
                                       sql_diffusion.share_first(s.share, array_length(query, 1) / features),
                                       sql_diffusion.share_last(s.share, array_length(query, 1) / features)) as planes
  from sql_diffusion.shares s;
end;
comment on function sql_diffusion.attention_heads_parallel(real[], real[], real[], int) is
  'attention_heads of all heads, by several processes where the server allows it (sql/parallel.sql).';

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
begin atomic
  select sql_diffusion.check_tensor(input, 'attention_block: input', 'channels, height, width'),
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('attention_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('attention_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select case when heads is null or heads < 1 or array_length(p.weight, 1) % heads <> 0 then
           sql_diffusion.fail(format('attention_block: heads is %s, expected a divisor of the %s outputs of %s.to_q', coalesce(heads::text, 'null'),
                                     array_length(p.weight, 1), attention_block.key))
         end
  from sql_diffusion.parameters p
  where p.model = attention_block.model and p.component = attention_block.component and p.key = attention_block.key || '.to_q';
  -- Pixels are tokens: a linear layer of tokens is a 1x1 convolution of (channels, height, width), and a head is a run of channels.
  select sql_diffusion.with_shape((select array_agg(((x + y) / output_scale_factor + 1e-29 - 1e-29)::real)
                                   from (select unnest(input)::float8 as x,
                                                unnest(sql_diffusion.conv2d_module_planes(
                                                         attended.planes, size.height, size.width,
                                                         model, component, key || '.to_out.0', 1, 0, 'attention_block'))::float8 as y) pair),
                                  sql_diffusion.shape(input))
  from (select array_length(input, 2) as height, array_length(input, 3) as width offset 0) size,
       lateral (select case when num_groups is not null
                       then sql_diffusion.group_norm_module_statistics(input, model, component, key || '.group_norm', num_groups, eps, false, 'attention_block')
                       end as norm offset 0) hidden,
       lateral (select sql_diffusion.conv2d_module_planes(input, size.height, size.width, model, component, key || '.to_q', 1, 0, 'attention_block', norm => hidden.norm) as q,
                       sql_diffusion.conv2d_module_planes(input, size.height, size.width, model, component, key || '.to_k', 1, 0, 'attention_block', norm => hidden.norm) as k,
                       sql_diffusion.conv2d_module_planes(input, size.height, size.width, model, component, key || '.to_v', 1, 0, 'attention_block', norm => hidden.norm) as v offset 0) token,
       lateral (select case when heads * (size.height * size.width)::bigint ^ 2 > 20000
                       then (select sql_diffusion.array_cat_agg(h.planes order by h.share)
                             from sql_diffusion.attention_heads_parallel(token.q, token.k, token.v, array_length(token.q, 1) / heads) h)
                       else sql_diffusion.attention_heads(token.q, token.k, token.v, array_length(token.q, 1) / heads, 1, heads)
                       end as planes offset 0) attended;
end;
comment on function sql_diffusion.attention_block(real[], text, text, int, int, double precision, double precision, text) is
  'Self-attention among the pixels with a residual, diffusers'' Attention: group_norm (none where num_groups is NULL), to_q, to_k and to_v, scaled_dot_product_attention '
  'in so many heads, to_out.0, plus the input, divided by output_scale_factor. input and output (channels, height, width); the parameters are those below the key.';
