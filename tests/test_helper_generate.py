"""sql-diffusion generate for models that are told what to draw: what it makes, what it writes into the PNG, what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

import helper_command as command
from databases import new_database
from reference import insert_model, random_unet
from text_pipelines import insert_pipeline

pytest_plugins = ["text_pipelines"]


@pytest.fixture(scope="module")
def db(pipelines: dict[str, Any], folders: dict[str, Path]) -> Iterator[str]:
    """With models of prompts, words and words2, of classes, and of neither."""
    with new_database("sql_diffusion_numpy") as name, psycopg.connect(dbname=name, autocommit=True) as own:
        insert_pipeline(own, "words", pipelines["1"], folders)
        insert_pipeline(own, "words2", pipelines["XL"], folders)
        insert_model(own, "classes", random_unet(np.random.default_rng(5), num_class_embeds=5))
        yield name


def made(db: str, *arguments: object) -> tuple[np.ndarray, dict[str, str]]:
    """The pixels of the picture that generate makes, and the text beside them."""
    file = Path(command.succeed(db, "generate", *arguments).strip().splitlines()[-1])
    with Image.open(file) as picture:
        picture.load()
        return np.asarray(picture, int), {str(key): str(value) for key, value in picture.info.items()}


def verb(db: str, call: str) -> np.ndarray:
    with psycopg.connect(dbname=db) as own:
        row = own.execute(f"select {call}".encode()).fetchone()
    assert row is not None
    return np.rint(np.array(row[0]).transpose(1, 2, 0) * 255).astype(int)


def test_a_prompt(db: str, tmp_path: Path) -> None:
    """With everything that made the picture, also what was left to defaults; and that makes it again."""
    given = ["--model", "words", "--prompt", "ein größerer Falter", "--seed", 7, "--steps", 2]
    pixels, text = made(db, *given, "-o", tmp_path / "one.png")
    call = "text_to_image('ein größerer Falter', 7, 'words', num_inference_steps => 2)"
    assert np.abs(pixels - verb(db, call)).max() <= 1
    assert {
        "model": "words", "seed": "7", "prompt": "ein größerer Falter", "negative_prompt": "", "guidance_scale": "7.5",
        "height": "16", "width": "16", "scheduler": "pndm", "num_inference_steps": "3",
    }.items() <= text.items()  # fmt: skip
    given = ["--model", text["model"], "--prompt", text["prompt"], "--seed", text["seed"], "--guidance", text["guidance_scale"],
             "--negative", text["negative_prompt"], "--size", f"{text['width']}x{text['height']}", "--steps", 2]  # fmt: skip
    again, the_same = made(db, *given, "-o", tmp_path / "two.png")
    assert np.array_equal(pixels, again)
    assert the_same == text


def test_everything_that_can_be_said(db: str, tmp_path: Path) -> None:
    given = [
        "--prompt",
        "a moth",
        "--negative",
        "Regen's Ende",
        "--guidance",
        3.5,
        "--size",
        "24x8",
        "--scheduler",
        "ddim",
        "--eta",
        0.5,
    ]
    pixels, text = made(db, *given, "--model", "words", "--seed", 3, "--steps", 2, "-o", tmp_path / "one.png")
    call = "text_to_image('a moth', 3, 'words', 'Regen''s Ende', 2, 3.5, 8, 24, scheduler => 'ddim', eta => 0.5)"
    assert pixels.shape == (8, 24, 3)
    assert np.abs(pixels - verb(db, call)).max() <= 1
    assert {
        "negative_prompt": "Regen's Ende", "guidance_scale": "3.5", "height": "8", "width": "24", "scheduler": "ddim", "eta": "0.5",
    }.items() <= text.items()  # fmt: skip


def test_no_text_where_zeros_stand_for_it(db: str, tmp_path: Path) -> None:
    _, text = made(db, "--model", "words2", "--prompt", "a moth", "--seed", 3, "--steps", 1, "-o", tmp_path / "one.png")
    assert text["guidance_scale"] == "5"
    assert "negative_prompt" not in text


def test_a_class(db: str, tmp_path: Path) -> None:
    given = ["--model", "classes", "--seed", 3, "--steps", 2, "-o", tmp_path / "one.png"]
    pixels, text = made(db, *given, "--class-label", 4)
    call = "ddpm_generate(3, class_label => 4, model => 'classes', num_inference_steps => 2)"
    assert np.abs(pixels - verb(db, call)).max() <= 1
    assert text["class_label"] == "4"
    assert not np.array_equal(pixels, made(db, *given, "--class-label", 0)[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "words"], 'model "words" takes a prompt'),
        (["--prompt", "a moth", "--model", "butterflies"], 'model "butterflies" takes no prompt'),
        (["--prompt", "a moth", "--model", "words", "--size", "17x16"], "width is 17, expected a positive multiple of 2"),
        (["--prompt", "a moth", "--model", "words", "--guidance", "nan"], "guidance_scale is NaN"),
        (["--model", "classes"], "class_label is null, expected from 0 to 4"),
        (["--model", "classes", "--class-label", 5], "class_label is 5, expected from 0 to 4"),
        (["--class-label", 1], 'class_label is 1, but model "butterflies" knows no classes'),
    ],
)  # fmt: skip
def test_what_is_refused(db: str, arguments: list[object], words: str) -> None:
    assert words in command.fail(db, 2, "generate", "--steps", 1, *arguments)
