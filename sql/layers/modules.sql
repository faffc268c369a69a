-- Layers with their parameters: what torch.nn.Conv2d, Linear and GroupNorm are to their functions. The parameters are the row
-- of sql_diffusion.parameters with the module's key.

create function sql_diffusion.check_parameter(model text, component text, key text, name text) returns boolean
language sql stable parallel safe
return
  case when exists (select from sql_diffusion.parameters p
                    where p.model = check_parameter.model and p.component = check_parameter.component and p.key = check_parameter.key)
  then true
  else sql_diffusion.fail(format('%s: model %s has no parameter %s of component %s', name, coalesce(quote_ident(model), 'null'), coalesce(key, 'null'), coalesce(component, 'null')),
                          errcode => case when exists (select from sql_diffusion.models m where m.name = check_parameter.model) then '55000' else '42704' end)
  end;
comment on function sql_diffusion.check_parameter(text, text, text, text) is
  'Refuses a module that the model does not have. The name opens the message: "resnet_block".';

create type sql_diffusion.convolution as (
  layer            int,
  out_channels     int,
  taps             int,
  bias             real[],
  planes           numeric[],
  rest             numeric,
  unit             double precision,
  slots            int[],
  height           int,
  width            int,
  residual         real[],
  output_scale     double precision,
  shortcut_layer   int,
  shortcut_bias    real[],
  shortcut_planes  numeric[],
  shortcut_rest    numeric,
  shortcut_unit    double precision,
  shortcut_slots   int[]
);
comment on type sql_diffusion.convolution is
  'A convolution of which only the multiplications are still to be done: the packed layer, its output channels, the taps of its kernels (height * width), what is added to each output channel, '
  'what the input brings (conv2d_operands), the residual (out_channels, height * width) to be added, NULL for none, and the factor of the sum. The shortcut, where there is one, is a convolution of '
  '1x1 kernels that gives the residual.';

create function sql_diffusion.conv2d_prepared(
  input sql_diffusion.feature_maps, model text, component text, key text, stride int, padding int, name text, extra_bias real[] default null,
  norm sql_diffusion.normalization default null, residual real[] default null, output_scale double precision default 1, scale_factor int default 1,
  shortcut sql_diffusion.convolution default null
) returns setof sql_diffusion.convolution
language sql stable parallel safe rows 1
begin atomic
  select case when layer.ready then layer.packed end,
         layer.out_channels,
         layer.kernel_height * layer.kernel_width,
         layer.bias,
         ready.planes,
         ready.rest,
         ready.unit,
         ready.slots,
         ready.height,
         ready.width,
         residual,
         output_scale,
         (shortcut).layer,
         (shortcut).bias,
         (shortcut).planes,
         (shortcut).rest,
         (shortcut).unit,
         (shortcut).slots
  from (select case
               when p.out_channels is null
               then sql_diffusion.check_parameter(conv2d_prepared.model, conv2d_prepared.component, conv2d_prepared.key, name)
               when p.in_channels <> cardinality((input).mean)
               then sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s of shape %s takes', name,
                                              cardinality((input).mean), p.in_channels, conv2d_prepared.key, p.weight_shape))
               else l.id is not null
                    and ((input).height * scale_factor + 2 * padding - p.kernel_height) / stride + 1
                        <= sql_diffusion.conv2d_rows((input).width * scale_factor, p.kernel_height, p.kernel_width, stride, padding)
               end as ready,
               p.out_channels,
               p.kernel_height,
               p.kernel_width,
               case when extra_bias is null then p.bias
                    when p.bias is null then extra_bias
                    else (select array_agg(pair.x + pair.y) from (select unnest(p.bias) as x, unnest(extra_bias) as y) pair)
               end as bias,
               l.id as packed,
               l.largest
        from (select w.weight_shape,
                     w.bias,
                     w.weight_shape[1] as out_channels,
                     w.weight_shape[2] as in_channels,
                     coalesce(w.weight_shape[3], 1) as kernel_height,
                     coalesce(w.weight_shape[4], 1) as kernel_width
              from (values (1)) one
                   left join sql_diffusion.parameters w
                   on w.model = conv2d_prepared.model and w.component = conv2d_prepared.component and w.key = conv2d_prepared.key
              offset 0) p
             left join sql_diffusion.packed_layers l
             on l.model = conv2d_prepared.model and l.component = conv2d_prepared.component and l.key = conv2d_prepared.key
                and (p.kernel_height * p.kernel_width = 1    -- a single tap serves any width
                     or l.row_stride = sql_diffusion.conv2d_row_stride((input).width * scale_factor, p.kernel_width, padding))
        offset 0) layer
       left join lateral (select operands.planes, operands.rest, operands.unit, operands.slots, operands.height, operands.width
                          from sql_diffusion.conv2d_operands(input, layer.largest, norm, layer.kernel_height, layer.kernel_width, stride, padding, scale_factor,
                                                             name || ': the input of ' || key) operands
                          where layer.ready
                          offset 0) ready
       on true
  offset 0;
