-- What autoencoders of residual blocks have in common, as diffusers lays them out (High-Resolution Image Synthesis with Latent Diffusion Models, arXiv 2112.10752,
-- section 3.1): an encoder, whose blocks halve the image, and a decoder, whose blocks double it. They have no step in common: the plan of an autoencoder is two graphs, the encoder's, which
-- takes the input image, and the decoder's, which takes the input latent (plan_part).

create function sql_diffusion.residual_draft(key text, channels int, out_channels int, attends boolean, number int, level int, num_groups int, act_fn text) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 2
begin atomic
  select row(array[0], null, 'resnet_block', format('%s.resnets.%s', residual_draft.key, number), array[null], channels, residual_draft.out_channels, residual_draft.level,
             jsonb_build_object('num_groups', num_groups, 'eps', 1e-6, 'time_scale_shift', 'default', 'output_scale_factor', 1) || sql_diffusion.activation_settings(act_fn))::sql_diffusion.plan_draft
  union all
  select row(array[1], null, 'attention_block', format('%s.attentions.%s', residual_draft.key, number), array[null], residual_draft.out_channels, residual_draft.out_channels, residual_draft.level,
             jsonb_build_object('heads', 1, 'inner_channels', residual_draft.out_channels, 'num_groups', num_groups, 'eps', 1e-6, 'output_scale_factor', 1))::sql_diffusion.plan_draft
  where attends;
end;
comment on function sql_diffusion.residual_draft(text, int, int, boolean, int, int, int, text) is
  'A residual block that knows no time, and self-attention of one head after it where it attends: the numbers KEY.resnets and KEY.attentions have.';

