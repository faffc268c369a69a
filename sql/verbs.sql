-- What people type. These live in the schema that CREATE EXTENSION names.

create function sql_diffusion.choose_backend(backend text) returns text
language sql stable parallel safe
begin atomic
  with wanted as (
    select coalesce(backend, nullif(current_setting('sql_diffusion.backend', true), ''), 'auto') as name
  ),
  server as (
    select exists (select from pg_extension e where e.extname = 'sql_diffusion_numpy') as has_numpy,
           exists (select from pg_extension e where e.extname = 'sql_diffusion') as is_extension
  )
  select case
           when w.name not in ('auto', 'sql', 'numpy', 'torch')
           then sql_diffusion.fail(format('backend is %L, expected auto, sql, numpy or torch', w.name))::text
           when w.name in ('numpy', 'torch') and not s.has_numpy
           then sql_diffusion.fail(format('backend is %L, but the extension sql_diffusion_numpy is not installed', w.name),
                                   case when s.is_extension then 'A superuser installs it: CREATE EXTENSION sql_diffusion_numpy CASCADE.'
                                        else 'What the plain script made becomes an extension first, which the other one requires: CREATE EXTENSION sql_diffusion VERSION ''unpackaged''; ALTER EXTENSION sql_diffusion UPDATE.' end,
                                   '55000')::text
           when w.name = 'auto'
           then case when s.has_numpy then 'numpy' else 'sql' end
           else w.name
         end
  from wanted w, server s;
end;
comment on function sql_diffusion.choose_backend(text) is
  'sql, numpy or torch: the backend that is asked for, else the setting sql_diffusion.backend, else auto, which is numpy where that extension is installed.';

-- The other extension may not be there. SQL in a string binds names when it is called, so what it names need not exist before; and
-- a function that stands in the list of a SELECT gives its rows one by one, where one in FROM gives none before the last is made. What
-- may lead to PL/Python is parallel unsafe: before PostgreSQL 17 that cannot run a query in a parallel plan.
set local check_function_bodies to off;

create function sql_diffusion.numpy_steps(seed bigint, model text, num_inference_steps int, timesteps int[], scheduler text, eta real, class_label int, torch boolean)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
as $$
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_numpy.ddpm_steps(numpy_steps.seed, numpy_steps.model, numpy_steps.num_inference_steps, numpy_steps.timesteps, numpy_steps.scheduler, numpy_steps.eta, numpy_steps.class_label) as row
        where not numpy_steps.torch
        offset 0) s
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_torch.ddpm_steps(numpy_steps.seed, numpy_steps.model, numpy_steps.num_inference_steps, numpy_steps.timesteps, numpy_steps.scheduler, numpy_steps.eta, numpy_steps.class_label) as row
        where numpy_steps.torch
        offset 0) s
$$;
comment on function sql_diffusion.numpy_steps(bigint, text, int, int[], text, real, int, boolean) is 'Calls ddpm_steps of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_generate(seeds bigint[], model text, num_inference_steps int, timesteps int[], scheduler text, eta real, class_label int, torch boolean)
  returns table (seed bigint, image real[])
language sql stable parallel unsafe rows 10
as $$
  select (g.row).seed, (g.row).image
  from (select sql_diffusion_numpy.ddpm_generate(numpy_generate.seeds, numpy_generate.model, numpy_generate.num_inference_steps, numpy_generate.timesteps, numpy_generate.scheduler, numpy_generate.eta, numpy_generate.class_label) as row
        where not numpy_generate.torch
        offset 0) g
  union all
  select (g.row).seed, (g.row).image
  from (select sql_diffusion_torch.ddpm_generate(numpy_generate.seeds, numpy_generate.model, numpy_generate.num_inference_steps, numpy_generate.timesteps, numpy_generate.scheduler, numpy_generate.eta, numpy_generate.class_label) as row
        where numpy_generate.torch
        offset 0) g
