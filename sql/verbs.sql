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
           when w.name not in ('auto', 'sql', 'numpy')
           then sql_diffusion.fail(format('backend is %L, expected auto, sql or numpy', w.name))::text
           when w.name = 'numpy' and not s.has_numpy
           then sql_diffusion.fail('backend is ''numpy'', but the extension sql_diffusion_numpy is not installed',
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
  'sql or numpy: the backend that is asked for, else the setting sql_diffusion.backend, else auto, which is numpy where that extension is installed.';

-- The other extension may not be there, and SQL binds names when a function is made: PL/pgSQL, which binds them at
-- the first call, carries the call over. What may lead to PL/Python is parallel unsafe: before PostgreSQL 17 that cannot run
-- a query in a parallel plan.

create function sql_diffusion.numpy_steps(seed bigint, model text, num_inference_steps int, timesteps int[], scheduler text, eta real)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language plpgsql stable parallel unsafe rows 50
set search_path to pg_catalog, pg_temp
as $$
begin
  return query
    select s.step, s.timestep, s.sample, s.pred_original_sample
    from sql_diffusion_numpy.ddpm_steps(numpy_steps.seed, numpy_steps.model, numpy_steps.num_inference_steps, numpy_steps.timesteps, numpy_steps.scheduler, numpy_steps.eta) s;
end
$$;
comment on function sql_diffusion.numpy_steps(bigint, text, int, int[], text, real) is 'Calls sql_diffusion_numpy.ddpm_steps with the same arguments.';

create function sql_diffusion.numpy_generate(seeds bigint[], model text, num_inference_steps int, timesteps int[], scheduler text, eta real)
  returns table (seed bigint, image real[])
language plpgsql stable parallel unsafe rows 10
set search_path to pg_catalog, pg_temp
as $$
begin
  return query
    select g.seed, g.image
    from sql_diffusion_numpy.ddpm_generate(numpy_generate.seeds, numpy_generate.model, numpy_generate.num_inference_steps, numpy_generate.timesteps, numpy_generate.scheduler, numpy_generate.eta) g;
end
$$;
comment on function sql_diffusion.numpy_generate(bigint[], text, int, int[], text, real) is 'Calls sql_diffusion_numpy.ddpm_generate with the same arguments.';

create function @extschema@.ddpm_steps(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.ddpm_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.numpy_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) s
  where sql_diffusion.choose_backend(backend) = 'numpy';
end;
comment on function @extschema@.ddpm_steps(bigint, text, int, int[], text, real, text) is
  'Watch a picture come out of the noise: one row a step as it is done, with the sample it leads to and the guess of the finished one '
  '(channels, height, width, values about -1 to 1; sql_diffusion.denormalize makes a picture of either). Arguments as for ddpm_generate.';

create function @extschema@.ddpm_generate(seeds bigint[], model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null)
  returns table (seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.seed, g.image
  from sql_diffusion.ddpm_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select g.seed, g.image
  from sql_diffusion.numpy_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) g
  where sql_diffusion.choose_backend(backend) = 'numpy';
end;
comment on function @extschema@.ddpm_generate(bigint[], text, int, int[], text, real, text) is
  'Pictures of several seeds, one row (seed, image) each, in their order; each is the picture that its seed gives alone. Arguments as for one seed.';

create function @extschema@.ddpm_generate(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed], model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(bigint, text, int, int[], text, real, text) is
  'A picture (channels, height, width, values 0 to 1) out of noise. seed: any bigint, the noise is torch''s for it. model: by default the setting sql_diffusion.model, '
  'else the bundled butterflies. num_inference_steps or timesteps (descending): by default the model''s own schedule. scheduler: ddpm or ddim. eta: 0 to 1, the share of '
  'fresh noise in ddim. backend: auto, sql or numpy. The same picture that the diffusers pipeline makes of that checkpoint and seed, to within one grey level.';

-- A parameter or literal that comes without a type could be a seed or an array of them, and PostgreSQL would choose neither. Where
-- one form takes text, it chooses that one.
create function @extschema@.ddpm_generate(seed text, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed::bigint], model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(text, text, int, int[], text, real, text) is
  'The same of a seed that comes as text, or as a parameter without a type, as many drivers send all of them. Errors: 22P02 for what is no integer, 22003 beyond bigint.';
