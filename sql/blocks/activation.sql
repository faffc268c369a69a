-- The activations that diffusers' act_fn may name, in any letters: swish is another name of silu.

create function sql_diffusion.act_fn_rule() returns text[]
language sql immutable parallel safe
return array['act_fn', '"silu", "gelu", "mish" or "relu"', '$ like_regex "^(s[iI]lu|sw[iI]sh|gelu|m[iI]sh|relu)$" flag "i"'];
comment on function sql_diffusion.act_fn_rule() is 'What act_fn of a network may be, as check_settings takes it: the setting, the words, the condition.';

create function sql_diffusion.activation(act_fn text) returns text
language sql immutable strict parallel safe
return case lower(act_fn collate "C") when 'swish' then 'silu' else lower(act_fn collate "C") end;
comment on function sql_diffusion.activation(text) is 'The operation that a network''s act_fn names: silu, gelu, mish or relu.';

create function sql_diffusion.activation_settings(act_fn text) returns jsonb
language sql immutable strict parallel safe
return case sql_diffusion.activation(act_fn) when 'silu' then '{}' else jsonb_build_object('non_linearity', sql_diffusion.activation(act_fn)) end;
comment on function sql_diffusion.activation_settings(text) is 'What the settings of a residual block have of a network''s act_fn: non_linearity, where it is not SiLU.';

create function sql_diffusion.norm_out_draft(key text, channels int, level int, norm jsonb, act_fn text) returns setof sql_diffusion.plan_draft
language sql immutable parallel safe rows 2
begin atomic
  select row(array[0], null, 'group_norm', norm_out_draft.key, array[null], channels, channels, norm_out_draft.level,
             norm || jsonb_build_object('silu', sql_diffusion.activation(act_fn) = 'silu'))::sql_diffusion.plan_draft
  union all
  select row(array[1], null, sql_diffusion.activation(act_fn), null, array[null], channels, channels, norm_out_draft.level, '{}')::sql_diffusion.plan_draft
  where sql_diffusion.activation(act_fn) <> 'silu';
end;
comment on function sql_diffusion.norm_out_draft(text, int, int, jsonb, text) is
  'The norm before the last convolution of a network and the activation behind it. norm: num_groups and eps.';
