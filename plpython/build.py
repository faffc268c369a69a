"""Print the install script of the extension sql_diffusion_numpy: the SQL files beside this one, the package in start().

What runs networks is there twice: in schema sql_diffusion_numpy, and in schema sql_diffusion_torch for PyTorch.

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
return GD["{schema}"].{call}({arguments})
$$;
comment on function {schema}.{name}({types}) is 'sql_diffusion.{name} {how}: see there.';
"""

# What runs networks
ON_TORCH = (
    "text_encoder", "network_steps", "unet_steps", "unet", "vae_decode", "vae_encode", "vae_moments", "ddpm_steps",
    "ddpm_generate", "text_to_image_steps", "text_to_image", "redraw_steps", "redraw", "finished_image", "gpt_next",
    "gpt_generate", "check_painter",
)  # fmt: skip


def complete(declaration: re.Match[str], torch: bool = False) -> str:
    """A declaration of functions.sql with a body in place of the name of its function in Python, and with a comment."""
    name, parameters, function = declaration.groups()
    schema = "sql_diffusion_torch" if torch else "sql_diffusion_numpy"
    inputs = [text.split() for text in parameters.split(",") if text.split()[:1] not in ([], ["out"])]
    types = [" ".join(words[1:]).partition(" default ")[0] for words in inputs]
    body = BODY.format(
        schema=schema,
        name=name,
        call="call" if torch else function,
        how="in PyTorch" if torch else "in NumPy",
        arguments=", ".join(["plpy", *([f'"{function}"'] if torch else []), *(words[0] for words in inputs)]),
        types=", ".join(types),
    )
    head = declaration[0].removesuffix(f"as '{function}';\n")
    return head.replace("sql_diffusion_numpy", schema, 1) + body


def main() -> None:
    schema = (HERE / "schema.sql").read_text(encoding="utf-8")
    declarations = (HERE / "functions.sql").read_text(encoding="utf-8")
    sys.stdout.write(schema.replace("@start@\n", start()) + "\n" + DECLARATION.sub(complete, declarations) + "\n")
    sys.stdout.write((HERE / "torch.sql").read_text(encoding="utf-8"))
    again = [found for found in DECLARATION.finditer(declarations) if found[1] in ON_TORCH]
    assert {found[1] for found in again} == set(ON_TORCH)
    sys.stdout.write("\n".join(complete(found, torch=True) for found in again))


if __name__ == "__main__":
    main()
