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
       lateral (select convert_to(repeat('0', 16 * (row_stride - size.width) + 9), 'SQL_ASCII') as gap,
                       array_agg(factor) as factors
                from (select unnest(array_fill(coalesce(sql_diffusion.conv2d_tap_unit(size.channels * size.height * size.width)
                                                        / nullif(channel.largest, 0), 0), array[size.height * size.width])) as factor
                      from (select unnest(largest) as largest) channel) factors offset 0) layer,
       generate_series(1, array_length(weight, 1)) o,
       lateral (select array_agg((w * factor)::int + 5500000) as integers
                from (select unnest(weight[o:o]) as w, unnest(layer.factors) as factor) pair offset 0) tap,
       -- a single tap is its number; of more, those of all input channels are written the last first,
       -- so that tap (y, x) ends up at the power y * row_stride + x, and cut into channels and rows
       lateral (select case when size.height * size.width > 1
                       then convert_to((select array_to_string(array_agg(tap.integers[i]), '000000000')
                                        from (select generate_series(cardinality(tap.integers), 1, -1) as i) reversed), 'SQL_ASCII')
                       end as digits offset 0) taps,
       lateral (select case when size.height * size.width = 1
                       then tap.integers::numeric[]
                       else (select array_agg(encode(case size.height
                                                     when 1 then substring(taps.digits from start for 16 * size.width - 9)
                                                     else (select string_agg(substring(taps.digits from line for 16 * size.width - 9), layer.gap)
                                                           from (select generate_series(start, start + 16 * size.width * (size.height - 1), 16 * size.width) as line) lines)
                                                     end, 'escape')::numeric)
                             from (select generate_series(16 * size.width * size.height * (size.channels - 1) + 1, 1, -16 * size.width * size.height) as start) starts)
                       end as numbers offset 0) kernel;
end;
comment on function sql_diffusion.conv2d_kernels(real[], double precision[], int) is
  'The kernels of a weight of shape (out, in, height, width) or (out, in) as big numbers, one row an output channel: one number for each input channel, '
  'its rows row_stride slots apart, and their sum as the last. largest is conv2d_largest(weight).';

create function sql_diffusion.conv2d_row_stride(width int, kernel_width int, padding int) returns int
language sql immutable strict parallel safe
return greatest(width + padding, kernel_width);
comment on function sql_diffusion.conv2d_row_stride(int, int, int) is
  'The slots from one row of an image to the next. One gap of zeros serves as the padding at the end of a row and at the start of the next.';

