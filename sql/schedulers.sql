-- Schedulers, apart from networks: which there are, how one is chosen and set, its schedule, one update a step.

create function sql_diffusion.scheduler_name(scheduler text) returns text
language sql immutable parallel safe
begin atomic
  select coalesce(
    (select n.name
     from sql_diffusion.scheduler_names() n
     where n.given = lower((case when ltrim(scheduler) like '{%' then scheduler::jsonb ->> '_class_name' else scheduler end) collate "C")),
    case when not sql_diffusion.fail(format('scheduler is %s, expected %s', coalesce(quote_literal(scheduler), 'null'),
                                            (select string_agg(n.given, ', ' order by n.given collate "C") from sql_diffusion.scheduler_names() n where n.given = n.name or n.given not in (lower(n.class_name collate "C"), lower(replace(n.class_name, 'Scheduler', '') collate "C")))),
                                     'Or diffusers'' name of its class, or settings: {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": true}.') then '' end);
end;
comment on function sql_diffusion.scheduler_name(text) is
  'The short name of a scheduler, of such a name, its class in diffusers (EulerDiscreteScheduler) or settings in JSON that name the class; an error (22023) that lists all for anything else.';

create function sql_diffusion.scheduler_config(config jsonb, scheduler text default null) returns jsonb
language sql immutable parallel safe
begin atomic
  with given as (
    select case when ltrim(scheduler) like '{%' then scheduler::jsonb - '_class_name' else '{}' end as settings,
           coalesce(case when ltrim(scheduler) like '{%' then scheduler::jsonb ->> '_class_name' else scheduler end, config ->> '_class_name') as name
    where jsonb_typeof(config) = 'object'
  ),
  chosen as materialized (
    select g.settings, g.name, sql_diffusion.scheduler_of(n.class_name) as is
    from given g
         left join sql_diffusion.scheduler_names() n on n.given = lower(g.name collate "C")
    where n.name is not null
       or sql_diffusion.scheduler_name(g.name) is not null
  ),
  unknown as (
    select setting.key
    from chosen c, jsonb_object_keys(c.settings) setting (key)
    where not (c.is).defaults ? setting.key
    order by setting.key
    limit 1
  ),
  complete as materialized (
    select (c.is).class_name, c.settings, (c.is).defaults,
           (c.is).defaults
           || (select coalesce(jsonb_object_agg(e.key, e.value), '{}') from jsonb_each(config) e where (c.is).defaults ? e.key)
           || coalesce((c.is).aliases -> lower(c.name collate "C"), '{}') || c.settings || jsonb_build_object('_class_name', (c.is).class_name) as config
    from chosen c
  ),
  -- What is asked for and would do nothing: settings that go with others, and those that diffusers' classes have and do not look at.
  unused as (
    select u.setting, u.needs
    from complete c,
         (values ('clip_sample_range', '{clip_sample}'::text[]), ('dynamic_thresholding_ratio', '{thresholding}'), ('sample_max_value', '{thresholding}'),
                 ('sigma_max', '{use_karras_sigmas,use_exponential_sigmas}'), ('sigma_min', '{use_karras_sigmas,use_exponential_sigmas}'),
                 ('flow_shift', '{}'), ('set_alpha_to_one', '{}'), ('steps_offset', '{}'), ('timestep_spacing', '{}')) u (setting, needs)
    where c.settings ? u.setting
      and c.settings -> u.setting <> c.defaults -> u.setting
      and (u.setting not in ('set_alpha_to_one', 'steps_offset', 'timestep_spacing') or c.class_name in ('LCMScheduler', 'TCDScheduler'))
      and not exists (select from unnest(u.needs) w where c.config -> w = 'true')
    order by u.setting collate "C"
    limit 1
  )
  select coalesce(
    (select case
              when u.key is not null
              then case when not sql_diffusion.fail(format('scheduler: %s has no setting %s', c.class_name, u.key),
                                          'Its settings are ' || (select string_agg(d.key, ', ' order by d.key) from jsonb_object_keys(c.defaults) d (key)) || '.')
                        then '{}'::jsonb end
              when n.setting is not null
              then case when not sql_diffusion.fail(format('scheduler: setting %s is %s, but %s does not use it%s', n.setting, c.settings -> n.setting, c.class_name,
                                                           case when n.needs <> '{}' then ' without ' || array_to_string(n.needs, ' or ') end))
                        then '{}'::jsonb end
              else c.config
            end
     from complete c
          left join unknown u on true
          left join unused n on true),
    config);
