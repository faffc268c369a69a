-- Schedules: sampling as rows of numbers. Every sampler is here what it adds to what the network says: sums with known coefficients.
--
-- A row of a schedule is one pass of the network. The network is shown input_scale * sample and told the timestep; with its output,
--   original    = original_from_sample * sample + original_from_output * output    (clipped: the guess of the picture without noise)
--   prev_sample = original_coefficient * original + sample_coefficient * sample + output_coefficient * output
--               + noise_coefficient * noise + the sum of memory_coefficients[k] * memory[k]
-- where memory holds what the sampler remembers of its passes: some tensors, each of them the sum of original, sample, output and the
-- remembered tensors by the coefficients of its row in memory_update. So Heun's second pass finds the first one's slope, and
-- a multistep method the outputs before. Coefficients are computed in single precision, operation by operation as torch does: near the
-- end of a schedule 1 - alpha_cumprod keeps few digits.
--
-- A network may give twice as many channels as the sample has: the output, and behind it how much noise each value is to get, from -1 to 1 for the
-- least to the greatest (Improved Denoising Diffusion Probabilistic Models, arXiv 2102.09672, equation 15). ddpm heeds it with variance_type learned_range.
--
-- A file of schedulers/ is a scheduler of diffusers: NAME_scheduler() says what it is called and how it is set, NAME_schedule() gives its
-- rows. The file is all that there is of it: make finds it there.

create type sql_diffusion.schedule_step as (
  step                  int,
  timestep              double precision,
  previous_timestep     double precision,
  input_scale           double precision,
  original_from_sample  double precision,
  original_from_output  double precision,
  clip_range            double precision,
  threshold_ratio       double precision,
  threshold_max         double precision,
  original_coefficient  double precision,
  sample_coefficient    double precision,
  output_coefficient    double precision,
  noise_coefficient     double precision,
  draws_noise           boolean,
  memory_coefficients   double precision[],
  memory_update         double precision[],
  initial_noise         double precision,
  added_original        double precision,
  added_noise           double precision,
  least_log_noise       double precision,
  greatest_log_noise    double precision
);
comment on type sql_diffusion.schedule_step is
  'One pass of a schedule: its number from 1, the timestep that the network is told (it may have a fraction), the one the step leads to (below 0: the finished picture), '
  'what the network''s input is multiplied by, and the coefficients of the update (see scheduler_step). clip_range NULL: no clipping; threshold_ratio and threshold_max: '
  'dynamic thresholding. draws_noise: whether fresh noise is drawn from the stream. memory_update: a row for each tensor that is remembered, with the coefficients of original, sample, '
  'output and each tensor remembered before. To begin at this step: initial_noise * noise, or added_original * picture + added_noise * noise. '
  'least_log_noise and greatest_log_noise: where the network predicts the variance (variance_type learned_range), the logarithms of the noise coefficients that it chooses between; else NULL.';

create type sql_diffusion.scheduler as (
  name        text,
  class_name  text,
  aliases     jsonb,
  defaults    jsonb,
  rules       text[],
  uses_eta    boolean
);
comment on type sql_diffusion.scheduler is
  'What a scheduler is called (the short name that people type, diffusers'' class, and other short names with the settings that they stand for), all its settings with diffusers'' defaults, '
  'what is expected of those of its own (rules of check_settings), and whether it takes eta.';

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

