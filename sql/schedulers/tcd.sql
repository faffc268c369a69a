-- TCD: Trajectory Consistency Distillation (Zheng et al., arXiv 2402.19159). As lcm, but a pass goes only so far down as eta, the paper's
-- gamma, says, and the rest with fresh noise.

create function sql_diffusion.tcd_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('tcd', 'TCDScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "trained_betas": null,
    "original_inference_steps": 50, "set_alpha_to_one": true, "steps_offset": 0, "prediction_type": "epsilon",
    "timestep_spacing": "leading", "rescale_betas_zero_snr": false
  }', '{}', true)::sql_diffusion.scheduler;
comment on function sql_diffusion.tcd_scheduler() is 'What the scheduler tcd is. Zheng et al. (arXiv 2402.19159).';

create function sql_diffusion.tcd_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
set extra_float_digits = 1                        -- whatever the session's is, text has all digits of a number
begin atomic
  with visited as (
    select v.step, v.timestep, lead(v.timestep, 1, -1) over (order by v.step) as previous_timestep, e.gamma
    from sql_diffusion.distilled_timesteps(config, num_inference_steps, timesteps) v,
         (select coalesce(eta, 0.3::real)::text::double precision as gamma) e
  ),
  levels as (
    select v.step, v.timestep, v.previous_timestep, v.gamma, config ->> 'prediction_type' as prediction_type,
           sqrt(alphas_cumprod[v.timestep + 1])::real as alpha,
           sqrt(1::real - alphas_cumprod[v.timestep + 1])::real as sigma,
           alphas_cumprod[greatest(v.previous_timestep, 0) + 1] as previous_alpha_prod,
           alphas_cumprod[floor(((1 - v.gamma) * greatest(v.previous_timestep, 0))::real)::int + 1] as alpha_prod_s
    from visited v
  ),
  -- To timestep s without noise, and back up to the previous timestep with it (algorithm 4), but for the last step.
  steps as (
    select l.step, l.timestep, l.previous_timestep, l.prediction_type, l.alpha, l.sigma,
           sqrt(l.alpha_prod_s)::real as alpha_s,
           sqrt(1::real - l.alpha_prod_s)::real as sigma_s,
           l.gamma > 0 and l.previous_timestep >= 0 as draws_noise,
           case when l.gamma > 0 and l.previous_timestep >= 0 then sqrt(l.previous_alpha_prod / l.alpha_prod_s)::real else 1::real end as kept,
           case when l.gamma > 0 and l.previous_timestep >= 0 then sqrt(1::real - l.previous_alpha_prod / l.alpha_prod_s)::real else 0::real end as fresh
    from levels l
  )
  select sql_diffusion.schedule_row(
           config, (s.step - skipped)::int, s.timestep, s.previous_timestep, guess.from_sample, guess.from_output,
           original_coefficient => s.kept * s.alpha_s,
           sample_coefficient => s.kept * s.sigma_s * case s.prediction_type when 'epsilon' then 0::real when 'sample' then 1::real / s.sigma when 'v_prediction' then s.sigma end,
           output_coefficient => s.kept * s.sigma_s * case s.prediction_type when 'epsilon' then 1::real when 'sample' then -s.alpha / s.sigma when 'v_prediction' then s.alpha end,
           noise_coefficient => s.fresh,
           draws_noise => s.draws_noise,
           added_original => s.alpha, added_noise => s.sigma)
  from steps s,
       lateral sql_diffusion.original_of_output(s.prediction_type, s.alpha, s.sigma) guess
  where s.step > skipped
  order by s.step;
end;
comment on function sql_diffusion.tcd_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of tcd, the first skipped ones left out; eta is the paper''s gamma, 0.3 where it is NULL. Zheng et al. (arXiv 2402.19159), algorithm 4.';