create function sql_diffusion.conv2d_channels(
  input real[], first int, last int, height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns table (planes numeric[])
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(case when octet_length(written.digits) = 16 * ((height * scale_factor - 1) * row_stride + width * scale_factor)
                   then written.digits::numeric
                   else sql_diffusion.fail(name || ' holds null elements')::int
                   end order by c) as planes
  -- the pixels of a line follow one another; where no gap parts the lines, the whole plane is one
  from (select case when row_stride = width then height * width else width end as pixels,
               repeat('0', 16 * (row_stride - width * scale_factor)) as gap offset 0) line,
       generate_series(first, last) c,
       lateral (select factors[c] as factor, (norm).scale[c] / 2 as scale, (norm).shift[c] / 2 as shift, coalesce((norm).with_silu, false) as with_silu offset 0) channel,
       lateral (select case
                       when channel.scale is null
                       then (select array_agg((pixel * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) as pixel) pixels)
                       -- silu is y/2 (1 + tanh(y/2)): tanh cannot overflow, as the exp of a sigmoid would
                       when channel.with_silu
                       then (select array_agg((half * (1 + tanh(half)) * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) * channel.scale + channel.shift as half offset 0) normalized)
                       else (select array_agg(((pixel * channel.scale + channel.shift) * 2 * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) as pixel) pixels)
                       end as integers offset 0) plane,
       lateral (select string_agg(case when scale_factor = 1
                                  then '00000000' || array_to_string(plane.integers[start : start + line.pixels - 1], '00000000')
                                  else (select string_agg(slots, line.gap)
                                        from (select string_agg(repeat('00000000' || pixel, scale_factor), '') as slots
                                              from (select unnest(plane.integers[start : start + line.pixels - 1]) as pixel) pixels offset 0) own,
                                             generate_series(1, scale_factor))
                                  end, line.gap) as digits
                from (select generate_series(1, height * width, line.pixels) as start) lines offset 0) written;
end;
comment on function sql_diffusion.conv2d_channels(real[], int, int, int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'Channels first to last of an input, planes of height * width, as big numbers: normalized on the way where norm is not NULL, every pixel as a square of scale_factor pixels. '
  'factors: the units to the value 1, for each channel. A set of one row, so that the planner puts the query in its place.';

-- A query with another put in its place is not shared out: what workers run is a function, which they plan themselves.
create function sql_diffusion.conv2d_channels_share(
  input real[], first int, last int, height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns numeric[]
language sql immutable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (select c.planes from sql_diffusion.conv2d_channels(input, first, last, height, width, scale_factor, row_stride, factors, norm, name) c);
comment on function sql_diffusion.conv2d_channels_share(real[], int, int, int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'conv2d_channels as a worker runs it.';

create function sql_diffusion.conv2d_channels_parallel(
  input real[], height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns table (share int, planes numeric[])
language sql immutable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share,
         sql_diffusion.conv2d_channels_share(input, s.first, s.last, height, width, scale_factor, row_stride, factors, norm, name) as planes
  from sql_diffusion.shares_of(array_length(input, 1)) s;
end;
comment on function sql_diffusion.conv2d_channels_parallel(real[], int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'conv2d_channels of all channels, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_operands(
  input sql_diffusion.feature_maps, largest double precision[], norm sql_diffusion.normalization,
  kernel_height int, kernel_width int, stride int, padding int, scale_factor int, name text
) returns table (planes numeric[], rest numeric, unit double precision, slots int[], height int, width int, error double precision)
language sql immutable parallel safe rows 1
begin atomic
  select image.planes || -55000000 * constant.ones,
         constant.half - 5500000 * constant.box * ((select sum(number) from (select unnest(image.planes) as number) numbers)
                                                   - 55000000::numeric * size.channels * constant.ones),
         1 / (fixed.unit * size.tap_unit),
         output.slots,
         shape.height,
         shape.width,
         -- four standard deviations of what rounding adds to a sum: of size / tap_unit by the taps, of 1 / unit by the pixels
         case when fixed.squares > 0 then 4 * sqrt(kernel_height * kernel_width * (fixed.squares / size.tap_unit ^ 2 + size.channels / fixed.unit ^ 2) / 12) else 0 end
  from (select cardinality((input).mean) as channels,
               (input).height * scale_factor as height,
               (input).width * scale_factor as width,
               sql_diffusion.conv2d_row_stride((input).width * scale_factor, kernel_width, padding) as row_stride,
               sql_diffusion.conv2d_tap_unit(cardinality((input).mean) * kernel_height * kernel_width) as tap_unit offset 0) size,
       lateral (select case when not max(channel.size) < 'infinity'
                       then sql_diffusion.fail(name || ' holds NaN or infinite values')::int
                       else coalesce(least(44999999 / nullif(max(channel.size), 0),
                                           4.9e15 / (size.tap_unit * kernel_height * kernel_width * nullif(sum(channel.size), 0))), 1)
                       end as unit,
                       sum(channel.size ^ 2) as squares
                from (select own.largest * coalesce(own.size, greatest(-own.low, own.high)) as size
                      from unnest(largest, (norm).size, (input).low, (input).high) own (largest, size, low, high)) channel offset 0) fixed,
       lateral (select array_agg(l * fixed.unit) as factors
                from (select unnest(largest) as l) channels offset 0) scaled,
       lateral (select sql_diffusion.worth_workers(cardinality((input).planes)::float8 * case when (norm).with_silu then 250 else 170 end) as dear offset 0) cost
       left join lateral (select array_agg(number) as planes
                          from (select unnest(c.planes) as number
                                from sql_diffusion.conv2d_channels_parallel((input).planes, (input).height, (input).width, scale_factor, size.row_stride, scaled.factors, norm, name) c
                                where cost.dear
                                order by c.share) numbers offset 0) shared
       on true
       left join lateral (select c.planes
                          from sql_diffusion.conv2d_channels((input).planes, 1, size.channels, (input).height, (input).width, scale_factor, size.row_stride, scaled.factors, norm, name) c
                          where not cost.dear
                          offset 0) own
       on true
       cross join lateral (select coalesce(shared.planes, own.planes) as planes offset 0) image
       cross join lateral (select left(repeat(repeat('0000000000000001', size.width) || repeat('0', 16 * (size.row_stride - size.width)), size.height),
                            16 * ((size.height - 1) * size.row_stride + size.width))::numeric as ones,
                       left(repeat(repeat('0000000000000001', kernel_width) || repeat('0', 16 * (size.row_stride - kernel_width)), kernel_height),
                            16 * ((kernel_height - 1) * size.row_stride + kernel_width))::numeric as box,
                       -- in every slot of the product 5e15, so that what is read from it is never negative
                       ('1' || repeat('5000000000000000', (size.height + kernel_height - 2) * size.row_stride + size.width + kernel_width - 1))::numeric as half
                offset 0) constant
       cross join lateral (select (size.height + 2 * padding - kernel_height) / stride + 1 as height,
                       (size.width + 2 * padding - kernel_width) / stride + 1 as width offset 0) shape
       cross join lateral (select array_agg(2 + 16 * ((kernel_height - 1 - padding + i / shape.width * stride) * size.row_stride + kernel_width - 1 - padding + i % shape.width * stride)) as slots
                from (select generate_series(0, shape.height * shape.width - 1) as i) pixel) output
  offset 0;
end;
comment on function sql_diffusion.conv2d_operands(sql_diffusion.feature_maps, double precision[], sql_diffusion.normalization, int, int, int, int, int, text) is
  'What an input brings to its convolution. planes: a big number for each channel, pixel (y, x) in slot y * row_stride + x from the most significant end, and the last for the '
  'offset of the pixels. rest: what is to be added to the sum of the products. unit: what 1 in a slot stands for. slots: where in the digits of the sum each output pixel '
  'begins, row by row. height, width: of the output. error: what rounding may have added to an output. norm is what is done to the pixels first, NULL for nothing, and scale_factor how many times as high and wide the input is made by '
  'repeating them. The name opens the message where the input is not finite. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_plane(
  kernels numeric[], planes numeric[], rest numeric, unit double precision, slots int[], bias real, residual real[], output_scale double precision
) returns table (pixels real[], mean double precision, variance double precision, low double precision, high double precision)
language sql immutable parallel safe rows 1
begin atomic
  select plane.pixels, plane.mean, plane.variance, plane.low, plane.high
  from (select sum(kernel * plane) as number
        from (select unnest(kernels) as kernel, unnest(planes) as plane) pair offset 0) total,
       lateral (select convert_to((total.number + rest)::text, 'SQL_ASCII') as digits,
                       -- what is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow
                       coalesce(bias, 0) + 1e-29 as shift,
                       1e-29 * output_scale as least,
                       unit,
                       output_scale offset 0) product,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (((encode(substring(product.digits from own.slot for 16), 'escape')::bigint - 5000000000000000) * product.unit + product.shift
                               + coalesce(own.residual, 0)) * product.output_scale - product.least)::real as pixel
                      from (select unnest(slots) as slot, unnest(residual) as residual) own offset 0) pixel offset 0) plane;
end;
comment on function sql_diffusion.conv2d_plane(numeric[], numeric[], numeric, double precision, int[], real, real[], double precision) is
  'One output channel of a convolution, shape (height * width), of its kernels (conv2d_kernels) and what conv2d_operands returns, and its statistics; the residual, of the same shape or NULL, is '
  'added, and the sum multiplied by output_scale. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_out_channels(
  weight real[], first int, last int, largest double precision[], row_stride int, planes numeric[], rest numeric, unit double precision, slots int[], height int, width int,
  bias real[], residual real[], output_scale double precision
) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by kernel.out_channel), height, width,
         array_agg(plane.mean order by kernel.out_channel), array_agg(plane.variance order by kernel.out_channel),
         array_agg(plane.low order by kernel.out_channel), array_agg(plane.high order by kernel.out_channel)
  from sql_diffusion.conv2d_kernels(weight[first:last], largest, row_stride) kernel,
       lateral (select first - 1 + kernel.out_channel as o) channel,
       sql_diffusion.conv2d_plane(kernel.kernels, planes, rest, unit, slots, bias[channel.o], residual[channel.o:channel.o], output_scale) plane
  offset 0;
