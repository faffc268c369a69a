"""Turn a diffusers pipeline folder into the SQL that puts the model into the extension's tables.

Standard library only, so that building the extension needs nothing but Python.

    python3 scripts/bundle_model.py models/butterflies > build/butterflies.sql

The folder holds model_index.json, scheduler/scheduler_config.json, for each network its config.json and its weights as a
safetensors file (one of diffusers' and transformers' names for it), a tokenizer where it takes prompts, and
sql_diffusion.json: how the model is generated with by default.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent))
from sql_diffusion.names import network_class, network_tensors
from sql_diffusion.tokenizers import read_tokenizer

DTYPES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
WEIGHT_FILES = tuple(
    f"{name}{variant}.safetensors" for name in ("diffusion_pytorch_model", "model") for variant in ("", ".fp16")
)


class Tensor(NamedTuple):
    dtype: str  # float16, bfloat16 or float32
    shape: list[int]
    data: bytes  # little endian, row by row


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file, by name.

    The format: eight bytes that hold the header's length, little endian; the header, JSON: dtype, shape and place of
    each tensor; then the data (https://huggingface.co/docs/safetensors#format).
    """
    content = file.read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    if 8 + length > len(content):
        raise ValueError(f"{file}: the header is said to be {length} bytes long, the file has {len(content)} in all")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{file}: {name} is {entry['dtype']}, expected one of {', '.join(DTYPES)}")
        begin, end = entry["data_offsets"]
        if 8 + length + end > len(content):
            raise ValueError(f"{file}: {name} ends behind the end of the file")
        tensors[name] = Tensor(DTYPES[entry["dtype"]], entry["shape"], content[8 + length + begin : 8 + length + end])
    return tensors


def find_weights(folder: Path) -> Path:
    found = [folder / name for name in WEIGHT_FILES if (folder / name).exists()]
    if not found:
        raise FileNotFoundError(f"{folder}: no weights, expected {' or '.join(WEIGHT_FILES)}")
    return found[0]


