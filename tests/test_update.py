"""ALTER EXTENSION UPDATE, from every version that there was: the same catalogue as a fresh install, and nothing lost."""

from __future__ import annotations

import os
import re
import secrets
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
RELEASES = ROOT / "tests" / "releases"
OLD = ["1.0.0", "1.1.0"]  # their install scripts are kept, but for the model that comes with the extension
OLD_DEFAULTS = {"1.0.0": '{"scheduler": "ddpm", "num_inference_steps": 20}'}  # of that model, where they were others

# Everything that an extension has, as text, without numbers that differ from one database to the next.
CATALOGUE = {
    "members": "select pg_describe_object(d.classid, d.objid, d.objsubid) from member d",
    "functions": """select p.oid::regprocedure, case p.prokind when 'f' then pg_get_functiondef(p.oid) end, p.proacl::text,
                           obj_description(p.oid, 'pg_proc')
                    from member d join pg_proc p on d.classid = 'pg_proc'::regclass and p.oid = d.objid""",
    "aggregates": """select a.aggfnoid::regprocedure, a.aggtransfn::regproc, a.aggfinalfn::regproc, a.agginitval
                     from member d join pg_aggregate a on d.classid = 'pg_proc'::regclass and a.aggfnoid = d.objid""",
    "relations": """select c.oid::regclass, c.relkind, c.reloptions::text,
                           case when c.relkind in ('r', 'v') then coalesce(c.relacl, acldefault('r', c.relowner)) else c.relacl end::text,
                           obj_description(c.oid, 'pg_class')
                    from member d join pg_class c on d.classid = 'pg_class'::regclass and c.oid = d.objid""",
    "columns": """select c.oid::regclass, a.attnum, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage, a.attgenerated,
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
    "extension": """select e.extname, e.extversion, e.extcondition::text, array(select c::regclass::text from unnest(e.extconfig) c order by 1)
                    from pg_extension e where e.extname like 'sql_diffusion%'""",
    "shares": "select s.share, s.page from sql_diffusion.shares s",
    "model": "select m.name, m.pipeline, m.scheduler, m.defaults, m.source, m.sha256 from sql_diffusion.models m where m.bundled",
    "parameters": """select p.component, p.key, p.weight_shape, p.bias_shape, md5(p.weight::text), md5(p.bias::text)
                     from sql_diffusion.parameters p join sql_diffusion.models m on m.name = p.model
                     where m.bundled""",
    "packed kernels": """select l.component, l.key, l.row_stride, l.largest, k.out_channel, md5(k.kernels::text)
                         from sql_diffusion.packed_layers l join sql_diffusion.packed_kernels k on k.layer = l.id
                              join sql_diffusion.models m on m.name = l.model
                         where m.bundled""",
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
    model = [ROOT / "build" / "butterflies.sql"]
    parts = {
        f"sql_diffusion--{version}.sql": [RELEASES / f"sql_diffusion--{version}.sql", *model],
        f"sql_diffusion_numpy--{version}.sql": [RELEASES / f"sql_diffusion_numpy--{version}.sql"],
    }
    try:
        for name, files in parts.items():
            (folder / name).write_text("".join(file.read_text() for file in files))
        yield version
    finally:
        for name in parts:
            (folder / name).unlink(missing_ok=True)


def create_old(own: Connection[Any], version: str, *extensions: str) -> None:
    for extension in extensions:
        query = sql.SQL("create extension {} version {}")
        own.execute(query.format(sql.Identifier(extension), sql.Literal(version)))
    if version in OLD_DEFAULTS:
        own.execute(f"update sql_diffusion.models set defaults = '{OLD_DEFAULTS[version]}' where bundled")


def assert_same(ours: dict[str, list[str]], theirs: dict[str, list[str]]) -> None:
    assert len(theirs["functions"]) > 100
    for name in CATALOGUE:
        assert theirs[name], name
        assert ours[name] == theirs[name], name


def test_an_update_is_a_fresh_install(old_version: str) -> None:
    calls = {
        "a loaded model in SQL": "select public.ddpm_generate(7, 'mine', 2, backend => 'sql')",
        "a loaded model in NumPy": "select public.ddpm_generate(7, 'mine', 2, backend => 'numpy')",
        "the bundled model in NumPy": "select public.ddpm_generate(7, num_inference_steps => 2, backend => 'numpy')",
    }

    def pictures(own: Connection[Any]) -> dict[str, Any]:
        return {name: np.array(own.execute(call.encode()).fetchall()[0][0]) for name, call in calls.items()}

    unet = random_unet(np.random.default_rng())
    with new_database() as updated, new_database() as fresh:
        with psycopg.connect(dbname=updated, autocommit=True) as own:
            own.execute("create extension plpython3u")
            create_old(own, old_version, "sql_diffusion", "sql_diffusion_numpy")
            insert_model(own, "mine", unet)
            own.execute("select sql_diffusion.pack('mine')")
            packed = own.execute("select count(*) from sql_diffusion.packed_layers where model = 'mine'").fetchone()
            own.execute(
                "create view pictures as select image_png(ddpm_generate(1, num_inference_steps => 1, backend => 'numpy')) as png"
            )
            own.execute(
                "create function grey(image real[]) returns real language sql begin atomic select avg(e) from unnest(sql_diffusion.denormalize(image)) e; end"
            )
            before = pictures(own)
        with psycopg.connect(dbname=updated, autocommit=True) as own:
            own.execute("alter extension sql_diffusion update")
            own.execute("alter extension sql_diffusion_numpy update")
            ours = catalogue(own)
            after = pictures(own)
            for name in calls:
                assert np.abs(after[name] - before[name]).max() < 1 / 255, name
            assert own.execute("select grey('{{{-1,1}}}')").fetchone() == (0.5,)
            png = own.execute("select png from pictures").fetchone()
            assert png is not None and png[0].startswith(b"\x89PNG")
            shapes = own.execute(
                "select key, weight_shape, bias_shape from sql_diffusion.parameters where model = 'mine'"
            ).fetchall()
            still_packed = own.execute(
                "select count(*), sql_diffusion.pack('mine') from sql_diffusion.packed_layers where model = 'mine'"
            ).fetchone()
        with psycopg.connect(dbname=fresh, autocommit=True) as own:
            own.execute("create extension sql_diffusion_numpy cascade")
            theirs = catalogue(own)
    assert_same(ours, theirs)
    state = unet.state_dict()
    assert {(key, tuple(weight), None if bias is None else tuple(bias)) for key, weight, bias in shapes} == {
        (
            name.removesuffix(".weight"),
            tuple(weight.shape),
            tuple(bias.shape) if (bias := state.get(name.removesuffix("weight") + "bias")) is not None else None,
        )
        for name, weight in state.items()
        if name.endswith(".weight")
    }
    assert packed and still_packed and packed[0] == still_packed[0] == still_packed[1]


def test_an_update_in_pure_sql_goes_whole_or_not_at_all(old_version: str) -> None:
    """A view on a function that has another result now: PostgreSQL's own error, until the view is dropped."""
    with new_database() as updated, new_database("sql_diffusion") as fresh:
        with psycopg.connect(dbname=updated, autocommit=True) as own:
            create_old(own, old_version, "sql_diffusion")
            own.execute("create view steps as select step, timestep from ddpm_steps(1)")
            before = own.execute((MEMBERS + CATALOGUE["functions"]).encode()).fetchall()
            with pytest.raises(psycopg.errors.DependentObjectsStillExist) as error:
                own.execute("alter extension sql_diffusion update")
            assert "view public.steps depends on function public.ddpm_steps_before" in str(
                error.value.diag.message_detail
            )
            assert own.execute((MEMBERS + CATALOGUE["functions"]).encode()).fetchall() == before
            assert own.execute("select extversion from pg_extension where extname = 'sql_diffusion'").fetchone() == (
                old_version,
            )
            own.execute("drop view steps")
            own.execute("alter extension sql_diffusion update")
            ours = catalogue(own)
        with psycopg.connect(dbname=fresh, autocommit=True) as own:
            theirs = catalogue(own)
    assert_same(ours, theirs)


def test_policies_are_not_lost_without_a_word(old_version: str) -> None:
    """A view has none, and reads past those of the table behind it."""
    with new_database() as updated, psycopg.connect(dbname=updated, autocommit=True) as own:
        create_old(own, old_version, "sql_diffusion")
        own.execute("alter table sql_diffusion.parameters enable row level security")
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="has row level security"):
            own.execute("alter extension sql_diffusion update")
        own.execute("alter table sql_diffusion.parameters disable row level security")
        own.execute("alter extension sql_diffusion update")