$$;
comment on function sql_diffusion.numpy_generate(bigint[], text, int, int[], text, real, int, boolean) is 'Calls ddpm_generate of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_text_steps(prompt text, seed bigint, model text, negative_prompt text, num_inference_steps int, guidance_scale real, height int, width int, scheduler text, timesteps int[], eta real, guidance_rescale real, clip_skip int, torch boolean)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
as $$
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_numpy.text_to_image_steps(numpy_text_steps.prompt, numpy_text_steps.seed, numpy_text_steps.model, numpy_text_steps.negative_prompt, numpy_text_steps.num_inference_steps, numpy_text_steps.guidance_scale, numpy_text_steps.height, numpy_text_steps.width, numpy_text_steps.scheduler, numpy_text_steps.timesteps, numpy_text_steps.eta, numpy_text_steps.guidance_rescale, numpy_text_steps.clip_skip) as row
        where not numpy_text_steps.torch
        offset 0) s
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_torch.text_to_image_steps(numpy_text_steps.prompt, numpy_text_steps.seed, numpy_text_steps.model, numpy_text_steps.negative_prompt, numpy_text_steps.num_inference_steps, numpy_text_steps.guidance_scale, numpy_text_steps.height, numpy_text_steps.width, numpy_text_steps.scheduler, numpy_text_steps.timesteps, numpy_text_steps.eta, numpy_text_steps.guidance_rescale, numpy_text_steps.clip_skip) as row
        where numpy_text_steps.torch
        offset 0) s
$$;
comment on function sql_diffusion.numpy_text_steps(text, bigint, text, text, int, real, int, int, text, int[], real, real, int, boolean) is 'Calls text_to_image_steps of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_text_images(prompts text[], seeds bigint[], model text, negative_prompt text, num_inference_steps int, guidance_scale real, height int, width int, scheduler text, timesteps int[], eta real, guidance_rescale real, clip_skip int, torch boolean)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
as $$
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (select sql_diffusion_numpy.text_to_image(numpy_text_images.prompts, numpy_text_images.seeds, numpy_text_images.model, numpy_text_images.negative_prompt, numpy_text_images.num_inference_steps, numpy_text_images.guidance_scale, numpy_text_images.height, numpy_text_images.width, numpy_text_images.scheduler, numpy_text_images.timesteps, numpy_text_images.eta, numpy_text_images.guidance_rescale, numpy_text_images.clip_skip) as row
        where not numpy_text_images.torch
        offset 0) g
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (select sql_diffusion_torch.text_to_image(numpy_text_images.prompts, numpy_text_images.seeds, numpy_text_images.model, numpy_text_images.negative_prompt, numpy_text_images.num_inference_steps, numpy_text_images.guidance_scale, numpy_text_images.height, numpy_text_images.width, numpy_text_images.scheduler, numpy_text_images.timesteps, numpy_text_images.eta, numpy_text_images.guidance_rescale, numpy_text_images.clip_skip) as row
        where numpy_text_images.torch
        offset 0) g
$$;
comment on function sql_diffusion.numpy_text_images(text[], bigint[], text, text, int, real, int, int, text, int[], real, real, int, boolean) is 'Calls text_to_image of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_redraw_steps(task text, image real[], mask real[], prompt text, seed bigint, model text, strength real, noise_level int, negative_prompt text, num_inference_steps int, guidance_scale real, scheduler text, timesteps int[], eta real, guidance_rescale real, clip_skip int, torch boolean)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
as $$
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_numpy.redraw_steps(numpy_redraw_steps.task, numpy_redraw_steps.image, numpy_redraw_steps.mask, numpy_redraw_steps.prompt, numpy_redraw_steps.seed, numpy_redraw_steps.model, numpy_redraw_steps.strength, numpy_redraw_steps.noise_level, numpy_redraw_steps.negative_prompt, numpy_redraw_steps.num_inference_steps, numpy_redraw_steps.guidance_scale, numpy_redraw_steps.scheduler, numpy_redraw_steps.timesteps, numpy_redraw_steps.eta, numpy_redraw_steps.guidance_rescale, numpy_redraw_steps.clip_skip) as row
        where not numpy_redraw_steps.torch
        offset 0) s
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (select sql_diffusion_torch.redraw_steps(numpy_redraw_steps.task, numpy_redraw_steps.image, numpy_redraw_steps.mask, numpy_redraw_steps.prompt, numpy_redraw_steps.seed, numpy_redraw_steps.model, numpy_redraw_steps.strength, numpy_redraw_steps.noise_level, numpy_redraw_steps.negative_prompt, numpy_redraw_steps.num_inference_steps, numpy_redraw_steps.guidance_scale, numpy_redraw_steps.scheduler, numpy_redraw_steps.timesteps, numpy_redraw_steps.eta, numpy_redraw_steps.guidance_rescale, numpy_redraw_steps.clip_skip) as row
        where numpy_redraw_steps.torch
        offset 0) s