create function sql_diffusion.schedule_row(
  config jsonb, step int, timestep double precision, previous_timestep double precision,
  original_from_sample double precision, original_from_output double precision,
  original_coefficient double precision default 0, sample_coefficient double precision default 0,
  output_coefficient double precision default 0, noise_coefficient double precision default 0, draws_noise boolean default false,
  memory_coefficients double precision[] default '{}', memory_update double precision[] default '{}',
  input_scale double precision default 1, initial_noise double precision default 1,
  added_original double precision default null, added_noise double precision default null,
  least_log_noise double precision default null, greatest_log_noise double precision default null
) returns sql_diffusion.schedule_step
language sql immutable parallel safe
return row(
  step, timestep, previous_timestep, input_scale, original_from_sample, original_from_output,
  case when (config ->> 'clip_sample')::boolean and not coalesce((config ->> 'thresholding')::boolean, false) then (config ->> 'clip_sample_range')::real end,
  case when (config ->> 'thresholding')::boolean then (config ->> 'dynamic_thresholding_ratio')::double precision end,
  case when (config ->> 'thresholding')::boolean then (config ->> 'sample_max_value')::double precision end,
  original_coefficient, sample_coefficient, output_coefficient, noise_coefficient, draws_noise, memory_coefficients, memory_update,
  initial_noise, added_original, added_noise, least_log_noise, greatest_log_noise
)::sql_diffusion.schedule_step;
comment on function sql_diffusion.schedule_row(jsonb, int, double precision, double precision, double precision, double precision, double precision, double precision, double precision,
    double precision, boolean, double precision[], double precision[], double precision, double precision, double precision, double precision, double precision, double precision) is
  'A row of a schedule, of numbers that are named; clipping or thresholding is what the scheduler''s complete configuration says.';

