create function sql_diffusion.concatenate(a real[], b real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(a, 'concatenate: a', 'channels, height, width'),
         sql_diffusion.check_tensor(b, 'concatenate: b', 'channels, height, width');
  select case when (sql_diffusion.shape(a))[2:] <> (sql_diffusion.shape(b))[2:] then
           sql_diffusion.fail(format('concatenate: b has shape %s, expected the height and width of a, %s',
                                     sql_diffusion.shape(b), sql_diffusion.shape(a)))
         end,
         sql_diffusion.check_values(a, 'concatenate: a'),
         sql_diffusion.check_values(b, 'concatenate: b');
  select a || b;
end;
comment on function sql_diffusion.concatenate(real[], real[]) is
  'The channels of a, then those of b: (channels a, height, width) and (channels b, height, width) to (channels a + b, height, width), torch.cat along the channels.';
