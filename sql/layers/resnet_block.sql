create function sql_diffusion.resample_maps(input sql_diffusion.feature_maps, resample text) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
return case resample
       when 'upsample' then sql_diffusion.to_maps(sql_diffusion.interpolate_nearest(sql_diffusion.from_maps(input), 2))
       when 'downsample' then (
         select sql_diffusion.to_maps(array_agg(plane.pixels order by channel), (input).height / 2, (input).width / 2)
         from generate_series(1, array_length((input).planes, 1)) channel,
              lateral (select array_agg(pixel) as elements from (select unnest((input).planes[channel:channel]) as pixel) pixels offset 0) flat,
              lateral (select array_agg(((flat.elements[i]::float8 + flat.elements[i + 1] + flat.elements[i + (input).width] + flat.elements[i + (input).width + 1]) / 4)::real order by y, x) as pixels
                       from generate_series(0, (input).height / 2 - 1) y,
                            generate_series(0, (input).width / 2 - 1) x,
                            lateral (select 2 * y * (input).width + 2 * x + 1 as i) corner offset 0) plane)
       else input
       end;
comment on function sql_diffusion.resample_maps(sql_diffusion.feature_maps, text) is
  'Feature maps of twice the height and width (upsample: every pixel four times), of half of them (downsample: means of four pixels) or as they are (NULL).';

-- SiLU, which nearly every network has, is done where the next layer reads its pixels; the others in a pass of their own.
create function sql_diffusion.activated_maps(input sql_diffusion.feature_maps, norm sql_diffusion.normalization, non_linearity text) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
begin atomic
  select activated
  from (select sql_diffusion.to_maps(sql_diffusion.group_norm_planes((input).planes, norm), (input).height, (input).width) as maps offset 0) normal,
       lateral (
         select normal.maps as activated
         where non_linearity = 'silu'
         union all
         select a from sql_diffusion.gelu_of_maps(normal.maps, 'none') a where non_linearity = 'gelu'
         union all
         select a from sql_diffusion.mish_of_maps(normal.maps) a where non_linearity = 'mish'
         union all
         select a from sql_diffusion.relu_of_maps(normal.maps) a where non_linearity = 'relu'
       ) known;
end;
comment on function sql_diffusion.activated_maps(sql_diffusion.feature_maps, sql_diffusion.normalization, text) is
  'Feature maps after their norm and the activation behind it, silu, which is in the norm already, gelu, mish or relu.';

create function sql_diffusion.activated(input real[], non_linearity text) returns real[]
language sql immutable parallel safe
return case non_linearity
       when 'silu' then sql_diffusion.silu(input)
       when 'gelu' then sql_diffusion.gelu(input)
       when 'mish' then sql_diffusion.mish(input)
       when 'relu' then sql_diffusion.relu(input)
       end;
comment on function sql_diffusion.activated(real[], text) is 'silu, gelu, mish or relu of every element of a tensor of any shape.';

