create function sql_diffusion.attention_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 4
begin atomic
  select p.name,
         case p.ordinality when 4 then array[(step).out_channels, s.inner_channels]
                           when 1 then array[s.inner_channels, (step).in_channels]
                           else array[s.inner_channels, s.context_channels] end,
         case p.ordinality when 4 then true else (step).settings ->> 'bias' = 'true' end,
         1
  from (select ((step).settings ->> 'inner_channels')::int as inner_channels,
               coalesce(((step).settings ->> 'context_channels')::int, (step).in_channels) as context_channels) s,
       jsonb_array_elements_text((step).settings -> 'projections') with ordinality p (name, ordinality);
end;
comment on function sql_diffusion.attention_modules(sql_diffusion.plan_step) is 'The four linear layers of attention: inner_channels are all heads together, context_channels those of what is attended to.';

create function sql_diffusion.run_attention(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.attention_of_maps(inputs[1], inputs[3], model, component, (step).key, ((step).settings ->> 'heads')::int, component, (inputs[2]).planes,
                                       coalesce(((step).settings ->> 'is_causal')::boolean, false),
                                       projections => array(select p.name from jsonb_array_elements_text((step).settings -> 'projections') with ordinality p (name, ordinality) order by p.ordinality)) maps;
end;
comment on function sql_diffusion.run_attention(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Attention of the pixels or tokens of the first input to those of the third, or to each other where there is none, plus the second input.';
