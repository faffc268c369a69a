-- UNet2DConditionModel: the U-Net of Stable Diffusion, that of UNet2DModel with attention to a text: High-Resolution Image Synthesis with Latent
-- Diffusion Models (Rombach et al., arXiv 2112.10752), section 3.3; SDXL (arXiv 2307.01952), section 2, adds the sizes and a pooled text.

create function sql_diffusion.unet_2d_condition_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "_class_name": "UNet2DConditionModel", "sample_size": null, "in_channels": 4, "out_channels": 4, "center_input_sample": false, "flip_sin_to_cos": true, "freq_shift": 0,
    "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"], "mid_block_type": "UNetMidBlock2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"], "only_cross_attention": false, "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2, "downsample_padding": 1, "mid_block_scale_factor": 1, "dropout": 0, "act_fn": "silu", "norm_num_groups": 32, "norm_eps": 1e-5, "cross_attention_dim": 1280,
    "transformer_layers_per_block": 1, "reverse_transformer_layers_per_block": null, "encoder_hid_dim": null, "encoder_hid_dim_type": null, "attention_head_dim": 8,
    "num_attention_heads": null, "dual_cross_attention": false, "use_linear_projection": false, "class_embed_type": null, "addition_embed_type": null, "addition_time_embed_dim": null,
    "num_class_embeds": null, "upcast_attention": false, "resnet_time_scale_shift": "default", "resnet_skip_time_act": false, "resnet_out_scale_factor": 1, "time_embedding_type": "positional",
    "time_embedding_dim": null, "time_embedding_act_fn": null, "timestep_post_act": null, "time_cond_proj_dim": null, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "projection_class_embeddings_input_dim": null, "attention_type": "default", "class_embeddings_concat": false, "mid_block_only_cross_attention": null, "cross_attention_norm": null,
    "addition_embed_type_num_heads": 64
  }'::jsonb || config else config end;
comment on function sql_diffusion.unet_2d_condition_config(jsonb) is
  'A UNet2DConditionModel configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.unet_2d_condition_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select sql_diffusion.image_shape(c -> 'in_channels', c -> 'sample_size') from sql_diffusion.unet_2d_condition_config(config) as c);
comment on function sql_diffusion.unet_2d_condition_sample_shape(jsonb) is
  'The shape (channels, height, width) of the samples of a UNet2DConditionModel of this configuration.';

