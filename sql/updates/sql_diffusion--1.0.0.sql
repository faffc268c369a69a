-- From 1.0.0 to the present version: what is done by hand. scripts/update_script.py makes the whole script of it.

set local search_path to pg_catalog, pg_temp;

-- What is new beside the functions.
create unique index models_one_bundled on sql_diffusion.models (bundled) where bundled;
comment on index sql_diffusion.models_one_bundled is 'At most one model comes with the extension.';

create table sql_diffusion.shares (
  share  int primary key,
  page   text not null
);
comment on table sql_diffusion.shares is 'Sixty-four shares of a layer''s work, which parallel workers take one after the other.';
comment on column sql_diffusion.shares.share is 'its number, 1 to 64';
comment on column sql_diffusion.shares.page is 'nothing: what fills the row''s page, since workers share a table out page by page';

alter table sql_diffusion.shares set (fillfactor = 10, parallel_workers = 8);
insert into sql_diffusion.shares (share, page)
select share, repeat('-', 1000) from generate_series(1, 64) share;
grant select on sql_diffusion.shares to public;

create aggregate sql_diffusion.array_cat_agg(anycompatiblearray) (
  sfunc    = array_cat,
  stype    = anycompatiblearray,
  parallel = safe
);
comment on aggregate sql_diffusion.array_cat_agg(anycompatiblearray) is
  'Arrays joined along their first dimension, in the order that is stated: what the shares bring home. NULL counts for nothing.';

-- type sql_diffusion.feature_maps
-- type sql_diffusion.normalization
-- type sql_diffusion.convolution

alter table sql_diffusion.packed_kernels reset (fillfactor, parallel_workers);

comment on column sql_diffusion.models.source is 'the repository that the checkpoint was read from, or the name of the folder';
comment on column sql_diffusion.models.bundled is 'true for the model that comes with the extension, which dumps leave out. Whoever may delete models may delete it too; drop extension and create extension bring it back';

-- The bundled model's schedule, unless somebody has given it another.
update sql_diffusion.models
set defaults = '{"scheduler": "ddpm", "timesteps": [800, 750, 700, 650, 600, 550, 500, 450, 400, 350, 300, 240, 170, 90, 0]}'
where bundled
  and defaults = '{"scheduler": "ddpm", "num_inference_steps": 20}';

-- Functions whose arguments or result are others now make room; they go when nothing calls them any more.
alter function sql_diffusion.attention_heads(real[],real[],real[],integer,integer) rename to attention_heads_of_1_0_0;
alter function sql_diffusion.attention_heads_parallel(real[],real[],real[],integer,integer) rename to attention_heads_parallel_of_1_0_0;
alter function sql_diffusion.conv2d_core(real[],integer,integer,real[],real[],integer,integer,text) rename to conv2d_core_of_1_0_0;
alter function sql_diffusion.conv2d_module(real[],text,text,text,integer,integer,text) rename to conv2d_module_of_1_0_0;
alter function sql_diffusion.conv2d_module_planes(real[],integer,integer,text,text,text,integer,integer,text,real[]) rename to conv2d_module_planes_of_1_0_0;
alter function sql_diffusion.conv2d_numbers(real[],integer,integer,real[],real[],integer,integer,text) rename to conv2d_numbers_of_1_0_0;
alter function sql_diffusion.conv2d_operands(real[],integer,integer,double precision[],integer,integer,integer,integer,text) rename to conv2d_operands_of_1_0_0;
alter function sql_diffusion.conv2d_packed(numeric[],numeric,double precision,integer[],real[],integer) rename to conv2d_packed_of_1_0_0;
alter function sql_diffusion.conv2d_packed_parallel(numeric[],numeric,double precision,integer[],real[],integer) rename to conv2d_packed_parallel_of_1_0_0;
alter function sql_diffusion.conv2d_plane(numeric[],numeric[],numeric,double precision,integer[],real) rename to conv2d_plane_of_1_0_0;
alter function sql_diffusion.conv2d_plane_in_worker(numeric[],numeric[],numeric,double precision,integer[],real) rename to conv2d_plane_in_worker_of_1_0_0;
alter function sql_diffusion.group_norm_core(real[],integer,real[],real[],double precision,boolean) rename to group_norm_core_of_1_0_0;
alter function sql_diffusion.group_norm_module(real[],text,text,text,integer,double precision,boolean,text) rename to group_norm_module_of_1_0_0;
alter function sql_diffusion.group_norm_module_planes(real[],text,text,text,integer,double precision,boolean,text,real[]) rename to group_norm_module_planes_of_1_0_0;
alter function sql_diffusion.run_plan(sql_diffusion.plan_step[],real[],double precision,text) rename to run_plan_of_1_0_0;
alter function sql_diffusion.run_step(sql_diffusion.plan_step,real[],real[],text) rename to run_step_of_1_0_0;
alter function sql_diffusion.slots(real[],double precision) rename to slots_of_1_0_0;

-- functions

-- Triggers that replication fires too.
drop trigger unpack on sql_diffusion.parameters;

create trigger unpack
  after update on sql_diffusion.parameters
  for each row
  when (old.weight is distinct from new.weight or (old.model, old.component, old.key) is distinct from (new.model, new.component, new.key))
  execute function sql_diffusion.unpack();

create trigger unpack_deleted
  after delete on sql_diffusion.parameters
  for each row
  execute function sql_diffusion.unpack();

alter table sql_diffusion.parameters
  enable always trigger unpack,
  enable always trigger unpack_deleted;

drop function
  sql_diffusion.attention_heads_of_1_0_0(real[],real[],real[],integer,integer),
  sql_diffusion.attention_heads_parallel_of_1_0_0(real[],real[],real[],integer,integer),
  sql_diffusion.conv2d_core_of_1_0_0(real[],integer,integer,real[],real[],integer,integer,text),
  sql_diffusion.conv2d_module_of_1_0_0(real[],text,text,text,integer,integer,text),
  sql_diffusion.conv2d_module_planes_of_1_0_0(real[],integer,integer,text,text,text,integer,integer,text,real[]),
  sql_diffusion.conv2d_numbers_of_1_0_0(real[],integer,integer,real[],real[],integer,integer,text),
  sql_diffusion.conv2d_operands_of_1_0_0(real[],integer,integer,double precision[],integer,integer,integer,integer,text),
  sql_diffusion.conv2d_packed_of_1_0_0(numeric[],numeric,double precision,integer[],real[],integer),
  sql_diffusion.conv2d_packed_parallel_of_1_0_0(numeric[],numeric,double precision,integer[],real[],integer),
  sql_diffusion.conv2d_plane_of_1_0_0(numeric[],numeric[],numeric,double precision,integer[],real),
  sql_diffusion.conv2d_plane_in_worker_of_1_0_0(numeric[],numeric[],numeric,double precision,integer[],real),
  sql_diffusion.group_norm_core_of_1_0_0(real[],integer,real[],real[],double precision,boolean),
  sql_diffusion.group_norm_module_of_1_0_0(real[],text,text,text,integer,double precision,boolean,text),
  sql_diffusion.group_norm_module_planes_of_1_0_0(real[],text,text,text,integer,double precision,boolean,text,real[]),
  sql_diffusion.run_plan_of_1_0_0(sql_diffusion.plan_step[],real[],double precision,text),
  sql_diffusion.run_step_of_1_0_0(sql_diffusion.plan_step,real[],real[],text),
  sql_diffusion.slots_of_1_0_0(real[],double precision);
drop type sql_diffusion.tensor;
