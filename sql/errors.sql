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

create function sql_diffusion.check_settings(name text, config jsonb, rules text[]) returns boolean
language sql immutable parallel safe
begin atomic
  with problem (ordinal, message) as (
    select 0, format('%s: the configuration is %s, expected an object', name, coalesce(jsonb_typeof(config), 'null'))
    where jsonb_typeof(config) is distinct from 'object'
    union all
    select i, format('%s: setting %s is %s, expected %s', name, rules[i][1], coalesce(config -> rules[i][1], 'null'), rules[i][2])
    from generate_subscripts(rules, 1) as i
    where not coalesce(jsonb_path_match(config -> rules[i][1], ('strict ' || rules[i][3])::jsonpath, silent => true), false)
    order by 1
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, 'The reference tells which settings are supported.', '0A000') from problem p), true);
end;
comment on function sql_diffusion.check_settings(text, jsonb, text[]) is
  'True for a configuration that keeps every rule, otherwise an error (0A000) that names the first setting that does not. A rule is a row of three texts: the setting, '
  'what is expected, and a JSON path predicate in strict mode, that is true where the setting is supported. The name opens the message.';

create function sql_diffusion.check_known_settings(name text, config jsonb, known jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with unknown as (
    select k.setting
    from jsonb_object_keys(config) as k (setting)
    where not starts_with(k.setting, '_')
      and not known ? k.setting
      and jsonb_typeof(config -> k.setting) <> 'null'      -- a later version's setting that is not used
    order by k.setting collate "C"
    limit 1
  )
  select coalesce((select sql_diffusion.fail(format('%s: setting %s is not known', name, u.setting), 'The reference tells which settings are supported.', '0A000') from unknown u), true);
end;
comment on function sql_diffusion.check_known_settings(text, jsonb, jsonb) is
  'True for a configuration that has no settings but those that known has, those whose names begin with an underscore and those that are null; otherwise an error (0A000) that names the first other one. '
  'The name opens the message.';
