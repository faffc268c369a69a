"""The layers of transformers, on arrays and as networks call them, on feature maps, against PyTorch, diffusers and transformers."""

from __future__ import annotations

from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers.models.attention import GEGLU as Geglu
from diffusers.models.attention_processor import Attention
from torch.nn import functional
from transformers.activations import QuickGELUActivation

from reference import relative_error
from test_layers import SHAPES, call, insert_module, normal, randomized

FAR = torch.tensor([-3.4e38, -1e5, -40.0, -6.0, -1.3, -1e-30, 0.0, 1e-30, 0.7, 6.0, 40.0, 1e5, 3.4e38])

pytest_plugins = ["numpy_server"]

ACTIVATIONS: dict[str, Any] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "quick_gelu": QuickGELUActivation(),
    "relu": functional.relu,
    "mish": functional.mish,
}


def of_maps(connection: psycopg.Connection, function: str, input: torch.Tensor, *arguments: Any, **named: Any) -> Any:
    """What a function of feature maps makes of a tensor (channels, height, width); the statistics that it leaves are those of what it made."""
    values: list[Any] = [input.tolist()]
    given = ["given.maps"]
    for name, argument in [("", a) for a in arguments] + [(f"{n} => ", a) for n, a in named.items()]:
        kind = {bool: "boolean", int: "int", float: "double precision", str: "text", list: "text[]", type(None): "text"}
        if isinstance(argument, torch.Tensor) and argument.ndim == 3:
            given.append(f"{name}sql_diffusion.to_maps(%s::real[])")
        elif isinstance(argument, torch.Tensor):
            given.append(f"{name}%s::real[]")
        elif argument is None:
            given.append(f"{name}null")
            continue
        else:
            given.append(f"{name}%s::{kind[type(argument)]}")
        values.append(argument.tolist() if isinstance(argument, torch.Tensor) else argument)
    rows = connection.execute(
        f"""select sql_diffusion.from_maps(output), to_jsonb(output) - 'planes', to_jsonb(sql_diffusion.to_maps((output).planes, (output).height, (output).width)) - 'planes'
            from (select sql_diffusion.to_maps(%s::real[]) as maps offset 0) given,
                 sql_diffusion.{function}({", ".join(given)}) output""".encode(),
        values,
    ).fetchall()
    assert len(rows) == 1
    [(result, statistics, taken)] = rows
    for key, value in taken.items():
        scale = np.abs(np.asarray(taken["high"])).max() ** (2 if key == "variance" else 1)
        assert np.allclose(statistics[key], value, rtol=1e-6, atol=1e-7 * scale), key
    return result


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """(channels, height, width) -> (tokens, channels)"""
    return tensor.flatten(1).T


