"""Writes the pure-SQL extension for servers where no file can be put, such as those of managed clouds.

    managed_sql.py plain FILE ...     for `psql --file`: makes everything in one transaction, without CREATE EXTENSION
    managed_sql.py pg_tle FILE ...    hands the install script to pg_tle, whose CREATE EXTENSION finds it from then on

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
-- SCHEMA, public by default, gets the functions that people type; everything else is in the schema sql_diffusion.
-- To remove it all, the loaded models too:  drop schema sql_diffusion cascade
\\set ON_ERROR_STOP on
\\if :{{?schema}}
\\else
  \\set schema public
\\endif
begin;
set local client_encoding to 'UTF8';
set local client_min_messages to warning;

{script}
commit;
"""

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
    if "$_pgtle_$" in script:
        raise SystemExit("the install script contains $_pgtle_$, which is to enclose it")
    return PG_TLE.format(version=version, comment=setting(control, "comment"), script=script)


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("plain", "pg_tle"):
        raise SystemExit(__doc__)
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(managed_sql(sys.argv[1], "".join(Path(name).read_text(encoding="utf-8") for name in sys.argv[2:])))