end;
comment on function sql_diffusion.conv2d_prepared(sql_diffusion.feature_maps, text, text, text, int, int, text, real[], sql_diffusion.normalization, real[], double precision, int, sql_diffusion.convolution) is
  'The convolution with the parameters of the module with this key, of this input, up to its multiplications; without a layer where the module is not packed for an image of this width (a 1x1 kernel, packed for one, serves all). '
  'Arguments as for conv2d_module. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_packed(convolution sql_diffusion.convolution, first int, last int) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by k.out_channel), (convolution).height, (convolution).width,
         array_agg(plane.mean order by k.out_channel), array_agg(plane.variance order by k.out_channel),
         array_agg(plane.low order by k.out_channel), array_agg(plane.high order by k.out_channel)
  from sql_diffusion.packed_kernels k
       left join lateral (select plane.pixels
                          from sql_diffusion.packed_kernels s,
                               sql_diffusion.conv2d_plane(s.kernels, (convolution).shortcut_planes, (convolution).shortcut_rest, (convolution).shortcut_unit,
                                                          (convolution).shortcut_slots, (convolution).shortcut_bias[s.out_channel], null, 1) plane
                          where s.layer = (convolution).shortcut_layer
                            and s.out_channel = k.out_channel
                          offset 0) shortcut
       on true
       cross join sql_diffusion.conv2d_plane(k.kernels, (convolution).planes, (convolution).rest, (convolution).unit, (convolution).slots,
                                             (convolution).bias[k.out_channel], coalesce(shortcut.pixels, (convolution).residual[k.out_channel:k.out_channel]),
                                             (convolution).output_scale) plane
  where k.layer = (convolution).layer
    and k.out_channel between first and last
  offset 0;
end;
comment on function sql_diffusion.conv2d_packed(sql_diffusion.convolution, int, int) is
  'The output channels first to last of a convolution. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_packed_share(convolution sql_diffusion.convolution, first int, last int) returns sql_diffusion.feature_maps
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (select maps from sql_diffusion.conv2d_packed(convolution, first, last) maps);
comment on function sql_diffusion.conv2d_packed_share(sql_diffusion.convolution, int, int) is 'conv2d_packed as a worker runs it.';

create function sql_diffusion.conv2d_packed_parallel(convolution sql_diffusion.convolution) returns table (share int, maps sql_diffusion.feature_maps)
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share, sql_diffusion.conv2d_packed_share(convolution, s.first, s.last) as maps
  from sql_diffusion.shares_of((convolution).out_channels) s;
end;
comment on function sql_diffusion.conv2d_packed_parallel(sql_diffusion.convolution) is
  'conv2d_packed of all output channels, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_nanoseconds(convolution sql_diffusion.convolution) returns bigint
language sql immutable parallel safe
return (convolution).out_channels
       * ((convolution).slots[cardinality((convolution).slots)] / 16 * cardinality((convolution).planes)::bigint * (9 + (convolution).taps) + cardinality((convolution).slots) * 250
          + coalesce((convolution).shortcut_slots[cardinality((convolution).shortcut_slots)] / 16 * cardinality((convolution).shortcut_planes)::bigint * 10
                     + cardinality((convolution).shortcut_slots) * 250, 0));
