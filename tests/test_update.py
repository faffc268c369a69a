"""ALTER EXTENSION UPDATE, from every version that there was: the same catalogue as a fresh install, and nothing lost."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import Connection, sql

from databases import new_database
from reference import insert_model, random_unet

ROOT = Path(__file__).parent.parent
OLD = ["1.0.0"]  # tests/releases has their install scripts, but for the model that comes with the extension
OLD_DEFAULTS = {"1.0.0": '{"scheduler": "ddpm", "num_inference_steps": 20}'}  # of that model

# Everything that an extension has, as text, without numbers that differ from one database to the next.
CATALOGUE = {
    "members": "select pg_describe_object(d.classid, d.objid, d.objsubid) from member d",
    "functions": """select p.oid::regprocedure, case p.prokind when 'f' then pg_get_functiondef(p.oid) end, p.proacl::text,
                           obj_description(p.oid, 'pg_proc')
                    from member d join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid""",
    "aggregates": """select a.aggfnoid::regprocedure, a.aggtransfn::regproc, a.aggfinalfn::regproc, a.agginitval
                     from member d join pg_aggregate a on d.classid = 'pg_proc'::regclass and a.aggfnoid = d.objid""",
    "relations": """select c.oid::regclass, c.relkind, c.reloptions::text, c.relacl::text, obj_description(c.oid, 'pg_class')
                    from member d join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid""",
    "columns": """select c.oid::regclass, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage,
                         pg_get_expr(f.adbin, f.adrelid), col_description(c.oid, a.attnum)
                  from member d join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid
                       join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
                       left join pg_attrdef f on f.adrelid = c.oid and f.adnum = a.attnum""",
    "constraints": """select n.conrelid::regclass, n.conname, pg_get_constraintdef(n.oid)
                      from member d join pg_constraint n on d.classid = 'pg_class'::regclass and n.conrelid = d.objid""",
    "indexes": """select pg_get_indexdef(i.indexrelid)
                  from member d join pg_index i on d.classid = 'pg_class'::regclass and i.indrelid = d.objid""",
    "triggers": """select pg_get_triggerdef(t.oid), t.tgenabled
                   from member d join pg_trigger t on d.classid = 'pg_class'::regclass and t.tgrelid = d.objid
                   where not t.tgisinternal""",
    "types": """select t.oid::regtype, t.typtype, obj_description(t.oid, 'pg_type')
                from member d join pg_type t on d.classid = 'pg_type'::regclass and t.oid = d.objid""",
    "schemas": """select n.nspname, n.nspacl::text, obj_description(n.oid, 'pg_namespace')
                  from member d join pg_namespace n on d.classid = 'pg_namespace'::regclass and n.oid = d.objid""",
    "extension": """select e.extname, e.extversion, e.extcondition::text, array(select c::regclass::text from unnest(e.extconfig) c)
                    from pg_extension e where e.extname like 'sql_diffusion%'""",
    "shares": "select s.share, s.page from sql_diffusion.shares s",
    "model": "select m.name, m.pipeline, m.scheduler, m.defaults, m.source, m.sha256 from sql_diffusion.models m where m.bundled",
}
MEMBERS = """
with member as (
  select d.classid, d.objid, d.objsubid
  from pg_depend d
       join pg_extension e on d.refclassid = 'pg_extension'::regclass and e.oid = d.refobjid
  where d.deptype = 'e'
    and e.extname like 'sql_diffusion%'
)
"""


def catalogue(connection: Connection[Any]) -> dict[str, list[str]]:
    return {
        name: sorted(map(str, connection.execute((MEMBERS + query).encode()).fetchall()))
        for name, query in CATALOGUE.items()
    }


@pytest.fixture(scope="module", params=OLD)
def old_version(request: pytest.FixtureRequest) -> Iterator[str]:
    """A version whose install scripts the server has while the tests run."""
    version = str(request.param)
    pg_config = os.environ.get("PG_CONFIG", "pg_config")
    sharedir = subprocess.run([pg_config, "--sharedir"], check=True, capture_output=True, text=True).stdout.strip()
    folder = Path(sharedir) / "extension"
    if not os.access(folder, os.W_OK):
        pytest.skip(f"older versions are put into {folder}, which only its owner can write")
    releases = ROOT / "tests" / "releases"
    model = [ROOT / "build" / "butterflies.sql", ROOT / "sql" / "pack_bundled.sql"]
    parts = {
        f"sql_diffusion--{version}.sql": [releases / f"sql_diffusion--{version}.sql", *model],
        f"sql_diffusion_numpy--{version}.sql": [releases / f"sql_diffusion_numpy--{version}.sql"],
    }
    try:
        for name, files in parts.items():
            (folder / name).write_text("".join(file.read_text() for file in files))
        yield version
    finally:
        for name in parts:
            (folder / name).unlink(missing_ok=True)


def test_an_update_is_a_fresh_install(old_version: str) -> None:
    call = "select public.ddpm_generate(7, 'mine', 2, backend => %s)"
    unet = random_unet(np.random.default_rng())
    with new_database() as updated, new_database() as fresh:
        with psycopg.connect(dbname=updated, autocommit=True) as own:
            own.execute("create extension plpython3u")
            for extension in ("sql_diffusion", "sql_diffusion_numpy"):
                query = sql.SQL("create extension {} version {}")
                own.execute(query.format(sql.Identifier(extension), sql.Literal(old_version)))
            own.execute(f"update sql_diffusion.models set defaults = '{OLD_DEFAULTS[old_version]}' where bundled")
            insert_model(own, "mine", unet)
            own.execute("select sql_diffusion.pack('mine')")
            own.execute("create view pictures as select image_png(ddpm_generate(1)) as png")
            pictures = [own.execute(call, [backend]).fetchone() for backend in ("sql", "numpy")]
        with psycopg.connect(dbname=updated, autocommit=True) as own:
            own.execute("alter extension sql_diffusion update")
            own.execute("alter extension sql_diffusion_numpy update")
            ours = catalogue(own)
            for backend, before in zip(("sql", "numpy"), pictures, strict=True):
                after = own.execute(call, [backend]).fetchone()
                assert before is not None and after is not None
                assert np.abs(np.array(after[0]) - np.array(before[0])).max() < 1 / 255
        with psycopg.connect(dbname=fresh, autocommit=True) as own:
            own.execute("create extension sql_diffusion_numpy cascade")
            theirs = catalogue(own)
    assert len(theirs["functions"]) > 100
    for name in CATALOGUE:
        assert theirs[name], name
        assert ours[name] == theirs[name], name


def test_every_older_version_has_its_update() -> None:
    updates = {file.stem for file in (ROOT / "sql" / "updates").glob("*.sql")}
    assert updates == {f"{name}--{version}" for name in ("sql_diffusion", "sql_diffusion_numpy") for version in OLD}
