"""The Python package on its own, without a server, against PyTorch."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention
from torch.nn import functional
from transformers.activations import QuickGELUActivation

from sql_diffusion_numpy import pipeline, random, session, tensors, threads
from sql_diffusion_numpy.layers import attention, conv2d, winograd
from sql_diffusion_numpy.layers.activation import Activation, Piece, statistics_of
from sql_diffusion_numpy.layers.geglu import geglu
from sql_diffusion_numpy.layers.gelu import gelu
from sql_diffusion_numpy.layers.group_norm import Norm, apply_norm, group_norm, prepare_norm
from sql_diffusion_numpy.layers.layer_norm import layer_norm, layer_norm_tokens
from sql_diffusion_numpy.layers.mish import mish
from sql_diffusion_numpy.layers.modules import Layout, PlanRow, left_steps
from sql_diffusion_numpy.layers.quick_gelu import quick_gelu
from sql_diffusion_numpy.layers.relu import relu
from sql_diffusion_numpy.layers.scaled_dot_product_attention import scaled_dot_product_attention
from sql_diffusion_numpy.layers.timestep_embedding import timestep_embedding
from sql_diffusion_numpy.layers.winograd import Algorithm, Convolution
from sql_diffusion_numpy.network import assemble_network, lay_out, run, run_steps, step_tensor


@pytest.fixture(autouse=True, params=[1, 3], ids=["one thread", "three threads"])
def thread_count(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    threads.set_count(request.param)
    monkeypatch.setattr(conv2d, "_WORTH", 1)  # layers as small as these are shared out, too


def error(ours: np.ndarray, theirs: torch.Tensor) -> float:
    reference = theirs.numpy().astype(np.float64)
    assert ours.shape == reference.shape
    assert ours.dtype == np.float32
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy().transpose(0, 2, 3, 1))


def convolution(algorithm: Algorithm, weight: torch.Tensor, bias: torch.Tensor, *padding: int) -> Convolution:
    left, right, top, bottom = padding
    laid_out = winograd.lay_out_weight(weight.numpy(), algorithm)
    return winograd.assemble(algorithm, laid_out, bias.numpy(), (left, right, top, bottom))


def reference(
    algorithm: Algorithm, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *padding: int
) -> torch.Tensor:
    x, weight, bias = x.double(), weight.double(), bias.double()
    if algorithm.name == "upsample":
        x = functional.interpolate(x, scale_factor=2)
    return functional.conv2d(
        functional.pad(x, padding),
        weight,
        bias,
        stride=algorithm.step // algorithm.out if algorithm.name == "direct" else 1,
    )


ALGORITHMS: dict[str, tuple[Algorithm, tuple[int, int, int, int], float]] = {
    "1x1": (winograd.direct(1, 1), (0, 0, 0, 0), 1e-5),
    "3x3": (winograd.direct(3, 1), (1, 1, 1, 1), 1e-5),
    "3x3, stride 2": (winograd.direct(3, 2), (1, 1, 1, 1), 1e-5),
    "3x3, stride 2, padded right and below": (winograd.direct(3, 2), (0, 1, 0, 1), 1e-5),
    "winograd2": (winograd.WINOGRAD2, (1, 1, 1, 1), 1e-4),
    "winograd4": (winograd.WINOGRAD4, (1, 1, 1, 1), 1e-4),
    "winograd4 at each call": (winograd.AT_EACH_CALL, (1, 1, 1, 1), 1e-4),
    "upsample": (winograd.UPSAMPLE, (1, 1, 1, 1), 1e-4),
}


# (batch, in, out, height, width): channels in one block, in several, and so many that products are large, odd ones, tiles that do not fit, wide and high
SHAPES = [
    (1, 3, 8, 8, 8),
    (2, 192, 64, 12, 20),
    (3, 7, 5, 9, 11),
    (1, 320, 96, 6, 5),
    (5, 16, 3, 2, 2),
    (1, 64, 64, 40, 33),
    (2, 96, 1440, 5, 5),
    (1, 1400, 96, 2, 70),
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_convolutions(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    algorithm, padding, tolerance = ALGORITHMS[name]
    torch.manual_seed(int(rng.integers(2**32)))
    batch, ins, outs, height, width = shape
    kernel = algorithm.g.shape[1]
    x = torch.randn(batch, ins, height, width)
    weight, bias = torch.randn(outs, ins, kernel, kernel), torch.randn(outs)
    [piece] = conv2d.convolve([Piece(channels_last(x), None)], convolution(algorithm, weight, bias, *padding))
    theirs = reference(algorithm, x, weight, bias, *padding)
    assert error(piece.values.transpose(0, 3, 1, 2), theirs) < tolerance
    # and the statistics that it takes in passing
    values = piece.values.reshape(batch, -1, outs).astype(np.float64)
    assert piece.statistics is not None
    assert np.allclose(piece.statistics.mean, values.mean(axis=1), atol=1e-5 * np.abs(values).max())
    spread = ((values - values.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    assert np.allclose(
        piece.statistics.deviation, spread, rtol=1e-4, atol=1e-6 * values.shape[1] * np.abs(values).max() ** 2
    )


@pytest.mark.parametrize("name", ["3x3", "winograd4"])
def test_a_norm_before_and_sums_behind(rng: np.random.Generator, name: str) -> None:
    """group norm over two pieces, SiLU, convolution, a bias for each picture, a residual, a scale: in one call."""
    algorithm, padding, tolerance = ALGORITHMS[name]
    torch.manual_seed(int(rng.integers(2**32)))
    a, b, residual = torch.randn(2, 20, 10, 9) + 3, torch.randn(2, 12, 10, 9), torch.randn(2, 192, 10, 9)
    weight, bias = torch.randn(192, 32, 3, 3), torch.randn(2, 192)  # three threads share out these channels
    gamma, beta = torch.randn(32), torch.randn(32)
    activation: Activation = [Piece(channels_last(a), None), Piece(channels_last(b), None)]
    norm = prepare_norm(statistics_of(activation), 90, 4, 1e-5, gamma.numpy(), beta.numpy(), True)
    [piece] = conv2d.convolve(
        activation,
        convolution(algorithm, weight, torch.zeros(192), *padding),
        norm,
        bias=bias.numpy(),
        residual=channels_last(residual),
        output_scale=0.5,
    )
    hidden = functional.silu(functional.group_norm(torch.cat([a, b], 1).double(), 4, gamma.double(), beta.double()))
    theirs = functional.conv2d(hidden, weight.double(), padding=1) + bias[:, :, None, None] + residual
    assert error(piece.values.transpose(0, 3, 1, 2), theirs / 2) < tolerance


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0)], ids=str)
@pytest.mark.parametrize(
    "shape", [(1, 64, 3, 40, 33), (2, 28, 3, 12, 20), (3, 600, 4, 9, 11), (5, 9, 1, 16, 3)], ids=str
)
def test_a_large_picture_of_few_channels(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], padding: tuple[int, ...]
) -> None:
    """Alone, and with all that stands before and behind it; a picture of a batch is the one alone to the bit."""
    monkeypatch.setattr(conv2d, "_SHIFTED", 1)
    torch.manual_seed(int(rng.integers(2**32)))
    batch, ins, outs, height, width = shape
    x, weight, bias = torch.randn(batch, ins, height, width), torch.randn(outs, ins, 3, 3), torch.randn(batch, outs)
    layer = convolution(winograd.DIRECT3, weight, bias[0], *padding)
    [alone] = conv2d.convolve([Piece(channels_last(x), None)], layer)
    theirs = reference(winograd.DIRECT3, x, weight, bias[0], *padding)
    assert error(alone.values.transpose(0, 3, 1, 2), theirs) < 1e-5
    scale, shift, residual = torch.randn(batch, ins), torch.randn(batch, ins), torch.randn(theirs.shape)

    def run(pictures: slice) -> Piece:
        norm = Norm(scale[pictures].numpy(), shift[pictures].numpy(), True)
        given = bias[pictures].numpy(), channels_last(residual)[pictures], 0.5
        return conv2d.convolve([Piece(channels_last(x)[pictures], None)], layer, norm, *given)[0]

    together = run(slice(batch))
    hidden = functional.silu(x.double() * scale.double()[:, :, None, None] + shift.double()[:, :, None, None])
    theirs = reference(winograd.DIRECT3, hidden, weight, torch.zeros(outs), *padding)
    theirs = (theirs + bias[:, :, None, None] + residual) / 2
    assert error(together.values.transpose(0, 3, 1, 2), theirs) < 1e-5
    for number in range(batch):
        assert np.array_equal(together.values[number], run(slice(number, number + 1)).values[0])


@pytest.mark.parametrize("batch", [5, 12])
@pytest.mark.parametrize("size", [(12, 8), (32, 32), (64, 48)], ids=str)
@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("ins", "outs"), [(24, 16), (7, 31)], ids=str)
def test_a_picture_in_a_batch_is_the_one_alone(
    rng: np.random.Generator, name: str, size: tuple[int, int], batch: int, ins: int, outs: int
) -> None:
    """To the bit, in layers of few channels."""

    def normal(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, np.float32)

    algorithm, padding, _ = ALGORITHMS[name]
    kernel = algorithm.g.shape[1]
    x, scale, shift, bias = normal(batch, *size, ins), normal(batch, ins), normal(batch, ins), normal(batch, outs)
    layer = convolution(algorithm, torch.from_numpy(normal(outs, ins, kernel, kernel)), torch.zeros(outs), *padding)
    residual = normal(*conv2d.convolve([Piece(x, None)], layer)[0].values.shape)
    for sums in (False, True):  # the layer alone, and with all that stands before and behind it

        def run(pictures: slice, sums: bool = sums) -> Piece:
            activation = [Piece(x[pictures], None)]
            if not sums:
                return conv2d.convolve(activation, layer)[0]
            norm = Norm(scale[pictures], shift[pictures], True)
            return conv2d.convolve(activation, layer, norm, bias[pictures], residual[pictures], 0.5)[0]

        together = run(slice(batch))
        for number in range(batch):
            alone = run(slice(number, number + 1))
            assert together.statistics is not None and alone.statistics is not None
            assert np.array_equal(together.values[number], alone.values[0])
            assert np.array_equal(together.statistics.mean[number], alone.statistics.mean[0])
            assert np.array_equal(together.statistics.deviation[number], alone.statistics.deviation[0])


@pytest.mark.parametrize(
    "shape", [(1, 8, 12, 1, 1), (3, 20, 64, 5, 7), (2, 640, 1300, 9, 4), (1, 320, 2560, 40, 33)], ids=str
)
def test_a_gated_linear_layer(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """Of which only the gated half is kept."""
    batch, ins, outs, height, width = shape
    torch.manual_seed(int(rng.integers(2**32)))
    x, weight, bias = torch.randn(batch, ins, height, width), torch.randn(outs, ins, 1, 1), torch.randn(outs)
    layer = convolution(winograd.direct(1, 1), weight, bias, 0, 0, 0, 0)
    [piece] = conv2d.convolve([Piece(channels_last(x), None)], layer, gated=True, statistics=False)
    hidden, gate = functional.conv2d(x.double(), weight.double(), bias.double()).chunk(2, dim=1)
    assert error(piece.values.transpose(0, 3, 1, 2), hidden * functional.gelu(gate)) < 1e-5


@pytest.mark.parametrize("name", ["1x1", "3x3", "winograd4"])
def test_the_products_of_a_large_layer_are_large(
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """They are copied before they are multiplied, which is worth it where many rows are multiplied at once."""
    algorithm, padding, _ = ALGORITHMS[name]
    kernel = algorithm.g.shape[1]
    weight = torch.from_numpy(rng.standard_normal((640, 320, kernel, kernel)).astype(np.float32))
    layer = convolution(algorithm, weight, torch.zeros(640), *padding)
    multiplied, matmul = [], np.matmul

    def watched(a: np.ndarray, b: np.ndarray, **how: Any) -> np.ndarray:
        if b.shape[-1] == 320:  # an output block, and not a transform
            multiplied.append(a.shape[-2])
        return matmul(a, b, **how)

    monkeypatch.setattr(np, "matmul", watched)
    conv2d.convolve([Piece(rng.standard_normal((1, 64, 48, 320)).astype(np.float32), None)], layer)
    assert min(multiplied) >= 32


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("ins", "outs"), [(384, 640), (400, 370)], ids=str)
def test_the_products_of_few_tiles_are_small(rng: np.random.Generator, name: str, ins: int, outs: int) -> None:
    """They are not copied; the layer takes pictures of any other size, too, with a residual or without."""
    algorithm, padding, tolerance = ALGORITHMS[name]
    kernel = algorithm.g.shape[1]
    weight = torch.from_numpy(rng.standard_normal((outs, ins, kernel, kernel)).astype(np.float32))
    bias = torch.from_numpy(rng.standard_normal(outs).astype(np.float32))
    tiles = winograd.tiles_of(algorithm, 8, 8)
    laid_out = winograd.lay_out_weight(weight.numpy(), algorithm, tiles)
    _, _, _, in_block, out_block = laid_out.shape
    assert tiles * in_block * out_block <= 1_000_000
    layer = winograd.assemble(algorithm, laid_out, bias.numpy(), padding)
    for batch, height, width in ((1, 8, 8), (2, 8, 8), (3, 4, 8), (1, 20, 14)):
        x = torch.from_numpy(rng.standard_normal((batch, ins, height, width)).astype(np.float32))
        theirs = reference(algorithm, x, weight, bias, *padding).permute(0, 2, 3, 1)
        [piece] = conv2d.convolve([Piece(channels_last(x), None)], layer)
        assert error(piece.values, theirs) < tolerance
        residual = rng.standard_normal(piece.values.shape).astype(np.float32)
        [piece] = conv2d.convolve([Piece(channels_last(x), None)], layer, residual=residual)
        assert error(piece.values, theirs + torch.from_numpy(residual)) < tolerance


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5), (4, 1)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 0), (1, 1), (2, 1), (3, 4)])
def test_the_layer_conv2d_takes_any_kernel(
    rng: np.random.Generator, kernel: tuple[int, int], stride: int, padding: int
) -> None:
    x, weight, bias = (rng.standard_normal(s).astype(np.float32) for s in ((6, 11, 8), (4, 6, *kernel), (4,)))
    theirs = functional.conv2d(*map(torch.from_numpy, (x[None], weight, bias)), stride=stride, padding=padding)[0]
    assert error(conv2d.conv2d(x, weight, bias, stride, padding), theirs) < 1e-5


@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["centred", "far from zero"])
def test_group_norm(rng: np.random.Generator, offset: float) -> None:
    x = (rng.standard_normal((12, 7, 5)) + offset).astype(np.float32)
    weight, bias = rng.standard_normal(12).astype(np.float32), rng.standard_normal(12).astype(np.float32)
    doubles = [torch.from_numpy(values).double() for values in (x[None], weight, bias)]
    theirs = functional.group_norm(doubles[0], 3, doubles[1], doubles[2])[0]
    assert error(group_norm(x, 3, weight, bias, 1e-5), theirs) < 1e-5
    last = np.ascontiguousarray(x.transpose(1, 2, 0))[None]
    norm = prepare_norm(statistics_of([Piece(last, None)]), 35, 3, 1e-5, weight, bias, False)
    assert error(apply_norm(last, norm)[0].transpose(2, 0, 1), theirs) < (1e-5 if offset == 0 else 1e-3)


@pytest.mark.parametrize("size", [1.0, 40.0], ids=["small scores", "scores that would overflow"])
@pytest.mark.parametrize("shape", [(5, 9, 4), (3, 700, 8), (2, 3, 17, 6)], ids=str)
def test_attention(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> None:
    query, key, value = (rng.standard_normal(shape).astype(np.float32) for _ in range(3))
    query, key = query * np.float32(size), key * np.float32(size)
    theirs = functional.scaled_dot_product_attention(*(torch.from_numpy(x).double() for x in (query, key, value)))
    # where scores are in the thousands, a score's rounding alone is 1e-4
    assert error(scaled_dot_product_attention(query, key, value), theirs) < (1e-5 if size == 1 else 1e-3)


def test_attention_of_much_is_done_in_parts(rng: np.random.Generator) -> None:
    query, key, value = (rng.standard_normal((1, 3000, 4)).astype(np.float32) for _ in range(3))
    theirs = functional.scaled_dot_product_attention(*map(torch.from_numpy, (query, key, value)))
    assert error(scaled_dot_product_attention(query, key, value), theirs) < 1e-5
    assert threads.workspace("scores", 1).base.nbytes < 4e6


@pytest.mark.parametrize(("flip", "shift", "width"), [(False, 1, 32), (True, 0, 64), (True, 0, 33)])
def test_timestep_embedding(rng: np.random.Generator, flip: bool, shift: float, width: int) -> None:
    from diffusers.models.embeddings import get_timestep_embedding

    timestep = int(rng.integers(1000))
    theirs = get_timestep_embedding(torch.tensor([timestep]), width, flip, shift)[0]
    # PyTorch's exp is not always the nearest float32: at an angle of 1000 that is 6e-5
    assert error(timestep_embedding(timestep, width, flip, shift), theirs) < 1e-4


def test_random_numbers_are_those_of_torch(rng: np.random.Generator) -> None:
    for _ in range(5):
        seed = int(rng.integers(-(2**62), 2**62))
        generator, theirs = random.manual_seed(seed), torch.Generator().manual_seed(seed)
        for _ in range(12):
            shape = [int(size) for size in rng.integers(1, 12, int(rng.integers(1, 4)))]
            ours, generator = random.randn(generator, shape)
            assert np.abs(ours - torch.randn(shape, generator=theirs).numpy()).max() < 1e-6


@pytest.mark.parametrize(
    "algorithm", [winograd.DIRECT3, winograd.WINOGRAD2, winograd.WINOGRAD4], ids=lambda each: each.name
)
def test_results_are_not_written_over_while_a_step_takes_them(
    rng: np.random.Generator, algorithm: Algorithm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps at random, of which some are left for the next one, and some write over what they read."""
    monkeypatch.setattr(winograd, "choose_algorithm", lambda *_: algorithm)
    monkeypatch.setattr(conv2d, "_TOGETHER", 1)  # a row of tiles at a time, whose input is read
    monkeypatch.setattr(conv2d, "_PADDED", 1)  # when the row above has been written
    torch.manual_seed(int(rng.integers(2**32)))
    x = torch.randn(2, 8, 12, 10)
    for _ in range(20):
        steps: list[tuple[str, list[int]]] = [("input", []), ("conv2d", [1])]
        for step in range(3, 16):
            operation = str(rng.choice(["conv2d", "conv2d", "relu", "add", "add"]))
            recent = max(1, step - 4)
            inputs = [step - 1] if rng.random() < 0.7 else [int(rng.integers(recent, step))]
            if operation == "add":
                inputs = rng.permutation([*inputs, int(rng.integers(recent, step))]).tolist()
            steps.append((operation, inputs))
        settings = {"kernel_size": 3, "stride": 1, "padding": 1}
        plan = [PlanRow(n, name, f"{name}{n}", inputs, 8, 8, 0, settings) for n, (name, inputs) in enumerate(steps, 1)]
        layers = {row.key: torch.nn.Conv2d(8, 8, 3, padding=1) for row in plan if row.operation == "conv2d"}
        read = lambda key: tuple(each.detach().numpy() for each in layers[key].parameters())  # noqa: B023, E731
        network = assemble_network(lay_out(plan, read, 12, 10))
        expected = [x]
        for row in plan[1:]:
            values = [expected[step - 1] for step in row.inputs]
            with torch.no_grad():
                if row.operation == "conv2d":
                    expected.append(layers[row.key](*values))
                else:
                    expected.append(values[0] + values[1] if row.operation == "add" else values[0].relu())
        for (row, value), theirs in zip(run_steps(network, {"input1": x.numpy()}), expected, strict=True):
            assert error(step_tensor(row, value), theirs) < 1e-4, (row, plan)
        assert error(run(network, {"input1": x.numpy()})["sample"], expected[-1]) < 1e-4, plan


