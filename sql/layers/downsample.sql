create function sql_diffusion.downsample(
  input real[],
  model text,
  key text,
  padding int default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.check_tensor(input, 'downsample: input', 'channels, height, width'),
         case when padding is null or padding not in (0, 1) then
           sql_diffusion.fail(format('downsample: padding is %s, expected 0 or 1', coalesce(padding::text, 'null')))
         end;
  select sql_diffusion.conv2d_module(case when padding = 0 then sql_diffusion.pad(input, 0, 1, 0, 1) else input end,
                                     model, component, key || '.conv', 2, padding, 'downsample');
end;
comment on function sql_diffusion.downsample(real[], text, text, int, text) is
  'Half the height and width, diffusers'' Downsample2D: the convolution KEY.conv with stride 2. Padding 1 pads all around, 0 only right and bottom. '
  'input and output (channels, height, width).';
