"""Damaged and hostile safetensors files: always one clear error, never a crash, never another tensor's bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from sql_diffusion.checkpoint import match_modules
from sql_diffusion.errors import Problem
from sql_diffusion.tensors import read_header, read_tensor

EXPECTED = [("conv", [2, 3, 1, 1], [2]), ("norm", [4], [4])]
TENSORS: dict[str, np.ndarray] = {
    "conv.weight": np.arange(6, dtype=np.float32).reshape(2, 3, 1, 1),
    "conv.bias": np.arange(2, dtype=np.float32),
    "norm.weight": np.arange(4, dtype=np.float16),
    "norm.bias": np.arange(4, dtype=np.float32),
}
WHOLE = save(TENSORS)
HEADER: dict[str, Any] = json.loads(WHOLE[8 : 8 + struct.unpack("<Q", WHOLE[:8])[0]])
DATA = WHOLE[8 + struct.unpack("<Q", WHOLE[:8])[0] :]

folder_is_shared = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)


def put_together(header: dict[str, Any] | bytes, data: bytes = DATA, length: int | None = None) -> bytes:
    """A file of a header and data, with a length of the header that may be untrue."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def read(folder: Path, content: bytes) -> dict[str, np.ndarray]:
    """All that load reads of a file, by the same steps."""
    file = folder / "x.safetensors"
    file.write_bytes(content)
    modules = match_modules(read_header(file), EXPECTED)
    return {t.name: read_tensor(t) for module in modules for t in (module.weight, module.bias) if t is not None}


def refused(folder: Path, content: bytes) -> str:
    """The file is refused with a Problem, whose message is one sentence without line breaks."""
    with pytest.raises(Problem) as problem:
        read(folder, content)
    assert problem.value.message and "\n" not in problem.value.message
    assert problem.value.exit_code == 4
    return problem.value.message


def test_the_whole_file_is_read(tmp_path: Path) -> None:
    found = read(tmp_path, WHOLE)
    assert found.keys() == TENSORS.keys()
    for name, values in TENSORS.items():
        np.testing.assert_array_equal(found[name], values.astype(np.float32))
    assert put_together(HEADER) == put_together(json.loads(json.dumps(HEADER)))
    read(tmp_path, put_together(HEADER))


@folder_is_shared
@given(st.integers(0, len(WHOLE) - 1))
def test_truncated(tmp_path: Path, length: int) -> None:
    assert "is not a whole safetensors file" in refused(tmp_path, WHOLE[:length])


@folder_is_shared
@given(st.integers(0, 2**64 - 1))
def test_wrong_header_lengths(tmp_path: Path, length: int) -> None:
    true = struct.unpack("<Q", WHOLE[:8])[0]
    if length != true:
        refused(tmp_path, struct.pack("<Q", length) + WHOLE[8:])


@folder_is_shared
@given(st.sampled_from(sorted(TENSORS)), st.lists(st.integers(-8, 2**65) | st.integers(0, 64), min_size=0, max_size=3))
def test_wrong_offsets(tmp_path: Path, name: str, offsets: list[int]) -> None:
    """Overlapping, beyond the end, backwards, negative, of the wrong number."""
    if offsets != HEADER[name]["data_offsets"]:
        refused(tmp_path, put_together({**HEADER, name: {**HEADER[name], "data_offsets": offsets}}))


@folder_is_shared
@given(st.sampled_from(sorted(TENSORS)), st.lists(st.integers(-2, 2**64) | st.integers(0, 6), max_size=8))
def test_wrong_shapes(tmp_path: Path, name: str, shape: list[int]) -> None:
    """Huge claims too: the memory is never asked for."""
    if shape != HEADER[name]["shape"]:
        refused(tmp_path, put_together({**HEADER, name: {**HEADER[name], "shape": shape}}))


@folder_is_shared
@given(
    st.sampled_from(["F64", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "C64", "f32", "", "X9", 7, None])
)
def test_odd_types(tmp_path: Path, dtype: Any) -> None:
    refused(tmp_path, put_together({**HEADER, "norm.bias": {**HEADER["norm.bias"], "dtype": dtype}}))


def test_whole_tensors_of_other_types_are_named(tmp_path: Path) -> None:
    said = refused(tmp_path, save({**TENSORS, "norm.bias": np.zeros(4, np.complex64)}))
    assert "norm.bias is C64" in said


@folder_is_shared
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "dtype", "shape"]), inner),
        max_leaves=8,
    )
)
def test_any_json_for_a_header(tmp_path: Path, value: Any) -> None:
    refused(tmp_path, put_together(json.dumps(value).encode()))
    refused(tmp_path, put_together({**HEADER, "norm.bias": value}))


@folder_is_shared
@given(st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    refused(tmp_path, content)


@folder_is_shared
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte(tmp_path: Path, place: int, change: int) -> None:
    """Either it is refused, or it is read with the right names and shapes and no value that is not finite."""
    changed = bytearray(WHOLE)
    changed[place] ^= change
    try:
        found = read(tmp_path, bytes(changed))
    except Problem:
        return
    assert {name: values.shape for name, values in found.items()} == {n: v.shape for n, v in TENSORS.items()}
    assert all(np.isfinite(values).all() for values in found.values())


def test_deep_nesting_and_a_huge_header(tmp_path: Path) -> None:
    refused(tmp_path, put_together(b"[" * 100_000))
    refused(tmp_path, put_together(b'{"a":' * 100_000))
    refused(tmp_path, put_together(HEADER, length=2**63))
    refused(tmp_path, put_together(HEADER, length=100_000_001))


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    twice = (
        json.dumps(HEADER)[:-1] + ', "norm.bias": ' + json.dumps({**HEADER["norm.bias"], "data_offsets": [-8, 8]}) + "}"
    )
    refused(tmp_path, put_together(twice.encode()))
    twice = json.dumps(HEADER)[:-1] + ', "norm.bias": ' + json.dumps(HEADER["norm.bias"]) + "}"
    assert "twice" in refused(tmp_path, put_together(twice.encode()))


def test_something_else_than_a_file(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="does not exist"):
        read_header(tmp_path / "nowhere.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(Problem):
        read_header(tmp_path / "folder.safetensors")
