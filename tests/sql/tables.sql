-- Models in the tables: a network of a few numbers, put in by hand.
\set SHOW_CONTEXT never
set sql_diffusion.progress = off;
\pset null NULL
set search_path to sql_diffusion, public;

insert into models (name, pipeline, scheduler)
values ('tiny', 'DDPMPipeline', '{"_class_name": "DDPMScheduler", "num_train_timesteps": 100}');
insert into components (model, component, config)
values ('tiny', 'unet', '{"_class_name": "UNet2DModel", "sample_size": [4, 2], "in_channels": 1, "out_channels": 1, "layers_per_block": 1,
  "block_out_channels": [2, 4], "down_block_types": ["DownBlock2D", "AttnDownBlock2D"], "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
  "attention_head_dim": 2, "norm_num_groups": 1}');

-- the network, derived from its configuration
select p.step, p.operation, p.key, p.inputs, p.in_channels as "in", p.out_channels as out, p.level from plan('tiny') p order by p.step;
-- what its checkpoint has to hold
select p.key, p.weight_shape, p.bias_shape from network_parameters((select c.config from components c where c.model = 'tiny')) p order by p.key collate "C" limit 6;

-- no parameters yet, then all but one, then one of a wrong shape
select ddpm_generate(1, 'tiny');
insert into parameters (model, component, key, weight, bias)
select 'tiny', 'unet', p.key,
  reshape(array(select sin(i + length(p.key)) / 2 from generate_series(1, numel(p.weight_shape)) i)::real[], p.weight_shape),
  case when p.bias_shape is not null then array_fill(0.1::real, p.bias_shape) end
from network_parameters((select c.config from components c where c.model = 'tiny')) p
where p.key <> 'conv_out';
select ddpm_generate(1, 'tiny');
insert into parameters (model, component, key, weight, bias) values ('tiny', 'unet', 'conv_out', '{{{{1}}}}', '{0}');
select ddpm_generate(1, 'tiny');
update parameters set weight = array_fill(0.1::real, '{1,2,3,3}') where model = 'tiny' and key = 'conv_out';
select check_model('tiny');

-- it makes pictures: each seed its own, the same every time
select array_dims(ddpm_generate(1, 'tiny', 1)) as dims,
  ddpm_generate(1, 'tiny', 1) = ddpm_generate(1, 'tiny', 1) as same,
  ddpm_generate(1, 'tiny', 1) = ddpm_generate(2, 'tiny', 1) as other;
select g.seed, g.image = ddpm_generate(g.seed, 'tiny', 1) as as_alone from ddpm_generate(array[3, 1], 'tiny', 1) g;
select s.step, s.timestep, array_dims(s.sample), array_dims(s.pred_original_sample) from ddpm_steps(1, 'tiny', 3) s;
select s.step, s.timestep from ddpm_steps(1, 'tiny', timesteps => '{60,25,7}', scheduler => 'ddim') s;
set sql_diffusion.model = 'tiny';
select ddpm_generate(1, num_inference_steps => 1) = ddpm_generate(1, 'tiny', 1) as by_setting;
reset sql_diffusion.model;

-- what the tables refuse
\set VERBOSITY terse
insert into models (name, pipeline, scheduler) values ('', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}');
\set VERBOSITY default
insert into models (name, pipeline, scheduler) values ('x', 'KandinskyPipeline', '{"_class_name": "DDPMScheduler"}');
insert into models (name, pipeline, scheduler) values ('x', 'DDPMPipeline', '{"_class_name": "DEISMultistepScheduler"}');
insert into models (name, pipeline, scheduler) values ('x', 'DDPMPipeline', '{"_class_name": "DDPMScheduler", "beta_schedule": "cosine"}');
update components set config = config || '{"act_fn": "leaky_relu"}' where model = 'tiny';
update components set config = config || '{"mid_block_type": "UNetMidBlock2DCrossAttn"}' where model = 'tiny';
update components set config = config || '{"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}' where model = 'tiny';
update components set config = config || '{"norm_num_groups": 3}' where model = 'tiny';
update components set config = config || '{"sample_size": 3}' where model = 'tiny';
insert into components (model, component, config) values ('tiny', 'vae', '{}');

-- an ordinary role reads and generates, and changes nothing
create role regress_sql_diffusion_reader;
set role regress_sql_diffusion_reader;
select ddpm_generate(1, 'tiny', 1) is not null as generated;
select m.name, m.pipeline, m.bundled from models m where not m.bundled;
insert into models (name, pipeline, scheduler) values ('mine', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}');
update components set config = '{}';
delete from parameters;
create function sql_diffusion.mine() returns int return 1;
reset role;
drop role regress_sql_diffusion_reader;

-- a model goes as a whole
delete from models where name = 'tiny';
select (select count(*) from components where model = 'tiny') as components, (select count(*) from parameters where model = 'tiny') as parameters;
