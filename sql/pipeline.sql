-- The pipelines: noise, then the network and one update of the sampler for each step of the schedule.

create function sql_diffusion.default_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''),
                (select m.name from sql_diffusion.models m where m.bundled));
comment on function sql_diffusion.default_model() is 'The model that is used where none is named: the setting sql_diffusion.model, else the bundled one.';

create function sql_diffusion.generation_schedule(model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, strength double precision default 1) returns setof sql_diffusion.schedule_step
language sql stable parallel safe rows 50
begin atomic
  select sql_diffusion.component_config(model);
  with own as (
    select m.scheduler || jsonb_build_object('_class_name', coalesce(m.defaults ->> 'scheduler', m.scheduler ->> '_class_name')) as config,
           m.defaults
    from sql_diffusion.models m
    where m.name = generation_schedule.model
  ),
  chosen as materialized (
    select o.config ->> '_class_name' as own, o.defaults, sql_diffusion.scheduler_config(o.config, scheduler) as config,
           num_inference_steps is null and timesteps is null as by_default
    from own o
  ),
  -- The model's own steps are for its own scheduler.
  steps as (
    select c.config, c.by_default,
           case when c.by_default and c.config ->> '_class_name' in (select n.class_name from sql_diffusion.scheduler_names() n where n.given = lower(c.own))
                then c.defaults else '{}' end as defaults
    from chosen c
  )
  select p
  from steps s,
       lateral (
         select case when jsonb_typeof(s.defaults -> 'timesteps') = 'array'
                     then (select array_agg(t.t::int order by t.ordinality) from jsonb_array_elements_text(s.defaults -> 'timesteps') with ordinality t (t))
                     else timesteps end as list
       ) given,
       lateral sql_diffusion.schedule_of(
         s.config,
         case when s.by_default and given.list is null
              then coalesce((s.defaults ->> 'num_inference_steps')::int, case s.config ->> '_class_name' when 'DDPMScheduler' then 1000 else 50 end)
              else coalesce(num_inference_steps, (s.defaults ->> 'num_inference_steps')::int) end,
         given.list, eta, strength) p
  order by p.step;
end;
comment on function sql_diffusion.generation_schedule(text, int, int[], text, real, double precision) is
  'The schedule that ddpm_generate follows with these arguments: the model''s default where neither steps nor timesteps are given, else diffusers'' (1000 steps of ddpm, 50 of the others).';

create function sql_diffusion.denormalize(sample real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'denormalize: sample'),
         sql_diffusion.check_values(sample, 'denormalize: sample');
  select sql_diffusion.with_shape(array_agg(greatest(least(element.x / 2::real + 0.5::real, 1::real), 0::real)), sql_diffusion.shape(sample))
  from (select unnest(sample) as x) element;
end;
comment on function sql_diffusion.denormalize(real[]) is 'A picture (values 0 to 1) of a finished sample (values -1 to 1): halved, shifted and clipped. Any shape.';

create function sql_diffusion.scaled(input real[], factor double precision) returns real[]
language sql immutable strict parallel safe
return case
         when factor = 1 then input
         else sql_diffusion.with_shape((select array_agg((factor * e.x)::real) from (select unnest(input) as x) e), sql_diffusion.shape(input))
       end;
comment on function sql_diffusion.scaled(real[], double precision) is 'A tensor times a number. Any shape.';

create function sql_diffusion.ddpm_steps(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with recursive
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_model(model) as model_is_whole
  ),
  -- Made once: what stays the same from step to step.
  network as materialized (
    select sql_diffusion.pass(array_agg(p order by p.step)) as pass
    from ready, sql_diffusion.plan(model) p
  ),
  schedule as materialized (
    select s.step, s as this
    from ready, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta) s
  ),
  run (step, timestep, sample, pred_original_sample, memory, generator) as (
    select 0, null::double precision, sql_diffusion.scaled(noise.sample, (s.this).initial_noise), null::real[], null::real[], noise.next
    from schedule s, sql_diffusion.randn(sql_diffusion.manual_seed(seed), sql_diffusion.sample_shape(sql_diffusion.component_config(model))) noise
    where s.step = 1
    union all
    select s.step, (s.this).timestep, updated.prev_sample, updated.pred_original_sample, updated.next_memory, coalesce(noise.next, run.generator)
    from run
         join schedule s on s.step = run.step + 1,
         network,
         lateral (
           select sql_diffusion.from_maps(u.hidden) as model_output
           from sql_diffusion.run_pass(network.pass, '{sample,timestep}', array[sql_diffusion.to_maps(sql_diffusion.scaled(run.sample, (s.this).input_scale)), sql_diffusion.vector_to_maps(array[(s.this).timestep::real])], model, 'unet') u
           order by u.step desc
           limit 1
         ) predicted,
         lateral (
           select n.sample, n.next
           from (values (run.generator)) stream (generator)
                left join lateral sql_diffusion.randn(stream.generator, sql_diffusion.shape(run.sample)) n on (s.this).draws_noise
         ) noise,
         lateral sql_diffusion.scheduler_step(predicted.model_output, run.sample, noise.sample, s.this, run.memory) updated
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from run r
  where r.step > 0;
end;
comment on function sql_diffusion.ddpm_steps(bigint, text, int, int[], text, real) is
  'Sampling in pure SQL, one row a pass of the network as it is done: the sample that the step leads to and the guess of the finished one (channels, height, width, values about -1 to 1). '
  'Ho et al. (arXiv 2006.11239), algorithm 2; Song et al. (arXiv 2010.02502), equation 12.';

create function sql_diffusion.ddpm_generate(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.denormalize(s.sample)
  from sql_diffusion.ddpm_steps(seed, model, num_inference_steps, timesteps, scheduler, eta) s
  order by s.step desc
  limit 1;
end;
comment on function sql_diffusion.ddpm_generate(bigint, text, int, int[], text, real) is
  'A picture (channels, height, width, values 0 to 1) in pure SQL: the last of ddpm_steps.';

create function sql_diffusion.ddpm_generate(seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null) returns table (seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select s.seed, sql_diffusion.ddpm_generate(s.seed, model, num_inference_steps, timesteps, scheduler, eta)
  from unnest(seeds) with ordinality s (seed)
  order by s.ordinality;
end;
comment on function sql_diffusion.ddpm_generate(bigint[], text, int, int[], text, real) is
  'One row (seed, image) a seed, in their order, each picture the one made alone.';
