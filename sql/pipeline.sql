-- The pipelines: noise, then the network and one update of the sampler for each step of the schedule.

create function sql_diffusion.bundled_model(prompted boolean) returns text
language sql stable parallel safe
return (select min(m.name collate "C")
        from sql_diffusion.models m
        where m.bundled
          and prompted = exists (select from sql_diffusion.components c where c.model = m.name and c.component = 'text_encoder'));
comment on function sql_diffusion.bundled_model(boolean) is 'The model that comes with the extension and takes a prompt, or takes none; NULL where it was deleted.';

create function sql_diffusion.default_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''), sql_diffusion.bundled_model(false));
comment on function sql_diffusion.default_model() is 'The model that is used where none is named and there is no prompt: the setting sql_diffusion.model, else the bundled one that takes none.';

create function sql_diffusion.generation_schedule(model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, strength double precision default 1) returns setof sql_diffusion.schedule_step
language sql stable parallel safe rows 50
begin atomic
  select sql_diffusion.component_config(model);
  with own as (
    -- Two pipelines make a scheduler of their own of the one that they are given.
    select m.scheduler || jsonb_build_object('_class_name', coalesce(m.defaults ->> 'scheduler',
                                                                     case m.pipeline when 'DDIMPipeline' then 'DDIMScheduler' when 'PNDMPipeline' then 'PNDMScheduler' end,
                                                                     m.scheduler ->> '_class_name')) as config,
           m.defaults,
           m.pipeline
    from sql_diffusion.models m
    where m.name = generation_schedule.model
  ),
  chosen as materialized (
    select o.config ->> '_class_name' as own, o.defaults, o.pipeline, sql_diffusion.scheduler_config(o.config, scheduler) as config,
           num_inference_steps is null and timesteps is null as by_default
    from own o
  ),
  -- The model's own steps are for its own scheduler.
  steps as (
    select c.config, c.by_default, c.pipeline,
           case when c.by_default and c.config ->> '_class_name' in (select n.class_name from sql_diffusion.scheduler_names() n where n.given = lower(c.own collate "C"))
                then c.defaults else '{}' end as defaults
    from chosen c
  ),
  -- LatentConsistencyModelImg2ImgPipeline makes as many steps as it is told to, spread over the lowest of those it was distilled for.
  asked as (
    select s.config, s.pipeline,
           case when s.by_default and given.list is null
                then coalesce((s.defaults ->> 'num_inference_steps')::int,
                              case when s.pipeline like 'LatentConsistency%' then 4
                                   when s.pipeline = 'StableDiffusionUpscalePipeline' then 75
                                   when s.pipeline = 'LDMSuperResolutionPipeline' then 100
                                   when s.pipeline in ('DDPMPipeline', 'DDIMPipeline', 'PNDMPipeline') and s.config ->> '_class_name' = 'DDPMScheduler' then 1000
                                   else 50 end)
                else coalesce(num_inference_steps, (s.defaults ->> 'num_inference_steps')::int) end as number,
           given.list,
           s.pipeline like 'LatentConsistency%' and s.config ->> '_class_name' = 'LCMScheduler' and strength > 0 and strength < 1 as is_distilled
    from steps s,
         lateral (
           select case when jsonb_typeof(s.defaults -> 'timesteps') = 'array'
                       then (select array_agg(t.t::int order by t.ordinality) from jsonb_array_elements_text(s.defaults -> 'timesteps') with ordinality t (t))
                       else timesteps end as list
         ) given
  )
  select p
  from asked a,
       lateral (select a.is_distilled and a.list is null and a.number >= 1 as is_spread) d,
       lateral sql_diffusion.schedule_of(
         a.config,
         case when not d.is_spread then a.number end,
         case when d.is_spread then array(select t.timestep from sql_diffusion.distilled_timesteps(a.config, a.number, null, strength) t order by t.step) else a.list end,
         -- diffusers' pipelines hand a scheduler that takes eta an eta of 0, but for the one that knows of none
         case when a.pipeline = 'DDPMPipeline' then eta else coalesce(eta, case when (sql_diffusion.scheduler_of(a.config ->> '_class_name')).uses_eta then 0 end) end,
         case when d.is_spread then 1 else strength end) p
  order by p.step;
end;
comment on function sql_diffusion.generation_schedule(text, int, int[], text, real, double precision) is
  'The schedule that ddpm_generate follows with these arguments: the model''s default where neither steps nor timesteps are given, else diffusers'' (1000 steps of ddpm for pixels, 4 of consistency models, 75 and 100 of those that upscale, 50 of the others).';

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

create type sql_diffusion.condition as (
  names   text[],
  inputs  sql_diffusion.feature_maps[]
);
comment on type sql_diffusion.condition is 'What a U-Net is given beside the sample and the timestep, the same in every step: inputs and their names. NULL for nothing.';

