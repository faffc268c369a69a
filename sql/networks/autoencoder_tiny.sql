-- AutoencoderTiny: a small autoencoder without norms or attention, distilled from that of a latent diffusion model, whose latents it shares (TAESD); as diffusers writes it.

create function sql_diffusion.autoencoder_tiny_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "_class_name": "AutoencoderTiny", "in_channels": 3, "out_channels": 3, "encoder_block_out_channels": [64, 64, 64, 64], "decoder_block_out_channels": [64, 64, 64, 64],
    "act_fn": "relu", "upsample_fn": "nearest", "latent_channels": 4, "upsampling_scaling_factor": 2, "num_encoder_blocks": [1, 3, 3, 3], "num_decoder_blocks": [3, 3, 3, 1],
    "latent_magnitude": 3, "latent_shift": 0.5, "force_upcast": false, "scaling_factor": 1.0, "shift_factor": 0.0
  }'::jsonb || config - array['block_out_channels'] else config end;
comment on function sql_diffusion.autoencoder_tiny_config(jsonb) is
  'An AutoencoderTiny configuration with the settings that it leaves out filled in as diffusers does, and without block_out_channels, which diffusers writes into it but does not read.';

create function sql_diffusion.autoencoder_tiny_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select array[(c ->> 'in_channels')::int, s.size, s.size]
        from sql_diffusion.autoencoder_tiny_config(config) as c,
             lateral (select 64 << jsonb_array_length(c -> 'num_decoder_blocks') - 1 as size) s);
comment on function sql_diffusion.autoencoder_tiny_sample_shape(jsonb) is
  'The shape (channels, height, width) of images of an AutoencoderTiny, whose configuration tells no size: that of latents of 64 by 64, as Stable Diffusion has.';

create function sql_diffusion.check_autoencoder_tiny(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('vae', sql_diffusion.autoencoder_tiny_config(config), array[
           ['in_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['out_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['latent_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['encoder_block_out_channels', 'a list of one positive integer, repeated',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)) && !exists($ ? (@[*] < @[0] || @[*] > @[0]))'],
           ['decoder_block_out_channels', 'a list of one positive integer, repeated',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)) && !exists($ ? (@[*] < @[0] || @[*] > @[0]))'],
           ['num_encoder_blocks', 'a list of integers of at least 0', '$.type() == "array" && !exists($[*] ? (@.type() != "number" || @ < 0 || @.floor() != @))'],
           ['num_decoder_blocks', 'a list of integers of at least 0', '$.type() == "array" && !exists($[*] ? (@.type() != "number" || @ < 0 || @.floor() != @))'],
           ['act_fn', '"relu"', '$ == "relu"'],
           ['upsample_fn', '"nearest"', '$ == "nearest"'],
           ['upsampling_scaling_factor', '2', '$ == 2'],
           ['latent_magnitude', 'a number', '$.type() == "number"'],
           ['latent_shift', 'a number', '$.type() == "number"'],
           ['force_upcast', 'a boolean', '$ == true || $ == false'],
           ['scaling_factor', 'a positive number', '$ > 0'],
           ['shift_factor', 'a number or null', '$ == null || $.type() == "number"']
         ]);
  select sql_diffusion.check_known_settings('vae', config - array['block_out_channels'], sql_diffusion.autoencoder_tiny_config('{}'));
  with problem (message) as (
    select format('vae: %s has %s elements, expected %s, one for each of %s', t.number, jsonb_array_length(c -> t.number), jsonb_array_length(c -> t.channels), t.channels)
    from sql_diffusion.autoencoder_tiny_config(config) as c,
         (values ('num_encoder_blocks', 'encoder_block_out_channels'), ('num_decoder_blocks', 'decoder_block_out_channels')) as t (number, channels)
    where jsonb_array_length(c -> t.number) <> jsonb_array_length(c -> t.channels)
    order by t.number desc
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, errcode => '0A000') from problem p), true);
end;
comment on function sql_diffusion.check_autoencoder_tiny(jsonb) is
  'True for an AutoencoderTiny configuration that can be run, otherwise an error (0A000) that names the setting that cannot.';

create function sql_diffusion.tiny_block_draft(key text, channels int, level int) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 7
begin atomic
  select row(array[d.place], d.label, d.operation, d.key, d.inputs, channels, channels, tiny_block_draft.level, d.settings)::sql_diffusion.plan_draft
  from (values (0, null, 'conv2d', tiny_block_draft.key || '.conv.0', array[tiny_block_draft.key], '{"kernel_size": 3, "stride": 1, "padding": 1}'::jsonb),
               (1, null, 'relu', null, array[null], '{}'),
               (2, null, 'conv2d', tiny_block_draft.key || '.conv.2', array[null], '{"kernel_size": 3, "stride": 1, "padding": 1}'),
               (3, null, 'relu', null, array[null], '{}'),
               (4, null, 'conv2d', tiny_block_draft.key || '.conv.4', array[null], '{"kernel_size": 3, "stride": 1, "padding": 1}'),
               (5, null, 'add', null, array[null, tiny_block_draft.key], '{}'),
               (6, regexp_replace(tiny_block_draft.key, '[0-9]+$', '') || ((regexp_match(tiny_block_draft.key, '[0-9]+$'))[1]::int + 1), 'relu', null, array[null], '{}')
       ) as d (place, label, operation, key, inputs, settings);
