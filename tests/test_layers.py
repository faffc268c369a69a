"""Every layer against PyTorch and diffusers, with fresh random inputs, and what each refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch.nn import functional

from reference import relative_error

ADAPTED = {float: "double precision", int: "int", str: "text", bool: "boolean"}


def call(connection: psycopg.Connection, function: str, *arguments: Any, **named: Any) -> Any:
    """The result of a function of the schema sql_diffusion; arrays and tensors go in as real[]."""
    values, placeholders = [], []
    for name, argument in [("", a) for a in arguments] + [(f"{n} => ", a) for n, a in named.items()]:
        if isinstance(argument, torch.Tensor | np.ndarray):
            values.append(argument.tolist())
            placeholders.append(f"{name}%s::real" + ("[]" if argument.ndim else ""))
        else:
            values.append(argument)
            placeholders.append(f"{name}%s" + (f"::{ADAPTED[type(argument)]}" if type(argument) in ADAPTED else ""))
    row = connection.execute(f"select sql_diffusion.{function}({', '.join(placeholders)})", values).fetchone()
    assert row is not None
    return row[0]


def exactly(ours: Any, theirs: torch.Tensor) -> bool:
    return np.array_equal(np.asarray(ours, dtype=np.float32), theirs.numpy())


def normal(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    return torch.from_numpy(rng.standard_normal(shape).astype(np.float32))


def insert_module(connection: psycopg.Connection, module: torch.nn.Module, key: str) -> None:
    """Puts a module's parameters under a key of the model "test", whose network is never run."""
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) values ('test', 'DDPMPipeline', '{\"_class_name\": \"DDPMScheduler\"}') on conflict do nothing"
    )
    connection.execute(
        "insert into sql_diffusion.components (model, component, config) "
        """values ('test', 'unet', '{"_class_name": "UNet2DModel", "sample_size": 8}') on conflict do nothing"""
    )
    state = module.state_dict()
    for name in dict.fromkeys(parameter.rpartition(".")[0] for parameter in state):
        bias = state.get(f"{name}.bias")
        connection.execute(
            "insert into sql_diffusion.parameters (model, component, key, weight, bias) values ('test', 'unet', %s, %s::real[], %s::real[])",
            [f"{key}.{name}", state[f"{name}.weight"].tolist(), None if bias is None else bias.tolist()],
        )


