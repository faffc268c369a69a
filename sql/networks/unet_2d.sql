-- UNet2DModel: the network of unconditional pixel models. The architecture is that of Ho et al., Denoising Diffusion Probabilistic
-- Models (arXiv 2006.11239), appendix B, as diffusers writes it.

create function sql_diffusion.unet_2d_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "_class_name": "UNet2DModel", "sample_size": null, "in_channels": 3, "out_channels": 3, "center_input_sample": false,
    "time_embedding_type": "positional", "time_embedding_dim": null, "freq_shift": 0, "flip_sin_to_cos": true,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0, "act_fn": "silu",
    "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": null, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": true, "class_embed_type": null, "num_class_embeds": null,
    "num_train_timesteps": null
  }'::jsonb || config else config end;
comment on function sql_diffusion.unet_2d_config(jsonb) is
  'A UNet2DModel configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.unet_2d_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select sql_diffusion.image_shape(c -> 'in_channels', c -> 'sample_size') from sql_diffusion.unet_2d_config(config) as c);
comment on function sql_diffusion.unet_2d_sample_shape(jsonb) is
  'The shape (channels, height, width) of the samples of a UNet2DModel of this configuration.';

create function sql_diffusion.check_unet_2d_settings(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('unet', sql_diffusion.unet_2d_config(config), array[
           ['_class_name', '"UNet2DModel"', '$ == "UNet2DModel"'],
           ['in_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['out_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['center_input_sample', 'a boolean', '$ == true || $ == false'],
           ['time_embedding_type', '"positional" or "fourier"', '$ == "positional" || $ == "fourier"'],
           ['time_embedding_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['freq_shift', 'a number', '$.type() == "number"'],
           ['flip_sin_to_cos', 'a boolean', '$ == true || $ == false'],
           ['block_out_channels', 'a list of positive integers',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @))'],
           ['down_block_types', 'a list of DownBlock2D, AttnDownBlock2D and ResnetDownsampleBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "DownBlock2D" && @ != "AttnDownBlock2D" && @ != "ResnetDownsampleBlock2D"))'],
           ['mid_block_type', '"UNetMidBlock2D" or null', '$ == "UNetMidBlock2D" || $ == null'],
           ['up_block_types', 'a list of UpBlock2D, AttnUpBlock2D and ResnetUpsampleBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "UpBlock2D" && @ != "AttnUpBlock2D" && @ != "ResnetUpsampleBlock2D"))'],
           ['layers_per_block', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['mid_block_scale_factor', 'a number other than 0', '$.type() == "number" && $ != 0'],
           ['downsample_padding', '0 or 1', '$ == 0 || $ == 1'],
           ['downsample_type', '"conv" or "resnet"', '$ == "conv" || $ == "resnet"'],
           ['upsample_type', '"conv" or "resnet"', '$ == "conv" || $ == "resnet"'],
           ['dropout', 'a number', '$.type() == "number"']
         ] || sql_diffusion.act_fn_rule() || array[
           ['attention_head_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_num_groups', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['attn_norm_num_groups', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_eps', 'a positive number', '$ > 0'],
           ['resnet_time_scale_shift', '"default" or "scale_shift"', '$ == "default" || $ == "scale_shift"'],
           ['add_attention', 'a boolean', '$ == true || $ == false'],
           ['class_embed_type', 'null, "timestep" or "identity"', '$ == null || $ == "timestep" || $ == "identity"'],
           ['num_class_embeds', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['sample_size', 'a positive integer or a pair of them (height, width)',
             '($.type() == "number" && $ >= 1 && $.floor() == $) || ($.type() == "array" && $.size() == 2 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['num_train_timesteps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)']
         ]);
  select sql_diffusion.check_known_settings('unet', config, sql_diffusion.unet_2d_config('{}'));
end;
comment on function sql_diffusion.check_unet_2d_settings(jsonb) is
  'True for a UNet2DModel configuration whose every setting is supported; otherwise an error (0A000) that names the first that is not.';

create function sql_diffusion.check_unet_2d_sizes(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with given as (
    select sql_diffusion.unet_2d_config(config) as c
  ),
  size as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           (c ->> 'norm_num_groups')::int as num_groups,
           (c ->> 'attn_norm_num_groups')::int as attention_groups,
           (c ->> 'attention_head_dim')::int as head_dim,
           (select sql_diffusion.unet_2d_sample_shape(c)) as shape
    from given
  ),
  level as (
    select b.channels::int as channels, b.number, c -> 'down_block_types' ->> (b.number::int - 1) like 'Attn%' or c -> 'up_block_types' ->> (levels - b.number::int) like 'Attn%' or (b.number = levels and (c ->> 'add_attention')::boolean) as attends
    from size, jsonb_array_elements_text(c -> 'block_out_channels') with ordinality as b (channels, number)
  ),
  problem (ordinal, message) as (
    select 1, format('unet: %s has %s elements, expected %s, one for each of block_out_channels', t.setting, jsonb_array_length(c -> t.setting), levels)
    from size, (values ('down_block_types'), ('up_block_types')) as t (setting)
    where jsonb_array_length(c -> t.setting) <> levels
    union all
    select 3, format('unet: block_out_channels has %s, expected a multiple of norm_num_groups, %s', level.channels, num_groups)
    from size, level
    where level.channels % num_groups <> 0
    union all
    select 4, format('unet: block_out_channels has %s, expected a multiple of attn_norm_num_groups, %s', level.channels, attention_groups)
    from size, level
    where level.number = levels
      and (c ->> 'add_attention')::boolean
      and level.channels % attention_groups <> 0
    union all
    select 5, format('unet: attention_head_dim is %s, expected at most the %s channels that attend', head_dim, level.channels)
    from size, level
    where level.attends
      and level.channels < head_dim
    union all
    select 6, format('unet: sample_size is %s, expected multiples of %s, since the network halves it %s times', c -> 'sample_size', 1 << (levels - 1), levels - 1)
    from size
    where shape[2] % (1 << (levels - 1)) <> 0
       or shape[3] % (1 << (levels - 1)) <> 0
  ),
  first_problem as (
    select p.message
    from problem p
    order by p.ordinal, p.message
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, errcode => '0A000') from first_problem p), true);
end;
comment on function sql_diffusion.check_unet_2d_sizes(jsonb) is
  'True for a supported configuration whose sizes fit each other (groups divide channels, halvings divide the sample, ...); otherwise an error (0A000) that names what does not.';

create function sql_diffusion.check_unet_2d(config jsonb) returns boolean
language sql immutable parallel safe
return case when sql_diffusion.check_unet_2d_settings(config) then sql_diffusion.check_unet_2d_sizes(config) end;
comment on function sql_diffusion.check_unet_2d(jsonb) is
  'True for a UNet2DModel configuration that can be run, otherwise an error (0A000) that names the setting that cannot.';

create function sql_diffusion.unet_2d_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 60
begin atomic
  with given as (
    select sql_diffusion.unet_2d_config(config) as c
  ),
  shared as (
    select c,
           array(select b.channels::int from jsonb_array_elements_text(c -> 'block_out_channels') with ordinality b (channels, ordinality) order by b.ordinality) as block_out_channels,
           (c ->> 'in_channels')::int as in_channels,
           c ->> 'time_embedding_type' as time_embedding_type,
           case when c ->> 'class_embed_type' is not null then c ->> 'class_embed_type' when c ->> 'num_class_embeds' is not null then 'label' end as class_embedding
    from given
  ),
  size as (
    select c, s.block_out_channels, s.in_channels, s.time_embedding_type, s.class_embedding,
           block_out_channels[1] as first_channels,
           case s.time_embedding_type when 'fourier' then 2 else 1 end * block_out_channels[1] as wave_channels,
           coalesce((c ->> 'time_embedding_dim')::int, 4 * block_out_channels[1]) as temb_channels,
           jsonb_build_object('flip_sin_to_cos', c -> 'flip_sin_to_cos', 'downscale_freq_shift', c -> 'freq_shift') as wave,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps') as norm
    from shared s
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, level, settings) as (
    select array[0, 0], 'sample', 'input', 'sample', null::text[], in_channels, in_channels, 0, '{}'::jsonb
    from size
    union all
    select array[0, 1], 'timestep', 'input', 'timestep', null, 1, 1, null, '{}'
    from size
    union all
    select array[0, 2], 'class_labels', 'input', 'class_labels', null, e.channels, e.channels, null,
           case class_embedding when 'label' then jsonb_build_object('num_embeddings', c -> 'num_class_embeds') else '{}' end
    from size, lateral (select case class_embedding when 'identity' then temb_channels else 1 end as channels) e
    where class_embedding is not null

    union all
    select array[1, 0], null, case time_embedding_type when 'fourier' then 'fourier_embedding' else 'timestep_embedding' end,
           case time_embedding_type when 'fourier' then 'time_proj' end, array['timestep'], 1, wave_channels, null, case time_embedding_type when 'fourier' then '{}' else wave end
    from size
    union all
    select array[1, 1] || e.place, e.label, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size, sql_diffusion.embedding_draft('time_embedding', null, wave_channels, temb_channels, case when class_embedding is null then 'temb' else 'time' end) e
    union all
    select array[1, 2], 'class', 'embedding', 'class_embedding', array['class_labels'], 1, temb_channels, null, jsonb_build_object('num_embeddings', c -> 'num_class_embeds')
    from size
    where class_embedding = 'label'
    union all
    select array[1, 2], null, case time_embedding_type when 'fourier' then 'fourier_embedding' else 'timestep_embedding' end,
           case time_embedding_type when 'fourier' then 'time_proj' end, array['class_labels'], 1, wave_channels, null, case time_embedding_type when 'fourier' then '{}' else wave end
    from size
    where class_embedding = 'timestep'
    union all
    select array[1, 3] || e.place, e.label, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size, sql_diffusion.embedding_draft('class_embedding', null, wave_channels, temb_channels, 'class') e
    where class_embedding = 'timestep'
    union all
    select array[1, 4], 'temb', 'add', null, array['time', case class_embedding when 'identity' then 'class_labels' else 'class' end], temb_channels, temb_channels, null, '{}'
    from size
    where class_embedding is not null

    union all
    select array[2, 0], 'centred', 'center_input_sample', null, array['sample'], in_channels, in_channels, 0, '{}'
    from size
    where (c ->> 'center_input_sample')::boolean
    union all
    select array[2, 1], 'skip 0', 'conv2d', 'conv_in', array[case when (c ->> 'center_input_sample')::boolean then 'centred' else 'sample' end], in_channels, first_channels, 0,
           '{"kernel_size": 3, "stride": 1, "padding": 1}'
    from size

    union all
    select p.place, p.label,
           case p.part when 'resnet' then 'resnet_block'
                       when 'attention' then 'attention_block'
                       when 'concatenate' then 'concatenate'
                       else case when by_resnet then 'resnet_block' else p.part end end,
           p.key,
           case when p.part like '%sample' and by_resnet then p.inputs || array['temb'] else p.inputs end,
           p.in_channels, p.out_channels, p.level,
           case
           when p.part = 'attention' then
             jsonb_build_object('heads', p.out_channels / head_dim, 'inner_channels', p.out_channels / head_dim * head_dim, 'eps', c -> 'norm_eps',
                                'output_scale_factor', case when p.block_type = 'middle' then c -> 'mid_block_scale_factor' else '1' end,
                                -- A middle block of scale_shift normalises before attention only where it is told to.
                                'num_groups', case when p.block_type <> 'middle' then c -> 'norm_num_groups'
                                                   when c ->> 'attn_norm_num_groups' is not null then c -> 'attn_norm_num_groups'
                                                   when c ->> 'resnet_time_scale_shift' = 'default' then c -> 'norm_num_groups'
                                                   else 'null' end)
           when p.part = 'resnet' or by_resnet then
             norm || sql_diffusion.activation_settings(c ->> 'act_fn')
             || jsonb_build_object('time_scale_shift', c -> 'resnet_time_scale_shift', 'temb_channels', temb_channels,
                                        'output_scale_factor', case when p.block_type = 'middle' then c -> 'mid_block_scale_factor' else '1' end)
             || case when p.part like '%sample' then jsonb_build_object('resample', p.part) else '{}' end
           when p.part = 'downsample' then jsonb_build_object('padding', c -> 'downsample_padding')
           else '{}'
           end
    from size,
         sql_diffusion.unet_layout(block_out_channels,
                                   array(select t.type from jsonb_array_elements_text(c -> 'down_block_types') with ordinality t (type, ordinality) order by t.ordinality),
                                   array(select t.type from jsonb_array_elements_text(c -> 'up_block_types') with ordinality t (type, ordinality) order by t.ordinality),
                                   case when c ->> 'mid_block_type' is not null then (c ->> 'add_attention')::boolean end, (c ->> 'layers_per_block')::int) p,
         -- attention_head_dim null means one head over all the channels
         lateral (select coalesce((c ->> 'attention_head_dim')::int, p.out_channels) as head_dim,
                         p.part = 'downsample' and (p.block_type = 'ResnetDownsampleBlock2D' or p.block_type = 'AttnDownBlock2D' and c ->> 'downsample_type' = 'resnet')
                         or p.part = 'upsample' and (p.block_type = 'ResnetUpsampleBlock2D' or p.block_type = 'AttnUpBlock2D' and c ->> 'upsample_type' = 'resnet') as by_resnet) how

    union all
    select array[6, 0], null, 'group_norm', 'conv_norm_out', array[null], first_channels, first_channels, 0, norm || '{"silu": true}'
    from size
    union all
    select array[6, 1], 'out', 'conv2d', 'conv_out', array[null], first_channels, (c ->> 'out_channels')::int, 0, '{"kernel_size": 3, "stride": 1, "padding": 1}'
    from size
    union all
    select array[6, 2], null, 'divide', null, array['out', 'timestep'], (c ->> 'out_channels')::int, (c ->> 'out_channels')::int, 0, '{}'
    from size
    where time_embedding_type = 'fourier'
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.unet_2d_plan(jsonb) is
  'The steps of a UNet2DModel of this configuration. Inputs: sample (channels, height, width), timestep and, of a model of classes, class_labels.';