def test_weights_stay_where_they_are(old_version: str) -> None:
    """An update writes none of them anew, and who could read or write the table of older versions can do so with the view."""
    chunks = "select t.ctid::text, t.xmin::text, t.chunk_id from {} t"
    roles = [f"sql_diffusion_{secrets.token_hex(4)}" for _ in range(2)]
    reader, loader = (sql.Identifier(role) for role in roles)
    with new_database() as updated, psycopg.connect(dbname=updated, autocommit=True) as own:
        create_old(own, old_version, "sql_diffusion")
        toast = own.execute(
            "select reltoastrelid::regclass::text from pg_class where oid = 'sql_diffusion.parameters'::regclass"
        ).fetchall()[0][0]
        before = set(own.execute(chunks.format(toast).encode()).fetchall())
        assert len(before) > 1000
        for role in (reader, loader):
            own.execute(sql.SQL("create role {}").format(role))
        try:
            own.execute("revoke select on sql_diffusion.parameters from public")
            own.execute(sql.SQL("grant select on sql_diffusion.parameters to {}").format(reader))
            own.execute(sql.SQL("grant insert, update (bias) on sql_diffusion.parameters to {}").format(loader))
            own.execute("alter extension sql_diffusion update")
            assert before <= set(own.execute(chunks.format(toast).encode()).fetchall())  # beside those of a new model
            allowed = own.execute(
                "select r.name, t.name, p.name from unnest(%s::text[]) r (name), "
                "unnest('{parameters,stored_parameters}'::text[]) t (name), unnest('{select,insert,update}'::text[]) p (name) "
                "where has_any_column_privilege(r.name, 'sql_diffusion.' || t.name, p.name)",
                [roles],
            ).fetchall()
            assert set(allowed) == {
                (roles[0], "parameters", "select"),
                (roles[1], "parameters", "insert"),
                (roles[1], "parameters", "update"),
            }
        finally:
            own.execute("reset role")
            for role in (reader, loader):
                own.execute(sql.SQL("drop owned by {}").format(role))
                own.execute(sql.SQL("drop role {}").format(role))


def test_every_older_version_has_its_install_scripts() -> None:
    kept = {file.stem for file in RELEASES.glob("*.sql")}
    assert kept == {f"{name}--{version}" for name in ("sql_diffusion", "sql_diffusion_numpy") for version in OLD}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", changes, re.MULTILINE)[1:] == OLD[::-1]
