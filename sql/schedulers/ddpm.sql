-- DDPM: Denoising Diffusion Probabilistic Models (Ho et al., arXiv 2006.11239).

create function sql_diffusion.ddpm_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('ddpm', 'DDPMScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "variance_type": "fixed_small", "clip_sample": true, "prediction_type": "epsilon", "thresholding": false,
    "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1, "sample_max_value": 1, "timestep_spacing": "leading", "steps_offset": 0,
    "rescale_betas_zero_snr": false
  }',
  array[
    ['variance_type', '"fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log" or "learned_range"',
      '$ == "fixed_small" || $ == "fixed_small_log" || $ == "fixed_large" || $ == "fixed_large_log" || $ == "learned_range"']
  ],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.ddpm_scheduler() is 'What the scheduler ddpm is. Ho et al. (arXiv 2006.11239).';

create function sql_diffusion.ddpm_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with visited as (
    select v.step, v.timestep, lead(v.timestep, 1, -1) over (order by v.step) as previous_timestep
    from sql_diffusion.visited_timesteps(config, num_inference_steps, timesteps) v
  ),
  -- Section 2 with alpha_prod for the paper's alpha-bar and beta_prod for one less it. Below timestep 0 lies the picture, alpha-bar 1.
  alphas as (
    select v.step, v.timestep, v.previous_timestep, config ->> 'prediction_type' as prediction_type, config ->> 'variance_type' as variance_type,
           a.alpha_prod, p.alpha_prod_prev,
           1::real - a.alpha_prod as beta_prod,
           1::real - p.alpha_prod_prev as beta_prod_prev,
           a.alpha_prod / p.alpha_prod_prev as alpha,
           1::real - a.alpha_prod / p.alpha_prod_prev as beta
    from visited v,
         lateral (select alphas_cumprod[v.timestep + 1] as alpha_prod) a,
         lateral (select case when v.previous_timestep >= 0 then alphas_cumprod[v.previous_timestep + 1] else 1::real end as alpha_prod_prev) p
  ),
  roots as (
    select a.step, a.timestep, a.previous_timestep, a.prediction_type, a.variance_type, a.beta_prod, a.beta_prod_prev, a.alpha, a.beta,
           sqrt(a.alpha_prod)::real as sqrt_alpha_prod,
           sqrt(a.beta_prod)::real as sqrt_beta_prod,
           sqrt(a.alpha_prod_prev)::real as sqrt_alpha_prod_prev,
           -- the variance of the posterior, equation 7
           a.beta_prod_prev / a.beta_prod * a.beta as variance
    from alphas a
  )
  select sql_diffusion.schedule_row(
           config, (r.step - skipped)::int, r.timestep, r.previous_timestep, guess.from_sample, guess.from_output,
           -- the posterior's mean, equation 7
           original_coefficient => r.sqrt_alpha_prod_prev * r.beta / r.beta_prod,
           sample_coefficient => sqrt(r.alpha)::real * r.beta_prod_prev / r.beta_prod,
           noise_coefficient => case when r.timestep = 0 then 0::real
                                     when r.variance_type like 'fixed_large%' then sqrt(r.beta)::real
                                     else sqrt(greatest(r.variance, 1e-20::real))::real end,
           draws_noise => r.timestep > 0,
           least_log_noise => case when r.variance_type = 'learned_range' and r.timestep > 0 then ln(greatest(r.variance, 1e-20::real)::double precision) / 2 end,
           greatest_log_noise => case when r.variance_type = 'learned_range' and r.timestep > 0 then ln(r.beta::double precision) / 2 end,
           added_original => r.sqrt_alpha_prod, added_noise => r.sqrt_beta_prod)
  from roots r,
       lateral sql_diffusion.original_of_output(r.prediction_type, r.sqrt_alpha_prod, r.sqrt_beta_prod) guess
  where r.step > skipped
  order by r.step;
end;
comment on function sql_diffusion.ddpm_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of ddpm, the first skipped ones left out. Ho et al. (arXiv 2006.11239), algorithm 2.';
