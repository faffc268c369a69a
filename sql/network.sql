-- The networks of loaded models: what a model has, whether it is whole, and the run of a network, which folds its steps over its inputs.

create function sql_diffusion.check_component(component text, config jsonb) returns boolean
language sql immutable parallel safe
return case
       when config is null or jsonb_typeof(config) <> 'object'
       then sql_diffusion.fail(format('component %s: the configuration is %s, expected an object', coalesce(component, 'null'), coalesce(jsonb_typeof(config), 'null')), errcode => '0A000')
       when component is distinct from 'unet' and not config ? '_class_name' and not config ? 'architectures'
       then sql_diffusion.fail(format('component %s: the configuration has neither _class_name nor architectures, expected the name of a class', coalesce(component, 'null')), errcode => '0A000')
       else coalesce(sql_diffusion.check_network(config),
                     sql_diffusion.fail(format('component %s is a %s, expected one of %s', component, sql_diffusion.network_class(config), array_to_string(sql_diffusion.networks(), ', ')), errcode => '0A000'))
       end;
comment on function sql_diffusion.check_component(text, jsonb) is
  'True for a network that can be run, otherwise an error (0A000) that names its class or the unsupported setting. What a component is, its configuration says, not its name. '
  'The table components checks its rows with it.';

alter table sql_diffusion.components
  add constraint components_supported check (sql_diffusion.check_component(component, config));

create function sql_diffusion.component_config(model text, component text default 'unet') returns jsonb
language sql stable parallel safe
begin atomic
  select case
           when model is null
           then sql_diffusion.fail('model is null, expected the name of a model',
                                   'The models that are loaded: select name from sql_diffusion.models.')
           when not exists (select from sql_diffusion.models m where m.name = component_config.model)
           then sql_diffusion.fail(format('model "%s" does not exist', model),
                                   'The models that are loaded: select name from sql_diffusion.models.', '42704')
           when not exists (select from sql_diffusion.components c where c.model = component_config.model and c.component = component_config.component)
           then case
                  when component = 'unet'
                       and exists (select from sql_diffusion.components c where c.model = component_config.model and sql_diffusion.network_class(c.config) = 'GPT2LMHeadModel')
                  then sql_diffusion.fail(format('model "%s" writes text, expected one that makes pictures', model), 'What it writes: gpt_generate(prompt, model => ''...'').')
                  else sql_diffusion.fail(format('model "%s" is unfinished: component %s is missing', model, component),
                                          'Load the model again.', '55000')
                end
         end;
  select c.config
  from sql_diffusion.components c
  where c.model = component_config.model
    and c.component = component_config.component;
end;
comment on function sql_diffusion.component_config(text, text) is
  'The configuration of a network of a model. Errors: 42704 for an unknown model, 55000 where the model lacks the network, 22023 for a model that writes text where a unet is asked for.';

create function sql_diffusion.plan(model text, component text default 'unet') returns setof sql_diffusion.plan_step
language sql stable parallel safe rows 60
return sql_diffusion.network_plan(sql_diffusion.component_config(model, component));
comment on function sql_diffusion.plan(text, text) is
  'The steps of a network of a loaded model, one row a step: read it as a table. Errors: 42704 for an unknown model, 55000 for one without the network.';

create function sql_diffusion.network_parameters(config jsonb) returns table (key text, weight_shape int[], bias_shape int[])
language sql immutable strict parallel safe rows 200
set jit = off
begin atomic
  select case when m.suffix = '' then p.key else p.key || '.' || m.suffix end, m.weight_shape, case when m.bias then array[m.weight_shape[1]] end
  from sql_diffusion.network_plan(config) p,
       sql_diffusion.operation_modules(p) m
  group by p.key, m.suffix, m.weight_shape, m.bias
  order by min(p.step);
end;
comment on function sql_diffusion.network_parameters(jsonb) is
  'The parameters that a network of this configuration must have: one row a module, its key and the shapes of its weight and its bias (NULL for none).';

