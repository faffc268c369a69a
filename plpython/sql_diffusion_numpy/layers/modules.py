"""Layers with their parameters: laid out once, when they are read, in the order in which the layers use them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, MutableMapping
from typing import Any, NamedTuple

import numpy as np

from . import winograd
from .activation import Activation, Piece, extent, joined, statistics_of
from .conv2d import Entry, convolve
from .group_norm import Norm, apply_norm, prepare_norm
from .relu import Rectifier, relu
from .winograd import Convolution

Read = Callable[[str], tuple[np.ndarray, np.ndarray | None]]  # key -> weight, bias
Arrays = MutableMapping[str, np.ndarray]
Padding = tuple[int, int, int, int]  # left, right, top, bottom

ALGORITHMS = {
    "winograd2": winograd.WINOGRAD2,
    "winograd4": winograd.WINOGRAD4,
    "winograd4 at each call": winograd.AT_EACH_CALL,
    "upsample": winograd.UPSAMPLE,
    "direct1/1": winograd.direct(1, 1),
    "direct3/1": winograd.DIRECT3,
    "direct3/2": winograd.direct(3, 2),
}


class PlanRow(NamedTuple):
    """A row of plan(model, component), where each column is explained."""

    step: int
    operation: str
    key: str
    inputs: list[int]
    in_channels: int
    out_channels: int
    level: int | None
    settings: dict[str, Any]


class Layout(NamedTuple):
    """A network as it is kept: everything but the arrays is plain data, fit for JSON."""

    plan: list[PlanRow]
    convolutions: dict[str, tuple[str, Padding]]  # name -> algorithm, padding
    arrays: Arrays
    large: bool = False  # few of its kernels are kept as they are multiplied, which would take several times their room


class Network(NamedTuple):
    """A network that runs."""

    plan: list[PlanRow]
    convolutions: dict[str, Convolution]
    arrays: Arrays
    engine: Engine
    normed: frozenset[int]  # steps whose results a group norm reads, which wants their statistics
    passing: frozenset[int]  # steps whose results one later step takes alone
    left: frozenset[int]  # steps that are left for the next one to do
    spent: frozenset[int]  # steps whose results the last step that takes them may write over

    @property
    def kernels(self) -> int:
        """Bytes of the largest weight that is transformed at each call, when it is."""
        sizes = (
            each.algorithm.g.shape[0] ** 2 * each.weight[0].nbytes
            for each in self.convolutions.values()
            if not each.algorithm.kept
        )
        return max(sizes, default=0)


class Engine(NamedTuple):
    """What runs networks. Values are its own; whatever goes in and comes out is NumPy's."""

    name: str
    files: str  # stands behind a component's name in the names of the files that share its networks
    # plan, read, the keys of all parameters, height, width, what takes the arrays, whether it is a large network
    lay_out: Callable[[list[PlanRow], Read, list[str], int, int, Arrays, bool], Layout]
    assemble: Callable[[Layout], Any]  # a Network, or what has its plan, arrays, engine and kernels
    input_value: Callable[[Any], Any]  # of a tensor, or of what kept_value gave
    run_step: Callable[[Any, PlanRow, list[Any], dict[str, Any]], Any]
    step_tensor: Callable[[PlanRow, Any], np.ndarray]
    kept_value: Callable[[Any], Any]  # tokens of an output, to go into the next pass


class Normalized(NamedTuple):
    """An activation whose norm, or ReLU, is left for the step behind to do, which reads the pixels anyway."""

    activation: Activation
    norm: Entry


class Unfinished(NamedTuple):
    """A convolution that is left for the step behind to do, which adds something to it, or takes it for a gate."""

    activation: Activation
    convolution: Convolution
    norm: Entry | None


# What goes from step to step, and lasts as long as a later step takes it
Value = Activation | Normalized | Unfinished


# What begins with a group norm, and what makes an array that nothing else holds
_NORMS = ("group_norm", "resnet_block", "attention_block")
_MAKERS = ("conv2d", "linear", "add", "relu", "resnet_block", "downsample", "upsample")


def normed_steps(plan: list[PlanRow]) -> frozenset[int]:
    found = set[int]()
    for row in reversed(plan):
        if row.operation in _NORMS or (row.operation == "concatenate" and row.step in found):
            found.update(row.inputs)
    return frozenset(found)


def passing_steps(plan: list[PlanRow]) -> frozenset[int]:
    taken = [step for row in plan for step in row.inputs]
    return frozenset(row.step for row in plan if row.operation in _MAKERS and taken.count(row.step) == 1)


