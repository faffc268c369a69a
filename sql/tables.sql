-- Where checkpoints live: a model has components (networks), a component has parameters (one row a module, sql/parameters.sql).

create table sql_diffusion.models (
  name       text primary key check (name <> ''),
  pipeline   text not null,
  scheduler  jsonb,
  defaults   jsonb not null default '{}',
  source     text,
  revision   text,
  sha256     text check (sha256 ~ '^[0-9a-f]{64}$'),
  loaded_at  timestamptz not null default now(),
  bundled    boolean not null default false
);
comment on table sql_diffusion.models is
  'One row a loaded model. A model is written in one transaction, so it is visible only once it is whole.';
comment on column sql_diffusion.models.name is 'what ddpm_generate(model => ...) is given';
comment on column sql_diffusion.models.pipeline is 'the diffusers pipeline class, as in model_index.json, such as DDPMPipeline; of a model that writes text GPT2LMHeadModel';
comment on column sql_diffusion.models.scheduler is 'the scheduler''s configuration, scheduler_config.json as it is; NULL for a model that writes text';
comment on column sql_diffusion.models.defaults is
  'what ddpm_generate uses where it is not told: an object with any of scheduler (ddpm or ddim), num_inference_steps and timesteps. '
  'Without it, what the diffusers pipeline does: 1000 steps of DDPM or 50 of DDIM.';
comment on column sql_diffusion.models.source is 'the repository that the checkpoint was read from, or the name of the folder';
comment on column sql_diffusion.models.revision is 'the revision of the repository, where there is one';
comment on column sql_diffusion.models.sha256 is 'the SHA-256 of the file of weights; of the concatenated digests, in file order, where there are several files';
comment on column sql_diffusion.models.loaded_at is 'when it was loaded';
comment on column sql_diffusion.models.bundled is 'true for a model that comes with the extension, which dumps leave out. Whoever may delete models may delete it too; drop extension and create extension bring it back';

create unique index models_one_bundled on sql_diffusion.models (pipeline) where bundled;
comment on index sql_diffusion.models_one_bundled is 'At most one model of a pipeline comes with the extension: so there is one where none is named.';

create table sql_diffusion.components (
  model      text not null references sql_diffusion.models (name) on update cascade on delete cascade,
  component  text not null,
  config     jsonb not null,
  primary key (model, component)
);
comment on table sql_diffusion.components is 'One row a network of a model.';
comment on column sql_diffusion.components.model is 'the model it belongs to';
comment on column sql_diffusion.components.component is 'the folder''s name in the checkpoint: unet, vae, text_encoder, ...';
comment on column sql_diffusion.components.config is 'the network''s configuration, the checkpoint''s own config.json';

grant select on sql_diffusion.models, sql_diffusion.components to public;