end;
comment on function sql_diffusion.conv2d_out_channels(real[], int, int, double precision[], int, numeric[], numeric, double precision, int[], int, int, real[], real[], double precision) is
  'Output channels first to last of a convolution whose kernels are not packed, with what conv2d_operands returns. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_out_channels_share(
  weight real[], first int, last int, largest double precision[], row_stride int, planes numeric[], rest numeric, unit double precision, slots int[], height int, width int,
  bias real[], residual real[], output_scale double precision
) returns sql_diffusion.feature_maps
language sql immutable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (select maps from sql_diffusion.conv2d_out_channels(weight, first, last, largest, row_stride, planes, rest, unit, slots, height, width, bias, residual, output_scale) maps);
comment on function sql_diffusion.conv2d_out_channels_share(real[], int, int, double precision[], int, numeric[], numeric, double precision, int[], int, int, real[], real[], double precision) is
  'conv2d_out_channels as a worker runs it.';

create function sql_diffusion.conv2d_out_channels_parallel(
  weight real[], largest double precision[], row_stride int, planes numeric[], rest numeric, unit double precision, slots int[], height int, width int,
  bias real[], residual real[], output_scale double precision
) returns table (share int, maps sql_diffusion.feature_maps)
language sql immutable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
set parallel_leader_participation = off
begin atomic
  select s.share,
         sql_diffusion.conv2d_out_channels_share(weight, s.first, s.last, largest, row_stride, planes, rest, unit, slots, height, width, bias, residual, output_scale) as maps
  from sql_diffusion.shares_of(array_length(weight, 1)) s;