def left_steps(plan: list[PlanRow]) -> frozenset[int]:
    """Convolutions whose results the next step takes alone, and adds something to; linear layers of pixels that are its gate."""
    passing = passing_steps(plan)
    return frozenset(
        row.step
        for row, behind in itertools.pairwise(plan)
        if row.step in behind.inputs and row.step in passing
        if (row.operation, behind.operation) == ("conv2d", "add")
        or ((row.operation, behind.operation, len(row.inputs)) == ("linear", "geglu", 1) and row.level is not None)
    )


def spent_steps(plan: list[PlanRow]) -> frozenset[int]:
    """Before the last that takes a result there are convolutions at most, which keep nothing of what they read."""
    takers: dict[int, list[str]] = {}  # of a part of a plan also those of steps that it has not
    for row in plan:
        for step in row.inputs:
            takers.setdefault(step, []).append(row.operation)
    return frozenset(
        row.step for row in plan if row.operation in _MAKERS and set(takers.get(row.step, [])[:-1]) <= {"conv2d"}
    )


def with_norm(value: Value) -> tuple[Activation, Entry | None]:
    return value if isinstance(value, Normalized) else (plain(value), None)


def plain(value: Value) -> Activation:
    """The activation, with whatever was left to do done."""
    if isinstance(value, Unfinished):
        return convolve(value.activation, value.convolution, value.norm, statistics=False)
    if isinstance(value, Normalized):
        values, norm = joined(value.activation), value.norm
        return [Piece(relu(values) if isinstance(norm, Rectifier) else apply_norm(values, norm), None)]
    return value


def vector_of(value: Value) -> np.ndarray:
    """(features) where all pictures of the batch share it, else (batch, features)."""
    values = joined(plain(value))[:, 0, 0]
    return values[0] if len(values) == 1 else values


def vector_value(vector: np.ndarray) -> Activation:
    """A vector (features), or one for each picture (batch, features), as an activation of one pixel."""
    return [Piece(vector.reshape(-1, 1, 1, vector.shape[-1]), None)]


def zeros_for_none(bias: np.ndarray | None, count: int) -> np.ndarray:
    return np.zeros(count, np.float32) if bias is None else bias


def lay_out_convolution(
    layout: Layout,
    name: str,
    weight: np.ndarray,
    bias: np.ndarray | None,
    algorithm: str,
    padding: Padding = (0, 0, 0, 0),
    height: int = 0,
    width: int = 0,
) -> None:
    """Of a weight (out, in, kernel, kernel), or (out, in) for a linear layer, which is a 1x1 kernel.

    height, width: of what it will read, as far as that is known.
    """
    if weight.ndim == 2:
        weight = weight[:, :, None, None]
    layout.convolutions[name], chosen = (algorithm, padding), ALGORITHMS[algorithm]
    layout.arrays[name + ".weight"] = winograd.lay_out_weight(weight, chosen, winograd.tiles_of(chosen, height, width))
    layout.arrays[name + ".bias"] = zeros_for_none(bias, len(weight))


def few_tokens(plan: list[PlanRow]) -> int:
    """How many tokens a network takes, where they are few, as of CLIP's text encoders, whose prompts are all as long; else 0."""
    most = max((row.settings.get("most_tokens", 0) for row in plan if row.operation == "input"), default=0)
    return most if most <= winograd.FEW else 0


def lay_out_module(layout: Layout, read: Read, name: str, height: int, width: int) -> None:
    """A 3x3 convolution of padding 1 by the cheapest algorithm for a picture of this size, or a 1x1 convolution."""
    weight, bias = read(name)
    if weight.ndim == 4 and weight.shape[2] == 3:
        cheapest = winograd.choose_algorithm(weight.shape[1], weight.shape[0], height, width, layout.large)
        algorithm = next(name for name, each in ALGORITHMS.items() if each is cheapest)
        lay_out_convolution(layout, name, weight, bias, algorithm, (1, 1, 1, 1), height, width)
    else:
        lay_out_convolution(layout, name, weight, bias, "direct1/1", height=height, width=width)


def lay_out_norm(layout: Layout, read: Read, name: str) -> None:
    weight, bias = read(name)
    layout.arrays[name + ".weight"] = weight
    layout.arrays[name + ".bias"] = zeros_for_none(bias, len(weight))


def norm_of(network: Network, activation: Activation, name: str, num_groups: int, eps: float, silu: bool) -> Norm:
    """The group norm with this name, of this activation."""
    _, height, width, _ = extent(activation)
    weight, bias = network.arrays[name + ".weight"], network.arrays[name + ".bias"]
    return prepare_norm(statistics_of(activation), height * width, num_groups, eps, weight, bias, silu)
