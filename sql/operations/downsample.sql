create function sql_diffusion.downsample_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('conv', array[(step).out_channels, (step).in_channels, 3, 3], true, 1)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.downsample_modules(sql_diffusion.plan_step) is 'The convolution of a downsampling.';

create function sql_diffusion.run_downsample(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.downsample_of_maps(inputs[1], model, (step).key, ((step).settings ->> 'padding')::int, component) maps;
end;
comment on function sql_diffusion.run_downsample(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Half the height and width of the input.';
