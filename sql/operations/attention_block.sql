create function sql_diffusion.attention_block_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 5
begin atomic
  select m.suffix, m.weight_shape, true, m.scale
  from (values
         ('group_norm', array[(step).in_channels], null, (step).settings ->> 'num_groups' is not null),
         ('to_q', array[((step).settings ->> 'inner_channels')::int, (step).in_channels], 1, true),
         ('to_k', array[((step).settings ->> 'inner_channels')::int, (step).in_channels], 1, true),
         ('to_v', array[((step).settings ->> 'inner_channels')::int, (step).in_channels], 1, true),
         ('to_out.0', array[(step).in_channels, ((step).settings ->> 'inner_channels')::int], 1, true)
       ) as m (suffix, weight_shape, scale, present)
  where m.present;
end;
comment on function sql_diffusion.attention_block_modules(sql_diffusion.plan_step) is 'The modules of self-attention: the norm where there are groups, and four linear layers, inner_channels being all heads together.';

create function sql_diffusion.run_attention_block(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.attention_block_of_maps(inputs[1], model, (step).key, ((step).settings ->> 'heads')::int, ((step).settings ->> 'num_groups')::int,
                                             ((step).settings ->> 'eps')::double precision, ((step).settings ->> 'output_scale_factor')::double precision, component) maps;
end;
comment on function sql_diffusion.run_attention_block(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Self-attention among the pixels of the input, with a residual.';
