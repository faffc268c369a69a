-- Tensors

create function sql_diffusion_numpy.reshape(input real[], shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].reshape(plpy, input, shape)
$$;
comment on function sql_diffusion_numpy.reshape(real[], int[]) is 'sql_diffusion.reshape in NumPy: see there.';

create function sql_diffusion_numpy.tensor_from_bytes(bytes bytea, dtype text, shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].tensor_from_bytes(plpy, bytes, dtype, shape)
$$;
comment on function sql_diffusion_numpy.tensor_from_bytes(bytea, text, int[]) is 'sql_diffusion.tensor_from_bytes in NumPy: see there.';


-- Layers

create function sql_diffusion_numpy.silu(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].silu(plpy, input)
$$;
comment on function sql_diffusion_numpy.silu(real[]) is 'sql_diffusion.silu in NumPy: see there.';

create function sql_diffusion_numpy.add(a real[], b real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].add(plpy, a, b)
$$;
comment on function sql_diffusion_numpy.add(real[], real[]) is 'sql_diffusion.add in NumPy: see there.';

create function sql_diffusion_numpy.add_channels(input real[], vector real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].add_channels(plpy, input, vector)
$$;
comment on function sql_diffusion_numpy.add_channels(real[], real[]) is 'sql_diffusion.add_channels in NumPy: see there.';

create function sql_diffusion_numpy.concatenate(a real[], b real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].concatenate(plpy, a, b)
$$;
comment on function sql_diffusion_numpy.concatenate(real[], real[]) is 'sql_diffusion.concatenate in NumPy: see there.';

create function sql_diffusion_numpy.pad(
  input real[], padding_left int, padding_right int, padding_top int, padding_bottom int, value real default 0
) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].pad(plpy, input, padding_left, padding_right, padding_top, padding_bottom, value)
$$;
comment on function sql_diffusion_numpy.pad(real[], int, int, int, int, real) is 'sql_diffusion.pad in NumPy: see there.';

create function sql_diffusion_numpy.interpolate_nearest(input real[], scale_factor int default 2) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].interpolate_nearest(plpy, input, scale_factor)
$$;
comment on function sql_diffusion_numpy.interpolate_nearest(real[], int) is 'sql_diffusion.interpolate_nearest in NumPy: see there.';

create function sql_diffusion_numpy.timestep_embedding(
  timestep double precision, embedding_dim int, flip_sin_to_cos boolean default false,
  downscale_freq_shift double precision default 1, max_period double precision default 10000
) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].timestep_embedding(plpy, timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift, max_period)
$$;
comment on function sql_diffusion_numpy.timestep_embedding(double precision, int, boolean, double precision, double precision) is 'sql_diffusion.timestep_embedding in NumPy: see there.';

create function sql_diffusion_numpy.group_norm(
  input real[], num_groups int, weight real[] default null, bias real[] default null,
  eps double precision default 1e-5
) returns real[]
language plpython3u immutable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].group_norm(plpy, input, num_groups, weight, bias, eps)
$$;
comment on function sql_diffusion_numpy.group_norm(real[], int, real[], real[], double precision) is 'sql_diffusion.group_norm in NumPy: see there.';

create function sql_diffusion_numpy.conv2d(
  input real[], weight real[], bias real[] default null, stride int default 1, padding int default 0
) returns real[]
language plpython3u immutable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].conv2d(plpy, input, weight, bias, stride, padding)
$$;
comment on function sql_diffusion_numpy.conv2d(real[], real[], real[], int, int) is 'sql_diffusion.conv2d in NumPy: see there.';

create function sql_diffusion_numpy.linear(input real[], weight real[], bias real[] default null) returns real[]
language plpython3u immutable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].linear(plpy, input, weight, bias)
$$;
comment on function sql_diffusion_numpy.linear(real[], real[], real[]) is 'sql_diffusion.linear in NumPy: see there.';