$$;
comment on function sql_diffusion.numpy_redraw_steps(text, real[], real[], text, bigint, text, real, int, text, int, real, text, int[], real, real, int, boolean) is 'Calls redraw_steps of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_redraw(task text, picture real[], mask real[], prompts text[], seeds bigint[], model text, strength real, noise_level int, negative_prompt text, num_inference_steps int, guidance_scale real, scheduler text, timesteps int[], eta real, guidance_rescale real, clip_skip int, torch boolean)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
as $$
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (select sql_diffusion_numpy.redraw(numpy_redraw.task, numpy_redraw.picture, numpy_redraw.mask, numpy_redraw.prompts, numpy_redraw.seeds, numpy_redraw.model, numpy_redraw.strength, numpy_redraw.noise_level, numpy_redraw.negative_prompt, numpy_redraw.num_inference_steps, numpy_redraw.guidance_scale, numpy_redraw.scheduler, numpy_redraw.timesteps, numpy_redraw.eta, numpy_redraw.guidance_rescale, numpy_redraw.clip_skip) as row
        where not numpy_redraw.torch
        offset 0) g
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (select sql_diffusion_torch.redraw(numpy_redraw.task, numpy_redraw.picture, numpy_redraw.mask, numpy_redraw.prompts, numpy_redraw.seeds, numpy_redraw.model, numpy_redraw.strength, numpy_redraw.noise_level, numpy_redraw.negative_prompt, numpy_redraw.num_inference_steps, numpy_redraw.guidance_scale, numpy_redraw.scheduler, numpy_redraw.timesteps, numpy_redraw.eta, numpy_redraw.guidance_rescale, numpy_redraw.clip_skip) as row
        where numpy_redraw.torch
        offset 0) g
$$;
comment on function sql_diffusion.numpy_redraw(text, real[], real[], text[], bigint[], text, real, int, text, int, real, text, int[], real, real, int, boolean) is 'Calls redraw of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_gpt_next(prompt text, model text, top_k int, torch boolean)
  returns table (rank int, token_id int, token text, probability double precision)
language sql stable parallel unsafe rows 50000
as $$
  select (g.row).rank, (g.row).token_id, (g.row).token, (g.row).probability
  from (select sql_diffusion_numpy.gpt_next(numpy_gpt_next.prompt, numpy_gpt_next.model, numpy_gpt_next.top_k) as row
        where not numpy_gpt_next.torch
        offset 0) g
  union all
  select (g.row).rank, (g.row).token_id, (g.row).token, (g.row).probability
  from (select sql_diffusion_torch.gpt_next(numpy_gpt_next.prompt, numpy_gpt_next.model, numpy_gpt_next.top_k) as row
        where numpy_gpt_next.torch
        offset 0) g
$$;
comment on function sql_diffusion.numpy_gpt_next(text, text, int, boolean) is 'Calls gpt_next of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

create function sql_diffusion.numpy_gpt_generate(prompt text, max_new_tokens int, model text, temperature double precision, top_k int, top_p double precision, seed bigint, repetition_penalty double precision, stop text, torch boolean)
  returns table ("position" int, token_id int, token text, text text)