end;
comment on function sql_diffusion.conv2d_out_channels_parallel(real[], double precision[], int, numeric[], numeric, double precision, int[], int, int, real[], real[], double precision) is
  'conv2d_out_channels of all output channels, by two workers or more where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_rounded(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1
) returns table (maps sql_diffusion.feature_maps, largest double precision[], unit double precision, error double precision)
language sql stable parallel safe rows 1
begin atomic
  select done.maps, layer.largest, operand.unit,
         operand.error / greatest((select max(high) from (select unnest((done.maps).high) as high) highs), -(select min(low) from (select unnest((done.maps).low) as low) lows), 1e-100) as error
  from (select coalesce(array_length(weight, 3), 1) as kernel_height,
               coalesce(array_length(weight, 4), 1) as kernel_width,
               sql_diffusion.conv2d_largest(weight) as largest offset 0) layer
       cross join sql_diffusion.conv2d_operands(input, layer.largest, norm, layer.kernel_height, layer.kernel_width, stride, padding, 1, name) operand
       cross join lateral (select sql_diffusion.conv2d_row_stride((input).width, layer.kernel_width, padding) as row_stride offset 0) kernel
       -- writing the kernels takes 600 ns a weight
       cross join lateral (select sql_diffusion.worth_two_workers(cardinality(weight) * 600::float8
                                    + array_length(weight, 1)::float8 * cardinality(operand.planes) * (input).height * (input).width * (9 + layer.kernel_height * layer.kernel_width)) as dear offset 0) cost
       cross join lateral (select case
                                  when cost.dear  -- what may lie in a temporary table is fetched here: a worker cannot read that
                                  then (select row(sql_diffusion.array_cat_agg((c.maps).planes order by c.share), operand.height, operand.width,
                                                   sql_diffusion.array_cat_agg((c.maps).mean order by c.share), sql_diffusion.array_cat_agg((c.maps).variance order by c.share),
                                                   sql_diffusion.array_cat_agg((c.maps).low order by c.share), sql_diffusion.array_cat_agg((c.maps).high order by c.share))::sql_diffusion.feature_maps
                                        from sql_diffusion.conv2d_out_channels_parallel(weight || '{}'::real[], layer.largest, kernel.row_stride, operand.planes, operand.rest, operand.unit, operand.slots,
                                                                                        operand.height, operand.width, bias || '{}'::real[], residual, output_scale) c)
                                  else (select maps
                                        from sql_diffusion.conv2d_out_channels(weight, 1, array_length(weight, 1), layer.largest, kernel.row_stride, operand.planes, operand.rest, operand.unit,
                                                                               operand.slots, operand.height, operand.width, bias, residual, output_scale) maps)
                                  end as maps offset 0) done
  offset 0;
