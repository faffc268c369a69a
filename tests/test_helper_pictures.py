"""Whole pictures of checkpoints as people share them, loaded by the helper: those that diffusers makes of the same files.

Single files in the layout of Stable Diffusion's own code, shards of half precision, LoRA files of all three names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from safetensors.torch import save_file

import helper_command as command
import pipelines
from databases import new_database
from lora_files import ATTENTION, MODULES, factors, kohya, old_names, original_kohya

PROMPT, SEED, SIZE = "a blue butterfly", 42, 16
SMALL: dict[str, Any] = {"block_out_channels": (8, 16), "norm_num_groups": 4}
UNET = {"sample_size": 8}


@pytest.fixture(scope="module")
def models() -> Iterator[str]:
    with new_database("sql_diffusion_numpy") as name:
        yield name


@pytest.fixture(params=["1", "2", "XL"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pipeline(family: str, rng: np.random.Generator, tmp_path: Path) -> Any:
    pipeline = pipelines.random_pipeline(family, rng, tmp_path / "words", **UNET)
    pipeline.save_pretrained(tmp_path / "whole")
    return pipeline


def drawn(pipeline: Any) -> np.ndarray:
    """The picture (height, width, channels) that diffusers draws."""
    pipeline.set_progress_bar_config(disable=True)
    image: np.ndarray = pipeline(
        PROMPT,
        generator=torch.Generator().manual_seed(SEED),
        height=SIZE,
        width=SIZE,
        num_inference_steps=2,
        output_type="np",
    ).images[0]
    assert np.std(image) > 0.02  # a picture, not a plain ground
    return image


def assert_drawn(database: str, model: str, theirs: np.ndarray, backend: str = "numpy") -> None:
    """A loaded model draws the same one."""
    with psycopg.connect(dbname=database) as own:
        row = own.execute(
            "select text_to_image(%s::text, %s, %s, num_inference_steps => 2, height => %s, width => %s, backend => %s)",
            [PROMPT, SEED, model, SIZE, SIZE, backend],
        ).fetchone()
    assert row is not None
    ours = np.array(row[0]).transpose(1, 2, 0)
    assert np.abs(np.round(ours * 255) - np.round(theirs * 255)).max() <= 1


def test_a_single_file(models: str, family: str, pipeline: Any, tmp_path: Path) -> None:
    """With the configurations of a pipeline, and with those that its shapes tell."""
    file = tmp_path / "single.safetensors"
    pipelines.save_single(family, pipeline, file)
    nothing: dict[str, Any] = {} if family == "XL" else {"safety_checker": None}
    theirs = drawn(
        type(pipeline).from_single_file(str(file), config=str(tmp_path / "whole"), local_files_only=True, **nothing)
    )
    for name, config in (("whole", "whole"), ("shapes", "words")):
        command.succeed(models, "load", file, "--name", f"{family} {name}", "--config", tmp_path / config)
        assert_drawn(models, f"{family} {name}", theirs)


def test_shards_of_half_precision(models: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """A folder of fp16 shards; its picture in pure SQL, too."""
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words", **UNET | SMALL)
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16", max_shard_size="100KB")
    assert len(list((tmp_path / "half/unet").glob("*fp16-0*.safetensors"))) > 1
    theirs = drawn(
        type(pipeline).from_pretrained(
            tmp_path / "half", variant="fp16", torch_dtype=torch.float32, safety_checker=None, local_files_only=True
        )
    )
    command.succeed(models, "load", tmp_path / "half", "--name", "half", "--no-pack")
    for backend in ("numpy", "sql"):
        assert_drawn(models, "half", theirs, backend)


LORAS: dict[str, tuple[str, Callable[[Any], dict[str, torch.Tensor]]]] = {
    "peft": ("1", factors),
    "kohya": ("1", lambda pipeline: kohya(factors(pipeline, MODULES), {"unet.conv_in": 2.0})),
    "diffusers": ("1", lambda pipeline: old_names(factors(pipeline, ATTENTION))),
    "kohya, the original layout": ("XL", lambda pipeline: original_kohya(pipeline)[1]),
}


@pytest.mark.parametrize(("family", "names"), LORAS.values(), ids=LORAS.keys())
def test_a_lora(
    models: str, family: str, names: Callable[[Any], dict[str, torch.Tensor]], rng: np.random.Generator, tmp_path: Path
) -> None:
    """Of the U-Net and of text encoders."""
    pipeline = pipelines.random_pipeline(family, rng, tmp_path / "words", **UNET)
    pipeline.save_pretrained(tmp_path / "whole")
    plain = drawn(pipeline)
    save_file(
        {name: 0.3 * tensor if "lora" in name else tensor for name, tensor in names(pipeline).items()},
        tmp_path / "lora.safetensors",
    )
    pipeline.load_lora_weights(tmp_path, weight_name="lora.safetensors", adapter_name="style")
    pipeline.set_adapters("style", 0.7)
    theirs = drawn(pipeline)
    assert np.abs(theirs - plain).max() > 0.1
    command.succeed(
        models,
        "load",
        tmp_path / "whole",
        "--name",
        f"lora {family}",
        "--replace",
        "--lora",
        f"{tmp_path}/lora.safetensors:0.7",
    )
    assert_drawn(models, f"lora {family}", theirs)