create function sql_diffusion.guidance(unconditional real[], conditional real[], guidance_scale real, guidance_rescale real) returns real[]
language sql immutable parallel safe
begin atomic
  with element as (
    select u, c, (u + guidance_scale * (c - u))::real as guided
    from (select unnest(unconditional) as u, unnest(conditional) as c) pair
  ),
  -- of the whole tensor, as torch.std
  spread as (
    select case when guidance_rescale > 0 then (stddev_samp(e.c::float8) / nullif(stddev_samp(e.guided::float8), 0))::real end as factor
    from element e
  )
  select sql_diffusion.with_shape(
           (select array_agg(case when s.factor is null then e.guided
                                  else guidance_rescale * (e.guided * s.factor) + (1::real - guidance_rescale) * e.guided end)
            from element e, spread s),
           sql_diffusion.shape(conditional));
end;
comment on function sql_diffusion.guidance(real[], real[], real, real) is
  'Classifier-free guidance (Ho and Salimans, arXiv 2207.12598, equation 6): away from what the network says without the text, guidance_scale times as far as to what it says with it. guidance_rescale (0 to 1) is the share '
  'of the result that is brought to the spread of the latter: Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), section 3.4.';

create type sql_diffusion.beginning as (
  sample        real[],
  generator     sql_diffusion.generator,
  shown         real[],
  scales_shown  boolean,
  original      real[],
  noise         real[],
  mask          real[]
);
comment on type sql_diffusion.beginning is
  'How the steps of a schedule begin: the first sample, and the stream that fresh noise comes from. Where a picture is begun with: what the U-Net is shown beside the sample (shown, and whether that is multiplied by input_scale, too), '
  'and what is put back after each step where the mask (1, height, width) is 0: original with noise. NULL for what there is not.';

create function sql_diffusion.begin_with_noise(seed bigint, shape int[], step sql_diffusion.schedule_step) returns sql_diffusion.beginning
language sql immutable parallel safe
begin atomic
  select row(sql_diffusion.scaled(noise.sample, (step).initial_noise), noise.next, null, null, null, null, null)::sql_diffusion.beginning
  from sql_diffusion.randn(sql_diffusion.manual_seed(seed), begin_with_noise.shape) noise;
end;
comment on function sql_diffusion.begin_with_noise(bigint, int[], sql_diffusion.schedule_step) is 'How a schedule whose first step this is begins where there is no picture: with the noise of a seed.';

create function sql_diffusion.keep_original(sample real[], original real[], mask real[]) returns real[]
language sql immutable parallel safe
set jit = off
return (select sql_diffusion.with_shape((select array_agg((1::real - m.flat[(e.place - 1) % cardinality(m.flat) + 1]) * e.original + m.flat[(e.place - 1) % cardinality(m.flat) + 1] * e.x order by e.place)
                                         from unnest(sample, original) with ordinality e (x, original, place)), sql_diffusion.shape(sample))
        from (select array(select unnest(mask)) as flat) m);
comment on function sql_diffusion.keep_original(real[], real[], real[]) is 'The sample where the mask (1, height, width) is 1, the original where it is 0 (both channels, height, width).';

