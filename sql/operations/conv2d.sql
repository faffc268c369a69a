create function sql_diffusion.conv2d_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
return row('', array[(step).out_channels, (step).in_channels, ((step).settings ->> 'kernel_size')::int, ((step).settings ->> 'kernel_size')::int],
           coalesce(((step).settings ->> 'bias')::boolean, true), coalesce(((step).settings ->> 'scale_factor')::int, 1))::sql_diffusion.plan_module;
comment on function sql_diffusion.conv2d_modules(sql_diffusion.plan_step) is 'The module of a convolution.';

create function sql_diffusion.run_conv2d(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(inputs[1], model, component, (step).key, ((step).settings ->> 'stride')::int, ((step).settings ->> 'padding')::int, component,
                                   scale_factor => coalesce(((step).settings ->> 'scale_factor')::int, 1)) maps;
end;
comment on function sql_diffusion.run_conv2d(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'A convolution of the first input, with the stride and padding of the settings; where they have a scale_factor, each pixel is repeated so many times down and across first.';
