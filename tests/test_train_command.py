"""sql-diffusion train: from a table of pictures to a model that draws, whatever comes between."""

from __future__ import annotations

import io
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

import helper_command as command
from databases import new_database
from draw_butterflies import draw_butterfly

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")
from safetensors.torch import load_file  # noqa: E402

from sql_diffusion import training  # noqa: E402

SIZE = 16
TINY: list[object] = ["--size", SIZE, "--channels", "8,16", "--batch", 8, "--snapshot-every", 4, "--snapshot-count", 2]
QUERY = "select picture as image from pictures order by id"


@pytest.fixture(scope="module")
def shop() -> Iterator[str]:
    """A database with a table of 200 small pictures, PNG and JPEG."""
    with new_database("sql_diffusion") as name, psycopg.connect(dbname=name) as own:
        own.execute("create table pictures (id int primary key, picture bytea not null)")
        for number in range(200):
            file = io.BytesIO()
            Image.fromarray(draw_butterfly(number, SIZE)).save(file, "JPEG" if number % 2 else "PNG")
            own.execute("insert into pictures values (%s, %s)", [number, file.getvalue()])
        own.commit()
        yield name


def weights(folder: Path) -> dict[str, Any]:
    """What the run came to."""
    tensors: dict[str, Any] = load_file(folder / "pipeline/unet/diffusion_pytorch_model.safetensors")
    return tensors


def test_a_run_that_is_killed_and_resumed_becomes_a_model(shop: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    killed = command.start(
        shop,
        "train",
        "--query",
        QUERY,
        "--name",
        "mine",
        "--run-dir",
        run,
        "--steps",
        100000,
        *TINY,
        OMP_NUM_THREADS="1",
    )
    deadline = time.monotonic() + 120
    while not (run / "log.jsonl").exists() and killed.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    _, err = killed.communicate()
    assert (run / "log.jsonl").exists(), err
    assert "mine" not in command.succeed(shop, "list")

    done = json.loads((run / "log.jsonl").read_text().splitlines()[-1])["step"]
    steps = done + 6
    out = command.succeed(shop, "train", "--name", "mine", "--run-dir", run, "--resume", "--steps", steps)
    assert "Learning from 190 pictures of 16x16, 10 held out" in out and "Loaded mine" in out
    assert "mine" in command.succeed(shop, "list")
    picture = tmp_path / "picture.png"
    command.succeed(shop, "generate", "--model", "mine", "--seed", 1, "--steps", 2, "-o", picture)
    assert Image.open(picture).size == (SIZE, SIZE)

    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == steps and all(np.isfinite(line["held_out"]) for line in lines)
    assert (run / "snapshots" / f"{steps:07d}.png").exists()
    assert Image.open(run / "snapshots.gif").n_frames >= 2  # type: ignore[attr-defined]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)  # adds in one order, so that runs are equal to the bit
    first: list[object] = ["train", "--query", QUERY, *TINY, "--steps", 12]
    command.succeed(shop, *first, "--name", "whole", "--run-dir", tmp_path / "whole")
    update = training.Trainer.update

    def interrupted(trainer: Any, *arguments: Any) -> tuple[float, float]:
        if trainer.done == 5:
            os.kill(os.getpid(), signal.SIGINT)
        return update(trainer, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "update", interrupted)
        result = command.run(shop, *first, "--name", "parts", "--run-dir", tmp_path / "parts")
    assert result.returncode == 130 and "stopped after step 6 of 12" in result.stderr and "--resume" in result.stderr
    command.succeed(shop, "train", "--name", "parts", "--resume", "--run-dir", tmp_path / "parts")
    parts, whole = weights(tmp_path / "parts"), weights(tmp_path / "whole")
    assert parts.keys() == whole.keys()
    for name in whole:
        assert torch.equal(parts[name], whole[name]), name

    further = ["--name", "again", "--from", "whole", "--run-dir", tmp_path / "again", "--rate", 1e-9, "--flip"]
    command.succeed(shop, "train", "--query", QUERY, *further, "--steps", 1, "--batch", 2, "--snapshot-count", 0)
    again = weights(tmp_path / "again")  # a step too small to be seen: it began with the model, by every name
    assert again.keys() == whole.keys()
    assert all(torch.allclose(again[name], whole[name], atol=1e-6) for name in whole)


def test_captions_make_a_model_that_takes_prompts_and_is_trained_further(shop: str, tmp_path: Path) -> None:
    query = QUERY.replace(
        "as image", "as image, case when id % 2 = 0 then 'an even Butterfly' else 'odd number ' || id end as caption"
    )
    tiny: list[object] = ["--batch", 4, "--snapshot-every", 4, "--snapshot-count", 1]
    out = command.succeed(
        shop, "train", "--query", query, "--name", "told", "--run-dir", tmp_path / "told", "--size", 16, "--channels", "8,16",
        "--steps", 4, "--autoencoder-steps", 4, *tiny,
    )  # fmt: skip
    assert "Loaded told" in out and "--prompt" in out
    command.succeed(
        shop, "generate", "--model", "told", "--prompt", "an odd ☃", "--seed", 1, "--steps", 2, "-o", tmp_path / "a.png"
    )
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path / "told/pipeline")
    text = "An even butterfly, number 77 ☃"
    with psycopg.connect(dbname=shop) as own:
        row: Any = own.execute("select sql_diffusion.tokenize(%s, 'told')", [text]).fetchone()
    assert row[0] == pipeline.tokenizer(text, padding="max_length").input_ids

    command.succeed(
        shop, "train", "--query", query, "--name", "further", "--from", "told", "--run-dir", tmp_path / "further", "--steps", 2, *tiny
    )  # fmt: skip
    with psycopg.connect(dbname=shop) as own:
        same: Any = own.execute(
            "select one.component, bool_and(one.weight = other.weight), (select array_agg(v order by v.id) from "
            "(select id, token, ends_word from sql_diffusion.vocabulary where model = 'told') v) = "
            "(select array_agg(v order by v.id) from (select id, token, ends_word from sql_diffusion.vocabulary "
            "where model = 'further') v) "
            "from sql_diffusion.parameters one join sql_diffusion.parameters other using (component, key) "
            "where one.model = 'told' and other.model = 'further' group by 1 order by 1"
        ).fetchall()
    assert same == [("text_encoder", True, True), ("unet", False, True), ("vae", True, True)]


