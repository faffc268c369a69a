-- UniPC: a predictor and a corrector of one form (Zhao et al., arXiv 2302.04867), of order 1 to 3. The network's output first corrects the
-- sample that it was made of, then predicts the next.

create function sql_diffusion.unipc_multistep_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('unipc', 'UniPCMultistepScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "solver_order": 2, "prediction_type": "epsilon", "thresholding": false, "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1,
    "predict_x0": true, "solver_type": "bh2", "lower_order_final": true, "disable_corrector": [], "solver_p": null,
    "use_karras_sigmas": false, "use_exponential_sigmas": false, "use_beta_sigmas": false, "use_flow_sigmas": false, "flow_shift": 1,
    "timestep_spacing": "linspace", "steps_offset": 0, "final_sigmas_type": "zero", "rescale_betas_zero_snr": false,
    "sigma_min": null, "sigma_max": null
  }',
  array[
    ['solver_order', '1, 2 or 3', '$ == 1 || $ == 2 || $ == 3'],
    ['solver_type', '"bh1" or "bh2"', '$ == "bh1" || $ == "bh2" || $ == "midpoint" || $ == "heun" || $ == "logrho"'],
    ['predict_x0', 'a boolean', '$ == true || $ == false'],
    ['disable_corrector', 'a list of integers', '$.type() == "array" && !exists($[*] ? (@.type() != "number"))'],
    ['solver_p', 'null', '$ == null']
  ],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.unipc_multistep_scheduler() is 'What the scheduler unipc is. Zhao et al. (arXiv 2302.04867).';

create function sql_diffusion.unipc_weights(h real, ratios real[], predict_x0 boolean, bh1 boolean, corrects boolean,
    out of_model double precision, out of_differences double precision[])
language sql immutable parallel safe
begin atomic
  -- Algorithms 1 and 2 and appendix A: the weights rho solve a Vandermonde system over the ratios, whose last is 1 (of the newest output, which
  -- only the corrector has); of_differences[k] is by what the difference to the k-th output is multiplied.
  with phi as (
    select hh.hh, hh.phi_1, case when bh1 then hh.hh else hh.phi_1 end as b_h, hh.phi_1 / nullif(hh.hh, 0) - 1::real as phi_2
    from (select g.hh, (exp(g.hh::double precision) - 1)::real as phi_1 from (select case when predict_x0 then -h else h end as hh) g) hh
  ),
  phis as (
    select p.phi_1, p.b_h, p.phi_2, p.phi_2 / nullif(p.hh, 0) - 0.5::real as phi_3, (p.phi_2 / nullif(p.hh, 0) - 0.5::real) / nullif(p.hh, 0) - (1 / 6.0)::real as phi_4
    from phi p
  ),
  b as (
    select p.phi_1, p.b_h, (p.phi_2 / nullif(p.b_h, 0))::double precision as b1, (p.phi_3 * 2::real / nullif(p.b_h, 0))::double precision as b2, (p.phi_4 * 6::real / nullif(p.b_h, 0))::double precision as b3
    from phis p
  ),
  nodes as (
    select x, cardinality(x) as n
    from (select case when corrects then ratios || 1::real else ratios end::double precision[] as x) given
  )
  select b.phi_1,
         case n.n
           when 0 then '{}'
           when 1 then array[b.b_h * 0.5]
           when 2 then array[b.b_h * (b.b2 - n.x[2] * b.b1) / (n.x[1] - n.x[2]), b.b_h * (b.b2 - n.x[1] * b.b1) / (n.x[2] - n.x[1])]
           when 3 then array[
             b.b_h * (b.b3 - (n.x[2] + n.x[3]) * b.b2 + n.x[2] * n.x[3] * b.b1) / ((n.x[1] - n.x[2]) * (n.x[1] - n.x[3])),
             b.b_h * (b.b3 - (n.x[1] + n.x[3]) * b.b2 + n.x[1] * n.x[3] * b.b1) / ((n.x[2] - n.x[1]) * (n.x[2] - n.x[3])),
             b.b_h * (b.b3 - (n.x[1] + n.x[2]) * b.b2 + n.x[1] * n.x[2] * b.b1) / ((n.x[3] - n.x[1]) * (n.x[3] - n.x[2]))]
         end
  from b, nodes n;
