-- 2-D convolution as the multiplication of big numbers (Kronecker substitution); doc/fast-sql.md derives it step by step.
--
-- A convolution is a product of polynomials. Write the pixels of one plane, as integers, into one decimal number, 16 digits
-- apart, and the taps of one kernel into another: their product, one numeric multiplication, done in C, has every sum of
-- products in a slot of 16 digits of its own. Adding such products over the input channels adds slot by slot. So one
-- row of work is a pair of channels, not one multiplication of two floats.
--
-- Fixed point. For each input channel c let largest[c] be the largest |weight| that reads it. A tap becomes the integer
-- round(weight / largest[c] * tap_unit), a pixel round(input * largest[c] * pixel_unit): a product then has the same unit
-- in every channel, and a channel of large values that meets small weights costs the others no precision.
--
-- The cap. A slot holds integers of less than 5e15 either way. No sum of products can be larger than
-- tap_unit * pixel_unit * taps * sum over c of (largest[c] * the largest |input| of c), so the units are chosen to keep that below 4.9e15.
--
-- Non-negative digits. A number cannot hold a negative digit: taps get 5500000 added and have 7 digits, pixels 55000000 and 8.
-- Being linear, both are taken out of the sum of products again: sum (K - z box)(X - Z ones), where box and ones have a 1 in
-- each slot that K and X use, is sum K X - Z ones sum K - z box (sum X - channels Z ones).

create function sql_diffusion.conv2d_largest(weight real[]) returns double precision[]
language sql immutable strict parallel safe
set jit = off
return (
  select array_agg((select case when count(tap) < count(*) then 'NaN' else max(abs(tap)) end
                    from (select unnest(weight[:][channel:channel])::float8 as tap) taps) order by channel)
  from generate_series(1, array_length(weight, 2)) channel);
comment on function sql_diffusion.conv2d_largest(real[]) is
  'The largest |weight| of each input channel of a weight of shape (out, in, ...), shape (in); NaN where one is NULL or NaN.';

create function sql_diffusion.conv2d_tap_unit(taps int) returns double precision
language sql immutable strict parallel safe
return least(4499999, sqrt(4.9e15 / taps));
comment on function sql_diffusion.conv2d_tap_unit(int) is
  'The integer that stands for the largest weight of a channel, where an output is a sum of so many products (in * height * width of the kernel). '
  'Half of a slot''s digits go to the taps, half to the pixels; a tap has at most 7.';

create function sql_diffusion.conv2d_kernels(weight real[], largest double precision[], row_stride int)
returns table (out_channel int, kernels numeric[])
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select o as out_channel,
         kernel.numbers || (select sum(number) from (select unnest(kernel.numbers) as number) numbers) as kernels
  from (select array_length(weight, 2) as channels,
               coalesce(array_length(weight, 3), 1) as height,
               coalesce(array_length(weight, 4), 1) as width offset 0) size,
       lateral (select repeat('0', 16 * (row_stride - size.width) + 9) as gap,
                       array_agg(factor) as factors
                from (select unnest(array_fill(coalesce(sql_diffusion.conv2d_tap_unit(size.channels * size.height * size.width)
                                                        / nullif(channel.largest, 0), 0), array[size.height * size.width])) as factor
                      from (select unnest(largest) as largest) channel) factors offset 0) layer,
       generate_series(1, array_length(weight, 1)) o,
       -- the taps of all input channels, the last first, so that tap (y, x) ends up at the power y * row_stride + x
       lateral (select convert_to(array_to_string(array_agg(tap.integers[i]), '000000000'), 'SQL_ASCII') as digits
                from (select array_agg((w * factor)::int + 5500000) as integers
                      from (select unnest(weight[o:o]) as w, unnest(layer.factors) as factor) pair) tap,
                     generate_series(size.channels * size.height * size.width, 1, -1) i) taps,
       lateral (select array_agg((select string_agg(encode(substring(taps.digits from 16 * size.width * (size.height * channel + y) + 1
                                                                             for 16 * size.width - 9), 'escape'), layer.gap)
                                  from generate_series(0, size.height - 1) y)::numeric) as numbers
                from generate_series(size.channels - 1, 0, -1) channel) kernel;
