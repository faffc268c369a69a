-- VQModel: an autoencoder whose latents are vectors of a codebook. Neural Discrete Representation Learning (van den Oord et al., arXiv 1711.00937);
-- Rombach et al. (arXiv 2112.10752), section 3.1, "VQ-reg."; as diffusers writes it.

create function sql_diffusion.vq_model_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "_class_name": "VQModel", "in_channels": 3, "out_channels": 3, "down_block_types": ["DownEncoderBlock2D"], "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [64], "layers_per_block": 1, "act_fn": "silu", "latent_channels": 3, "sample_size": 32, "num_vq_embeddings": 256,
    "norm_num_groups": 32, "vq_embed_dim": null, "scaling_factor": 0.18215, "norm_type": "group", "mid_block_add_attention": true,
    "lookup_from_codebook": false, "force_upcast": false
  }'::jsonb || config else config end;
comment on function sql_diffusion.vq_model_config(jsonb) is
  'A VQModel configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.vq_model_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select sql_diffusion.image_shape(c -> 'in_channels', c -> 'sample_size') from sql_diffusion.vq_model_config(config) as c);
comment on function sql_diffusion.vq_model_sample_shape(jsonb) is
  'The shape (channels, height, width) of the images of a VQModel of this configuration; latents have half the height and width for each of block_out_channels but one.';

create function sql_diffusion.check_vq_model(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('vqvae', sql_diffusion.vq_model_config(config), array[
           ['in_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['out_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['latent_channels', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['num_vq_embeddings', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['vq_embed_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['down_block_types', 'a list of DownEncoderBlock2D and AttnDownEncoderBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "DownEncoderBlock2D" && @ != "AttnDownEncoderBlock2D"))'],
           ['up_block_types', 'a list of UpDecoderBlock2D and AttnUpDecoderBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "UpDecoderBlock2D" && @ != "AttnUpDecoderBlock2D"))'],
           ['block_out_channels', 'a list of positive integers',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @))'],
           ['layers_per_block', 'a positive integer', '$ >= 1 && $.floor() == $']
         ] || sql_diffusion.act_fn_rule() || array[
           ['norm_num_groups', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['norm_type', '"group"', '$ == "group"'],
           ['sample_size', 'a positive integer or a pair of them (height, width)',
             '($.type() == "number" && $ >= 1 && $.floor() == $) || ($.type() == "array" && $.size() == 2 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['scaling_factor', 'a positive number', '$ > 0'],
           ['mid_block_add_attention', 'a boolean', '$ == true || $ == false'],
           ['lookup_from_codebook', 'a boolean', '$ == true || $ == false'],
           ['force_upcast', 'a boolean', '$ == true || $ == false']
         ]);
  select sql_diffusion.check_known_settings('vqvae', config, sql_diffusion.vq_model_config('{}'));
  select sql_diffusion.check_autoencoder_sizes('vqvae', sql_diffusion.vq_model_config(config));
end;
comment on function sql_diffusion.check_vq_model(jsonb) is
  'True for a VQModel configuration that can be run, otherwise an error (0A000) that names the setting that cannot.';

create function sql_diffusion.vq_model_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 70
begin atomic
  with given as (
    select sql_diffusion.vq_model_config(config) as c
  ),
  size as (
    select c,
           array(select b.channels::int from jsonb_array_elements_text(c -> 'block_out_channels') with ordinality b (channels, ordinality) order by b.ordinality) as block_out_channels,
           jsonb_array_length(c -> 'block_out_channels') - 1 as deepest,
           (c ->> 'in_channels')::int as in_channels,
           (c ->> 'out_channels')::int as out_channels,
           (c ->> 'latent_channels')::int as latent_channels,
           coalesce(c ->> 'vq_embed_dim', c ->> 'latent_channels')::int as vq_embed_dim,
           (c ->> 'layers_per_block')::int as layers,
           (c ->> 'norm_num_groups')::int as num_groups,
           (c ->> 'mid_block_add_attention')::boolean as mid_block_attends,
           '{"kernel_size": 1, "stride": 1, "padding": 0}'::jsonb as pointwise
    from given
  ),
  step (place, operation, key, inputs, in_channels, out_channels, level, settings) as (
    select array[0], 'input', 'image', null::text[], in_channels, in_channels, 0, '{}'::jsonb
    from size
    union all
    select array[1] || e.place, e.operation, e.key, e.inputs, e.in_channels, e.out_channels, e.level, e.settings
    from size, sql_diffusion.encoder_draft(in_channels, latent_channels, block_out_channels, array(select jsonb_array_elements_text(c -> 'down_block_types')), layers, num_groups, mid_block_attends, c ->> 'act_fn') e
    union all
    select array[2], 'conv2d', 'quant_conv', array[null], latent_channels, vq_embed_dim, deepest, pointwise
    from size

    union all
    select array[3], 'input', 'latent', null, vq_embed_dim, vq_embed_dim, deepest, '{}'
    from size
    union all
    select array[4, 0], 'quantize', 'quantize.embedding', array[null], vq_embed_dim, vq_embed_dim, deepest, jsonb_build_object('num_embeddings', c -> 'num_vq_embeddings')
    from size
    union all
    select array[4, 1], 'conv2d', 'post_quant_conv', array[null], vq_embed_dim, latent_channels, deepest, pointwise
    from size
    union all
    select array[5] || d.place, d.operation, d.key, d.inputs, d.in_channels, d.out_channels, d.level, d.settings
    from size, sql_diffusion.decoder_draft(latent_channels, out_channels, block_out_channels, array(select jsonb_array_elements_text(c -> 'up_block_types')), layers, num_groups, mid_block_attends, c ->> 'act_fn') d
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, null, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, s.level, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.vq_model_plan(jsonb) is
  'The steps of a VQModel of this configuration: the encoder takes the input image (channels, height, width) to a latent; the decoder takes the input latent to the nearest vectors of the codebook and these to an image.';