end;
comment on function sql_diffusion.scheduler_config(jsonb, text) is
  'The complete configuration of a scheduler, as diffusers'' from_config makes it: the class''s defaults, over them what a model''s scheduler configuration says of these settings, '
  'over that what scheduler says. scheduler: a short name, a class, settings in JSON with or without _class_name, or NULL for the model''s own. Errors: 22023 for an unknown scheduler or setting, and for one that is given and does nothing.';

create function sql_diffusion.check_scheduler(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with known as (
    select jsonb_typeof(config) = 'object' and config ->> '_class_name' in (select n.class_name from sql_diffusion.scheduler_names() n) as is_known
  ),
  complete as (
    select case when k.is_known then sql_diffusion.scheduler_config(config) else config end as config
    from known k
  ),
  -- Settings that a class does not have, it ignores, as in diffusers.
  rules as (
    select array_agg(array[r.setting, r.expected, r.predicate] order by r.ordinal) as rules
    from (
      select 0 as ordinal, '_class_name' as setting,
             (select string_agg(distinct to_json(n.class_name)::text, ', ') from sql_diffusion.scheduler_names() n) as expected,
             (select string_agg(distinct '$ == ' || to_json(n.class_name)::text, ' || ') from sql_diffusion.scheduler_names() n) as predicate
      union all
      select i, common.rules[i][1], common.rules[i][2], common.rules[i][3]
      from known k, complete c,
           (values (array[
             ['num_train_timesteps', 'an integer from 1 to 100000', '$ >= 1 && $ <= 100000 && $.floor() == $'],
             ['beta_schedule', '"linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid"',
               '$ == "linear" || $ == "scaled_linear" || $ == "squaredcos_cap_v2" || $ == "sigmoid"'],
             ['beta_start', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
             ['beta_end', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
             ['trained_betas', 'null or a list of numbers above 0 and below 1',
               '$ == null || ($.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ <= 0 || @ >= 1)))'],
             ['clip_sample', 'a boolean', '$ == true || $ == false'],
             ['clip_sample_range', 'a positive number', '$ > 0'],
             ['prediction_type', '"epsilon", "sample" or "v_prediction"', '$ == "epsilon" || $ == "sample" || $ == "v_prediction"'],
             ['thresholding', 'a boolean', '$ == true || $ == false'],
             ['dynamic_thresholding_ratio', 'a number from 0 to 1', '$ >= 0 && $ <= 1'],
             ['sample_max_value', 'a positive number', '$ > 0'],
             ['timestep_spacing', '"leading", "trailing" or "linspace"', '$ == "leading" || $ == "trailing" || $ == "linspace"'],
             ['steps_offset', 'an integer from 0 to 100000', '$ >= 0 && $ <= 100000 && $.floor() == $'],
             ['rescale_betas_zero_snr', 'a boolean', '$ == true || $ == false'],
             ['set_alpha_to_one', 'a boolean', '$ == true || $ == false'],
             ['use_karras_sigmas', 'a boolean', '$ == true || $ == false || $ == null'],
             ['use_exponential_sigmas', 'a boolean', '$ == true || $ == false || $ == null'],
             ['use_beta_sigmas', 'false', '$ == false || $ == null'],
             ['use_flow_sigmas', 'false', '$ == false'],
             ['interpolation_type', '"linear" or "log_linear"', '$ == "linear" || $ == "log_linear"'],
             ['final_sigmas_type', '"zero" or "sigma_min"', '$ == "zero" || $ == "sigma_min"'],
             ['lower_order_final', 'a boolean', '$ == true || $ == false'],
             ['sigma_min', 'null or a positive number', '$ == null || $ > 0'],
             ['sigma_max', 'null or a positive number', '$ == null || $ > 0'],
             ['original_inference_steps', 'an integer from 1 to 100000', '$ >= 1 && $ <= 100000 && $.floor() == $']
           ])) common (rules),
           generate_subscripts(common.rules, 1) as i
      where k.is_known
        and c.config ? common.rules[i][1]
      union all
      select 1000 + i, own.rules[i][1], own.rules[i][2], own.rules[i][3]
      from known k, complete c,
           lateral (select (sql_diffusion.scheduler_of(c.config ->> '_class_name')).rules) own,
           generate_subscripts(own.rules, 1) as i
      where k.is_known
    ) r
  )
  select sql_diffusion.check_settings('scheduler', c.config, r.rules)
         and case
               when (c.config ->> 'use_karras_sigmas')::boolean and (c.config ->> 'use_exponential_sigmas')::boolean
               then sql_diffusion.fail('scheduler: settings use_karras_sigmas and use_exponential_sigmas are both true, expected one of them', errcode => '0A000')
               when jsonb_typeof(c.config -> 'trained_betas') = 'array' and jsonb_array_length(c.config -> 'trained_betas') <> (c.config ->> 'num_train_timesteps')::int
               then sql_diffusion.fail(format('scheduler: setting trained_betas has %s numbers, expected %s, the num_train_timesteps',
                                              jsonb_array_length(c.config -> 'trained_betas'), c.config ->> 'num_train_timesteps'), errcode => '0A000')
               else true
             end
  from complete c, rules r;
end;
comment on function sql_diffusion.check_scheduler(jsonb) is
  'True for a scheduler''s configuration whose every setting is supported, otherwise an error (0A000) that names the first that is not. The table models checks its rows with it.';

create function sql_diffusion.check_pipeline(pipeline text) returns boolean
language sql immutable parallel safe
return case
         when pipeline in ('DDPMPipeline', 'DDIMPipeline', 'PNDMPipeline', 'LDMPipeline', 'StableDiffusionPipeline', 'StableDiffusionImg2ImgPipeline', 'StableDiffusionInpaintPipeline', 'StableDiffusionUpscalePipeline',
                           'StableDiffusionXLPipeline', 'StableDiffusionXLImg2ImgPipeline', 'StableDiffusionXLInpaintPipeline', 'LatentConsistencyModelPipeline', 'LatentConsistencyModelImg2ImgPipeline', 'LDMSuperResolutionPipeline',
                           'GPT2LMHeadModel') then true
         else sql_diffusion.fail(format('pipeline %s is not supported, expected DDPMPipeline, DDIMPipeline, PNDMPipeline, LDMPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, LatentConsistencyModelPipeline, one of those for pictures that begin with a picture, StableDiffusionUpscalePipeline, LDMSuperResolutionPipeline or GPT2LMHeadModel', coalesce(pipeline, 'null')), errcode => '0A000')
       end;
comment on function sql_diffusion.check_pipeline(text) is 'True for a pipeline''s class that can be run, otherwise an error (0A000).';

create function sql_diffusion.check_defaults(defaults jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_known_settings('defaults', defaults, '{"scheduler": null, "num_inference_steps": null, "timesteps": null, "guidance_scale": null, "force_zeros_for_empty_prompt": null, "low_res_scheduler": null, "max_noise_level": null}'),
         sql_diffusion.check_settings('defaults', '{"scheduler": null, "num_inference_steps": null, "timesteps": null, "guidance_scale": null, "force_zeros_for_empty_prompt": null, "low_res_scheduler": null, "max_noise_level": null}' || defaults, array[
           ['scheduler', (select string_agg(distinct to_json(n.name)::text, ', ') from sql_diffusion.scheduler_names() n) || ' or null',
             '$ == null || ' || (select string_agg(distinct '$ == ' || to_json(n.name)::text, ' || ') from sql_diffusion.scheduler_names() n)],
           ['num_inference_steps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['timesteps', 'a list of integers or null', '$ == null || ($.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 0 || @.floor() != @)))'],
           ['guidance_scale', 'a number of at least 0 or null', '$ == null || $ >= 0'],
           ['force_zeros_for_empty_prompt', 'a boolean or null', '$ == null || $ == true || $ == false'],
           ['low_res_scheduler', 'an object or null', '$ == null || $.type() == "object"'],
           ['max_noise_level', 'an integer of at least 0 or null', '$ == null || ($ >= 0 && $.floor() == $)']
         ]),
         case when jsonb_typeof(defaults -> 'low_res_scheduler') = 'object' then sql_diffusion.check_scheduler(defaults -> 'low_res_scheduler') end;
  select true;
end;
comment on function sql_diffusion.check_defaults(jsonb) is
  'True for a model''s defaults, otherwise an error (0A000) that names what is wrong. The table models checks its rows with it.';

alter table sql_diffusion.models
  add constraint models_pipeline_supported check (sql_diffusion.check_pipeline(pipeline)),
  add constraint models_scheduler_supported check (case when scheduler is null then pipeline = 'GPT2LMHeadModel' else sql_diffusion.check_scheduler(scheduler) end),
  add constraint models_defaults_supported check (sql_diffusion.check_defaults(defaults));

create function sql_diffusion.noise_schedule_core(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language sql immutable strict parallel safe rows 1000
begin atomic
  with setting as (
    select (c ->> 'num_train_timesteps')::int as steps,
           case when jsonb_typeof(c -> 'trained_betas') = 'array' then 'trained' else c ->> 'beta_schedule' end as kind,
           c -> 'trained_betas' as trained_betas,
           (c ->> 'beta_start')::double precision as beta_start,
           (c ->> 'beta_end')::double precision as beta_end,
           coalesce((c ->> 'rescale_betas_zero_snr')::boolean, false) as rescaled
    from (values (config)) complete (c)
  ),
  betas (timestep, beta) as (
    select line.i, line.value
    from setting s, sql_diffusion.linspace(s.beta_start, s.beta_end, s.steps) line
    where s.kind = 'linear'
    union all
    select line.i, line.value * line.value
    from setting s, sql_diffusion.linspace(sqrt(s.beta_start), sqrt(s.beta_end), s.steps) line
    where s.kind = 'scaled_linear'
    union all
    -- Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), equation 17: alpha_cumprod falls as a squared cosine.
    select t, least(1 - cos(((t + 1) / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2
                      / cos((t / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2, 0.999)::real
    from setting s, generate_series(0, s.steps - 1) as t
    where s.kind = 'squaredcos_cap_v2'
    union all
    -- GeoDiff (arXiv 2203.02923): beta rises as a sigmoid.
    select line.i, (1 / (1 + exp(-line.value::double precision)))::real * (s.beta_end - s.beta_start)::real + s.beta_start::real
    from setting s, sql_diffusion.linspace(-6, 6, s.steps) line
    where s.kind = 'sigmoid'
    union all
    select (b.ordinality - 1)::int, b.beta::real
    from setting s, jsonb_array_elements_text(s.trained_betas) with ordinality b (beta)
    where s.kind = 'trained'
  ),
  -- Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), algorithm 1: shifted and scaled, so that nothing is left at the end.
  roots as (
    select b.timestep, sqrt((sql_diffusion.product((1::real - b.beta)::double precision) over (order by b.timestep))::real)::real as root
    from betas b, setting s
    where s.rescaled
  ),
  shifted as (
    select r.timestep, (r.root - e.last) * (e.first / (e.first - e.last)) as root
    from roots r,
         (select (array_agg(r.root order by r.timestep))[1] as first, (array_agg(r.root order by r.timestep desc))[1] as last from roots r) e
  ),
  rescaled as (
    select b.timestep, b.beta
    from betas b, setting s
    where not s.rescaled
    union all
    select r.timestep, 1::real - r.root * r.root / coalesce(lag(r.root * r.root) over (order by r.timestep), 1)
    from shifted r
  )
  select b.timestep, b.beta, (sql_diffusion.product((1::real - b.beta)::double precision) over (order by b.timestep))::real
  from rescaled b
  order by b.timestep;
end;
comment on function sql_diffusion.noise_schedule_core(jsonb) is 'noise_schedule of a configuration that is complete and checked.';

create function sql_diffusion.noise_schedule(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language sql immutable strict parallel safe rows 1000
begin atomic
  select sql_diffusion.check_scheduler(config);
  select n.timestep, n.beta, n.alpha_cumprod
  from sql_diffusion.noise_schedule_core(sql_diffusion.scheduler_config(config)) n;
end;
comment on function sql_diffusion.noise_schedule(jsonb) is
  'The noise that training added, of a scheduler''s configuration: for each timestep its beta (the variance of the noise added there) and alpha_cumprod, the share of the '
  'picture''s variance that is left, the product of 1 - beta up to there. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), equations 2 and 4.';
create function sql_diffusion.check_timesteps(config jsonb, num_inference_steps int, timesteps int[], eta real) returns boolean
language sql immutable parallel safe
begin atomic
  with setting as (
    select (config ->> 'num_train_timesteps')::int as train_steps
  )
  select case
           when num_inference_steps is not null and timesteps is not null
           then sql_diffusion.fail('num_inference_steps and timesteps are both given, expected one of them')
           when num_inference_steps is null and timesteps is null
           then sql_diffusion.fail('num_inference_steps and timesteps are both null, expected one of them')
           when num_inference_steps not between 1 and s.train_steps
           then sql_diffusion.fail(format('num_inference_steps is %s, expected from 1 to %s, the training steps', num_inference_steps, s.train_steps))
           when timesteps is not null and array_ndims(timesteps) is distinct from 1
           then sql_diffusion.fail(format('timesteps has %s dimensions, expected 1', coalesce(array_ndims(timesteps), 0)))
           when array_position(timesteps, null) is not null
           then sql_diffusion.fail('timesteps has a null element')
           when exists (select from unnest(timesteps) t where t not between 0 and s.train_steps - 1)
           then sql_diffusion.fail(format('timesteps has %s, expected from 0 to %s',
                                                     (select t from unnest(timesteps) t where t not between 0 and s.train_steps - 1 limit 1), s.train_steps - 1))
           when exists (select from (select t.t, lag(t.t) over (order by t.ordinality) as before from unnest(timesteps) with ordinality t (t)) pair where pair.t >= pair.before)
           then sql_diffusion.fail(format('timesteps is %s, expected descending numbers', timesteps))
           when not eta between 0 and 1
           then sql_diffusion.fail(format('eta is %s, expected from 0 to 1', eta))
           else true
         end
  from setting s;
end;
comment on function sql_diffusion.check_timesteps(jsonb, int, int[], real) is
  'True for steps that a schedule can be made of, otherwise an error (22023) that names the argument.';

create function sql_diffusion.schedule_of(config jsonb, num_inference_steps int, timesteps int[], eta real, strength double precision)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select sql_diffusion.check_scheduler(config),
         sql_diffusion.check_timesteps(config, num_inference_steps, timesteps, eta),
         case
           when timesteps is not null and (config ->> 'use_karras_sigmas')::boolean
           then sql_diffusion.fail('timesteps are given, expected num_inference_steps, because use_karras_sigmas chooses the timesteps')
           when timesteps is not null and (config ->> 'use_exponential_sigmas')::boolean
           then sql_diffusion.fail('timesteps are given, expected num_inference_steps, because use_exponential_sigmas chooses the timesteps')
           when eta <> 0 and not (sql_diffusion.scheduler_of(config ->> '_class_name')).uses_eta
           then sql_diffusion.fail(format('eta is %s, but the scheduler %s does not use it', eta, sql_diffusion.scheduler_name(config ->> '_class_name')),
                                   'These do: ' || (select string_agg(s.name, ', ' order by s.name) from sql_diffusion.schedulers() s where s.uses_eta) || '.')
           when strength is null or not (strength > 0 and strength <= 1) or floor(strength * coalesce(num_inference_steps, cardinality(timesteps))) < 1
           then sql_diffusion.fail(format('strength is %s, expected from %s to 1: at least one of %s steps', coalesce(strength::text, 'null'),
                                          round(1 / coalesce(num_inference_steps, cardinality(timesteps))::numeric, 3), coalesce(num_inference_steps, cardinality(timesteps))))
         end;
  with passes as materialized (
    select (r).step, (r).timestep, r
    from (select coalesce(num_inference_steps, cardinality(timesteps)) as steps) count,
         lateral sql_diffusion.scheduler_rows(
           config, (select array_agg(n.alpha_cumprod order by n.timestep) from sql_diffusion.noise_schedule_core(config) n),
           num_inference_steps, timesteps, eta, count.steps - least(floor(strength * count.steps)::int, count.steps)) r
  )
  select r.r
  from passes r
  where r.timestep < (config ->> 'num_train_timesteps')::int
     or r.timestep is null
     or sql_diffusion.fail(format('scheduler: steps_offset leads to timestep %s, expected at most %s', r.timestep, (config ->> 'num_train_timesteps')::int - 1), errcode => '0A000')
  order by r.step;
end;
comment on function sql_diffusion.schedule_of(jsonb, int, int[], real, double precision) is 'scheduler_timesteps of a complete configuration, which it checks.';

create function sql_diffusion.scheduler_timesteps(config jsonb, scheduler text default null, num_inference_steps int default null, timesteps int[] default null,
    eta real default null, strength double precision default 1)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
begin atomic
  select s
  from sql_diffusion.schedule_of(sql_diffusion.scheduler_config(config, scheduler), num_inference_steps, timesteps, eta, strength) s;
end;
comment on function sql_diffusion.scheduler_timesteps(jsonb, text, int, int[], real, double precision) is
  'A schedule, one row a pass of the network, for a number of steps or for explicit timesteps (descending). config: a scheduler''s configuration, such as a model has; scheduler: another scheduler or '
  'settings to lay over it (see scheduler_config). eta (0 to 1): the share of fresh noise in ddim, the gamma of tcd; NULL for diffusers'' default. strength: the share of the steps that are taken, the last ones, '
  'of a picture that is changed. Errors: 22023 for wrong steps or an unknown scheduler, 0A000 for an unsupported setting.';

create function sql_diffusion.scheduler_step(model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step, memory real[] default null,
    out prev_sample real[], out pred_original_sample real[], out next_memory real[])
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'scheduler_step: sample'),
         sql_diffusion.check_tensor(model_output, 'scheduler_step: model_output'),
         case when (step).least_log_noise is null and array_length(model_output, 1) is distinct from 2 * array_length(sample, 1)
              then sql_diffusion.check_same_shape(model_output, sample, 'scheduler_step: model_output', 'sample')
              when sql_diffusion.shape(model_output) is distinct from array_prepend(2 * array_length(sample, 1), (sql_diffusion.shape(sample))[2:])
              then sql_diffusion.fail(format('scheduler_step: model_output has shape %s, expected %s: twice the channels of sample, the output and the variance',
                                             sql_diffusion.shape(model_output), array_prepend(2 * array_length(sample, 1), (sql_diffusion.shape(sample))[2:]))) end,
         case when coalesce(abs((step).original_from_sample) + abs((step).original_from_output) + abs((step).original_coefficient) + abs((step).sample_coefficient)
                            + abs((step).output_coefficient) + abs((step).noise_coefficient), 'infinity') >= 'infinity'
                   or coalesce(abs((step).least_log_noise), 0) + coalesce(abs((step).greatest_log_noise), 0) >= 'infinity'
                   or ((step).least_log_noise is null) <> ((step).greatest_log_noise is null)
                   or (step).draws_noise is null or not coalesce((step).clip_range >= 0, true)
                   or not coalesce((step).threshold_ratio between 0 and 1 and (step).threshold_max > 0, (step).threshold_ratio is null)
                   or coalesce(cardinality((step).memory_coefficients), 9) > 5
                   or cardinality((step).memory_update) is distinct from cardinality((step).memory_coefficients) * (cardinality((step).memory_coefficients) + 3)
                   or array_length((step).memory_update, 1) <> cardinality((step).memory_coefficients)
                   or coalesce((select sum(abs(c)) from unnest((step).memory_coefficients || array(select unnest((step).memory_update))) c), 0) >= 'infinity'
                   or array_position((step).memory_coefficients || array(select unnest((step).memory_update)), null) is not null then
           sql_diffusion.fail(format('scheduler_step: step is %s, expected a row of scheduler_timesteps', coalesce(step::text, 'null')))
         end;
  select case when (step).draws_noise then sql_diffusion.check_tensor(noise, 'scheduler_step: noise') end,
         case when (step).draws_noise then sql_diffusion.check_same_shape(noise, sample, 'scheduler_step: noise', 'sample') end,
         case when memory is not null and sql_diffusion.shape(memory) is distinct from cardinality((step).memory_coefficients) || sql_diffusion.shape(sample)
              then sql_diffusion.fail(format('scheduler_step: memory has shape %s, expected %s', coalesce(sql_diffusion.shape(memory)::text, '{}'),
                                             cardinality((step).memory_coefficients) || sql_diffusion.shape(sample))) end,
         sql_diffusion.check_values(sample, 'scheduler_step: sample'),
         sql_diffusion.check_values(model_output, 'scheduler_step: model_output'),
         case when (step).draws_noise then sql_diffusion.check_values(noise, 'scheduler_step: noise') end,
         case when memory is not null then sql_diffusion.check_values(memory, 'scheduler_step: memory') end;
  with remembered as materialized (
    select array(select unnest(memory)) as flat, cardinality(sample) as n, array_length(model_output, 1) > array_length(sample, 1) as predicts_variance
  ),
  element as (
    select unnest(sample) as x,
           unnest(case when r.predicts_variance then model_output[1 : array_length(sample, 1)] else model_output end) as output,
           unnest(case when (step).least_log_noise is not null then model_output[array_length(sample, 1) + 1 :] end) as variance,
           unnest(case when (step).draws_noise then noise else array_fill(0::real, array[r.n]) end) as noise,
           unnest(r.flat[1 : r.n]) as memory_1,
           unnest(r.flat[r.n + 1 : 2 * r.n]) as memory_2,
           unnest(r.flat[2 * r.n + 1 : 3 * r.n]) as memory_3,
           unnest(r.flat[3 * r.n + 1 : 4 * r.n]) as memory_4,
           unnest(r.flat[4 * r.n + 1 : 5 * r.n]) as memory_5
    from remembered r
  ),
  guess as (
    select e.x, e.output, e.variance, e.noise, e.memory_1, e.memory_2, e.memory_3, e.memory_4, e.memory_5,
           (step).original_from_sample * e.x + (step).original_from_output * e.output as original
    from element e
  ),
  -- Dynamic thresholding, Imagen (arXiv 2205.11487), section 2.3: clipped where most values end, and scaled to within -1 to 1.
  bound as materialized (
    select case when (step).threshold_ratio is not null
                then least(greatest((select percentile_cont((step).threshold_ratio) within group (order by abs(g.original)) from guess g), 1), (step).threshold_max) end as threshold
  ),
  clipped as (
    select g.x, g.output, g.variance, g.noise, g.memory_1, g.memory_2, g.memory_3, g.memory_4, g.memory_5,
           -- Clipping keeps the guess in the range of pictures; least and greatest pass over a NULL range.
           greatest(least(g.original, coalesce(b.threshold, (step).clip_range)), -coalesce(b.threshold, (step).clip_range)) / coalesce(b.threshold, 1) as original
    from guess g, bound b
  ),
  updated as (
    select array_agg(c.original::real) as original,
           array_agg(((step).original_coefficient * c.original
                                 + (step).sample_coefficient * c.x
                                 + (step).output_coefficient * c.output
                                 + case when c.variance is null then (step).noise_coefficient
                                        else exp(least(greatest(((step).least_log_noise * (1 - c.variance) + (step).greatest_log_noise * (1 + c.variance)) / 2, -700), 700)) end * c.noise
                                 + coalesce((step).memory_coefficients[1] * c.memory_1, 0)
                                 + coalesce((step).memory_coefficients[2] * c.memory_2, 0)
                                 + coalesce((step).memory_coefficients[3] * c.memory_3, 0)
                                 + coalesce((step).memory_coefficients[4] * c.memory_4, 0)
                                 + coalesce((step).memory_coefficients[5] * c.memory_5, 0))::real) as prev
    from clipped c
  ),
  kept as (
    select array(select unnest(array_agg(
             (select array_agg(((step).memory_update[k][1] * c.original
                                           + (step).memory_update[k][2] * c.x
                                           + (step).memory_update[k][3] * c.output
                                           + coalesce((step).memory_update[k][4] * c.memory_1, 0)
                                           + coalesce((step).memory_update[k][5] * c.memory_2, 0)
                                           + coalesce((step).memory_update[k][6] * c.memory_3, 0)
                                           + coalesce((step).memory_update[k][7] * c.memory_4, 0)
                                           + coalesce((step).memory_update[k][8] * c.memory_5, 0))::real)
              from clipped c) order by k))) as memory
    from generate_subscripts((step).memory_update, 1) as k
  )
  select sql_diffusion.with_shape(u.prev, sql_diffusion.shape(sample)),
         sql_diffusion.with_shape(u.original, sql_diffusion.shape(sample)),
         case when cardinality((step).memory_coefficients) > 0
              then sql_diffusion.with_shape(k.memory, cardinality((step).memory_coefficients) || sql_diffusion.shape(sample)) end
  from updated u, kept k;
end;
comment on function sql_diffusion.scheduler_step(real[], real[], real[], sql_diffusion.schedule_step, real[]) is
  'One update of a sampler: from the network''s output, the sample, fresh noise (all of one shape; noise may be NULL where the step draws none) and what the step before gave to remember '
  '(that many tensors; NULL at first) to the sample of the previous timestep, the guess of the picture without noise, and what to remember. '
  'The output may have twice the channels, the prediction and behind it what variance_type learned_range goes by. The sums are those of the row: see schedule_step. Ho et al. (arXiv 2006.11239) equations 7 and 15; Song et al. (arXiv 2010.02502) equation 12; each scheduler''s own.';

create function sql_diffusion.add_noise_at(original real[], noise real[], step sql_diffusion.schedule_step) returns real[]
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(original, 'add_noise_at: original'),
         sql_diffusion.check_tensor(noise, 'add_noise_at: noise'),
         sql_diffusion.check_same_shape(noise, original, 'add_noise_at: noise', 'original'),
         sql_diffusion.check_values(original, 'add_noise_at: original'),
         sql_diffusion.check_values(noise, 'add_noise_at: noise'),
         case when coalesce(abs((step).added_original) + abs((step).added_noise), 'infinity') >= 'infinity'
              then sql_diffusion.fail(format('add_noise_at: step is %s, expected a row of scheduler_timesteps', coalesce(step::text, 'null'))) end;
  select sql_diffusion.with_shape(
           (select array_agg(((step).added_original * e.original + (step).added_noise * e.noise)::real)
            from (select unnest(original) as original, unnest(noise) as noise) e),
           sql_diffusion.shape(original));
end;
comment on function sql_diffusion.add_noise_at(real[], real[], sql_diffusion.schedule_step) is
  'A picture (values -1 to 1) with as much noise as sampling that begins at this row of a schedule expects. Ho et al. (arXiv 2006.11239), equation 4.';

create function sql_diffusion.training_timestep(model text, timestep int) returns sql_diffusion.schedule_step
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model);
  select s
  from sql_diffusion.models m,
       lateral sql_diffusion.scheduler_timesteps(m.scheduler, 'ddpm', timesteps => array[timestep]) s
  where m.name = training_timestep.model;
end;
comment on function sql_diffusion.training_timestep(text, int) is
  'The step from one timestep of a model''s training straight to the picture. Errors: 42704 unknown model, 22023 for a timestep outside the training steps.';

create function sql_diffusion.add_noise(original real[], noise real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(original, 'add_noise: original'),
         sql_diffusion.check_tensor(noise, 'add_noise: noise'),
         sql_diffusion.check_same_shape(noise, original, 'add_noise: noise', 'original'),
         sql_diffusion.check_values(original, 'add_noise: original'),
         sql_diffusion.check_values(noise, 'add_noise: noise'),
         sql_diffusion.training_timestep(model, timestep);
  select sql_diffusion.with_shape(
           (select array_agg((sqrt(n.alpha_cumprod)::real * e.original + sqrt(1::real - n.alpha_cumprod)::real * e.noise)::real)
            from (select unnest(original) as original, unnest(noise) as noise) e),
           sql_diffusion.shape(original))
  from sql_diffusion.models m,
       lateral sql_diffusion.noise_schedule(m.scheduler) n
  where m.name = add_noise.model
    and n.timestep = add_noise.timestep;
end;
comment on function sql_diffusion.add_noise(real[], real[], int, text) is
  'The forward process in one go: a picture (values -1 to 1) after the noising of this timestep (0 to the training steps less one), with noise of the same shape. '
  'The reparameterization trick: Ho et al. (arXiv 2006.11239), equation 4.';

create function sql_diffusion.predict_original_sample(model_output real[], sample real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'predict_original_sample: sample');
  select (sql_diffusion.scheduler_step(model_output, sample, array_fill(0::real, sql_diffusion.shape(sample)),
                                       sql_diffusion.training_timestep(model, timestep))).pred_original_sample;
end;
comment on function sql_diffusion.predict_original_sample(real[], real[], int, text) is
  'The guess of the picture without noise, in one step, from the network''s output for a sample at a timestep; clipped where the scheduler clips. '
  'Ho et al. (arXiv 2006.11239), equation 15.';
