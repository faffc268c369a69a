"""What the README shows to be pasted, pasted: the application's table, its INSERT, and the dozen lines that serve pictures."""

from __future__ import annotations

import re
import threading
from http.server import ThreadingHTTPServer
from typing import Any
from urllib.request import urlopen

import numpy as np
import psycopg
import pytest

from installation import ROOT
from reference import insert_model, random_unet

README = (ROOT / "README.md").read_text(encoding="utf-8")
APPLICATION = README.split("\n## In an application\n")[1].split("\n## ")[0]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)


def test_an_application(database: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    table, draw = blocks(APPLICATION, "sql")
    (server,) = blocks(APPLICATION, "python")
    definitions, serving = server.rstrip().rsplit("\n", 1)
    assert serving.endswith(".serve_forever()")
    monkeypatch.setenv("PGDATABASE", database)
    monkeypatch.setenv("PGOPTIONS", "-c sql_diffusion.model=quick -c sql_diffusion.backend=sql")
    with psycopg.connect(autocommit=True) as own:
        insert_model(own, "quick", random_unet(rng), {"_class_name": "DDPMScheduler", "num_train_timesteps": 1000})
        own.execute("""update sql_diffusion.models set defaults = '{"num_inference_steps": 2}' where name = 'quick'""")
        try:
            own.execute(table.encode())
            for statement in draw.strip().split("\n"):
                own.execute(statement.encode())
            row = own.execute("select png from pictures where seed = 42").fetchone()
            assert row is not None

            names: dict[str, Any] = {}
            exec(definitions, names)
            web = ThreadingHTTPServer(("127.0.0.1", 0), names["Pictures"])
            thread = threading.Thread(target=web.serve_forever, daemon=True)
            thread.start()
            try:
                for seed in (42, 43, 43):
                    with urlopen(f"http://127.0.0.1:{web.server_port}/{seed}") as answer:
                        assert answer.headers["Content-Type"] == "image/png"
                        png = answer.read()
                    found = own.execute("select png from pictures where seed = %s", [seed]).fetchall()
                    assert found == [(png,)]
                    assert png.startswith(b"\x89PNG")
            finally:
                web.shutdown()
                web.server_close()
        finally:
            own.execute("drop table if exists pictures; delete from sql_diffusion.models where name = 'quick'")


def test_what_is_pasted_into_a_shell_is_whole() -> None:
    """No place to fill in, no prompt."""
    for page in (README, *(file.read_text(encoding="utf-8") for file in (ROOT / "doc").glob("*.md"))):
        for block in blocks(page, "sh"):
            assert "VERSION" not in block and not block.startswith("$ "), block


def test_nothing_that_is_shown_prints_bytes() -> None:
    """A picture as a file goes through base64; in psql's own output it would be pages of hexadecimal."""
    for block in blocks(README, "sql"):
        if "ddpm_steps" in block:
            assert "image_png" not in block, block
