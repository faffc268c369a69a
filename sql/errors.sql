-- SQL has no statement that raises an error; this is the one procedural function that the layers call.

create function sql_diffusion.fail(message text, hint text default null, errcode text default '22023') returns boolean
language plpgsql volatile parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
  if hint is null then
    raise exception using message = message, errcode = errcode;
  end if;
  raise exception using message = message, hint = hint, errcode = errcode;
end
$$;
comment on function sql_diffusion.fail(text, text, text) is
  'Raises an error with this message, hint and SQLSTATE (22023, invalid parameter value, unless told otherwise). It never returns; '
  'its type is boolean so that a check can stand in a CASE. Volatile, so that the planner never runs it ahead of its turn.';
