-- What pg_dump saves of an extension's tables: the models that were loaded; the bundled ones come back with CREATE EXTENSION.
-- Not a part of the plain script (scripts/managed_sql.py), whose tables pg_dump saves as any others.
select pg_extension_config_dump('sql_diffusion.models', 'where not bundled');
select pg_extension_config_dump('sql_diffusion.components',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.stored_parameters',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.tokenizers',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.vocabulary',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.merges',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.stored_jobs', '');
select pg_extension_config_dump('sql_diffusion.stored_jobs_id_seq', '');
