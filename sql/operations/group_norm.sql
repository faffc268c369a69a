create function sql_diffusion.group_norm_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('', array[(step).in_channels], true, null)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.group_norm_modules(sql_diffusion.plan_step) is 'The module of a norm.';

create function sql_diffusion.run_group_norm(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.group_norm_module(inputs[1], model, component, (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision, ((step).settings ->> 'silu')::boolean, component) maps;
end;
comment on function sql_diffusion.run_group_norm(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'A group norm of the input, and SiLU after it where the settings say silu.';
