-- The functions of sql_diffusion again. What follows `as` is the name of each one's function in functions/: build.py puts
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

create function sql_diffusion_numpy.gelu(input real[], approximate text default 'none') returns real[]
language plpython3u immutable parallel unsafe
as 'gelu';

create function sql_diffusion_numpy.quick_gelu(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'quick_gelu';

create function sql_diffusion_numpy.geglu(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'geglu';

create function sql_diffusion_numpy.relu(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'relu';

create function sql_diffusion_numpy.mish(input real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'mish';

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

create function sql_diffusion_numpy.layer_norm(
  input real[], weight real[] default null, bias real[] default null, eps double precision default 1e-5
) returns real[]
language plpython3u immutable parallel unsafe
as 'layer_norm';

create function sql_diffusion_numpy.embedding(input_ids int[], weight real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'embedding';

create function sql_diffusion_numpy.conv2d(
  input real[], weight real[], bias real[] default null, stride int default 1, padding int default 0
) returns real[]
language plpython3u immutable parallel unsafe
as 'conv2d';

create function sql_diffusion_numpy.linear(input real[], weight real[], bias real[] default null) returns real[]
language plpython3u immutable parallel unsafe
as 'linear';

create function sql_diffusion_numpy.scaled_dot_product_attention(
  query real[], key real[], value real[], attn_mask real[] default null, is_causal boolean default false,
  scale double precision default null
) returns real[]
language plpython3u immutable parallel unsafe
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

create function sql_diffusion_numpy.text_encoder(
  input_ids int[], model text, component text default 'text_encoder'
) returns real[]
language plpython3u stable parallel unsafe
as 'text_encoder';

create function sql_diffusion_numpy.network_steps(
  inputs sql_diffusion.network_input[], model text, component text default 'unet'
) returns table (step int, operation text, key text, hidden real[])
language plpython3u stable parallel unsafe rows 60
as 'network_steps';

create function sql_diffusion_numpy.unet_steps(
  sample real[], timestep double precision, model text, encoder_hidden_states real[] default null,
  class_labels real[] default null, timestep_cond real[] default null, text_embeds real[] default null,
  time_ids real[] default null
) returns table (step int, operation text, key text, hidden real[])
language plpython3u stable parallel unsafe rows 60
as 'unet_steps';

create function sql_diffusion_numpy.unet(
  sample real[], timestep double precision, model text, encoder_hidden_states real[] default null,
  class_labels real[] default null, timestep_cond real[] default null, text_embeds real[] default null,
  time_ids real[] default null
) returns real[]
language plpython3u stable parallel unsafe
as 'unet_';


-- Tokenizers

create function sql_diffusion_numpy.tokenize(
  text text, model text, component text default 'tokenizer', padding boolean default true, truncation boolean default true
) returns int[]
language plpython3u stable parallel unsafe
as 'tokenize';

create function sql_diffusion_numpy.detokenize_bytes(
  ids int[], model text, component text default 'tokenizer', skip_special_tokens boolean default false
) returns bytea
language plpython3u stable parallel unsafe
as 'detokenize_bytes';

create function sql_diffusion_numpy.detokenize(
  ids int[], model text, component text default 'tokenizer', skip_special_tokens boolean default false
) returns text
language plpython3u stable parallel unsafe
as 'detokenize';

-- Autoencoders

create function sql_diffusion_numpy.vae_decode(latent real[], model text) returns real[]
language plpython3u stable parallel unsafe
as 'vae_decode';

create function sql_diffusion_numpy.vae_encode(image real[], model text) returns real[]
language plpython3u stable parallel unsafe
as 'vae_encode';

create function sql_diffusion_numpy.vae_moments(image real[], model text) returns real[]
language plpython3u stable parallel unsafe
as 'vae_moments';

create function sql_diffusion_numpy.vae_sample(moments real[], noise real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'vae_sample';


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


-- Schedulers. A schedule is computed in one place, SQL.

create function sql_diffusion_numpy.scheduler_step(
  model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step, memory real[] default null,
  out prev_sample real[], out pred_original_sample real[], out next_memory real[]
)
language plpython3u immutable parallel unsafe
as 'scheduler_step';

create function sql_diffusion_numpy.add_noise_at(original real[], noise real[], step sql_diffusion.schedule_step) returns real[]
language plpython3u immutable parallel unsafe
as 'add_noise_at';

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
  scheduler text default null, eta real default null, class_label int default null
) returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language plpython3u stable parallel unsafe rows 50
as 'ddpm_steps';

create function sql_diffusion_numpy.ddpm_generate(
  seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default null, class_label int default null
) returns real[]
language plpython3u stable parallel unsafe
as 'ddpm_generate';

create function sql_diffusion_numpy.ddpm_generate(
  seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
  scheduler text default null, eta real default null, class_label int default null
) returns table (seed bigint, image real[])
language plpython3u stable parallel unsafe rows 10
as 'ddpm_generate_many';

create function sql_diffusion_numpy.text_to_image_steps(
  prompt text, seed bigint, model text, negative_prompt text default null, num_inference_steps int default null,
  guidance_scale real default null, height int default null, width int default null, scheduler text default null,
  timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null
) returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language plpython3u stable parallel unsafe rows 50
as 'text_to_image_steps';

create function sql_diffusion_numpy.text_to_image(
  prompt text, seed bigint, model text, negative_prompt text default null, num_inference_steps int default null,
  guidance_scale real default null, height int default null, width int default null, scheduler text default null,
  timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null
) returns real[]
language plpython3u stable parallel unsafe
as 'text_to_image';

create function sql_diffusion_numpy.text_to_image(
  prompts text[], seeds bigint[], model text, negative_prompt text default null, num_inference_steps int default null,
  guidance_scale real default null, height int default null, width int default null, scheduler text default null,
  timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null
) returns table (prompt text, seed bigint, image real[])
language plpython3u stable parallel unsafe rows 10
as 'text_to_image_many';

create function sql_diffusion_numpy.redraw_steps(
  task text, image real[], mask real[], prompt text, seed bigint, model text, strength real default null,
  noise_level int default null, negative_prompt text default null, num_inference_steps int default null,
  guidance_scale real default null, scheduler text default null, timesteps int[] default null, eta real default null,
  guidance_rescale real default 0, clip_skip int default null
) returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language plpython3u stable parallel unsafe rows 50
as 'redraw_steps';

create function sql_diffusion_numpy.redraw(
  task text, picture real[], mask real[], prompts text[], seeds bigint[], model text, strength real default null,
  noise_level int default null, negative_prompt text default null, num_inference_steps int default null,
  guidance_scale real default null, scheduler text default null, timesteps int[] default null, eta real default null,
  guidance_rescale real default 0, clip_skip int default null
) returns table (prompt text, seed bigint, image real[])
language plpython3u stable parallel unsafe rows 10
as 'redraw';

create function sql_diffusion_numpy.finished_image(sample real[], model text) returns real[]
language plpython3u stable parallel unsafe
as 'finished_image';

create function sql_diffusion_numpy.latent_preview(latent real[]) returns real[]
language plpython3u immutable strict parallel unsafe
as 'latent_preview';

-- Text

create function sql_diffusion_numpy.gpt_next(prompt text, model text, top_k int default null)
returns table (rank int, token_id int, token text, probability double precision)
language plpython3u stable parallel unsafe rows 50000
as 'gpt_next';

create function sql_diffusion_numpy.gpt_generate(
  prompt text, max_new_tokens int, model text, temperature double precision default 0, top_k int default null,
  top_p double precision default null, seed bigint default 0, repetition_penalty double precision default 1,
  stop text default null
) returns table ("position" int, token_id int, token text, text text)
language plpython3u stable parallel unsafe rows 20
as 'gpt_generate';

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

-- The queue: sql_diffusion.check_painter asks the one of its backend

create function sql_diffusion_numpy.check_painter() returns boolean
language plpython3u stable parallel unsafe
as 'check_painter';
