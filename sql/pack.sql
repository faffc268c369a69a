-- Packing a model: every convolution of its plan, for the width of image that it meets there.

create function sql_diffusion.unet_convolutions(model text) returns table (key text, row_stride int)
language sql stable strict parallel safe
begin atomic
  select convolution.key,
         sql_diffusion.conv2d_row_stride(convolution.width, coalesce(array_length(p.weight, 4), 1), (convolution.kernel_size - 1) / 2) as row_stride
  from (select (sql_diffusion.sample_shape(sql_diffusion.unet_config(c.config)))[3] as width
        from sql_diffusion.components c
        where c.model = unet_convolutions.model
          and c.component = 'unet') sample,
       lateral (select s.operation,
                       s.key,
                       (sample.width >> (count(*) filter (where s.operation = 'downsample') over before)::int)
                                     << (count(*) filter (where s.operation = 'upsample') over before)::int as width
                from sql_diffusion.unet_plan(model) s
                window before as (order by s.step rows between unbounded preceding and 1 preceding)) step,
       lateral (values ('conv2d', '', 1, 3),
                       ('resnet_block', '.conv1', 1, 3),
                       ('resnet_block', '.conv2', 1, 3),
                       ('resnet_block', '.conv_shortcut', 1, 1),
                       ('attention_block', '.to_q', 1, 1),
                       ('attention_block', '.to_k', 1, 1),
                       ('attention_block', '.to_v', 1, 1),
                       ('attention_block', '.to_out.0', 1, 1),
                       ('downsample', '.conv', 1, 3),
                       ('upsample', '.conv', 2, 3)) module (operation, suffix, scale, kernel_size),
       lateral (select step.key || module.suffix as key, step.width * module.scale as width, module.kernel_size) convolution,
       sql_diffusion.parameters p
  where module.operation = step.operation
    and p.model = unet_convolutions.model
    and p.component = 'unet'
    and p.key = convolution.key;
end;
comment on function sql_diffusion.unet_convolutions(text) is
  'The modules of a model''s U-Net that run as convolutions, each with the slots from row to row of a kernel for the image that it meets.';

create function sql_diffusion.pack(model text) returns bigint
language sql volatile strict parallel unsafe
set jit = off
begin atomic
  select sql_diffusion.check_model(model);
  delete from sql_diffusion.packed_layers l
  where l.model = pack.model;
  -- The lock keeps a weight from being replaced between being read here and being seen as packed by the trigger.
  insert into sql_diffusion.packed_layers (model, component, key, row_stride, largest)
  select p.model, p.component, p.key, c.row_stride, sql_diffusion.conv2d_largest(p.weight || '{}'::real[])
  from sql_diffusion.unet_convolutions(pack.model) c,
       sql_diffusion.parameters p
  where p.model = pack.model
    and p.component = 'unet'
    and p.key = c.key
  for share of p;
  insert into sql_diffusion.packed_kernels (layer, out_channel, kernels)
  select l.id, k.out_channel, k.kernels
  from sql_diffusion.packed_layers l
       join sql_diffusion.parameters p on (p.model, p.component, p.key) = (l.model, l.component, l.key),
       sql_diffusion.conv2d_kernels(p.weight || '{}'::real[], l.largest, l.row_stride) k
  where l.model = pack.model;
  select count(*)
  from sql_diffusion.packed_layers l
  where l.model = pack.model;
end;
comment on function sql_diffusion.pack(text) is
  'Packs the kernels of a model''s U-Net, which makes every later pass in pure SQL faster, and returns the number of layers packed. Worth it for a model that runs more than '
  'once or twice; about ten times the room of its parameters. Only the owner of the tables can. It lasts until the parameters are changed or removed; a dump leaves it out.';
