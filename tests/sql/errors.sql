-- What users get wrong, and what they are told.
\set SHOW_CONTEXT never
set search_path to sql_diffusion, public;

-- tensors
select silu('{}');
select silu('{1,NULL}');
select silu('{NaN}');
select silu('{Infinity}');
select silu('[0:1]={1,2}');
select add('{1,2}', '{1,2,3}');
select add('{1,2}', '{{1,2}}');
select add_channels('{{{1,2}},{{3,4}}}', '{10,20,30}');
select concatenate('{{{1,2}}}', '{{{3,4},{5,6}}}');
select pad('{{{1}}}', -1, 0, 0, 0);
select pad('{1}', 0, 0, 0, 0);
select interpolate_nearest('{{{1}}}', 0);
select reshape('{1,2,3}', '{2,2}');
select reshape('{1,2,3}', '{}');
select reshape('{1,2,3}', '{-1}');
select tensor_from_bytes('\x00', 'float16', '{1}');
select tensor_from_bytes('\x0000', 'float8', '{1}');
select tensor_from_bytes('\x007e', 'float16', '{1}');

-- layers
select linear('{1,2,3}', '{{1,2}}');
select linear('{1,2}', '{1,2}');
select linear('{1,2}', '{{1,2}}', '{1,2}');
select linear(null, '{{1,2}}');
select linear('{1,2}', null);
select conv2d(null, '{{{{1}}}}');
select group_norm(null, 1);
select conv2d('{{1}}', '{{{{1}}}}');
select conv2d('{{{1}},{{2}}}', '{{{{1}}}}');
select conv2d('{{{1}}}', '{{{1}}}');
select conv2d('{{{1}}}', '{{{{1}}}}', '{1,2}');
select conv2d('{{{1}}}', '{{{{1}}}}', stride => 0);
select conv2d('{{{1}}}', '{{{{1}}}}', padding => -1);
select conv2d('{{{1}}}', '{{{{1,1,1},{1,1,1},{1,1,1}}}}');
select conv2d('{{{1,NaN}}}', '{{{{1}}}}');
select conv2d('{{{1}}}', '{{{{NULL}}}}');
select group_norm('{1,2,3}', 2);
select group_norm('{1,2}', 0);
select group_norm('{1,2}', 1, '{1,2,3}');
select group_norm('{1,2}', 1, eps => -1);
select scaled_dot_product_attention('{{1,0}}', '{{1}}', '{{1}}');
select scaled_dot_product_attention('{{1}}', '{{1},{1}}', '{{1}}');
select scaled_dot_product_attention('{1}', '{1}', '{1}');
select gelu('{1}', 'erf');
select geglu('{1,2,3}');
select layer_norm('{{1,2}}', '{1}');
select layer_norm('{{1,2}}', eps => -1);
select embedding('{0,2}', '{{1},{2}}');
select scaled_dot_product_attention('{{1}}', '{{1}}', '{{1}}', '{{1,2}}');
select scaled_dot_product_attention('{{1}}', '{{1}}', '{{1}}', '{{1}}', true);
select scaled_dot_product_attention('{{1}}', '{{1}}', '{{1}}', scale => 'NaN');
select timestep_embedding(1, 0);
select timestep_embedding('NaN', 4);

-- models and schedules
select ddpm_generate(42, 'moths');
select ddpm_generate(42, num_inference_steps => 0);
select ddpm_generate(42, num_inference_steps => 1001);
select ddpm_generate(42, timesteps => '{}');
select ddpm_generate(42, timesteps => '{250,500}');
select ddpm_generate(42, timesteps => '{1000,500}');
select ddpm_generate(42, timesteps => '{500,NULL}');
select ddpm_generate(42, num_inference_steps => 2, timesteps => '{500,250}');
select ddpm_generate(42, scheduler => 'nosuch');
select image_to_image(array_fill(0.5::real, '{4,64,64}'), null, 42);
select image_to_image(array_fill(0.5::real, '{3,64,60}'), null, 42);
select image_to_image(array_fill(2::real, '{3,64,64}'), null, 42);
select image_to_image(array_fill(0.5::real, '{3,64,64}'), null, null);
select image_to_image(array_fill(0.5::real, '{3,64,64}'), 'a moth', 42, model => 'butterflies');
select image_to_image(array_fill(0.5::real, '{3,64,64}'), null, 42, strength => 0);
select image_to_image(array_fill(0.5::real, '{3,64,64}'), null, 42, strength => 0.01);
select image_to_image(array_fill(0.5::real, '{3,64,64}'), null, 42, guidance_scale => 3);
select inpaint(array_fill(0.5::real, '{3,64,64}'), array_fill(1::real, '{1,32,64}'), null, 42);
select inpaint(array_fill(0.5::real, '{3,64,64}'), null, null, 42);
select upscale(array_fill(0.5::real, '{3,64,64}'), 42);
select sql_diffusion.redraw_steps('outpaint', array_fill(0.5::real, '{3,64,64}'), null, null, 42, 'butterflies');
select ddpm_generate(42, scheduler => '{"_class_name": "EulerDiscreteScheduler", "sigma_max": 9}');
select ddpm_generate(42, eta => 2);
select ddpm_generate(42, eta => -1);
select ddpm_generate(42, backend => 'gpu');
select ddpm_generate(42, backend => 'numpy');
select ddpm_generate(null::bigint);
select vae_decode(array_fill(0::real, '{4,8,8}'), 'moths');
select vae_decode(array_fill(0::real, '{4,8,8}'), 'butterflies');
select vae_encode(array_fill(0::real, '{3,8,8}'), null);
select vae_sample('{{{1}},{{2}}}', '{{{1}},{{2}}}');
set sql_diffusion.model = 'moths';
select ddpm_generate(42);
reset sql_diffusion.model;

-- the queue
select enqueue(null);
select enqueue(1, settings => '[]');
select enqueue(1, settings => '{"steps": 20}');
select enqueue(1, settings => '{"negative_prompt": "rain"}');
select enqueue(1, settings => '{"num_inference_steps": "many"}');
select enqueue(1, priority => null, max_attempts => 0);

-- tokenizers
select tokenize(null, 'butterflies');
select tokenize('a cat', 'moths');
select tokenize('a cat', 'butterflies');
select detokenize('{1}', 'butterflies', 'tokenizer_2');
select detokenize(null, 'butterflies');
select check_tokenizer('tokenizer', '{"tokenizer_class": "T5Tokenizer"}');
