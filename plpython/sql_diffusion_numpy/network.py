"""Networks: a loop over the rows of a plan, whatever network it is.

lay_out reads the parameters once; assemble_network makes a network of what lay_out made, or of the same arrays read
back from a file; run_steps is one pass. What a step does is in the module of operations/ with its operation's name.
They are those of NUMPY, the engine that runs networks unless a call has another.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import numpy as np

from .errors import fail
from .layers.activation import Piece, joined
from .layers.modules import (
    ALGORITHMS,
    Arrays,
    Engine,
    Layout,
    Network,
    PlanRow,
    Read,
    Value,
    few_tokens,
    left_steps,
    normed_steps,
    passing_steps,
    plain,
    spent_steps,
    vector_value,
)
from .layers.winograd import assemble
from .memory import kept

MISSING: Any = []  # the value of an optional input that is not there, of any engine


def operation_of(row: PlanRow) -> Any:
    """The module of a step's operation."""
    try:
        return importlib.import_module(f".operations.{row.operation}", __package__)
    except ModuleNotFoundError:
        fail(f"step {row.step} has the operation {row.operation}, which nothing implements", sqlstate="0A000")


def lay_out(
    plan: list[PlanRow], read: Read, height: int, width: int, arrays: Arrays | None = None, large: bool = False
) -> Layout:
    """The parameters of a network, its samples being about (height, width): others run too, perhaps not as fast.

    arrays takes what is laid out.
    """
    layout = Layout(plan, {}, {} if arrays is None else arrays, large)
    by_operation: dict[Any, list[PlanRow]] = {}
    tokens = few_tokens(plan)
    for row in plan:
        level = plan[row.inputs[0] - 1].level if row.inputs else None
        size = (1, tokens) if "tokens" in row.settings else (0, 0)
        if level is not None:
            size = (scaled(height, level), scaled(width, level))
        operation = operation_of(row)
        if hasattr(operation, "lay_out"):
            operation.lay_out(layout, read, row, *size)
        by_operation.setdefault(operation, []).append(row)
    for operation, rows in by_operation.items():
        if hasattr(operation, "finish_layout"):
            operation.finish_layout(layout, read, rows)
    return layout


def scaled(size: int, level: int) -> int:
    """A height or width after so many halvings, or doublings below 0."""
    return -(-size // 2**level) if level >= 0 else size * 2**-level


def assemble_network(layout: Layout) -> Network:
    arrays = layout.arrays
    convolutions = {
        name: assemble(ALGORITHMS[algorithm], arrays[name + ".weight"], arrays[name + ".bias"], padding)
        for name, (algorithm, padding) in layout.convolutions.items()
    }
    plan = layout.plan
    return Network(
        plan, convolutions, arrays, NUMPY, normed_steps(plan), passing_steps(plan), left_steps(plan), spent_steps(plan)
    )


def input_value(tensor: np.ndarray) -> Value:
    """Of images (batch, channels, height, width), tokens (batch, tokens, features) or vectors ([batch,] features)."""
    if tensor.ndim == 4:
        return [Piece(np.ascontiguousarray(tensor.transpose(0, 2, 3, 1), np.float32), None)]
    if tensor.ndim == 3:
        return [Piece(np.ascontiguousarray(tensor[:, None], np.float32), None)]
    return vector_value(np.ascontiguousarray(tensor, np.float32))


def run_step(network: Network, row: PlanRow, inputs: list[Value], shared: dict[str, Any]) -> Value:
    value: Value = operation_of(row).run(network, row, inputs, shared)
    return value


def plan_part(plan: list[PlanRow], names: Iterable[str]) -> list[PlanRow]:
    """The steps of a whole plan that a run with these inputs takes, as sql_diffusion.plan_part has them."""
    begins = []  # of the parts, the last first
    least = len(plan)
    for row in reversed(plan):
        least = min(least, row.step, *row.inputs)
        if least == row.step:
            begins.append(row.step)
    ends = [len(plan) + 1, *begins]
    parts = [plan[begin - 1 : end - 1] for begin, end in zip(begins, ends, strict=False)]
    wanted = [part for part in parts if any(row.operation == "input" and row.key in names for row in part)]
    return plan[wanted[-1][0].step - 1 : wanted[0][-1].step] if wanted else plan


def deepest_level(plan: list[PlanRow]) -> int:
    """How often an input's height and width have to be even, as sql_diffusion.deepest_level has it."""
    if any(row.operation == "upsample" and len(row.inputs) > 1 for row in plan):
        return 0
    return max(0, *(row.level or 0 for row in plan))


def run_steps(network: Network, inputs: Mapping[str, Any]) -> Iterator[tuple[PlanRow, Any]]:
    """One pass over its named inputs (input_value), a step at a time: -> the row, and its result, the engine's own."""
    engine = network.engine
    plan = plan_part(network.plan, inputs)
    last_use = {step: row.step for row in plan for step in row.inputs}
    results: dict[int, Any] = {}
    shared: dict[str, Any] = {}
    for row in plan:
        if row.operation == "input":
            result = engine.input_value(inputs[row.key]) if row.key in inputs else MISSING
        else:
            result = engine.run_step(network, row, [results[step] for step in row.inputs], shared)
        yield row, result
        for step in row.inputs:
            if last_use[step] == row.step:
                results.pop(step, None)
        if row.step in last_use:
            results[row.step] = result


def step_tensor(row: PlanRow, value: Value) -> np.ndarray:
    """A step's result: images (batch, channels, height, width), tokens (batch, tokens, features) or vectors (batch,
    features)."""
    values = joined(plain(value))
    if row.level is not None:
        return values.transpose(0, 3, 1, 2)
    return values[:, 0, 0] if values.shape[2] == 1 else values[:, 0]


def kept_value(value: Value) -> np.ndarray:
    return joined(plain(value))[:, 0]


NUMPY = Engine(
    "numpy",
    "",
    lambda plan, read, keys, height, width, arrays, large: lay_out(plan, read, height, width, arrays, large),
    assemble_network,
    input_value,
    run_step,
    step_tensor,
    kept_value,
)

# What loads the networks of a call.
ENGINE: ContextVar[Engine] = ContextVar("sql_diffusion engine", default=NUMPY)


def run(
    network: Network, inputs: Mapping[str, np.ndarray], between: Callable[[], None] = lambda: None
) -> dict[str, np.ndarray]:
    """One pass: -> the tensors of its steps output by their keys, and of its last step under the name sample.

    between is called after each step.
    """
    outputs = {}
    with kept():
        for row, value in run_steps(network, inputs):
            between()
            if row.operation == "output":
                outputs[row.key] = network.engine.step_tensor(row, value)
    outputs["sample"] = network.engine.step_tensor(row, value)
    return outputs
