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

create table sql_diffusion.tokenizers (
  model      text not null references sql_diffusion.models (name) on update cascade on delete cascade,
  component  text not null,
  config     jsonb not null,
  primary key (model, component)
);
comment on table sql_diffusion.tokenizers is 'One row a tokenizer of a model.';
comment on column sql_diffusion.tokenizers.model is 'the model it belongs to';
comment on column sql_diffusion.tokenizers.component is 'the folder''s name in the checkpoint: tokenizer, tokenizer_2';
comment on column sql_diffusion.tokenizers.config is
  'the tokenizer''s settings, named as in tokenizer_config.json: tokenizer_class (CLIPTokenizer or GPT2Tokenizer), bos_token, eos_token, pad_token, unk_token, each with its _id, model_max_length, '
  'add_prefix_space, and added_tokens_decoder, which has the tokens that are found in a text before anything else: '
  '{"49407": {"content": "<|endoftext|>", "special": true, "normalized": false}, ...}; normalized: it is looked for after the text was normalized';

create table sql_diffusion.vocabulary (
  model      text not null,
  component  text not null,
  id         int not null check (id >= 0),
  token      bytea not null,
  ends_word  boolean not null default false,
  primary key (model, component, id),
  foreign key (model, component) references sql_diffusion.tokenizers (model, component) on update cascade on delete cascade
);
comment on table sql_diffusion.vocabulary is 'One row a token of a tokenizer.';
comment on column sql_diffusion.vocabulary.model is 'the model it belongs to';
comment on column sql_diffusion.vocabulary.component is 'the tokenizer it belongs to';
comment on column sql_diffusion.vocabulary.id is 'its number, counted from 0: what a network is given';
comment on column sql_diffusion.vocabulary.token is 'the bytes, in UTF-8, that it stands for: a token can end inside a character';
comment on column sql_diffusion.vocabulary.ends_word is 'true for a token that only ends words, which vocab.json writes with </w> behind it';

-- The symbols that a word is made of at first.
create unique index vocabulary_bytes on sql_diffusion.vocabulary (model, component, token, ends_word) where length(token) = 1;
comment on index sql_diffusion.vocabulary_bytes is 'The tokens of one byte.';

create table sql_diffusion.merges (
  model      text not null,
  component  text not null,
  first      int not null,
  second     int not null,
  rank       int not null,
  merged     int not null,
  primary key (model, component, first, second),
  foreign key (model, component) references sql_diffusion.tokenizers (model, component) on update cascade on delete cascade
);
comment on table sql_diffusion.merges is
  'One row a merge of a tokenizer (merges.txt): two tokens that become one where they stand beside each other. Sennrich, Haddow, Birch: Neural machine translation of rare words with subword units, 2016.';
comment on column sql_diffusion.merges.model is 'the model it belongs to';
comment on column sql_diffusion.merges.component is 'the tokenizer it belongs to';
comment on column sql_diffusion.merges.first is 'the id of the token on the left';
comment on column sql_diffusion.merges.second is 'the id of the token on the right';
comment on column sql_diffusion.merges.rank is 'its place in the list, counted from 0: of several merges that a word has, the lowest goes first';
comment on column sql_diffusion.merges.merged is 'the id of the token that they become';

grant select on sql_diffusion.tokenizers, sql_diffusion.vocabulary, sql_diffusion.merges to public;

