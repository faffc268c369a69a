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

create function sql_diffusion.conv2d_packed(
  planes numeric[], rest numeric, unit double precision, slots int[], bias real[], layer int, first int, last int
) returns real[]
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
begin atomic
  select array_agg(plane order by k.out_channel)
  from sql_diffusion.packed_kernels k,
       sql_diffusion.conv2d_plane(k.kernels, planes, rest, unit, slots, bias[k.out_channel]) plane
  where k.layer = conv2d_packed.layer
    and k.out_channel between first and last;
end;
comment on function sql_diffusion.conv2d_packed(numeric[], numeric, double precision, int[], real[], int, int, int) is
  'The output channels first to last, (channels, height * width), of a packed layer, of what conv2d_operands returns.';

create function sql_diffusion.conv2d_packed_parallel(
  planes numeric[], rest numeric, unit double precision, slots int[], bias real[], layer int, out_channels int
) returns table (share int, planes_out real[])
language sql stable parallel safe rows 16
set jit = off
begin atomic
  select s.share,
         sql_diffusion.conv2d_packed(planes, rest, unit, slots, bias, layer, sql_diffusion.share_first(s.share, out_channels), sql_diffusion.share_last(s.share, out_channels)) as planes_out
  from sql_diffusion.shares s;
end;
comment on function sql_diffusion.conv2d_packed_parallel(numeric[], numeric, double precision, int[], real[], int, int) is
  'conv2d_packed of all output channels, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_module_planes(
  input real[], height int, width int, model text, component text, key text, stride int, padding int, name text, extra_bias real[] default null,
  norm sql_diffusion.normalization default null
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select case
         when array_length(input, 1) <> layer.in_channels
         then array[sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s of shape %s takes', name,
                                              array_length(input, 1), layer.in_channels, key, sql_diffusion.shape(layer.weight)))::int]
         when layer.packed is not null and layer.fits
         then (select case when layer.work * cardinality(operand.slots) > 16000000
                      then (select sql_diffusion.array_cat_agg(c.planes_out order by c.share)
                            from sql_diffusion.conv2d_packed_parallel(operand.planes, operand.rest, operand.unit, operand.slots, layer.bias, layer.packed, layer.out_channels) c)
                      else sql_diffusion.conv2d_packed(operand.planes, operand.rest, operand.unit, operand.slots, layer.bias, layer.packed, 1, layer.out_channels)
                      end
               from sql_diffusion.conv2d_operands(input, height, width, layer.largest, norm, layer.kernel_height, layer.kernel_width, stride, padding,
                                                  name || ': the input of ' || key) operand)
         else sql_diffusion.conv2d_core(input, height, width, layer.weight, layer.bias, stride, padding, name || ': the input of ' || key, norm)
         end
  from (select p.weight,
               p.out_channels,
               p.in_channels,
               p.kernel_height,
               p.kernel_width,
               -- nanoseconds an output pixel, about: starting a worker takes some milliseconds
               p.out_channels::bigint * p.in_channels * (9 + p.kernel_height * p.kernel_width) as work,
               case when extra_bias is null then p.bias
                    when p.bias is null then extra_bias
                    else (select array_agg(pair.x + pair.y) from (select unnest(p.bias) as x, unnest(extra_bias) as y) pair)
               end as bias,
               (height + 2 * padding - p.kernel_height) / stride + 1
                 <= sql_diffusion.conv2d_rows(conv2d_module_planes.width, p.kernel_height, p.kernel_width, stride, padding) as fits,
               l.id as packed,
               l.largest
        from (select w.weight,
                     w.bias,
                     array_length(w.weight, 1) as out_channels,
                     array_length(w.weight, 2) as in_channels,
                     coalesce(array_length(w.weight, 3), 1) as kernel_height,
                     coalesce(array_length(w.weight, 4), 1) as kernel_width
              from (select p.weight || '{}'::real[] as weight, p.bias
                    from sql_diffusion.parameters p
                    where p.model = conv2d_module_planes.model and p.component = conv2d_module_planes.component and p.key = conv2d_module_planes.key
                    offset 0) w
              offset 0) p
             left join sql_diffusion.packed_layers l
             on l.model = conv2d_module_planes.model and l.component = conv2d_module_planes.component and l.key = conv2d_module_planes.key
                and l.row_stride = sql_diffusion.conv2d_row_stride(conv2d_module_planes.width, p.kernel_width, padding)
        offset 0) layer;