create function sql_diffusion.encoder_draft(
  in_channels int, out_channels int, block_out_channels int[], block_types text[], layers_per_block int, num_groups int, mid_block_attends boolean, act_fn text
) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 30
begin atomic
  with size as (
    select cardinality(block_out_channels) as levels,
           block_out_channels[cardinality(block_out_channels)] as last_channels
  ),
  block as (
    select l.level, format('encoder.down_blocks.%s', l.level) as key, block_types[l.level + 1] like 'Attn%' as attends,
           block_out_channels[greatest(l.level, 1)] as in_channels, block_out_channels[l.level + 1] as out_channels
    from size, generate_series(0, levels - 1) as l (level)
  ),
  step (place, operation, key, in_channels, out_channels, level, settings) as (
    select array[0], 'conv2d', 'encoder.conv_in', encoder_draft.in_channels, block_out_channels[1], 0, '{"kernel_size": 3, "stride": 1, "padding": 1}'::jsonb
    union all
    select array[1, b.level, n] || d.place, d.operation, d.key, d.in_channels, d.out_channels, d.level, d.settings
    from block b, generate_series(0, layers_per_block - 1) n,
         sql_diffusion.residual_draft(b.key, case n when 0 then b.in_channels else b.out_channels end, b.out_channels, b.attends, n, b.level, num_groups, act_fn) d
    union all
    select array[1, b.level, layers_per_block], 'downsample', b.key || '.downsamplers.0', b.out_channels, b.out_channels, b.level + 1, '{"padding": 0}'
    from size, block b
    where b.level < levels - 1
    union all
    select array[2, n] || d.place, d.operation, d.key, d.in_channels, d.out_channels, d.level, d.settings
    from size, generate_series(0, 1) n, sql_diffusion.residual_draft('encoder.mid_block', last_channels, last_channels, mid_block_attends and n = 0, n, levels - 1, num_groups, act_fn) d
    union all
    select array[3], 'group_norm', 'encoder.conv_norm_out', last_channels, last_channels, levels - 1, jsonb_build_object('num_groups', num_groups, 'eps', 1e-6, 'silu', true)
    from size
    union all
    select array[4], 'conv2d', 'encoder.conv_out', last_channels, encoder_draft.out_channels, levels - 1, '{"kernel_size": 3, "stride": 1, "padding": 1}'
    from size
  )
  select row(s.place, null, s.operation, s.key, array[null], s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft
  from step s;
end;
comment on function sql_diffusion.encoder_draft(int, int, int[], text[], int, int, boolean, text) is
  'diffusers'' Encoder as steps, the first of which takes the step before. Blocks whose type begins with Attn attend; the one in the middle where mid_block_attends.';

create function sql_diffusion.decoder_draft(
  in_channels int, out_channels int, block_out_channels int[], block_types text[], layers_per_block int, num_groups int, mid_block_attends boolean, act_fn text
) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 40
begin atomic
  with size as (
    select cardinality(block_out_channels) as levels,
           block_out_channels[cardinality(block_out_channels)] as last_channels
  ),
  block as (
    select b.number, levels - 1 - b.number as level, format('decoder.up_blocks.%s', b.number) as key, block_types[b.number + 1] like 'Attn%' as attends,
           block_out_channels[least(levels - b.number + 1, levels)] as in_channels, block_out_channels[levels - b.number] as out_channels
    from size, generate_series(0, levels - 1) as b (number)
  ),
  step (place, operation, key, in_channels, out_channels, level, settings) as (
    select array[0], 'conv2d', 'decoder.conv_in', decoder_draft.in_channels, last_channels, levels - 1, '{"kernel_size": 3, "stride": 1, "padding": 1}'::jsonb
    from size
    union all
    select array[1, n] || d.place, d.operation, d.key, d.in_channels, d.out_channels, d.level, d.settings
    from size, generate_series(0, 1) n, sql_diffusion.residual_draft('decoder.mid_block', last_channels, last_channels, mid_block_attends and n = 0, n, levels - 1, num_groups, act_fn) d
    union all
    select array[2, b.number, n] || d.place, d.operation, d.key, d.in_channels, d.out_channels, d.level, d.settings
    from block b, generate_series(0, layers_per_block) n,
         sql_diffusion.residual_draft(b.key, case n when 0 then b.in_channels else b.out_channels end, b.out_channels, b.attends, n, b.level, num_groups, act_fn) d
    union all
    select array[2, b.number, layers_per_block + 1], 'upsample', b.key || '.upsamplers.0', b.out_channels, b.out_channels, b.level - 1, '{}'
    from block b
    where b.level > 0
    union all
    select array[3], 'group_norm', 'decoder.conv_norm_out', block_out_channels[1], block_out_channels[1], 0, jsonb_build_object('num_groups', num_groups, 'eps', 1e-6, 'silu', true)
    union all
    select array[4], 'conv2d', 'decoder.conv_out', block_out_channels[1], decoder_draft.out_channels, 0, '{"kernel_size": 3, "stride": 1, "padding": 1}'
  )
  select row(s.place, null, s.operation, s.key, array[null], s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft
  from step s;
end;
comment on function sql_diffusion.decoder_draft(int, int, int[], text[], int, int, boolean, text) is
  'diffusers'' Decoder as steps, the first of which takes the step before. Blocks whose type begins with Attn attend; the one in the middle where mid_block_attends. '
  'block_out_channels are those of the encoder, the block types those of the decoder, the smallest image''s first.';

create function sql_diffusion.check_autoencoder_sizes(name text, config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with size as (
    select jsonb_array_length(config -> 'block_out_channels') as levels,
           (config ->> 'norm_num_groups')::int as num_groups
  ),
  problem (ordinal, message) as (
    select 1, format('%s: %s has %s elements, expected %s, one for each of block_out_channels', name, t.setting, jsonb_array_length(config -> t.setting), levels)
    from size, (values ('down_block_types'), ('up_block_types')) as t (setting)
    where jsonb_array_length(config -> t.setting) <> levels
    union all
    select 2, format('%s: block_out_channels has %s, expected a multiple of norm_num_groups, %s', name, b.channels, num_groups)
    from size, jsonb_array_elements_text(config -> 'block_out_channels') as b (channels)
    where b.channels::int % num_groups <> 0
  ),
  first_problem as (
    select p.message
    from problem p
    order by p.ordinal, p.message
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, errcode => '0A000') from first_problem p), true);
end;
comment on function sql_diffusion.check_autoencoder_sizes(text, jsonb) is
  'True for the complete configuration of an autoencoder of residual blocks whose sizes fit each other, otherwise an error (0A000) that names what does not. The name opens the message.';