create function sql_diffusion.check_model(model text) returns boolean
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model, coalesce((select min(c.component collate "C") from sql_diffusion.components c where c.model = check_model.model), 'unet'));
  with problem as (
    select coalesce(expected.key, p.key) as key,
           case
             when p.key is null then 'is missing'
             when expected.key is null then 'is surplus'
             when p.weight_shape is distinct from expected.weight_shape
             then format('has a weight of shape %s, expected %s', coalesce(p.weight_shape::text, '{}'), expected.weight_shape)
             when p.bias_shape is distinct from expected.bias_shape
             then format('has a bias of shape %s, expected %s', coalesce(p.bias_shape::text, 'null'), coalesce(expected.bias_shape::text, 'null'))
           end as message
    from (
        select c.component, e.key, e.weight_shape, e.bias_shape
        from sql_diffusion.components c,
             sql_diffusion.network_parameters(c.config) e
        where c.model = check_model.model
      ) expected
      full join (
        select s.component, s.key, s.weight_shape, s.bias_shape
        from sql_diffusion.parameters s
        where s.model = check_model.model
      ) p on (p.component, p.key) = (expected.component, expected.key)
  ),
  found as (
    select b.key, b.message, count(*) over () as problems
    from problem b
    where b.message is not null
    order by b.key collate "C"
    limit 1
  )
  select coalesce(
    (select sql_diffusion.fail(
              format('model "%s" is unfinished: parameter %s %s', model, f.key, f.message)
              || case when f.problems > 1 then format(', and %s more', f.problems - 1) else '' end,
              'Load the model again.', '55000')
     from found f),
    true);
end;
comment on function sql_diffusion.check_model(text) is
  'True for a model whose parameters are those that the configurations of its networks ask for; otherwise an error (55000) that names the first missing, surplus or misshapen one. It reads shapes, not weights.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The parts of a plan
-- ---------------------------------------------------------------------------------------------------------------------

-- An autoencoder is one network of two graphs: nothing of the encoder goes into the decoder but what is handed over from outside. Steps after one another
-- that take no earlier step than their own first are a part, and runs without the others.
create function sql_diffusion.plan_part(plan sql_diffusion.plan_step[], names text[]) returns sql_diffusion.plan_step[]
language sql immutable parallel safe
set jit = off
begin atomic
  with reached as (
    select p.step, p.operation, p.key, min(coalesce((select min(i) from unnest(p.inputs) i), p.step)) over (order by p.step desc) = p.step as begins
    from unnest(plan) p
  ),
  parted as (
    select r.step, r.operation, r.key, count(*) filter (where r.begins) over (order by r.step) as part
    from reached r
  ),
  part as (
    select min(r.step) as first, max(r.step) as last, bool_or(r.operation = 'input' and r.key = any (names)) as wanted
    from parted r
    group by r.part
  )
  select coalesce(plan[min(p.first) : max(p.last)], plan)
  from part p
  where p.wanted;
end;
comment on function sql_diffusion.plan_part(sql_diffusion.plan_step[], text[]) is
  'The steps of a whole plan that a run with these inputs takes, from the first to the last of the parts that have one of them: of an autoencoder the decoder for the input latent, the encoder for the input image. '
  'Most networks are of one part; all steps where no part has such an input.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The run
-- ---------------------------------------------------------------------------------------------------------------------

-- A pass carries the result of the step before, and beside it an array of those earlier results that a later step still takes: most steps
-- take the one right before and leave that array as it is. Where each step finds its inputs is worked out once for many passes.
create type sql_diffusion.pass_step as (
  this     sql_diffusion.plan_step,
  keeps    int[],
  pushes   boolean,
  sources  int[]
);
comment on type sql_diffusion.pass_step is
  'A step of a plan as a pass runs it. Before the step, the array of kept results is cut down to those at the places keeps (NULL: all of them stay) and, where pushes, the result of the step before is '
  'appended. The step takes its inputs from the places sources of that array; place 0 is the result of the step before.';

