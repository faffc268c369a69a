create function sql_diffusion.upsample(
  input real[],
  model text,
  key text,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.check_tensor(input, 'upsample: input', 'channels, height, width');
  select sql_diffusion.conv2d_module(sql_diffusion.interpolate_nearest(input), model, component, key || '.conv', 1, 1, 'upsample');
end;
comment on function sql_diffusion.upsample(real[], text, text, text) is
  'Twice the height and width, diffusers'' Upsample2D: interpolate_nearest, then the 3x3 convolution KEY.conv. input and output (channels, height, width).';
