-- LCM: Latent Consistency Models (Luo et al., arXiv 2310.04378). Each pass guesses the finished picture, which is noised again for the next.

create function sql_diffusion.lcm_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('lcm', 'LCMScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "trained_betas": null,
    "original_inference_steps": 50, "clip_sample": false, "clip_sample_range": 1, "set_alpha_to_one": true, "steps_offset": 0,
    "prediction_type": "epsilon", "thresholding": false, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1,
    "timestep_spacing": "leading", "timestep_scaling": 10, "rescale_betas_zero_snr": false
  }',
  array[['timestep_scaling', 'a positive number', '$ > 0']],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.lcm_scheduler() is 'What the scheduler lcm is. Luo et al. (arXiv 2310.04378).';

create function sql_diffusion.lcm_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with visited as (
    select v.step, v.timestep, lead(v.timestep, 1, -1) over (order by v.step) as previous_timestep
    from sql_diffusion.distilled_timesteps(config, num_inference_steps, timesteps) v
  ),
  levels as (
    select v.step, v.timestep, v.previous_timestep,
           sqrt(alphas_cumprod[v.timestep + 1])::real as alpha,
           sqrt(1::real - alphas_cumprod[v.timestep + 1])::real as sigma,
           -- The last guess is the picture.
           case when v.previous_timestep < 0 then 1::real else sqrt(alphas_cumprod[v.previous_timestep + 1])::real end as previous_alpha,
           case when v.previous_timestep < 0 then 0::real else sqrt(1::real - alphas_cumprod[v.previous_timestep + 1])::real end as previous_sigma,
           v.timestep::real * (config ->> 'timestep_scaling')::real as scaled
    from visited v
  )
  select sql_diffusion.schedule_row(
           config, (l.step - skipped)::int, l.timestep, l.previous_timestep, guess.from_sample, guess.from_output,
           -- c_out and c_skip, with which the guess at timestep 0 is the sample: appendix of the paper, sigma_data 1/2
           original_coefficient => l.previous_alpha * (l.scaled / sqrt(l.scaled * l.scaled + 0.25::real)::real),
           sample_coefficient => l.previous_alpha * (0.25::real / (l.scaled * l.scaled + 0.25::real)),
           noise_coefficient => l.previous_sigma,
           draws_noise => l.previous_timestep >= 0,
           added_original => l.alpha, added_noise => l.sigma)
  from levels l,
       lateral sql_diffusion.original_of_output(config ->> 'prediction_type', l.alpha, l.sigma) guess
  where l.step > skipped
  order by l.step;
end;
comment on function sql_diffusion.lcm_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of lcm, the first skipped ones left out. Luo et al. (arXiv 2310.04378), algorithm 3.';
