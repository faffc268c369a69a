-- The functions of sql_diffusion again. What follows `as` is the name of each one's function in functions.py: build.py puts
-- a body there that calls it with the arguments, and a comment behind.

-- Tensors

create function sql_diffusion_numpy.reshape(input real[], shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'reshape';

create function sql_diffusion_numpy.tensor_from_bytes(bytes bytea, dtype text, shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'tensor_from_bytes';


-- Layers

create function sql_diffusion_numpy.silu(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'silu';

create function sql_diffusion_numpy.add(a real[], b real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'add';

create function sql_diffusion_numpy.add_channels(input real[], vector real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'add_channels';

create function sql_diffusion_numpy.concatenate(a real[], b real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'concatenate';

create function sql_diffusion_numpy.pad(
  input real[], padding_left int, padding_right int, padding_top int, padding_bottom int, value real default 0
) returns real[]
language plpython3u immutable strict parallel unsafe
as 'pad';

create function sql_diffusion_numpy.interpolate_nearest(input real[], scale_factor int default 2) returns real[]
language plpython3u immutable strict parallel unsafe
as 'interpolate_nearest';

create function sql_diffusion_numpy.timestep_embedding(
  timestep double precision, embedding_dim int, flip_sin_to_cos boolean default false,
  downscale_freq_shift double precision default 1, max_period double precision default 10000
) returns real[]
language plpython3u immutable strict parallel unsafe
as 'timestep_embedding';

create function sql_diffusion_numpy.group_norm(
  input real[], num_groups int, weight real[] default null, bias real[] default null,
  eps double precision default 1e-5
) returns real[]
language plpython3u immutable parallel unsafe
as 'group_norm';

create function sql_diffusion_numpy.conv2d(
  input real[], weight real[], bias real[] default null, stride int default 1, padding int default 0
) returns real[]
language plpython3u immutable parallel unsafe
as 'conv2d';

create function sql_diffusion_numpy.linear(input real[], weight real[], bias real[] default null) returns real[]
language plpython3u immutable parallel unsafe
as 'linear';

create function sql_diffusion_numpy.scaled_dot_product_attention(query real[], key real[], value real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'scaled_dot_product_attention';

create function sql_diffusion_numpy.resnet_block(
  input real[], temb real[], model text, key text, num_groups int, eps double precision default 1e-5,
  time_scale_shift text default 'default', output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as 'resnet_block';

create function sql_diffusion_numpy.attention_block(
  input real[], model text, key text, heads int, num_groups int default null, eps double precision default 1e-5,
  output_scale_factor double precision default 1, component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as 'attention_block';

create function sql_diffusion_numpy.downsample(
  input real[], model text, key text, padding int default 1, component text default 'unet'
) returns real[]
language plpython3u stable parallel unsafe
as 'downsample';

create function sql_diffusion_numpy.upsample(input real[], model text, key text, component text default 'unet') returns real[]
language plpython3u stable parallel unsafe
as 'upsample';


-- The network

create function sql_diffusion_numpy.time_embedding(
  timestep double precision, model text, key text, embedding_dim int, flip_sin_to_cos boolean,
  downscale_freq_shift double precision, component text default 'unet'
) returns real[]
language plpython3u stable strict parallel unsafe
as 'time_embedding';

create function sql_diffusion_numpy.unet_steps(
  sample real[], timestep double precision, model text
) returns table (step int, operation text, key text, hidden real[])
language plpython3u stable parallel unsafe rows 60
as 'unet_steps';

create function sql_diffusion_numpy.unet(sample real[], timestep double precision, model text) returns real[]
language plpython3u stable parallel unsafe
as 'unet_';


-- Random numbers

create function sql_diffusion_numpy.manual_seed(seed bigint) returns sql_diffusion.generator
language plpython3u immutable strict parallel unsafe
as 'manual_seed';

create function sql_diffusion_numpy.randn(generator sql_diffusion.generator, shape int[], out sample real[], out next sql_diffusion.generator)
language plpython3u immutable strict parallel unsafe
as 'randn_of';

create function sql_diffusion_numpy.randn(seed bigint, shape int[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'randn';


-- Schedulers

create function sql_diffusion_numpy.noise_schedule(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language plpython3u immutable strict parallel unsafe rows 1000
as 'noise_schedule';

create function sql_diffusion_numpy.inference_timesteps(config jsonb, num_inference_steps int) returns table (step int, timestep int)
language plpython3u immutable strict parallel unsafe rows 50
as 'inference_timesteps';

create function sql_diffusion_numpy.scheduler_timesteps(
  config jsonb, scheduler text, num_inference_steps int default null, timesteps int[] default null, eta real default 0
) returns setof sql_diffusion.schedule_step
language plpython3u immutable parallel unsafe rows 50
as 'scheduler_timesteps';

create function sql_diffusion_numpy.scheduler_step(
  model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step, out prev_sample real[],
  out pred_original_sample real[]
)
language plpython3u immutable parallel unsafe
as 'scheduler_step';

create function sql_diffusion_numpy.add_noise(original real[], noise real[], timestep int, model text) returns real[]
language plpython3u stable strict parallel unsafe
as 'add_noise';

create function sql_diffusion_numpy.predict_original_sample(model_output real[], sample real[], timestep int, model text) returns real[]
language plpython3u stable strict parallel unsafe
as 'predict_original_sample';


-- Pipelines

create function sql_diffusion_numpy.denormalize(sample real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'denormalize';

create function sql_diffusion_numpy.ddpm_steps(
  seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns table (step int, timestep int, sample real[], pred_original_sample real[])
language plpython3u stable parallel unsafe rows 50
as 'ddpm_steps';

create function sql_diffusion_numpy.ddpm_generate(
  seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns real[]
language plpython3u stable parallel unsafe
as 'ddpm_generate';

create function sql_diffusion_numpy.ddpm_generate(
  seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default 0
) returns table (seed bigint, image real[])
language plpython3u stable parallel unsafe rows 10
as 'ddpm_generate_many';


-- Pictures

create function sql_diffusion_numpy.image_png(image real[], scale int default 1, compression int default 6) returns bytea
language plpython3u immutable strict parallel unsafe
as 'image_png';

create function sql_diffusion_numpy.image_from_png(png bytea) returns real[]
language plpython3u immutable strict parallel unsafe
as 'image_from_png';

create function sql_diffusion_numpy.image_resize(image real[], height int, width int, method text default 'lanczos') returns real[]
language plpython3u immutable strict parallel unsafe
as 'image_resize';