@pytest.mark.parametrize(
    ("query", "options", "said"),
    [
        ("select image", [], "image"),
        ("select picture as image from pictures where id < 1", [], "gives 1 pictures, expected 2 or more"),
        ("select id, picture from pictures", [], "none of the query's columns id, picture is called image"),
        ("select 'x'::bytea as image", [], "picture 1 of the query cannot be read"),
        ("select null::bytea as image", [], "picture 1 of the query is null, expected bytea or real[]"),
        ("select 7 as image", [], "picture 1 of the query is int, expected bytea or real[]"),
        ("select '{1,2}'::real[] as image", [], "array of shape (2,), expected finite values of shape"),
        ("selekt", [], "the query cannot be read: syntax error"),
        (QUERY, ["--size", "30", "--channels", "8,8,8"], "--size 30 is not a multiple of 4"),
        (QUERY, ["--channels", "8,9"], "expected 2 to 6 multiples of 8"),
        (QUERY, ["--name", "butterflies"], "butterflies comes with the extension"),
        (QUERY, ["--from", "nobody"], "there is no model nobody"),
        (QUERY, ["--from", "butterflies", "--size", "32"], "--size is 32, and butterflies has 64"),
        (QUERY, ["--resume"], "there is no run in"),
    ],
)
def test_what_cannot_be_learned_from_is_said_first(
    shop: str, tmp_path: Path, query: str, options: list[str], said: str
) -> None:
    result = command.run(shop, "train", "--query", query, "--name", "x", "--run-dir", tmp_path / "run", *options)
    assert result.returncode not in (0, 70) and said in result.stderr, result.stderr
    assert not (tmp_path / "run").exists()


def test_arrays_are_pictures_too(shop: str) -> None:
    from sql_diffusion import database, train

    with database.connect(f"dbname={shop}") as own:
        arrays = "select sql_diffusion.image_from_png(picture) as image from pictures where id = 0"
        ((_, array, _),) = train.read_pictures(own, arrays)
        ((_, file, caption),) = train.read_pictures(own, QUERY.replace("order", "where id = 0 order"))
    assert np.array_equal(np.asarray(array), np.asarray(file)) and caption is None