def test_numbers_are_written_to_the_bit(rng: np.random.Generator) -> None:
    bits = np.concatenate([[0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF], rng.integers(0, 0x7F800000, 10000)])
    for sign in (0, 1 << 31):
        numbers = (bits + sign).astype(np.uint32).view(np.float32)
        read = np.array([float.fromhex(text) for text in tensors.written(numbers)], np.float32)
        assert np.array_equal(read.view(np.uint32), numbers.view(np.uint32))


def test_denormalize() -> None:
    assert pipeline.denormalize(np.array([-2, -1, 0, 0.5, 1, 3], np.float32)).tolist() == [0, 0, 0.5, 0.75, 1, 1]


def test_an_error_in_a_thread_is_the_callers() -> None:
    def task(part: int) -> None:
        if part == 1:
            raise ValueError("part 1")

    threads.set_count(3)
    for _ in range(3):
        with pytest.raises(ValueError, match="part 1"):
            threads.parallel(task, 3)
        done: list[int] = []
        threads.parallel(done.append, 3)
        assert sorted(done) == [0, 1, 2]


def test_progress_is_told_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = 100.0, []

    class Plpy:
        @staticmethod
        def notice(message: str) -> None:
            told.append((now - 100, message))

    monkeypatch.setattr("time.monotonic", lambda: now)
    progress, silent = session.progress_of(Plpy, True), session.progress_of(Plpy, False)
    for step in range(3600):
        now += 0.5
        silent("nothing")
        progress(f"step {step}")
    moments = [moment for moment, _ in told]
    assert moments[:7] == [2, 6, 14, 30, 62, 122, 182]
    assert moments[-1] > 1800 - 60
    assert told[0][1] == "step 3"


