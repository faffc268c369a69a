"""The engine of backend torch on its own: plans of SQL, run in this process, against diffusers and transformers."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel, VQModel
from psycopg import Connection
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from reference import VARIATIONS, config_of, random_unet, randomize, relative_error, state_of
from sql_diffusion_numpy import gpt, network, torch_engine, torch_operations
from sql_diffusion_numpy.errors import Refused
from sql_diffusion_numpy.layers.modules import PlanRow
from test_autoencoders import AUTOENCODERS, random_autoencoder, sizes
from test_gpt import VARIATIONS as GPTS
from test_gpt import random_gpt
from test_networks import CONDITION, CONDITIONS, PIXELS, TEXT, TEXT_SETTINGS, TOKENS

ROOT = Path(__file__).resolve().parent.parent
TOLERANCE = 1e-5
# What rounding to so many bits may cost a whole network, of the largest value; float16 has 10 behind the first, bfloat16 7.
HALF = {"float16": 2e-2, "bfloat16": 1e-1}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch_engine.use_threads(1)


def assembled(connection: Connection, reference: Any, dtype: str = "float32", device: str = "cpu") -> Any:
    """A network of diffusers or transformers as the engine has it."""
    rows = connection.execute(
        """select p.step, p.operation, coalesce(p.key, ''), coalesce(p.inputs, '{}'), p.in_channels, p.out_channels, p.level, p.settings
           from sql_diffusion.network_plan(%s) p order by p.step""",
        [psycopg.types.json.Jsonb(config_of(reference))],
    ).fetchall()
    state = {key.removeprefix("transformer."): value for key, value in state_of(reference).items()}
    for key, value in state.items():
        if ".c_" in key and key.endswith("weight"):  # GPT-2's, (in, out), which the loader turns
            state[key] = value.T
    keys = [row[0] for row in connection.execute(
        "select key from sql_diffusion.network_parameters(%s)", [psycopg.types.json.Jsonb(config_of(reference))]
    )]  # fmt: skip

    def read(key: str) -> tuple[np.ndarray, np.ndarray | None]:
        bias = state.get(f"{key}.bias")
        return state[f"{key}.weight"].numpy(), None if bias is None else bias.numpy()

    engine = torch_engine.engine(device, dtype)
    return engine.assemble(engine.lay_out([PlanRow(*row) for row in rows], read, keys, 8, 8, {}, False))


def run(found: Any, **inputs: torch.Tensor) -> dict[str, np.ndarray]:
    return network.run(found, {name: value.float().numpy() for name, value in inputs.items()})


def is_alike(ours: np.ndarray, theirs: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    assert ours.dtype == np.float32
    assert relative_error(ours, theirs) < tolerance


@pytest.mark.parametrize("variation", VARIATIONS.values(), ids=VARIATIONS.keys())
def test_a_pixel_unet(connection: Connection, rng: np.random.Generator, variation: dict[str, Any]) -> None:
    unet = random_unet(rng, **variation)
    size = unet.config.sample_size
    sample = torch.randn(2, unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
    timestep = int(rng.integers(1000))
    with torch.no_grad():
        theirs = unet(sample, timestep).sample
    is_alike(run(assembled(connection, unet), sample=sample, timestep=torch.tensor([timestep]))["sample"], theirs)


@pytest.mark.parametrize("dtype", HALF)
def test_half_precision_is_as_near_as_its_bits(connection: Connection, rng: np.random.Generator, dtype: str) -> None:
    unet = random_unet(rng)
    sample = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        theirs = unet(sample, 500).sample
    ours = run(assembled(connection, unet, dtype), sample=sample, timestep=torch.tensor([500]))["sample"]
    assert relative_error(ours, theirs) > TOLERANCE  # it is half precision
    is_alike(ours, theirs, HALF[dtype])


def test_tensors_are_where_the_weights_are(connection: Connection, rng: np.random.Generator) -> None:
    """On a device that has no numbers and refuses those of another, as a GPU does: steps keep it, and their dtype."""
    batch, text = 2, {"encoder_hidden_states": (TOKENS, CONDITION["cross_attention_dim"])}
    networks: list[tuple[Any, dict[str, tuple[int, ...]]]] = [
        (
            UNet2DConditionModel(**{**CONDITION, **variation}),
            {**text, **{name: shape or (1,) for name, shape in extra.items()}},
        )
        for variation, extra in CONDITIONS.values()
        if extra
    ]
    networks += [
        (random_unet(rng, **variation), {} if label is None else {"class_labels": label or (1,)})
        for variation, label in PIXELS.values()
        if label is not None
    ]
    for unet, extra in networks:
        found = assembled(connection, unet, "float16", "meta")
        size = unet.config.sample_size
        shapes = {"sample": (unet.config.in_channels, *([size, size] if isinstance(size, int) else size)), **extra}
        inputs = {name: np.ones((batch, *shape), np.float32) for name, shape in shapes.items()}
        inputs["timestep"] = np.ones((1, 1), np.float32)
        for row, result in network.run_steps(found, inputs):
            assert result.device.type == "meta" or result.ndim == 2, row
        assert (result.device.type, result.dtype) == ("meta", torch.float16)
    for kind, settings in (AUTOENCODERS[name] for name in ("kl", "tiny", "vq")):
        autoencoder = random_autoencoder(rng, kind, settings)
        found = assembled(connection, autoencoder, "float16", "meta")
        for name, shape in zip(("image", "latent"), sizes(autoencoder), strict=True):
            for _, result in network.run_steps(found, {name: np.ones((batch, *shape), np.float32)}):
                assert result.device.type == "meta"
            assert result.dtype == torch.float32
    encoder = CLIPTextModelWithProjection(CLIPTextConfig(**TEXT_SETTINGS))
    language = random_gpt(rng, 60)
    for found, inputs in (
        (assembled(connection, encoder, "float16", "meta"), {"input_ids": np.ones((batch, 9, 1), np.float32)}),
        (
            assembled(connection, language, "float16", "meta"),
            {name: np.ones((batch, 9, 1), np.float32) for name in ("input_ids", "position_ids")},
        ),
    ):
        for row, result in network.run_steps(found, inputs):
            assert result is network.MISSING or result.device.type == "meta", row


@pytest.mark.parametrize(("variation", "label"), PIXELS.values(), ids=PIXELS.keys())
def test_a_pixel_unet_of_another_kind(
    connection: Connection, rng: np.random.Generator, variation: dict[str, Any], label: tuple[int, ...] | None
) -> None:
    unet = random_unet(rng, **variation)
    sample = torch.randn(2, unet.config.in_channels, 8, 8)
    timestep = torch.tensor(float(1 + int(rng.integers(40))))
    given = {} if label is None else {"class_labels": torch.randn(2, *label) if label else torch.tensor([3, 1])}
    with torch.no_grad():
        theirs = unet(sample, timestep, **given).sample
    ours = {name: value.reshape(2, -1) for name, value in given.items()}
    is_alike(run(assembled(connection, unet), sample=sample, timestep=timestep[None], **ours)["sample"], theirs)


@pytest.mark.parametrize(("variation", "extra"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_a_unet_with_text(
    connection: Connection, rng: np.random.Generator, variation: dict[str, Any], extra: dict[str, tuple[int, ...]]
) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    unet = randomize(UNet2DConditionModel(**{**CONDITION, **variation}))
    size = unet.config.sample_size
    sample = torch.randn(2, unet.config.in_channels, *([size, size] if isinstance(size, int) else size))
    timestep = int(rng.integers(1000))
    text = torch.randn(2, TOKENS, CONDITION["cross_attention_dim"])
    given = {name: torch.randn(2, *shape) if shape else torch.tensor([3, 1]) for name, shape in extra.items()}
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    rest = {name: value for name, value in given.items() if name not in added}
    with torch.no_grad():
        theirs = unet(sample, timestep, text, added_cond_kwargs=added or None, **rest).sample
    ours = {name: value.reshape(2, -1) for name, value in given.items()}
    found = assembled(connection, unet)
    result = run(found, sample=sample, timestep=torch.tensor([timestep]), encoder_hidden_states=text, **ours)
    is_alike(result["sample"], theirs)


@pytest.mark.parametrize("projected", [False, True], ids=["model", "with projection"])
@pytest.mark.parametrize("variation", TEXT.values(), ids=TEXT.keys())
def test_a_text_encoder(
    connection: Connection, rng: np.random.Generator, variation: dict[str, Any], projected: bool
) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    config = CLIPTextConfig(**{**TEXT_SETTINGS, **variation})
    encoder = randomize((CLIPTextModelWithProjection if projected else CLIPTextModel)(config))
    ids = torch.cat([torch.full((2, 1), 48), torch.randint(0, 48, (2, 9)), torch.full((2, 5), 49)], dim=1)
    with torch.no_grad():
        theirs = encoder(ids, output_hidden_states=True)
    ours = run(assembled(connection, encoder), input_ids=ids[:, :, None])
    for number, hidden in enumerate(theirs.hidden_states):
        is_alike(ours[f"hidden_states.{number}"], hidden)
    is_alike(ours["last_hidden_state"], theirs.last_hidden_state)
    pooled = "text_embeds" if projected else "pooler_output"
    is_alike(ours[pooled], theirs[pooled])


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("kind", "settings"), AUTOENCODERS.values(), ids=AUTOENCODERS.keys())
def test_an_autoencoder_is_in_single_precision(
    connection: Connection, rng: np.random.Generator, kind: Any, settings: dict[str, Any], dtype: str
) -> None:
    autoencoder = random_autoencoder(rng, kind, settings)
    image, latent = (torch.randn(2, *shape) for shape in sizes(autoencoder))
    with torch.no_grad():
        decoded = autoencoder.decode(latent).sample
        if kind is VQModel or kind is AutoencoderTiny:
            encoded = autoencoder.encode(image).latents
        else:
            encoded = autoencoder.encode(image).latent_dist.parameters
    found = assembled(connection, autoencoder, dtype)
    is_alike(run(found, latent=latent)["sample"], decoded)
    is_alike(run(found, image=image)["sample"], encoded)


@pytest.mark.parametrize("variation", GPTS)
def test_a_language_model(connection: Connection, rng: np.random.Generator, variation: str) -> None:
    """The logits after a prompt, and after each token that is appended: of those before, keys and values are kept."""
    language = random_gpt(rng, 60, **GPTS[variation])
    ids = [int(id) for id in rng.integers(0, 60, 12)]
    given = ids[:7]
    passes = gpt.passes(assembled(connection, language), given, lambda: None)
    for end in (7, 8, 10, 12):  # one token more, and two at once
        given[:] = ids[:end]
        with torch.no_grad():
            theirs = language(torch.tensor([ids[:end]])).logits[0, -1]
        is_alike(next(passes).reshape(-1), theirs)


def test_every_operation_is_there() -> None:
    """In a file of sql/operations, and in the engine."""
    operations = {file.stem for file in (ROOT / "sql" / "operations").glob("*.sql")} - {"input"}
    found = {name for name, value in inspect.getmembers(torch_operations, inspect.isfunction) if name[0] != "_"}
    assert operations <= found


def test_an_operation_that_is_not_there(connection: Connection, rng: np.random.Generator) -> None:
    found = assembled(connection, random_unet(rng))
    found.plan[1] = found.plan[1]._replace(operation="conv3d")
    with pytest.raises(Refused, match="has the operation conv3d, which backend torch does not have"):
        run(found, sample=torch.randn(1, 3, 8, 8), timestep=torch.tensor([1]))


def test_what_float16_cannot_hold_is_an_error(connection: Connection, rng: np.random.Generator) -> None:
    found = assembled(connection, random_unet(rng), "float16")
    with pytest.raises(Refused, match="has values that float16 cannot hold") as caught:
        run(found, sample=torch.full((1, 3, 8, 8), 1e6), timestep=torch.tensor([1]))
    assert "bfloat16" in str(caught.value.hint)


@pytest.mark.parametrize(
    "error",
    [torch.cuda.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_too_little_memory(
    connection: Connection, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(*arguments: Any) -> None:
        raise error

    found = assembled(connection, random_unet(rng))
    monkeypatch.setattr(torch_operations, "conv2d", fails)
    with pytest.raises(MemoryError):  # which boundary.py makes PostgreSQL's
        run(found, sample=torch.randn(1, 3, 8, 8), timestep=torch.tensor([1]))


def test_weights_are_those_that_were_read(connection: Connection, rng: np.random.Generator) -> None:
    """On the CPU, in single precision, no copy of them is made; convolutions have them with the channels last."""
    found = assembled(connection, random_unet(rng))
    for key, array in found.arrays.items():
        weight = found.weights[key]
        if array.flags.c_contiguous:
            assert weight.data_ptr() == array.ctypes.data, key
        if weight.ndim == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("device", "dtype", "message"),
    [
        ("tpu", None, "sql_diffusion.device is 'tpu', expected cpu"),
        ("cuda:99", None, "sql_diffusion.device is 'cuda:99', expected cpu"),
        ("cpu:0", None, "sql_diffusion.device is 'cpu:0', expected cpu"),
        ("cpu", "float64", "sql_diffusion.dtype is 'float64', expected float32, float16 or bfloat16"),
        ("cpu", "Float16", "sql_diffusion.dtype is 'Float16', expected float32, float16 or bfloat16"),
    ],
)
def test_settings_that_are_not_there(device: str, dtype: str | None, message: str) -> None:
    with pytest.raises(Refused) as caught:
        torch_engine.choose(device, dtype)
    assert caught.value.message.startswith(message)


def test_a_device_is_found() -> None:
    name = torch_engine.choose(None, None).name
    assert name == f"torch on {'cuda:0' if torch.cuda.is_available() else 'cpu'} in float32"
    assert f"PyTorch {torch.__version__}" in torch_engine.describe()
    assert "cpu, " in torch_engine.describe()


def test_an_old_pytorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "1.13.1")
    with pytest.raises(Refused, match=r"PyTorch is 1\.13\.1, expected 2\.1 or later"):
        torch_engine.choose(None, None)