create function sql_diffusion.evenly_spaced_timesteps(config jsonb, num_inference_steps int) returns table (step int, timestep int)
language sql immutable strict parallel safe rows 50
begin atomic
  with setting as (
    select (config ->> 'num_train_timesteps')::int as train_steps,
           config ->> 'timestep_spacing' as spacing,
           (config ->> 'steps_offset')::int as steps_offset,
           (config ->> 'num_train_timesteps')::double precision / num_inference_steps as ratio
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
comment on function sql_diffusion.evenly_spaced_timesteps(jsonb, int) is
  'The whole timesteps that num_inference_steps of sampling visit, highest first, by the timestep_spacing of a scheduler''s complete configuration. '
  'Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), table 2.';

create function sql_diffusion.visited_timesteps(config jsonb, num_inference_steps int, timesteps int[]) returns table (step int, timestep int)
language sql immutable parallel safe rows 50
begin atomic
  select v.step, v.timestep
  from sql_diffusion.evenly_spaced_timesteps(config, num_inference_steps) v
  union all
  select t.ordinality::int, t.t
  from unnest(timesteps) with ordinality t (t);
end;
comment on function sql_diffusion.visited_timesteps(jsonb, int, int[]) is 'The timesteps that are given, or evenly spaced ones for a number of steps.';

create function sql_diffusion.distilled_timesteps(config jsonb, num_inference_steps int, timesteps int[], strength double precision default 1) returns table (step int, timestep int)
language sql immutable parallel safe rows 50
begin atomic
  with setting as (
    select floor((config ->> 'original_inference_steps')::int * distilled_timesteps.strength)::int as original_steps,
           (config ->> 'num_train_timesteps')::int / (config ->> 'original_inference_steps')::int as stride
  )
  select i + 1,
         case when num_inference_steps > s.original_steps
              then sql_diffusion.fail(format('num_inference_steps is %s, expected at most %s, ', num_inference_steps, s.original_steps)
                                      || case when distilled_timesteps.strength = 1 then 'the original_inference_steps' else format('the share strength of the original_inference_steps, %s', config ->> 'original_inference_steps') end)::int
              else (s.original_steps - floor(i * (s.original_steps / num_inference_steps::double precision))::int) * s.stride - 1 end
  from setting s, generate_series(0, num_inference_steps - 1) as i
  union all
  select t.ordinality::int, t.t
  from unnest(timesteps) with ordinality t (t);
end;
comment on function sql_diffusion.distilled_timesteps(jsonb, int, int[], double precision) is
  'The timesteps that are given, or num_inference_steps of the original_inference_steps that a consistency model was distilled for, highest first; of a strength below 1 of that share of them, the lowest. '
  'Latent Consistency Models (arXiv 2310.04378).';

create function sql_diffusion.interpolated_sigma(sigmas real[], timestep double precision) returns double precision
language sql immutable strict parallel safe
return (select case when place.low >= cardinality(sigmas) - 1 then sigmas[cardinality(sigmas)]
                    else (sigmas[place.low + 2]::double precision - sigmas[place.low + 1]) * (timestep - place.low) + sigmas[place.low + 1] end
        from (select floor(timestep)::int as low) place);
comment on function sql_diffusion.interpolated_sigma(real[], double precision) is 'sigma at a timestep that may have a fraction: numpy.interp over those of all timesteps.';

create function sql_diffusion.timestep_of_sigma(log_sigmas real[], sigma double precision) returns double precision
language sql immutable strict parallel safe
return (select (1 - weight.w) * place.low + weight.w * (place.low + 1)
        from (select least(greatest((select count(*) from unnest(log_sigmas) l where l <= ln(greatest(sigma, 1e-10))) - 1, 0), cardinality(log_sigmas) - 2)::int as low) place,
             lateral (select least(greatest((log_sigmas[place.low + 1] - ln(greatest(sigma, 1e-10))) / (log_sigmas[place.low + 1] - log_sigmas[place.low + 2]), 0), 1) as w) weight);
comment on function sql_diffusion.timestep_of_sigma(real[], double precision) is
  'The timestep, with a fraction, at which the noise is this strong: linear in the logarithm between the training''s.';

create function sql_diffusion.sigma_steps(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], solver boolean)
  returns table (step int, timestep double precision, sigma real)
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with setting as materialized (
    select (config ->> 'num_train_timesteps')::int as train_steps,
           coalesce(num_inference_steps, cardinality(timesteps)) as steps,
           case when timesteps is null then config ->> 'timestep_spacing' end as spacing,
           (config ->> 'steps_offset')::int as steps_offset,
           config ->> 'interpolation_type' = 'log_linear' as log_linear,
           case when (config ->> 'use_karras_sigmas')::boolean then 'karras'
                when (config ->> 'use_exponential_sigmas')::boolean then 'exponential' end as spread,
           config ->> 'beta_schedule' = 'squaredcos_cap_v2' as squared_cosine,
           config ->> '_class_name' = 'UniPCMultistepScheduler' as unipc,
           (config ->> 'lambda_min_clipped')::double precision as lambda_min,
           a.alphas
    from (
      -- A last sigma that is not infinite; 2 ^ -24 as diffusers.
      select case when (config ->> 'rescale_betas_zero_snr')::boolean
                  then alphas_cumprod[1 : cardinality(alphas_cumprod) - 1] || (2 ^ -24)::real
                  else alphas_cumprod end as alphas
    ) a
  ),
  training as materialized (
    select array_agg(sqrt((1::real - a.a) / a.a)::real order by a.ordinality) as sigmas,
           array_agg(ln(sqrt((1::real - a.a) / a.a)::real)::real order by a.ordinality) as log_sigmas,
           count(*) filter (where s.lambda_min > ln(sqrt(a.a)::real)::real - ln(sqrt(1::real - a.a)::real)::real) as clipped
    from setting s, unnest(s.alphas) with ordinality a (a)
  ),
  -- Solvers space one more timestep than they visit: the lowest is left out.
  visited as (
    select i + 1 as step,
           case s.spacing
             when 'leading' then
               case when solver then (s.steps - i) * ((s.train_steps - t.clipped) / (s.steps + 1)) else (s.steps - 1 - i) * (s.train_steps / s.steps) end + s.steps_offset
             when 'linspace' then
               case when solver then round((s.steps - i) * ((s.train_steps - t.clipped - 1) / s.steps::double precision))
                    else ((s.steps - 1 - i) * ((s.train_steps - 1) / greatest(s.steps - 1, 1)::double precision))::real end
             when 'trailing' then round(s.train_steps - t.clipped + i * (s.train_steps - t.clipped - s.train_steps / s.steps::double precision - (s.train_steps - t.clipped))) - 1
             else timesteps[i + 1]
           end::double precision as timestep
    from setting s, training t, generate_series(0, s.steps - 1) as i
  ),
  plain as (
    select v.step, v.timestep,
           case when s.log_linear then (select exp(l.value::double precision) from sql_diffusion.linspace(t.log_sigmas[s.train_steps], t.log_sigmas[1], s.steps + 1) l where l.i = v.step - 1)
                else sql_diffusion.interpolated_sigma(t.sigmas, v.timestep) end as sigma
    from visited v, setting s, training t
  ),
  -- What the spread goes between: solvers all of the training, the others what they would visit.
  ends as (
    select coalesce((config ->> 'sigma_max')::double precision,
                    case when solver then t.sigmas[s.train_steps] else (select p.sigma from plain p where p.step = 1) end) as highest,
           coalesce((config ->> 'sigma_min')::double precision,
                    case when solver then t.sigmas[1]
                         when s.log_linear then exp(t.log_sigmas[1]::double precision)::real
                         else (select p.sigma from plain p where p.step = s.steps) end) as lowest
    from setting s, training t
  ),
  spread as (
    select p.step, p.timestep,
           case s.spread
             -- Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., arXiv 2206.00364), equation 5, rho = 7
             when 'karras' then (e.highest ^ (1 / 7.0::double precision)
                                 + ramp.r * (e.lowest ^ (1 / 7.0::double precision) - e.highest ^ (1 / 7.0::double precision))) ^ 7.0::double precision
             when 'exponential' then exp(ln(e.highest) + ramp.r * (ln(e.lowest) - ln(e.highest)))
             else p.sigma
           end as sigma
    from plain p, setting s, ends e,
         lateral (select (p.step - 1) / greatest(s.steps - 1, 1)::double precision as r) ramp
  ),
  last as (
    select case when s.log_linear and s.spread is null then exp(t.log_sigmas[1]::double precision)::real
                when config ->> 'final_sigmas_type' = 'sigma_min' then
                  case when s.unipc and s.spread is not null then (select p.sigma::real from spread p where p.step = s.steps) else t.sigmas[1] end
                else 0::real end as sigma
    from setting s, training t
  )
  select p.step,
         case when s.spread is null then p.timestep
              when not solver then told.timestep::real::double precision
              when s.spread = 'karras' and (s.unipc or not s.squared_cosine) then round(told.timestep)
              -- what lies just below a whole number only by rounding is that number
              else trunc(told.timestep + 0.0001) end,
         p.sigma::real
  from spread p, setting s, training t,
       lateral (select case when s.spread is not null then sql_diffusion.timestep_of_sigma(t.log_sigmas, p.sigma) end as timestep) told
  union all
  select s.steps + 1, null, l.sigma
  from last l, setting s
  order by 1;
