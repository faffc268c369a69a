-- Who may do what: everybody may read and generate, the owner may do all, and a role that is granted it may load.
create role sql_diffusion_reader;
create role sql_diffusion_loader;
grant insert, update, delete on sql_diffusion.models, sql_diffusion.components, sql_diffusion.parameters,
  sql_diffusion.tokenizers, sql_diffusion.vocabulary, sql_diffusion.merges to sql_diffusion_loader;

select r.rolname as role, c.relname as "table",
       concat_ws(', ',
         case when has_table_privilege(r.oid, c.oid, 'select') then 'select' end,
         case when has_table_privilege(r.oid, c.oid, 'insert') then 'insert' end,
         case when has_table_privilege(r.oid, c.oid, 'update') then 'update' end,
         case when has_table_privilege(r.oid, c.oid, 'delete') then 'delete' end,
         case when has_table_privilege(r.oid, c.oid, 'truncate') then 'truncate' end,
         case when has_table_privilege(r.oid, c.oid, 'references') then 'references' end,
         case when has_table_privilege(r.oid, c.oid, 'trigger') then 'trigger' end) as privileges
from pg_class c, pg_roles r
where c.relnamespace = 'sql_diffusion'::regnamespace
  and c.relkind in ('r', 'v')
  and r.rolname in ('sql_diffusion_reader', 'sql_diffusion_loader')
order by 1 desc, 2;

select r.rolname as role, has_schema_privilege(r.oid, 'sql_diffusion', 'usage') as usage, has_schema_privilege(r.oid, 'sql_diffusion', 'create') as "create"
from pg_roles r
where r.rolname in ('sql_diffusion_reader', 'sql_diffusion_loader')
order by 1 desc;

-- Functions that not everybody may call, and those that act with their owner's rights.
select p.oid::regprocedure as function, has_function_privilege('sql_diffusion_reader', p.oid, 'execute') as everybody, p.prosecdef as "with its owner's rights"
from pg_proc p
     join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
     join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
where e.extname = 'sql_diffusion'
  and (p.prosecdef or not has_function_privilege('sql_diffusion_reader', p.oid, 'execute'))
order by 1;

-- Nothing is written in a language that reaches the server's files.
select l.lanname as language, l.lanpltrusted as trusted, l.lanname in ('c', 'internal') as compiled
from pg_proc p
     join pg_language l on l.oid = p.prolang
     join pg_depend d on d.classid = 'pg_proc'::regclass and d.objid = p.oid and d.deptype = 'e'
     join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
where e.extname = 'sql_diffusion'
  and p.prokind = 'f'
group by 1, 2
order by 1;

\set VERBOSITY terse
set role sql_diffusion_reader;
select count(*) > 0 as reads_weights from sql_diffusion.parameters;
select array_dims(ddpm_generate(1, num_inference_steps => 1, backend => 'sql')) as generates;
set sql_diffusion.model = 'butterflies';
insert into sql_diffusion.models (name, pipeline, scheduler) values ('mine', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}');
update sql_diffusion.models set defaults = '{}';
delete from sql_diffusion.models;
select count(*) from sql_diffusion.stored_parameters;
truncate sql_diffusion.stored_parameters;
alter table sql_diffusion.stored_parameters disable trigger unpack;
create trigger mine instead of insert on sql_diffusion.parameters for each row execute function sql_diffusion.write_parameter();
create table sql_diffusion.mine ();
-- of the view in some versions of PostgreSQL, of a table in others
\set VERBOSITY sqlstate
select sql_diffusion.pack('butterflies');
\set VERBOSITY terse
drop extension sql_diffusion;
alter extension sql_diffusion update;
reset role;

set role sql_diffusion_loader;
insert into sql_diffusion.models (name, pipeline, scheduler) values ('mine', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}');
update sql_diffusion.models set defaults = '{"num_inference_steps": 10}' where name = 'mine';
delete from sql_diffusion.models where name = 'mine';
select sql_diffusion.pack('butterflies');
truncate sql_diffusion.stored_parameters;
alter table sql_diffusion.stored_parameters disable trigger unpack;
reset role;

drop owned by sql_diffusion_reader, sql_diffusion_loader;
drop role sql_diffusion_reader, sql_diffusion_loader;