def channels_first(tokens: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return tokens.T.reshape(-1, *like.shape[1:])


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_activations(
    connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...], name: str
) -> None:
    input = 3 * normal(rng, *shape)
    assert np.allclose(call(connection, name, input), ACTIVATIONS[name](input.double()), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_far_out(connection: psycopg.Connection, name: str) -> None:
    ours, theirs = np.asarray(call(connection, name, FAR), np.float64), ACTIVATIONS[name](FAR.double()).numpy()
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_near_everywhere(connection: psycopg.Connection, approximate: str) -> None:
    input = torch.linspace(-8, 8, 4001)
    theirs = functional.gelu(input.double(), approximate=approximate).numpy()
    # beside rounding to single precision, 6e-8 of a value
    ours = np.asarray(call(connection, "gelu", input, approximate), np.float32)
    assert np.allclose(ours.astype(np.float64), theirs, rtol=6.1e-8, atol=1e-8)


@pytest.mark.parametrize("shape", [(6,), (3, 4), (2, 3, 10), (2, 1, 3, 2)])
def test_geglu(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    input = 2 * normal(rng, *shape)
    hidden, gate = input.double().chunk(2, dim=-1)
    assert relative_error(call(connection, "geglu", input), hidden * functional.gelu(gate)) < 1e-6


@pytest.mark.parametrize("shape", [(6,), (1,), (3, 4), (2, 3, 5), (2, 1, 3, 4), (1, 700)])
def test_layer_norm(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    input, weight, bias = 3 * normal(rng, *shape) + 5, normal(rng, shape[-1]), normal(rng, shape[-1])
    for eps in (1e-5, 0.1):
        theirs = functional.layer_norm(input.double(), shape[-1:], weight.double(), bias.double(), eps)
        assert relative_error(call(connection, "layer_norm", input, weight, bias, eps), theirs) < 1e-5
    theirs = functional.layer_norm(input.double(), shape[-1:], weight.double())
    assert np.allclose(call(connection, "layer_norm", input, weight), theirs, atol=1e-5)
    theirs = functional.layer_norm(input.double(), shape[-1:], None, bias.double())
    assert relative_error(call(connection, "layer_norm", input, bias=bias), theirs) < 1e-5


def test_layer_norm_of_large_values(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    input = normal(rng, 4, 9) + 1000
    theirs = functional.layer_norm(input.double(), (9,))
    assert relative_error(call(connection, "layer_norm", input), theirs) < 1e-5
    input = 1e37 * normal(rng, 4, 9)
    assert relative_error(call(connection, "layer_norm", input), functional.layer_norm(input.double(), (9,))) < 1e-5


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (1, 2, 2)])
def test_embedding(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    weight, ids = normal(rng, 11, 5), torch.from_numpy(rng.integers(0, 11, shape))
    row = connection.execute("select sql_diffusion.embedding(%s::int[], %s::real[])", [ids.tolist(), weight.tolist()])
    result = row.fetchone()
    assert result is not None
    assert np.array_equal(np.asarray(result[0], np.float32), functional.embedding(ids, weight).numpy())


def attended(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **named: Any) -> torch.Tensor:
    return functional.scaled_dot_product_attention(query.double(), key.double(), value.double(), **named)


# queries, keys, features, features of the values
SIZES = [(4, 4, 8, 8), (5, 3, 8, 8), (3, 7, 4, 5), (1, 1, 1, 1), (16, 16, 24, 24), (9, 10, 16, 8), (6, 77, 12, 20)]


def masks(rng: np.random.Generator, queries: int, keys: int) -> torch.Tensor:
    """Finite numbers and -infinity; the first query sees nothing but the last key."""
    mask = normal(rng, queries, keys)
    mask[torch.from_numpy(rng.random((queries, keys)) < 0.3)] = -torch.inf
    mask[0, :-1] = -torch.inf
    mask[:, -1] = normal(rng, queries)
    return mask


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("leading", [(), (2,), (1, 3)])
def test_attention_with_a_mask(
    connection: psycopg.Connection, rng: np.random.Generator, leading: tuple[int, ...], size: tuple[int, ...]
) -> None:
    queries, keys, features, value_features = size
    query, key = normal(rng, *leading, queries, features), normal(rng, *leading, keys, features)
    value, mask = normal(rng, *leading, keys, value_features), masks(rng, queries, keys)
    theirs = attended(query, key, value, attn_mask=mask.double())
    ours = call(connection, "scaled_dot_product_attention", query, key, value, mask)
    assert relative_error(ours, theirs) < 1e-5
    theirs = attended(query, key, value, is_causal=True)
    ours = call(connection, "scaled_dot_product_attention", query, key, value, is_causal=True)
    assert relative_error(ours, theirs) < 1e-5
    for scale in (0.25, -1.5, 0.0):
        theirs = attended(query, key, value, scale=scale)
        ours = call(connection, "scaled_dot_product_attention", query, key, value, scale=scale)
        assert relative_error(ours, theirs) < 1e-5


def test_attention_of_masks_at_the_end_of_single_precision(
    connection: psycopg.Connection, rng: np.random.Generator
) -> None:
    """What libraries put for -infinity; and a query that sees nothing at all, which gets zeros."""
    query, key, value = normal(rng, 4, 12), normal(rng, 6, 12), normal(rng, 6, 12)
    mask = torch.zeros(4, 6)
    mask[0, 2:] = torch.finfo(torch.float32).min
    mask[1] = torch.finfo(torch.float32).min
    mask[2] = -torch.inf
    mask[3, 1:] = -10000
    theirs = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    ours = call(connection, "scaled_dot_product_attention", query, key, value, mask)
    assert relative_error(ours, theirs) < 1e-5
    assert ours[2] == [0.0] * 12


@pytest.mark.parametrize("features", [3, 10])
def test_attention_of_more_keys_than_a_number_has_digits_for(
    connection: psycopg.Connection, rng: np.random.Generator, features: int
) -> None:
    query, key, value = normal(rng, 3, features), normal(rng, 16500, features), normal(rng, 16500, 2)
    mask = masks(rng, 3, 16500)
    theirs = attended(query, key, value)
    assert relative_error(call(connection, "scaled_dot_product_attention", query, key, value), theirs) < 1e-4
    theirs = attended(query, key, value, attn_mask=mask.double())
    assert relative_error(call(connection, "scaled_dot_product_attention", query, key, value, mask), theirs) < 1e-4


# ---- on feature maps


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 1, 1), (4, 1, 7)])
def test_activations_of_maps(
    connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...], name: str
) -> None:
    input = 3 * normal(rng, *shape)
    ours = of_maps(connection, f"{name}_of_maps", input, *(["none"] if name == "gelu" else []))
    assert np.allclose(ours, ACTIVATIONS[name](input.double()), rtol=1e-6, atol=1e-7)
    if name == "gelu":
        theirs = functional.gelu(input.double(), approximate="tanh")
        assert relative_error(of_maps(connection, "gelu_of_maps", input, "tanh"), theirs) < 1e-6