end;
comment on function sql_diffusion.conv2d_kernels(real[], double precision[], int) is
  'The kernels of a weight of shape (out, in, height, width) or (out, in) as big numbers, one row an output channel: one number for each input channel, '
  'its rows row_stride slots apart, and their sum as the last. largest is conv2d_largest(weight).';

create function sql_diffusion.conv2d_planes(
  input real[], largest double precision[], taps int, row_stride int, name text,
  out planes numeric[], out unit double precision
)
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
return (
  select (array_agg((select string_agg(line.digits, repeat('0', 16 * (row_stride - array_length(input, 3)) + 8))
                     from generate_series(1, array_length(input, 2)) y,
                          lateral (select array_to_string(array_agg((pixel * (largest[channel] * fixed.unit))::int + 55000000), '00000000') as digits
                                   from (select unnest(input[channel:channel][y:y]) as pixel) pixels) line)::numeric),
          fixed.unit)
  from (select case when not max(size) < 'infinity'
                    then sql_diffusion.fail(name || ' holds null, NaN or infinite values')::int
                    else coalesce(least(44999999 / nullif(max(size), 0),
                                        4.9e15 / sql_diffusion.conv2d_tap_unit(array_length(largest, 1) * taps) / taps / nullif(sum(size), 0)), 1)
               end as unit
        from (select largest[channel] * (select case when count(pixel) < count(*) then 'NaN' else max(abs(pixel)) end
                                         from (select unnest(input[channel:channel])::float8 as pixel) pixels) as size
              from generate_series(1, array_length(input, 1)) channel) sizes) fixed,
       generate_series(1, array_length(input, 1)) channel
  group by fixed.unit);
comment on function sql_diffusion.conv2d_planes(real[], double precision[], int, int, text) is
  'The planes of an input of shape (channels, height, width) as big numbers: pixel (y, x) is slot y * row_stride + x from the most significant end. '
  'unit is the integer that stands for 1 in a channel whose largest weight is 1. The name opens the message where the input is not finite.';

create function sql_diffusion.dot(a numeric[], b numeric[]) returns numeric
language sql immutable strict parallel safe
set jit = off
return (select sum(x * y) from (select unnest(a) as x, unnest(b) as y) pair);
comment on function sql_diffusion.dot(numeric[], numeric[]) is 'The sum of the products of the elements of two arrays of one length.';

create function sql_diffusion.conv2d_core(
  input real[], weight real[], bias real[], stride int, padding int, name text
) returns real[]
language sql immutable parallel safe
set jit = off
set enable_memoize = off
return (
  select array_agg(plane.lines order by kernel.out_channel)
  from (select array_length(weight, 2) as channels,
               array_length(input, 2) as height,
               array_length(input, 3) as width,
               coalesce(array_length(weight, 3), 1) as kernel_height,
               coalesce(array_length(weight, 4), 1) as kernel_width offset 0) size,
       -- padding needs no pixels above and below, and one gap of zeros serves the end of a row and the start of the next
       lateral (select greatest(size.width + padding, size.kernel_width) as row_stride offset 0) row,
       sql_diffusion.conv2d_largest(weight) largest,
       sql_diffusion.conv2d_planes(input, largest, size.kernel_height * size.kernel_width, row.row_stride, name) image,
       lateral (select left(repeat(repeat('0000000000000001', size.width) || repeat('0', 16 * (row.row_stride - size.width)), size.height),
                            16 * ((size.height - 1) * row.row_stride + size.width))::numeric as ones,
                       left(repeat(repeat('0000000000000001', size.kernel_width) || repeat('0', 16 * (row.row_stride - size.kernel_width)), size.kernel_height),
                            16 * ((size.kernel_height - 1) * row.row_stride + size.kernel_width))::numeric as box,
                       -- in every slot of the product 5e15, so that what is read from it is never negative
                       ('1' || repeat('5000000000000000', (size.height + size.kernel_height - 2) * row.row_stride
                                                          + size.width + size.kernel_width - 1))::numeric as half offset 0) constant,
       lateral (select image.planes || -55000000 * constant.ones as planes,
                       constant.half - 5500000 * constant.box * ((select sum(number) from (select unnest(image.planes) as number) numbers)
                                                                 - 55000000::numeric * size.channels * constant.ones) as rest,
                       1 / (image.unit * sql_diffusion.conv2d_tap_unit(size.channels * size.kernel_height * size.kernel_width)) as unit,
                       2 + 16 * ((size.kernel_height - 1 - padding) * row.row_stride + size.kernel_width - 1 - padding) as start offset 0) operand,
       sql_diffusion.conv2d_kernels(weight, largest, row.row_stride) kernel,
       lateral (select convert_to((sql_diffusion.dot(kernel.kernels, operand.planes) + operand.rest)::text, 'SQL_ASCII') as digits,
                       -- what is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow
                       coalesce(bias[kernel.out_channel], 0) + 1e-29 as shift offset 0) product,
       lateral (select array_agg((select array_agg(((encode(substring(product.digits from slot for 16), 'escape')::bigint - 5000000000000000)
                                                    * operand.unit + product.shift - 1e-29)::real)
                                  from generate_series(start, start + 16 * (size.width + 2 * padding - size.kernel_width), 16 * stride) slot)) as lines
                from generate_series(operand.start, operand.start + 16 * row.row_stride * (size.height + 2 * padding - size.kernel_height),
                                     16 * row.row_stride * stride) start) plane);