create function sql_diffusion.resnet_block_of_maps(
  input sql_diffusion.feature_maps, temb real[], model text, key text, num_groups int, eps double precision, time_scale_shift text,
  output_scale_factor double precision, component text, resample text default null, non_linearity text default 'silu'
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- Adding the time to every pixel of a channel is adding it to the channel's bias; with scale_shift it joins norm2's weight and bias.
  select second.planes, second.height, second.width, second.mean, second.variance, second.low, second.high
  from (select case when temb is not null
               then sql_diffusion.linear_module(sql_diffusion.activated(temb, non_linearity), model, component, key || '.time_emb_proj', 'resnet_block')
               end as features offset 0) projected
       left join lateral (select p.weight_shape[1] as channels,
                                 p.weight_shape[1] * case time_scale_shift when 'scale_shift' then 2 else 1 end as outputs
                          from sql_diffusion.parameters p
                          where p.model = resnet_block_of_maps.model and p.component = resnet_block_of_maps.component and p.key = resnet_block_of_maps.key || '.norm2') expected
       on true
       cross join lateral (select case
                                  when cardinality(projected.features) <> expected.outputs
                                  then array[sql_diffusion.fail(format('resnet_block: %s.time_emb_proj has %s outputs, expected %s for the %s channels of %s.norm2 and time_scale_shift %s',
                                                                       resnet_block_of_maps.key, cardinality(projected.features), expected.outputs, expected.channels,
                                                                       resnet_block_of_maps.key, time_scale_shift))::int]::real[]
                                  else projected.features
                                  end as features offset 0) time
       cross join sql_diffusion.group_norm_of_module(input, model, component, key || '.norm1', num_groups, eps, non_linearity = 'silu', 'resnet_block') norm1
       cross join lateral (select resample is null and non_linearity = 'silu' as fused offset 0) way
       cross join lateral (select case when way.fused then input
                                  else sql_diffusion.resample_maps(sql_diffusion.activated_maps(input, norm1, non_linearity), resample)
                                  end as hidden,
                                  case when resample is null then input else sql_diffusion.resample_maps(input, resample) end as residual offset 0) sized
       cross join sql_diffusion.conv2d_module(sized.hidden, model, component, key || '.conv1', 1, 1, 'resnet_block',
                                              extra_bias => case when time_scale_shift = 'default' then time.features end, norm => case when way.fused then norm1 end) first
       cross join sql_diffusion.group_norm_of_module(first, model, component, key || '.norm2', num_groups, eps, non_linearity = 'silu', 'resnet_block',
                                                     case when time_scale_shift = 'scale_shift' then time.features end) norm2
       cross join lateral (select case when non_linearity = 'silu' then first else sql_diffusion.activated_maps(first, norm2, non_linearity) end as hidden offset 0) entry
       cross join lateral (select exists (select from sql_diffusion.parameters p
                                          where p.model = resnet_block_of_maps.model and p.component = resnet_block_of_maps.component
                                            and p.key = resnet_block_of_maps.key || '.conv_shortcut') as exists offset 0) shortcut
       left join lateral (select convolution
                          from sql_diffusion.conv2d_prepared(sized.residual, model, component, key || '.conv_shortcut', 1, 0, 'resnet_block') convolution
                          where shortcut.exists
                          offset 0) packed
       on true
       left join lateral (select maps.planes
                          from sql_diffusion.conv2d_module(sized.residual, model, component, key || '.conv_shortcut', 1, 0, 'resnet_block') maps
                          where shortcut.exists and (packed.convolution).layer is null
                          offset 0) plain
       on true
       cross join sql_diffusion.conv2d_module(entry.hidden, model, component, key || '.conv2', 1, 1, 'resnet_block', norm => case when non_linearity = 'silu' then norm2 end,
                                              residual => case when shortcut.exists then plain.planes else (sized.residual).planes end, shortcut => packed.convolution,
                                              output_scale => 1 / output_scale_factor) second
  offset 0;
end;
comment on function sql_diffusion.resnet_block_of_maps(sql_diffusion.feature_maps, real[], text, text, int, double precision, text, double precision, text, text, text) is
  'resnet_block of feature maps, without the checks of its settings; resample (downsample or upsample) changes their size after the first norm, non_linearity is one of activated. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.resnet_block(
  input real[],
  temb real[],
  model text,
  key text,
  num_groups int,
  eps double precision default 1e-5,
  time_scale_shift text default 'default',
  output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
set join_collapse_limit = 1
begin atomic
  select sql_diffusion.check_tensor(input, 'resnet_block: input', 'channels, height, width'),
         case when temb is not null then sql_diffusion.check_tensor(temb, 'resnet_block: temb', 'features') end,
         case when time_scale_shift is null or time_scale_shift not in ('default', 'scale_shift') then
           sql_diffusion.fail(format('resnet_block: time_scale_shift is %s, expected default or scale_shift', coalesce(time_scale_shift, 'null')))
         end,
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('resnet_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('resnet_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end,
         sql_diffusion.check_values(temb, 'resnet_block: temb');
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.resnet_block_of_maps(given.maps, temb, model, key, num_groups, eps, time_scale_shift, output_scale_factor, component) output;
end;
comment on function sql_diffusion.resnet_block(real[], real[], text, text, int, double precision, text, double precision, text) is
  'Residual block, diffusers'' ResnetBlock2D: norm1, SiLU, conv1, the time embedding temb (features; NULL for none) through SiLU and time_emb_proj, norm2, SiLU, conv2, '
  'plus the input (through conv_shortcut where the model has one), divided by output_scale_factor. input (in, height, width), output (out, height, width); the parameters '
  'are those below the key. time_scale_shift: default adds the time before norm2, scale_shift scales and shifts after it.';