comment on function sql_diffusion.conv2d_nanoseconds(sql_diffusion.convolution) is
  'About the nanoseconds that the multiplications of a convolution take in one process: whether to start workers (worth_workers).';

create function sql_diffusion.conv2d_module(
  input sql_diffusion.feature_maps, model text, component text, key text, stride int, padding int, name text, extra_bias real[] default null,
  norm sql_diffusion.normalization default null, residual real[] default null, output_scale double precision default 1, scale_factor int default 1,
  shortcut sql_diffusion.convolution default null
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select case
               when prepared.layer is null
               then (select sql_diffusion.conv2d_core(case when scale_factor = 1 then input
                                                      else sql_diffusion.to_maps(sql_diffusion.interpolate_nearest(sql_diffusion.from_maps(input), scale_factor))
                                                      end,
                                                      p.weight, prepared.bias, stride, padding, name || ': the input of ' || key, norm,
                                                      coalesce(residual, (select maps.planes
                                                                          from sql_diffusion.conv2d_packed(shortcut, 1, (shortcut).out_channels) maps
                                                                          where (shortcut).layer is not null)), output_scale)
                     from (select p.weight || '{}'::real[] as weight
                           from sql_diffusion.parameters p
                           where p.model = conv2d_module.model and p.component = conv2d_module.component and p.key = conv2d_module.key
                           offset 0) p)
               when sql_diffusion.worth_workers(sql_diffusion.conv2d_nanoseconds(prepared))
               then (select row(sql_diffusion.array_cat_agg((c.maps).planes order by c.share), max((c.maps).height), max((c.maps).width),
                                sql_diffusion.array_cat_agg((c.maps).mean order by c.share), sql_diffusion.array_cat_agg((c.maps).variance order by c.share),
                                sql_diffusion.array_cat_agg((c.maps).low order by c.share), sql_diffusion.array_cat_agg((c.maps).high order by c.share))::sql_diffusion.feature_maps
                     from sql_diffusion.conv2d_packed_parallel(prepared) c)
               else (select maps from sql_diffusion.conv2d_packed(prepared, 1, prepared.out_channels) maps)
               end as maps
        from sql_diffusion.conv2d_prepared(input, model, component, key, stride, padding, name, extra_bias, norm, residual, output_scale, scale_factor, shortcut) prepared
        offset 0) done
  offset 0;
end;
comment on function sql_diffusion.conv2d_module(sql_diffusion.feature_maps, text, text, text, int, int, text, real[], sql_diffusion.normalization, real[], double precision, int, sql_diffusion.convolution) is
  'conv2d with the parameters of the module with this key, packed if they are. extra_bias, shape (out), is added to the module''s own; norm is done to the input first, and every pixel of it repeated '
  'scale_factor times down and across; the residual, (out, height * width), is added, or what a packed convolution, the shortcut, is going to give, and the sum multiplied by output_scale. A linear layer''s weight, shape (out, in), is applied to each pixel, as a '
  '1x1 kernel. The padding is smaller than the kernel. The name opens error messages. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.linear_module(input real[], model text, component text, key text, name text) returns real[]
language sql stable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select case when array_length(input, array_ndims(input)) <> p.weight_shape[2] then
           sql_diffusion.fail(format('%s: the input of %s has shape %s, expected a last dimension of %s', name, key,
                                     sql_diffusion.shape(input), p.weight_shape[2]))
         end
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
  select sql_diffusion.linear_core(input, p.weight || '{}'::real[], p.bias, name || ': the input of ' || key)
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
end;
comment on function sql_diffusion.linear_module(real[], text, text, text, text) is
  'linear with the parameters of the module with this key. The name opens error messages.';

