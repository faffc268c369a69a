-- GPT2LMHeadModel: GPT-2, which reads a text and says what may come next. Language Models are Unsupervised Multitask Learners (Radford et al., 2019),
-- section 2.3; as transformers writes it.
--
-- A text grows by a token at a time, and of the tokens before no layer needs more than their keys and values. These are inputs and outputs like
-- any other: what a pass gives under the name past_key_values.0, past_key_values.1, ... the next one takes under the same names, and only the new token goes in.

create function sql_diffusion.gpt2_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "vocab_size": 50257, "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "n_inner": null, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": true, "scale_attn_by_inverse_layer_idx": false, "add_cross_attention": false, "tie_word_embeddings": true, "eos_token_id": 50256
  }'::jsonb || config else config end;
comment on function sql_diffusion.gpt2_config(jsonb) is 'A GPT2Config with the settings that it leaves out filled in as transformers does.';

create function sql_diffusion.gpt2_sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return (select array[1, 1, (c ->> 'n_positions')::int] from sql_diffusion.gpt2_config(config) as c);
comment on function sql_diffusion.gpt2_sample_shape(jsonb) is 'The shape (1, 1, tokens) of the longest text that a GPT-2 of this configuration reads.';

create function sql_diffusion.check_gpt2(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('transformer', sql_diffusion.gpt2_config(config), array[
           ['vocab_size', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['n_positions', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['n_embd', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['n_layer', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['n_head', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['n_inner', 'null or a positive integer', '$ == null || $ >= 1 && $.floor() == $'],
           ['activation_function', '"gelu_new" or "gelu"', '$ == "gelu_new" || $ == "gelu"'],
           ['layer_norm_epsilon', 'a positive number', '$ > 0'],
           ['scale_attn_weights', 'true or false', '$ == true || $ == false'],
           ['scale_attn_by_inverse_layer_idx', 'true or false', '$ == true || $ == false'],
           ['add_cross_attention', 'false', '$ == false'],
           ['tie_word_embeddings', 'true or false', '$ == true || $ == false'],
           ['eos_token_id', 'null or an integer', '$ == null || $.type() == "number" && $.floor() == $']
         ]);
  select case when (c ->> 'n_embd')::int % (c ->> 'n_head')::int <> 0
              then sql_diffusion.fail(format('transformer: n_embd is %s, expected a multiple of n_head, %s', c ->> 'n_embd', c ->> 'n_head'), errcode => '0A000')
              else true end
  from sql_diffusion.gpt2_config(config) as c;
end;
comment on function sql_diffusion.check_gpt2(jsonb) is
  'True for the configuration of a GPT-2 that can be run, otherwise an error (0A000) that names the setting that cannot. Settings that are not the network''s are passed over: transformers writes many.';

create function sql_diffusion.gpt2_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 150
begin atomic
  with size as (
    select c,
           (c ->> 'n_embd')::int as channels,
           coalesce((c ->> 'n_inner')::int, 4 * (c ->> 'n_embd')::int) as inner_channels,
           (c ->> 'n_layer')::int as layers,
           (c ->> 'vocab_size')::int as vocab_size,
           case when (c ->> 'scale_attn_weights')::boolean then 1 / sqrt(((c ->> 'n_embd')::int / (c ->> 'n_head')::int)::double precision) else 1 end as scale,
           jsonb_build_object('eps', c -> 'layer_norm_epsilon') as norm,
           '{"tokens": true}'::jsonb as tokens
    from sql_diffusion.gpt2_config(config) as c
  ),
  layer as (
    select l.number, format('h.%s', l.number) as key, format('hidden %s', l.number) as hidden, format('attended %s', l.number) as attended, format('past_key_values.%s', l.number) as past,
           s.scale / case when (s.c ->> 'scale_attn_by_inverse_layer_idx')::boolean then l.number + 1 else 1 end as scale
    from size s, generate_series(0, s.layers - 1) as l (number)
  ),
  step (place, label, operation, key, inputs, in_channels, out_channels, settings) as (
    select array[0, 0], 'input_ids', 'input', 'input_ids', null::text[], 1, 1, tokens || jsonb_build_object('num_embeddings', vocab_size, 'most_tokens', c -> 'n_positions')
    from size
    union all
    select array[0, 1], 'position_ids', 'input', 'position_ids', null, 1, 1, tokens || jsonb_build_object('num_embeddings', c -> 'n_positions')
    from size
    union all
    select array[0, 2], 'tokens', 'embedding', 'wte', array['input_ids'], 1, channels, jsonb_build_object('num_embeddings', vocab_size)
    from size
    union all
    select array[0, 3], null, 'embedding', 'wpe', array['position_ids'], 1, channels, jsonb_build_object('num_embeddings', c -> 'n_positions')
    from size
    union all
    select array[0, 4], 'hidden 0', 'add', null, array['tokens', null], channels, channels, '{}'
    from size
    union all
    select array[0, 5], null, 'output', 'hidden_states.0', array['hidden 0'], channels, channels, '{}'
    from size

    union all
    select array[1, l.number, 0], null, 'layer_norm', l.key || '.ln_1', array[l.hidden], channels, channels, norm
    from size, layer l
    union all
    select array[1, l.number, 1], l.key || '.attn.c_attn', 'linear', l.key || '.attn.c_attn', array[null], channels, 3 * channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 2], null, 'input', l.past, null, 2 * channels, 2 * channels, tokens || '{"optional": true}'
    from size, layer l
    union all
    select array[1, l.number, 3], l.past, 'key_value_cache', null, array[l.key || '.attn.c_attn', null], 3 * channels, 2 * channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 4], null, 'output', l.past, array[l.past], 2 * channels, 2 * channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 5], null, 'causal_attention', null, array[l.key || '.attn.c_attn', l.past], 3 * channels, channels,
           tokens || jsonb_build_object('heads', c -> 'n_head', 'scale', l.scale)
    from size, layer l
    union all
    select array[1, l.number, 6], l.attended, 'linear', l.key || '.attn.c_proj', array[null, l.hidden], channels, channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 7], null, 'layer_norm', l.key || '.ln_2', array[null], channels, channels, norm
    from size, layer l
    union all
    select array[1, l.number, 8], null, 'linear', l.key || '.mlp.c_fc', array[null], channels, inner_channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 9], null, 'gelu', null, array[null], inner_channels, inner_channels, jsonb_build_object('approximate', case c ->> 'activation_function' when 'gelu' then 'none' else 'tanh' end)
    from size, layer l
    union all
    select array[1, l.number, 10], format('hidden %s', l.number + 1), 'linear', l.key || '.mlp.c_proj', array[null, l.attended], inner_channels, channels, tokens
    from size, layer l
    union all
    select array[1, l.number, 11], null, 'output', format('hidden_states.%s', l.number + 1), array[format('hidden %s', l.number + 1)], channels, channels, '{}'
    from size, layer l

    union all
    select array[2, 0], 'last_hidden_state', 'layer_norm', 'ln_f', array[format('hidden %s', layers)], channels, channels, norm
    from size
    union all
    -- What comes after the text is said at its last token.
    select array[2, 1], null, 'select_token', null, array['last_hidden_state', 'input_ids'], channels, channels, '{"last": true}'
    from size
    union all
    select array[2, 2], null, 'linear', case when (c ->> 'tie_word_embeddings')::boolean then 'wte' else 'lm_head' end, array[null], channels, vocab_size, '{"bias": false}'
    from size
    union all
    select array[2, 3], null, 'output', 'logits', array[null], vocab_size, vocab_size, '{}'
    from size
  )
  select p
  from sql_diffusion.number_steps(array(select row(s.place, s.label, s.operation, s.key, s.inputs, s.in_channels, s.out_channels, null, s.settings)::sql_diffusion.plan_draft from step s)) p;
end;
comment on function sql_diffusion.gpt2_plan(jsonb) is
  'The steps of a GPT-2 of this configuration. Inputs: input_ids (tokens), their places in the text position_ids (tokens), from 0, and past_key_values.N (tokens, twice the features), the keys and values that layer N made of the tokens '
  'before these, none for the first. Outputs: past_key_values.N with these tokens, hidden_states.N after N layers, and logits (vocabulary), of the token that comes after the last one.';
