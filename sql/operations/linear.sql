create function sql_diffusion.linear_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('', array[(step).out_channels, (step).in_channels] || case when (step).settings ? 'kernel_size' then '{1,1}'::int[] else '{}' end, coalesce(((step).settings ->> 'bias')::boolean, true), 1)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.linear_modules(sql_diffusion.plan_step) is 'The module of a linear layer; with kernel_size 1 among the settings its weight is that of a convolution.';

create function sql_diffusion.run_linear(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.linear_of_maps(inputs[1], model, component, (step).key, component, (inputs[2]).planes) maps;
end;
comment on function sql_diffusion.run_linear(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'A linear layer of each pixel or token of the first input, plus the second, where there is one.';
