-- DPM-Solver++ (Lu et al., arXiv 2211.01095) and DPM-Solver (arXiv 2206.00927), multistep: an exponential integrator over lambda, half the
-- logarithm of the signal's strength over the noise's, of order 1 to 3; with sde- before its name it solves the equation with fresh noise.

create function sql_diffusion.dpmsolver_multistep_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('dpmsolver++', 'DPMSolverMultistepScheduler', '{
    "sde-dpmsolver++": {"algorithm_type": "sde-dpmsolver++"},
    "dpmsolver": {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"},
    "sde-dpmsolver": {"algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}
  }', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "solver_order": 2, "prediction_type": "epsilon", "thresholding": false, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1,
    "algorithm_type": "dpmsolver++", "solver_type": "midpoint", "lower_order_final": true, "euler_at_final": false,
    "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false, "use_lu_lambdas": false,
    "use_flow_sigmas": false, "flow_shift": 1, "final_sigmas_type": "zero", "lambda_min_clipped": null, "variance_type": null,
    "timestep_spacing": "linspace", "steps_offset": 0, "rescale_betas_zero_snr": false
  }',
  array[
    ['solver_order', '1, 2 or 3', '$ == 1 || $ == 2 || $ == 3'],
    ['algorithm_type', '"dpmsolver++", "sde-dpmsolver++", "dpmsolver", "sde-dpmsolver" or "deis"',
      '$ == "dpmsolver++" || $ == "sde-dpmsolver++" || $ == "dpmsolver" || $ == "sde-dpmsolver" || $ == "deis"'],
    ['solver_type', '"midpoint" or "heun"', '$ == "midpoint" || $ == "heun" || $ == "logrho" || $ == "bh1" || $ == "bh2"'],
    ['euler_at_final', 'a boolean', '$ == true || $ == false'],
    ['use_lu_lambdas', 'false', '$ == false'],
    ['lambda_min_clipped', 'a number or null', '$ == null || $.type() == "number"']
  ],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.dpmsolver_multistep_scheduler() is 'What the scheduler dpmsolver++ is. Lu et al. (arXiv 2211.01095).';

create function sql_diffusion.dpmsolver_multistep_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select case
           when config ->> 'algorithm_type' in ('dpmsolver', 'sde-dpmsolver') and config ->> 'final_sigmas_type' = 'zero'
           then sql_diffusion.fail(format('scheduler: setting final_sigmas_type is "zero", expected "sigma_min", because algorithm_type is "%s"', config ->> 'algorithm_type'), errcode => '0A000')
           when config ->> 'algorithm_type' = 'sde-dpmsolver' and (config ->> 'solver_order')::int > 2
           then sql_diffusion.fail('scheduler: setting solver_order is 3, expected 1 or 2, because algorithm_type is "sde-dpmsolver"', errcode => '0A000')
         end;
  with setting as materialized (
    select (config ->> 'solver_order')::int as solver_order,
           case config ->> 'algorithm_type' when 'deis' then 'dpmsolver++' else config ->> 'algorithm_type' end as algorithm,
           config ->> 'algorithm_type' in ('dpmsolver', 'sde-dpmsolver') as by_noise,
           config ->> 'solver_type' = 'heun' as heun,
           config ->> 'prediction_type' as prediction_type,
           (config ->> 'thresholding')::boolean as thresholding,
           (config ->> 'lower_order_final')::boolean as lower_order_final,
           (config ->> 'euler_at_final')::boolean or config ->> 'final_sigmas_type' = 'zero' as euler_at_final
  ),
  -- The sample is alpha * picture + sigma * noise, with the squares of alpha and sigma one together.
  levels as (
    select v.step, v.timestep, v.alpha, v.sigma, v.steps,
           case when v.sigma > 0 then ln(v.alpha)::real - ln(v.sigma)::real else 'infinity'::real end as lambda
    from (
      select s.step, s.timestep, a.alpha, s.sigma * a.alpha as sigma, count(*) over () - 1 as steps
      from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, true) s,
           lateral (select 1::real / sqrt(s.sigma * s.sigma + 1::real)::real as alpha) a
    ) v
  ),
  steps as (
    select l.step - skipped as step, l.timestep, l.alpha, l.sigma, next.alpha as next_alpha, next.sigma as next_sigma,
           lead(l.timestep, 1, -1) over (order by l.step) as previous_timestep,
           next.lambda - l.lambda as h,
           (l.lambda - lag(l.lambda) over (order by l.step)) / nullif(next.lambda - l.lambda, 0) as r0,
           (lag(l.lambda) over (order by l.step) - lag(l.lambda, 2) over (order by l.step)) / nullif(next.lambda - l.lambda, 0) as r1,
           case when s.solver_order = 1 or l.step - skipped = 1 or next.lambda = l.lambda
                  or l.step = l.steps and (s.euler_at_final or s.lower_order_final and l.steps < 15) then 1
                when s.solver_order = 2 or l.step - skipped = 2 or l.step = l.steps - 1 and s.lower_order_final and l.steps < 15 then 2
                else 3 end as solver_order
    from levels l
         join levels next on next.step = l.step + 1,
         setting s
  ),
  -- What the network says is taken as a picture (as noise by the older algorithms), integrated exactly over the step; a second and third
  -- term are its first and second derivative's. (arXiv 2211.01095, equations 4.2 and A.2; appendix D for the stochastic ones)
  integrals as (
    select t.step, t.r0, t.r1, t.solver_order,
           case s.algorithm when 'dpmsolver++' then t.next_sigma / t.sigma
                            when 'sde-dpmsolver++' then t.next_sigma / t.sigma * g.down
                            else t.next_alpha / t.alpha end as of_sample,
           case s.algorithm when 'dpmsolver++' then -t.next_alpha * (g.down - 1::real)
                            when 'sde-dpmsolver++' then t.next_alpha * (1::real - g.down_twice)
                            when 'dpmsolver' then -t.next_sigma * (g.up - 1::real)
                            when 'sde-dpmsolver' then -2::real * (t.next_sigma * (g.up - 1::real)) end as of_model,
           case when t.solver_order = 1 then 0::real
                when t.solver_order = 2 and not s.heun then
                  case s.algorithm when 'dpmsolver++' then -0.5::real * (t.next_alpha * (g.down - 1::real))
                                   when 'sde-dpmsolver++' then 0.5::real * (t.next_alpha * (1::real - g.down_twice))
                                   when 'dpmsolver' then -0.5::real * (t.next_sigma * (g.up - 1::real))
                                   when 'sde-dpmsolver' then -t.next_sigma * (g.up - 1::real) end
                else
                  case s.algorithm when 'dpmsolver++' then t.next_alpha * ((g.down - 1::real) / t.h + 1::real)
                                   when 'sde-dpmsolver++' then t.next_alpha * ((1::real - g.down_twice) / (-2::real * t.h) + 1::real)
                                   when 'dpmsolver' then -t.next_sigma * ((g.up - 1::real) / t.h - 1::real)
                                   when 'sde-dpmsolver' then -2::real * (t.next_sigma * ((g.up - 1::real) / t.h - 1::real)) end
           end as of_first,
           case when t.solver_order < 3 then 0::real
                else case s.algorithm when 'dpmsolver++' then -t.next_alpha * ((g.down - 1::real + t.h) / (t.h * t.h) - 0.5::real)
                                      when 'sde-dpmsolver++' then t.next_alpha * ((1::real - g.down_twice - 2::real * t.h) / (2::real * t.h * (2::real * t.h)) - 0.5::real)
                                      when 'dpmsolver' then -t.next_sigma * ((g.up - 1::real - t.h) / (t.h * t.h) - 0.5::real) end
           end as of_second,
           case s.algorithm when 'sde-dpmsolver++' then t.next_sigma * sqrt(1::real - g.down_twice)::real
                            when 'sde-dpmsolver' then t.next_sigma * sqrt(g.up_twice - 1::real)::real
                            else 0::real end as of_noise
    from steps t, setting s,
         lateral (select exp(-t.h::double precision)::real as down, exp(-2 * t.h::double precision)::real as down_twice,
                         case when s.by_noise then exp(t.h::double precision)::real end as up, case when s.by_noise then exp(2 * t.h::double precision)::real end as up_twice) g
  ),
  -- Derivatives are differences of this output and the remembered ones before it.
  weights as (
    select i.step, i.of_sample::double precision as of_sample, i.of_noise,
           i.of_model + slope.newer as of_model, slope.older - slope.newer as of_memory_1, -slope.older as of_memory_2
    from integrals i,
         lateral (
           select case i.solver_order when 1 then 0
                                      when 2 then i.of_first::double precision / i.r0
                                      else (i.of_first * (1 + i.r0::double precision / (i.r0 + i.r1)) + i.of_second / (i.r0 + i.r1)::double precision) / i.r0 end as newer,
                  case when i.solver_order < 3 then 0
                       else -(i.of_first * (i.r0::double precision / (i.r0 + i.r1)) + i.of_second / (i.r0 + i.r1)::double precision) / i.r1 end as older
         ) slope
  ),
  -- The output as a picture or as noise.
  models as (
    select t.step, m.of_original, m.of_sample, m.of_output
    from steps t, setting s,
         lateral (
           select case when not s.by_noise then 1 when s.thresholding then -t.alpha / t.sigma else 0 end::double precision as of_original,
                  case when not s.by_noise then 0 when s.thresholding then 1::real / t.sigma
                       else case s.prediction_type when 'epsilon' then 0 when 'sample' then 1::real / t.sigma when 'v_prediction' then t.sigma end end::double precision as of_sample,
                  case when not s.by_noise or s.thresholding then 0
                       else case s.prediction_type when 'epsilon' then 1 when 'sample' then -t.alpha / t.sigma when 'v_prediction' then t.alpha end end::double precision as of_output
         ) m
  )
  select sql_diffusion.schedule_row(
           config, t.step::int, t.timestep, t.previous_timestep, guess.from_sample, guess.from_output,
           original_coefficient => w.of_model * m.of_original,
           sample_coefficient => w.of_sample + w.of_model * m.of_sample,
           output_coefficient => w.of_model * m.of_output,
           noise_coefficient => w.of_noise,
           draws_noise => s.algorithm like 'sde-%',
           memory_coefficients => (array[w.of_memory_1, w.of_memory_2])[1 : s.solver_order - 1],
           memory_update => case s.solver_order when 1 then '{}'
                                                when 2 then array[[m.of_original, m.of_sample, m.of_output, 0]]
                                                when 3 then array[[m.of_original, m.of_sample, m.of_output, 0, 0], [0, 0, 0, 1, 0]] end,
           added_original => t.alpha, added_noise => t.sigma)
  from steps t
       join weights w on w.step = t.step
       join models m on m.step = t.step,
       setting s,
       lateral sql_diffusion.original_of_output(s.prediction_type, t.alpha, t.sigma) guess
  where t.step > 0
  order by t.step;
end;
comment on function sql_diffusion.dpmsolver_multistep_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of dpmsolver++ and its kin, the first skipped ones left out. Lu et al. (arXiv 2211.01095), algorithm 2.';