language sql stable parallel unsafe rows 20
as $$
  select (g.row)."position", (g.row).token_id, (g.row).token, (g.row).text
  from (select sql_diffusion_numpy.gpt_generate(numpy_gpt_generate.prompt, numpy_gpt_generate.max_new_tokens, numpy_gpt_generate.model, numpy_gpt_generate.temperature, numpy_gpt_generate.top_k, numpy_gpt_generate.top_p, numpy_gpt_generate.seed, numpy_gpt_generate.repetition_penalty, numpy_gpt_generate.stop) as row
        where not numpy_gpt_generate.torch
        offset 0) g
  union all
  select (g.row)."position", (g.row).token_id, (g.row).token, (g.row).text
  from (select sql_diffusion_torch.gpt_generate(numpy_gpt_generate.prompt, numpy_gpt_generate.max_new_tokens, numpy_gpt_generate.model, numpy_gpt_generate.temperature, numpy_gpt_generate.top_k, numpy_gpt_generate.top_p, numpy_gpt_generate.seed, numpy_gpt_generate.repetition_penalty, numpy_gpt_generate.stop) as row
        where numpy_gpt_generate.torch
        offset 0) g
$$;
comment on function sql_diffusion.numpy_gpt_generate(text, int, text, double precision, int, double precision, bigint, double precision, text, boolean) is 'Calls gpt_generate of schema sql_diffusion_numpy with the same arguments, with torch that of schema sql_diffusion_torch.';

set local check_function_bodies to on;

create function @extschema@.ddpm_steps(seed bigint, class_label int, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.ddpm_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta, class_label) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (
    select sql_diffusion.numpy_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta, class_label, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) s;
end;
comment on function @extschema@.ddpm_steps(bigint, int, text, int, int[], text, real, text) is
  'Watch a picture of a class come out of the noise. class_label: its number, from 0. The rest as without.';