create function sql_diffusion.pass(plan sql_diffusion.plan_step[]) returns sql_diffusion.pass_step[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  with used as materialized (
    select i.step, max(p.step) as last_use
    from unnest(plan) p, unnest(p.inputs) i (step)
    group by i.step
  ),
  -- What is kept before a step: the results of steps before its predecessor that it or a later one takes, and its predecessor's where a later one does.
  kept as materialized (
    select p.step, k.steps
    from unnest(plan) p
         cross join lateral (select coalesce(array_agg(u.step order by u.step), '{}') as steps
                             from used u
                             where u.step < p.step - 1 and u.last_use >= p.step and u.last_use > u.step + 1
                                or u.step = p.step - 1 and u.last_use > p.step) k
  )
  select array_agg(row(p,
                       case when before.steps is distinct from array_remove(own.steps, p.step - 1)
                            then array(select array_position(before.steps, s) from unnest(array_remove(own.steps, p.step - 1)) s) end,
                       own.steps[cardinality(own.steps)] is not distinct from p.step - 1,
                       array(select case i.step when p.step - 1 then 0 else array_position(own.steps, i.step) end
                             from unnest(p.inputs) with ordinality i (step, ordinality) order by i.ordinality))::sql_diffusion.pass_step order by p.step)
  from unnest(plan) p
       join kept own on own.step = p.step
       left join lateral (select coalesce((select k.steps from kept k where k.step = p.step - 1), '{}') as steps) before on true;
end;
comment on function sql_diffusion.pass(sql_diffusion.plan_step[]) is 'The steps of a plan, each with where a pass finds its inputs.';

create function sql_diffusion.run_pass(pass sql_diffusion.pass_step[], names text[], inputs sql_diffusion.feature_maps[], model text, component text)
  returns table (step int, operation text, key text, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
set jit = off
set enable_memoize = off                            -- which would hash and keep every tensor
set join_collapse_limit = 1                         -- the layers run in the order in which they stand
set work_mem = '64MB'                               -- so that no tensor goes to a file on its way to the next step
set plan_cache_mode = force_generic_plan           -- or PostgreSQL 18 plans every layer for the arguments that came
begin atomic
  with recursive
  run (step, operation, key, hidden, kept) as (
    select (pass[1].this).step - 1, null::text, null::text, null::sql_diffusion.feature_maps, '{}'::sql_diffusion.feature_maps[]
    union all
    select (p.this).step, (p.this).operation, (p.this).key, output.hidden, before.kept
    from run
         join lateral unnest(pass[run.step - (pass[1].this).step + 2 : run.step - (pass[1].this).step + 2]) p on true,
         lateral (
           select case when p.keeps is null then run.kept else array(select run.kept[k.place] from unnest(p.keeps) with ordinality k (place) order by k.ordinality) end as kept
           offset 0
         ) left_over,
         lateral (select case when p.pushes then left_over.kept || run.hidden else left_over.kept end as kept offset 0) before,
         lateral (
           select case when (p.this).operation = 'input'
                  then array[inputs[coalesce(array_position(names, (p.this).key),
                                             case when (p.this).settings ? 'optional' then 0 end,  -- where there is none
                                             sql_diffusion.fail(format('%s: input %s is missing, the inputs are %s', component, (p.this).key, array_to_string(names, ', ')))::int)]]
                  else array(select case s.place when 0 then run.hidden else before.kept[s.place] end from unnest(p.sources) with ordinality s (place) order by s.ordinality)
                  end as inputs
           offset 0
         ) given,
         lateral (
           select o as hidden
           from sql_diffusion.run_operation(p.this, given.inputs, model, component) o
           offset 0
         ) output
  )
  select r.step, r.operation, r.key, r.hidden
  from run r
  where r.operation is not null;
end;
comment on function sql_diffusion.run_pass(sql_diffusion.pass_step[], text[], sql_diffusion.feature_maps[], text, text) is
  'One pass of a network: its steps over its inputs (feature maps and their names), each row a step''s result.';

-- What goes into a network and what its steps give, as tensors with the dimensions that people know: images (channels, height, width), tokens (tokens, features), vectors
-- (features) and numbers of tokens (tokens).
create type sql_diffusion.network_input as (
  name   text,
  value  real[]
);
comment on type sql_diffusion.network_input is 'An input of a network: its name, as a step input of the plan has it for its key, and the tensor.';

create function sql_diffusion.check_input(step sql_diffusion.plan_step, value real[], deepest int, name text) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(value, name, case
           when (step).level is not null then 'channels, height, width'
           when (step).settings ? 'tokens' then case when (step).in_channels = 1 then 'tokens' else 'tokens, features' end
           else 'features' end),
         sql_diffusion.check_values(value, name);
  select case
         when (step).level is not null and array_length(value, 1) <> (step).in_channels
         then sql_diffusion.fail(format('%s has %s channels, expected %s', name, array_length(value, 1), (step).in_channels))
         when (step).level is not null and (array_length(value, 2) % (1 << deepest - (step).level) <> 0 or array_length(value, 3) % (1 << deepest - (step).level) <> 0)
         then sql_diffusion.fail(format('%s is %s high and %s wide, expected multiples of %s', name, array_length(value, 2), array_length(value, 3), 1 << deepest - (step).level))
         when (step).level is null and not ((step).settings ? 'tokens' and (step).in_channels = 1) and array_length(value, array_ndims(value)) <> (step).in_channels
         then sql_diffusion.fail(format('%s has %s features, expected %s', name, array_length(value, array_ndims(value)), (step).in_channels))
         when (step).settings ? 'num_embeddings'
              and exists (select from unnest(value) element where not (element between 0 and ((step).settings ->> 'num_embeddings')::int - 1 and element = floor(element)))
         then sql_diffusion.fail(format('%s has a value that is not a whole number from 0 to %s', name, ((step).settings ->> 'num_embeddings')::int - 1))
         when (step).settings ? 'most_tokens' and array_length(value, 1) > ((step).settings ->> 'most_tokens')::int
         then sql_diffusion.fail(format('%s has %s tokens, expected at most %s', name, array_length(value, 1), (step).settings ->> 'most_tokens'))
         else true
         end;
end;
comment on function sql_diffusion.check_input(sql_diffusion.plan_step, real[], int, text) is
  'True for a tensor that this step, of the operation input, takes, otherwise an error (22023) that calls it by this name. deepest: deepest_level of the steps that run.';

create function sql_diffusion.check_inputs(plan sql_diffusion.plan_step[], inputs sql_diffusion.network_input[], name text) returns boolean
language sql immutable parallel safe
begin atomic
  with wanted as (
    select p as step, sql_diffusion.deepest_level(plan) as deepest
    from unnest(plan) p
    where p.operation = 'input'
  ),
  surplus as (
    select sql_diffusion.fail(format('%s: %s is not an input of this network, expected %s', check_inputs.name, i.name, (select string_agg((w.step).key, ', ' order by (w.step).step) from wanted w))) as refused
    from unnest(inputs) i
    where i.value is not null
      and i.name not in (select (w.step).key from wanted w)
  )
  select coalesce((select bool_and(s.refused) from surplus s), true)
         and coalesce((select bool_and(sql_diffusion.check_input(w.step, i.value, w.deepest, format('%s: %s', check_inputs.name, (w.step).key)) order by (w.step).step)
                       from wanted w
                            left join unnest(inputs) i on i.name = (w.step).key
                       where i.value is not null
                          or not (w.step).settings ? 'optional'), true);
end;
comment on function sql_diffusion.check_inputs(sql_diffusion.plan_step[], sql_diffusion.network_input[], text) is
  'True where these inputs are those that a network of this plan takes, otherwise an error (22023) that names the first that is missing, surplus or misshapen. The name opens the message.';

create function sql_diffusion.input_maps(value real[]) returns sql_diffusion.feature_maps
language sql immutable strict parallel safe
return case array_ndims(value)
       when 3 then sql_diffusion.to_maps(value)
       when 2 then sql_diffusion.to_maps(sql_diffusion.transpose(value), 1, array_length(value, 1))
       else sql_diffusion.vector_to_maps(value)
       end;
comment on function sql_diffusion.input_maps(real[]) is
  'The feature maps of a tensor: an image (channels, height, width), tokens (tokens, features), which lie side by side in one row, or a vector (features).';

create function sql_diffusion.step_tensor(hidden sql_diffusion.feature_maps, level int) returns real[]
language sql immutable parallel safe
return case
       when level is not null then sql_diffusion.from_maps(hidden)
       when (hidden).width = 1 then sql_diffusion.vector_of_maps(hidden)
       else sql_diffusion.transpose((hidden).planes)
       end;
comment on function sql_diffusion.step_tensor(sql_diffusion.feature_maps, int) is
  'The tensor of a step''s result: an image (channels, height, width) where the step has a level, else a vector (features) or tokens (tokens, features).';

create function sql_diffusion.run_network(inputs sql_diffusion.network_input[], model text, component text, name text default null)
  returns table (step int, operation text, key text, level int, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
begin atomic
  select sql_diffusion.check_model(model);
  select sql_diffusion.check_inputs(part.steps, inputs, coalesce(name, component))
  from (select sql_diffusion.plan_part(array_agg(p order by p.step), array(select i.name from unnest(run_network.inputs) i)) as steps
        from sql_diffusion.plan(model, component) p) part;
  select r.step, r.operation, r.key, part.steps[r.step - part.steps[1].step + 1].level, r.hidden
  from (select sql_diffusion.plan_part(array_agg(p order by p.step), array(select i.name from unnest(run_network.inputs) i)) as steps
        from sql_diffusion.plan(model, component) p offset 0) part,
       (select array_agg(i.name order by i.ordinality) as names, array_agg(sql_diffusion.input_maps(i.value) order by i.ordinality) as maps
        from unnest(inputs) with ordinality i (name, value)
        where i.value is not null) given,
       sql_diffusion.run_pass(sql_diffusion.pass(part.steps), given.names, given.maps, model, component) r;
end;
comment on function sql_diffusion.run_network(sql_diffusion.network_input[], text, text, text) is
  'network_steps with feature maps, as they go from step to step. The name opens error messages (the component''s unless told otherwise).';

create function sql_diffusion.network_steps(inputs sql_diffusion.network_input[], model text, component text default 'unet')
  returns table (step int, operation text, key text, hidden real[])
language sql stable parallel safe rows 60
begin atomic
  select sql_diffusion.fail(case when i.name is null then 'network_steps: an input has no name' else format('network_steps: %s is given %s times, expected once', i.name, count(*)) end)
  from unnest(inputs) i
  group by i.name
  having i.name is null or count(*) > 1;
  select r.step, r.operation, r.key, sql_diffusion.step_tensor(r.hidden, r.level)
  from sql_diffusion.run_network(inputs, model, component) r;
end;
comment on function sql_diffusion.network_steps(sql_diffusion.network_input[], text, text) is
  'A pass of any network of a model over its named inputs, one row a step with its result, so that every hidden tensor can be looked at: an image (channels, height, width), tokens (tokens, features) or a vector '
  '(features). Of a network of several parts, an autoencoder, those run that take one of the inputs. Errors: 42704 unknown model, 55000 unfinished model, 22023 wrong input.';

create function sql_diffusion.unet_inputs(sample real[], timestep double precision, encoder_hidden_states real[], class_labels real[], timestep_cond real[], text_embeds real[], time_ids real[])
  returns sql_diffusion.network_input[]
language sql immutable parallel safe
begin atomic
  select case
           when timestep is null or not abs(timestep) <= 3.4e38
           then sql_diffusion.fail(format('unet: timestep is %s, expected a finite number of single precision', coalesce(timestep::text, 'null')))
         end;
  select array[row('sample', sample), row('timestep', array[case when abs(timestep) > 1e-30 then timestep else 0 end::real]), row('encoder_hidden_states', encoder_hidden_states),
               row('class_labels', class_labels), row('timestep_cond', timestep_cond), row('text_embeds', text_embeds), row('time_ids', time_ids)]::sql_diffusion.network_input[];
end;
comment on function sql_diffusion.unet_inputs(real[], double precision, real[], real[], real[], real[], real[]) is
  'The arguments of unet as inputs of a network; those that are NULL are not there.';

create function sql_diffusion.unet_steps(sample real[], timestep double precision, model text, encoder_hidden_states real[] default null, class_labels real[] default null,
    timestep_cond real[] default null, text_embeds real[] default null, time_ids real[] default null)
  returns table (step int, operation text, key text, hidden real[])
language sql stable parallel safe rows 60
begin atomic
  select r.step, r.operation, r.key, sql_diffusion.step_tensor(r.hidden, r.level)
  from sql_diffusion.run_network(sql_diffusion.unet_inputs(sample, timestep, encoder_hidden_states, class_labels, timestep_cond, text_embeds, time_ids), model, 'unet') r;
end;
comment on function sql_diffusion.unet_steps(real[], double precision, text, real[], real[], real[], real[], real[]) is
  'A pass of a model''s U-Net, one row a step with its output, so that every hidden tensor can be looked at. The last row is what unet returns. Arguments as for unet.';

create function sql_diffusion.unet(sample real[], timestep double precision, model text, encoder_hidden_states real[] default null, class_labels real[] default null,
    timestep_cond real[] default null, text_embeds real[] default null, time_ids real[] default null) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_network(sql_diffusion.unet_inputs(sample, timestep, encoder_hidden_states, class_labels, timestep_cond, text_embeds, time_ids), model, 'unet') r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.unet(real[], double precision, text, real[], real[], real[], real[], real[]) is
  'What a model''s U-Net makes of a sample (channels, height, width) at a timestep (0 to the training steps less one): a tensor of the same height and width, '
  'the noise it sees in it where the model predicts epsilon. Further inputs where the network takes them, named as diffusers names them: encoder_hidden_states (tokens, features), '
  'class_labels (a number or a vector), timestep_cond (features), text_embeds (features) and time_ids (6). '
  'Errors: 42704 unknown model, 55000 unfinished model, 22023 wrong input. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), section 3.2.';

create function sql_diffusion.time_embedding(timestep double precision, model text, key text, embedding_dim int,
    flip_sin_to_cos boolean, downscale_freq_shift double precision, component text default 'unet') returns real[]
language sql stable strict parallel safe
return sql_diffusion.linear_module(
         sql_diffusion.silu(
           sql_diffusion.linear_module(
             sql_diffusion.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift),
             model, component, key || '.linear_1', 'time_embedding')),
         model, component, key || '.linear_2', 'time_embedding');
comment on function sql_diffusion.time_embedding(double precision, text, text, int, boolean, double precision, text) is
  'How far the diffusion has come, as the network is told it: timestep_embedding, then linear_1, SiLU and linear_2 of the module. '
  'Returns (time embedding channels), which every resnet_block takes. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), appendix B.';

create function sql_diffusion.text_encoder(input_ids int[], model text, component text default 'text_encoder') returns real[]
language sql stable parallel safe
begin atomic
  select case when input_ids is null or cardinality(input_ids) = 0
              then sql_diffusion.fail('text_encoder: input_ids is ' || case when input_ids is null then 'null' else 'empty' end) end;
  select sql_diffusion.step_tensor(r.hidden, r.level)
  from sql_diffusion.run_network(array[row('input_ids', input_ids::real[])]::sql_diffusion.network_input[], model, component, 'text_encoder') r
  where r.operation = 'output'
    and r.key = 'last_hidden_state';
end;
comment on function sql_diffusion.text_encoder(int[], text, text) is
  'What a model''s text encoder makes of tokens (sql_diffusion.tokenize): the last hidden state (tokens, features), which the U-Net attends to. '
  'Errors: 42704 unknown model, 55000 unfinished model, 22023 wrong tokens. Radford et al. (arXiv 2103.00020), section 2.4.';