end;
comment on function sql_diffusion.conv2d_rounded(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision) is
  'conv2d_numbers without correction; with conv2d_largest(weight), what 1 in a slot stands for, and four standard deviations of what rounding may have added to a sum, as a share of the '
  'largest output. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_remainder(elements real[], factors double precision[], run int) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg((coalesce(element - (element * factor)::int / factor, 0) + 1e-29 - 1e-29)::real order by position)
  from (select element, position, factors[((position - 1) / run % cardinality(factors) + 1)::int] as factor
        from unnest(elements) with ordinality own (element, position) offset 0) own);
comment on function sql_diffusion.conv2d_remainder(real[], double precision[], int) is
  'What rounding to integers takes from the elements, of any shape, flat: run elements after one another have the same factor, and after the last factor comes the first. 0 where the factor is NULL.';

-- An outlier of the input and one of the weights that share a channel but never meet at a pixel make units far too coarse for the outputs that there are. Then what
-- rounding took from the operands is convolved too: with w = w' + dw and x = x' + dx, of which x' w' is done, x w = x' w' + x dw + dx w - dx dw, and the last is 1e-13 of x w.
create function sql_diffusion.conv2d_corrected(
  rounded sql_diffusion.feature_maps, input sql_diffusion.feature_maps, weight real[], largest double precision[], unit double precision, stride int, padding int, name text
) returns sql_diffusion.feature_maps
language sql stable parallel safe
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.to_maps(sql_diffusion.fold(array_agg((rounded_pixel + from_weight + from_input + 1e-29 - 1e-29)::real), (rounded).height * (rounded).width),
                               (rounded).height, (rounded).width)
  from (select cardinality(weight) / (array_length(weight, 1) * array_length(weight, 2)) as taps,
               (input).height * (input).width as pixels,
               sql_diffusion.conv2d_tap_unit(cardinality(weight) / array_length(weight, 1)) as tap_unit offset 0) size,
       -- the same units as in conv2d_kernels and conv2d_operands; a channel without weights adds nothing
       lateral (select array_agg(size.tap_unit / nullif(l, 0)) as of_taps,
                       array_agg(nullif(l, 0) / (unit * size.tap_unit)) as of_pixels
                from (select unnest(largest) as l) channels offset 0) factor,
       lateral (select sql_diffusion.with_shape(sql_diffusion.conv2d_remainder(weight, factor.of_taps, size.taps), sql_diffusion.shape(weight)) as remainder offset 0) taps,
       lateral (select sql_diffusion.to_maps(sql_diffusion.fold(sql_diffusion.conv2d_remainder((input).planes, factor.of_pixels, size.pixels), size.pixels),
                                             (input).height, (input).width) as remainder offset 0) pixels,
       sql_diffusion.conv2d_rounded(input, taps.remainder, null, stride, padding, name) of_weight,
       sql_diffusion.conv2d_rounded(pixels.remainder, weight, null, stride, padding, name) of_input,
       lateral (select unnest((rounded).planes)::float8 as rounded_pixel,
                       unnest((of_weight.maps).planes)::float8 as from_weight,
                       unnest((of_input.maps).planes)::float8 as from_input) sums);