FAR = [-3.4e38, -1e5, -40.0, -6.0, -1.3, -1e-30, 0.0, 1e-30, 0.7, 6.0, 40.0, 1e5, 3.4e38]
ACTIVATIONS: dict[str, tuple[Callable[[np.ndarray], np.ndarray], Callable[[torch.Tensor], torch.Tensor]]] = {
    "gelu": (gelu, functional.gelu),
    "gelu, tanh": (lambda x: gelu(x, "tanh"), lambda x: functional.gelu(x, approximate="tanh")),
    "quick_gelu": (quick_gelu, QuickGELUActivation()),
    "relu": (relu, functional.relu),
    "mish": (mish, functional.mish),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 70, 33, 40)], ids=str)
def test_activations(rng: np.random.Generator, name: str, shape: tuple[int, ...]) -> None:
    ours, theirs = ACTIVATIONS[name]
    for x in (3 * rng.standard_normal(shape).astype(np.float32), np.array(FAR, np.float32)):
        result = ours(x)
        assert result.dtype == np.float32 and result.shape == x.shape
        assert np.allclose(result, theirs(torch.from_numpy(x).double()).numpy(), rtol=3e-7, atol=1e-6)


def test_gelu_has_an_erf_of_its_own() -> None:
    x = np.linspace(-7, 7, 100_001).astype(np.float32)
    theirs = functional.gelu(torch.from_numpy(x).double()).numpy()
    assert np.abs(gelu(x) - theirs).max() < 1e-7 * x.max()


