"""Print the script of ALTER EXTENSION UPDATE from an older version of sql_diffusion or sql_diffusion_numpy.

    python3 scripts/update_script.py --from 1.0.0 --to VERSION --release tests/releases/sql_diffusion--1.0.0.sql
        --by-hand sql/updates/sql_diffusion.sql sql/schema.sql sql/errors.sql ...

The release, the older version's install script, is compared with the present one, the files at the end one after the other. The update
is the present script without what the older version has in the same words, and:

- Functions come with CREATE OR REPLACE, all of them, since a body is bound to the functions that it calls: whatever uses a function
  keeps it. Where that cannot be, as arguments or results are others, and where a function, aggregate or type is no more, the old one
  makes room by another name first and is dropped at the end, when nothing of ours uses it. Where something of a user's does,
  PostgreSQL says so, and the update has not happened.
- Constraints, triggers and indexes that are no more, or others, are dropped first.
- An extension that requires another, --requires RELEASE SCRIPT, can have functions of the other's types: types that make room in the
  other's update are dropped in its own.
- Tables that have changed are altered by hand, for the sake of what they hold: sql/updates says how, in sections that begin with one of

    -- first:
    -- in place of create table NAME:
    -- last:

  A section that begins with "-- last, from 1.0.0:" is for the update from that version alone. A line

    -- @extschema@.f(integer) is now sql_diffusion.g

  keeps a function under another name, for whatever uses it, and a line

    -- table sql_diffusion.t is now sql_diffusion.u

  a table; what stands in its place under its old name is a thing of its own.

Standard library only.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

STATEMENT = re.compile(
    r"(?:--[^\n]*|'[^']*'|\"[^\"]*\"|(\$\w*\$).*?\1|^begin atomic$.*?^end(?=;)|[^;])*?;",
    re.DOTALL | re.MULTILINE,
)
ROUTINE = re.compile(r"create (?:function|procedure|aggregate) ([^\s(]+)\s*\(")
NAMED = {  # statements that make a thing which is compared by its text
    "schema": re.compile(r"create schema (\S+)"),
    "type": re.compile(r"create type (\S+)"),
    "table": re.compile(r"create table (\S+)"),
    "view": re.compile(r"create view (\S+)"),
    "index": re.compile(r"create (?:unique )?index (\w+) on (\S+)"),
    "trigger": re.compile(r"create trigger (\w+)\s.*?\son (\S+)", re.DOTALL),
    "constraint": re.compile(r"alter table (\S+)\s+add constraint (\w+)\b"),
    "data": re.compile(r"insert into (\S+)"),
    "dump": re.compile(r"select pg_extension_config_dump\('(\S+)'"),
}
# what can be said twice
AGAIN = re.compile(r"comment on|grant|revoke|set local|alter table")
RENAMED = re.compile(r"^-- (\S+)\((.*)\) is now (\S+)$\n", re.MULTILINE)
RENAMED_TABLE = re.compile(r"^-- table (\S+) is now (\S+)$\n", re.MULTILINE)
SECTION = re.compile(r"^-- (first|last|in place of create table \S+?)(?:, from ([\d.]+))?:\n", re.MULTILINE)


def statements(script: str) -> Iterator[str]:
    """Its statements, without the comments that stand before them."""
    for match in STATEMENT.finditer(script):
        yield re.sub(r"\A(?:\s+|--[^\n]*)*", "", match[0])


class Parameter(NamedTuple):
    mode: str
    name: str
    type: str
    default: bool


class Routine(NamedTuple):
    """A function or an aggregate, as far as CREATE OR REPLACE cares."""

    name: str
    aggregate: bool
    parameters: tuple[Parameter, ...]
    result: str

    @property
    def inputs(self) -> tuple[Parameter, ...]:
        return tuple(one for one in self.parameters if one.mode != "out")

    @property
    def types(self) -> tuple[str, ...]:
        return tuple(one.type for one in self.inputs)

    def replaces(self, old: Routine) -> bool:
        """Whether CREATE OR REPLACE makes this of the old one with the same name and the same types."""
        return (
            not (self.aggregate or old.aggregate)
            and self.result == old.result
            and [one[:3] for one in self.parameters] == [one[:3] for one in old.parameters]
            and all(new.default or not one.default for new, one in zip(self.inputs, old.inputs, strict=True))
        )


def split(text: str) -> list[str]:
    """The parts between commas outside of brackets and quotes."""
    parts, depth = [""], 0
    for token in re.findall(r"'[^']*'|\"[^\"]*\"|--[^\n]*|.", text, re.DOTALL):
        if token.startswith("--"):
            continue
        depth += (token in ("(", "[")) - (token in (")", "]"))
        if token == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += token
    return [" ".join(part.split()) for part in parts if part.strip()]


def routine(statement: str) -> Routine | None:
    """What the statement makes, if it is a function or an aggregate."""
    head = ROUTINE.match(statement)
    if not head:
        return None
    end, depth = head.end(), 1
    for token in re.compile(r"'[^']*'|[()]|[^'()]+").finditer(statement, head.end()):
        depth += (token[0] == "(") - (token[0] == ")")
        end = token.end()
        if depth == 0:
            break
    aggregate = statement.startswith("create aggregate")
    parameters = []
    for text in split(statement[head.end() : end - 1]):
        declared, default, _ = re.sub(r"\s+(?:default|=)\s+", "\0", text, count=1).partition("\0")
        declared = re.sub(r"\bint\b", "integer", declared)
        mode = re.match(r"(?:(in|out|inout|variadic) )?", declared)
        assert mode is not None
        words = declared[mode.end() :]
        name, _, type_ = ("", "", words) if aggregate else words.partition(" ")
        parameters.append(Parameter(mode[1] or "in", name, type_, bool(default)))
    result = "" if aggregate else re.split(r"\slanguage\s", statement[end:], maxsplit=1)[0]
    return Routine(head[1], aggregate, tuple(parameters), " ".join(result.split()))


def mentions(text: str, names: Iterable[str]) -> bool:
    return any(re.search(rf"(?<![\w.@]){re.escape(name)}(?!\w)", text) for name in names)


def thing(statement: str) -> tuple[str, tuple[str, ...]] | None:
    """The kind and the name of what the statement makes, if it is none of the functions."""
    return next(((kind, match.groups()) for kind, by in NAMED.items() if (match := by.match(statement))), None)


def sections(by_hand: str, version: str) -> dict[str, str]:
    _, *parts = SECTION.split(by_hand)
    found: dict[str, str] = {}
    for title, only, text in zip(parts[::3], parts[1::3], parts[2::3], strict=True):
        if only is None or only == version:
            found[title] = found.get(title, "") + text.strip() + "\n\n"
    return found


def renamed(old: list[str], by_hand: str) -> Iterator[tuple[str, str]]:
    """The old statements as if functions and tables had had their new names, each with what renames it, if anything."""
    for name, new in RENAMED_TABLE.findall(by_hand):
        if not any(thing(text) == ("table", (name,)) for text in old):
            continue  # a version that has it under its new name
        old = [re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", new, text) for text in old]
        yield "", f"alter table {name} rename to {new.rpartition('.')[2]};\n"
    names = {(name, tuple(types.split(", ") if types else [])): new for name, types, new in RENAMED.findall(by_hand)}
    for text in old:
        one = routine(text)
        new = names.pop((one.name, one.types), None) if one else None
        if one is None or new is None:
            yield text, ""
            continue
        (schema, _, _), (new_schema, _, new_name) = one.name.partition("."), new.partition(".")
        types = ", ".join(one.types)
        rename = f"alter function {one.name}({types}) rename to {new_name};\n"
        if schema != new_schema:
            rename += f"alter function {schema}.{new_name}({types}) set schema {new_schema};\n"
        yield text.replace(one.name, new, 1), rename
    if names:
        raise SystemExit(f"sql/updates renames what was not there: {', '.join(name for name, _ in names)}")


def changed_types(old: list[str], new: list[str]) -> list[str]:
    """The old types that are no more, or others, and those that use them."""
    types = {made[1][0]: text for text in old if (made := thing(text)) and made[0] == "type"}
    changed: list[str] = []
    while found := [
        name for name, text in types.items() if name not in changed and (text not in new or mentions(text, changed))
    ]:
        changed += found
    return changed


def gone_routines(old: list[str], new: list[str], types: list[str]) -> list[Routine]:
    """The old functions and aggregates that CREATE OR REPLACE cannot make into new ones; the types are those that have changed."""
    after = {(one.name, one.types): (one, text) for text in new if (one := routine(text))}
    gone: list[Routine] = []
    # the aggregates after the functions that they use
    for before, text in sorted(
        ((one, text) for text in old if (one := routine(text))), key=lambda pair: pair[0].aggregate
    ):
        now, now_text = after.get((before.name, before.types), (None, ""))
        if before.aggregate:
            kept = text == now_text and not mentions(text, [one.name for one in gone])
        else:
            kept = now is not None and now.replaces(before)
        if not kept or mentions(" ".join([*before.types, before.result]), types):
            gone.append(before)
    return gone


class Room:
    """The other names, until the end of the update, of what is no more."""

    def __init__(self, version: str, types: list[str]) -> None:
        self.suffix = "_before_" + version.replace(".", "_")
        self.types = types

    def name(self, name: str) -> str:
        other = name.rpartition(".")[2] + self.suffix
        if len(other) > 63:
            raise SystemExit(f"{other} is too long for a name")
        return other

    def path(self, name: str) -> str:
        return f"{name.rpartition('.')[0]}.{self.name(name)}"

    def arguments(self, one: Routine) -> str:
        arguments = ", ".join(one.types)
        for name in self.types:
            arguments = re.sub(rf"(?<![\w.]){re.escape(name)}(?!\w)", self.path(name), arguments)
        return arguments


def update(
    version: str, old: list[str], new: list[str], by_hand: dict[str, str], required_types: list[str]
) -> Iterator[str]:
    """The statements of the update to a version; required_types have their other names already, in the extension that is required."""
    types = changed_types(old, new)
    gone = gone_routines(old, new, types + required_types)
    displaced = types + [one.name for one in gone]
    things = {text: made for text in old if (made := thing(text))}
    stays = {text for text in things if text in new and not mentions(text, displaced)}
    stays |= {text for text in old if (one := routine(text)) and one.aggregate and one not in gone}
    tables = {made[1] for made in things.values() if made[0] == "table"}

    yield by_hand.pop("first", "")
    for text, (kind, names) in things.items():
        if text in stays:
            continue
        if kind == "constraint":
            for name in re.findall(r"\badd constraint (\w+)", text):
                yield f"alter table {names[0]} drop constraint {name};"
        elif kind == "trigger":
            yield f"drop trigger {names[0]} on {names[1]};"
        elif kind == "index":
            yield f"drop index {names[1].rpartition('.')[0]}.{names[0]};"
    room = Room(version, required_types)
    for one in gone:
        yield f"alter routine {one.name}({room.arguments(one)}) rename to {room.name(one.name)};"
    for name in types:
        yield f"alter type {name} rename to {room.name(name)};"
    yield ""

    for text in new:
        made = thing(text)
        if text in stays:
            continue
        if made and made[0] == "table" and made[1] in tables:
            section = f"in place of create table {made[1][0]}"
            if section not in by_hand:
                raise SystemExit(f'table {made[1][0]} has changed: sql/updates has no section "-- {section}:"')
            yield by_hand.pop(section)
        elif made or routine(text) or AGAIN.match(text):
            yield re.sub(r"\Acreate (function|procedure)", r"create or replace \1", text) + "\n"
        else:
            raise SystemExit(f"an update cannot have this: {text[:200]}")

    room = Room(version, required_types + types)
    if gone:
        yield "drop routine\n  " + ",\n  ".join(f"{room.path(one.name)}({room.arguments(one)})" for one in gone) + ";\n"
    if types:
        yield DROP_TYPES.format(types=", ".join(map(room.path, types)))
    if required_types:
        yield DROP_REQUIRED_TYPES.format(types=", ".join(f"'{room.path(name)}'" for name in required_types))
    yield by_hand.pop("last", "")
    if by_hand:
        raise SystemExit(f"sql/updates has sections for what has not changed: {', '.join(by_hand)}")


DROP_TYPES = """\
-- Functions of sql_diffusion_numpy have some of these types until it is updated, too: its update drops them.
do $$
begin
  if not exists (select from pg_extension where extname = 'sql_diffusion_numpy') then
    drop type {types};
  end if;