comment on function sql_diffusion.conv2d_corrected(sql_diffusion.feature_maps, sql_diffusion.feature_maps, real[], double precision[], double precision, int, int, text) is
  'A convolution as conv2d_rounded has it, plus what rounding took from the operands. largest and unit are those of that convolution.';

-- Said to be stable, for PostgreSQL 18 computes immutable functions of its arguments ahead, in the branches of a CASE that are not taken too.
create function sql_diffusion.conv2d_numbers(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1, corrected boolean default false
) returns sql_diffusion.feature_maps
language sql stable parallel safe
set jit = off
set enable_memoize = off
return (
  select case when corrected and rounded.error > 1e-5
         then sql_diffusion.conv2d_corrected(rounded.maps, input, weight, rounded.largest, rounded.unit, stride, padding, name)
         else rounded.maps
         end
  from sql_diffusion.conv2d_rounded(input, weight, bias, stride, padding, name, norm, residual, output_scale) rounded);
comment on function sql_diffusion.conv2d_numbers(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision, boolean) is
  'conv2d without its checks, for planes that fit in a number (conv2d_rows) and a padding smaller than the kernel; a weight of shape (out, in) is a 1x1 kernel. norm is done to the input first, '
  'the residual (out, height * width) is added, and the sum multiplied by output_scale. corrected: by conv2d_corrected where rounding may have added more than 1e-5 of the largest output, for an '
  'input without norm or residual. The name opens the message where the input is not finite.';

create function sql_diffusion.conv2d_rows(width int, kernel_height int, kernel_width int, stride int, padding int) returns int
language sql immutable strict parallel safe
return (select case when extra < 0 then 0 else extra::int / stride + 1 end
        from (select floor((8192 - width - kernel_width)::float8 / sql_diffusion.conv2d_row_stride(width, kernel_width, padding)) + 2 - 2 * kernel_height as extra) room);
comment on function sql_diffusion.conv2d_rows(int, int, int, int, int) is
  'The rows of output that one number has room for: a numeric has at most 131072 digits before its point, which are 8192 slots.';

