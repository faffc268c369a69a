-- Euler with fresh noise after each step: the ancestral sampler of k-diffusion.

create function sql_diffusion.euler_ancestral_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('euler_ancestral', 'EulerAncestralDiscreteScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "prediction_type": "epsilon", "timestep_spacing": "linspace", "steps_offset": 0, "rescale_betas_zero_snr": false
  }', '{}', false)::sql_diffusion.scheduler;
comment on function sql_diffusion.euler_ancestral_scheduler() is 'What the scheduler euler_ancestral is.';

create function sql_diffusion.euler_ancestral_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with sigmas as (
    select s.step, s.timestep, s.sigma, lead(s.sigma) over (order by s.step) as next_sigma
    from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, false) s
  )
  -- Down to less noise than the next step has, and up to it with fresh noise.
  select sql_diffusion.schedule_row(
           config, (s.step - skipped)::int, s.timestep, lead(s.timestep, 1, -1) over (order by s.step), guess.from_sample, guess.from_output,
           original_coefficient => -slope.dt / s.sigma,
           sample_coefficient => 1 + slope.dt / s.sigma,
           noise_coefficient => fresh.up,
           draws_noise => true,
           input_scale => 1::real / sqrt(s.sigma * s.sigma + 1::real)::real,
           initial_noise => case when config ->> 'timestep_spacing' = 'leading' then sqrt(s.sigma * s.sigma + 1::real)::real else s.sigma end,
           added_original => 1, added_noise => s.sigma)
  from sigmas s,
       lateral (select sqrt(s.next_sigma * s.next_sigma * (s.sigma * s.sigma - s.next_sigma * s.next_sigma) / (s.sigma * s.sigma))::real as up) fresh,
       lateral (select (sqrt(s.next_sigma * s.next_sigma - fresh.up * fresh.up)::real - s.sigma)::double precision as dt) slope,
       lateral sql_diffusion.original_of_scaled_output(config ->> 'prediction_type', s.sigma) guess
  where s.next_sigma is not null
    and s.step > skipped
  order by s.step;
end;
comment on function sql_diffusion.euler_ancestral_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of euler_ancestral, the first skipped ones left out. Noise is drawn after the last step too, as in diffusers, though nothing of it is used.';
