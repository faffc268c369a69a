create function sql_diffusion.transformer_2d_draft(key text, entry text, context text, label text, channels int, heads int, context_channels int, layers int, num_groups int, use_linear_projection boolean,
    only_cross_attention boolean, level int) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 20
begin atomic
  with shared as (
    select case when use_linear_projection then '{}'::jsonb else '{"kernel_size": 1}' end as projection,
           jsonb_build_object('heads', heads, 'inner_channels', channels, 'bias', false, 'projections', '["to_q", "to_k", "to_v", "to_out.0"]'::jsonb) as attention,
           jsonb_build_object('context_channels', context_channels) as crossed
  ),
  block as (
    select b.number,
           format('%s.transformer_blocks.%s', transformer_2d_draft.key, b.number) as key,
           case b.number when 0 then transformer_2d_draft.key || '.proj_in' else format('%s.transformer_blocks.%s', transformer_2d_draft.key, b.number - 1) end as hidden
    from generate_series(0, layers - 1) as b (number)
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, settings) as (
    select array[0], null, 'group_norm', transformer_2d_draft.key || '.norm', array[entry], channels, channels, jsonb_build_object('num_groups', num_groups, 'eps', 1e-6, 'silu', false)
    union all
    select array[1], transformer_2d_draft.key || '.proj_in', 'linear', transformer_2d_draft.key || '.proj_in', array[null], channels, channels, projection
    from shared
    union all
    select array[2, b.number, 0], null, 'layer_norm', b.key || '.norm1', array[b.hidden], channels, channels, '{"eps": 1e-5}'
    from block b
    union all
    select array[2, b.number, 1], b.key || '.attn1', 'attention', b.key || '.attn1', array[null, b.hidden] || case when only_cross_attention then array[context] else '{}' end, channels, channels,
           attention || case when only_cross_attention then crossed else '{}' end
    from shared, block b
    union all
    select array[2, b.number, 2], null, 'layer_norm', b.key || '.norm2', array[null], channels, channels, '{"eps": 1e-5}'
    from block b
    union all
    select array[2, b.number, 3], b.key || '.attn2', 'attention', b.key || '.attn2', array[null, b.key || '.attn1', context], channels, channels, attention || crossed
    from shared, block b
    union all
    select array[2, b.number, 4], null, 'layer_norm', b.key || '.norm3', array[null], channels, channels, '{"eps": 1e-5}'
    from block b
    union all
    select array[2, b.number, 5], null, 'linear', b.key || '.ff.net.0.proj', array[null], channels, 8 * channels, '{}'
    from block b
    union all
    select array[2, b.number, 6], null, 'geglu', null, array[null], 8 * channels, 4 * channels, '{}'
    from block b
    union all
    select array[2, b.number, 7], b.key, 'linear', b.key || '.ff.net.2', array[null, b.key || '.attn2'], 4 * channels, channels, '{}'
    from block b
    union all
    select array[3], transformer_2d_draft.label, 'linear', transformer_2d_draft.key || '.proj_out', array[null, entry], channels, channels, projection
    from shared
  )
  select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, transformer_2d_draft.level, s.settings)::sql_diffusion.plan_draft
  from step s;
end;
comment on function sql_diffusion.transformer_2d_draft(text, text, text, text, int, int, int, int, int, boolean, boolean, int) is
  'diffusers'' Transformer2DModel as steps: a group norm, a projection, blocks of attention among the pixels, attention to the context and a feed-forward network, each with a residual, a projection back and '
  'the input again. entry and context are the labels of what goes in, label what the result is called. With only_cross_attention the first attention is to the context, too. '
  'High-Resolution Image Synthesis with Latent Diffusion Models (arXiv 2112.10752), section 3.3.';
