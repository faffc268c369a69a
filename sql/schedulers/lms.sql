-- LMS: the linear multistep method of Adams and Bashforth over sigma, of order 4.

create function sql_diffusion.lms_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('lms', 'LMSDiscreteScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false, "prediction_type": "epsilon",
    "timestep_spacing": "linspace", "steps_offset": 0
  }', '{}', false)::sql_diffusion.scheduler;
comment on function sql_diffusion.lms_scheduler() is 'What the scheduler lms is.';

create function sql_diffusion.lms_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  with sigmas as materialized (
    select s.step, s.timestep, s.sigma, lead(s.sigma) over (order by s.step) as next_sigma
    from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, false) s
  ),
  -- The integral from sigma to next_sigma of the polynomial that is 1 at the sigma of a slope and 0 at those of the other slopes.
  -- Gauss's two points integrate a cubic exactly.
  weights as (
    select s.step, own.step as of_step,
           (select sum((s.next_sigma::double precision - s.sigma) / 2
                       * coalesce((select sql_diffusion.product((point.x - other.sigma) / (own.sigma::double precision - other.sigma))
                                   from sigmas other
                                   where other.step between s.step - 3 and s.step
                                     and other.step <> own.step), 1))
            from (values ((s.sigma::double precision + s.next_sigma) / 2 - (s.next_sigma::double precision - s.sigma) / 2 / sqrt(3::double precision)),
                         ((s.sigma::double precision + s.next_sigma) / 2 + (s.next_sigma::double precision - s.sigma) / 2 / sqrt(3::double precision))) point (x)) as weight
    from sigmas s
         join sigmas own on own.step between s.step - 3 and s.step
    where s.next_sigma is not null
  )
  -- A slope is (sample - original) / sigma; the three before are remembered.
  select sql_diffusion.schedule_row(
           config, (s.step - skipped)::int, s.timestep, lead(s.timestep, 1, -1) over (order by s.step), guess.from_sample, guess.from_output,
           original_coefficient => -w.weights[1] / s.sigma,
           sample_coefficient => 1 + w.weights[1] / s.sigma,
           memory_coefficients => array[coalesce(w.weights[2], 0), coalesce(w.weights[3], 0), coalesce(w.weights[4], 0)],
           memory_update => array[[-1 / s.sigma::double precision, 1 / s.sigma::double precision, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0], [0, 0, 0, 0, 1, 0]],
           input_scale => 1::real / sqrt(s.sigma * s.sigma + 1::real)::real,
           initial_noise => case when config ->> 'timestep_spacing' = 'leading' then sqrt(s.sigma * s.sigma + 1::real)::real else s.sigma end,
           added_original => 1, added_noise => s.sigma)
  from sigmas s,
       lateral (select array_agg(w.weight order by w.of_step desc) as weights from weights w where w.step = s.step) w,
       lateral sql_diffusion.original_of_scaled_output(config ->> 'prediction_type', s.sigma) guess
  where s.next_sigma is not null
    and s.step > skipped
  order by s.step;
end;
comment on function sql_diffusion.lms_schedule(jsonb, real[], int, int[], real, int) is 'The rows of lms, the first skipped ones left out.';
