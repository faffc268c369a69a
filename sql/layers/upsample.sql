create function sql_diffusion.upsample_of_maps(input sql_diffusion.feature_maps, model text, key text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(input, model, component, key || '.conv', 1, 1, 'upsample', scale_factor => 2) maps
  offset 0;
end;
comment on function sql_diffusion.upsample_of_maps(sql_diffusion.feature_maps, text, text, text) is 'upsample of feature maps. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.upsample(
  input real[],
  model text,
  key text,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select sql_diffusion.check_tensor(input, 'upsample: input', 'channels, height, width'),
         sql_diffusion.check_values(input, 'upsample: input');
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.upsample_of_maps(given.maps, model, key, component) output;
end;
comment on function sql_diffusion.upsample(real[], text, text, text) is
  'Twice the height and width, diffusers'' Upsample2D: interpolate_nearest, then the 3x3 convolution KEY.conv. input and output (channels, height, width).';
