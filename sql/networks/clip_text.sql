-- CLIPTextModel, CLIPTextModelWithProjection: CLIP's text encoder, which reads the prompts of Stable Diffusion. Learning Transferable Visual Models
-- From Natural Language Supervision (Radford et al., arXiv 2103.00020), section 2.4; as transformers writes it.

create function sql_diffusion.clip_text_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "vocab_size": 49408, "hidden_size": 512, "intermediate_size": 2048, "projection_dim": 512, "num_hidden_layers": 12, "num_attention_heads": 8, "max_position_embeddings": 77,
    "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407
  }'::jsonb || config else config end;
comment on function sql_diffusion.clip_text_config(jsonb) is 'A CLIPTextConfig with the settings that it leaves out filled in as transformers does.';

create function sql_diffusion.clip_text_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select array[1, 1, (c ->> 'max_position_embeddings')::int] from sql_diffusion.clip_text_config(config) as c);
comment on function sql_diffusion.clip_text_sample_shape(jsonb) is 'The shape (1, 1, tokens) of what a text encoder of this configuration reads.';

create function sql_diffusion.check_clip_text(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('text_encoder', sql_diffusion.clip_text_config(config), array[
           ['vocab_size', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['hidden_size', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['intermediate_size', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['projection_dim', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['num_hidden_layers', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['num_attention_heads', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['max_position_embeddings', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['hidden_act', '"quick_gelu" or "gelu"', '$ == "quick_gelu" || $ == "gelu"'],
           ['layer_norm_eps', 'a positive number', '$ > 0'],
           ['eos_token_id', 'an integer', '$.type() == "number" && $.floor() == $']
         ]);
  select case when (c ->> 'hidden_size')::int % (c ->> 'num_attention_heads')::int <> 0
              then sql_diffusion.fail(format('text_encoder: hidden_size is %s, expected a multiple of num_attention_heads, %s', c ->> 'hidden_size', c ->> 'num_attention_heads'), errcode => '0A000')
              else true end
  from sql_diffusion.clip_text_config(config) as c;
end;
comment on function sql_diffusion.check_clip_text(jsonb) is
  'True for the configuration of a CLIP text encoder that can be run, otherwise an error (0A000) that names the setting that cannot. Settings that are not the network''s are passed over: transformers writes many.';

create function sql_diffusion.clip_text_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 100
begin atomic
  with size as (
    select c,
           (c ->> 'hidden_size')::int as channels,
           (c ->> 'intermediate_size')::int as inner_channels,
           (c ->> 'num_hidden_layers')::int as layers,
           jsonb_build_object('eps', c -> 'layer_norm_eps') as norm,
           '{"tokens": true}'::jsonb as tokens
    from sql_diffusion.clip_text_config(config) as c
  ),
  layer as (
    select l.number, format('text_model.encoder.layers.%s', l.number) as key, format('hidden %s', l.number) as hidden
    from size, generate_series(0, layers - 1) as l (number)
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, settings) as (
    select array[0, 0], 'input_ids', 'input', 'input_ids', null::text[], 1, 1, tokens || jsonb_build_object('num_embeddings', c -> 'vocab_size', 'most_tokens', c -> 'max_position_embeddings')
    from size
    union all
    select array[0, 1], null, 'embedding', 'text_model.embeddings.token_embedding', array['input_ids'], 1, channels, jsonb_build_object('num_embeddings', c -> 'vocab_size')
    from size
    union all
    select array[0, 2], 'hidden 0', 'position_embedding', 'text_model.embeddings.position_embedding', array[null], channels, channels, jsonb_build_object('num_embeddings', c -> 'max_position_embeddings')
    from size
    union all
    select array[0, 3], null, 'output', 'hidden_states.0', array['hidden 0'], channels, channels, '{}'
    from size

    union all
    select array[1, l.number, 0], null, 'layer_norm', l.key || '.layer_norm1', array[l.hidden], channels, channels, norm
    from size, layer l
    union all
    select array[1, l.number, 1], l.key || '.self_attn', 'attention', l.key || '.self_attn', array[null, l.hidden], channels, channels,
           tokens || jsonb_build_object('heads', c -> 'num_attention_heads', 'inner_channels', channels, 'bias', true, 'is_causal', true,
                                        'projections', '["q_proj", "k_proj", "v_proj", "out_proj"]'::jsonb)
    from size, layer l
    union all
    select array[1, l.number, 2], null, 'layer_norm', l.key || '.layer_norm2', array[null], channels, channels, norm
    from size, layer l
    union all
    select array[1, l.number, 3], null, 'linear', l.key || '.mlp.fc1', array[null], channels, inner_channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 4], null, c ->> 'hidden_act', null, array[null], inner_channels, inner_channels, case c ->> 'hidden_act' when 'gelu' then '{"approximate": "none"}'::jsonb else '{}' end
    from size, layer l
    union all
    select array[1, l.number, 5], format('hidden %s', l.number + 1), 'linear', l.key || '.mlp.fc2', array[null, l.key || '.self_attn'], inner_channels, channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 6], null, 'output', format('hidden_states.%s', l.number + 1), array[format('hidden %s', l.number + 1)], channels, channels, '{}'
    from size, layer l

    union all
    select array[2, 0], 'last_hidden_state', 'layer_norm', 'text_model.final_layer_norm', array[format('hidden %s', layers)], channels, channels, norm
    from size
    union all
    select array[2, 1], null, 'output', 'last_hidden_state', array[null], channels, channels, '{}'
    from size
    union all
    -- Checkpoints from before transformers 4.30 say 2 for a token that is none: there the end is the greatest id.
    select array[2, 2], 'pooled', 'select_token', null, array['last_hidden_state', 'input_ids'], channels, channels,
           case when c ->> 'eos_token_id' = '2' then '{}' else jsonb_build_object('token_id', c -> 'eos_token_id') end
    from size
    union all
    select array[2, 3], null, 'output', 'pooler_output', array[null], channels, channels, '{}'
    from size
    union all
    select array[2, 4], null, 'linear', 'text_projection', array['pooled'], channels, (c ->> 'projection_dim')::int, '{"bias": false}'
    from size
    where sql_diffusion.network_class(config) = 'CLIPTextModelWithProjection'
    union all
    select array[2, 5], null, 'output', 'text_embeds', array[null], (c ->> 'projection_dim')::int, (c ->> 'projection_dim')::int, '{}'
    from size
    where sql_diffusion.network_class(config) = 'CLIPTextModelWithProjection'
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, null, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.clip_text_plan(jsonb) is
  'The steps of CLIP''s text encoder of this configuration. Input: input_ids (tokens). Outputs: hidden_states.N after N layers, last_hidden_state (tokens, features), pooler_output (features), the features of the '
  'token that ends the text, and, of a CLIPTextModelWithProjection, text_embeds (features).';
