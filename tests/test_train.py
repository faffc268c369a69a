"""The program that draws butterflies, and the one that trains a model on them, on tiny settings."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("accelerate")
diffusers = pytest.importorskip("diffusers")
safetensors_torch = pytest.importorskip("safetensors.torch")

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"
from draw_butterflies import draw_butterfly  # noqa: E402

TINY = ["--pictures", "8", "--size", "16", "--batch-size", "8", "--channels", "8,8,16", "--head-dim", "8"]
TINY += ["--warmup", "4", "--learning-rate", "4e-3", "--ema-decay", "0.5", "--fall", "0.5", "--mixed-precision", "no"]
TINY += ["--sample-count", "4", "--sample-steps", "2", "--save-every", "20"]


def train(folder: Path, steps: int, *options: str) -> None:
    command: list[str | Path] = [sys.executable, SCRIPTS / "train_butterflies.py", *TINY, "--steps", str(steps)]
    command += ["--data-dir", folder / "data", "--run-dir", folder / "run", *options, folder / "model"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # one thread adds in one order, so runs are equal to the bit
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def weights(folder: Path) -> dict[str, Any]:
    tensors: dict[str, Any] = safetensors_torch.load_file(
        folder / "model" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    )
    return tensors


def test_a_butterfly_is_decided_by_its_seed() -> None:
    seed = int(np.random.default_rng().integers(2**31))
    picture = draw_butterfly(seed)
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, draw_butterfly(seed))
    assert not np.array_equal(picture, draw_butterfly(seed + 1))


def test_butterflies_are_whole_and_centred_on_white() -> None:
    first = int(np.random.default_rng().integers(2**31))
    for seed in range(first, first + 8):
        ink = 255 - draw_butterfly(seed).min(axis=2).astype(int)  # (64, 64), 0 where white
        frame = np.concatenate([ink[0], ink[-1], ink[:, 0], ink[:, -1]])
        assert frame.max() == 0, f"seed {seed} touches the frame"
        assert 0.15 < (ink > 30).mean() < 0.75, f"seed {seed}"
        middle = (ink.sum(axis=0) * np.arange(64)).sum() / ink.sum()
        assert abs(middle - 31.5) < 4, f"seed {seed}"


def test_it_learns_and_leaves_a_pipeline_that_diffusers_loads(tmp_path: Path) -> None:
    train(tmp_path, 60)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in log] == [60]
    # a model that always answers 0 has a loss of 1
    assert log[-1]["loss"] < 0.9
    pipeline = diffusers.DDPMPipeline.from_pretrained(tmp_path / "model", variant="fp16", torch_dtype=torch.float32)
    noise = torch.randn(1, 3, 16, 16)
    with torch.no_grad():
        assert pipeline.unet(noise, 999).sample.isfinite().all()
    assert all(tensor.dtype == torch.float16 for tensor in weights(tmp_path).values())
    assert (tmp_path / "run" / "samples-000020.png").exists()


def test_a_resumed_run_is_the_run_that_was_not_interrupted(tmp_path: Path) -> None:
    train(tmp_path / "whole", 8, "--save-every", "100")
    # stopped in its constant part, then made longer: the same run
    train(tmp_path / "parts", 4, "--fall", "0.01", "--save-every", "100")
    train(tmp_path / "parts", 8, "--save-every", "100")
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    for name in whole:
        assert torch.equal(whole[name], parts[name]), name


def test_help() -> None:
    result = subprocess.run(
        [sys.executable, SCRIPTS / "train_butterflies.py", "--help"], capture_output=True, text=True, check=True
    )
    assert "--resume" in result.stdout