select pg_extension_config_dump('sql_diffusion.tokenizers',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.vocabulary',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.merges',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');

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
alter function sql_diffusion.attention_columns(real[],real[],real[]) rename to attention_columns_of_1_0_0;
alter function sql_diffusion.attention_core(real[],real[],real[],text) rename to attention_core_of_1_0_0;
alter function sql_diffusion.attention_heads(real[],real[],real[],integer,integer) rename to attention_heads_of_1_0_0;
alter function sql_diffusion.attention_heads_parallel(real[],real[],real[],integer,integer) rename to attention_heads_parallel_of_1_0_0;
alter function sql_diffusion.attention_numbers(real[],real[],real[],text) rename to attention_numbers_of_1_0_0;
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
alter function sql_diffusion.scaled_dot_product_attention(real[],real[],real[]) rename to scaled_dot_product_attention_of_1_0_0;
alter function sql_diffusion.slots(real[],double precision) rename to slots_of_1_0_0;

alter function sql_diffusion.ddpm_steps(bigint,text,integer,integer[],text,real) rename to ddpm_steps_of_1_0_0;
alter function sql_diffusion.generation_schedule(text,integer,integer[],text,real) rename to generation_schedule_of_1_0_0;
alter function sql_diffusion.numpy_steps(bigint,text,integer,integer[],text,real) rename to numpy_steps_of_1_0_0;
alter function sql_diffusion.scheduler_config(jsonb) rename to scheduler_config_of_1_0_0;
alter function sql_diffusion.scheduler_step(real[],real[],real[],sql_diffusion.schedule_step) rename to scheduler_step_of_1_0_0;
alter function sql_diffusion.scheduler_timesteps(jsonb,text,integer,integer[],real) rename to scheduler_timesteps_of_1_0_0;
alter function @extschema@.ddpm_steps(bigint,text,integer,integer[],text,real,text) rename to ddpm_steps_of_1_0_0;

-- A schedule's row has other columns now. Functions that name the old ones, and will go, let go of them first; the type itself stays,
-- since functions of sql_diffusion_numpy take it.
create or replace function sql_diffusion.scheduler_step_of_1_0_0(model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step,
    out prev_sample real[], out pred_original_sample real[])
language sql immutable parallel safe
as 'select null::real[], null::real[]';
create or replace function sql_diffusion.generation_schedule_of_1_0_0(model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns setof sql_diffusion.schedule_step
language sql stable parallel safe rows 50
as 'select null::sql_diffusion.schedule_step';
create or replace function sql_diffusion.ddpm_steps_of_1_0_0(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
as 'select null::int, null::int, null::real[], null::real[]';

-- type sql_diffusion.scheduler
alter type sql_diffusion.schedule_step
  drop attribute timestep, drop attribute previous_timestep, drop attribute original_from_sample, drop attribute original_from_output,
  drop attribute clip_range, drop attribute original_coefficient, drop attribute sample_coefficient, drop attribute output_coefficient,
  drop attribute noise_coefficient, drop attribute draws_noise;
alter type sql_diffusion.schedule_step
  add attribute timestep double precision, add attribute previous_timestep double precision, add attribute input_scale double precision,
  add attribute original_from_sample double precision, add attribute original_from_output double precision,
  add attribute clip_range double precision, add attribute threshold_ratio double precision, add attribute threshold_max double precision,
  add attribute original_coefficient double precision, add attribute sample_coefficient double precision,
  add attribute output_coefficient double precision, add attribute noise_coefficient double precision, add attribute draws_noise boolean,
  add attribute memory_coefficients double precision[], add attribute memory_update double precision[],
  add attribute initial_noise double precision, add attribute added_original double precision, add attribute added_noise double precision;
comment on type sql_diffusion.schedule_step is
  'One pass of a schedule: its number from 1, the timestep that the network is told (it may have a fraction), the one the step leads to (below 0: the finished picture), '
  'what the network''s input is multiplied by, and the coefficients of the update (see scheduler_step). clip_range NULL: no clipping; threshold_ratio and threshold_max: '
  'dynamic thresholding. draws_noise: whether fresh noise is drawn from the stream. memory_update: a row for each tensor that is remembered, with the coefficients of original, sample, '
  'output and each tensor remembered before. To begin at this step: initial_noise * noise, or added_original * picture + added_noise * noise.';

set local check_function_bodies to off;
-- A view may show image_png of before. It goes on doing so, as what that function still is: image_png without compression.
alter function @extschema@.image_png(real[],integer) set schema sql_diffusion;
alter function sql_diffusion.image_png(real[],integer) rename to image_png_stored;

-- functions

alter table sql_diffusion.tokenizers
  add constraint tokenizers_supported check (sql_diffusion.check_tokenizer(component, config));

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
  sql_diffusion.attention_columns_of_1_0_0(real[],real[],real[]),
  sql_diffusion.attention_core_of_1_0_0(real[],real[],real[],text),
  sql_diffusion.ddpm_steps_of_1_0_0(bigint,text,integer,integer[],text,real),
  sql_diffusion.generation_schedule_of_1_0_0(text,integer,integer[],text,real),
  sql_diffusion.numpy_steps_of_1_0_0(bigint,text,integer,integer[],text,real),
  sql_diffusion.scheduler_config_of_1_0_0(jsonb),
  sql_diffusion.scheduler_step_of_1_0_0(real[],real[],real[],sql_diffusion.schedule_step),
  sql_diffusion.scheduler_timesteps_of_1_0_0(jsonb,text,integer,integer[],real),
  @extschema@.ddpm_steps_of_1_0_0(bigint,text,integer,integer[],text,real,text),
  sql_diffusion.inference_timesteps(jsonb,integer),
  sql_diffusion.attention_heads_of_1_0_0(real[],real[],real[],integer,integer),
  sql_diffusion.attention_heads_parallel_of_1_0_0(real[],real[],real[],integer,integer),
  sql_diffusion.attention_numbers_of_1_0_0(real[],real[],real[],text),
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
  sql_diffusion.scaled_dot_product_attention_of_1_0_0(real[],real[],real[]),
  sql_diffusion.slots_of_1_0_0(real[],double precision);
drop type sql_diffusion.tensor;
set local check_function_bodies to on;
