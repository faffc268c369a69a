"""What every function of these schemas has around it: errors as PostgreSQL's, values as lists, arguments checked in SQL's order."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import tensors as tensor_functions
from .errors import Refused, fail
from .session import in_server
from .tensors import check_values, tensor

Function = Callable[..., Any]


# What sql_diffusion.fail raises, and what whoever may not do something is told; an error of any other kind, a cancel above
# all, is PostgreSQL's own and passes as it is.
OURS = ("22023", "42704", "55000", "0A000", "42501")

MANY, AT_ONCE = 256, 1 << 14  # elements of an array whose texts are worth making together, and at most


def postgres_error(plpy: Any, error: Exception) -> Exception:
    """The error as PostgreSQL is to show it.

    PL/Python puts the name of the exception's type and a colon before the message. Messages begin with the name of the
    function and a colon, so that name makes the type, and the words are those of the SQL function.
    """
    if isinstance(error, Refused):
        message, hint, sqlstate = error.message, error.hint, error.sqlstate
    else:  # raised by a function in SQL that was called through plpy
        message, hint, sqlstate = str(error), error.spidata[2], error.sqlstate  # type: ignore[attr-defined]
    name, colon, rest = message.partition(": ")
    if not colon:
        name, rest = "sql_diffusion", message
    shown: Exception = type(name, (plpy.Error,), {"__module__": "builtins"})(rest)
    shown.sqlstate = sqlstate  # type: ignore[attr-defined]
    if hint is not None:
        shown.hint = hint  # type: ignore[attr-defined]
    return shown


def no_memory(plpy: Any) -> Exception:
    return postgres_error(plpy, Refused("out of memory", None, "53200"))


@contextlib.contextmanager
def errors(plpy: Any) -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise postgres_error(plpy, error) from None
    except MemoryError:
        raise no_memory(plpy) from None
    except plpy.SPIError as error:
        if error.sqlstate not in OURS:
            raise
        raise postgres_error(plpy, error) from None


class NoMemory(list[Any]):
    """Stands for a list for which there was no memory: of its length when PL/Python compares that, an error when it is read."""

    def __init__(self, plpy: Any, length: int) -> None:
        super().__init__()
        self.plpy, self.lengths = plpy, iter([length])

    def __len__(self) -> int:
        for length in self.lengths:
            return length
        raise no_memory(self.plpy)


class Rows(list[Any]):
    """The nested lists of a large array, of two dimensions or more, each there only while PL/Python asks for it.

    PL/Python takes a list for a dimension, and asks for its elements one after the other. It must be given each: several
    releases of PostgreSQL crash where that raises.
    """

    def __init__(self, plpy: Any, array: np.ndarray) -> None:
        super().__init__()
        self.plpy, self.array = plpy, array
        self.first, self.written = 0, list[Any]()  # some rows from this one on

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: Any) -> Any:
        try:
            return self.row(index)
        except MemoryError:
            return NoMemory(self.plpy, self.array.shape[1])

    def row(self, index: int) -> Any:
        row = self.array[index]
        if row.ndim > 1 and row.size > AT_ONCE:
            return Rows(self.plpy, row)
        if not 0 <= index - self.first < len(self.written):
            some = self.array[index : index + max(1, AT_ONCE // row.size)]
            self.first, self.written = index, tensor_functions.written(some).tolist()
        return self.written[index - self.first]


def as_lists(plpy: Any, value: Any) -> Any:
    """A finite result, or a row of it, with nested lists for its arrays, as PL/Python takes them.

    PL/Python makes numbers of the texts of what the lists hold: so texts are what they hold of a large array, and of others
    NumPy's numbers, whose text is half as long as that of a float of Python, and as exact.
    """
    if isinstance(value, np.ndarray):
        if value.size >= MANY and value.dtype == np.float32:
            return Rows(plpy, value) if value.ndim > 1 else tensor_functions.written(value).tolist()
        return list(value) if value.ndim == 1 else [as_lists(plpy, part) for part in value]
    if isinstance(value, dict):
        return {name: as_lists(plpy, part) for name, part in value.items()}
    return tuple(as_lists(plpy, part) for part in value) if isinstance(value, tuple) else value


def check_range(value: Any) -> None:
    """Refuse infinite results of finite arguments, as PostgreSQL's arithmetic does."""
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
    for array in parts:
        if isinstance(array, np.ndarray) and not np.isfinite(array).all():
            fail("value out of range: overflow", sqlstate="22003")


def result_of(plpy: Any, value: Any) -> Any:
    """A result, or a row of it, as it is handed over."""
    check_range(value)
    return as_lists(plpy, value) if in_server(plpy) else value


def rows_of(plpy: Any, rows: Iterator[Any]) -> Iterator[Any]:
    with errors(plpy):
        for row in rows:
            yield result_of(plpy, row)


def boundary(function: Function) -> Function:
    """A function that PostgreSQL calls: arrays become lists there, and what it refuses PostgreSQL's error.

    Of rows the first is made at once: an error behind it would be shown as "error fetching next item from iterator".
    """

    @functools.wraps(function)
    def call(plpy: Any, *arguments: Any) -> Any:
        with errors(plpy):
            result = function(plpy, *arguments)
            if inspect.isgenerator(result):
                rows = rows_of(plpy, result)
                return itertools.chain(list(itertools.islice(rows, 1)), rows)
            return result_of(plpy, result)

    return call


# As in SQL, a function looks at the shapes of its arguments first, at its settings then and at every value last.


def optional(value: Any, name: str, dimensions: str) -> np.ndarray | None:
    return None if value is None else tensor(value, name, dimensions)


def check_all_values(function: str, **arguments: tuple[np.ndarray | None, Any]) -> None:
    """Refuse values of arguments, each an array and the nested list that it was made of."""
    for name, (array, value) in arguments.items():
        if array is not None:
            check_values(array, f"{function}: {name}", value)


def number_text(value: float | None) -> str:
    """A number as PostgreSQL writes it."""
    if value is None:
        return "null"
    if value != value:
        return "NaN"
    if value in (float("inf"), -float("inf")):
        return "Infinity" if value > 0 else "-Infinity"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
