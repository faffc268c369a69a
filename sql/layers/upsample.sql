create function sql_diffusion.upsample_of_maps(input sql_diffusion.feature_maps, model text, key text, component text, height int default null, width int default null) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  -- What diffusers interpolates to 2 n - 1 rows is what it interpolates to 2 n without the last: halving took n of as many.
  from (select case when whole.size then input
                    else sql_diffusion.to_maps((sql_diffusion.interpolate_nearest(sql_diffusion.from_maps(input), 2))[:][1:upsample_of_maps.height][1:upsample_of_maps.width]) end as maps,
               case when whole.size then 2 else 1 end as scale_factor
        from (select coalesce(upsample_of_maps.height = 2 * (input).height and upsample_of_maps.width = 2 * (input).width, true) as size) whole
        offset 0) given,
       sql_diffusion.conv2d_module(given.maps, model, component, key || '.conv', 1, 1, 'upsample', scale_factor => given.scale_factor) maps
  offset 0;
end;
comment on function sql_diffusion.upsample_of_maps(sql_diffusion.feature_maps, text, text, text, int, int) is
  'upsample of feature maps, without what goes beyond a height and width (NULL: the doubled ones). A set of one row, so that the planner puts the query in its place.';

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