create function sql_diffusion_numpy.scaled_dot_product_attention(query real[], key real[], value real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].scaled_dot_product_attention(plpy, query, key, value)
$$;
comment on function sql_diffusion_numpy.scaled_dot_product_attention(real[], real[], real[]) is 'sql_diffusion.scaled_dot_product_attention in NumPy: see there.';

create function sql_diffusion_numpy.resnet_block(
  input real[], temb real[], model text, key text, num_groups int, eps double precision default 1e-5,
  time_scale_shift text default 'default', output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].resnet_block(plpy, input, temb, model, key, num_groups, eps, time_scale_shift, output_scale_factor, component)
$$;
comment on function sql_diffusion_numpy.resnet_block(real[], real[], text, text, int, double precision, text, double precision, text) is 'sql_diffusion.resnet_block in NumPy: see there.';

create function sql_diffusion_numpy.attention_block(
  input real[], model text, key text, heads int, num_groups int default null, eps double precision default 1e-5,
  output_scale_factor double precision default 1, component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].attention_block(plpy, input, model, key, heads, num_groups, eps, output_scale_factor, component)
$$;
comment on function sql_diffusion_numpy.attention_block(real[], text, text, int, int, double precision, double precision, text) is 'sql_diffusion.attention_block in NumPy: see there.';

create function sql_diffusion_numpy.downsample(
  input real[], model text, key text, padding int default 1, component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].downsample(plpy, input, model, key, padding, component)
$$;
comment on function sql_diffusion_numpy.downsample(real[], text, text, int, text) is 'sql_diffusion.downsample in NumPy: see there.';

create function sql_diffusion_numpy.upsample(input real[], model text, key text, component text default 'unet') returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].upsample(plpy, input, model, key, component)
$$;
comment on function sql_diffusion_numpy.upsample(real[], text, text, text) is 'sql_diffusion.upsample in NumPy: see there.';


-- The network

create function sql_diffusion_numpy.time_embedding(
  timestep double precision, model text, key text, embedding_dim int, flip_sin_to_cos boolean,
  downscale_freq_shift double precision, component text default 'unet'
) returns real[]
language plpython3u stable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].time_embedding(plpy, timestep, model, key, embedding_dim, flip_sin_to_cos, downscale_freq_shift, component)
$$;
comment on function sql_diffusion_numpy.time_embedding(double precision, text, text, int, boolean, double precision, text) is 'sql_diffusion.time_embedding in NumPy: see there.';

create function sql_diffusion_numpy.unet_steps(
  sample real[], timestep double precision, model text
) returns table (step int, operation text, key text, hidden real[])
language plpython3u stable parallel unsafe rows 60
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].unet_steps(plpy, sample, timestep, model)
$$;
comment on function sql_diffusion_numpy.unet_steps(real[], double precision, text) is 'sql_diffusion.unet_steps in NumPy: see there.';

create function sql_diffusion_numpy.unet(sample real[], timestep double precision, model text) returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].unet_(plpy, sample, timestep, model)
$$;
comment on function sql_diffusion_numpy.unet(real[], double precision, text) is 'sql_diffusion.unet in NumPy: see there.';


-- Random numbers

create function sql_diffusion_numpy.manual_seed(seed bigint) returns sql_diffusion.generator
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].manual_seed(plpy, seed)
$$;
comment on function sql_diffusion_numpy.manual_seed(bigint) is 'sql_diffusion.manual_seed in NumPy: see there.';

create function sql_diffusion_numpy.randn(generator sql_diffusion.generator, shape int[], out sample real[], out next sql_diffusion.generator)
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].randn_of(plpy, generator, shape)
$$;
comment on function sql_diffusion_numpy.randn(sql_diffusion.generator, int[]) is 'sql_diffusion.randn in NumPy: see there.';

create function sql_diffusion_numpy.randn(seed bigint, shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].randn(plpy, seed, shape)
$$;
comment on function sql_diffusion_numpy.randn(bigint, int[]) is 'sql_diffusion.randn in NumPy: see there.';


-- Schedulers

