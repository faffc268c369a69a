create function sql_diffusion.interpolate_nearest(input real[], scale_factor int default 2) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'interpolate_nearest: input', 'channels, height, width'),
         case when scale_factor < 1 then
           sql_diffusion.fail(format('interpolate_nearest: scale_factor is %s, expected at least 1', scale_factor))
         end;
  select sql_diffusion.check_size(array[array_length(input, 1), least(array_length(input, 2)::bigint * scale_factor, 2147483647)::int,
                                        least(array_length(input, 3)::bigint * scale_factor, 2147483647)::int], 'interpolate_nearest: output'),
         sql_diffusion.check_values(input, 'interpolate_nearest: input');
  select array_agg(plane.rows order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (
         select array_agg(line.elements order by y, copy) as rows
         from generate_series(1, array_length(input, 2)) y,
              lateral (
                select array_agg(repeated.element) as elements
                from (select unnest(array_fill(pixel.element, array[scale_factor])) as element
                      from (select unnest(input[channel:channel][y:y]) as element) pixel) repeated) line,
              generate_series(1, scale_factor) copy) plane;
end;
comment on function sql_diffusion.interpolate_nearest(real[], int) is
  'Every pixel of (channels, height, width) becomes a square of scale_factor pixels: torch.nn.functional.interpolate with mode nearest.';