create function sql_diffusion.sample_steps(beginning sql_diffusion.beginning, schedule sql_diffusion.schedule_step[], model text,
    condition sql_diffusion.condition, uncondition sql_diffusion.condition, guidance_scale real, guidance_rescale real)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with recursive
  began as materialized (
    select clock_timestamp() as instant
  ),
  -- Made once: what stays the same from step to step.
  network as materialized (
    select sql_diffusion.pass(array_agg(p order by p.step)) as pass
    from sql_diffusion.plan(model) p
  ),
  run (step, timestep, sample, pred_original_sample, memory, generator) as (
    select 0, null::double precision, (sample_steps.beginning).sample, null::real[], null::real[], (sample_steps.beginning).generator
    union all
    select s.step, s.timestep, kept.sample, updated.pred_original_sample, updated.next_memory, coalesce(noise.next, run.generator)
    from run
         join lateral unnest(sample_steps.schedule[run.step + 1 : run.step + 1]) s on true
         cross join network
         cross join lateral (
           select array[sql_diffusion.to_maps(case when (sample_steps.beginning).shown is null then sql_diffusion.scaled(run.sample, s.input_scale)
                                                   when (sample_steps.beginning).scales_shown then sql_diffusion.scaled(run.sample || (sample_steps.beginning).shown, s.input_scale)
                                                   else sql_diffusion.scaled(run.sample, s.input_scale) || (sample_steps.beginning).shown end), sql_diffusion.vector_to_maps(array[s.timestep::real])] as maps
           offset 0
         ) shown
         cross join lateral (
           select sql_diffusion.from_maps(u.hidden) as output
           from sql_diffusion.run_pass(network.pass, '{sample,timestep}'::text[] || (sample_steps.condition).names, shown.maps || (sample_steps.condition).inputs, model, 'unet') u
           order by u.step desc
           limit 1
         ) conditional
         left join lateral (
           select sql_diffusion.from_maps(u.hidden) as output
           from sql_diffusion.run_pass(network.pass, '{sample,timestep}'::text[] || (sample_steps.uncondition).names, shown.maps || (sample_steps.uncondition).inputs, model, 'unet') u
           where (sample_steps.uncondition).names is not null
           order by u.step desc
           limit 1
         ) unconditional
         on true
         cross join lateral (
           select case when unconditional.output is null then conditional.output
                       else sql_diffusion.guidance(unconditional.output, conditional.output, guidance_scale, guidance_rescale) end as model_output
           offset 0
         ) predicted
         cross join lateral (
           select n.sample, n.next
           from (values (run.generator)) stream (generator)
                left join lateral sql_diffusion.randn(stream.generator, sql_diffusion.shape(run.sample)) n on s.draws_noise
         ) noise
         cross join lateral sql_diffusion.scheduler_step(predicted.model_output, run.sample, noise.sample, s, run.memory) updated
         cross join lateral (
           select case when (sample_steps.beginning).mask is null then updated.prev_sample
                       else sql_diffusion.keep_original(
                              updated.prev_sample,
                              case when s.step < cardinality(sample_steps.schedule)
                                   then sql_diffusion.add_noise_at((sample_steps.beginning).original, (sample_steps.beginning).noise, sample_steps.schedule[s.step + 1])
                                   else (sample_steps.beginning).original end,
                              (sample_steps.beginning).mask) end as sample
           offset 0
         ) kept
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from run r
  where r.step > 0
    and sql_diffusion.tell_progress(r.step, cardinality(sample_steps.schedule), extract(epoch from clock_timestamp() - (select b.instant from began b))::double precision);
end;
comment on function sql_diffusion.sample_steps(sql_diffusion.beginning, sql_diffusion.schedule_step[], text, sql_diffusion.condition, sql_diffusion.condition, real, real) is
  'The loop of all pipelines, one row a pass of the schedule as it is done: from a beginning, with fresh noise from its generator where a step draws it, by a model''s U-Net under a condition, guided away from uncondition where that is '
  'not NULL. Ho et al. (arXiv 2006.11239), algorithm 2; Song et al. (arXiv 2010.02502), equation 12.';

create function sql_diffusion.check_begins_with_noise(model text) returns boolean
language sql stable parallel safe
return (select case
               when (c.config ->> 'in_channels')::int > (c.config ->> 'out_channels')::int and exists (select from sql_diffusion.decoder(model))
               then sql_diffusion.fail(format('model "%s" begins with a picture: its U-Net takes %s channels and makes %s', model, c.config ->> 'in_channels', c.config ->> 'out_channels'),
                                       'Its pictures: inpaint(image, mask, ''...'', seed, model => ''...'') or upscale(image, seed, model => ''...'').')
               else true
               end
        from (select sql_diffusion.network_config(sql_diffusion.component_config(model)) as config) c);
comment on function sql_diffusion.check_begins_with_noise(text) is 'True for a model that makes pictures of noise alone, otherwise an error (22023).';

create function sql_diffusion.check_unconditional(model text) returns boolean
language sql stable parallel safe
return (select case
               when network.takes_text
               then sql_diffusion.fail(format('model "%s" takes a prompt', model), 'Its pictures: text_to_image(''...'', seed, model => ''...'').')
               when network.given not in (network.taken, 2 * network.taken)
               then sql_diffusion.fail(format('model "%s" takes %s channels and gives %s, expected as many as it takes, or twice as many with a variance', model, network.taken, network.given),
                                       'Its network runs: sql_diffusion.unet. What the further channels are to be, no pipeline says.')
               else true
               end
        from (select bool_or(p.operation = 'input' and p.key = 'encoder_hidden_states') as takes_text,
                     min(p.in_channels) filter (where p.operation = 'input' and p.key = 'sample') as taken,
                     (array_agg(p.out_channels order by p.step desc))[1] as given
              from sql_diffusion.plan(model) p) network);
comment on function sql_diffusion.check_unconditional(text) is
  'True for a model whose U-Net takes no text and gives what it takes, as many channels, or twice as many where the variance is learned; otherwise an error (22023).';

create function sql_diffusion.with_label(condition sql_diffusion.condition, label int) returns sql_diffusion.condition
language sql immutable strict parallel safe
return row((condition).names || 'class_labels'::text, (condition).inputs || sql_diffusion.vector_to_maps(array[label::real]))::sql_diffusion.condition;
comment on function sql_diffusion.with_label(sql_diffusion.condition, int) is 'The same condition, and the number of a class with it.';

create function sql_diffusion.check_class_label(model text, class_label int) returns boolean
language sql stable parallel safe
return (select case
               when t.in_channels is null and class_label is not null
               then sql_diffusion.fail(format('class_label is %s, but model "%s" knows no classes', class_label, model))
               when t.in_channels > 1
               then sql_diffusion.fail(format('model "%s" knows classes by %s features, not by a number', model, t.in_channels), 'unet(sample, timestep, model, class_labels => ''{...}'') takes them.', '0A000')
               when class_label is null and t.in_channels is not null or not class_label between 0 and t.classes - 1
               then sql_diffusion.fail(format('class_label is %s, expected %s', coalesce(class_label::text, 'null'), case when t.classes is null then 'a number' else format('from 0 to %s', t.classes - 1) end),
                                       format('Model "%s" knows classes: ddpm_generate(seed, class_label => 0, model => ''...'').', model))
               else true
               end
        from (values (1)) one
             left join (select p.in_channels, (p.settings ->> 'num_embeddings')::int as classes
                        from sql_diffusion.plan(check_class_label.model) p
                        where p.operation = 'input' and p.key = 'class_labels') t
             on true);
comment on function sql_diffusion.check_class_label(text, int) is
  'True for the number of a class that a model knows, and for NULL where it knows none, otherwise an error (22023).';

create function sql_diffusion.ddpm_steps(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, class_label int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_model(model) as model_is_whole,
           sql_diffusion.check_begins_with_noise(model) as takes_no_picture,
           sql_diffusion.check_unconditional(model) as takes_no_text,
           sql_diffusion.check_class_label(model, class_label) as class_is_known
  ),
  schedule as materialized (
    select array_agg(s order by s.step) as steps
    from ready, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta) s
  ),
  begun as materialized (
    select sql_diffusion.begin_with_noise(seed, sql_diffusion.sample_shape(sql_diffusion.component_config(model)), s.steps[1]) as beginning, s.steps
    from schedule s
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from begun b,
       sql_diffusion.sample_steps(b.beginning, b.steps, model,
                                  sql_diffusion.with_label(row('{}'::text[], '{}'::sql_diffusion.feature_maps[])::sql_diffusion.condition, class_label), null, null, null) r;
end;
comment on function sql_diffusion.ddpm_steps(bigint, text, int, int[], text, real, int) is
  'Sampling in pure SQL, one row a pass of the network as it is done: the sample that the step leads to and the guess of the finished one (channels, height, width, values about -1 to 1; of a latent model latents). '
  'Ho et al. (arXiv 2006.11239), algorithm 2; Song et al. (arXiv 2010.02502), equation 12.';

create function sql_diffusion.finished_image(sample real[], model text) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'finished_image: sample', 'channels, height, width'),
         sql_diffusion.check_values(sample, 'finished_image: sample'),
         sql_diffusion.component_config(model);
  select sql_diffusion.denormalize(coalesce((select sql_diffusion.vae_decode(sql_diffusion.scaled(sample, 1 / d.scaling_factor), model) from sql_diffusion.decoder(model) d), sample));