create function sql_diffusion_numpy.noise_schedule(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language plpython3u immutable strict parallel unsafe rows 1000
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].noise_schedule(plpy, config)
$$;
comment on function sql_diffusion_numpy.noise_schedule(jsonb) is 'sql_diffusion.noise_schedule in NumPy: see there.';

create function sql_diffusion_numpy.inference_timesteps(config jsonb, num_inference_steps int) returns table (step int, timestep int)
language plpython3u immutable strict parallel unsafe rows 50
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].inference_timesteps(plpy, config, num_inference_steps)
$$;
comment on function sql_diffusion_numpy.inference_timesteps(jsonb, int) is 'sql_diffusion.inference_timesteps in NumPy: see there.';

create function sql_diffusion_numpy.scheduler_timesteps(
  config jsonb, scheduler text, num_inference_steps int default null, timesteps int[] default null, eta real default 0
) returns setof sql_diffusion.schedule_step
language plpython3u immutable parallel unsafe rows 50
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].scheduler_timesteps(plpy, config, scheduler, num_inference_steps, timesteps, eta)
$$;
comment on function sql_diffusion_numpy.scheduler_timesteps(jsonb, text, int, int[], real) is 'sql_diffusion.scheduler_timesteps in NumPy: see there.';

create function sql_diffusion_numpy.scheduler_step(
  model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step, out prev_sample real[],
  out pred_original_sample real[]
)
language plpython3u immutable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].scheduler_step(plpy, model_output, sample, noise, step)
$$;
comment on function sql_diffusion_numpy.scheduler_step(real[], real[], real[], sql_diffusion.schedule_step) is 'sql_diffusion.scheduler_step in NumPy: see there.';

create function sql_diffusion_numpy.add_noise(original real[], noise real[], timestep int, model text) returns real[]
language plpython3u stable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].add_noise(plpy, original, noise, timestep, model)
$$;
comment on function sql_diffusion_numpy.add_noise(real[], real[], int, text) is 'sql_diffusion.add_noise in NumPy: see there.';

create function sql_diffusion_numpy.predict_original_sample(model_output real[], sample real[], timestep int, model text) returns real[]
language plpython3u stable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].predict_original_sample(plpy, model_output, sample, timestep, model)
$$;
comment on function sql_diffusion_numpy.predict_original_sample(real[], real[], int, text) is 'sql_diffusion.predict_original_sample in NumPy: see there.';


-- Pipelines

create function sql_diffusion_numpy.denormalize(sample real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].denormalize(plpy, sample)
$$;
comment on function sql_diffusion_numpy.denormalize(real[]) is 'sql_diffusion.denormalize in NumPy: see there.';

create function sql_diffusion_numpy.ddpm_steps(
  seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns table (step int, timestep int, sample real[], pred_original_sample real[])
language plpython3u stable parallel unsafe rows 50
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].ddpm_steps(plpy, seed, model, num_inference_steps, timesteps, scheduler, eta)
$$;
comment on function sql_diffusion_numpy.ddpm_steps(bigint, text, int, int[], text, real) is 'sql_diffusion.ddpm_steps in NumPy: see there.';

create function sql_diffusion_numpy.ddpm_generate(
  seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns real[]
language plpython3u stable parallel unsafe
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].ddpm_generate(plpy, seed, model, num_inference_steps, timesteps, scheduler, eta)
$$;
comment on function sql_diffusion_numpy.ddpm_generate(bigint, text, int, int[], text, real) is 'sql_diffusion.ddpm_generate in NumPy: see there.';

create function sql_diffusion_numpy.ddpm_generate(
  seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns table (seed bigint, image real[])
language plpython3u stable parallel unsafe rows 10
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].ddpm_generate_many(plpy, seeds, model, num_inference_steps, timesteps, scheduler, eta)
$$;
comment on function sql_diffusion_numpy.ddpm_generate(bigint[], text, int, int[], text, real) is 'sql_diffusion.ddpm_generate in NumPy: see there.';
