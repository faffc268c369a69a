create function sql_diffusion.downsample_of_maps(input sql_diffusion.feature_maps, model text, key text, padding int, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select case when padding = 0
               then sql_diffusion.to_maps(sql_diffusion.pad(sql_diffusion.from_maps(input), 0, 1, 0, 1))
               else input
               end as maps offset 0) padded,
       sql_diffusion.conv2d_module(padded.maps, model, component, key || '.conv', 2, padding, 'downsample') maps
  offset 0;
end;
comment on function sql_diffusion.downsample_of_maps(sql_diffusion.feature_maps, text, text, int, text) is 'downsample of feature maps, without the check of its padding. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.downsample(
  input real[],
  model text,
  key text,
  padding int default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select sql_diffusion.check_tensor(input, 'downsample: input', 'channels, height, width'),
         case when padding is null or padding not in (0, 1) then
           sql_diffusion.fail(format('downsample: padding is %s, expected 0 or 1', coalesce(padding::text, 'null')))
         end;
  select case when padding = 0 and least(array_length(input, 2), array_length(input, 3)) < 2 then
           sql_diffusion.fail(format('downsample: input has shape %s, expected at least 2 pixels in height and width with padding 0', sql_diffusion.shape(input)))
         end;
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.downsample_of_maps(given.maps, model, key, padding, component) output;
end;
comment on function sql_diffusion.downsample(real[], text, text, int, text) is
  'Half the height and width, diffusers'' Downsample2D: the convolution KEY.conv with stride 2. Padding 1 pads all around, 0 only right and bottom. '
  'input and output (channels, height, width).';