@pytest.mark.parametrize("shape", [(6, 4, 5), (2, 1, 1)])
def test_geglu_of_maps(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    input = 2 * normal(rng, *shape)
    layer = Geglu(shape[0], 8)
    layer.proj = torch.nn.Identity()
    theirs = channels_first(layer(channels_last(input).double()), input).numpy()
    hidden, gate = input.chunk(2)
    # gelu is a share of its gate, and of a gate far below zero what is left when almost all of it is taken away
    off = np.abs(of_maps(connection, "geglu_of_maps", input) - theirs).max()
    assert off < 1e-6 * float((hidden * gate).abs().max())


def test_add_of_maps(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    a, b = normal(rng, 3, 4, 5), normal(rng, 3, 4, 5)
    assert relative_error(of_maps(connection, "add_of_maps", a, b), a + b) < 1e-6


@pytest.mark.parametrize("shape", [(6, 4, 5), (320, 3, 1), (1, 2, 2), (5, 1, 1)])
def test_layer_norm_module(connection: psycopg.Connection, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    norm = randomized(torch.nn.LayerNorm(shape[0], eps=1e-3), rng)
    insert_module(connection, torch.nn.ModuleDict({"norm": norm}), "layer")
    input = 3 * normal(rng, *shape) + 5
    theirs = channels_first(norm.double()(channels_last(input).double()).detach(), input)
    ours = of_maps(connection, "layer_norm_module", input, "test", "unet", "layer.norm", 1e-3, "network")
    assert relative_error(ours, theirs) < 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 4), (1, 77)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_of_maps(
    connection: psycopg.Connection, rng: np.random.Generator, size: tuple[int, int], bias: bool
) -> None:
    layer = torch.nn.Linear(12, 5, bias=bias)
    insert_module(connection, torch.nn.ModuleDict({"proj": layer}), "layer")
    input, residual = normal(rng, 12, *size), normal(rng, 5, size[0] * size[1])
    place = ("test", "unet", "layer.proj", "network")
    theirs = channels_first(layer.double()(channels_last(input).double()).detach(), input)
    ours = of_maps(connection, "linear_of_maps", input, *place)
    assert relative_error(ours, theirs) < 1e-5
    if size == (1, 1):  # to the bit what a vector is given
        vector = call(connection, "linear_module", input.flatten(), *place)
        assert np.array_equal(np.asarray(ours, np.float32).ravel(), np.asarray(vector, np.float32))
    ours = of_maps(connection, "linear_of_maps", input, *place, residual, 0.5)
    assert relative_error(ours, (theirs + residual.reshape(theirs.shape)) / 2) < 1e-5


def test_embedding_module(connection: psycopg.Connection, rng: np.random.Generator) -> None:
    table = torch.nn.Embedding(30, 6)
    insert_module(connection, torch.nn.ModuleDict({"tokens": table}), "layer")
    ids = rng.integers(0, 30, 9).tolist()
    row = connection.execute(
        "select sql_diffusion.from_maps(m) from sql_diffusion.embedding_module(%s::int[], 'test', 'unet', 'layer.tokens', 'network') m",
        [ids],
    ).fetchone()
    assert row is not None
    assert np.array_equal(np.asarray(row[0], np.float32)[:, 0], table(torch.tensor(ids)).detach().T.numpy())


PROJECTIONS = {
    "diffusers": ["to_q", "to_k", "to_v", "to_out.0"],
    "transformers": ["q_proj", "k_proj", "v_proj", "out_proj"],
    "an old autoencoder": ["query", "key", "value", "proj_attn"],
}


@pytest.mark.parametrize("names", PROJECTIONS)
@pytest.mark.parametrize("context", [None, (1, 7), (1, 77)])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("features", [8, 12])
def test_attention_of_maps(
    connection: psycopg.Connection,
    rng: np.random.Generator,
    names: str,
    context: tuple[int, int] | None,
    packed: bool,
    features: int,
) -> None:
    width = None if context is None else 10
    block = randomized(
        Attention(16, cross_attention_dim=width, heads=3, dim_head=features, bias=names != "diffusers", out_bias=True),
        rng,
    )
    modules = torch.nn.ModuleList([block.to_q, block.to_k, block.to_v, block.to_out[0]])
    insert_module(connection, modules, "attention")
    for number, name in enumerate(PROJECTIONS[names]):
        connection.execute(
            "update sql_diffusion.parameters set key = %s where key = %s", [f"attention.{name}", f"attention.{number}"]
        )
    if packed:  # for an image of any width
        connection.execute(
            """insert into sql_diffusion.packed_layers (model, component, key, row_stride, largest)
               select p.model, p.component, p.key, 3, sql_diffusion.conv2d_largest(p.weight) from sql_diffusion.parameters p where p.model = 'test'"""
        )
        connection.execute(
            """insert into sql_diffusion.packed_kernels (layer, out_channel, kernels)
               select l.id, k.out_channel, k.kernels
               from sql_diffusion.packed_layers l join sql_diffusion.parameters p using (model, component, key),
                    sql_diffusion.conv2d_kernels(p.weight, l.largest, l.row_stride) k where l.model = 'test'"""
        )
    input = normal(rng, 16, 4, 5)
    other = None if context is None else normal(rng, 10, *context)
    arguments = [other, "test", "unet", "attention", 3, "network"]
    named: dict[str, Any] = {} if names == "diffusers" else {"projections": PROJECTIONS[names]}
    block = block.double()
    tokens = channels_last(input).double()[None]
    seen = None if other is None else channels_last(other).double()[None]
    theirs = channels_first(block(tokens, seen)[0].detach(), input)
    ours = of_maps(connection, "attention_of_maps", input, *arguments, **named)
    assert relative_error(ours, theirs) < 1e-5
    residual = normal(rng, 16, 20)
    ours = of_maps(
        connection, "attention_of_maps", input, *arguments, residual=residual, output_scale_factor=2.0, **named
    )
    assert relative_error(ours, (theirs + residual.reshape(theirs.shape)) / 2) < 1e-5
    if other is None:
        causal = torch.full((20, 20), -torch.inf).triu(1).double()
        theirs = channels_first(block(tokens, attention_mask=causal[None].expand(3, -1, -1))[0].detach(), input)
        ours = of_maps(connection, "attention_of_maps", input, *arguments, is_causal=True, **named)
        assert relative_error(ours, theirs) < 1e-5


MASKED = "scaled_dot_product_attention('{{1,2}}', '{{1,2},{3,4}}', '{{1},{2}}', "
REFUSED = {
    "gelu(null)": "gelu: input is null",
    "gelu('{1,NaN}')": "gelu: input holds NaN or infinite values",
    "gelu('{1}', 'erf')": "gelu: approximate is erf, expected none or tanh",
    "gelu('{1}', null)": "gelu: approximate is null, expected none or tanh",
    "quick_gelu('{1,NULL}')": "quick_gelu: input holds null elements",
    "relu('{-Infinity}')": "relu: input holds NaN or infinite values",
    "mish('{}')": "mish: input is empty",
    "geglu('{1,2,3}')": "geglu: input has shape {3}, expected an even last dimension",
    "geglu('{1,NaN}')": "geglu: input holds NaN or infinite values",
    "layer_norm(null)": "layer_norm: input is null",
    "layer_norm('{{1,2}}', '{1}')": "layer_norm: weight has 1 elements, expected one for each of the 2 features of input",
    "layer_norm('{{1,2}}', null, '{1,2,3}')": "layer_norm: bias has 3 elements, expected one for each of the 2 features of input",
    "layer_norm('{{1,2}}', '{{1,2}}')": "layer_norm: weight has shape {1,2}, expected 1 dimension (features)",
    "layer_norm('{{1,2}}', eps => 'NaN')": "layer_norm: eps is NaN, expected a finite number of at least 0",
    "layer_norm('{{1,2}}', eps => null)": "layer_norm: eps is null, expected a finite number of at least 0",
    "layer_norm('{{1,2}}', '{1,NaN}')": "layer_norm: weight holds NaN or infinite values",
    "embedding('{}', '{{1}}')": "embedding: input_ids is empty",
    "embedding('{0}', '{1}')": "embedding: weight has shape {1}, expected 2 dimensions (number, features)",
    "embedding('{0,2}', '{{1},{2}}')": "embedding: input_ids holds 2, expected from 0 to 1",
    "embedding('{-1}', '{{1},{2}}')": "embedding: input_ids holds -1, expected from 0 to 1",
    "embedding('{NULL}', '{{1},{2}}')": "embedding: input_ids holds null, expected from 0 to 1",
    "embedding('{0}', '{{NaN}}')": "embedding: weight holds NaN or infinite values",
    f"{MASKED}'{{{{1,2,3}}}}')": "scaled_dot_product_attention: attn_mask has shape {1,3}, expected {1,2}, a row for each query and an element for each key",
    f"{MASKED}'{{1,2}}')": "scaled_dot_product_attention: attn_mask has shape {2}, expected 2 dimensions (queries, keys)",
    f"{MASKED}'{{{{1,NaN}}}}')": "scaled_dot_product_attention: attn_mask holds NaN or Infinity, expected finite numbers and -Infinity",
    f"{MASKED}'{{{{1,NULL}}}}')": "scaled_dot_product_attention: attn_mask holds null elements",
    f"{MASKED}'{{{{1,2}}}}', true)": "scaled_dot_product_attention: attn_mask is given and is_causal is true, expected one of the two",
    f"{MASKED}null, null)": "scaled_dot_product_attention: is_causal is null, expected true or false",
    f"{MASKED}scale => 'Infinity')": "scaled_dot_product_attention: scale is Infinity, expected from -1e30 to 1e30",
    "scaled_dot_product_attention(null, '{{1}}', '{{1}}')": "scaled_dot_product_attention: query is null",
}  # fmt: skip


@pytest.mark.parametrize("schema", ["sql_diffusion", "sql_diffusion_numpy"])
@pytest.mark.parametrize("expression", REFUSED)
def test_bad_input(numpy_connection: psycopg.Connection, expression: str, schema: str) -> None:
    with pytest.raises(psycopg.Error) as error:
        numpy_connection.execute(f"select {schema}.{expression}".encode())
    assert error.value.diag.message_primary == REFUSED[expression]
    assert error.value.sqlstate == "22023"


@pytest.mark.parametrize(
    ("call", "message", "state"),
    [
        ("layer_norm_module({}, 'nobody', 'unet', 'norm', 1e-5, 'network')", "network: model nobody has no parameter norm of component unet", "42704"),
        ("layer_norm_module({}, 'test', 'unet', 'layer.norm', 1e-5, 'network')", "network: input has 1 channels, expected 3, as layer.norm takes", "22023"),
        ("linear_of_maps({}, 'test', 'unet', 'layer.other', 'network')", "network: model test has no parameter layer.other of component unet", "55000"),
        ("linear_of_maps({}, 'test', 'unet', 'layer.proj', 'network')", "network: the input of layer.proj has shape {4,1}, expected a last dimension of 3", "22023"),
        ("embedding_module('{0,9}', 'test', 'unet', 'layer.proj', 'network')", "network: input_ids holds 9, expected from 0 to 3", "22023"),
        ("embedding_module('{0}', 'test', 'unet', 'layer.other', 'network')", "network: model test has no parameter layer.other of component unet", "55000"),
        ("attention_of_maps({}, null, 'test', 'unet', 'layer', 3, 'network', projections => '{proj,proj,proj,proj}')", "network: heads is 3, expected a divisor of the 4 outputs of layer.proj", "22023"),
    ],
)  # fmt: skip
def test_bad_modules(connection: psycopg.Connection, call: str, message: str, state: str) -> None:
    modules = {"norm": torch.nn.LayerNorm(3), "proj": torch.nn.Linear(3, 4)}
    insert_module(connection, torch.nn.ModuleDict(modules), "layer")
    input = "sql_diffusion.to_maps('{{1,2,3,4}}', 2, 2)"
    with pytest.raises(psycopg.Error) as error:
        connection.execute(f"select o from sql_diffusion.{call.replace('{}', input)} o".encode())
    assert error.value.diag.message_primary == message
    assert error.value.sqlstate == state
