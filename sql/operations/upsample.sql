create function sql_diffusion.upsample_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('conv', array[(step).out_channels, (step).in_channels, 3, 3], true, 2)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.upsample_modules(sql_diffusion.plan_step) is 'The convolution of an upsampling, which meets the image already enlarged.';

create function sql_diffusion.run_upsample(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.upsample_of_maps(inputs[1], model, (step).key, component, (inputs[2]).height, (inputs[2]).width) maps;
end;
comment on function sql_diffusion.run_upsample(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Twice the height and width of the first input, less a row or a column at the end where the second has an odd number of them.';