create function @extschema@.ddpm_steps(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from @extschema@.ddpm_steps(seed, null::int, model, num_inference_steps, timesteps, scheduler, eta, backend) s;
end;
comment on function @extschema@.ddpm_steps(bigint, text, int, int[], text, real, text) is
  'Watch a picture come out of the noise: one row a pass of the network as it is done, with the sample it leads to and the guess of the finished one '
  '(channels, height, width, values about -1 to 1; sql_diffusion.denormalize makes a picture of either). Arguments as for ddpm_generate.';

create function @extschema@.ddpm_generate(seeds bigint[], class_label int, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null)
  returns table (seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.seed, g.image
  from sql_diffusion.ddpm_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta, class_label) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).seed, (g.row).image
  from (
    select sql_diffusion.numpy_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta, class_label, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.ddpm_generate(bigint[], int, text, int, int[], text, real, text) is
  'Pictures of a class, of several seeds, one row (seed, image) each, in their order. class_label: its number, from 0. Arguments as for one seed.';

create function @extschema@.ddpm_generate(seeds bigint[], model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null)
  returns table (seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.seed, g.image
  from @extschema@.ddpm_generate(seeds, null::int, model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(bigint[], text, int, int[], text, real, text) is
  'Pictures of several seeds, one row (seed, image) each, in their order; each is the picture that its seed gives alone. Arguments as for one seed.';

create function @extschema@.ddpm_generate(seed bigint, class_label int, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed], class_label, model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(bigint, int, text, int, int[], text, real, text) is
  'A picture of a class, of a model that knows some: ddpm_generate(42, class_label => 3, model => ''...''). class_label: its number, from 0. The rest as without. Errors: 22023 for a class that there is not, and for a '
  'model that knows none.';

create function @extschema@.ddpm_generate(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed], model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(bigint, text, int, int[], text, real, text) is
  'A picture (channels, height, width, values 0 to 1) out of noise. seed: any bigint, the noise is torch''s for it. model: by default the setting sql_diffusion.model, '
  'else the bundled butterflies. num_inference_steps or timesteps (descending): by default the model''s own schedule. scheduler: ddpm, ddim, euler, dpmsolver++ or another of '
  'sql_diffusion.schedulers(), or settings in JSON ({"_class_name": "DPMSolverMultistepScheduler", "use_karras_sigmas": true}). eta: 0 to 1, the share of '
  'fresh noise in ddim, the gamma of tcd. backend: auto, sql, numpy or torch (doc/torch.md). The same picture that the diffusers pipeline makes of that checkpoint and seed, to within one grey level.';

-- A parameter or literal that comes without a type could be a seed or an array of them, and PostgreSQL would choose neither. Where
-- one form takes text, it chooses that one.
create function @extschema@.ddpm_generate(seed text, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed::bigint], model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(text, text, int, int[], text, real, text) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.ddpm_generate(seed text, class_label int, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default null, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed::bigint], class_label, model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(text, int, text, int, int[], text, real, text) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.text_to_image_steps(prompt text, seed bigint, model text default null, negative_prompt text default null, num_inference_steps int default null,
    guidance_scale double precision default null, height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null,
    guidance_rescale double precision default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.text_to_image_steps(prompt, seed, coalesce(model, sql_diffusion.default_text_model()), negative_prompt, num_inference_steps, guidance_scale::real, height, width, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (
    select sql_diffusion.numpy_text_steps(prompt, seed, coalesce(model, sql_diffusion.default_text_model()), negative_prompt, num_inference_steps, guidance_scale::real, height, width, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) s;
end;
comment on function @extschema@.text_to_image_steps(text, bigint, text, text, int, double precision, int, int, text, int[], double precision, text, double precision, int) is
  'Watch a prompt''s picture come out of the noise: one row a pass of the schedule as it is done, with the latent it leads to and the guess of the finished one '
  '(channels, height, width). sql_diffusion.latent_preview is a cheap look at either, sql_diffusion.finished_image a whole one. Arguments as for text_to_image.';

create function @extschema@.text_to_image(prompts text[], seeds bigint[], model text default null, negative_prompt text default null, num_inference_steps int default null,
    guidance_scale double precision default null, height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null,
    guidance_rescale double precision default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.prompt, g.seed, g.image
  from sql_diffusion.text_to_image(prompts, seeds, coalesce(model, sql_diffusion.default_text_model()), negative_prompt, num_inference_steps, guidance_scale::real, height, width, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (
    select sql_diffusion.numpy_text_images(prompts, seeds, coalesce(model, sql_diffusion.default_text_model()), negative_prompt, num_inference_steps, guidance_scale::real, height, width, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.text_to_image(text[], bigint[], text, text, int, double precision, int, int, text, int[], double precision, text, double precision, int) is
  'Pictures of several prompts, each with its seed, one row (prompt, seed, image) each, in their order; each is the picture that they give alone. Arguments as for one prompt.';

create function @extschema@.text_to_image(prompt text, seed bigint, model text default null, negative_prompt text default null, num_inference_steps int default null,
    guidance_scale double precision default null, height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null,
    guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.text_to_image(array[prompt], array[seed], model, negative_prompt, num_inference_steps, guidance_scale, height, width, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.text_to_image(text, bigint, text, text, int, double precision, int, int, text, int[], double precision, text, double precision, int) is
  'A picture (channels, height, width, values 0 to 1) of what the prompt says. seed: any bigint, the noise is torch''s for it. model: by default the setting sql_diffusion.model, else the bundled one that takes a prompt. '
  'negative_prompt: what it is not to show. num_inference_steps or timesteps (descending), scheduler and eta: as for ddpm_generate. guidance_scale (0 or more; 1 for none): how closely it follows the prompt, by default what the '
  'model''s pipeline has (7.5; 5 with sizes; 8.5 of consistency models). height and width in pixels: by default those the model was made for. guidance_rescale (0 to 1): see sql_diffusion.guidance. clip_skip: so many of the '
  'last layers of the text encoder are left out. backend: auto, sql, numpy or torch (doc/torch.md). The same picture that the diffusers pipeline makes of that checkpoint, prompt and seed, to within one grey level.';

create function @extschema@.text_to_image(prompt text, seed text, model text default null, negative_prompt text default null, num_inference_steps int default null,
    guidance_scale double precision default null, height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null,
    guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.text_to_image(array[prompt], array[seed::bigint], model, negative_prompt, num_inference_steps, guidance_scale, height, width, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.text_to_image(text, text, text, text, int, double precision, int, int, text, int[], double precision, text, double precision, int) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.image_to_image_steps(image real[], prompt text, seed bigint, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.redraw_steps('image_to_image', image, null, prompt, seed, coalesce(model, sql_diffusion.default_model(prompt)), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (
    select sql_diffusion.numpy_redraw_steps('image_to_image', image, null, prompt, seed, coalesce(model, sql_diffusion.default_model(prompt)), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) s;
end;
comment on function @extschema@.image_to_image_steps(real[], text, bigint, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'Watch a picture change: one row a pass of the schedule as it is done, with the latent it leads to and the guess of the finished one (channels, height, width). sql_diffusion.latent_preview is a cheap look at either, '
  'sql_diffusion.finished_image a whole one. Arguments as for image_to_image.';

create function @extschema@.image_to_image(picture real[], prompts text[], seeds bigint[], strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.prompt, g.seed, g.image
  from sql_diffusion.redraw('image_to_image', picture, null, prompts, seeds, coalesce(model, sql_diffusion.default_model(prompts[1])), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (
    select sql_diffusion.numpy_redraw('image_to_image', picture, null, prompts, seeds, coalesce(model, sql_diffusion.default_model(prompts[1])), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.image_to_image(real[], text[], bigint[], double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of one picture with several seeds, each with its prompt, one row (prompt, seed, image) each, in their order; each is the picture that they give alone. Arguments as for one seed.';

create function @extschema@.image_to_image(image real[], prompt text, seed bigint, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.image_to_image(image, array[prompt], array[seed], strength, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.image_to_image(real[], text, bigint, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The picture, changed to what the prompt says: its latent is noised as far as strength says, and the steps begin from there (SDEdit, arXiv 2108.01073). image: (channels, height, width), values 0 to 1, as image_from_png gives it, of a size that the model takes (an error says which; image_resize makes it). prompt: NULL for a model that takes none. strength (above 0, to 1): how far it may go from the picture, the share of num_inference_steps that are made; by default 0.8, 0.3 of models that are told sizes. model: by default the setting sql_diffusion.model, else the bundled one that takes a prompt, or without a prompt the bundled butterflies. seed and the other arguments: as for text_to_image. The same picture that diffusers'' StableDiffusionImg2ImgPipeline, StableDiffusionXLImg2ImgPipeline or LatentConsistencyModelImg2ImgPipeline makes, to within one grey level.';

create function @extschema@.image_to_image(image real[], prompt text, seed text, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.image_to_image(image, array[prompt], array[seed::bigint], strength, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.image_to_image(real[], text, text, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.inpaint_steps(image real[], mask real[], prompt text, seed bigint, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.redraw_steps('inpaint', image, mask, prompt, seed, coalesce(model, sql_diffusion.default_model(prompt)), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (
    select sql_diffusion.numpy_redraw_steps('inpaint', image, mask, prompt, seed, coalesce(model, sql_diffusion.default_model(prompt)), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) s;
end;
comment on function @extschema@.inpaint_steps(real[], real[], text, bigint, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'Watch a picture being filled in: one row a pass of the schedule as it is done, with the latent it leads to and the guess of the finished one (channels, height, width). sql_diffusion.latent_preview is a cheap look at either, '
  'sql_diffusion.finished_image a whole one. Arguments as for inpaint.';

create function @extschema@.inpaint(picture real[], mask real[], prompts text[], seeds bigint[], strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.prompt, g.seed, g.image
  from sql_diffusion.redraw('inpaint', picture, mask, prompts, seeds, coalesce(model, sql_diffusion.default_model(prompts[1])), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (
    select sql_diffusion.numpy_redraw('inpaint', picture, mask, prompts, seeds, coalesce(model, sql_diffusion.default_model(prompts[1])), strength::real, null, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.inpaint(real[], real[], text[], bigint[], double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of one picture with several seeds, each with its prompt, one row (prompt, seed, image) each, in their order; each is the picture that they give alone. Arguments as for one seed.';

create function @extschema@.inpaint(image real[], mask real[], prompt text, seed bigint, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.inpaint(image, mask, array[prompt], array[seed], strength, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.inpaint(real[], real[], text, bigint, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The picture, made anew where the mask is white (a grey of a half or more) to what the prompt says. image: (channels, height, width), values 0 to 1, of a size that the model takes (an error says which; image_resize makes it). mask: an image of the same height and width, in grey or colours. prompt: NULL for a model that takes none. A model whose U-Net sees the mask (9 channels) is told of it; for any other the rest of the picture is put back after every step. strength (above 0, to 1): the share of num_inference_steps that are made; by default 1, where the masked part begins as noise alone, and 0.9999 of models that are told sizes. model: as for image_to_image. seed and the other arguments: as for text_to_image. The same picture that diffusers'' StableDiffusionInpaintPipeline or StableDiffusionXLInpaintPipeline makes, to within one grey level: outside of the mask it is what the autoencoder makes of the latent, not the image itself.';

create function @extschema@.inpaint(image real[], mask real[], prompt text, seed text, strength double precision default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.inpaint(image, mask, array[prompt], array[seed::bigint], strength, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.inpaint(real[], real[], text, text, double precision, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.upscale_steps(image real[], seed bigint, prompt text default null, noise_level int default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.redraw_steps('upscale', image, null, prompt, seed, coalesce(model, sql_diffusion.default_model()), null, noise_level, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (s.row).step, (s.row).timestep, (s.row).sample, (s.row).pred_original_sample
  from (
    select sql_diffusion.numpy_redraw_steps('upscale', image, null, prompt, seed, coalesce(model, sql_diffusion.default_model()), null, noise_level, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) s;
end;
comment on function @extschema@.upscale_steps(real[], bigint, text, int, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'Watch a picture become larger: one row a pass of the schedule as it is done, with the latent it leads to and the guess of the finished one (channels, height, width). sql_diffusion.latent_preview is a cheap look at either, '
  'sql_diffusion.finished_image a whole one. Arguments as for upscale.';

create function @extschema@.upscale(picture real[], seeds bigint[], prompts text[] default null, noise_level int default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.prompt, g.seed, g.image
  from sql_diffusion.redraw('upscale', picture, null, case when prompts is null then array(select null::text from unnest(seeds)) else prompts end, seeds, coalesce(model, sql_diffusion.default_model()), null, noise_level, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).prompt, (g.row).seed, (g.row).image
  from (
    select sql_diffusion.numpy_redraw('upscale', picture, null, case when prompts is null then array(select null::text from unnest(seeds)) else prompts end, seeds, coalesce(model, sql_diffusion.default_model()), null, noise_level, negative_prompt, num_inference_steps, guidance_scale::real, scheduler, timesteps, eta::real, guidance_rescale::real, clip_skip, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.upscale(real[], bigint[], text[], int, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of one picture with several seeds, one row (prompt, seed, image) each, in their order; each is the picture that they give alone. Arguments as for one seed.';

create function @extschema@.upscale(image real[], seed bigint, prompt text default null, noise_level int default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.upscale(image, array[seed], array[prompt], noise_level, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.upscale(real[], bigint, text, int, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The picture, four times as high and wide, or as much larger as the model''s autoencoder makes it. image: (channels, height, width), values 0 to 1. prompt: what it shows, '''' by default; NULL too for a model that takes none. noise_level (0 to 350, 20 by default): how much noise is laid over the small picture, of which the model then believes less; only for models that take a prompt. model: by default the setting sql_diffusion.model. seed and the other arguments: as for text_to_image, but for 75 steps, 100 without a prompt, and a guidance_scale of 9 by default. The same picture that diffusers'' StableDiffusionUpscalePipeline or LDMSuperResolutionPipeline makes, to within one grey level.';

create function @extschema@.upscale(image real[], seed text, prompt text default null, noise_level int default null, model text default null, negative_prompt text default null, num_inference_steps int default null, guidance_scale double precision default null, scheduler text default null, timesteps int[] default null, eta double precision default null, backend text default null, guidance_rescale double precision default 0, clip_skip int default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.upscale(image, array[seed::bigint], array[prompt], noise_level, model, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, backend, guidance_rescale, clip_skip) g;
end;
comment on function @extschema@.upscale(real[], text, text, int, text, text, int, double precision, text, int[], double precision, text, double precision, int) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';

create function @extschema@.gpt_next(prompt text, model text default null, top_k int default null, backend text default null)
  returns table (rank int, token_id int, token text, probability double precision)
language sql stable parallel unsafe rows 50000
begin atomic
  select n.rank, n.token_id, n.token, n.probability
  from sql_diffusion.gpt_next(prompt, coalesce(model, sql_diffusion.default_gpt_model()), top_k) n
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row).rank, (g.row).token_id, (g.row).token, (g.row).probability
  from (
    select sql_diffusion.numpy_gpt_next(prompt, coalesce(model, sql_diffusion.default_gpt_model()), top_k, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.gpt_next(text, text, int, text) is
  'What may come after a prompt: one row a token of the vocabulary, the most probable first, with its probability (all of them sum to 1), all rows or the top_k first. token is the text of its bytes, U+FFFD where they are no whole '
  'character. model: by default the setting sql_diffusion.model, else the first by name that writes text. backend: auto, sql, numpy or torch (doc/torch.md). Errors: 22023 for a prompt of no tokens or of more than the n_positions of the model, and for a model that '
  'writes no text; 42704 unknown model; 55000 unfinished model. Language Models are Unsupervised Multitask Learners (Radford et al., 2019), section 2.';

create function @extschema@.gpt_generate(prompt text, max_new_tokens int default 20, model text default null, temperature double precision default 0, top_k int default null, top_p double precision default null,
    seed bigint default 0, repetition_penalty double precision default 1, stop text default null, backend text default null)
  returns table ("position" int, token_id int, token text, text text)
language sql stable parallel unsafe rows 20
begin atomic
  select g."position", g.token_id, g.token, g.text
  from sql_diffusion.gpt_generate(prompt, max_new_tokens, coalesce(model, sql_diffusion.default_gpt_model()), temperature, top_k, top_p, seed, repetition_penalty, stop) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select (g.row)."position", (g.row).token_id, (g.row).token, (g.row).text
  from (
    select sql_diffusion.numpy_gpt_generate(prompt, max_new_tokens, coalesce(model, sql_diffusion.default_gpt_model()), temperature, top_k, top_p, seed, repetition_penalty, stop, sql_diffusion.choose_backend(backend) = 'torch') as row
    where sql_diffusion.choose_backend(backend) <> 'sql'
    offset 0
  ) g;
end;
comment on function @extschema@.gpt_generate(text, int, text, double precision, int, double precision, bigint, double precision, text, text) is
  'What a model writes after a prompt, one row a token as it is made: its place in the text (position, from 0, the prompt counts), its id, its text, and the whole text so far, the prompt with it. It ends after max_new_tokens, or with the token '
  'stop (NULL: the model''s own, <|endoftext|>). temperature 0: always the most probable token, as transformers'' generate(do_sample=False). Above 0 (from 1e-30 to 1e30) a token is drawn, the same for a seed: temperature flattens (above 1) or sharpens (below 1) the '
  'probabilities; top_k (1 or more) and top_p (above 0, at most 1) leave out what is improbable, by default nothing; repetition_penalty (from 1e-30 to 1e30, by default 1) makes tokens that were there less probable: see sql_diffusion.next_tokens. model and backend as for gpt_next. '
  'Errors as for gpt_next, and 22023 for a setting that cannot be and where prompt and max_new_tokens are more than n_positions.';
