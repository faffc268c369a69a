-- DDIM: Denoising Diffusion Implicit Models (Song et al., arXiv 2010.02502).

create function sql_diffusion.ddim_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('ddim', 'DDIMScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "clip_sample": true, "set_alpha_to_one": true, "steps_offset": 0, "prediction_type": "epsilon", "thresholding": false,
    "dynamic_thresholding_ratio": 0.995, "clip_sample_range": 1, "sample_max_value": 1, "timestep_spacing": "leading",
    "rescale_betas_zero_snr": false
  }', '{}', true)::sql_diffusion.scheduler;
comment on function sql_diffusion.ddim_scheduler() is 'What the scheduler ddim is. Song et al. (arXiv 2010.02502).';

create function sql_diffusion.ddim_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with visited as (
    select v.step, v.timestep,
           -- A number of steps has a fixed stride; otherwise a step leads to the next in the list.
           case when timesteps is null then v.timestep - (config ->> 'num_train_timesteps')::int / num_inference_steps
                else lead(v.timestep, 1, -1) over (order by v.step) end as previous_timestep
    from sql_diffusion.visited_timesteps(config, num_inference_steps, timesteps) v
  ),
  -- alpha_prod is the paper's alpha, beta_prod one less it.
  alphas as (
    select v.step, v.timestep, v.previous_timestep, config ->> 'prediction_type' as prediction_type,
           a.alpha_prod, p.alpha_prod_prev,
           1::real - a.alpha_prod as beta_prod,
           1::real - p.alpha_prod_prev as beta_prod_prev
    from visited v,
         lateral (select alphas_cumprod[v.timestep + 1] as alpha_prod) a,
         lateral (
           select case when v.previous_timestep >= 0 then alphas_cumprod[v.previous_timestep + 1]
                       when (config ->> 'set_alpha_to_one')::boolean then 1::real
                       else alphas_cumprod[1] end as alpha_prod_prev
         ) p
  ),
  roots as (
    select a.step, a.timestep, a.previous_timestep, a.prediction_type, a.beta_prod_prev,
           sqrt(a.alpha_prod)::real as sqrt_alpha_prod,
           sqrt(a.beta_prod)::real as sqrt_beta_prod,
           sqrt(a.alpha_prod_prev)::real as sqrt_alpha_prod_prev,
           -- equation 16
           coalesce(eta, 0) * sqrt(a.beta_prod_prev / a.beta_prod * (1::real - a.alpha_prod / a.alpha_prod_prev))::real as sigma
    from alphas a
  )
  -- Equation 12, with the noise written through sample and output.
  select sql_diffusion.schedule_row(
           config, (r.step - skipped)::int, r.timestep, r.previous_timestep, guess.from_sample, guess.from_output,
           original_coefficient => r.sqrt_alpha_prod_prev,
           sample_coefficient => case r.prediction_type when 'epsilon' then 0::real
                                                        when 'sample' then direction.length / r.sqrt_beta_prod
                                                        when 'v_prediction' then direction.length * r.sqrt_beta_prod end,
           output_coefficient => case r.prediction_type when 'epsilon' then direction.length
                                                        when 'sample' then -direction.length * r.sqrt_alpha_prod / r.sqrt_beta_prod
                                                        when 'v_prediction' then direction.length * r.sqrt_alpha_prod end,
           noise_coefficient => r.sigma,
           draws_noise => coalesce(eta > 0, false),
           added_original => r.sqrt_alpha_prod, added_noise => r.sqrt_beta_prod)
  from roots r,
       -- the length of the "direction pointing to x_t"
       lateral (select sqrt(greatest(r.beta_prod_prev - r.sigma * r.sigma, 0::real))::real as length) direction,
       lateral sql_diffusion.original_of_output(r.prediction_type, r.sqrt_alpha_prod, r.sqrt_beta_prod) guess
  where r.step > skipped
  order by r.step;
end;
comment on function sql_diffusion.ddim_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of ddim, the first skipped ones left out; eta (0 to 1) is the share of fresh noise. Song et al. (arXiv 2010.02502), equation 12.';
