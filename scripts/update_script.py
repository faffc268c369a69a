"""Print the script of ALTER EXTENSION UPDATE from an older version of sql_diffusion or sql_diffusion_numpy.

    python3 scripts/update_script.py sql/updates/1.0.0--1.1.0.sql sql/schema.sql sql/tensors.sql ...

The first file says what is done by hand: to tables, types, triggers and what else can hold data, and to functions that
are no more. At its line "-- functions" come all functions of the other files, the extension's source, as they are now,
with CREATE OR REPLACE, so that whatever uses them stays. A line "-- type NAME" becomes the type that the source makes, with its
comments. Standard library only.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MARK = "-- functions\n"
# A function ends with its body: "end;" of BEGIN ATOMIC, the quote's end, or the first line that ends in a semicolon. A
# comment, grant or revoke ends with such a line.
FUNCTION = re.compile(
    r"^create function .*?(?:^begin atomic\n.*?^end;|^as (\$\w*\$).*?^\1;|^return\b.*?;$|;$)\n",
    re.DOTALL | re.MULTILINE,
)
STATEMENT = re.compile(r"^(?:comment on function|grant execute|revoke execute) .*?;$\n", re.DOTALL | re.MULTILINE)


def with_types(script: str, source: str) -> str:
    """The script, with the types that its lines "-- type NAME" name."""

    def definition(line: re.Match[str]) -> str:
        name = re.escape(line[1])
        pattern = rf"^create type {name} as .*?;$\n|^comment on (?:type {name}|column {name}\.\w+) is.*?;$\n"
        statements = [match[0] for match in re.finditer(pattern, source, re.DOTALL | re.MULTILINE)]
        if not statements:
            raise SystemExit(f"the source has no type {line[1]}")
        return "".join(statements)

    return re.sub(r"^-- type (\S+)$\n", definition, script, flags=re.MULTILINE)


def functions(source: str) -> Iterator[str]:
    """The statements that make and describe functions, in their order."""
    place = 0
    while True:
        found = [match for pattern in (FUNCTION, STATEMENT) if (match := pattern.search(source, place))]
        if not found:
            return
        first = min(found, key=lambda match: match.start())
        yield first[0].replace("create function", "create or replace function", 1)
        place = first.end()


def main() -> None:
    by_hand, *sources = (Path(name).read_text(encoding="utf-8") for name in sys.argv[1:])
    before, mark, after = by_hand.partition(MARK)
    if not mark:
        raise SystemExit(f"{sys.argv[1]} has no line {MARK!r}")
    sys.stdout.write(with_types(before, "".join(sources)))
    for source in sources:
        for statement in functions(source):
            sys.stdout.write(statement + "\n")
    sys.stdout.write(after)


if __name__ == "__main__":
    main()