end;
comment on function sql_diffusion.conv2d_module_planes(real[], int, int, text, text, text, int, int, text, real[], sql_diffusion.normalization) is
  'conv2d of (channels, height, width) to (channels, height * width) with the parameters of the module with this key, packed if they are; the input may be (channels, height * width) too. '
  'extra_bias, shape (out), is added to the module''s own; norm is done to the input first. A linear layer''s weight, shape (out, in), is applied to each pixel, as a 1x1 kernel. '
  'The padding is smaller than the kernel. The name opens error messages.';

create function sql_diffusion.conv2d_module(
  input real[], model text, component text, key text, stride int, padding int, name text
) returns real[]
language sql stable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select sql_diffusion.with_shape((select array_agg(element)
                                   from (select unnest(sql_diffusion.conv2d_module_planes(input, array_length(input, 2), array_length(input, 3),
                                                                                          model, component, key, stride, padding, name)) as element) elements),
                                  array[p.shape[1],
                                        (array_length(input, 2) + 2 * padding - p.shape[3]) / stride + 1,
                                        (array_length(input, 3) + 2 * padding - p.shape[4]) / stride + 1])
  from (select sql_diffusion.shape(p.weight || '{}'::real[]) as shape
        from sql_diffusion.parameters p
        where p.model = conv2d_module.model and p.component = conv2d_module.component and p.key = conv2d_module.key
        offset 0) p;
end;
comment on function sql_diffusion.conv2d_module(real[], text, text, text, int, int, text) is
  'conv2d_module_planes of a convolution, with an output of shape (channels, height, width).';

create function sql_diffusion.linear_module(input real[], model text, component text, key text, name text) returns real[]
language sql stable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select case when array_length(input, array_ndims(input)) <> array_length(p.weight, 2) then
           sql_diffusion.fail(format('%s: the input of %s has shape %s, expected a last dimension of %s', name, key,
                                     sql_diffusion.shape(input), array_length(p.weight, 2)))
         end
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
  select sql_diffusion.linear_core(input, p.weight || '{}'::real[], p.bias, name || ': the input of ' || key)
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
end;
comment on function sql_diffusion.linear_module(real[], text, text, text, text) is
  'linear with the parameters of the module with this key. The name opens error messages.';

create function sql_diffusion.group_norm_module_statistics(
  input real[], model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text, scale_shift real[] default null
) returns sql_diffusion.normalization
language sql stable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select case when array_length(input, 1) <> array_length(p.weight, 1) then
           sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s takes', name,
                                     array_length(input, 1), array_length(p.weight, 1), key))
         end,
         case when num_groups is null or num_groups < 1 or array_length(input, 1) % num_groups <> 0 then
           sql_diffusion.fail(format('%s: num_groups is %s, expected a divisor of the %s channels of input', name,
                                     coalesce(num_groups::text, 'null'), array_length(input, 1)))
         end
  from sql_diffusion.parameters p
  where p.model = group_norm_module_statistics.model and p.component = group_norm_module_statistics.component and p.key = group_norm_module_statistics.key;
  select sql_diffusion.group_norm_statistics(input, num_groups, affine.weight, affine.bias, eps, with_silu)
  from sql_diffusion.parameters p,
       lateral (select case when scale_shift is null then p.weight else array_agg((w * (1 + scale))::real order by position) end as weight,
                       case when scale_shift is null then p.bias else array_agg((b * (1 + scale) + shift)::real order by position) end as bias
                from unnest(p.weight, p.bias, scale_shift[: array_length(p.weight, 1)], scale_shift[array_length(p.weight, 1) + 1 :])
                     with ordinality as channel (w, b, scale, shift, position)) affine
  where p.model = group_norm_module_statistics.model and p.component = group_norm_module_statistics.component and p.key = group_norm_module_statistics.key;
end;
comment on function sql_diffusion.group_norm_module_statistics(real[], text, text, text, int, double precision, boolean, text, real[]) is
  'What group_norm, and silu after it where with_silu, with the parameters of the module with this key is to do to each channel of this input. scale_shift, shape (2 channels), multiplies the normalized '
  'channels by 1 + its first half and adds its second half. The name opens error messages.';

create function sql_diffusion.group_norm_module(
  input real[], model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text
) returns real[]
language sql stable parallel safe
set jit = off
return (select sql_diffusion.with_shape(array_agg(element), sql_diffusion.shape(input))
        from (select unnest(sql_diffusion.group_norm_planes(input, sql_diffusion.group_norm_module_statistics(input, model, component, key, num_groups, eps, with_silu, name))) as element) elements);
comment on function sql_diffusion.group_norm_module(real[], text, text, text, int, double precision, boolean, text) is
  'group_norm, and silu after it where with_silu, with the parameters of the module with this key; an output of the input''s shape.';
