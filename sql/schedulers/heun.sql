-- Heun: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., arXiv 2206.00364), algorithm 1. Two passes of the
-- network a step, but for the last.

create function sql_diffusion.heun_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('heun', 'HeunDiscreteScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "linear", "trained_betas": null,
    "prediction_type": "epsilon", "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false,
    "clip_sample": false, "clip_sample_range": 1, "timestep_spacing": "linspace", "steps_offset": 0
  }', '{}', false)::sql_diffusion.scheduler;
comment on function sql_diffusion.heun_scheduler() is 'What the scheduler heun is. Karras et al. (arXiv 2206.00364).';

create function sql_diffusion.heun_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with sigmas as (
    select s.step, s.timestep, s.sigma, lead(s.sigma) over (order by s.step) as next_sigma, lead(s.timestep) over (order by s.step) as next_timestep
    from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, false) s
  ),
  -- The second pass is at the end of the step, where the slope is measured again.
  passes as (
    select 2 * s.step - 1 as pass, 1 as part, s.timestep, s.sigma, (s.next_sigma - s.sigma)::double precision as dt
    from sigmas s
    where s.next_sigma is not null
    union all
    select 2 * s.step, 2, s.next_timestep, s.next_sigma, (s.next_sigma - s.sigma)::double precision
    from sigmas s
    where s.next_sigma > 0
  )
  -- First sample + slope * dt, keeping sample + slope * dt / 2; then that and the second slope's half.
  select sql_diffusion.schedule_row(
           config, (p.pass - 2 * skipped)::int, p.timestep, lead(p.timestep, 1, -1) over (order by p.pass), guess.from_sample, guess.from_output,
           original_coefficient => case p.part when 1 then -p.dt / p.sigma else -p.dt / 2 / p.sigma end,
           sample_coefficient => case p.part when 1 then 1 + p.dt / p.sigma else p.dt / 2 / p.sigma end,
           memory_coefficients => array[p.part - 1],
           memory_update => case p.part when 1 then array[[-p.dt / 2 / p.sigma, 1 + p.dt / 2 / p.sigma, 0, 0]] else array[[0, 0, 0, 0]] end,
           input_scale => 1::real / sqrt(p.sigma * p.sigma + 1::real)::real,
           initial_noise => case when config ->> 'timestep_spacing' = 'leading' then sqrt(p.sigma * p.sigma + 1::real)::real else p.sigma end,
           added_original => 1, added_noise => p.sigma)
  from passes p,
       lateral sql_diffusion.original_of_scaled_output(config ->> 'prediction_type', p.sigma) guess
  where p.pass > 2 * skipped
  order by p.pass;
end;
comment on function sql_diffusion.heun_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of heun, the passes of the first skipped steps left out. Karras et al. (arXiv 2206.00364), algorithm 1 without churn.';
