-- The first lines of the install script.

-- Names are bound when a function is made, so nothing but pg_catalog may be searched while it is made:
-- every other name in these files carries its schema.
set local search_path to pg_catalog, pg_temp;

create schema sql_diffusion;
comment on schema sql_diffusion is
  'Diffusion models in pure SQL: the tables that hold checkpoints, and the reference layers, networks and schedulers.';
grant usage on schema sql_diffusion to public;
