-- Packing a model: every convolution of its plans, for the width of image that it meets there. Autoencoders are left as they are: they run
-- once a picture, and their images are so large beside the kernels that packing these at each call takes a twentieth of the time.

create function sql_diffusion.network_convolutions(model text) returns table (component text, key text, row_stride int)
language sql stable strict parallel safe rows 200
begin atomic
  select distinct c.component,
         convolution.key,
         case when m.weight_shape[3] > 1
              then sql_diffusion.conv2d_row_stride(convolution.width * m.scale, m.weight_shape[4], (m.weight_shape[4] - 1) / 2)
              else 1 end as row_stride
  from sql_diffusion.components c,
       lateral (select array_agg(p order by p.step) as steps from sql_diffusion.network_plan(c.config) p) plan,
       lateral (select (sql_diffusion.sample_shape(c.config))[3] as width) sample,
       unnest(plan.steps) p,
       sql_diffusion.operation_modules(p) m,
       lateral (select case when m.suffix = '' then p.key else p.key || '.' || m.suffix end as key,
                       -- of the image that goes in, halved as often as the level of the step before says
                       sample.width / 2 ^ coalesce(plan.steps[p.inputs[1]].level, 0) as exact) at,
       lateral (select at.key, ceil(at.exact)::int as width) convolution
  where c.model = network_convolutions.model
    and not exists (select from unnest(plan.steps) input where input.operation = 'input' and input.key in ('image', 'latent'))
    and m.scale is not null
    -- a vector is no image, and tokens are one row of pixels
    and (p.level is not null or p.settings ? 'tokens');
end;
comment on function sql_diffusion.network_convolutions(text) is
  'The modules of a model''s networks, autoencoders aside, that run as convolutions, each with the slots from row to row of a kernel for the image that it meets (1 for a kernel of one pixel, which serves every image).';

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
  from sql_diffusion.network_convolutions(pack.model) c,
       sql_diffusion.parameters p
  where p.model = pack.model
    and p.component = c.component
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
  'Packs the kernels of a model''s networks, autoencoders aside, which makes every later pass in pure SQL faster, and returns the number of layers packed. Worth it for a model that runs more than '
  'once or twice; about ten times the room of its parameters. Only the owner of the tables can. It lasts until the parameters are changed or removed; a dump leaves it out.';