def test_gelu_of_what_is_large_is_no_news() -> None:
    """Nor in another thread."""
    x = np.full(1 << 18, 2e19, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(gelu(x), x)
        assert np.array_equal(gelu(-x), 0 * x)


def test_a_linear_layer_is_left_to_its_gate() -> None:
    """But for one that adds something, or whose result another step takes as well."""

    def plan(inputs: list[int], more: list[PlanRow]) -> list[PlanRow]:
        rows = [
            PlanRow(1, "input", "sample", [], 6, 6, 0, {}),
            PlanRow(2, "linear", "l", inputs, 6, 6, 0, {}),
            PlanRow(3, "geglu", "", [2], 6, 3, 0, {}),
        ]
        return rows + more

    assert left_steps(plan([1], [])) == {2}
    assert left_steps(plan([1, 1], [])) == set()
    assert left_steps(plan([1], [PlanRow(4, "output", "hidden", [2], 6, 6, 0, {})])) == set()


@pytest.mark.parametrize("shape", [(2,), (4, 6), (2, 9, 11, 5120)], ids=str)
def test_geglu(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    x = rng.standard_normal(shape).astype(np.float32)
    hidden, gate = torch.from_numpy(x).double().chunk(2, dim=-1)
    theirs = (hidden * functional.gelu(gate)).numpy()
    # gelu is a share of its gate, and of a gate far below zero what is left when almost all of it is taken away
    assert np.abs(geglu(x) - theirs).max() < 1e-6 * (hidden * gate).abs().max()


@pytest.mark.parametrize("offset", [0.0, 100.0], ids=["centred", "far from zero"])
@pytest.mark.parametrize("shape", [(5, 12), (2, 8, 9, 320), (1, 1, 1, 7), (1, 700, 1, 33)], ids=str)
def test_layer_norm(rng: np.random.Generator, shape: tuple[int, ...], offset: float) -> None:
    x = (rng.standard_normal(shape) + offset).astype(np.float32)
    weight, bias = rng.standard_normal((2, shape[-1])).astype(np.float32)
    doubles = [torch.from_numpy(values).double() for values in (x, weight, bias)]
    theirs = functional.layer_norm(doubles[0], shape[-1:], doubles[1], doubles[2])
    assert error(layer_norm(x, weight, bias, 1e-5), theirs) < 1e-6
    assert error(layer_norm_tokens(x, weight, bias, 1e-5), theirs) < (1e-5 if offset == 0 else 1e-4)


@pytest.mark.parametrize("shape", [(5, 9, 4), (3, 700, 8), (2, 3, 17, 6), (1, 3000, 4)], ids=str)
def test_attention_with_a_mask(rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    query = rng.standard_normal((*shape[:-2], 7, shape[-1])).astype(np.float32)
    key, value = rng.standard_normal((2, *shape)).astype(np.float32)
    mask = rng.standard_normal((7, shape[-2])).astype(np.float32)
    mask[rng.random(mask.shape) < 0.3] = -np.inf
    mask[1] = -np.inf  # a query that sees nothing gets zeros
    mask[2] = np.finfo(np.float32).min
    mask[3] = 0
    doubles = [torch.from_numpy(x).double() for x in (query, key, value)]
    theirs = functional.scaled_dot_product_attention(
        doubles[0], doubles[1], doubles[2], attn_mask=torch.from_numpy(mask).double()
    )
    assert error(scaled_dot_product_attention(query, key, value, mask), theirs) < 1e-5
    theirs = functional.scaled_dot_product_attention(doubles[0], doubles[1], doubles[2], is_causal=True)
    assert error(scaled_dot_product_attention(query, key, value, is_causal=True), theirs) < 1e-5
    theirs = functional.scaled_dot_product_attention(doubles[1], doubles[1], doubles[2], is_causal=True, scale=20.0)
    assert error(scaled_dot_product_attention(key, key, value, is_causal=True, scale=20.0), theirs) < 1e-4


PROJECTIONS = [("to_q", "to_k", "to_v", "to_out.0"), ("q_proj", "k_proj", "v_proj", "out_proj")]


@pytest.mark.parametrize("projections", PROJECTIONS, ids=["diffusers", "transformers"])
@pytest.mark.parametrize("context", [None, 1, 2], ids=["itself", "one context", "a context each"])
def test_attention_with_projections(
    rng: np.random.Generator, context: int | None, projections: tuple[str, ...]
) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    width = None if context is None else 24
    block = Attention(64, cross_attention_dim=width, heads=4, dim_head=12, bias=projections[0] != "to_q").eval()
    modules = dict(zip(projections, [block.to_q, block.to_k, block.to_v, block.to_out[0]], strict=True))

    def read(name: str) -> tuple[np.ndarray, np.ndarray | None]:
        module = modules[name.removeprefix("attention.")]
        bias = None if module.bias is None else module.bias.detach().numpy()
        return module.weight.detach().numpy(), bias

    layout = Layout([], {}, {})
    attention.lay_out(layout, read, "attention", 4, context is not None, projections)
    network = assemble_network(layout)
    x, residual = torch.randn(2, 64, 6, 9), torch.randn(2, 64, 6, 9)
    other = None if context is None else torch.randn(context, 77, 24)
    with torch.no_grad():
        seen = None if other is None else other.expand(2, -1, -1)
        theirs = block(x.flatten(2).transpose(1, 2), seen).transpose(1, 2).reshape(x.shape)
        causal = torch.full((54, 54), -torch.inf).triu(1).expand(8, -1, -1)
        theirs_causal = None if other is not None else block(x.flatten(2).transpose(1, 2), attention_mask=causal)
    activation: Activation = [Piece(channels_last(x), None)]
    given: Activation | None = None if other is None else [Piece(other.numpy()[:, None], None)]

    def run(**named: Any) -> np.ndarray:
        [piece] = attention.attention(network, "attention", activation, 4, given, projections=projections, **named)
        return piece.values.transpose(0, 3, 1, 2)

    assert error(run(), theirs) < 1e-5
    assert error(run(residual=channels_last(residual), output_scale=0.5), (theirs + residual) / 2) < 1e-5
    if theirs_causal is not None:
        assert error(run(is_causal=True), theirs_causal.transpose(1, 2).reshape(x.shape)) < 1e-5
