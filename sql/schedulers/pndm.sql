-- PNDM: Pseudo Numerical Methods for Diffusion Models on Manifolds (Liu et al., arXiv 2202.09778): DDIM's step with a better output, which
-- is a sum of this and earlier ones. Three steps of Runge and Kutta of four passes each come first, or, with skip_prk_steps, a first step
-- that is taken twice.

create function sql_diffusion.pndm_scheduler() returns sql_diffusion.scheduler
language sql immutable parallel safe
return row('pndm', 'PNDMScheduler', '{}', '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "skip_prk_steps": false, "set_alpha_to_one": false, "prediction_type": "epsilon", "timestep_spacing": "leading", "steps_offset": 0
  }',
  array[
    ['prediction_type', '"epsilon" or "v_prediction"', '$ == "epsilon" || $ == "v_prediction"'],
    ['skip_prk_steps', 'a boolean', '$ == true || $ == false']
  ],
  false)::sql_diffusion.scheduler;
comment on function sql_diffusion.pndm_scheduler() is 'What the scheduler pndm is. Liu et al. (arXiv 2202.09778).';

create function sql_diffusion.pndm_schedule(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select case
           when timesteps is not null
           then sql_diffusion.fail('timesteps are given, expected num_inference_steps: pndm needs steps of one length')
           when not (config ->> 'skip_prk_steps')::boolean and num_inference_steps < 4
           then sql_diffusion.fail(format('num_inference_steps is %s, expected at least 4', num_inference_steps), 'Or set skip_prk_steps to true.')
         end;
  with setting as materialized (
    select (config ->> 'num_train_timesteps')::int / num_inference_steps as stride,
           (config ->> 'skip_prk_steps')::boolean as skip_prk_steps,
           config ->> 'prediction_type' as prediction_type,
           case when (config ->> 'set_alpha_to_one')::boolean then 1::real else alphas_cumprod[1] end as final_alpha_prod
  ),
  visited as materialized (
    select v.step, v.timestep
    from sql_diffusion.evenly_spaced_timesteps(config, num_inference_steps) v
  ),
  -- The timesteps that the network is told. Runge and Kutta ask at a step's start, twice in its middle and at its end.
  told as (
    select 4 * (v.step - 1) + part.part as pass,
           case part.part when 1 then v.timestep when 4 then next.timestep else next.timestep + s.stride / 2 end as timestep,
           true as prk
    from setting s, visited v
         join visited next on next.step = v.step + 1,
         generate_series(1, 4) as part (part)
    where not s.skip_prk_steps
      and v.step <= 3
    union all
    select v.step + 9, v.timestep, false
    from setting s, visited v
    where not s.skip_prk_steps
      and v.step >= 4
    union all
    select v.step + case when v.step > 2 then 1 else 0 end + again.again, v.timestep, false
    from setting s, visited v,
         generate_series(0, case v.step when 2 then 1 else 0 end) as again (again)
    where s.skip_prk_steps
  ),
  -- counter: diffusers' number of the pass, from 0
  counted as materialized (
    select t.pass, (t.pass - skipped - 1)::int as counter, t.timestep, t.prk
    from told t
    where t.pass > skipped
  ),
  -- From where to where a pass leads, whose sample it starts from, and the output that is used: a sum over this one, what was added up
  -- (memory 2) and the last three (memory 3 to 5). Memory 1 is the sample that a step started from.
  passes as (
    select c.counter, c.timestep, c.prk,
           case when c.prk then (select start.timestep from counted start where start.counter = c.counter / 4 * 4)
                when c.counter = 1 then c.timestep + s.stride else c.timestep end as from_timestep,
           case when c.prk then c.timestep - case when c.counter % 2 = 1 then 0 else s.stride / 2 end
                when c.counter = 1 then c.timestep else c.timestep - s.stride end as to_timestep,
           c.prk and c.counter % 4 > 0 or not c.prk and c.counter = 1 as from_memory,
           case
             when c.prk and c.counter % 4 = 3 then array[1 / 6.0, 1, 0, 0, 0]
             when c.prk then array[1, 0, 0, 0, 0]
             when c.counter = 0 then array[1, 0, 0, 0, 0]
             when c.counter = 1 then array[1 / 2.0, 0, 1 / 2.0, 0, 0]
             when c.counter = 2 then array[3 / 2.0, 0, -1 / 2.0, 0, 0]
             when c.counter = 3 then array[23 / 12.0, 0, -16 / 12.0, 5 / 12.0, 0]
             else array[55 / 24.0, 0, -59 / 24.0, 37 / 24.0, -9 / 24.0]
           end::double precision[] as outputs,
           case when c.prk and c.counter % 4 = 0 then 1 / 6.0 when c.prk and c.counter % 4 < 3 then 1 / 3.0 else 0 end::double precision as added,
           case when c.prk then c.counter % 4 = 0 else c.counter <> 1 end as remembers
    from counted c, setting s
  ),
  levels as (
    select p.counter, p.timestep, p.from_memory, p.outputs, p.added, p.prk, p.remembers,
           alphas_cumprod[p.from_timestep + 1] as alpha_prod,
           case when p.to_timestep >= 0 then alphas_cumprod[p.to_timestep + 1] else s.final_alpha_prod end as alpha_prod_prev,
           alphas_cumprod[p.timestep + 1] as alpha_prod_told
    from passes p, setting s
  ),
  -- equation 9, as diffusers writes it; v is made noise of the sample that the step starts from
  steps as (
    select l.counter, l.timestep, l.from_memory, l.outputs, l.added, l.prk, l.remembers, l.alpha_prod_told,
           w.of_sample + case when s.prediction_type = 'v_prediction' then w.of_output * sqrt(1::real - l.alpha_prod)::real else 0 end as of_sample,
           case when s.prediction_type = 'v_prediction' then w.of_output * sqrt(l.alpha_prod)::real else w.of_output end as of_output
    from levels l, setting s,
         lateral (
           select sqrt(l.alpha_prod_prev / l.alpha_prod)::real::double precision as of_sample,
                  -(l.alpha_prod_prev - l.alpha_prod)::double precision
                  / (l.alpha_prod * sqrt(1::real - l.alpha_prod_prev)::real + sqrt(l.alpha_prod * (1::real - l.alpha_prod) * l.alpha_prod_prev)::real) as of_output
         ) w
  )
  select sql_diffusion.schedule_row(
           config, t.counter + 1, t.timestep, lead(t.timestep, 1, -1) over (order by t.counter), guess.from_sample, guess.from_output,
           sample_coefficient => case when t.from_memory then 0 else t.of_sample end,
           output_coefficient => t.of_output * t.outputs[1],
           memory_coefficients => array[case when t.from_memory then t.of_sample else 0 end,
                                        t.of_output * t.outputs[2], t.of_output * t.outputs[3], t.of_output * t.outputs[4], t.of_output * t.outputs[5]],
           memory_update => array[
             case when t.from_memory then array[0, 0, 0, 1, 0, 0, 0, 0] else array[0, 1, 0, 0, 0, 0, 0, 0] end::double precision[],
             array[0, 0, t.added, 0, case when t.prk and t.counter % 4 in (1, 2) then 1 else 0 end, 0, 0, 0]::double precision[],
             case when t.remembers then array[0, 0, 1, 0, 0, 0, 0, 0] else array[0, 0, 0, 0, 0, 1, 0, 0] end::double precision[],
             case when t.remembers then array[0, 0, 0, 0, 0, 1, 0, 0] else array[0, 0, 0, 0, 0, 0, 1, 0] end::double precision[],
             case when t.remembers then array[0, 0, 0, 0, 0, 0, 1, 0] else array[0, 0, 0, 0, 0, 0, 0, 1] end::double precision[]],
           added_original => sqrt(t.alpha_prod_told)::real, added_noise => sqrt(1::real - t.alpha_prod_told)::real)
  from steps t, setting s,
       lateral sql_diffusion.original_of_output(s.prediction_type, sqrt(t.alpha_prod_told)::real, sqrt(1::real - t.alpha_prod_told)::real) guess
  order by t.counter;
end;
comment on function sql_diffusion.pndm_schedule(jsonb, real[], int, int[], real, int) is
  'The rows of pndm, the first skipped ones left out. Liu et al. (arXiv 2202.09778), equations 9 to 13.';
