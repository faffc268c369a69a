-- Schedulers, apart from networks: the schedule as rows, one update a step.
--
-- DDPM: Denoising Diffusion Probabilistic Models (Ho et al., arXiv 2006.11239).
-- DDIM: Denoising Diffusion Implicit Models (Song et al., arXiv 2010.02502).
--
-- In both, one step is the same linear form. The network's output and the sample give a guess of the picture without noise,
--   pred_original_sample = clip(original_from_sample * sample + original_from_output * model_output)
-- and the step goes from there to a sample with a little less noise:
--   prev_sample = original_coefficient * pred_original_sample + sample_coefficient * sample
--               + output_coefficient * model_output + noise_coefficient * noise
-- so that a schedule is a table of coefficients, and the samplers differ in what they put into it. Coefficients are computed in
-- single precision, operation by operation as torch does: near the end of a schedule 1 - alpha_cumprod keeps few digits.

create type sql_diffusion.schedule_step as (
  step                  int,
  timestep              int,
  previous_timestep     int,
  original_from_sample  real,
  original_from_output  real,
  clip_range            real,
  original_coefficient  real,
  sample_coefficient    real,
  output_coefficient    real,
  noise_coefficient     real,
  draws_noise           boolean
);
comment on type sql_diffusion.schedule_step is
  'One step of a schedule: its number from 1, the timestep that the network is told, the one the step leads to (below 0: the finished picture), and the '
  'coefficients of the update (see scheduler_step). clip_range NULL: no clipping. draws_noise: whether fresh noise is drawn from the stream.';

create function sql_diffusion.scheduler_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "variance_type": "fixed_small", "clip_sample": true, "clip_sample_range": 1, "prediction_type": "epsilon", "thresholding": false,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1, "timestep_spacing": "leading", "steps_offset": 0,
    "rescale_betas_zero_snr": false, "set_alpha_to_one": true
  }'::jsonb || config else config end;
comment on function sql_diffusion.scheduler_config(jsonb) is
  'A DDPMScheduler or DDIMScheduler configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.scheduler_name(scheduler text) returns text
language sql immutable parallel safe
begin atomic
  with given as (
    select lower(regexp_replace(scheduler, 'Scheduler$', '') collate "C") as name   -- whatever the language: the Turkish i is another letter
  )
  select case
           when given.name in ('ddpm', 'ddim') then given.name
           when not sql_diffusion.fail(format('scheduler is %s, expected ddpm or ddim', coalesce(quote_literal(scheduler), 'null'))) then null
         end
  from given;
end;
comment on function sql_diffusion.scheduler_name(text) is
  'ddpm or ddim, of a scheduler''s short name or its class (DDPMScheduler, DDIMScheduler); an error (22023) for anything else.';

