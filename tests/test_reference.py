"""doc/reference.md says what the database says: every table, type and function as it is now."""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import Connection

import reference_doc

ROOT = Path(__file__).resolve().parent.parent


def test_reference_is_up_to_date(connection: Connection, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGDATABASE", database)
    written = (ROOT / "doc" / "reference.md").read_text(encoding="utf-8")
    assert written == reference_doc.reference(), "run: make reference"


def test_everything_has_a_comment(connection: Connection) -> None:
    rows = connection.execute(
        """select pg_describe_object(d.classid, d.objid, 0)
           from pg_depend d
           where d.deptype = 'e'
             and d.refobjid = (select e.oid from pg_extension e where e.extname = 'sql_diffusion')
             and (d.classid in ('pg_proc'::regclass, 'pg_namespace'::regclass)
               or d.classid = 'pg_class'::regclass and exists (
                 select from pg_class c where c.oid = d.objid and c.relkind in ('r', 'v', 'c')))
             and obj_description(d.objid, d.classid::regclass::name) is null
           union all
           select format('column %s of %s', a.attname, a.attrelid::regclass)
           from pg_depend d
                join pg_attribute a on a.attrelid = d.objid
           where d.deptype = 'e'
             and d.classid = 'pg_class'::regclass
             and d.refobjid = (select e.oid from pg_extension e where e.extname = 'sql_diffusion')
             and exists (select from pg_class c where c.oid = d.objid and c.relkind in ('r', 'v'))
             and a.attnum > 0
             and not a.attisdropped
             and col_description(a.attrelid, a.attnum) is null"""
    ).fetchall()
    assert rows == []
