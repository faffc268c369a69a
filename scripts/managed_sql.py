"""Writes the pure-SQL extension for servers where no file can be put, such as those of managed clouds.

    managed_sql.py plain FILE ...     for `psql --file`: makes everything in one transaction, without CREATE EXTENSION
    managed_sql.py pg_tle FILE ...    hands the install script to pg_tle, whose CREATE EXTENSION finds it from then on

    managed_sql.py unpackaged FILE ...    for ALTER EXTENSION UPDATE: takes what the plain script made into the extension

FILE ... are the parts of the install script, in their order.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

CONTROL = Path(__file__).resolve().parent.parent / "extension" / "sql_diffusion.control"

# psql writes the variable's value, quoted as an identifier, in place of :"schema".
PLAIN = """\
-- sql_diffusion {version} without CREATE EXTENSION: all of it is made, or nothing.
--
--   psql --no-psqlrc --quiet --file=sql_diffusion--{version}.plain.sql [--set=schema=SCHEMA]
--
-- SCHEMA, public by default and made where it is missing, gets the functions that people type; everything else is in the schema
-- sql_diffusion.
-- To remove it all, the loaded models too:  drop schema sql_diffusion cascade
\\set ON_ERROR_STOP on
\\if :{{?schema}}
\\else
  \\set schema public
\\endif
begin;
set local client_encoding to 'UTF8';
set local client_min_messages to warning;
create schema if not exists :"schema";
\\o /dev/null

{script}
\\o
commit;
"""

UNPACKAGED = """\
-- What the plain script of this version made becomes the extension's: every object of the schema sql_diffusion, and the verbs.
do $_unpackaged_$
declare
  missing text;
  addition text;
begin
  select string_agg(verb.name, ', ') into missing
  from unnest('{{{verbs}}}'::text[]) as verb (name)
  where not exists (select from pg_proc p where p.proname = verb.name and p.pronamespace = '@extschema@'::regnamespace);
  if to_regnamespace('sql_diffusion') is null or missing is not null then
    raise exception using
      message = format('the schema %s lacks what the plain script of sql_diffusion {version} makes: %s', '@extschema@', coalesce(missing, 'the schema sql_diffusion')),
      hint = 'Name the schema that ddpm_generate is in: CREATE EXTENSION sql_diffusion VERSION ''unpackaged'' SCHEMA ... The plain script that was run has to be of this version.',
      errcode = '55000';
  end if;
  for addition in
    select 'schema sql_diffusion'
    union all
    select format('routine %s', p.oid::regprocedure)
    from pg_proc p
    where p.pronamespace = 'sql_diffusion'::regnamespace
       or p.pronamespace = '@extschema@'::regnamespace and p.proname = any ('{{{verbs}}}'::text[])
    union all
    select format('%s %s', case c.relkind when 'r' then 'table' when 'S' then 'sequence' when 'v' then 'view' else 'type' end, c.oid::regclass)
    from pg_class c
    where c.relnamespace = 'sql_diffusion'::regnamespace
      and c.relkind in ('r', 'S', 'v', 'c')
    union all
    select format('%s %s', case t.typtype when 'd' then 'domain' else 'type' end, t.oid::regtype)
    from pg_type t
    where t.typnamespace = 'sql_diffusion'::regnamespace
      and t.typtype in ('d', 'e', 'r')
  loop
    execute 'alter extension sql_diffusion add ' || addition;
  end loop;
end
$_unpackaged_$;

{dump}"""

PG_TLE = """\
-- sql_diffusion {version} for pg_tle. After this: create extension sql_diffusion;
select pgtle.install_extension('sql_diffusion', '{version}', '{comment}', $_pgtle_$
{script}$_pgtle_$);
"""


def setting(control: str, name: str) -> str:
    """A text of the control file, as it is written there between the quotes."""
    found = re.search(rf"^{name} = '(.*)'$", control, re.MULTILINE)
    if not found:
        raise SystemExit(f"{CONTROL.name} has no {name}")
    return found.group(1)


def managed_sql(form: str, script: str) -> str:
    control = CONTROL.read_text(encoding="utf-8")
    version = setting(control, "default_version")
    if form == "plain":
        return PLAIN.format(version=version, script=script.replace("@extschema@", ':"schema"'))
    if form == "unpackaged":
        verbs = sorted(set(re.findall(r"^create function @extschema@\.(\w+)", script, re.MULTILINE)))
        dump = "".join(re.findall(r"^select pg_extension_config_dump\(.*?;$\n", script, re.MULTILINE | re.DOTALL))
        return UNPACKAGED.format(version=version, verbs=",".join(verbs), dump=dump)
    if "$_pgtle_$" in script:
        raise SystemExit("the install script contains $_pgtle_$, which is to enclose it")
    return PG_TLE.format(version=version, comment=setting(control, "comment"), script=script)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("plain", "pg_tle", "unpackaged"):
        raise SystemExit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(managed_sql(sys.argv[1], "".join(Path(name).read_text(encoding="utf-8") for name in sys.argv[2:])))