create function sql_diffusion.check_scheduler(config jsonb) returns boolean
language sql immutable parallel safe
return sql_diffusion.check_settings('scheduler', sql_diffusion.scheduler_config(config), array[
           ['_class_name', '"DDPMScheduler" or "DDIMScheduler"', '$ == "DDPMScheduler" || $ == "DDIMScheduler"'],
           ['num_train_timesteps', 'an integer from 1 to 100000', '$ >= 1 && $ <= 100000 && $.floor() == $'],
           ['beta_schedule', '"linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid"',
             '$ == "linear" || $ == "scaled_linear" || $ == "squaredcos_cap_v2" || $ == "sigmoid"'],
           ['beta_start', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
           ['beta_end', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
           ['trained_betas', 'null', '$ == null'],
           ['variance_type', '"fixed_small", "fixed_small_log", "fixed_large" or "fixed_large_log"',
             '$ == "fixed_small" || $ == "fixed_small_log" || $ == "fixed_large" || $ == "fixed_large_log"'],
           ['clip_sample', 'a boolean', '$ == true || $ == false'],
           ['clip_sample_range', 'a positive number', '$ > 0'],
           ['prediction_type', '"epsilon", "sample" or "v_prediction"', '$ == "epsilon" || $ == "sample" || $ == "v_prediction"'],
           ['thresholding', 'false', '$ == false'],
           ['timestep_spacing', '"leading", "trailing" or "linspace"', '$ == "leading" || $ == "trailing" || $ == "linspace"'],
           ['steps_offset', 'an integer from 0 to 100000', '$ >= 0 && $ <= 100000 && $.floor() == $'],
           ['rescale_betas_zero_snr', 'false', '$ == false'],
           ['set_alpha_to_one', 'a boolean', '$ == true || $ == false']
         ]);
comment on function sql_diffusion.check_scheduler(jsonb) is
  'True for a scheduler''s configuration whose every setting is supported, otherwise an error (0A000) that names the first that is not. The table models checks its rows with it.';

create function sql_diffusion.check_pipeline(pipeline text) returns boolean
language sql immutable parallel safe
return case
         when pipeline in ('DDPMPipeline', 'DDIMPipeline') then true
         else sql_diffusion.fail(format('pipeline %s is not supported, expected DDPMPipeline or DDIMPipeline', coalesce(pipeline, 'null')), errcode => '0A000')
       end;
comment on function sql_diffusion.check_pipeline(text) is 'True for a pipeline''s class that can be run, otherwise an error (0A000).';

create function sql_diffusion.check_defaults(defaults jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select case
           when not defaults <@ jsonb_build_object('scheduler', defaults -> 'scheduler', 'num_inference_steps', defaults -> 'num_inference_steps', 'timesteps', defaults -> 'timesteps')
           then sql_diffusion.fail(format('defaults is %s, expected an object of scheduler, num_inference_steps and timesteps', defaults), errcode => '0A000')
         end;
  select sql_diffusion.check_settings('defaults', '{"scheduler": null, "num_inference_steps": null, "timesteps": null}' || defaults, array[
           ['scheduler', '"ddpm", "ddim" or null', '$ == null || $ == "ddpm" || $ == "ddim"'],
           ['num_inference_steps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['timesteps', 'a list of integers or null', '$ == null || ($.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 0 || @.floor() != @)))']
         ]);
end;
comment on function sql_diffusion.check_defaults(jsonb) is
  'True for a model''s default schedule, otherwise an error (0A000) that names what is wrong. The table models checks its rows with it.';

alter table sql_diffusion.models
  add constraint models_pipeline_supported check (sql_diffusion.check_pipeline(pipeline)),
  add constraint models_scheduler_supported check (sql_diffusion.check_scheduler(scheduler)),
  add constraint models_defaults_supported check (sql_diffusion.check_defaults(defaults));

create aggregate sql_diffusion.product (double precision) (
  sfunc = float8mul,
  stype = double precision,
  initcond = '1',
  parallel = safe
);
comment on aggregate sql_diffusion.product (double precision) is 'The product of numbers, in the order of the rows.';

create function sql_diffusion.linspace(first double precision, last double precision, steps int) returns table (i int, value real)
language sql immutable strict parallel safe rows 1000
begin atomic
  -- The upper half is counted from the end, in single precision, as torch.linspace does.
  select i, case when i = 0 or i < steps / 2 then first::real + width.step * i::real
                 else last::real - width.step * (steps - 1 - i)::real end
  from generate_series(0, steps - 1) as i,
       (select case when steps > 1 then (last::real - first::real) / (steps - 1)::real else 0::real end as step) width
  order by i;
end;
comment on function sql_diffusion.linspace(double precision, double precision, int) is
  'torch.linspace in single precision: steps numbers evenly spaced from first to last, numbered from 0.';

create function sql_diffusion.noise_schedule(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language sql immutable strict parallel safe rows 1000
begin atomic
  select sql_diffusion.check_scheduler(config);
  with setting as (
    select (c ->> 'num_train_timesteps')::int as steps,
           c ->> 'beta_schedule' as kind,
           (c ->> 'beta_start')::double precision as beta_start,
           (c ->> 'beta_end')::double precision as beta_end
    from sql_diffusion.scheduler_config(config) as c
  ),
  betas (timestep, beta) as (
    select line.i, line.value
    from setting s, sql_diffusion.linspace(s.beta_start, s.beta_end, s.steps) line
    where s.kind = 'linear'
    union all
    select line.i, line.value * line.value
    from setting s, sql_diffusion.linspace(sqrt(s.beta_start), sqrt(s.beta_end), s.steps) line
    where s.kind = 'scaled_linear'
    union all
    -- Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), equation 17: alpha_cumprod falls as a squared cosine.
    select t, least(1 - cos(((t + 1) / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2
                      / cos((t / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2, 0.999)::real
    from setting s, generate_series(0, s.steps - 1) as t
    where s.kind = 'squaredcos_cap_v2'
    union all
    -- GeoDiff (arXiv 2203.02923): beta rises as a sigmoid.
    select line.i, (1 / (1 + exp(-line.value::double precision)))::real * (s.beta_end - s.beta_start)::real + s.beta_start::real
    from setting s, sql_diffusion.linspace(-6, 6, s.steps) line
    where s.kind = 'sigmoid'
  )
  select b.timestep, b.beta, (sql_diffusion.product((1::real - b.beta)::double precision) over (order by b.timestep))::real
  from betas b
  order by b.timestep;
end;
comment on function sql_diffusion.noise_schedule(jsonb) is
  'The noise that training added, of a scheduler''s configuration: for each timestep its beta (the variance of the noise added there) and alpha_cumprod, the share of the '
  'picture''s variance that is left, the product of 1 - beta up to there. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), equations 2 and 4.';

create function sql_diffusion.check_timesteps(config jsonb, num_inference_steps int, timesteps int[], eta real) returns boolean
language sql immutable parallel safe
begin atomic
  with setting as (
    select (sql_diffusion.scheduler_config(config) ->> 'num_train_timesteps')::int as train_steps
  )
  select case
           when num_inference_steps is not null and timesteps is not null
           then sql_diffusion.fail('num_inference_steps and timesteps are both given, expected one of them')
           when num_inference_steps is null and timesteps is null
           then sql_diffusion.fail('num_inference_steps and timesteps are both null, expected one of them')
           when num_inference_steps not between 1 and s.train_steps
           then sql_diffusion.fail(format('num_inference_steps is %s, expected from 1 to %s, the training steps', num_inference_steps, s.train_steps))
           when timesteps is not null and array_ndims(timesteps) is distinct from 1
           then sql_diffusion.fail(format('timesteps has %s dimensions, expected 1', coalesce(array_ndims(timesteps), 0)))
           when array_position(timesteps, null) is not null
           then sql_diffusion.fail('timesteps has a null element')
           when exists (select from unnest(timesteps) t where t not between 0 and s.train_steps - 1)
           then sql_diffusion.fail(format('timesteps has %s, expected from 0 to %s',
                                                     (select t from unnest(timesteps) t where t not between 0 and s.train_steps - 1 limit 1), s.train_steps - 1))
           when exists (select from (select t.t, lag(t.t) over (order by t.ordinality) as before from unnest(timesteps) with ordinality t (t)) pair where pair.t >= pair.before)
           then sql_diffusion.fail(format('timesteps is %s, expected descending numbers', timesteps))
           when eta is null or not eta between 0 and 1
           then sql_diffusion.fail(format('eta is %s, expected from 0 to 1', coalesce(eta::text, 'null')))
           else true
         end
  from setting s;
end;
comment on function sql_diffusion.check_timesteps(jsonb, int, int[], real) is
  'True for steps that a schedule can be made of, otherwise an error (22023) that names the argument.';

create function sql_diffusion.inference_timesteps(config jsonb, num_inference_steps int) returns table (step int, timestep int)
language sql immutable strict parallel safe rows 50
begin atomic
  select sql_diffusion.check_scheduler(config),
         sql_diffusion.check_timesteps(config, num_inference_steps, null, 0::real);
  with setting as (
    select (c ->> 'num_train_timesteps')::int as train_steps,
           c ->> 'timestep_spacing' as spacing,
           (c ->> 'steps_offset')::int as steps_offset,
           (c ->> 'num_train_timesteps')::double precision / num_inference_steps as ratio
    from sql_diffusion.scheduler_config(config) as c
  )
  select i + 1,
         case s.spacing
           when 'leading' then (num_inference_steps - 1 - i) * (s.train_steps / num_inference_steps) + s.steps_offset
           when 'linspace' then
             round((num_inference_steps - 1 - i) * ((s.train_steps - 1) / greatest(num_inference_steps - 1, 1)::double precision))::int
           -- numpy.arange takes the difference of its first two values for its step.
           when 'trailing' then round(s.train_steps + i * (s.train_steps - s.ratio - s.train_steps))::int - 1
         end
  from setting s, generate_series(0, num_inference_steps - 1) as i
  order by i;
end;
comment on function sql_diffusion.inference_timesteps(jsonb, int) is
  'The timesteps that num_inference_steps of sampling visit, highest first, by the configuration''s timestep_spacing. '
  'Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), table 2.';

create function sql_diffusion.scheduler_timesteps(config jsonb, scheduler text, num_inference_steps int default null, timesteps int[] default null, eta real default 0)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select sql_diffusion.check_scheduler(config),
         sql_diffusion.check_timesteps(config, num_inference_steps, timesteps, eta);
  with setting as materialized (
    select sql_diffusion.scheduler_name(scheduler) as sampler,
           c ->> 'prediction_type' as prediction_type,
           c ->> 'variance_type' as variance_type,
           (c ->> 'num_train_timesteps')::int as train_steps,
           case when (c ->> 'clip_sample')::boolean then (c ->> 'clip_sample_range')::real end as clip_range,
           (c ->> 'set_alpha_to_one')::boolean as set_alpha_to_one
    from sql_diffusion.scheduler_config(config) as c
  ),
  noise as materialized (
    select n.timestep, n.alpha_cumprod
    from sql_diffusion.noise_schedule(config) n
  ),
  visited (step, timestep) as (
    select v.step, v.timestep
    from sql_diffusion.inference_timesteps(config, num_inference_steps) v
    union all
    select t.ordinality::int, t.t
    from unnest(timesteps) with ordinality t (t)
  ),
  checked as (
    select v.step, v.timestep,
           -- DDIM steps down by a fixed stride where it is given a number of steps; otherwise a step leads to the next in the list.
           case when s.sampler = 'ddim' and timesteps is null then v.timestep - s.train_steps / num_inference_steps
                else lead(v.timestep, 1, -1) over (order by v.step) end as previous_timestep,
           case when v.timestep >= s.train_steps
                then sql_diffusion.fail(format('scheduler: steps_offset leads to timestep %s, expected at most %s', v.timestep, s.train_steps - 1), errcode => '0A000') end
    from visited v, setting s
  ),
  -- Ho et al. section 2 with alpha_prod for the paper's alpha-bar and beta_prod for one less it. Below timestep 0 lies the picture, alpha-bar 1.
  alphas as (
    select v.step, v.timestep, v.previous_timestep, s.sampler, s.prediction_type, s.variance_type, s.clip_range,
           a.alpha_prod, p.alpha_prod_prev,
           1::real - a.alpha_prod as beta_prod,
           1::real - p.alpha_prod_prev as beta_prod_prev,
           a.alpha_prod / p.alpha_prod_prev as alpha,
           1::real - a.alpha_prod / p.alpha_prod_prev as beta
    from checked v,
         setting s,
         lateral (select n.alpha_cumprod as alpha_prod from noise n where n.timestep = v.timestep) a,
         lateral (
           select coalesce(
             (select n.alpha_cumprod from noise n where n.timestep = v.previous_timestep),
             (select n.alpha_cumprod from noise n where n.timestep = 0 and s.sampler = 'ddim' and not s.set_alpha_to_one),
             1::real) as alpha_prod_prev
         ) p
  ),
  roots as (
    select a.step, a.timestep, a.previous_timestep, a.sampler, a.prediction_type, a.variance_type, a.clip_range, a.beta_prod, a.beta_prod_prev, a.alpha, a.beta,
           sqrt(a.alpha_prod)::real as sqrt_alpha_prod,
           sqrt(a.beta_prod)::real as sqrt_beta_prod,
           sqrt(a.alpha_prod_prev)::real as sqrt_alpha_prod_prev,
           -- the variance of the posterior, Ho et al. equation 7; DDIM equation 16 has the same
           a.beta_prod_prev / a.beta_prod * a.beta as variance
    from alphas a
  ),
  direction as (
    select r.step, r.timestep, r.previous_timestep, r.sampler, r.prediction_type, r.variance_type, r.clip_range, r.beta_prod, r.beta_prod_prev, r.alpha, r.beta,
           r.sqrt_alpha_prod, r.sqrt_beta_prod, r.sqrt_alpha_prod_prev, r.variance, noise.sigma,
           -- the length of DDIM's "direction pointing to x_t", equation 12
           sqrt(greatest(r.beta_prod_prev - noise.sigma * noise.sigma, 0::real))::real as length
    from roots r,
         lateral (select eta * sqrt(r.variance)::real as sigma) noise
  )
  select d.step, d.timestep, d.previous_timestep,
         -- Ho et al. equation 15; Progressive Distillation (arXiv 2202.00512) appendix D for v.
         case d.prediction_type when 'epsilon' then 1::real / d.sqrt_alpha_prod when 'sample' then 0::real when 'v_prediction' then d.sqrt_alpha_prod end,
         case d.prediction_type when 'epsilon' then -d.sqrt_beta_prod / d.sqrt_alpha_prod when 'sample' then 1::real when 'v_prediction' then -d.sqrt_beta_prod end,
         d.clip_range,
         -- DDPM: the posterior's mean, Ho et al. equation 7. DDIM: equation 12, with the noise written through sample and output.
         case d.sampler when 'ddpm' then d.sqrt_alpha_prod_prev * d.beta / d.beta_prod else d.sqrt_alpha_prod_prev end,
         case when d.sampler = 'ddpm' then sqrt(d.alpha)::real * d.beta_prod_prev / d.beta_prod
              when d.prediction_type = 'epsilon' then 0::real
              when d.prediction_type = 'sample' then d.length / d.sqrt_beta_prod
              when d.prediction_type = 'v_prediction' then d.length * d.sqrt_beta_prod end,
         case when d.sampler = 'ddpm' then 0::real
              when d.prediction_type = 'epsilon' then d.length
              when d.prediction_type = 'sample' then -d.length * d.sqrt_alpha_prod / d.sqrt_beta_prod
              when d.prediction_type = 'v_prediction' then d.length * d.sqrt_alpha_prod end,
         case when d.sampler = 'ddim' then d.sigma
              when d.timestep = 0 then 0::real
              when d.variance_type like 'fixed_small%' then sqrt(greatest(d.variance, 1e-20::real))::real
              when d.variance_type like 'fixed_large%' then sqrt(d.beta)::real end,
         case d.sampler when 'ddpm' then d.timestep > 0 else eta > 0 end
  from direction d
  order by d.step;
end;
comment on function sql_diffusion.scheduler_timesteps(jsonb, text, int, int[], real) is
  'The schedule of a sampler (ddpm or ddim) with a scheduler''s configuration, for a number of steps or for explicit timesteps (descending): one row a step. '
  'eta (0 to 1) is the share of fresh noise in DDIM; DDPM ignores it. Errors: 22023 for wrong steps, 0A000 for an unsupported setting.';

create function sql_diffusion.scheduler_step(model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step,
    out prev_sample real[], out pred_original_sample real[])
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'scheduler_step: sample'),
         sql_diffusion.check_tensor(model_output, 'scheduler_step: model_output'),
         sql_diffusion.check_same_shape(model_output, sample, 'scheduler_step: model_output', 'sample'),
         case when coalesce(abs((step).original_from_sample)::double precision + abs((step).original_from_output) + abs((step).original_coefficient) + abs((step).sample_coefficient)
                            + abs((step).output_coefficient) + abs((step).noise_coefficient), 'infinity') >= 'infinity'
                   or (step).draws_noise is null or not coalesce((step).clip_range >= 0, true) then
           sql_diffusion.fail(format('scheduler_step: step is %s, expected a row of scheduler_timesteps', coalesce(step::text, 'null')))
         end;
  select case when (step).draws_noise then sql_diffusion.check_tensor(noise, 'scheduler_step: noise') end,
         case when (step).draws_noise then sql_diffusion.check_same_shape(noise, sample, 'scheduler_step: noise', 'sample') end,
         sql_diffusion.check_values(sample, 'scheduler_step: sample'),
         sql_diffusion.check_values(model_output, 'scheduler_step: model_output'),
         case when (step).draws_noise then sql_diffusion.check_values(noise, 'scheduler_step: noise') end;
  with element as (
    select unnest(sample) as x,
           unnest(model_output) as output,
           unnest(case when (step).draws_noise then noise else array_fill(0::real, array[cardinality(sample)]) end) as noise
  ),
  guess as (
    select e.x, e.output, e.noise,
           -- Clipping keeps the guess in the range of pictures; least and greatest pass over a NULL range.
           greatest(least((step).original_from_sample::double precision * e.x + (step).original_from_output::double precision * e.output, (step).clip_range), -(step).clip_range) as original
    from element e
  ),
  updated as (
    select array_agg(g.original::real) as original,
           array_agg(((step).original_coefficient * g.original
                                 + (step).sample_coefficient::double precision * g.x
                                 + (step).output_coefficient::double precision * g.output
                                 + (step).noise_coefficient::double precision * g.noise)::real) as prev
    from guess g
  )
  select sql_diffusion.with_shape(u.prev, sql_diffusion.shape(sample)), sql_diffusion.with_shape(u.original, sql_diffusion.shape(sample))
  from updated u;
end;
comment on function sql_diffusion.scheduler_step(real[], real[], real[], sql_diffusion.schedule_step) is
  'One update of a sampler: from the network''s output, the sample and fresh noise (all of one shape; noise may be NULL where the step draws none) to the sample of the '
  'previous timestep, and the guess of the picture without noise. Ho et al. (arXiv 2006.11239) equations 7 and 15; Song et al. (arXiv 2010.02502) equation 12.';

create function sql_diffusion.training_timestep(model text, timestep int) returns sql_diffusion.schedule_step
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model);
  select s
  from sql_diffusion.models m,
       lateral sql_diffusion.scheduler_timesteps(m.scheduler, 'ddpm', timesteps => array[timestep]) s
  where m.name = training_timestep.model;
end;
comment on function sql_diffusion.training_timestep(text, int) is
  'The step from one timestep of a model''s training straight to the picture. Errors: 42704 unknown model, 22023 for a timestep outside the training steps.';

create function sql_diffusion.add_noise(original real[], noise real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(original, 'add_noise: original'),
         sql_diffusion.check_tensor(noise, 'add_noise: noise'),
         sql_diffusion.check_same_shape(noise, original, 'add_noise: noise', 'original'),
         sql_diffusion.check_values(original, 'add_noise: original'),
         sql_diffusion.check_values(noise, 'add_noise: noise'),
         sql_diffusion.training_timestep(model, timestep);
  select sql_diffusion.with_shape(
           (select array_agg((sqrt(n.alpha_cumprod)::real * e.original + sqrt(1::real - n.alpha_cumprod)::real * e.noise)::real)
            from (select unnest(original) as original, unnest(noise) as noise) e),
           sql_diffusion.shape(original))
  from sql_diffusion.models m,
       lateral sql_diffusion.noise_schedule(m.scheduler) n
  where m.name = add_noise.model
    and n.timestep = add_noise.timestep;
end;
comment on function sql_diffusion.add_noise(real[], real[], int, text) is
  'The forward process in one go: a picture (values -1 to 1) after the noising of this timestep (0 to the training steps less one), with noise of the same shape. '
  'The reparameterization trick: Ho et al. (arXiv 2006.11239), equation 4.';

create function sql_diffusion.predict_original_sample(model_output real[], sample real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'predict_original_sample: sample');
  select (sql_diffusion.scheduler_step(model_output, sample, array_fill(0::real, sql_diffusion.shape(sample)),
                                       sql_diffusion.training_timestep(model, timestep))).pred_original_sample;
end;
comment on function sql_diffusion.predict_original_sample(real[], real[], int, text) is
  'The guess of the picture without noise, in one step, from the network''s output for a sample at a timestep; clipped where the scheduler clips. '
  'Ho et al. (arXiv 2006.11239), equation 15.';
