-- The functions of sql_diffusion again, in NumPy. Each has its twin's name, arguments, defaults, result, volatility and
-- strictness, and is explained there; its body hands the arguments to the function of that name in functions/.
-- Only parallel safety differs: before PostgreSQL 17, PL/Python cannot run a query in a parallel plan, not even in its leader.

set local search_path to pg_catalog, pg_temp;

create schema sql_diffusion_numpy;
comment on schema sql_diffusion_numpy is 'The functions of schema sql_diffusion in NumPy.';
grant usage on schema sql_diffusion_numpy to public;

-- The first call in a session runs start(), which holds the package's source: what runs is the extension's own version, and no
-- path of the file system decides what code that is. Only the extension's owner, a superuser, can change it. What start() makes
-- is kept in GD, where only functions in PL/Python can write, and those only a superuser can create.

create function sql_diffusion_numpy.start() returns void
language plpython3u volatile parallel unsafe
as $sql_diffusion_numpy$
@start@
$sql_diffusion_numpy$;
comment on function sql_diffusion_numpy.start() is
  'Makes the Python package, which it holds, ready for this session; every function of this schema calls it when it is the first. '
  'Error 58P01 where the server''s Python has no NumPy.';

-- Anybody may SET sql_diffusion.cache_dir; what counts is what the server's own files say, which a superuser writes.
create function sql_diffusion_numpy.cache_dir() returns text
language sql stable parallel safe
security definer
set search_path to pg_catalog, pg_temp
begin atomic
  select f.setting
  from pg_file_settings f
  where lower(f.name collate "C") = 'sql_diffusion.cache_dir'
  order by f.seqno desc
  limit 1;
end;
comment on function sql_diffusion_numpy.cache_dir() is
  'The folder in which sessions share networks, as ALTER SYSTEM or postgresql.conf sets sql_diffusion.cache_dir; NULL for the one in the data directory, '
  'empty for none. SET has no effect on it.';

-- A placeholder may be SET by anybody, but kept for roles and databases only by a superuser or whoever was granted that.
create function sql_diffusion_numpy.setting_limit(name text) returns text
language sql stable strict parallel safe
security definer
set search_path to pg_catalog, pg_temp
begin atomic
  select s.value
  from (
    select substr(entry, strpos(entry, '=') + 1) as value,
           case when r.setrole <> 0 and r.setdatabase <> 0 then 1 when r.setrole <> 0 then 2 when r.setdatabase <> 0 then 3 else 4 end as place,
           0 as seqno
    from pg_db_role_setting r
    cross join unnest(r.setconfig) entry
    where r.setdatabase in (0, (select d.oid from pg_database d where d.datname = current_database()))
      and r.setrole in (0, (select u.oid from pg_roles u where u.rolname = session_user))
      and lower(split_part(entry, '=', 1) collate "C") = setting_limit.name
    union all
    select f.setting, 5, f.seqno
    from pg_file_settings f
    where lower(f.name collate "C") = setting_limit.name
  ) s
  where setting_limit.name in ('sql_diffusion.threads', 'sql_diffusion.memory_limit')  -- others are nobody's to read
  order by s.place, s.seqno desc
  limit 1;
end;
comment on function sql_diffusion_numpy.setting_limit(text) is
  'A setting as only an administrator writes it, for the session''s user: by ALTER ROLE or ALTER DATABASE, else by ALTER SYSTEM or in postgresql.conf; NULL where none '
  'has, and for any but sql_diffusion.threads and sql_diffusion.memory_limit. SET has no effect on it: such a value is the most that a session may take.';

create function sql_diffusion_numpy.doctor() returns table ("check" text, status text, detail text)
language plpython3u volatile parallel unsafe rows 10
as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].doctor(plpy)
$$;
comment on function sql_diffusion_numpy.doctor() is
  'Is this server set up to be fast? One row a check: interpreter, NumPy, BLAS and its measured speed, threads, cache, versions; status is ok, warning or error.';