def randomized(module: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Norms away from 1 and 0, where mistakes would not show."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter += 0.3 * normal(rng, *parameter.shape)
    return module.eval()


SHAPES = [(5,), (1,), (3, 4), (2, 3, 4), (2, 1, 3, 2)]


@pytest.mark.parametrize("shape", SHAPES)
def test_silu(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    input = 3 * normal(rng, *shape)
    assert relative_error(call(connection, "silu", input), functional.silu(input)) < 1e-6


def test_silu_far_out(connection: psycopg.Connection) -> None:
    assert call(connection, "silu", torch.tensor([-1e30, -800.0, 0.0, 800.0])) == [0, 0, 0, 800]


@pytest.mark.parametrize("shape", SHAPES)
def test_add(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    a, b = normal(rng, *shape), normal(rng, *shape)
    assert relative_error(call(connection, "add", a, b), a + b) < 1e-6


@pytest.mark.parametrize("shape", [(5,), (3, 4), (3, 2, 5), (2, 1, 3, 2)])
def test_add_channels(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    input, vector = normal(rng, *shape), normal(rng, shape[0])
    reference = input + vector.reshape(-1, *[1] * (len(shape) - 1))
    assert relative_error(call(connection, "add_channels", input, vector), reference) < 1e-6


def test_concatenate(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    a, b = normal(rng, 2, 3, 5), normal(rng, 4, 3, 5)
    assert exactly(call(connection, "concatenate", a, b), torch.cat([a, b]))


@pytest.mark.parametrize("widths", [(1, 2, 3, 4), (0, 1, 0, 1), (0, 0, 0, 0), (2, 0, 0, 0), (0, 0, 3, 0)])
def test_pad(connection: psycopg.Connection, rng: np.random.Generator, widths: tuple[int, ...]) -> None:
    input = normal(rng, 2, 3, 4)
    assert exactly(call(connection, "pad", input, *widths), functional.pad(input, widths))
    assert exactly(call(connection, "pad", input, *widths, torch.tensor(0.5)), functional.pad(input, widths, value=0.5))


@pytest.mark.parametrize("factor", [1, 2, 3])
def test_interpolate_nearest(connection: psycopg.Connection, rng: np.random.Generator, factor: int) -> None:
    input = normal(rng, 2, 3, 4)
    reference = functional.interpolate(input[None], scale_factor=factor, mode="nearest")[0]
    assert exactly(call(connection, "interpolate_nearest", input, factor), reference)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (9, 10), (2, 3, 5), (2, 1, 3, 4)])
@pytest.mark.parametrize("features", [1, 7])
def test_linear(
    connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...], features: int
) -> None:
    input, weight, bias = normal(rng, *shape), normal(rng, features, shape[-1]), normal(rng, features)
    reference = functional.linear(input.double(), weight.double(), bias.double())
    assert relative_error(call(connection, "linear", input, weight, bias), reference) < 1e-5
    reference = functional.linear(input.double(), weight.double())
    assert relative_error(call(connection, "linear", input, weight), reference) < 1e-5


def test_linear_of_many_tokens(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    input, weight, bias = normal(rng, 2, 4200, 3), normal(rng, 2, 3), normal(rng, 2)
    reference = functional.linear(input.double(), weight.double(), bias.double())
    assert relative_error(call(connection, "linear", input, weight, bias), reference) < 1e-5


def test_linear_with_outliers(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    input, weight = normal(rng, 40, 30), normal(rng, 20, 30)
    input[3, 5] = 30
    weight[2, 7] = -30
    assert (
        relative_error(call(connection, "linear", input, weight), functional.linear(input.double(), weight.double()))
        < 1e-5
    )


CONVOLUTIONS = {
    "3x3": ((5, 8, 8), (4, 5, 3, 3), 1, 1),
    "3x3 without padding": ((3, 6, 7), (4, 3, 3, 3), 1, 0),
    "1x1": ((6, 5, 4), (3, 6, 1, 1), 1, 0),
    "1x1 with padding": ((2, 3, 4), (3, 2, 1, 1), 1, 2),
    "5x5": ((3, 7, 9), (2, 3, 5, 5), 1, 2),
    "2x2": ((3, 4, 5), (2, 3, 2, 2), 1, 1),
    "4x4 with stride 4": ((3, 8, 8), (5, 3, 4, 4), 4, 0),
    "wide kernel": ((2, 5, 6), (3, 2, 1, 3), 1, 0),
    "high kernel": ((2, 5, 6), (3, 2, 3, 1), 1, 0),
    "wide kernel with padding": ((2, 5, 6), (3, 2, 1, 3), 1, 1),
    "stride 2": ((4, 8, 8), (3, 4, 3, 3), 2, 1),
    "stride 2 without padding": ((4, 9, 9), (3, 4, 3, 3), 2, 0),
    "stride 2, odd size": ((4, 7, 5), (3, 4, 3, 3), 2, 1),
    "stride 3": ((2, 11, 8), (3, 2, 3, 3), 3, 1),
    "1x1 with stride 2": ((2, 5, 6), (3, 2, 1, 1), 2, 0),
    "one pixel": ((3, 1, 1), (2, 3, 3, 3), 1, 1),
    "one pixel, 5x5": ((3, 1, 1), (2, 3, 5, 5), 1, 2),
    "one row": ((2, 1, 9), (3, 2, 3, 3), 1, 1),
    "one column": ((2, 9, 1), (3, 2, 3, 3), 1, 1),
    "padding larger than the kernel": ((2, 3, 3), (2, 2, 3, 3), 2, 4),
    "one channel": ((1, 6, 6), (1, 1, 3, 3), 1, 1),
    "kernel as large as the image": ((2, 4, 5), (3, 2, 4, 5), 1, 0),
    "many channels": ((64, 6, 5), (8, 64, 3, 3), 1, 1),
    "more pixels than a number has digits for": ((2, 131, 97), (2, 2, 3, 3), 1, 1),
    "the same with stride 2": ((1, 200, 100), (2, 1, 3, 3), 2, 1),
    "the same with 1x1": ((2, 120, 90), (2, 2, 1, 1), 1, 0),
}


def convolved(
    input: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: int, padding: int
) -> torch.Tensor:
    return functional.conv2d(
        input.double()[None], weight.double(), None if bias is None else bias.double(), stride, padding
    )[0]


@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_conv2d(connection: psycopg.Connection, rng: np.random.Generator, case: str) -> None:
    input_shape, weight_shape, stride, padding = CONVOLUTIONS[case]
    input, weight, bias = normal(rng, *input_shape), normal(rng, *weight_shape), normal(rng, weight_shape[0])
    ours = call(connection, "conv2d", input, weight, bias, stride, padding)
    assert relative_error(ours, convolved(input, weight, bias, stride, padding)) < 1e-5
    ours = call(connection, "conv2d", input, weight, stride=stride, padding=padding)
    assert relative_error(ours, convolved(input, weight, None, stride, padding)) < 1e-5


def outliers(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input.view(-1)[rng.integers(input.numel(), size=3)] = torch.tensor([30.0, -30.0, 30.0])


def outliers_of_weights(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    weight.view(-1)[rng.integers(weight.numel(), size=3)] = torch.tensor([30.0, -30.0, 30.0])


def far_outliers(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input.view(-1)[rng.integers(input.numel())] = 300


def outliers_that_never_meet(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    """The first pixel and the last tap: their product would be larger than any sum that there is."""
    input[5, 0, 0] = weight[2, 5, -1, -1] = 1e4
    if weight.shape[2] == 1:  # where they meet at every pixel
        weight[2, 5] = 1


def nothing_but_crumbs(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    """Outliers beside which all that gives an output rounds to nothing."""
    input.zero_()
    weight.zero_()
    input[0, 0, 0] = weight[0, 0, -1, -1] = 1e9
    input[0, 3, 3] = 1e-9


def zero_channels(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input[::2] = 0
    weight[:, 1::3] = 0
    weight[1] = 0


def uneven_channels(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    """Large values meet small weights: every channel matters as much as the others."""
    sizes = torch.logspace(-4, 4, input.shape[0])
    input *= sizes[:, None, None]
    weight /= sizes[None, :, None, None]


def one_sided(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input.abs_()
    weight.abs_().neg_()


def tiny(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input *= 1e-18
    weight *= 1e-15


def huge(rng: np.random.Generator, input: torch.Tensor, weight: torch.Tensor) -> None:
    input *= 1e18
    weight *= 1e15


@pytest.mark.parametrize(
    "distort",
    [
        outliers,
        outliers_of_weights,
        far_outliers,
        outliers_that_never_meet,
        nothing_but_crumbs,
        zero_channels,
        uneven_channels,
        one_sided,
        tiny,
        huge,
    ],
)
@pytest.mark.parametrize("size", [3, 1])
def test_conv2d_of_any_values(
    connection: psycopg.Connection, rng: np.random.Generator, distort: Any, size: int
) -> None:
    input, weight = normal(rng, 32, 7, 6), normal(rng, 6, 32, size, size)
    distort(rng, input, weight)
    ours = call(connection, "conv2d", input, weight, padding=size // 2)
    assert relative_error(ours, convolved(input, weight, None, 1, size // 2)) < 1e-5


@pytest.mark.parametrize("sign", [1, -1])
def test_conv2d_of_ones_stays_in_its_slots(connection: psycopg.Connection, sign: int) -> None:
    """1024 channels of ones under a kernel of ones make 9216, the largest sum that there is."""
    input, weight = torch.full((1024, 3, 3), float(sign)), torch.ones(1, 1024, 3, 3)
    ours = call(connection, "conv2d", input, weight, padding=1)
    assert relative_error(ours, convolved(input, weight, None, 1, 1)) < 1e-5


def test_conv2d_of_1024_channels_with_outliers(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    input, weight = normal(rng, 1024, 4, 4), normal(rng, 2, 1024, 3, 3)
    outliers(rng, input, weight)
    ours = call(connection, "conv2d", input, weight, padding=1)
    assert relative_error(ours, convolved(input, weight, None, 1, 1)) < 1e-5


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_conv2d_of_nothing(connection: psycopg.Connection, value: float) -> None:
    zero, other = torch.zeros(2, 3, 3), torch.full((1, 2, 3, 3), value)
    assert np.all(np.asarray(call(connection, "conv2d", zero, other, torch.tensor([2.5]), padding=1)) == 2.5)


@pytest.mark.parametrize(
    ("shape", "groups"), [((8, 4, 4), 4), ((6, 3, 5), 1), ((6, 3, 5), 6), ((4,), 2), ((6, 5), 3), ((4, 2, 3, 2), 2)]
)
def test_group_norm(
    connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...], groups: int
) -> None:
    input, weight, bias = 3 * normal(rng, *shape) + 5, normal(rng, shape[0]), normal(rng, shape[0])
    for eps in (1e-5, 0.1):
        reference = functional.group_norm(input[None].double(), groups, weight.double(), bias.double(), eps)[0]
        assert relative_error(call(connection, "group_norm", input, groups, weight, bias, eps), reference) < 1e-5
    assert (
        relative_error(
            call(connection, "group_norm", input, groups), functional.group_norm(input[None].double(), groups)[0]
        )
        < 1e-5
    )


@pytest.mark.parametrize(
    ("queries", "keys", "features", "value_features"),
    [(4, 4, 8, 8), (5, 3, 8, 8), (3, 7, 4, 5), (1, 1, 1, 1), (16, 16, 24, 24), (9, 10, 16, 8)],
)
@pytest.mark.parametrize("leading", [(), (2,), (1, 3)])
def test_scaled_dot_product_attention(
    connection: psycopg.Connection,
    rng: np.random.Generator,
    leading: tuple[int, ...],
    queries: int,
    keys: int,
    features: int,
    value_features: int,
) -> None:
    query, key, value = (
        normal(rng, *leading, queries, features),
        normal(rng, *leading, keys, features),
        normal(rng, *leading, keys, value_features),
    )
    reference = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert relative_error(call(connection, "scaled_dot_product_attention", query, key, value), reference) < 1e-5


def test_attention_is_safe_from_overflow(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    query, key, value = 100 * normal(rng, 6, 8), 100 * normal(rng, 6, 8), normal(rng, 6, 8)
    reference = functional.scaled_dot_product_attention(query.double(), key.double(), value.double())
    assert relative_error(call(connection, "scaled_dot_product_attention", query, key, value), reference) < 1e-4


@pytest.mark.parametrize("timestep", [0, 1, 500, 999, 12.5])
@pytest.mark.parametrize("dim", [8, 7, 64])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [0, 1])
def test_timestep_embedding(connection: psycopg.Connection, timestep: float, dim: int, flip: bool, shift: int) -> None:
    """At an angle of 999 one rounding of a float32, which libraries make differently, is 6e-5."""
    reference = get_timestep_embedding(torch.tensor([timestep]), dim, flip, shift)[0]
    assert (
        relative_error(call(connection, "timestep_embedding", float(timestep), dim, flip, float(shift)), reference)
        < 1e-4
    )
    reference = get_timestep_embedding(torch.tensor([timestep]), dim, flip, shift, max_period=100)[0]
    assert (
        relative_error(
            call(connection, "timestep_embedding", float(timestep), dim, flip, float(shift), 100.0), reference
        )
        < 1e-4
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_tensor_from_bytes(connection: psycopg.Connection, rng: np.random.Generator, dtype: torch.dtype) -> None:
    # every size of number, subnormal ones too
    tensor = (normal(rng, 3, 5, 4) * torch.pow(10.0, 4 * normal(rng, 3, 5, 4)).clamp(1e-8, 1e4)).to(dtype)
    tensor[0, 0] = torch.tensor([0.0, -1.0, torch.finfo(dtype).max, torch.finfo(dtype).tiny], dtype=dtype)
    tensor[0, 1] = torch.tensor([1.0, 0.5, torch.finfo(dtype).tiny / 2, -torch.finfo(dtype).tiny / 8], dtype=dtype)
    content = tensor.view(torch.uint8).numpy().tobytes()
    ours = call(connection, "tensor_from_bytes", content, str(dtype).removeprefix("torch."), list(tensor.shape))
    assert np.array_equal(np.asarray(ours, dtype=np.float32), tensor.float().numpy())


@pytest.mark.parametrize(
    "shape", [[24], [4, 6], [2, 3, 4], [1, 24, 1], [2, 2, 3, 2], [1, 2, 2, 3, 2], [1, 2, 1, 2, 3, 2]]
)
def test_reshape(connection: psycopg.Connection, rng: np.random.Generator, shape: list[int]) -> None:
    input = normal(rng, 4, 3, 2)
    assert exactly(call(connection, "reshape", input, shape), input.reshape(shape))


@pytest.mark.parametrize("channels", [(8, 8), (8, 12), (12, 4)])
@pytest.mark.parametrize("shift", ["default", "scale_shift"])
@pytest.mark.parametrize("factor", [1.0, 1.5])
def test_resnet_block(
    connection: psycopg.Connection, rng: np.random.Generator, channels: tuple[int, int], shift: str, factor: float
) -> None:
    block = randomized(
        ResnetBlock2D(
            in_channels=channels[0], out_channels=channels[1], temb_channels=10, groups=4, eps=1e-4, time_embedding_norm=shift,
            output_scale_factor=factor,
        ),
        rng,
    )  # fmt: skip
    insert_module(connection, block, "block")
    input, temb = normal(rng, channels[0], 5, 6), normal(rng, 10)
    reference = block(input[None], temb[None])[0].detach()
    ours = call(connection, "resnet_block", input, temb, "test", "block", 4, 1e-4, shift, factor)
    assert relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize(("heads", "groups", "factor"), [(2, 4, 1.0), (1, 2, 1.0), (4, None, 1.0), (8, 16, 1.5)])
def test_attention_block(
    connection: psycopg.Connection, rng: np.random.Generator, heads: int, groups: int | None, factor: float
) -> None:
    block = randomized(
        Attention(
            16, heads=heads, dim_head=16 // heads, norm_num_groups=groups, eps=1e-5, residual_connection=True, bias=True,
            rescale_output_factor=factor, _from_deprecated_attn_block=True,
        ),
        rng,
    )  # fmt: skip
    insert_module(connection, block, "attention")
    input = normal(rng, 16, 4, 5)
    reference = block(input[None])[0].detach()
    ours = call(
        connection, "attention_block", input, "test", "attention", heads, num_groups=groups, output_scale_factor=factor
    )
    assert relative_error(ours, reference) < 1e-5


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_downsample(
    connection: psycopg.Connection, rng: np.random.Generator, padding: int, size: tuple[int, int]
) -> None:
    layer = Downsample2D(4, use_conv=True, out_channels=4, padding=padding, name="op").eval()
    insert_module(connection, torch.nn.ModuleDict({"conv": layer.conv}), "down")
    input = normal(rng, 4, *size)
    reference = layer(input[None])[0].detach()
    assert relative_error(call(connection, "downsample", input, "test", "down", padding), reference) < 1e-5


def test_upsample(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    layer = Upsample2D(4, use_conv=True, out_channels=4).eval()
    insert_module(connection, layer, "up")
    input = normal(rng, 4, 3, 5)
    assert relative_error(call(connection, "upsample", input, "test", "up"), layer(input[None])[0].detach()) < 1e-5


IMAGE, KERNEL = "'{{{1,2},{3,4}}}'::real[]", "'{{{{1}}}}'::real[]"
REFUSED = {
    "silu('{}')": "silu: input is empty",
    "silu('{1,NULL}')": "silu: input holds null elements",
    "silu('{1,NaN}')": "silu: input holds NaN or infinite values",
    "silu('{1,Infinity}')": "silu: input holds NaN or infinite values",
    "silu('{1,-Infinity}')": "silu: input holds NaN or infinite values",
    "silu('[0:1]={1,2}')": "silu: input has the bounds [0:1], expected subscripts that begin at 1",
    "add('{1,2}', '{1,2,3}')": "add: b has shape {3}, expected the shape of a, {2}",
    "add('{1,2}', '{{1,2}}')": "add: b has shape {1,2}, expected the shape of a, {2}",
    "add('{1,2}', '{1,NaN}')": "add: b holds NaN or infinite values",
    "add_channels('{{1,2},{3,4}}', '{1,2,3}')": "add_channels: vector has 3 elements, expected one for each of the 2 channels of input",
    "add_channels('{{1,2},{3,4}}', '{{1},{2}}')": "add_channels: vector has shape {2,1}, expected 1 dimension (channels)",
    f"concatenate({IMAGE}, '{{{{{{1}}}}}}')": "concatenate: b has shape {1,1,1}, expected the height and width of a, {1,2,2}",
    f"concatenate({IMAGE}, '{{1}}')": "concatenate: b has shape {1}, expected 3 dimensions (channels, height, width)",
    f"pad({IMAGE}, 1, 0, -1, 0)": "pad: padding is 1, 0, -1, 0 (left, right, top, bottom), expected none below 0",
    f"pad({IMAGE}, 1, 1, 1, 1, 'NaN')": "pad: value is NaN, expected a finite number",
    f"interpolate_nearest({IMAGE}, 0)": "interpolate_nearest: scale_factor is 0, expected at least 1",
    "interpolate_nearest('{1}')": "interpolate_nearest: input has shape {1}, expected 3 dimensions (channels, height, width)",
    "linear(null, '{{1}}')": "linear: input is null",
    "linear('{1}', null)": "linear: weight is null",
    "linear('{1,2}', '{{1,2,3}}')": "linear: input has shape {2}, expected a last dimension of 3, as weight of shape {1,3} takes",
    "linear('{1,2}', '{{1,2}}', '{1,2}')": "linear: bias has 2 elements, expected one for each of the 1 outputs of weight",
    "linear('{1,2}', '{{1,NaN}}')": "linear: weight holds NaN or infinite values",
    "linear('{1,2}', '{1,2}')": "linear: weight has shape {2}, expected 2 dimensions (out, in)",
    f"conv2d(null, {KERNEL})": "conv2d: input is null",
    f"conv2d({IMAGE}, null)": "conv2d: weight is null",
    f"conv2d('{{{{{{NaN}}}}}}', {KERNEL})": "conv2d: input holds NaN or infinite values",
    f"conv2d({IMAGE}, '{{{{{{{{Infinity}}}}}}}}')": "conv2d: weight holds NaN or infinite values",
    f"conv2d({IMAGE}, {KERNEL}, '{{NaN}}')": "conv2d: bias holds NaN or infinite values",
    f"conv2d('{{1}}', {KERNEL})": "conv2d: input has shape {1}, expected 3 dimensions (channels, height, width)",
    f"conv2d({IMAGE}, {IMAGE})": "conv2d: weight has shape {1,2,2}, expected 4 dimensions (out, in, height, width)",
    f"conv2d('{{{{{{1}}}},{{{{2}}}}}}', {KERNEL})": "conv2d: input has 2 channels, expected 1, as weight of shape {1,1,1,1} takes",
    f"conv2d({IMAGE}, {KERNEL}, '{{1,2}}')": "conv2d: bias has 2 elements, expected one for each of the 1 output channels of weight",
    f"conv2d({IMAGE}, {KERNEL}, stride => 0)": "conv2d: stride is 0, expected at least 1",
    f"conv2d({IMAGE}, {KERNEL}, stride => null)": "conv2d: stride is null, expected at least 1",
    f"conv2d({IMAGE}, {KERNEL}, padding => -1)": "conv2d: padding is -1, expected at least 0",
    f"conv2d({IMAGE}, array_fill(1::real, '{{1,1,3,3}}'))": "conv2d: input of shape {1,2,2} with padding 0 is smaller than the kernel of weight of shape {1,1,3,3}",
    "group_norm(null, 1)": "group_norm: input is null",
    f"group_norm({IMAGE}, 0)": "group_norm: num_groups is 0, expected a divisor of the 1 channels of input",
    f"group_norm({IMAGE}, 2)": "group_norm: num_groups is 2, expected a divisor of the 1 channels of input",
    f"group_norm({IMAGE}, null)": "group_norm: num_groups is null, expected a divisor of the 1 channels of input",
    f"group_norm({IMAGE}, 1, '{{1,2}}')": "group_norm: weight has 2 elements, expected one for each of the 1 channels of input",
    f"group_norm({IMAGE}, 1, '{{1}}', '{{NaN}}')": "group_norm: bias holds NaN or infinite values",
    f"group_norm({IMAGE}, 1, eps => -1)": "group_norm: eps is -1, expected a finite number of at least 0",
    "scaled_dot_product_attention('{1}', '{1}', '{1}')":
        "scaled_dot_product_attention: query has shape {1}, expected 2 to 4 dimensions (batch, heads, length, features), the first two optional",
    "scaled_dot_product_attention('{{1,2}}', '{{1}}', '{{1}}')":
        "scaled_dot_product_attention: key has shape {1,1}, expected that of query, {1,2}, but for the length",
    "scaled_dot_product_attention('{{1}}', '{{1}}', '{{1},{2}}')":
        "scaled_dot_product_attention: value has shape {2,1}, expected that of key, {1,1}, but for the features",
    "scaled_dot_product_attention('{{NaN}}', '{{1}}', '{{1}}')": "scaled_dot_product_attention: query holds NaN or infinite values",
    "timestep_embedding('NaN', 8)": "timestep_embedding: timestep is NaN, expected a finite number of single precision",
    "timestep_embedding(1, 1)": "timestep_embedding: embedding_dim is 1, expected from 2 to 65536",
    "timestep_embedding(1, 2)": "timestep_embedding: downscale_freq_shift is 1, expected from -1e30 to less than half of embedding_dim, 1",
    "timestep_embedding(1, 8, max_period => 0)": "timestep_embedding: max_period is 0, expected from 1e-30 to 1e30",
    "tensor_from_bytes('\\x00', 'float64', '{1}')": 'tensor_from_bytes: dtype is "float64", expected float16, bfloat16 or float32',
    "tensor_from_bytes('\\x0000', 'float32', '{1}')": "tensor_from_bytes: bytes has 2 bytes, expected 4 for the shape {1} of float32",
    "tensor_from_bytes('\\x0000', 'float16', '{}')": "tensor_from_bytes: shape is {}, expected 1 to 6 positive sizes",
    "tensor_from_bytes('\\x007c', 'float16', '{1}')": "tensor_from_bytes: bytes holds NaN or infinite values",
    "reshape('{1,2,3}', '{2,2}')": "reshape: input has shape {3}, expected 4 elements for the shape {2,2}",
    "reshape('{1,2,3}', '{-1}')": "reshape: shape is {-1}, expected 1 to 6 positive sizes",
    "resnet_block(null, null, 'test', 'block', 1)": "resnet_block: input is null",
    f"attention_block({IMAGE}, 'nobody', 'attention', 1)": "attention_block: model nobody has no parameter attention.to_q of component unet",
    f"downsample({IMAGE}, 'nobody', 'down', 2)": "downsample: padding is 2, expected 0 or 1",
    "downsample(array_fill(0::real, '{8,4,1}'), 'nobody', 'down', 0)": "downsample: input has shape {8,4,1}, expected at least 2 pixels in height and width with padding 0",
    f"upsample({IMAGE}, 'nobody', 'up')": "upsample: model nobody has no parameter up.conv of component unet",
}  # fmt: skip


@pytest.mark.parametrize("expression", REFUSED)
def test_bad_input(connection: psycopg.Connection, expression: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        connection.execute(f"select sql_diffusion.{expression}".encode())
    assert error.value.diag.message_primary == REFUSED[expression]
    assert error.value.sqlstate == ("42704" if "nobody" in REFUSED[expression] else "22023")


@pytest.mark.parametrize(
    "function",
    [
        "silu(null)",
        "add('{1}', null)",
        f"pad({IMAGE}, 1, 1, 1, null)",
        "reshape(null, '{1}')",
        "timestep_embedding(null, 8)",
    ],
)
def test_null_in_null_out(connection: psycopg.Connection, function: str) -> None:
    assert connection.execute(f"select sql_diffusion.{function}".encode()).fetchone() == (None,)
