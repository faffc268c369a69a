create function sql_diffusion.layer_norm_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('', array[(step).in_channels], true, null)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.layer_norm_modules(sql_diffusion.plan_step) is 'The module of a norm.';

create function sql_diffusion.run_layer_norm(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.layer_norm_module(inputs[1], model, component, (step).key, ((step).settings ->> 'eps')::double precision, component) maps;
end;
comment on function sql_diffusion.run_layer_norm(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'A layer norm over the channels of each pixel or token.';
