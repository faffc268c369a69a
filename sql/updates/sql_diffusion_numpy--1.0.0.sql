-- From 1.0.0 to the present version: functions, of which some go.

set local search_path to pg_catalog, pg_temp;

alter function sql_diffusion_numpy.scaled_dot_product_attention(real[],real[],real[]) rename to scaled_dot_product_attention_of_1_0_0;
drop function sql_diffusion_numpy.noise_schedule(jsonb);
drop function sql_diffusion_numpy.inference_timesteps(jsonb,integer);
drop function sql_diffusion_numpy.scheduler_timesteps(jsonb,text,integer,integer[],real);
drop function sql_diffusion_numpy.scheduler_step(real[],real[],real[],sql_diffusion.schedule_step);
drop function sql_diffusion_numpy.ddpm_steps(bigint,text,integer,integer[],text,real);

-- functions

drop function sql_diffusion_numpy.scaled_dot_product_attention_of_1_0_0(real[],real[],real[]);
