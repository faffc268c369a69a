"""Write doc/reference.md, in a database of its own: every table, type and function with its comment.

    make reference

Standard library and psql only. The comments are those of COMMENT ON, so that psql's \\df+ and \\d+ say the same.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

HEAD = """# Reference

What `create extension sql_diffusion` makes, in the order in which the source reads. The text is that of the objects'
own comments, which `\\df+` and `\\d+` show in psql.

A tensor is a `real[]` whose dimensions are its shape, channels first: an image is `real[3][64][64]`, the weight of a
convolution `real[out][in][height][width]`. There is no batch dimension: a batch is rows. Every function refuses arrays
that hold NULL, NaN or infinite values, that are empty, or whose subscripts do not begin at 1. Where a function says
nothing else it returns NULL for a NULL argument.

| SQLSTATE | meaning |
| --- | --- |
| 22023 | an argument is wrong; the message names it, what came and what was expected |
| 42704 | no such model |
| 55000 | the model is unfinished, or the backend is not installed |
| 0A000 | a setting of a checkpoint that is not supported |
"""

# file or folder of sql/, title of its section
SECTIONS = {
    "verbs": "What people type",
    "images": "Pictures",
    "tables": "Tables",
    "pipeline": "Sampling",
    "text_to_image": "A picture from a prompt",
    "redraw": "A picture from a picture",
    "gpt": "Text",
    "jobs": "A queue of jobs",
    "schedulers": "Schedulers",
    "networks": "Networks",
    "operations": "Operations",
    "layers": "Layers",
    "tokenizers": "Tokenizers",
    "tensors": "Tensors",
    "random": "Random numbers",
    "packed": "Packed kernels",
    "parallel": "Parallel workers",
    "progress": "Progress",
    "errors": "Errors",
}

OBJECTS = """
select json_agg(o order by o.oid)
from (
  select p.oid, 'function' as kind, n.nspname as schema, p.proname as name,
    pg_get_function_arguments(p.oid) as arguments, pg_get_function_result(p.oid) as result,
    obj_description(p.oid, 'pg_proc') as comment, null::json as columns
  from pg_depend d
    join pg_proc p on p.oid = d.objid
    join pg_namespace n on n.oid = p.pronamespace
  where d.classid = 'pg_proc'::regclass and d.deptype = 'e'
    and d.refobjid = (select e.oid from pg_extension e where e.extname = 'sql_diffusion')
  union all
  select c.oid, case c.relkind when 'r' then 'table' when 'v' then 'view' else 'type' end, n.nspname, c.relname,
    null, null,
    coalesce(obj_description(c.oid, 'pg_class'), obj_description(c.reltype, 'pg_type')),
    (select json_agg(json_build_object('name', a.attname, 'type', format_type(a.atttypid, a.atttypmod),
        'comment', col_description(c.oid, a.attnum)) order by a.attnum)
     from pg_attribute a
     where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
  from pg_class c
    join pg_namespace n on n.oid = c.relnamespace
  where c.relkind in ('r', 'v', 'c')
    and exists (
      select from pg_depend d
      where d.deptype = 'e' and d.refobjid = (select e.oid from pg_extension e where e.extname = 'sql_diffusion')
        and d.objid in (c.oid, c.reltype))
) o
"""


def sections_of_names() -> dict[tuple[str, str], str]:
    """The section of each (schema, name): the file that defines it, or the folder in sql/ that the file is in."""
    joined = {
        "pack": "packed", "schedule": "schedulers", "scheduler_registry": "schedulers", "plan": "networks",
        "network": "networks", "autoencoders": "networks", "blocks": "networks", "parameters": "tables",
    }  # fmt: skip
    found = {}
    files = [*(ROOT / "sql").glob("*.sql"), *(ROOT / "sql").glob("[!u]*/*.sql")]  # not the updates
    made = [ROOT / "build" / f"{name}.sql" for name in ("operations", "networks", "scheduler_registry")]
    for file in sorted(files) + made:
        place = file.stem if file.parent.name in ("sql", "build") else file.parent.name
        section = joined.get(place, place)
        pattern = r"^create (?:function|procedure|aggregate|table|type|view) (sql_diffusion|@extschema@)\.(\w+)"
        for schema, name in re.findall(pattern, file.read_text(encoding="utf-8"), re.MULTILINE):
            if section not in SECTIONS:
                raise SystemExit(f"{file.name} defines {name} and has no section in the reference: add one to SECTIONS")
            found["public" if schema == "@extschema@" else schema, name] = section
    return found


def read_objects() -> list[dict[str, Any]]:
    """What the extension of the database that PGDATABASE names has made; it is in the schema public there."""
    psql = ["psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", OBJECTS]
    text = subprocess.run(psql, check=True, stdout=subprocess.PIPE, text=True, env=os.environ).stdout
    objects: list[dict[str, Any]] = json.loads(text)
    return objects


def entry(item: dict[str, Any]) -> Iterable[str]:
    # default null, not DEFAULT NULL::text
    arguments = re.sub(
        r" DEFAULT (NULL|\S+?)(?:::[\w\[\] ]+?)?(?=,|$)",
        lambda m: f" default {m[1].replace('NULL', 'null')}",
        item["arguments"] or "",
    )
    name = item["name"] if item["schema"] == "public" else f"{item['schema']}.{item['name']}"
    if item["kind"] == "function":
        yield f"**`{name}({arguments})`**" + (f" → `{item['result']}`" if item["result"] else ", a procedure")
    else:
        yield f"**{item['kind']} `{name}`**"
    yield ""
    yield item["comment"] or ""
    yield ""
    if item["columns"]:
        yield "| column | type | |"
        yield "| --- | --- | --- |"
        for column in item["columns"]:
            yield f"| `{column['name']}` | `{column['type']}` | {column['comment'] or ''} |"
        yield ""


def reference() -> str:
    sections = sections_of_names()
    # what people type comes first in each section
    objects = sorted(read_objects(), key=lambda item: item["schema"] != "public")
    lines = [HEAD]
    for section, title in SECTIONS.items():
        lines += [f"## {title}", ""]
        for item in objects:
            if sections[item["schema"], item["name"]] == section:
                lines += entry(item)
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    subprocess.run(["psql", "--no-psqlrc", "--quiet", "--command", "create extension sql_diffusion"], check=True)
    print(reference(), end="")


if __name__ == "__main__":
    main()
