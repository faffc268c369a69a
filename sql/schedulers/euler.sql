-- Euler: Elucidating the Design Space of Diffusion-Based Generative Models (Karras et al., arXiv 2206.00364), algorithm 2 without churn.

create function sql_diffusion.euler_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('euler', 'EulerDiscreteScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "prediction_type": "epsilon", "interpolation_type": "linear", "use_karras_sigmas": false, "use_exponential_sigmas": false,
    "use_beta_sigmas": false, "sigma_min": null, "sigma_max": null, "timestep_spacing": "linspace", "timestep_type": "discrete",
    "steps_offset": 0, "rescale_betas_zero_snr": false, "final_sigmas_type": "zero"
  }',
  array[['timestep_type', '"discrete" or "continuous"', '$ == "discrete" || $ == "continuous"']],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.euler_scheduler() is 'What the scheduler euler is. Karras et al. (arXiv 2206.00364).';

create function sql_diffusion.euler_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with sigmas as (
    select s.step,
           case when config ->> 'timestep_type' = 'continuous' and config ->> 'prediction_type' = 'v_prediction'
                then 0.25::real * ln(nullif(s.sigma, 0))::real else s.timestep end as timestep,
           s.sigma, lead(s.sigma) over (order by s.step) as next_sigma
    from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, false) s
  )
  -- sample + (sample - original) / sigma * (next_sigma - sigma)
  select sql_diffusion.schedule_row(
           config, (s.step - skipped)::int, s.timestep, lead(s.timestep, 1, -1) over (order by s.step), guess.from_sample, guess.from_output,
           original_coefficient => -slope.dt / s.sigma,
           sample_coefficient => 1 + slope.dt / s.sigma,
           input_scale => 1::real / sqrt(s.sigma * s.sigma + 1::real)::real,
           initial_noise => case when config ->> 'timestep_spacing' = 'leading' then sqrt(s.sigma * s.sigma + 1::real)::real else s.sigma end,
           added_original => 1, added_noise => s.sigma)
  from sigmas s,
       lateral (select (s.next_sigma - s.sigma)::double precision as dt) slope,
       lateral sql_diffusion.original_of_scaled_output(config ->> 'prediction_type', s.sigma) guess
  where s.next_sigma is not null
    and s.step > skipped
  order by s.step;
end;
comment on function sql_diffusion.euler_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of euler, the first skipped ones left out. Karras et al. (arXiv 2206.00364), algorithm 2 without churn.';
