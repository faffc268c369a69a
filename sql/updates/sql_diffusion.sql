-- What an update from an older version does by hand; scripts/update_script.py makes the rest.

-- A view may show image_png as it was. It goes on doing so: that function is image_png without compression now.
-- @extschema@.image_png(real[], integer) is now sql_diffusion.image_png_stored

-- The weights stay where they are, as real[]; the table's name is a view's now.
-- table sql_diffusion.parameters is now sql_diffusion.stored_parameters

-- in place of create table sql_diffusion.models:
alter table sql_diffusion.models alter column scheduler drop not null;

-- in place of create table sql_diffusion.stored_parameters:
alter table sql_diffusion.stored_parameters
  alter column weight drop not null,
  add check (bias is null or sql_diffusion.check_tensor(bias, 'parameters: bias', 'out')),
  add column weight_shape int[],
  add column bias_shape int[],
  add column dtype text,
  add column weight_bytes bytea;
-- The rows are written anew, what is stored out of line is not.
update sql_diffusion.stored_parameters s
set (weight_shape, bias_shape) = (select sql_diffusion.shape(own.weight), sql_diffusion.shape(own.bias)
                                  from (select s.weight || '{}'::real[] as weight, s.bias offset 0) own);
alter table sql_diffusion.stored_parameters alter column weight_shape set not null;
do $$
declare
  own record;
begin
  for own in
    select c.conname
    from pg_constraint c
    where c.conrelid = 'sql_diffusion.stored_parameters'::regclass
      and starts_with(c.conname, 'parameters_')
  loop
    execute format('alter table sql_diffusion.stored_parameters rename constraint %I to %I', own.conname, 'stored_' || own.conname);
  end loop;
end
$$;

-- first:
select sql_diffusion.fail('a model is named "prompted-butterflies", as the one that this version brings is', 'Give it another name first: update sql_diffusion.models set name = ''...'' where name = ''prompted-butterflies''', '55000')
where exists (select from sql_diffusion.models m where m.name = 'prompted-butterflies');

-- A view has no policies of its own, and would let everybody read past those of the table behind it.
select sql_diffusion.fail('the table sql_diffusion.parameters has row level security, which does not go over to the view that it becomes', 'Take it away first: alter table sql_diffusion.parameters disable row level security', '55000')
where exists (select from pg_class c where c.oid = 'sql_diffusion.stored_parameters'::regclass and c.relrowsecurity);

-- first, from 1.0.0:
alter table sql_diffusion.packed_kernels reset (fillfactor, parallel_workers);

-- last:
-- A kernel of one pixel is the same for images of every width, and says so.
update sql_diffusion.packed_layers l
set row_stride = 1
from sql_diffusion.stored_parameters p
where (p.model, p.component, p.key) = (l.model, l.component, l.key)
  and coalesce(p.weight_shape[3], 1) = 1
  and l.row_stride <> 1;

-- Who could read and write the table can read and write the view, and nobody else can.
do $$
declare
  given record;
begin
  revoke all on sql_diffusion.parameters from public;
  for given in
    select a.privilege_type || coalesce(' (' || quote_ident(own.part) || ')', '') as privilege,
           case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee,
           case when a.is_grantable then ' with grant option' else '' end as grantable
    from pg_class c,
         lateral (select c.relacl as acl, null as part
                  union all
                  select t.attacl, t.attname from pg_attribute t where t.attrelid = c.oid) own,
         lateral aclexplode(own.acl) a
    where c.oid = 'sql_diffusion.stored_parameters'::regclass
      and a.grantee <> c.relowner
  loop
    execute format('grant %s on sql_diffusion.parameters to %s%s', given.privilege, given.grantee, given.grantable);
    execute format('revoke %s on sql_diffusion.stored_parameters from %s cascade', given.privilege, given.grantee);
  end loop;
end
$$;

-- last, from 1.0.0:
-- The bundled model's schedule, unless somebody has given it another.
update sql_diffusion.models
set defaults = '{"scheduler": "ddpm", "timesteps": [800, 750, 700, 650, 600, 550, 500, 450, 400, 350, 300, 240, 170, 90, 0]}'
where bundled
  and defaults = '{"scheduler": "ddpm", "num_inference_steps": 20}';
