"""The functions of schema sql_diffusion_torch: those of sql_diffusion_numpy that run networks, which PyTorch runs there."""

from __future__ import annotations

import contextvars
import sys
from collections.abc import Iterator
from typing import Any

from . import functions, parameters, session, threads
from .boundary import boundary, errors
from .errors import fail
from .network import ENGINE


def _engine(plpy: Any) -> Any:
    """The module torch_engine. Importing it imports PyTorch, a second or two in a session's first call."""
    try:
        from . import torch_engine
    except (ImportError, OSError) as error:
        if not session.in_server(plpy):
            fail(f"backend torch: PyTorch cannot be loaded: {error}", "pip install torch", "58P01")
        version = f"{sys.version_info.major}.{sys.version_info.minor}"
        fail(
            f"backend torch: PyTorch cannot be loaded by the server's Python {version}: {error}",
            "On Debian and Ubuntu: python3 -m venv --system-site-packages /opt/torch; /opt/torch/bin/pip install torch; add "
            f"PYTHONPATH = '/opt/torch/lib/python{version}/site-packages' to /etc/postgresql/.../environment; then restart the server.",
            "58P01",
        )
    return torch_engine


def call(plpy: Any, name: str, *arguments: Any) -> Any:
    """The function of that name, its networks run by PyTorch.

    Whoever takes rows one by one may call others in between, so that each call has a context of its own.
    """
    context = contextvars.copy_context()
    with errors(plpy):
        session.begin(plpy)
        [settings] = session.query(plpy, "select s.device, s.dtype from sql_diffusion_torch.settings() s", [], [])
        engine = _engine(plpy)
        context.run(ENGINE.set, engine.choose(settings["device"], settings["dtype"]))
        engine.use_threads(threads.get_count())
    result = context.run(getattr(functions, name), plpy, *arguments)
    return _rows(context, result) if isinstance(result, Iterator) else result


def _rows(context: contextvars.Context, rows: Iterator[Any]) -> Iterator[Any]:
    end = object()
    while (row := context.run(next, rows, end)) is not end:
        yield row


@boundary
def empty_cache(plpy: Any) -> None:
    engine = sys.modules.get(f"{__package__}.torch_engine")
    if engine is not None:
        parameters.forget(engine.FILES)
        engine.empty_cache()