end;
comment on function sql_diffusion.finished_image(real[], text) is
  'The picture (channels, height, width, values 0 to 1) of a finished sample: of a latent model what its autoencoder decodes of the sample divided by the scaling_factor.';

create function sql_diffusion.ddpm_generate(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, class_label int default null) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.finished_image(s.sample, model)
  from sql_diffusion.ddpm_steps(seed, model, num_inference_steps, timesteps, scheduler, eta, class_label) s
  order by s.step desc
  limit 1;
end;
comment on function sql_diffusion.ddpm_generate(bigint, text, int, int[], text, real, int) is
  'A picture (channels, height, width, values 0 to 1) in pure SQL: the last of ddpm_steps.';

create function sql_diffusion.check_seeds(seeds bigint[]) returns boolean
language sql immutable parallel safe
return case when exists (select from unnest(seeds) s (seed) where s.seed is null) then sql_diffusion.fail('seed is null, expected an integer') else true end;
comment on function sql_diffusion.check_seeds(bigint[]) is 'True where no seed is null, otherwise an error (22023): before the first picture is made.';

create function sql_diffusion.ddpm_generate(seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, class_label int default null) returns table (seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select sql_diffusion.check_seeds(seeds);
  select s.seed, sql_diffusion.ddpm_generate(s.seed, model, num_inference_steps, timesteps, scheduler, eta, class_label)
  from unnest(seeds) with ordinality s (seed)
  order by s.ordinality;
end;
comment on function sql_diffusion.ddpm_generate(bigint[], text, int, int[], text, real, int) is
  'One row (seed, image) a seed, in their order, each picture the one made alone.';