comment on function sql_diffusion.conv2d_core(real[], real[], real[], int, int, text) is
  'conv2d without its checks, for a padding smaller than the kernel; a weight of shape (out, in) is a 1x1 kernel. The name opens the message where the input is not finite.';

create function sql_diffusion.conv2d(
  input real[],
  weight real[],
  bias real[] default null,
  stride int default 1,
  padding int default 0
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'conv2d: input', 'channels, height, width'),
         sql_diffusion.check_tensor(weight, 'conv2d: weight', 'out, in, height, width'),
         case when bias is not null then sql_diffusion.check_tensor(bias, 'conv2d: bias', 'out') end,
         case when stride is null or stride < 1 then
           sql_diffusion.fail(format('conv2d: stride is %s, expected at least 1', coalesce(stride::text, 'null')))
         end,
         case when padding is null or padding < 0 then
           sql_diffusion.fail(format('conv2d: padding is %s, expected at least 0', coalesce(padding::text, 'null')))
         end;
  select case when array_length(input, 1) <> array_length(weight, 2) then
           sql_diffusion.fail(format('conv2d: input has %s channels, expected %s, as weight of shape %s takes',
                                     array_length(input, 1), array_length(weight, 2), sql_diffusion.shape(weight)))
         end,
         case when array_length(bias, 1) <> array_length(weight, 1) then
           sql_diffusion.fail(format('conv2d: bias has %s elements, expected one for each of the %s output channels of weight',
                                     array_length(bias, 1), array_length(weight, 1)))
         end,
         case when array_length(input, 2) + 2 * padding < array_length(weight, 3) or array_length(input, 3) + 2 * padding < array_length(weight, 4) then
           sql_diffusion.fail(format('conv2d: input of shape %s with padding %s is smaller than the kernel of weight of shape %s',
                                     sql_diffusion.shape(input), padding, sql_diffusion.shape(weight)))
         end,
         sql_diffusion.check_values(input, 'conv2d: input'),
         sql_diffusion.check_values(weight, 'conv2d: weight'),
         sql_diffusion.check_values(bias, 'conv2d: bias');
  select case when padding < least(array_length(weight, 3), array_length(weight, 4))
         then sql_diffusion.conv2d_core(input, weight, bias, stride, padding, 'conv2d: input')
         else sql_diffusion.conv2d_core(sql_diffusion.pad(input, padding, padding, padding, padding), weight, bias, stride, 0, 'conv2d: input')
         end;
end;
comment on function sql_diffusion.conv2d(real[], real[], real[], int, int) is
  '2-D convolution (cross-correlation, as torch.nn.functional.conv2d): input (in, height, width), weight (out, in, kernel height, kernel width), bias (out) or NULL '
  'for none; the output is (out, (height + 2 padding - kernel height) / stride + 1, likewise the width). Exact to about 1e-6 of the largest value.';