end
$$;
"""
DROP_REQUIRED_TYPES = """\
-- Types that the functions of this extension were the last to have.
do $$
declare
  type text;
begin
  foreach type in array array[{types}]
  loop
    if to_regtype(type) is not null then
      execute format('alter extension sql_diffusion drop type %s', type);
      execute format('drop type %s', type);
    end if;
  end loop;
end
$$;
"""


def main() -> None:
    parser = ArgumentParser(usage=__doc__)
    parser.add_argument("--from", dest="older", required=True)
    parser.add_argument("--to", dest="version", required=True)
    parser.add_argument("--release", type=Path, required=True)
    parser.add_argument("--by-hand", type=Path)
    parser.add_argument("--requires", type=Path, nargs=2)
    parser.add_argument("script", type=Path, nargs="+")
    options = parser.parse_args()

    def read(*files: Path) -> list[str]:
        return list(statements("".join(file.read_text(encoding="utf-8") for file in files)))

    required_types = changed_types(*map(read, options.requires)) if options.requires else []
    by_hand = options.by_hand.read_text(encoding="utf-8") if options.by_hand else ""
    print(f"-- From {options.older} to {options.version}, by scripts/update_script.py.\n")
    old, renames = zip(*renamed(read(options.release), by_hand), strict=True)
    print("".join(renames), end="")
    hand = sections(RENAMED_TABLE.sub("", RENAMED.sub("", by_hand)), options.older)
    for statement in update(options.version, list(old), read(*options.script), hand, required_types):
        print(statement)


if __name__ == "__main__":
    main()
