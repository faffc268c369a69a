"""The programs that describe butterflies, and that train a model which takes a prompt on them, on tiny settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from typer.testing import CliRunner

import helper_command as command
from draw_butterflies import WINGS, draw_butterfly

pytest_plugins = ["numpy_server"]

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("accelerate")

import describe_butterflies as described  # noqa: E402
import evaluate_prompts  # noqa: E402
import train_prompts  # noqa: E402


def test_a_look_is_drawn_as_it_says(rng: np.random.Generator) -> None:
    for _ in range(4):
        seed = int(rng.integers(2**31))
        look = described.choose_look(rng)._replace(eyes=None, band=False, border=False, spots=False)
        other = list(WINGS)[(list(WINGS).index(look.fore) + 1) % len(WINGS)]
        picture = draw_butterfly(seed, 64, look).astype(int)
        changed = np.abs(picture - draw_butterfly(seed, 64, look._replace(fore=other))).sum(axis=2) > 8
        assert 0.03 < changed.mean() < 0.6
        assert changed[:40].sum() > changed[40:].sum()  # the fore wings are above
        corner = {"white": (255, 255, 255), "sky": (174, 220, 248), "leaf": (127, 179, 92), "night": (26, 33, 72)}
        assert np.abs(picture[0, 0] - corner[look.ground]).max() < 40
        assert not np.array_equal(picture, draw_butterfly(seed, 64, look._replace(tails=not look.tails)))


def test_captions_name_what_they_say_they_name(rng: np.random.Generator) -> None:
    texts = set()
    for _ in range(300):
        look = described.choose_look(rng)
        caption, named = described.describe(look, rng)
        texts.add(caption)
        words = caption.lower()
        assert all(getattr(look, name) == value for name, value in named.items())
        for name in ("fore", "hind"):
            if name in named:
                assert any(word in words for word in described.SYNONYMS[str(named[name])]), caption
        if "ground" in named:
            assert any(place.lower() in words for place in described.PLACES[str(named["ground"])]), caption
        for mark in ("band", "spots", "tails"):
            assert any(word in words for word in described.MARKS[mark]) or not named.get(mark), caption
        assert described.decode_look(described.encode_look(look)) == look
    assert len(texts) > 280


def invoke(*arguments: object) -> None:
    result = CliRunner().invoke(train_prompts.app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def test_the_recipe_makes_a_model_that_the_extension_runs(numpy_database: str, tmp_path: Path) -> None:
    run, folder = tmp_path / "run", tmp_path / "model"
    run.mkdir()
    described.main(run / "described.npz", count=40, first_seed=0, size=32)
    part = ["--run-dir", run, "--batch", 4, "--every", 2, "--steps"]
    invoke("text", *part, 2, "--count", 100)
    invoke("text", *part, 4, "--count", 100)  # goes on
    invoke("decoder", *part, 2, "--crop", 4)
    invoke("unet", *part, 2, "--channels", "8,16", "--captions", 2)
    invoke("encoder", *part, 2)
    invoke("assemble", folder, "--run-dir", run)
    assert [json.loads(line)["step"] for line in (run / "text.jsonl").read_text().splitlines()] == [2, 4]

    command.succeed(numpy_database, "load", folder, "--name", "prompted")
    look = CliRunner().invoke(
        evaluate_prompts.app, ["classifier", "--run-dir", str(run), "--steps", "2", "--batch", "4"]
    )
    assert look.exit_code == 0, look.output
    look = CliRunner().invoke(
        evaluate_prompts.app,
        ["pictures", "--run-dir", str(run), "--count", "2", "--database", f"dbname={numpy_database}"],
    )
    assert look.exit_code == 0 and len(look.output.splitlines()) == 2 + len(described.CLASSES) + 5, look.output
    pipeline = diffusers.StableDiffusionPipeline.from_pretrained(folder, variant="fp16", torch_dtype=torch.float32)
    pipeline.scheduler = diffusers.DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a Blue butterfly with orange eyespots, at night"
    with psycopg.connect(dbname=numpy_database) as own:
        row: Any = own.execute(
            "select text_to_image(%s, 5, 'prompted', num_inference_steps => 2, scheduler => 'ddim', guidance_scale => 3)",
            [prompt],
        ).fetchone()
    expected = pipeline(
        prompt, num_inference_steps=2, guidance_scale=3, generator=torch.Generator().manual_seed(5), output_type="np"
    ).images[0]
    ours = np.array(row[0]).transpose(1, 2, 0)
    assert np.abs(ours - expected).max() <= 1 / 255
