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


DECLARATION = re.compile(r"create function sql_diffusion_numpy\.(\w+)\(([^()]*)\).*?\nas '(\w+)';\n", re.DOTALL)
BODY = """as $$
if "sql_diffusion_numpy" not in GD:
    plpy.execute("select sql_diffusion_numpy.start()")
return GD["sql_diffusion_numpy"].{function}({arguments})
$$;
comment on function sql_diffusion_numpy.{name}({types}) is 'sql_diffusion.{name} in NumPy: see there.';
"""


def complete(declaration: re.Match[str]) -> str:
    """A declaration of functions.sql with a body in place of the name of its function in Python, and with a comment."""
    name, parameters, function = declaration.groups()
    inputs = [text.split() for text in parameters.split(",") if text.split()[0] != "out"]
    types = [" ".join(words[1:]).partition(" default ")[0] for words in inputs]
    body = BODY.format(
        name=name,
        function=function,
        arguments=", ".join(["plpy", *(words[0] for words in inputs)]),
        types=", ".join(types),
    )
    return declaration[0].removesuffix(f"as '{function}';\n") + body


def main() -> None:
    schema = (HERE / "schema.sql").read_text(encoding="utf-8")
    functions = DECLARATION.sub(complete, (HERE / "functions.sql").read_text(encoding="utf-8"))
    sys.stdout.write(schema.replace("@start@\n", start()) + "\n" + functions)


if __name__ == "__main__":
    main()
