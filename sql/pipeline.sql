-- The pipelines: noise, then the network and one update of the sampler for each step of the schedule.

create function sql_diffusion.default_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''),
                (select m.name from sql_diffusion.models m where m.bundled));
comment on function sql_diffusion.default_model() is 'The model that is used where none is named: the setting sql_diffusion.model, else the bundled one.';

create function sql_diffusion.generation_schedule(model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns setof sql_diffusion.schedule_step
language sql stable parallel safe rows 50
begin atomic
  select sql_diffusion.component_config(model);
  with chosen as (
    select m.scheduler as config,
           m.defaults,
           sql_diffusion.scheduler_name(coalesce(generation_schedule.scheduler, m.defaults ->> 'scheduler', m.scheduler ->> '_class_name')) as sampler,
           -- The model's own number of steps is for its own sampler.
           num_inference_steps is null and timesteps is null
             and (generation_schedule.scheduler is null or sql_diffusion.scheduler_name(generation_schedule.scheduler) = sql_diffusion.scheduler_name(coalesce(m.defaults ->> 'scheduler', m.scheduler ->> '_class_name')))
             and (m.defaults ? 'num_inference_steps' or m.defaults ? 'timesteps') as by_default
    from sql_diffusion.models m
    where m.name = generation_schedule.model
  )
  select s
  from chosen c,
       lateral (
         select case when c.by_default then (c.defaults ->> 'num_inference_steps')::int
                     when num_inference_steps is null and timesteps is null then case c.sampler when 'ddpm' then 1000 else 50 end
                     else num_inference_steps end as count,
                case when c.by_default then (select array_agg(t.t::int order by t.ordinality) from jsonb_array_elements_text(c.defaults -> 'timesteps') with ordinality t (t))
                     else timesteps end as list
       ) steps,
       lateral sql_diffusion.scheduler_timesteps(c.config, c.sampler, steps.count, steps.list, eta) s
  order by s.step;
end;
comment on function sql_diffusion.generation_schedule(text, int, int[], text, real) is
  'The schedule that ddpm_generate follows with these arguments: the model''s default where neither steps nor timesteps are given, else diffusers'' (1000 steps of ddpm, 50 of ddim).';

create function sql_diffusion.denormalize(sample real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'denormalize: sample'),
         sql_diffusion.check_values(sample, 'denormalize: sample');
  select sql_diffusion.with_shape(array_agg(greatest(least(element.x / 2::real + 0.5::real, 1::real), 0::real)), sql_diffusion.shape(sample))
  from (select unnest(sample) as x) element;
end;
comment on function sql_diffusion.denormalize(real[]) is 'A picture (values 0 to 1) of a finished sample (values -1 to 1): halved, shifted and clipped. Any shape.';

create function sql_diffusion.ddpm_steps(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with recursive
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_model(model) as model_is_whole,
           clock_timestamp() as began
  ),
  -- Made once: what stays the same from step to step.
  plan as materialized (
    select array_agg(p order by p.step) as steps
    from ready, sql_diffusion.unet_plan(model) p
  ),
  schedule as materialized (
    select s.step, s as this
    from ready, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta) s
  ),
  run (step, timestep, sample, pred_original_sample, generator) as (
    select 0, null::int, noise.sample, null::real[], noise.next
    from ready, sql_diffusion.randn(sql_diffusion.manual_seed(seed), sql_diffusion.sample_shape(sql_diffusion.unet_config(sql_diffusion.component_config(model)))) noise
    union all
    select s.step, (s.this).timestep, updated.prev_sample, updated.pred_original_sample, coalesce(noise.next, run.generator)
    from run
         join schedule s on s.step = run.step + 1,
         plan,
         lateral (
           select sql_diffusion.from_maps(u.hidden) as model_output
           from sql_diffusion.run_plan(plan.steps, run.sample, (s.this).timestep, model) u
           order by u.step desc
           limit 1
         ) network,
         lateral (
           select n.sample, n.next
           from (values (run.generator)) stream (generator)
                left join lateral sql_diffusion.randn(stream.generator, sql_diffusion.shape(run.sample)) n on (s.this).draws_noise
         ) noise,
         lateral sql_diffusion.scheduler_step(network.model_output, run.sample, noise.sample, s.this) updated
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from run r
  where r.step > 0
    and sql_diffusion.tell_progress(r.step, (select count(*) from schedule)::int, extract(epoch from clock_timestamp() - (select began from ready))::double precision);
end;
comment on function sql_diffusion.ddpm_steps(bigint, text, int, int[], text, real) is
  'Sampling in pure SQL, one row a step as it is done: the sample that the step leads to and the guess of the finished one (channels, height, width, values about -1 to 1). '
  'Ho et al. (arXiv 2006.11239), algorithm 2; Song et al. (arXiv 2010.02502), equation 12.';

create function sql_diffusion.ddpm_generate(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns real[]
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
    scheduler text default null, eta real default 0) returns table (seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select s.seed, sql_diffusion.ddpm_generate(s.seed, model, num_inference_steps, timesteps, scheduler, eta)
  from unnest(seeds) with ordinality s (seed)
  order by s.ordinality;
end;
comment on function sql_diffusion.ddpm_generate(bigint[], text, int, int[], text, real) is
  'One row (seed, image) a seed, in their order, each picture the one made alone.';