create function sql_diffusion.conv2d_core(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1, corrected boolean default false
) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
set enable_memoize = off
return (
  select case
         when output.height <= sql_diffusion.conv2d_rows((input).width, kernel.height, kernel.width, stride, padding)
         then sql_diffusion.conv2d_numbers(input, weight, bias, stride, padding, name, norm, residual, output_scale, corrected)
         when output.rows < 1
         then row(array[sql_diffusion.fail(format('%s is %s wide, expected less than %s for a kernel %s high', name, (input).width, 8191 / (2 * kernel.height - 1), kernel.height),
                                           errcode => '0A000')::int], null, null, null, null, null, null)::sql_diffusion.feature_maps
         else
           -- a large image, in bands of rows
           (select sql_diffusion.to_maps(sql_diffusion.fold(array_agg(((pixel.element + coalesce(pixel.residual::float8, 0)) * output_scale + 1e-29 - 1e-29)::real), output.height * output.width),
                                         output.height, output.width)
            from (select unnest((select array_agg(pixel.element)
                                 from (select unnest(piece.pixels) as element
                                       from (select (band.maps).planes[o:o] as pixels
                                             from (select start,
                                                          sql_diffusion.conv2d_numbers(sql_diffusion.to_maps(lines.image),
                                                                                       weight, bias, stride, 0, name, corrected => corrected) as maps
                                                   from (select sql_diffusion.pad(sql_diffusion.with_shape((select array_agg(element)
                                                                                                            from (select unnest(case when norm is null then (input).planes
                                                                                                                                     else sql_diffusion.group_norm_planes((input).planes, norm)
                                                                                                                                end) as element) elements),
                                                                                                           array[array_length((input).planes, 1), (input).height, (input).width]),
                                                                                  padding, padding, padding, padding) as image offset 0) padded,
                                                        generate_series(0, output.height - 1, output.rows) start,
                                                        lateral (select padded.image[:][start * stride + 1 : (start + output.rows - 1) * stride + kernel.height] as image offset 0) lines
                                                   offset 0) band,
                                                  generate_series(1, array_length(weight, 1)) o
                                             order by o, band.start
                                             offset 0) piece) pixel)) as element,
                         unnest(residual) as residual) pixel)
         end
  from (select coalesce(array_length(weight, 3), 1) as height, coalesce(array_length(weight, 4), 1) as width offset 0) kernel,
       lateral (select ((input).height + 2 * padding - kernel.height) / stride + 1 as height,
                       ((input).width + 2 * padding - kernel.width) / stride + 1 as width,
                       sql_diffusion.conv2d_rows((input).width + 2 * padding, kernel.height, kernel.width, stride, 0) as rows offset 0) output);
comment on function sql_diffusion.conv2d_core(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision, boolean) is
  'conv2d without its checks, for a padding smaller than the kernel; a weight of shape (out, in) is a 1x1 kernel. norm is done to the input first, the residual (out, height * width) is '
  'added, and the sum multiplied by output_scale; corrected as conv2d_numbers has it. The name opens the message where the input is not finite.';

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
         case when array_length(input, 2) + 2::bigint * padding < array_length(weight, 3) or array_length(input, 3) + 2::bigint * padding < array_length(weight, 4) then
           sql_diffusion.fail(format('conv2d: input of shape %s with padding %s is smaller than the kernel of weight of shape %s',
                                     sql_diffusion.shape(input), padding, sql_diffusion.shape(weight)))
         end,
         sql_diffusion.check_size(array[array_length(input, 1), least(array_length(input, 2) + 2::bigint * padding, 2147483647)::int,
                                        least(array_length(input, 3) + 2::bigint * padding, 2147483647)::int], 'conv2d: padded input'),
         sql_diffusion.check_values(input, 'conv2d: input'),
         sql_diffusion.check_values(weight, 'conv2d: weight'),
         sql_diffusion.check_values(bias, 'conv2d: bias');
  -- the method takes a padding smaller than the kernel; more is added beforehand
  select sql_diffusion.from_maps(sql_diffusion.conv2d_core(sql_diffusion.to_maps(ready.image),
                                                           weight, bias, stride, ready.inside, 'conv2d: input', corrected => true))
  from (select case when padding < least(array_length(weight, 3), array_length(weight, 4)) then padding else 0 end as inside offset 0) room,
       lateral (select room.inside,
                       case when room.inside = conv2d.padding then input else sql_diffusion.pad(input, padding, padding, padding, padding) end as image offset 0) ready;
end;
comment on function sql_diffusion.conv2d(real[], real[], real[], int, int) is
  '2-D convolution (cross-correlation, as torch.nn.functional.conv2d): input (in, height, width), weight (out, in, kernel height, kernel width), bias (out) or NULL '
  'for none; the output is (out, (height + 2 padding - kernel height) / stride + 1, likewise the width). Exact to about 1e-6 of the largest value.';
