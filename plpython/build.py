"""Print the install script of the extension sql_diffusion_numpy: the SQL files beside this one, the package in start().

Standard library only, so that building the extension needs nothing but Python.

    python3 plpython/build.py > build/sql_diffusion_numpy--VERSION.sql
"""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
QUOTE = "$sql_diffusion_numpy$"


def sources() -> dict[str, str]:
    """Name of a module -> its source; a package's name ends in a dot."""
    found = {}
    for path in sorted((HERE / "sql_diffusion_numpy").rglob("*.py")):
        name = ".".join(path.relative_to(HERE).with_suffix("").parts)
        found[re.sub(r"\.__init__$", ".", name)] = path.read_text(encoding="utf-8")
    return found


def start() -> str:
    control = (HERE.parent / "extension" / "sql_diffusion_numpy.control").read_text(encoding="utf-8")
    version = re.search(r"^default_version = '(.*)'", control, re.MULTILINE)
    assert version is not None
    package = "{\n" + "".join(f"    {name!r}: {source!r},\n" for name, source in sources().items()) + "}"
    body = (HERE / "start.py").read_text(encoding="utf-8")
    body = body.replace('"@version@"', repr(version[1])).replace('"@sources@"', package)
    assert QUOTE not in body
    return body


def main() -> None:
    schema = (HERE / "schema.sql").read_text(encoding="utf-8")
    functions = (HERE / "functions.sql").read_text(encoding="utf-8")
    sys.stdout.write(schema.replace("@start@\n", start()) + "\n" + functions)


if __name__ == "__main__":
    main()