end;
comment on function sql_diffusion.tiny_block_draft(text, int, int) is
  'diffusers'' AutoencoderTinyBlock as steps: three convolutions, the input again, ReLU between and behind. The label of what goes in is the key, that of the result the key of the layer behind.';

create function sql_diffusion.autoencoder_tiny_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 160
begin atomic
  with size as (
    select c,
           (c ->> 'in_channels')::int as in_channels,
           (c ->> 'out_channels')::int as out_channels,
           (c ->> 'latent_channels')::int as latent_channels,
           (c #>> '{encoder_block_out_channels,0}')::int as encoder_channels,
           (c #>> '{decoder_block_out_channels,0}')::int as decoder_channels,
           jsonb_array_length(c -> 'num_encoder_blocks') - 1 as encoder_deepest,
           jsonb_array_length(c -> 'num_decoder_blocks') - 1 as decoder_deepest,
           '{"kernel_size": 3, "stride": 1, "padding": 1}'::jsonb as convolution
    from sql_diffusion.autoencoder_tiny_config(config) as c
  ),
  -- The layers of a part are one torch.nn.Sequential, which numbers them. Of the encoder each level is a convolution and so many blocks, ...
  encoder_level as (
    select b.number::int - 1 as level, b.blocks, (sum(b.blocks + 1) over (order by b.number))::int - b.blocks - 1 as first
    from size, lateral (select e.blocks::int as blocks, e.number from jsonb_array_elements_text(c -> 'num_encoder_blocks') with ordinality e (blocks, number)) b
  ),
  -- ... of the decoder, behind its first convolution and ReLU, so many blocks, the upsampling but for the last level, and a convolution.
  decoder_level as (
    select decoder_deepest - b.number::int + 1 as level, b.number::int as number, b.blocks, (sum(b.blocks + 2) over (order by b.number))::int - b.blocks as first
    from size, lateral (select d.blocks::int as blocks, d.number from jsonb_array_elements_text(c -> 'num_decoder_blocks') with ordinality d (blocks, number)) b
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, level, settings) as (
    select array[0, 0], null, 'input', 'image', null::text[], in_channels, in_channels, 0, '{}'::jsonb
    from size
    union all
    select array[0, 1], null, 'affine', null, array[null], in_channels, in_channels, 0, '{"scale": 0.5, "shift": 0.5}'
    from size
    union all
    select array[1, l.level, 0], format('encoder.layers.%s', l.first + 1), 'conv2d', format('encoder.layers.%s', l.first), array[null],
           case l.level when 0 then in_channels else encoder_channels end, encoder_channels, l.level,
           case l.level when 0 then convolution else convolution || '{"stride": 2, "bias": false}' end
    from size, encoder_level l
    union all
    select array[1, l.level, b] || d.place, d.label, d.operation, d.key, d.inputs, d.in_channels, d.out_channels, d.level, d.settings
    from size, encoder_level l, generate_series(1, l.blocks) b, sql_diffusion.tiny_block_draft(format('encoder.layers.%s', l.first + b), encoder_channels, l.level) d
    union all
    select array[2], null, 'conv2d', format('encoder.layers.%s', l.first + l.blocks + 1), array[null], encoder_channels, latent_channels, encoder_deepest, convolution
    from size, encoder_level l
    where l.level = encoder_deepest

    union all
    select array[3, 0], null, 'input', 'latent', null, latent_channels, latent_channels, decoder_deepest, '{}'
    from size
    union all
    select array[3, 1], null, 'soft_clamp', null, array[null], latent_channels, latent_channels, decoder_deepest, '{"limit": 3}'
    from size
    union all
    select array[3, 2], null, 'conv2d', 'decoder.layers.0', array[null], latent_channels, decoder_channels, decoder_deepest, convolution
    from size
    union all
    select array[3, 3], 'decoder.layers.2', 'relu', null, array[null], decoder_channels, decoder_channels, decoder_deepest, '{}'
    from size
    union all
    select array[4, l.number, b] || d.place, d.label, d.operation, d.key, d.inputs, d.in_channels, d.out_channels, d.level, d.settings
    from size, decoder_level l, generate_series(1, l.blocks) b, sql_diffusion.tiny_block_draft(format('decoder.layers.%s', l.first + b - 1), decoder_channels, l.level) d
    union all
    select array[4, l.number, l.blocks + 1], format('decoder.layers.%s', l.first + l.blocks + 2), 'conv2d', format('decoder.layers.%s', l.first + l.blocks + case l.level when 0 then 0 else 1 end),
           array[null], decoder_channels, case l.level when 0 then out_channels else decoder_channels end, greatest(l.level - 1, 0),
           case l.level when 0 then convolution else convolution || '{"bias": false, "scale_factor": 2}' end
    from size, decoder_level l
    union all
    select array[5], null, 'affine', null, array[null], out_channels, out_channels, 0, '{"scale": 2, "shift": -1}'
    from size
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.autoencoder_tiny_plan(jsonb) is
  'The steps of an AutoencoderTiny of this configuration: the encoder takes the input image (channels, height, width, values -1 to 1) to a latent, the decoder the input latent to an image.';
