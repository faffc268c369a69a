"""scripts/bundle_model.py against safetensors itself, and the SQL that it prints."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "bundle_model.py"
PARAMETER = re.compile(
    r"values \('toy', 'unet', '(?P<key>[^']+)',\s+(?P<weight>sql_diffusion.*|null),\s+(?P<bias>.*)\);"
)
TENSOR = re.compile(r"sql_diffusion\.tensor_from_bytes\(decode\('(.*)', 'base64'\), '(.*)', '{(.*)}'\)")


def write_pipeline(folder: Path, tensors: dict[str, Any]) -> None:
    (folder / "scheduler").mkdir(parents=True)
    (folder / "unet").mkdir()
    index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
    index |= {"unet": ["diffusers", "UNet2DModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "scheduler" / "scheduler_config.json").write_text('{"beta_schedule": "linear"}')
    (folder / "unet" / "config.json").write_text('{"note": "it\'s quoted"}')
    (folder / "sql_diffusion.json").write_text('{"num_inference_steps": 20}')
    safetensors_torch.save_file(tensors, folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    # -I -S: no site-packages, so anything but the standard library would fail
    return subprocess.run([sys.executable, "-I", "-S", SCRIPT, folder], capture_output=True, text=True, check=False)


def decoded(expression: str) -> Any:
    if expression == "null":
        return None
    match = TENSOR.fullmatch(expression)
    assert match, expression[:80]
    shape = tuple(int(n) for n in match[3].split(","))
    dtype = getattr(torch, match[2])
    return torch.frombuffer(bytearray(base64.b64decode(match[1])), dtype=dtype).reshape(shape)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_every_tensor_comes_through(tmp_path: Path, dtype: str) -> None:
    seed = int(np.random.default_rng().integers(2**31))
    torch.manual_seed(seed)
    tensors = {
        "conv_in.weight": torch.randn(4, 3, 3, 3),
        "conv_in.bias": torch.randn(4),
        "mid_block.attentions.0.to_q.weight": torch.randn(8, 5),
    }
    tensors = {name: tensor.to(getattr(torch, dtype)) for name, tensor in tensors.items()}
    write_pipeline(tmp_path / "toy", tensors)
    result = run(tmp_path / "toy")
    assert result.returncode == 0, result.stderr
    rows = {match["key"]: match for match in PARAMETER.finditer(result.stdout)}
    assert set(rows) == {"conv_in", "mid_block.attentions.0.to_q"}
    for name, expected in tensors.items():
        key, part = name.rsplit(".", 1)
        got = decoded(rows[key][part])
        assert got is not None and got.dtype == expected.dtype
        assert torch.equal(got, expected), f"{name}, seed {seed}"
    assert decoded(rows["mid_block.attentions.0.to_q"]["bias"]) is None
    assert "'{\"note\": \"it''s quoted\"}'::jsonb" in result.stdout
    inserts = re.findall(r"insert into sql_diffusion\.(\w+)", result.stdout)
    assert inserts == ["models", "components", "parameters", "parameters"]


def test_the_digest_of_several_files(tmp_path: Path) -> None:
    """As `sql-diffusion load` says it: of their hexadecimal digests, in the order of their names."""
    folder = tmp_path / "toy"
    write_pipeline(folder, {"conv_in.weight": torch.randn(4, 3)})
    unet = folder / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    one = hashlib.sha256(unet.read_bytes()).hexdigest()
    assert f"'{one}'" in run(folder).stdout

    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    safetensors_torch.save_file({"conv_in.weight": torch.randn(4, 3)}, folder / "vae" / unet.name)
    index = json.loads((folder / "model_index.json").read_text())
    index = {"vae": ["diffusers", "AutoencoderKL"], **index}
    (folder / "model_index.json").write_text(json.dumps(index))
    other = hashlib.sha256((folder / "vae" / unet.name).read_bytes()).hexdigest()
    assert f"'{hashlib.sha256((one + other).encode()).hexdigest()}'" in run(folder).stdout


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "toy", {"conv_in.weight": torch.randn(4, 3)})
    file = tmp_path / "toy" / "unet" / "diffusion_pytorch_model.fp16.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    result = run(tmp_path / "toy")
    assert result.returncode != 0
    assert "conv_in.weight ends behind the end of the file" in result.stderr


def test_a_tensor_without_a_module_is_refused(tmp_path: Path) -> None:
    write_pipeline(tmp_path / "toy", {"conv_in.weight": torch.randn(4, 3), "stray.bias": torch.randn(3)})
    result = run(tmp_path / "toy")
    assert result.returncode != 0
    assert "stray.bias is neither a weight nor the bias" in result.stderr
