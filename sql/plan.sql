-- A network is a graph, and a graph is rows: what each step does, with which parameters, from which earlier steps.
--
-- A step names its inputs by number, so a skip connection, the time embedding, text and a residual are inputs like any other.
-- Inputs from outside are steps of their own, of the operation input; what the network gives beside its last step has steps of the
-- operation output. From the rows alone come the run (sql/network.sql), the parameters that a model must have, packing,
-- and the NumPy form.
--
-- sql/networks/ has a file for each class of networks, which writes such rows from a configuration, and sql/operations/ one for
-- each operation. scripts/dispatchers.py finds both by their names.

create type sql_diffusion.plan_step as (
  step          int,
  operation     text,
  key           text,
  inputs        int[],
  in_channels   int,
  out_channels  int,
  level         int,
  settings      jsonb
);
comment on type sql_diffusion.plan_step is
  'One step of a network: what to do (operation, a layer''s name), with which parameters (key, the module''s path in the checkpoint, or the name of an input or output), from the results of '
  'which earlier steps (inputs, their numbers), the channels of the first of them and of the result, how often the result''s height and width are halved against those of the sample '
  '(level; below 0 they are doubled), and the layer''s further arguments by name (settings).';

-- How a network's file writes steps down: by place instead of number, and with inputs by label.
create type sql_diffusion.plan_draft as (
  place         int[],
  label         text,
  operation     text,
  key           text,
  inputs        text[],
  in_channels   int,
  out_channels  int,
  level         int,
  settings      jsonb
);
comment on type sql_diffusion.plan_draft is
  'A step before it has its number: place orders the steps, label is what later steps call it (NULL where none does), inputs are labels, NULL for the step right before.';

create function sql_diffusion.number_steps(drafts sql_diffusion.plan_draft[]) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 60
begin atomic
  with numbered as materialized (
    select row_number() over (order by d.place)::int as step, d.label, d.operation, d.key, d.inputs, d.in_channels, d.out_channels, d.level, d.settings
    from unnest(drafts) d
  ),
  linked as (
    select n.step,
           array_agg(case
                     when i.label is null then n.step - 1
                     when source.step < n.step then source.step
                     else sql_diffusion.fail(format('the plan has no step "%s" before step %s, %s %s', i.label, n.step, n.operation, n.key), errcode => 'XX000')::int
                     end order by i.ordinality) as inputs
    from numbered n
         cross join unnest(n.inputs) with ordinality i (label, ordinality)
         left join numbered source on source.label = i.label
    group by n.step
  )
  select n.step, n.operation, n.key, coalesce(l.inputs, '{}'), n.in_channels, n.out_channels, n.level, n.settings
  from numbered n
       left join linked l on l.step = n.step
  order by n.step;
end;
comment on function sql_diffusion.number_steps(sql_diffusion.plan_draft[]) is
  'The steps of a network with their numbers, in the order of their places, and with the numbers of their inputs in place of labels.';

create type sql_diffusion.plan_module as (
  suffix        text,
  weight_shape  int[],
  bias          boolean,
  scale         int
);
comment on type sql_diffusion.plan_module is
  'A module that a step reads: what follows the step''s key and a dot (empty for the key itself), the shape of its weight, whether it has a bias, and, where it is a convolution over the pixels of '
  'the step''s input, by how much that is enlarged first (1 for not at all; NULL for what is no such convolution and is never packed).';

create function sql_diffusion.deepest_level(plan sql_diffusion.plan_step[]) returns int
language sql immutable strict parallel safe
return (select case when bool_or(p.operation = 'upsample' and cardinality(p.inputs) > 1) then 0 else greatest(max(p.level), 0) end
        from unnest(plan) p);
comment on function sql_diffusion.deepest_level(sql_diffusion.plan_step[]) is
  'How often the height and width of a network''s input have to be even: as often as its steps halve them, or never where what is doubled again becomes as large as what was halved.';

create function sql_diffusion.network_class(config jsonb) returns text
language sql immutable strict parallel safe
return coalesce(config ->> '_class_name', config #>> '{architectures,0}', 'UNet2DModel');
comment on function sql_diffusion.network_class(jsonb) is
  'The class of a network, as its configuration says in _class_name (diffusers) or architectures (transformers); UNet2DModel where it says nothing.';

create function sql_diffusion.image_shape(channels jsonb, size jsonb) returns int[]
language sql immutable strict parallel safe
return case jsonb_typeof(size)
       when 'array' then array[channels::int, (size -> 0)::int, (size -> 1)::int]
       when 'number' then array[channels::int, size::int, size::int]
       end;
comment on function sql_diffusion.image_shape(jsonb, jsonb) is
  'The shape (channels, height, width) that a configuration tells by a number of channels and a size, one number or a pair (height, width).';

create function sql_diffusion.setting_of_level(setting jsonb, level int) returns text
language sql immutable strict parallel safe
return case jsonb_typeof(setting) when 'array' then setting ->> (level - 1) else setting #>> '{}' end;
comment on function sql_diffusion.setting_of_level(jsonb, int) is
  'A setting that is one value for all levels of a network or a list of one for each, at this level, counted from 1.';