create function sql_diffusion.check_unet_2d_condition(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('unet', sql_diffusion.unet_2d_condition_config(config), array[
           ['sample_size', 'a positive integer or a pair of them (height, width)',
             '($.type() == "number" && $ >= 1 && $.floor() == $) || ($.type() == "array" && $.size() == 2 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['in_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['out_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['center_input_sample', 'a boolean', '$ == true || $ == false'],
           ['flip_sin_to_cos', 'a boolean', '$ == true || $ == false'],
           ['freq_shift', 'a number', '$.type() == "number"'],
           ['block_out_channels', 'a list of positive integers',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @))'],
           ['down_block_types', 'a list of DownBlock2D and CrossAttnDownBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "DownBlock2D" && @ != "CrossAttnDownBlock2D"))'],
           ['mid_block_type', '"UNetMidBlock2DCrossAttn" or null', '$ == "UNetMidBlock2DCrossAttn" || $ == null'],
           ['up_block_types', 'a list of UpBlock2D and CrossAttnUpBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "UpBlock2D" && @ != "CrossAttnUpBlock2D"))'],
           ['only_cross_attention', 'a boolean or a list of them', '$ == true || $ == false || ($.type() == "array" && !exists($[*] ? (@.type() != "boolean")))'],
           ['layers_per_block', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['downsample_padding', '0 or 1', '$ == 0 || $ == 1'],
           ['mid_block_scale_factor', 'a number other than 0', '$.type() == "number" && $ != 0'],
           ['dropout', 'a number', '$.type() == "number"']
         ] || sql_diffusion.act_fn_rule() || array[
           ['norm_num_groups', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['norm_eps', 'a positive number', '$ > 0'],
           ['cross_attention_dim', 'a positive integer or a list of equal ones', '($ >= 1 && $.floor() == $) || ($.type() == "array" && !exists($[*] ? (@ != $[0])))'],
           ['transformer_layers_per_block', 'a positive integer or a list of them',
             '($ >= 1 && $.floor() == $) || ($.type() == "array" && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['reverse_transformer_layers_per_block', 'null', '$ == null'],
           ['encoder_hid_dim', 'null', '$ == null'],
           ['encoder_hid_dim_type', 'null', '$ == null'],
           ['attention_head_dim', 'a positive integer or a list of them', '($ >= 1 && $.floor() == $) || ($.type() == "array" && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['num_attention_heads', 'null', '$ == null'],
           ['dual_cross_attention', 'false', '$ == false'],
           ['use_linear_projection', 'a boolean', '$ == true || $ == false'],
           ['class_embed_type', 'null, "timestep", "identity" or "projection"', '$ == null || $ == "timestep" || $ == "identity" || $ == "projection"'],
           ['addition_embed_type', 'null or "text_time"', '$ == null || $ == "text_time"'],
           ['addition_time_embed_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['num_class_embeds', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['upcast_attention', 'a boolean', '$ == true || $ == false || $ == null'],
           ['resnet_time_scale_shift', '"default" or "scale_shift"', '$ == "default" || $ == "scale_shift"'],
           ['resnet_skip_time_act', 'false', '$ == false'],
           ['resnet_out_scale_factor', '1', '$ == 1'],
           ['time_embedding_type', '"positional"', '$ == "positional"'],
           ['time_embedding_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['time_embedding_act_fn', 'null', '$ == null'],
           ['timestep_post_act', 'null', '$ == null'],
           ['time_cond_proj_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['conv_in_kernel', '3', '$ == 3'],
           ['conv_out_kernel', '3', '$ == 3'],
           ['projection_class_embeddings_input_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['attention_type', '"default"', '$ == "default"'],
           ['class_embeddings_concat', 'false', '$ == false'],
           ['mid_block_only_cross_attention', 'null', '$ == null || $ == false'],
           ['cross_attention_norm', 'null', '$ == null']
         ]),
         sql_diffusion.check_known_settings('unet', config, sql_diffusion.unet_2d_condition_config('{}'));
  with size as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           sql_diffusion.unet_2d_condition_sample_shape(config) as shape
    from sql_diffusion.unet_2d_condition_config(config) as c
  ),
  level as (
    select b.number::int as number, b.channels::int as channels,
           sql_diffusion.setting_of_level(c -> 'attention_head_dim', b.number::int)::int as heads,
           c -> 'down_block_types' ->> (b.number::int - 1) like '%Attn%' or c -> 'up_block_types' ->> (levels - b.number::int) like '%Attn%' or b.number = levels as attends
    from size, jsonb_array_elements_text(c -> 'block_out_channels') with ordinality as b (channels, number)
  ),
  problem (ordinal, message) as (
    select 1, format('unet: %s has %s elements, expected %s, one for each of block_out_channels', t.setting, jsonb_array_length(c -> t.setting), levels)
    from size, (values ('down_block_types'), ('up_block_types'), ('only_cross_attention'), ('cross_attention_dim'), ('transformer_layers_per_block'), ('attention_head_dim')) as t (setting)
    where case when jsonb_typeof(c -> t.setting) = 'array' then jsonb_array_length(c -> t.setting) <> levels end
    union all
    select 2, format('unet: block_out_channels has %s, expected a multiple of norm_num_groups, %s', level.channels, c ->> 'norm_num_groups')
    from size, level
    where level.channels % (c ->> 'norm_num_groups')::int <> 0
    union all
    select 3, format('unet: block_out_channels has %s, expected a multiple of attention_head_dim, which is the number of heads, %s', level.channels, level.heads)
    from level
    where level.attends
      and level.channels % level.heads <> 0
    union all
    select 4, format('unet: sample_size is %s, expected multiples of %s, since the network halves it %s times', c -> 'sample_size', 1 << (levels - 1), levels - 1)
    from size
    where c ->> 'downsample_padding' = '0'
      and (shape[2] % (1 << (levels - 1)) <> 0 or shape[3] % (1 << (levels - 1)) <> 0)
    union all
    select 5, format('unet: %s is null, expected a positive integer, as %s takes', t.setting, t.reason)
    from size, (values ('addition_time_embed_dim', 'addition_embed_type', 'text_time'), ('projection_class_embeddings_input_dim', 'addition_embed_type', 'text_time'),
                       ('projection_class_embeddings_input_dim', 'class_embed_type', 'projection')) as t (setting, reason, value)
    where c ->> t.reason = t.value
      and c ->> t.setting is null
  ),
  first_problem as (
    select p.message
    from problem p
    order by p.ordinal, p.message
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, errcode => '0A000') from first_problem p), true);
end;
comment on function sql_diffusion.check_unet_2d_condition(jsonb) is
  'True for a UNet2DConditionModel configuration that can be run, otherwise an error (0A000) that names the setting that cannot.';

create function sql_diffusion.unet_2d_condition_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 200
begin atomic
  with size as (
    select c, b.block_out_channels,
           (c ->> 'in_channels')::int as in_channels,
           b.block_out_channels[1] as first_channels,
           coalesce((c ->> 'time_embedding_dim')::int, 4 * b.block_out_channels[1]) as temb_channels,
           sql_diffusion.setting_of_level(c -> 'cross_attention_dim', 1)::int as context_channels,
           case when c ->> 'class_embed_type' is not null then c ->> 'class_embed_type' when c ->> 'num_class_embeds' is not null then 'label' end as class_embedding,
           (c ->> 'projection_class_embeddings_input_dim')::int as projected_channels,
           c ->> 'addition_embed_type' is not null as adds_text_and_sizes,
           (c ->> 'time_cond_proj_dim')::int as condition_channels,
           jsonb_build_object('flip_sin_to_cos', c -> 'flip_sin_to_cos', 'downscale_freq_shift', c -> 'freq_shift') as wave,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps') as norm
    from sql_diffusion.unet_2d_condition_config(config) as c,
         lateral (select array(select b.channels::int from jsonb_array_elements_text(c -> 'block_out_channels') with ordinality b (channels, ordinality) order by b.ordinality) as block_out_channels) b
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, level, settings) as (
    select array[0, 0], 'sample', 'input', 'sample', null::text[], in_channels, in_channels, 0, '{}'::jsonb
    from size
    union all
    select array[0, 1], 'timestep', 'input', 'timestep', null, 1, 1, null, '{}'
    from size
    union all
    select array[0, 2], 'encoder_hidden_states', 'input', 'encoder_hidden_states', null, context_channels, context_channels, null, '{"tokens": true}'
    from size
    union all
    select array[0, 3], 'class_labels', 'input', 'class_labels', null, e.channels, e.channels, null,
           case class_embedding when 'label' then jsonb_build_object('num_embeddings', c -> 'num_class_embeds') else '{}' end
    from size, lateral (select case class_embedding when 'identity' then temb_channels when 'projection' then projected_channels else 1 end as channels) e
    where class_embedding is not null
    union all
    select array[0, 4], 'timestep_cond', 'input', 'timestep_cond', null, condition_channels, condition_channels, null, '{}'
    from size
    where condition_channels is not null
    union all
    select array[0, 5], 'text_embeds', 'input', 'text_embeds', null, text.channels, text.channels, null, '{}'
    from size, lateral (select projected_channels - 6 * (c ->> 'addition_time_embed_dim')::int as channels) text
    where adds_text_and_sizes
    union all
    select array[0, 6], 'time_ids', 'input', 'time_ids', null, 6, 6, null, '{}'
    from size
    where adds_text_and_sizes

    union all
    select array[1, 0], 'wave', 'timestep_embedding', null, array['timestep'], 1, first_channels, null, wave
    from size
    union all
    select array[1, 1], 'condition', 'linear', 'time_embedding.cond_proj', array['timestep_cond', 'wave'], condition_channels, first_channels, null, '{"bias": false}'
    from size
    where condition_channels is not null
    union all
    select array[1, 2] || e.place, e.label, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size, sql_diffusion.embedding_draft('time_embedding', null, first_channels, temb_channels, case when class_embedding is null and not adds_text_and_sizes then 'temb' else 'time' end,
                                             c ->> 'act_fn') e

    union all
    select array[1, 3], 'class', 'embedding', 'class_embedding', array['class_labels'], 1, temb_channels, null, jsonb_build_object('num_embeddings', c -> 'num_class_embeds')
    from size
    where class_embedding = 'label'
    union all
    select array[1, 4], 'class wave', 'timestep_embedding', null, array['class_labels'], 1, first_channels, null, wave
    from size
    where class_embedding = 'timestep'
    union all
    select array[1, 5] || e.place, e.label, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size,
         sql_diffusion.embedding_draft('class_embedding', case class_embedding when 'timestep' then 'class wave' else 'class_labels' end,
                                       case class_embedding when 'timestep' then first_channels else projected_channels end, temb_channels, 'class',
                                       case class_embedding when 'timestep' then c ->> 'act_fn' else 'silu' end) e
    where class_embedding in ('timestep', 'projection')
    union all
    select array[1, 6], case when adds_text_and_sizes then 'time and class' else 'temb' end, 'add', null, array['time', case class_embedding when 'identity' then 'class_labels' else 'class' end],
           temb_channels, temb_channels, null, '{}'
    from size
    where class_embedding is not null
    union all
    select array[1, 7], 'sizes', 'timestep_embedding', null, array['time_ids'], 6, 6 * (c ->> 'addition_time_embed_dim')::int, null, wave
    from size
    where adds_text_and_sizes
    union all
    select array[1, 8], null, 'concatenate', null, array['text_embeds', 'sizes'], projected_channels - 6 * (c ->> 'addition_time_embed_dim')::int, projected_channels, null, '{}'
    from size
    where adds_text_and_sizes
    union all
    select array[1, 9] || e.place, e.label, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size, sql_diffusion.embedding_draft('add_embedding', null, projected_channels, temb_channels, 'text and sizes') e
    where adds_text_and_sizes
    union all
    select array[1, 10], 'temb', 'add', null, array[case when class_embedding is null then 'time' else 'time and class' end, 'text and sizes'], temb_channels, temb_channels, null, '{}'
    from size
    where adds_text_and_sizes

    union all
    select array[2, 0], 'centred', 'center_input_sample', null, array['sample'], in_channels, in_channels, 0, '{}'
    from size
    where (c ->> 'center_input_sample')::boolean
    union all
    select array[2, 1], 'skip 0', 'conv2d', 'conv_in', array[case when (c ->> 'center_input_sample')::boolean then 'centred' else 'sample' end], in_channels, first_channels, 0,
           '{"kernel_size": 3, "stride": 1, "padding": 1}'
    from size

    union all
    select p.place || coalesce(t.place, '{}'),
           case when p.part = 'attention' then t.label else p.label end,
           case p.part when 'resnet' then 'resnet_block' when 'attention' then t.operation else p.part end,
           case when p.part = 'attention' then t.key else p.key end,
           case when p.part = 'attention' then t.inputs else p.inputs end,
           case when p.part = 'attention' then t.in_channels else p.in_channels end,
           case when p.part = 'attention' then t.out_channels else p.out_channels end,
           p.level,
           case p.part
           when 'attention' then t.settings
           when 'resnet' then
             norm || sql_diffusion.activation_settings(c ->> 'act_fn')
             || jsonb_build_object('time_scale_shift', c -> 'resnet_time_scale_shift', 'temb_channels', temb_channels,
                                        'output_scale_factor', case when p.block_type = 'middle' then c -> 'mid_block_scale_factor' else '1' end)
           when 'downsample' then jsonb_build_object('padding', c -> 'downsample_padding')
           else '{}'
           end
    from size
         cross join sql_diffusion.unet_layout(block_out_channels,
                                              array(select t.type from jsonb_array_elements_text(c -> 'down_block_types') with ordinality t (type, ordinality) order by t.ordinality),
                                              array(select t.type from jsonb_array_elements_text(c -> 'up_block_types') with ordinality t (type, ordinality) order by t.ordinality),
                                              case when c ->> 'mid_block_type' is not null then true end, (c ->> 'layers_per_block')::int,
                                              any_size => c ->> 'downsample_padding' = '1') p
         left join lateral sql_diffusion.transformer_2d_draft(
                             p.key, replace(p.key, 'attentions', 'resnets'), 'encoder_hidden_states', p.label, p.out_channels,
                             sql_diffusion.setting_of_level(c -> 'attention_head_dim', p.level + 1)::int, context_channels,
                             sql_diffusion.setting_of_level(c -> 'transformer_layers_per_block', p.level + 1)::int, (c ->> 'norm_num_groups')::int, (c ->> 'use_linear_projection')::boolean,
                             p.block_type <> 'middle' and sql_diffusion.setting_of_level(c -> 'only_cross_attention', p.level + 1)::boolean, p.level) t
         on p.part = 'attention'

    union all
    select array[6, 0] || n.place, n.label, n.operation, n.key, n.inputs, n.in_channels, n.out_channels, n.level, n.settings
    from size, sql_diffusion.norm_out_draft('conv_norm_out', first_channels, 0, norm, c ->> 'act_fn') n
    union all
    select array[6, 1], null, 'conv2d', 'conv_out', array[null], first_channels, (c ->> 'out_channels')::int, 0, '{"kernel_size": 3, "stride": 1, "padding": 1}'
    from size
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.unet_2d_condition_plan(jsonb) is
  'The steps of a UNet2DConditionModel of this configuration. Inputs: sample (channels, height, width), timestep, encoder_hidden_states (tokens, features), and, of models that take them, '
  'class_labels, timestep_cond, text_embeds and time_ids.';