end;
comment on function sql_diffusion.sigma_steps(jsonb, real[], int, int[], boolean) is
  'The timesteps that are visited, highest first, each with its sigma (the noise''s strength beside a picture''s, sqrt((1 - alpha_cumprod) / alpha_cumprod)), and a last row with the sigma where '
  'sampling ends. By timestep_spacing, or spread by use_karras_sigmas or use_exponential_sigmas. solver: as the DPM solvers space them, which leave out the lowest of one more.';

create function sql_diffusion.original_of_output(prediction_type text, alpha real, sigma real, out from_sample real, out from_output real)
language sql immutable parallel safe
begin atomic
  -- Ho et al. equation 15; Progressive Distillation (arXiv 2202.00512) appendix D for v.
  select case prediction_type when 'epsilon' then 1::real / nullif(alpha, 0) when 'sample' then 0::real when 'v_prediction' then alpha end,
         case prediction_type when 'epsilon' then -sigma / nullif(alpha, 0) when 'sample' then 1::real when 'v_prediction' then -sigma end
  where prediction_type <> 'epsilon' or alpha is distinct from 0::real
     or sql_diffusion.fail('prediction_type is epsilon, but the first timestep''s sample is nothing but noise, from which no picture can be guessed',
                           'Leave the first timestep out, or set rescale_betas_zero_snr to false.');
end;
comment on function sql_diffusion.original_of_output(text, real, real) is
  'What the picture without noise is of the sample and the network''s output, where sample = alpha * picture + sigma * noise and the output is the noise, the picture or v.';

create function sql_diffusion.original_of_scaled_output(prediction_type text, sigma real, out from_sample real, out from_output real)
language sql immutable parallel safe
begin atomic
  select case prediction_type when 'epsilon' then 1::real when 'sample' then 0::real when 'v_prediction' then 1::real / (sigma * sigma + 1::real) end,
         case prediction_type when 'epsilon' then -sigma when 'sample' then 1::real when 'v_prediction' then -sigma / sqrt(sigma * sigma + 1::real)::real end;
end;
comment on function sql_diffusion.original_of_scaled_output(text, real) is
  'What the picture without noise is of the sample and the network''s output, where sample = picture + sigma * noise and the network is shown the sample scaled to a variance of one.';