end;
comment on function sql_diffusion.unipc_weights(real, real[], boolean, boolean, boolean) is
  'The weights of a predictor or corrector over a step of h in lambda: of the model''s output at its start, and of the differences to outputs before it, at the ratios of h '
  '(and to that at its end, if it corrects). Zhao et al. (arXiv 2302.04867), algorithms 1 and 2.';

create function sql_diffusion.unipc_multistep_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select case
           when not (config ->> 'lower_order_final')::boolean and (config ->> 'solver_order')::int > 1
                and (config ->> 'final_sigmas_type' = 'zero' or (config ->> 'use_karras_sigmas')::boolean or (config ->> 'use_exponential_sigmas')::boolean)
           then sql_diffusion.fail('scheduler: setting lower_order_final is false, expected true, because of the last step, to a sigma of zero or to the same one', errcode => '0A000')
           when config ->> 'final_sigmas_type' = 'zero' and not (config ->> 'predict_x0')::boolean
           then sql_diffusion.fail('scheduler: setting predict_x0 is false, expected true, because final_sigmas_type is "zero"', errcode => '0A000')
         end;
  with setting as materialized (
    select (config ->> 'solver_order')::int as solver_order,
           (config ->> 'predict_x0')::boolean as predict_x0,
           config ->> 'solver_type' = 'bh1' as bh1,
           config ->> 'prediction_type' as prediction_type,
           (config ->> 'thresholding')::boolean and (config ->> 'predict_x0')::boolean as thresholding,
           (config ->> 'lower_order_final')::boolean as lower_order_final
  ),
  levels as (
    select v.step, v.timestep, v.alpha, v.sigma, v.steps,
           case when v.sigma > 0 then ln(v.alpha)::real - ln(v.sigma)::real else 'infinity'::real end as lambda
    from (
      select s.step, s.timestep, a.alpha, s.sigma * a.alpha as sigma, count(*) over () - 1 as steps
      from sql_diffusion.sigma_steps(config, alphas_cumprod, num_inference_steps, timesteps, true) s,
           lateral (select 1::real / sqrt(s.sigma * s.sigma + 1::real)::real as alpha) a
    ) v
  ),
  -- From a level to the next: h, and where the outputs before lie, in h.
  steps as materialized (
    select l.step - skipped as step, l.step as whole_step, l.timestep, l.alpha, l.sigma,
           lead(l.timestep, 1, -1) over (order by l.step) as previous_timestep,
           s.predict_x0, s.solver_order,
           case when s.predict_x0 then next.sigma / l.sigma else next.alpha / l.alpha end as of_sample,
           case when s.predict_x0 then next.alpha else next.sigma end as scale,
           next.lambda - l.lambda as h,
           array[(lag(l.lambda) over (order by l.step) - l.lambda) / nullif(next.lambda - l.lambda, 0),
                 (lag(l.lambda, 2) over (order by l.step) - l.lambda) / nullif(next.lambda - l.lambda, 0)] as ratios,
           least(s.solver_order, l.step - skipped, case when s.lower_order_final then l.steps - l.step + 1 end)::int as this_order
    from levels l
         join levels next on next.step = l.step + 1,
         setting s
  ),
  -- Either as the weights of the sample, of the output at the step's start (0), of those before it (1, 2) and of the one at its end.
  predictors as (
    select t.step, t.of_sample::double precision as of_sample,
           t.scale * (-w.of_model + coalesce(w.of_differences[1] / t.ratios[1], 0) + coalesce(w.of_differences[2] / t.ratios[2], 0)) as of_0,
           -t.scale * coalesce(w.of_differences[1] / t.ratios[1], 0) as of_1,
           -t.scale * coalesce(w.of_differences[2] / t.ratios[2], 0) as of_2
    from steps t, setting s,
         lateral sql_diffusion.unipc_weights(t.h, t.ratios[1 : t.this_order - 1], s.predict_x0, s.bh1, false) w
  ),
  correctors as (
    select t.step + 1 as step, t.of_sample::double precision as of_sample,
           t.scale * (-w.of_model + (select sum(d.d / coalesce(t.ratios[d.ordinality], 1)) from unnest(w.of_differences[1 : t.this_order - 1]) with ordinality d (d))) as of_0_without_end,
           t.scale * (-w.of_model) as of_0_alone,
           -t.scale * case when t.this_order > 1 then w.of_differences[1] / t.ratios[1] else 0 end as of_1,
           -t.scale * case when t.this_order > 2 then w.of_differences[2] / t.ratios[2] else 0 end as of_2,
           -t.scale * w.of_differences[t.this_order] as of_end
    from steps t, setting s,
         lateral sql_diffusion.unipc_weights(t.h, t.ratios[1 : t.this_order - 1], s.predict_x0, s.bh1, true) w
    where t.h < 'infinity'
      and t.h <> 0
  ),
  -- Memory: the corrected sample of the step before, then the outputs before. Corrected sample = of_this * sample + of_last * memory[1] + of_end * output + ...
  corrections as (
    select t.step,
           case when c.step is null then 1 else 0 end::double precision as of_this,
           coalesce(c.of_sample, 0) as of_last,
           coalesce(c.of_end, 0) as of_end,
           coalesce(coalesce(c.of_0_without_end, c.of_0_alone) - c.of_end, 0) as of_0,
           coalesce(c.of_1, 0) as of_1,
           coalesce(c.of_2, 0) as of_2
    from steps t
         left join correctors c on c.step = t.step and t.step > 1 and not config -> 'disable_corrector' @> to_jsonb(t.whole_step - 2)
  ),
  -- The output as a picture or as noise.
  models as (
    select t.step, m.of_original, m.of_sample, m.of_output
    from steps t, setting s,
         lateral (
           select case when s.predict_x0 then 1 else 0 end::double precision as of_original,
                  case when s.predict_x0 then 0 else case s.prediction_type when 'epsilon' then 0 when 'sample' then 1::real / t.sigma when 'v_prediction' then t.sigma end end::double precision as of_sample,
                  case when s.predict_x0 then 0 else case s.prediction_type when 'epsilon' then 1 when 'sample' then -t.alpha / t.sigma when 'v_prediction' then t.alpha end end::double precision as of_output
         ) m
  ),
  combined as (
    select t.step, p.of_sample * c.of_this as of_this,
           p.of_0 + p.of_sample * c.of_end as of_model,
           array[p.of_sample * c.of_last, p.of_1 + p.of_sample * c.of_0, p.of_2 + p.of_sample * c.of_1, p.of_sample * c.of_2] as of_memory
    from steps t
         join predictors p on p.step = t.step
         join corrections c on c.step = t.step
  )
  select sql_diffusion.schedule_row(
           case when s.thresholding then config else config || '{"thresholding": false}' end,
           t.step::int, t.timestep, t.previous_timestep, guess.from_sample, guess.from_output,
           original_coefficient => b.of_model * m.of_original,
           sample_coefficient => b.of_this + b.of_model * m.of_sample,
           output_coefficient => b.of_model * m.of_output,
           memory_coefficients => b.of_memory[1 : s.solver_order + 1],
           memory_update => (array[
             [c.of_end * m.of_original, c.of_this + c.of_end * m.of_sample, c.of_end * m.of_output, c.of_last, c.of_0, c.of_1, c.of_2],
             [m.of_original, m.of_sample, m.of_output, 0, 0, 0, 0],
             [0, 0, 0, 0, 1, 0, 0],
             [0, 0, 0, 0, 0, 1, 0]])[1 : s.solver_order + 1][1 : s.solver_order + 4],
           added_original => t.alpha, added_noise => t.sigma)
  from steps t
       join combined b on b.step = t.step
       join corrections c on c.step = t.step
       join models m on m.step = t.step,
       setting s,
       lateral sql_diffusion.original_of_output(s.prediction_type, t.alpha, t.sigma) guess
  where t.step > 0
  order by t.step;
end;
comment on function sql_diffusion.unipc_multistep_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of unipc, the first skipped ones left out: each the corrector''s weights put into the predictor''s. Zhao et al. (arXiv 2302.04867).';
