create function sql_diffusion.embedding_draft(key text, input text, in_channels int, out_channels int, label text, act_fn text default 'silu') returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 3
begin atomic
  select row(array[0], null, 'linear', embedding_draft.key || '.linear_1', array[input], embedding_draft.in_channels, embedding_draft.out_channels, null, '{}')::sql_diffusion.plan_draft
  union all
  select row(array[1], null, sql_diffusion.activation(act_fn), null, array[null], embedding_draft.out_channels, embedding_draft.out_channels, null, '{}')::sql_diffusion.plan_draft
  union all
  select row(array[2], embedding_draft.label, 'linear', embedding_draft.key || '.linear_2', array[null], embedding_draft.out_channels, embedding_draft.out_channels, null, '{}')::sql_diffusion.plan_draft;
end;
comment on function sql_diffusion.embedding_draft(text, text, int, int, text, text) is
  'diffusers'' TimestepEmbedding as steps: linear_1, the activation, linear_2. input is the label of what goes in (NULL for the step before), label what the result is called.';
