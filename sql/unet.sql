-- UNet2DModel: a network is a query. From the configuration alone unet_plan derives the ordered steps of the network as
-- rows, and unet folds them over the sample. The architecture is that of Ho et al., Denoising Diffusion Probabilistic
-- Models (arXiv 2006.11239), appendix B, as diffusers writes it.

create type sql_diffusion.plan_step as (
  step          int,
  operation     text,
  key           text,
  pops          boolean,
  pushes        boolean,
  in_channels   int,
  out_channels  int,
  settings      jsonb
);
comment on type sql_diffusion.plan_step is
  'One step of a network: what to do (operation, a layer''s name), with which parameters (key, the module''s path), whether '
  'the top of the skip stack is popped and concatenated to the channels first, whether the output is pushed on it, the '
  'channels that go in and come out, and the layer''s further arguments by name (settings).';

-- ---------------------------------------------------------------------------------------------------------------------
-- The configuration
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.unet_config(config jsonb) returns jsonb
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
comment on function sql_diffusion.unet_config(jsonb) is
  'A UNet2DModel configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return case jsonb_typeof(config -> 'sample_size')
         when 'array' then array[(config ->> 'in_channels')::int, (config #>> '{sample_size,0}')::int, (config #>> '{sample_size,1}')::int]
         else array[(config ->> 'in_channels')::int, (config ->> 'sample_size')::int, (config ->> 'sample_size')::int]
       end;
comment on function sql_diffusion.sample_shape(jsonb) is
  'The shape (channels, height, width) of the samples of a network with this (complete) configuration.';

create function sql_diffusion.check_unet_config(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('unet', sql_diffusion.unet_config(config), array[
           ['_class_name', '"UNet2DModel"', '$ == "UNet2DModel"'],
           ['in_channels', 'an integer from 1 to 4', '$ >= 1 && $ <= 4 && $.floor() == $'],
           ['out_channels', 'an integer from 1 to 4', '$ >= 1 && $ <= 4 && $.floor() == $'],
           ['center_input_sample', 'a boolean', '$ == true || $ == false'],
           ['time_embedding_type', '"positional"', '$ == "positional"'],
           ['time_embedding_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['freq_shift', 'a number', '$.type() == "number"'],
           ['flip_sin_to_cos', 'a boolean', '$ == true || $ == false'],
           ['block_out_channels', 'a list of positive integers',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @))'],
           ['down_block_types', 'a list of DownBlock2D and AttnDownBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "DownBlock2D" && @ != "AttnDownBlock2D"))'],
           ['mid_block_type', '"UNetMidBlock2D"', '$ == "UNetMidBlock2D"'],
           ['up_block_types', 'a list of UpBlock2D and AttnUpBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "UpBlock2D" && @ != "AttnUpBlock2D"))'],
           ['layers_per_block', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['mid_block_scale_factor', 'a number other than 0', '$.type() == "number" && $ != 0'],
           ['downsample_padding', '0 or 1', '$ == 0 || $ == 1'],
           ['downsample_type', '"conv"', '$ == "conv"'],
           ['upsample_type', '"conv"', '$ == "conv"'],
           ['dropout', 'a number', '$.type() == "number"'],
           ['act_fn', '"silu"', '$ == "silu" || $ == "swish"'],
           ['attention_head_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_num_groups', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['attn_norm_num_groups', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_eps', 'a positive number', '$ > 0'],
           ['resnet_time_scale_shift', '"default" or "scale_shift"', '$ == "default" || $ == "scale_shift"'],
           ['add_attention', 'a boolean', '$ == true || $ == false'],
           ['class_embed_type', 'null', '$ == null'],
           ['num_class_embeds', 'null', '$ == null'],
           ['sample_size', 'a positive integer or a pair of them (height, width)',
             '($.type() == "number" && $ >= 1 && $.floor() == $) || ($.type() == "array" && $.size() == 2 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['num_train_timesteps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)']
         ]);
  with unknown as (
    select k.setting
    from jsonb_object_keys(config) as k (setting)
    where not starts_with(k.setting, '_')
      and config -> k.setting <> 'null'   -- what newer versions of diffusers add, and leave as it was before
      and not sql_diffusion.unet_config('{}') ? k.setting
    order by k.setting
    limit 1
  )
  select coalesce((select sql_diffusion.fail(format('unet: setting %s is not known', u.setting), 'The reference tells which settings are supported.', '0A000') from unknown u), true);
end;
comment on function sql_diffusion.check_unet_config(jsonb) is
  'True for a UNet2DModel configuration whose every setting is supported; otherwise an error (0A000) that names the first that is not.';

create function sql_diffusion.check_unet_sizes(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with given as (
    select sql_diffusion.unet_config(config) as c
  ),
  size as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           (c ->> 'norm_num_groups')::int as num_groups,
           (c ->> 'attn_norm_num_groups')::int as attention_groups,
           (c ->> 'attention_head_dim')::int as head_dim,
           (select sql_diffusion.sample_shape(c)) as shape
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
    select 2, format('unet: out_channels is %s, expected the same as in_channels, %s', c -> 'out_channels', c -> 'in_channels')
    from size
    where c -> 'out_channels' <> c -> 'in_channels'
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
comment on function sql_diffusion.check_unet_sizes(jsonb) is
  'True for a supported configuration whose sizes fit each other (groups divide channels, halvings divide the sample, ...); otherwise an error (0A000) that names what does not.';

create function sql_diffusion.check_component(component text, config jsonb) returns boolean
language sql immutable parallel safe
return case
         when component is distinct from 'unet'
         then sql_diffusion.fail(format('component %s is not supported, expected unet', coalesce(component, 'null')), errcode => '0A000')
         when sql_diffusion.check_unet_config(config)
         then sql_diffusion.check_unet_sizes(config)
       end;
comment on function sql_diffusion.check_component(text, jsonb) is
  'True for a network that can be run, otherwise an error (0A000) that names the unsupported setting. The table components checks its rows with it.';

alter table sql_diffusion.components
  add constraint components_supported check (sql_diffusion.check_component(component, config));

-- ---------------------------------------------------------------------------------------------------------------------
-- The plan
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.unet_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 60
begin atomic
  with given as (
    select sql_diffusion.unet_config(config) as c
  ),
  -- Settings that every block shares, as the arguments of the layers' functions.
  shared as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           (c ->> 'layers_per_block')::int as layers,
           jsonb_build_object(
             'num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps',
             'time_scale_shift', c -> 'resnet_time_scale_shift', 'output_scale_factor', 1) as resnet,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps', 'output_scale_factor', 1) as attention,
           jsonb_build_object('output_scale_factor', c -> 'mid_block_scale_factor') as mid,
           -- A middle block of scale_shift normalises before attention only where it is told to.
           jsonb_build_object('num_groups',
             case when c ->> 'attn_norm_num_groups' is not null then c -> 'attn_norm_num_groups'
                  when c ->> 'resnet_time_scale_shift' = 'default' then c -> 'norm_num_groups'
                  else 'null' end) as mid_attention
    from given
  ),
  -- Level 0 is the finest; attention_head_dim null means one head over all the channels.
  level as (
    select b.number::int - 1 as level,
           b.channels::int as channels,
           b.channels::int / coalesce((c ->> 'attention_head_dim')::int, b.channels::int) as heads
    from shared, jsonb_array_elements_text(c -> 'block_out_channels') with ordinality as b (channels, number)
  ),
  down_block as (
    select own.level as block,
           t.type like 'Attn%' as attends,
           coalesce(finer.channels, own.channels) as in_channels,
           own.channels as out_channels,
           own.heads,
           own.level < levels - 1 as samples
    from shared,
         level own
         left join level finer on finer.level = own.level - 1,
         jsonb_array_elements_text(c -> 'down_block_types') with ordinality as t (type, number)
    where t.number - 1 = own.level
  ),
  up_block as (
    select levels - 1 - own.level as block,
           t.type like 'Attn%' as attends,
           coalesce(coarser.channels, own.channels) as in_channels,
           own.channels as out_channels,
           coalesce(finer.channels, own.channels) as last_skip_channels,
           own.heads,
           own.level > 0 as samples
    from shared,
         level own
         left join level coarser on coarser.level = own.level + 1
         left join level finer on finer.level = own.level - 1,
         jsonb_array_elements_text(c -> 'up_block_types') with ordinality as t (type, number)
    where t.number - 1 = levels - 1 - own.level
  ),
  -- Every step, with its place in the order: stage, block, layer, part.
  step (stage, block, layer, part, operation, key, pops, pushes, in_channels, out_channels, settings) as (
    select 0, 0, 0, 0, 'time_embedding', 'time_embedding', false, false, finest.channels, coalesce((c ->> 'time_embedding_dim')::int, 4 * finest.channels),
           jsonb_build_object('embedding_dim', finest.channels, 'flip_sin_to_cos', c -> 'flip_sin_to_cos', 'downscale_freq_shift', c -> 'freq_shift')
    from shared, level finest
    where finest.level = 0
    union all
    select 1, 0, 0, 0, 'center_input_sample', null, false, false, (c ->> 'in_channels')::int, (c ->> 'in_channels')::int, '{}'
    from shared
    where (c ->> 'center_input_sample')::boolean
    union all
    select 2, 0, 0, 0, 'conv2d', 'conv_in', false, true, (c ->> 'in_channels')::int, finest.channels, '{"stride": 1, "padding": 1}'
    from shared, level finest
    where finest.level = 0

    union all
    select 3, b.block, layer, 0, 'resnet_block', format('down_blocks.%s.resnets.%s', b.block, layer), false, not b.attends,
           case layer when 0 then b.in_channels else b.out_channels end, b.out_channels, resnet
    from shared, down_block b, generate_series(0, layers - 1) as layer
    union all
    select 3, b.block, layer, 1, 'attention_block', format('down_blocks.%s.attentions.%s', b.block, layer), false, true,
           b.out_channels, b.out_channels, attention || jsonb_build_object('heads', b.heads)
    from shared, down_block b, generate_series(0, layers - 1) as layer
    where b.attends
    union all
    select 3, b.block, layers, 2, 'downsample', format('down_blocks.%s.downsamplers.0', b.block), false, true,
           b.out_channels, b.out_channels, jsonb_build_object('padding', c -> 'downsample_padding')
    from shared, down_block b
    where b.samples

    union all
    select 4, 0, layer, 0, 'resnet_block', format('mid_block.resnets.%s', layer), false, false,
           coarsest.channels, coarsest.channels, resnet || mid
    from shared, level coarsest, generate_series(0, 1) as layer
    where coarsest.level = levels - 1
    union all
    select 4, 0, 0, 1, 'attention_block', 'mid_block.attentions.0', false, false,
           coarsest.channels, coarsest.channels, attention || mid || mid_attention || jsonb_build_object('heads', coarsest.heads)
    from shared, level coarsest
    where coarsest.level = levels - 1
      and (c ->> 'add_attention')::boolean

    union all
    select 5, b.block, layer, 0, 'resnet_block', format('up_blocks.%s.resnets.%s', b.block, layer), true, false,
           case layer when 0 then b.in_channels else b.out_channels end + case layer when layers then b.last_skip_channels else b.out_channels end,
           b.out_channels, resnet
    from shared, up_block b, generate_series(0, layers) as layer
    union all
    select 5, b.block, layer, 1, 'attention_block', format('up_blocks.%s.attentions.%s', b.block, layer), false, false,
           b.out_channels, b.out_channels, attention || jsonb_build_object('heads', b.heads)
    from shared, up_block b, generate_series(0, layers) as layer
    where b.attends
    union all
    select 5, b.block, layers + 1, 2, 'upsample', format('up_blocks.%s.upsamplers.0', b.block), false, false,
           b.out_channels, b.out_channels, '{}'
    from shared, up_block b
    where b.samples

    union all
    select 6, 0, 0, 0, 'group_norm_silu', 'conv_norm_out', false, false, finest.channels, finest.channels,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps')
    from shared, level finest
    where finest.level = 0
    union all
    select 7, 0, 0, 0, 'conv2d', 'conv_out', false, false, finest.channels, (c ->> 'out_channels')::int, '{"stride": 1, "padding": 1}'
    from shared, level finest
    where finest.level = 0
  )
  select row_number() over place as step, s.operation, s.key, s.pops, s.pushes, s.in_channels, s.out_channels, s.settings
  from step s
  window place as (order by s.stage, s.block, s.layer, s.part)
  order by step;
end;
comment on function sql_diffusion.unet_plan(jsonb) is
  'The ordered steps of the network of this configuration (of a UNet2DModel), one row a step: read it as a table. Both backends run it.';

create function sql_diffusion.component_config(model text, component text default 'unet') returns jsonb
language sql stable parallel safe
begin atomic
  select case
           when model is null
           then sql_diffusion.fail('model is null, expected the name of a model')
           when not exists (select from sql_diffusion.models m where m.name = component_config.model)
           then sql_diffusion.fail(format('model "%s" does not exist', model),
                                   'The models that are loaded: select name from sql_diffusion.models.', '42704')
           when not exists (select from sql_diffusion.components c where c.model = component_config.model and c.component = component_config.component)
           then sql_diffusion.fail(format('model "%s" is unfinished: component %s is missing', model, component),
                                   'Load the model again.', '55000')
         end;
  select c.config
  from sql_diffusion.components c
  where c.model = component_config.model
    and c.component = component_config.component;
end;
comment on function sql_diffusion.component_config(text, text) is
  'The configuration of a network of a model. Errors: 42704 for an unknown model, 55000 where the model lacks the network.';

create function sql_diffusion.unet_plan(model text) returns setof sql_diffusion.plan_step
language sql stable parallel safe rows 60
return sql_diffusion.unet_plan(sql_diffusion.component_config(model));
comment on function sql_diffusion.unet_plan(text) is
  'The ordered steps of a loaded model''s U-Net, one row a step. Errors: 42704 for an unknown model, 55000 for one without a U-Net.';

create function sql_diffusion.unet_parameters(config jsonb) returns table (key text, weight_shape int[], bias_shape int[])
language sql immutable strict parallel safe rows 200
begin atomic
  with plan as (
    select p.operation, p.key, p.in_channels as i, p.out_channels as o, p.settings, t.out_channels as temb, p.step,
           -- the width of all heads together, attention's inner dimension
           i.channels / h.dim * h.dim as inner_channels
    from sql_diffusion.unet_plan(config) p,
         (select e.out_channels from sql_diffusion.unet_plan(config) e where e.operation = 'time_embedding') t,
         lateral (select p.in_channels as channels) i,
         lateral (select coalesce((sql_diffusion.unet_config(config) ->> 'attention_head_dim')::int, p.in_channels) as dim) h
  )
  select case when m.suffix = '' then p.key else p.key || '.' || m.suffix end, m.weight_shape, array[m.weight_shape[1]]
  from plan p,
       lateral (
         values
           ('conv2d', '', array[o, i, 3, 3], true),
           ('group_norm_silu', '', array[i], true),
           ('time_embedding', 'linear_1', array[o, i], true),
           ('time_embedding', 'linear_2', array[o, o], true),
           ('downsample', 'conv', array[o, i, 3, 3], true),
           ('upsample', 'conv', array[o, i, 3, 3], true),
           ('resnet_block', 'norm1', array[i], true),
           ('resnet_block', 'conv1', array[o, i, 3, 3], true),
           ('resnet_block', 'time_emb_proj', array[case p.settings ->> 'time_scale_shift' when 'scale_shift' then 2 * o else o end, temb], true),
           ('resnet_block', 'norm2', array[o], true),
           ('resnet_block', 'conv2', array[o, o, 3, 3], true),
           ('resnet_block', 'conv_shortcut', array[o, i, 1, 1], i <> o),
           ('attention_block', 'group_norm', array[i], p.settings ->> 'num_groups' is not null),
           ('attention_block', 'to_q', array[inner_channels, i], true),
           ('attention_block', 'to_k', array[inner_channels, i], true),
           ('attention_block', 'to_v', array[inner_channels, i], true),
           ('attention_block', 'to_out.0', array[i, inner_channels], true)
       ) as m (operation, suffix, weight_shape, present)
  where m.operation = p.operation
    and m.present
  order by p.step;
end;
comment on function sql_diffusion.unet_parameters(jsonb) is
  'The parameters that a U-Net of this configuration must have: one row a module, its key and the shapes of its weight and bias.';

create function sql_diffusion.check_model(model text) returns boolean
language sql stable parallel safe
begin atomic
  with problem as (
    select coalesce(expected.key, p.key) as key,
           case
             when p.key is null then 'is missing'
             when expected.key is null then 'is surplus'
             when array_dims(p.weight) is distinct from expected.weight_dims
             then format('has a weight of shape %s, expected %s', coalesce(array_dims(p.weight), '{}'), expected.weight_dims)
             when array_dims(p.bias) is distinct from expected.bias_dims
             then format('has a bias of shape %s, expected %s', coalesce(array_dims(p.bias), 'null'), expected.bias_dims)
           end as message
    from (
        select e.key,
               (select string_agg(format('[1:%s]', n.n), '' order by n.ordinality) from unnest(e.weight_shape) with ordinality n (n)) as weight_dims,
               (select string_agg(format('[1:%s]', n.n), '' order by n.ordinality) from unnest(e.bias_shape) with ordinality n (n)) as bias_dims
        from sql_diffusion.unet_parameters(sql_diffusion.component_config(model)) e
      ) expected
      full join (
        select s.key, s.weight, s.bias
        from sql_diffusion.parameters s
        where s.model = check_model.model
          and s.component = 'unet'
      ) p on p.key = expected.key
  ),
  found as (
    select b.key, b.message, count(*) over () as problems
    from problem b
    where b.message is not null
    order by b.key
    limit 1
  )
  select coalesce(
    (select sql_diffusion.fail(
              format('model "%s" is unfinished: parameter %s %s', model, f.key, f.message)
              || case when f.problems > 1 then format(', and %s more', f.problems - 1) else '' end,
              'Load the model again.', '55000')
     from found f),
    true);
end;
comment on function sql_diffusion.check_model(text) is
  'True for a model whose parameters are those that its configuration asks for; otherwise an error (55000) that names the first missing, surplus or misshapen one.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The run
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.time_embedding(timestep double precision, model text, key text, embedding_dim int,
    flip_sin_to_cos boolean, downscale_freq_shift double precision, component text default 'unet') returns real[]
language sql stable strict parallel safe
return sql_diffusion.linear_module(
         sql_diffusion.silu(
           sql_diffusion.linear_module(
             sql_diffusion.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift),
             model, component, key || '.linear_1', 'time_embedding')),
         model, component, key || '.linear_2', 'time_embedding');
comment on function sql_diffusion.time_embedding(double precision, text, text, int, boolean, double precision, text) is
  'How far the diffusion has come, as the network is told it: timestep_embedding, then linear_1, SiLU and linear_2 of the module. '
  'Returns (time embedding channels), which every resnet_block takes. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), appendix B.';

create function sql_diffusion.run_step(step sql_diffusion.plan_step, hidden sql_diffusion.feature_maps, temb real[], model text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(hidden, model, 'unet', (step).key, ((step).settings ->> 'stride')::int, ((step).settings ->> 'padding')::int, 'unet') maps
  where (step).operation = 'conv2d'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.resnet_block_of_maps(hidden, temb, model, (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision,
                                          (step).settings ->> 'time_scale_shift', ((step).settings ->> 'output_scale_factor')::double precision, 'unet') maps
  where (step).operation = 'resnet_block'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.attention_block_of_maps(hidden, model, (step).key, ((step).settings ->> 'heads')::int, ((step).settings ->> 'num_groups')::int,
                                             ((step).settings ->> 'eps')::double precision, ((step).settings ->> 'output_scale_factor')::double precision, 'unet') maps
  where (step).operation = 'attention_block'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.downsample_of_maps(hidden, model, (step).key, ((step).settings ->> 'padding')::int, 'unet') maps
  where (step).operation = 'downsample'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.upsample_of_maps(hidden, model, (step).key, 'unet') maps
  where (step).operation = 'upsample'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.group_norm_module(hidden, model, 'unet', (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision, true, 'unet') maps
  where (step).operation = 'group_norm_silu'
  union all
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.fold(array_agg(2::real * element.x - 1::real), (hidden).height * (hidden).width), (hidden).height, (hidden).width) as maps
        from (select unnest((hidden).planes) as x) element
        offset 0) done
  where (step).operation = 'center_input_sample'
  union all
  select (hidden).planes, (hidden).height, (hidden).width, (hidden).mean, (hidden).variance, (hidden).low, (hidden).high
  where (step).operation = 'time_embedding';
end;
comment on function sql_diffusion.run_step(sql_diffusion.plan_step, sql_diffusion.feature_maps, real[], text) is
  'Runs one step of a plan: feature maps and the time embedding go in, the step''s output comes out. The step time_embedding leaves them as they are. '
  'A set of one row, so that the planner puts the queries of all layers in its place, once for a pass.';

create function sql_diffusion.run_plan(plan sql_diffusion.plan_step[], sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
set jit = off
set enable_memoize = off                            -- which would hash and keep every tensor
set join_collapse_limit = 1                         -- the layers run in the order in which they stand
set work_mem = '64MB'                               -- so that no tensor goes to a file on its way to the next step
set plan_cache_mode = force_generic_plan           -- or PostgreSQL 18 plans every layer for the arguments that came
begin atomic
  with recursive
  temb as materialized (
    select sql_diffusion.time_embedding(timestep, model, p.key, (p.settings ->> 'embedding_dim')::int,
                                        (p.settings ->> 'flip_sin_to_cos')::boolean, (p.settings ->> 'downscale_freq_shift')::double precision) as value
    from unnest(plan) p
    where p.operation = 'time_embedding'
  ),
  run (step, operation, key, hidden, skips) as (
    select 0, null::text, null::text, sql_diffusion.to_maps(sample), '{}'::sql_diffusion.feature_maps[]
    union all
    select p.step, p.operation, p.key, output.hidden,
           case when p.pushes then taken.skips || output.hidden else taken.skips end
    from run
         join lateral unnest(plan[run.step + 1 : run.step + 1]) p on true,
         temb,
         lateral (
           select case when p.pops then sql_diffusion.join_maps(run.hidden, run.skips[cardinality(run.skips)]) else run.hidden end as hidden,
                  case when p.pops then trim_array(run.skips, 1) else run.skips end as skips
           offset 0
         ) taken,
         lateral (
           select o as hidden
           from sql_diffusion.run_step(p, taken.hidden, temb.value, model) o
           offset 0
         ) output
  )
  select r.step, r.operation, r.key, r.hidden
  from run r
  where r.step > 0;
end;
comment on function sql_diffusion.run_plan(sql_diffusion.plan_step[], real[], double precision, text) is
  'Folds the steps of a plan over a sample (channels, height, width): each row is a step''s output, the feature maps that it leaves for the next one. '
  'The skip stack is an array beside it.';

create function sql_diffusion.check_sample(sample real[], name text, config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, name, 'channels, height, width'),
         sql_diffusion.check_values(sample, name);
  with size as (
    select (sql_diffusion.unet_config(config) ->> 'in_channels')::int as channels,
           1 << (jsonb_array_length(sql_diffusion.unet_config(config) -> 'block_out_channels') - 1) as factor
  )
  select case
           when array_length(sample, 1) <> channels
           then sql_diffusion.fail(format('%s has %s channels, expected %s', name, array_length(sample, 1), channels))
           when array_length(sample, 2) % factor <> 0 or array_length(sample, 3) % factor <> 0
           then sql_diffusion.fail(format('%s is %s high and %s wide, expected multiples of %s', name, array_length(sample, 2), array_length(sample, 3), factor))
           else true
         end
  from size;
end;
comment on function sql_diffusion.check_sample(real[], text, jsonb) is
  'True for a tensor (channels, height, width) that the U-Net of this configuration takes, otherwise an error (22023) that calls it by this name.';

create function sql_diffusion.run_unet(sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
begin atomic
  select sql_diffusion.check_model(model);
  select sql_diffusion.check_sample(sample, 'unet: sample', sql_diffusion.component_config(model)),
         case
           when timestep is null or not abs(timestep) <= 3.4e38
           then sql_diffusion.fail(format('unet: timestep is %s, expected a finite number of single precision', coalesce(timestep::text, 'null')))
         end;
  select r.step, r.operation, r.key, r.hidden
  from sql_diffusion.run_plan((select array_agg(p order by p.step) from sql_diffusion.unet_plan(model) p), sample, timestep, model) r;
end;
comment on function sql_diffusion.run_unet(real[], double precision, text) is
  'unet_steps with feature maps, as they go from step to step.';

create function sql_diffusion.unet_steps(sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden real[])
language sql stable parallel safe rows 60
begin atomic
  select r.step, r.operation, r.key, sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_unet(sample, timestep, model) r;
end;
comment on function sql_diffusion.unet_steps(real[], double precision, text) is
  'A pass of a model''s U-Net, one row a step with its output, so that every hidden tensor can be looked at. The last row is what unet returns.';

create function sql_diffusion.unet(sample real[], timestep double precision, model text) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_unet(sample, timestep, model) r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.unet(real[], double precision, text) is
  'What a model''s U-Net makes of a sample (channels, height, width) at a timestep (0 to the training steps less one): a tensor of the same shape, '
  'the noise it sees in it where the model predicts epsilon. Errors: 42704 unknown model, 55000 unfinished model, 22023 wrong sample. '
  'Denoising Diffusion Probabilistic Models (arXiv 2006.11239), section 3.2.';
