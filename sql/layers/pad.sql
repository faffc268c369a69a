create function sql_diffusion.pad(
  input real[], padding_left int, padding_right int, padding_top int, padding_bottom int, value real default 0
) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(input, 'pad: input', 'channels, height, width'),
         case when least(padding_left, padding_right, padding_top, padding_bottom) < 0 then
           sql_diffusion.fail(format('pad: padding is %s, %s, %s, %s (left, right, top, bottom), expected none below 0',
                                     padding_left, padding_right, padding_top, padding_bottom))
         end,
         case when abs(value) >= 'infinity' then
           sql_diffusion.fail(format('pad: value is %s, expected a finite number', value))
         end;
  select sql_diffusion.check_size(array[array_length(input, 1), padded.height, padded.width], 'pad: output'),
         sql_diffusion.check_values(input, 'pad: input')
  from (select least(array_length(input, 2) + padding_top::bigint + padding_bottom, 2147483647)::int as height,
               least(array_length(input, 3) + padding_left::bigint + padding_right, 2147483647)::int as width) padded;
  select array_agg(plane.rows order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (
         select array_agg(array_fill(value, array[padding_left])
                          || case when y between 1 and array_length(input, 2)
                             then (select array_agg(element) from (select unnest(input[channel:channel][y:y]) as element) elements)
                             else array_fill(value, array[array_length(input, 3)])
                             end
                          || array_fill(value, array[padding_right]) order by y) as rows
         from generate_series(1 - padding_top, array_length(input, 2) + padding_bottom) y) plane;
end;
comment on function sql_diffusion.pad(real[], int, int, int, int, real) is
  'A border of a constant value around each plane of (channels, height, width); the order of the four widths is that of torch.nn.functional.pad.';