def modules(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Key, weight and bias of each module, in the file's order of keys."""
    keys = [name[: -len(".weight")] for name in tensors if name.endswith(".weight")]
    known = {f"{key}.{part}" for key in keys for part in ("weight", "bias")}
    strangers = sorted(set(tensors) - known)
    if strangers:
        raise ValueError(f"{strangers[0]} is neither a weight nor the bias of a module that has a weight")
    for key in keys:
        yield key, tensors[f"{key}.weight"], tensors.get(f"{key}.bias")


def quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def quote_json(value: Any) -> str:
    return quote(json.dumps(value)) + "::jsonb"


def braces(shape: list[int]) -> str:
    return "{" + ",".join(str(length) for length in shape) + "}"


def bytes_expression(tensor: Tensor) -> str:
    """The SQL expression that gives the tensor's bytes."""
    return f"decode('{base64.b64encode(tensor.data).decode('ascii')}', 'base64')"


def tensor_expression(tensor: Tensor | None) -> str:
    """The SQL expression that gives the tensor as real[], or null."""
    if tensor is None:
        return "null"
    return f"sql_diffusion.tensor_from_bytes({bytes_expression(tensor)}, '{tensor.dtype}', '{braces(tensor.shape)}')"


def tokenizer_rows(folder: Path, model: str, component: str, tokenizer_class: str) -> Iterator[str]:
    """The SQL statements that write a tokenizer."""
    tokenizer = read_tokenizer(folder, tokenizer_class)
    owner = f"{quote(model)}, {quote(component)}"
    yield (
        "insert into sql_diffusion.tokenizers\n"
        "       (model, component, config)\n"
        f"values ({owner}, {quote_json(tokenizer.config)});\n"
    )
    tokens = [
        f"({token.id}, decode('{token.token.hex()}', 'hex'), {str(token.ends_word).lower()})"
        for token in tokenizer.vocabulary
    ]
    yield (
        "insert into sql_diffusion.vocabulary\n"
        "       (model, component, id, token, ends_word)\n"
        f"select {owner}, v.id, v.token, v.ends_word\n"
        "from (values " + ",\n             ".join(tokens) + ") v (id, token, ends_word);\n"
    )
    yield (
        "insert into sql_diffusion.merges\n"
        "       (model, component, first, second, rank, merged)\n"
        f"select {owner}, m.first, m.second, m.rank, m.merged\n"
        "from (values "
        + ",\n             ".join(str(tuple(merge)) for merge in tokenizer.merges)
        + ") m (first, second, rank, merged);\n"
    )


def parameter_row(owner: str, weight: Tensor, bias: Tensor | None, sixteen_bits: bool) -> str:
    """The SQL statement that writes a module; as `sql-diffusion load` does, vectors are not kept in 16 bits."""
    if sixteen_bits and weight.dtype != "float32" and len(weight.shape) > 1:
        columns = "weight_shape, dtype, weight_bytes"
        value = f"{quote(braces(weight.shape))}, {quote(weight.dtype)}, {bytes_expression(weight)}"
    else:
        columns, value = "weight", tensor_expression(weight)
    return (
        "insert into sql_diffusion.parameters\n"
        f"       (model, component, key, {columns}, bias)\n"
        f"values ({owner},\n"
        f"        {value},\n"
        f"        {tensor_expression(bias)});\n"
    )


def bundle(folder: Path, name: str, sixteen_bits: bool) -> Iterator[str]:
    """The SQL statements, in the order in which they must run."""

    def read_json(*path: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(folder.joinpath(*path).read_text(encoding="utf-8"))
        return content

    index = read_json("model_index.json")
    parts = {name: part[1] for name, part in index.items() if isinstance(part, list) and part[1] is not None}
    networks = [name for name, part in parts.items() if name != "scheduler" and "Tokenizer" not in part]
    files = {network: find_weights(folder / network) for network in networks}
    # as `sql-diffusion load` says it: what `sha256sum` prints for one file; of several, of their digests one after the other
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(files.values())]
    sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    values = [
        quote(name),
        quote(index["_class_name"]),
        quote_json(read_json("scheduler", "scheduler_config.json")),
        quote_json(read_json("sql_diffusion.json")),
        quote(f"models/{name}"),
        "null",
        quote(sha256),
        "now()",
        "true",
    ]
    yield (
        "insert into sql_diffusion.models\n"
        "       (name, pipeline, scheduler, defaults, source, revision, sha256, loaded_at, bundled)\n"
        "values (" + ",\n        ".join(values) + ");\n"
    )
    for network, file in files.items():
        config = read_json(network, "config.json")
        tensors: Any = read_safetensors(file)
        tensors = network_tensors(network_class(config) or "", tensors)
        yield (
            "insert into sql_diffusion.components\n"
            "       (model, component, config)\n"
            f"values ({quote(name)}, {quote(network)}, {quote_json(config)});\n"
        )
        for key, weight, bias in modules(tensors):
            yield parameter_row(f"{quote(name)}, {quote(network)}, {quote(key)}", weight, bias, sixteen_bits)
    for part in parts:
        if "Tokenizer" in parts[part]:
            yield from tokenizer_rows(folder / part, name, part, parts[part])
    yield f"select sql_diffusion.pack({quote(name)});\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("folder", type=Path, help="a diffusers pipeline folder")
    parser.add_argument("--name", help="the model's name in the tables (default: the folder's)")
    parser.add_argument(
        "--keep-16-bits", action="store_true", help="store weights of 16 bits as they are, not as real[]"
    )
    arguments = parser.parse_args()
    name = arguments.name or arguments.folder.resolve().name
    if not re.fullmatch(r"[A-Za-z0-9._/-]+", name):
        parser.error(f"--name: {name!r} has characters other than letters, digits and . _ / -")
    for statement in bundle(arguments.folder, name, arguments.keep_16_bits):
        sys.stdout.write(statement + "\n")


if __name__ == "__main__":
    main()