create function sql_diffusion.linear_of_maps(
  input sql_diffusion.feature_maps, model text, component text, key text, name text, residual real[] default null, output_scale double precision default 1
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(input, model, component, key, 1, 0, name, residual => residual, output_scale => output_scale) maps
  where (input).height * (input).width >= 8
  union all
  -- too few for big numbers: what linear_core does row by row
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.fold(array_agg(pixel.y), (input).height * (input).width), (input).height, (input).width) as maps
        from (select case when residual is null and output_scale = 1 then element::real else ((element + coalesce(added, 0)) * output_scale + 1e-29 - 1e-29)::real end as y
              from (select unnest(sql_diffusion.transpose(sql_diffusion.linear_module(sql_diffusion.transpose(sql_diffusion.fold(flat.elements, (input).height * (input).width)),
                                                                                                model, component, key, name)))::float8 as element,
                           unnest(residual) as added
                    from (select array_agg(element) as elements from (select unnest((input).planes) as element) elements offset 0) flat
                    offset 0) elements offset 0) pixel
        offset 0) done
  where (input).height * (input).width < 8
  offset 0;
end;
comment on function sql_diffusion.linear_of_maps(sql_diffusion.feature_maps, text, text, text, text, real[], double precision) is
  'linear over the channels of every pixel, with the parameters of the module with this key, to the bit what linear_module gives where there are less than 8 pixels and no residual. The residual, (out, height * width), is added, and '
  'the sum multiplied by output_scale. The name opens error messages. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.group_norm_of_module(
  input sql_diffusion.feature_maps, model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text, scale_shift real[] default null
) returns setof sql_diffusion.normalization
language sql stable parallel safe rows 1
begin atomic
  select (done.norm).scale, (done.norm).shift, (done.norm).size, (done.norm).with_silu
  from (select case
               when p.key is null
               then sql_diffusion.check_parameter(group_norm_of_module.model, group_norm_of_module.component, group_norm_of_module.key, name)
               when size.channels <> p.weight_shape[1]
               then sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s takes', name, size.channels, p.weight_shape[1], group_norm_of_module.key))
               when num_groups is null or num_groups < 1 or size.channels % num_groups <> 0
               then sql_diffusion.fail(format('%s: num_groups is %s, expected a divisor of the %s channels of input', name, coalesce(num_groups::text, 'null'), size.channels))
               end as refused,
               p.weight,
               p.bias
        from (select cardinality((input).mean) as channels) size
             left join sql_diffusion.parameters p
             on p.model = group_norm_of_module.model and p.component = group_norm_of_module.component and p.key = group_norm_of_module.key
        offset 0) module,
       lateral (select case when scale_shift is null then module.weight else array_agg((w * (1 + scale))::real order by position) end as weight,
                       case when scale_shift is null then module.bias else array_agg((b * (1 + scale) + shift)::real order by position) end as bias
                from unnest(module.weight, module.bias, scale_shift[: array_length(module.weight, 1)], scale_shift[array_length(module.weight, 1) + 1 :])
                     with ordinality as channel (w, b, scale, shift, position)) affine,
       lateral (select sql_diffusion.group_norm_of_maps(input, num_groups, affine.weight, affine.bias, eps, with_silu) as norm
                where module.refused is null
                offset 0) done
  offset 0;
end;
comment on function sql_diffusion.group_norm_of_module(sql_diffusion.feature_maps, text, text, text, int, double precision, boolean, text, real[]) is
  'What group_norm, and silu after it where with_silu, with the parameters of the module with this key is to do to each channel of this input. scale_shift, shape (2 channels), multiplies the normalized '
  'channels by 1 + its first half and adds its second half. The name opens error messages. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.group_norm_module(
  input sql_diffusion.feature_maps, model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from sql_diffusion.group_norm_of_module(input, model, component, key, num_groups, eps, with_silu, name) norm,
       lateral (select sql_diffusion.to_maps(sql_diffusion.group_norm_planes((input).planes, norm), (input).height, (input).width) as maps offset 0) done
  offset 0;
end;
comment on function sql_diffusion.group_norm_module(sql_diffusion.feature_maps, text, text, text, int, double precision, boolean, text) is
  'group_norm, and silu after it where with_silu, with the parameters of the module with this key. A set of one row, so that the planner puts the query in its place.';
