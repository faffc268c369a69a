"""Records the terminal session that the README shows, as a picture.

scripts/private-cluster python scripts/record_session.py doc/pictures/session.png

Runs the commands below in a database with both extensions and draws what they print, colours included: as text by rich,
as a picture by resvg (pip install resvg-py).
"""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys
from pathlib import Path

import resvg_py
from rich.console import Console
from rich.text import Text

SESSION = (
    ("sql-diffusion load models/butterflies --name mine", None),
    ("sql-diffusion show mine", 7),
    ("sql-diffusion generate --model mine --seed 42 -o picture.png --ansi", None),
)
PACKAGES = os.pathsep.join(str(Path(__file__).parent.parent / folder) for folder in ("scripts", "plpython"))
WIDTH = 104  # characters
PIXELS = 1100
FONT = "DejaVu Sans Mono"  # its half blocks fill their cells


def main(target: str) -> None:
    subprocess.run(
        ["psql", "--quiet", "--command=create extension if not exists sql_diffusion_numpy cascade"], check=True
    )
    screen = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    for command, lines in SESSION:
        screen.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
        arguments = shlex.split(command)[1:]
        ran = subprocess.run(
            [sys.executable, "-m", "sql_diffusion", *arguments],
            env={**os.environ, "COLUMNS": str(WIDTH), "PYTHONPATH": PACKAGES},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        shown = ran.stdout.replace(str(Path.cwd()), "~/sql_diffusion").splitlines()
        for line in shown[:lines]:
            screen.print(Text.from_ansi(line))
        if lines and len(shown) > lines:
            screen.print(Text("...", "dim"))
        screen.print()
    Path("picture.png").unlink()
    svg = screen.export_svg(title="sql-diffusion").replace("Fira Code", FONT)
    Path(target).write_bytes(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=PIXELS)))


if __name__ == "__main__":
    main(sys.argv[1])
