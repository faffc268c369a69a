create function sql_diffusion.resnet_block_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 6
begin atomic
  select m.suffix, m.weight_shape, true, m.scale
  from (values
         ('norm1', array[(step).in_channels], null, true),
         ('conv1', array[(step).out_channels, (step).in_channels, 3, 3], 1, true),
         ('time_emb_proj', array[case (step).settings ->> 'time_scale_shift' when 'scale_shift' then 2 else 1 end * (step).out_channels, ((step).settings ->> 'temb_channels')::int], null,
          (step).settings ->> 'temb_channels' is not null),
         ('norm2', array[(step).out_channels], null, true),
         ('conv2', array[(step).out_channels, (step).out_channels, 3, 3], 1, true),
         ('conv_shortcut', array[(step).out_channels, (step).in_channels, 1, 1], 1, (step).in_channels <> (step).out_channels)
       ) as m (suffix, weight_shape, scale, present)
  where m.present;
end;
comment on function sql_diffusion.resnet_block_modules(sql_diffusion.plan_step) is 'The modules of a residual block: time_emb_proj where it takes a time embedding, conv_shortcut where it changes the number of channels.';

create function sql_diffusion.run_resnet_block(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.resnet_block_of_maps(inputs[1], sql_diffusion.vector_of_maps(inputs[2]), model, (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision,
                                          (step).settings ->> 'time_scale_shift', ((step).settings ->> 'output_scale_factor')::double precision, component, (step).settings ->> 'resample',
                                          coalesce((step).settings ->> 'non_linearity', 'silu')) maps;
end;
comment on function sql_diffusion.run_resnet_block(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'A residual block of the first input; the second, where there is one, is the time embedding.';
