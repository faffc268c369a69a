"""Networks in PyTorch: the plans and the loop of NumPy's engine, on a device and in a dtype that settings choose.

The parameters are kept as the checkpoint has them, but for the weights of convolutions, whose channels are last: so what
a session maps of the shared file is what PyTorch computes with, on the CPU and in float32; elsewhere each session has a
copy of its own.
"""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from . import threads
from .errors import fail
from .layers.modules import Arrays, Engine, Layout, PlanRow, Read

# Threads that wait let others run: those of OpenMP would spin, and where a server has more to do than cores, that makes
# a pass ten times longer.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
with threads.signals_blocked():
    import torch

from . import torch_operations

DTYPES = ("float32", "float16", "bfloat16")
FILES = " in torch"
OLDEST = (2, 1)  # whose scaled_dot_product_attention takes a scale


class TorchNetwork(NamedTuple):
    """A network that runs: a Network but for its weights."""

    plan: list[PlanRow]
    weights: dict[str, Any]  # tensors, on the device
    arrays: Arrays
    engine: Engine
    kernels: int = 0  # bytes of weights that are transformed at each call: none


def devices() -> list[str]:
    """What PyTorch can compute on here."""
    found = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    return [*found, "mps"] if torch.backends.mps.is_available() else found


def choose(device: str | None, dtype: str | None) -> Engine:
    """The engine that the settings sql_diffusion.device and sql_diffusion.dtype ask for; None is what is not set."""
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST:
        fail(
            f"backend torch: PyTorch is {torch.__version__}, expected {'.'.join(map(str, OLDEST))} or later",
            None,
            "0A000",
        )
    found = devices()
    wanted = device or (found[1] if torch.cuda.is_available() else "cpu")
    place = "cuda:0" if wanted == "cuda" else wanted
    if place not in found:
        fail(f"sql_diffusion.device is '{wanted}', expected {' or '.join(found)}, which is what PyTorch finds here")
    if dtype is not None and dtype not in DTYPES:
        fail(f"sql_diffusion.dtype is '{dtype}', expected float32, float16 or bfloat16")
    return engine(place, dtype or "float32")


@functools.cache
def engine(device: str, dtype: str) -> Engine:
    return Engine(
        f"torch on {device} in {dtype}",
        FILES,
        lay_out,
        lambda layout: assemble(layout, device, dtype),
        lambda tensor: input_value(tensor, device),
        run_step,
        step_tensor,
        kept_value,
    )


def use_threads(count: int) -> None:
    """PyTorch's threads are begun at its first loop that is shared out; signals are not for them."""
    if torch.get_num_threads() != count or not _begun:
        with threads.signals_blocked():
            torch.set_num_threads(count)
            torch.ones(count << 16).add_(1)
        _begun.append(True)


_begun: list[bool] = []


@contextlib.contextmanager
def memory() -> Iterator[None]:
    """Where PyTorch has not enough of it, that is the error of Python."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.cuda.OutOfMemoryError) or "allocate memory" in str(error):
            raise MemoryError from error
        raise


def lay_out(
    plan: list[PlanRow], read: Read, keys: list[str], height: int, width: int, arrays: Arrays, large: bool
) -> Layout:
    """All parameters; of weights (out, in, height, width) the channels come last."""
    layout = Layout(plan, {}, arrays, large)
    for key in keys:
        weight, bias = read(key)
        layout.arrays[f"{key}.weight"] = weight.transpose(0, 2, 3, 1) if weight.ndim == 4 else weight
        if bias is not None:
            layout.arrays[f"{key}.bias"] = bias
    return layout


def assemble(layout: Layout, device: str, dtype: str) -> TorchNetwork:
    """Autoencoders, which run once a picture, stay in float32: half of it costs them grey levels, or overflows."""
    inputs = {row.key for row in layout.plan if row.operation == "input"}
    kind = torch.float32 if inputs & {"image", "latent"} else getattr(torch, dtype)
    weights = {}
    with warnings.catch_warnings(), memory():
        warnings.simplefilter("ignore")  # that a mapped array is not to be written, which nothing does
        for key, array in layout.arrays.items():
            weight = torch.from_numpy(np.ascontiguousarray(array))
            weights[key] = (weight.permute(0, 3, 1, 2) if weight.ndim == 4 else weight).to(device, kind)
    return TorchNetwork(layout.plan, weights, layout.arrays, engine(device, dtype))


def input_value(tensor: Any, device: str) -> Any:
    """Of images (batch, channels, height, width), tokens (batch, tokens, features) or vectors (batch, features)."""
    if isinstance(tensor, torch.Tensor):
        return tensor
    if tensor.ndim == 4:
        tensor = tensor.transpose(0, 2, 3, 1)
    value = torch.from_numpy(np.array(tensor, np.float32))
    return value if value.ndim == 2 else value.to(device)


@torch.inference_mode()
def run_step(network: TorchNetwork, row: PlanRow, inputs: list[Any], shared: dict[str, Any]) -> Any:
    operation = getattr(torch_operations, row.operation, None)
    if operation is None:
        fail(f"step {row.step} has the operation {row.operation}, which backend torch does not have", sqlstate="0A000")
    with memory():
        return operation(network, row, inputs, shared)


def step_tensor(row: PlanRow, value: Any) -> np.ndarray:
    """A step's result: images (batch, channels, height, width), tokens (batch, tokens, features) or vectors (batch,
    features)."""
    if value.dtype != torch.float32 and not value.isfinite().all():
        fail(
            f"backend torch: step {row.step}, {row.operation}, has values that {str(value.dtype)[6:]} cannot hold",
            "SET sql_diffusion.dtype = float32"
            + (", or bfloat16, which has its range." if value.dtype == torch.float16 else "."),
            "22003",
        )
    array: np.ndarray = value.to("cpu", torch.float32).numpy()
    if row.level is not None:
        return array.transpose(0, 3, 1, 2)
    return array[:, 0] if array.ndim == 3 and array.shape[1] == 1 else array


def kept_value(value: Any) -> Any:
    return value


def empty_cache() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def describe() -> str:
    """Version, and each device with its memory."""
    found = [f"cpu, {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB"]
    for number in range(torch.cuda.device_count()):
        free, total = (size / 1e9 for size in torch.cuda.mem_get_info(number))
        found.append(f"cuda:{number}, {torch.cuda.get_device_name(number)}, {free:.1f} of {total:.1f} GB free")
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"PyTorch {torch.__version__}, {Path(torch.__file__).parent}; {'; '.join(found)}"
