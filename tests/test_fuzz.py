"""Odd arguments for every function: each call answers or refuses, and SQL and NumPy do so alike.

The twins are called with arguments that fit, of which up to two are then replaced by odd ones. Both answer the same to
within 1e-4 of the largest value, or both refuse with the same SQLSTATE in the same words. All other functions are called with odd
arguments only: they answer, refuse or run into statement_timeout, and the session lives on. SQL_DIFFUSION_STRESS=1 makes
ten times as many calls.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from psycopg import sql

from databases import new_database
from reference import SMALL, insert_model, random_unet
from trained_tokenizers import insert_tokenizer, train

sys.set_int_max_str_digits(0)  # there are numerics of a hundred thousand digits

FACTOR = 10 if os.environ.get("SQL_DIFFUSION_STRESS") == "1" else 1

Arguments = dict[str, Any]
Outcome = tuple[str, Any]
Draw = Callable[[st.SearchStrategy[Any]], Any]

# The state of an error that a person made or met. Never XX000 (internal error), 38000 (Python's own exception) or 42 (the
# function's own query is wrong; 42501, 42704 and 42883 apart, which are raised for names that came in).
EXPECTED_STATES = (
    "0A000",
    "22",
    "23",
    "42501",
    "42704",
    "42883",
    "53200",
    "54000",
    "55000",
    "57014",
    "58P01",
    "02000",
    "P0002",
)


# ---- values

sizes = st.sampled_from([1, 1, 2, 3, 4, 8])


def numbers(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tensors(*shape: int) -> st.SearchStrategy[np.ndarray]:
    return st.integers(0, 2**32 - 1).map(lambda seed: numbers(seed, shape))


def array_text(array: Any, lower: tuple[int, ...] = ()) -> str:
    """As PostgreSQL reads an array; None is NULL."""

    def write(part: Any) -> str:
        if isinstance(part, list):
            return "{" + ",".join(write(each) for each in part) + "}"
        return "NULL" if part is None else repr(part) if isinstance(part, int) else float_text(part)

    bounds = (
        "".join(f"[{low}:{low + size - 1}]" for low, size in zip(lower, np.shape(array), strict=True)) if lower else ""
    )
    return f"{bounds}=" * bool(bounds) + write(array.tolist() if isinstance(array, np.ndarray) else array)


def float_text(value: float) -> str:
    return "NaN" if math.isnan(value) else str(value).replace("inf", "Infinity")


odd_numbers = st.sampled_from([math.nan, math.inf, -math.inf, 3.4e38, -3.4e38, 1e-45, 1e20, 0.0, -0.0, None, 1.0])


@st.composite
def odd_tensors(draw: Draw) -> str | None:
    """Of any rank, empty, with an odd element, or NULL. (Lower bounds have a test of their own.)"""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([None, "{}"]))
    shape = tuple(draw(st.lists(sizes, min_size=1, max_size=6).filter(lambda s: math.prod(s) <= 600)))
    array = numbers(draw(st.integers(0, 99)), shape).astype(object)
    if draw(st.booleans()):
        array.flat[draw(st.integers(0, array.size - 1))] = draw(odd_numbers)
    return array_text(array)


odd_integers = st.sampled_from([0, 1, -1, 2, 3, 4, 5, 7, 8, 16, 32, 1000, 1001, 65536, 2**31 - 1, -(2**31), None])
odd_bigints = st.sampled_from([0, -1, 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, -(2**63), None])
odd_floats = st.sampled_from(
    [0.0, 1.0, -1.0, 0.5, 1e-5, 999.0, 1e300, -1e300, 1e-300, math.nan, math.inf, -math.inf, None]
)
odd_reals = st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0, 1e-45, 3e38, math.nan, math.inf, -math.inf, None])
odd_texts = st.sampled_from(
    ["", " ", "small", "broken", "Small", "butterflies", "unet", "vae", "ddpm", "ddim", "DDPM", "float32", "float16", "bfloat16", "default",
     "scale_shift", "conv_in", "mid_block.attentions.0", "down_blocks.0.resnets.0", "sql", "numpy", "auto", "%", "%s %I", "'; --", "a" * 3000, "é😀", None]
)  # fmt: skip
odd_shapes = st.one_of(
    st.sampled_from([None, "{}", "{NULL}", "{0}", "{-1}", "{2147483647}", "{65536,65536}", "{2147483647,2147483647,2147483647}",
                     "{{1,2},{3,4}}", "{{1}}", "{1,1,1,1,1,1}", "{1,1,1,1,1,1,1}", "{-2,-2}", "{4,NULL}"]),
    st.lists(st.integers(-1, 8), min_size=1, max_size=7).map(array_text),
)  # fmt: skip
odd_timesteps = st.one_of(
    st.sampled_from(
        [None, "{}", "{NULL}", "{999}", "{0}", "{1000}", "{-1}", "{5,5}", "{1,2}", "{9,5,NULL}", "{{9,8},{7,6}}"]
    ),
    st.lists(st.integers(-1, 1001), min_size=1, max_size=3).map(array_text),
)
odd_documents = st.one_of(
    st.sampled_from(["null", "[]", "{}", "1", '"ddpm"', '{"beta_schedule": 5}', None]),
    st.builds(
        lambda base, key, value: json.dumps({**base, key: value}),
        st.sampled_from([{"_class_name": "DDPMScheduler"}, {"_class_name": "DDIMScheduler"}, {}, SMALL]),
        st.sampled_from(
            ["_class_name", "num_train_timesteps", "beta_start", "beta_end", "beta_schedule", "trained_betas", "variance_type", "clip_sample",
             "clip_sample_range", "prediction_type", "timestep_spacing", "steps_offset", "thresholding", "rescale_betas_zero_snr", "set_alpha_to_one",
             "dynamic_thresholding_ratio", "sample_size", "block_out_channels", "norm_num_groups", "attention_head_dim"]
        ),
        st.sampled_from([None, 0, -1, 1, 2, 1000, 100000, 0.5, 1e308, True, False, "", "linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "epsilon",
                         "sample", "v_prediction", "trailing", "leading", "linspace", "fixed_large", "DDIMScheduler", [], [0.1], [0.1, None], {}, [8, 8]]),
    ),
)  # fmt: skip
odd_generators = st.sampled_from([None, "(,,)", '("{1,2}",0,)', '("{}",624,)', '("{-5}",-1,NaN)'])
odd_steps = st.one_of(
    st.sampled_from([None, "(" + 20 * "," + ")"]),
    st.lists(odd_reals.map(lambda real: "" if real is None else float_text(real)), min_size=12, max_size=12).map(
        lambda reals: f"(1,5,4,{','.join(reals[:10])},t,{{}},{{}},1,1,1,{reals[10]},{reals[11]})"
    ),
)

odd_plan_steps = st.one_of(
    st.none(),
    st.builds(
        lambda operation, key, inputs, channels, settings: (
            f'(1,{operation},{key},"{inputs}",{channels},{channels},0,"{settings}")'
        ),
        st.sampled_from(["", "conv2d", "attention_block", "embedding", "input", "output", "silu", "nosuch"]),
        st.sampled_from(["", "conv_in", "sample", "nosuch"]),
        st.sampled_from(["{}", "{1}", "{0,-1}", "{NULL}"]),
        st.sampled_from(["", "0", "-1", "8"]),
        st.sampled_from(["", "{}", "[]", "null"]),
    ),
)
odd_step_counts = st.sampled_from([0, -1, 1, 3, 1001, 65536, 2**31 - 1, -(2**31), None])  # of pictures that are made

ODD: dict[str, st.SearchStrategy[Any]] = {
    "real[]": odd_tensors(),
    "integer": odd_integers,
    "bigint": odd_bigints,
    "bigint[]": st.sampled_from([None, "{}", "{NULL}", "{1}", "{2,2}", "{-1,9223372036854775807}", "{{1,2}}"]),
    "double precision": odd_floats,
    "real": odd_reals,
    "text": odd_texts,
    "boolean": st.sampled_from([True, False, None]),
    "bytea": st.sampled_from([None, b"", b"\0", b"\xff" * 16, b"\x80\x7f", b"\0" * 8]),
    "bytea[]": st.sampled_from([None, [], [None], [b""], [b"a", b"ab"], [b"\xff", b"\0"]]),
    "jsonb": odd_documents,
    "sql_diffusion.generator": odd_generators,
    "sql_diffusion.schedule_step": odd_steps,
    "sql_diffusion.normalization": st.sampled_from(
        [None, "(,,,)", '("{1}","{0}","{2}",t)', '("{NaN}","{}","{NULL}",)']
    ),
    "sql_diffusion.feature_maps": st.sampled_from(
        [
            None,
            "(,,,,,,)",
            '("{{1,2}}",1,2,{1.5},{0.25},{1},{2})',
            '("{{1,NaN}}",1,2,{NaN},{NaN},{1},{NaN})',
            '("{{NULL,1}}",2,1,{1},{0},{1},{1})',
            '("{}",-1,0,{},{},{},{})',
        ]
    ),
    "sql_diffusion.convolution": st.sampled_from(
        [
            None,
            "(" + "," * 17 + ")",
            "(1,1,9,{0},{},0,1,{},1,1,,1,,,,,,)",
            "(-1,1,-1,{NULL},{1},NaN,NaN,{2},0,0,{1},0,1,{1},{},0,NaN,{2})",
        ]
    ),
    "sql_diffusion.feature_maps[]": st.sampled_from(
        [None, "{}", "{NULL}", r'{"(\"{{1,2}}\",1,2,{1.5},{0.25},{1},{2})"}']
    ),
    "sql_diffusion.plan_step": odd_plan_steps,
    "sql_diffusion.plan_step[]": st.sampled_from([None, "{}", "{NULL}"]),
    "text[]": st.sampled_from([None, "{}", "{a}", '{{a,b,"$ == 1"}}', "{{a,b,$}}"]),
    "numeric": st.sampled_from([None, 0, 1, -1, "NaN", "1e400"]),
    "numeric[]": st.sampled_from([None, "{}", "{1,2}", "{NaN}", "{NULL}"]),
    "double precision[]": st.sampled_from([None, "{}", "{1,2}", "{NaN}", "{NULL}", "{0}"]),
    "integer[]": odd_shapes,
}


# ---- calls that fit

SAMPLE = (3, 8, 8)  # of the model called small
scheduler_documents = st.builds(
    lambda schedule, spacing, prediction, clip: json.dumps(
        {"_class_name": "DDPMScheduler", "num_train_timesteps": 50, "beta_schedule": schedule, "timestep_spacing": spacing,
         "prediction_type": prediction, "clip_sample": clip}
    ),
    st.sampled_from(["linear", "scaled_linear", "squaredcos_cap_v2"]),
    st.sampled_from(["leading", "trailing", "linspace"]),
    st.sampled_from(["epsilon", "sample", "v_prediction"]),
    st.booleans(),
)  # fmt: skip


@st.composite
def convolutions(draw: Draw) -> Arguments:
    channels, kernel = draw(st.sampled_from([1, 2, 3])), draw(st.sampled_from([1, 3]))
    out = draw(st.sampled_from([1, 2]))
    height, width = draw(st.integers(3, 6)), draw(st.integers(3, 6))
    return {
        "input": draw(tensors(channels, height, width)),
        "weight": draw(tensors(out, channels, kernel, kernel)),
        "bias": draw(st.one_of(st.none(), tensors(out))),
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 2)),
    }


@st.composite
def attentions(draw: Draw) -> Arguments:
    heads, queries, keys = (draw(st.integers(1, 4)) for _ in range(3))
    size = draw(st.sampled_from([1, 2, 4, 9]))
    mask = draw(st.one_of(st.none(), tensors(queries, keys)))
    return {
        "query": draw(tensors(heads, queries, size)),
        "key": draw(tensors(heads, keys, size)),
        "value": draw(tensors(heads, keys, draw(st.integers(1, 4)))),
        "attn_mask": mask if mask is None else np.where(mask < -0.5, -np.inf, mask).astype(np.float32),
        "is_causal": mask is None and draw(st.booleans()),
        "scale": draw(st.sampled_from([None, 0.5, -2.0])),
    }


@st.composite
def alike(draw: Draw, *names: str, rank: int | None = None) -> Arguments:
    shape = tuple(draw(sizes) for _ in range(rank or draw(st.integers(1, 4))))
    return {name: draw(tensors(*shape)) for name in names}


@st.composite
def with_vector(draw: Draw) -> Arguments:
    channels = draw(sizes)
    return {"input": draw(tensors(channels, draw(sizes), draw(sizes))), "vector": draw(tensors(channels))}


@st.composite
def group_norms(draw: Draw) -> Arguments:
    groups = draw(st.integers(1, 3))
    channels = groups * draw(st.integers(1, 3))
    vector = st.one_of(st.none(), tensors(channels))
    return {
        "input": draw(tensors(channels, draw(sizes), draw(sizes))),
        "num_groups": groups,
        "weight": draw(vector),
        "bias": draw(vector),
        "eps": draw(st.sampled_from([1e-5, 1e-3])),
    }


@st.composite
def layer_norms(draw: Draw) -> Arguments:
    shape = tuple(draw(st.lists(sizes, min_size=1, max_size=3)))
    vector = st.one_of(st.none(), tensors(shape[-1]))
    return {
        "input": draw(tensors(*shape)),
        "weight": draw(vector),
        "bias": draw(vector),
        "eps": draw(st.sampled_from([1e-5, 1e-3])),
    }


@st.composite
def embeddings(draw: Draw) -> Arguments:
    number, shape = draw(sizes), draw(st.lists(sizes, min_size=1, max_size=2))
    ids = np.random.default_rng(draw(st.integers(0, 99))).integers(0, number, shape)
    return {"input_ids": array_text(ids.tolist()), "weight": draw(tensors(number, draw(sizes)))}


@st.composite
def linears(draw: Draw) -> Arguments:
    features, out = draw(sizes), draw(sizes)
    lead = draw(st.lists(sizes, min_size=1, max_size=1))
    return {
        "input": draw(tensors(*lead, features)),
        "weight": draw(tensors(out, features)),
        "bias": draw(st.one_of(st.none(), tensors(out))),
    }


@st.composite
def bytes_of(draw: Draw) -> Arguments:
    dtype, shape = (
        draw(st.sampled_from(["float16", "bfloat16", "float32"])),
        draw(st.lists(sizes, min_size=1, max_size=3)),
    )
    size = math.prod(shape) * (4 if dtype == "float32" else 2)
    return {"bytes": draw(st.binary(min_size=size, max_size=size)), "dtype": dtype, "shape": array_text(shape)}


@st.composite
def pngs(draw: Draw) -> bytes:
    """A PNG of Pillow's, one time in two with a byte that is another."""
    mode = draw(st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "P"]))
    pixels = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, (5, 6, 4)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert("RGB").convert(mode).save(file, "PNG")
    png = bytearray(file.getvalue())
    if draw(st.booleans()):
        png[draw(st.integers(0, len(png) - 1))] ^= draw(st.integers(1, 255))
    return bytes(png)


def pixels_of(rows: Any) -> Any:
    """What image_png has answered, as pixels: the bytes of its file are each backend's own."""
    return [
        None if row is None else np.asarray(Image.open(io.BytesIO(bytes.fromhex(row[2:])))).tolist() for row in rows
    ]


@st.composite
def reshapes(draw: Draw) -> Arguments:
    shape = draw(st.lists(sizes, min_size=1, max_size=4))
    return {"input": draw(tensors(*shape)), "shape": array_text(draw(st.permutations(shape)))}


def fixed(**arguments: Any) -> st.SearchStrategy[Arguments]:
    """Each argument a value, or a strategy of its values."""
    return st.fixed_dictionaries(
        {n: v if isinstance(v, st.SearchStrategy) else st.just(v) for n, v in arguments.items()}
    )


seeds = st.integers(-(2**63), 2**63 - 1)
schedules: Arguments = {
    "model": "small",
    "num_inference_steps": st.sampled_from([None, 1, 3]),  # None: 2, the model's default
    "timesteps": None,
    "scheduler": st.sampled_from([None, "ddpm", "ddim"]),
    "eta": st.sampled_from([0, 0.5]),
}
block = {"model": "small", "component": "unet"}
tokenizers: Arguments = {"model": "small", "component": st.sampled_from(["tokenizer", "tokenizer_2"])}
ids = st.lists(st.integers(0, 800), max_size=20).map(array_text)
steps = st.builds(
    lambda a, b, clip, c, d, e, f, g, h: f"(1,5,4,1,{a},{b},{clip},,,{c},{d},{e},{f},t,{{}},{{}},1,{g},{h},,)",
    *[st.sampled_from([0.1, 0.9, 1.0, 1.5, -0.4])] * 9,
)

# name: how many calls, and the strategy of arguments that fit
FITTING: dict[str, tuple[int, st.SearchStrategy[Arguments]]] = {
    "reshape": (60, reshapes()),
    "tensor_from_bytes": (60, bytes_of()),
    "silu": (60, alike("input")),
    "gelu": (60, alike("input").flatmap(lambda tensors: fixed(**tensors, approximate=st.sampled_from(["none", "tanh"])))),
    "quick_gelu": (60, alike("input")),
    "geglu": (60, st.builds(lambda leading, half, seed: {"input": numbers(seed, (*leading, 2 * half))}, st.lists(sizes, max_size=2), sizes, st.integers(0, 99))),
    "relu": (60, alike("input")),
    "mish": (60, alike("input")),
    "layer_norm": (90, layer_norms()),
    "embedding": (60, embeddings()),
    "add": (60, alike("a", "b")),
    "add_channels": (60, with_vector()),
    "concatenate": (60, alike("a", "b", rank=3)),
    "pad": (60, fixed(input=tensors(2, 3, 4), padding_left=1, padding_right=0, padding_top=2, padding_bottom=1, value=odd_reals)),
    "interpolate_nearest": (60, fixed(input=tensors(2, 3, 4), scale_factor=st.integers(1, 3))),
    "timestep_embedding": (60, fixed(timestep=st.floats(0, 1000), embedding_dim=st.integers(1, 40), flip_sin_to_cos=st.booleans(),
                                     downscale_freq_shift=st.sampled_from([0.0, 1.0]), max_period=st.sampled_from([10000.0, 10.0]))),
    "group_norm": (90, group_norms()),
    "conv2d": (120, convolutions()),
    "linear": (60, linears()),
    "scaled_dot_product_attention": (120, attentions()),
    "resnet_block": (40, fixed(input=tensors(8, 8, 8), temb=tensors(32), key="down_blocks.0.resnets.0", num_groups=4, eps=1e-5,
                               time_scale_shift="default", output_scale_factor=1, **block)),
    "attention_block": (40, fixed(input=tensors(16, 4, 4), key="mid_block.attentions.0", heads=2, num_groups=4, eps=1e-5, output_scale_factor=1, **block)),
    "downsample": (40, fixed(input=tensors(8, 8, 8), key="down_blocks.0.downsamplers.0", padding=st.integers(0, 1), **block)),
    "upsample": (40, fixed(input=tensors(16, 4, 4), key="up_blocks.0.upsamplers.0", **block)),
    "time_embedding": (40, fixed(timestep=st.floats(0, 1000), key="time_embedding", embedding_dim=8, flip_sin_to_cos=True, downscale_freq_shift=0, **block)),
    "unet_steps": (10, fixed(sample=tensors(*SAMPLE), timestep=st.integers(0, 999), model="small")),
    "unet": (20, fixed(sample=tensors(*SAMPLE), timestep=st.integers(0, 999), model="small")),
    "manual_seed": (20, fixed(seed=seeds)),
    "randn": (60, fixed(seed=seeds, shape=st.lists(sizes, min_size=1, max_size=4).map(array_text))),
    "scheduler_step": (60, alike("model_output", "sample", "noise").flatmap(lambda tensors: fixed(**tensors, step=steps, memory=None))),
    "add_noise_at": (40, alike("original", "noise").flatmap(lambda tensors: fixed(**tensors, step=steps))),
    "tokenize": (60, fixed(text=odd_texts, padding=st.booleans(), truncation=st.booleans(), **tokenizers)),
    "detokenize": (60, fixed(ids=ids, skip_special_tokens=st.booleans(), **tokenizers)),
    "detokenize_bytes": (60, fixed(ids=ids, skip_special_tokens=st.booleans(), **tokenizers)),
    "add_noise": (40, alike("original", "noise").flatmap(lambda tensors: fixed(**tensors, timestep=st.integers(0, 999), model="small"))),
    "predict_original_sample": (40, alike("model_output", "sample").flatmap(lambda tensors: fixed(**tensors, timestep=st.integers(0, 999), model="small"))),
    "denormalize": (60, alike("sample", rank=3)),
    "image_png": (60, fixed(image=tensors(3, 4, 5), scale=st.integers(1, 3), compression=st.integers(0, 9))),
    "image_from_png": (60, fixed(png=pngs())),
    "image_resize": (60, fixed(image=tensors(2, 4, 5), height=st.integers(1, 9), width=st.integers(1, 9),
                               method=st.sampled_from(["nearest", "bilinear", "bicubic", "lanczos"]))),
    "ddpm_steps": (10, fixed(seed=seeds, **schedules)),
    "ddpm_generate": (10, fixed(seed=seeds, **schedules)),
}  # fmt: skip


# ---- calling

SIGNATURES = """
select p.proname,
       array(select unnest(p.proargnames[1 : p.pronargs]) where p.pronargs > 0),
       array(select format_type(t.type, null) from unnest(p.proargtypes) with ordinality t (type, n) order by t.n)
from pg_proc p
where p.pronamespace = %s::regnamespace
  and p.prokind = 'f'
  and p.prorettype <> 'trigger'::regtype
order by p.oid
"""


# Types of rows without odd ones of their own: NULL, and a row of nothing but NULL.
COMPOSITES = """
select format_type(t.oid, null), (select count(*) from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0)
from pg_type t
where t.typnamespace = 'sql_diffusion'::regnamespace and t.typtype = 'c'
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[psycopg.Connection]:
    """In a database of its own: some functions write, and what they write stays."""
    with (
        new_database("sql_diffusion_numpy") as database,
        psycopg.connect(dbname=database, autocommit=True) as own,
    ):
        insert_model(own, "small", random_unet(np.random.default_rng(1)))
        for component, kind in (("tokenizer", "CLIPTokenizer"), ("tokenizer_2", "GPT2Tokenizer")):
            folder = train(tmp_path_factory.mktemp("tokenizer"), kind, np.random.default_rng(3))
            insert_tokenizer(own, "small", folder, component)
        insert_model(own, "broken", random_unet(np.random.default_rng(2)))
        own.execute("update sql_diffusion.models set defaults = '{\"num_inference_steps\": 2}' where name = 'small'")
        own.execute("delete from sql_diffusion.parameters where model = 'broken' and key = 'conv_out'")
        own.execute("set sql_diffusion.progress = off")
        own.execute("set client_min_messages = error")
        for name, columns in own.execute(COMPOSITES).fetchall():
            ODD.setdefault(name, st.sampled_from([None, "(" + "," * (columns - 1) + ")"]))
            ODD.setdefault(f"{name}[]", st.sampled_from([None, "{}", "{NULL}"]))
        yield own


def call(session: psycopg.Connection, schema: str, name: str, types: dict[str, str], arguments: Arguments) -> Outcome:
    """The rows, as JSON, or the SQLSTATE and the message."""
    named = [sql.SQL("{} => %s::" + types[argument]).format(sql.Identifier(argument)) for argument in arguments]
    query = sql.SQL("select to_jsonb(t) from {}({}) t").format(sql.Identifier(schema, name), sql.SQL(", ").join(named))
    values = [array_text(value) if isinstance(value, np.ndarray) else value for value in arguments.values()]
    try:
        return "answer", [row[0] for row in session.execute(query, values).fetchall()]
    except psycopg.Error as error:
        assert not session.closed, f"the session ended: {error}"
        # PL/Python puts a word and a colon before a message that has none.
        return error.sqlstate or "?", (error.diag.message_primary or "").removeprefix("sql_diffusion: ")


def equal(ours: Any, theirs: Any, tolerance: float, least: float) -> bool:
    """The same JSON, with the numbers of an array to within a share of its largest, or of least where that is more."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(equal(ours[key], theirs[key], tolerance, least) for key in ours)
    try:
        a, b = np.array(ours, np.float64), np.array(theirs, np.float64)  # "NaN" and "Infinity" are read too
    except (TypeError, ValueError):
        return bool(ours == theirs) or (
            isinstance(ours, list)
            and isinstance(theirs, list)
            and len(ours) == len(theirs)
            and all(equal(a, b, tolerance, least) for a, b in zip(ours, theirs, strict=True))
        )
    if a.shape != b.shape:
        return False
    finite = np.abs(b[np.isfinite(b)])
    return bool(np.allclose(a, b, rtol=0, atol=tolerance * float(finite.max(initial=least)) + 1e-30, equal_nan=True))


TERMS = {
    "group_norm": ["weight"],
    "layer_norm": ["weight"],
    "scheduler_step": ["model_output", "sample", "noise", "step"],
    "add_noise": ["original", "noise"],
    "add_noise_at": ["original", "noise"],
    "predict_original_sample": ["model_output", "sample"],
}
NUMBER = re.compile(r"-?\d[\d.]*(?:e[-+]?\d+)?")

FUZZ = settings(
    deadline=None,
    database=None,
    phases=[Phase.generate],  # to shrink takes hundreds of calls, and the arguments are small as they come
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", FITTING)
def test_twins_agree_on_odd_arguments(session: psycopg.Connection, name: str) -> None:
    calls, fitting = FITTING[name]
    signatures = session.execute(SIGNATURES, ["sql_diffusion_numpy"]).fetchall()
    session.execute("set statement_timeout = '2s'")
    # a guess of the picture out of pure noise is 150 times the error of the network
    tolerance = 4e-3 if name.startswith("ddpm") else 1e-4
    least = 1.0 if name in ("scheduler_step", "add_noise", "add_noise_at", "predict_original_sample") else 0.0

    @settings(FUZZ, max_examples=calls * FACTOR)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        arguments = data.draw(fitting)
        (types,) = (
            dict(zip(names, kinds, strict=True))
            for function, names, kinds in signatures
            if function == name and set(arguments) <= set(names)
        )
        for argument in data.draw(st.lists(st.sampled_from(sorted(arguments)), max_size=2, unique=True)):
            arguments[argument] = data.draw(
                odd_step_counts if argument == "num_inference_steps" and "seed" in arguments else ODD[types[argument]]
            )
        # the 50 steps of ddim with a random network multiply the rounding of the first without end
        if name.startswith("ddpm") and not arguments["timesteps"] and not arguments["num_inference_steps"]:
            arguments["num_inference_steps"] = 3
        in_sql, in_numpy = (
            call(session, schema, name, types, arguments) for schema in ("sql_diffusion", "sql_diffusion_numpy")
        )
        if "57014" in (in_sql[0], in_numpy[0]):  # statement_timeout: one is slower
            return
        if in_sql[1] == "value out of range: underflow":  # PostgreSQL's arithmetic knows no denormal results
            return
        if in_sql[0] == "0A000" and in_numpy[0] == "answer":  # what only SQL's big numbers cannot hold
            assert name == "conv2d"
            return
        written = {key: array_text(v) if isinstance(v, np.ndarray) else v for key, v in arguments.items()}
        # sums of values near the end of single precision run over it on the way, where SQL's are in double precision
        if (
            name in ("unet", "unet_steps")
            and in_numpy[1] == "value out of range: overflow"
            and "3.4e+38" in str(written)
        ):
            assert in_sql[0] in ("answer", "22003")
            return
        assert in_sql[0] == "answer" or in_sql[0].startswith(EXPECTED_STATES), (in_sql, written)
        assert in_sql[0] == in_numpy[0], (in_sql, in_numpy, written)
        if in_sql[0] == "answer" and 0 < (arguments.get("eps") or 0) < 1e-20:
            return  # divided by next to nothing, and the bias lost beside it in SQL
        if name == "image_png" and in_sql[0] == "answer":
            in_sql, in_numpy = (("answer", pixels_of(rows)) for _, rows in (in_sql, in_numpy))
        # what these add and subtract is as large as the arguments, and may leave next to nothing
        terms = " ".join(str(written.get(argument)) for argument in TERMS.get(name, []))
        size = max([least, *(abs(float(each)) for each in re.findall(NUMBER, terms))])
        assert in_sql[1] == in_numpy[1] if in_sql[0] != "answer" else equal(in_sql[1], in_numpy[1], tolerance, size), (
            in_sql,
            in_numpy,
            written,
        )

    run()


def test_every_function_survives_odd_arguments(session: psycopg.Connection) -> None:
    signatures = [
        (schema, *signature)
        for schema in ("sql_diffusion", "sql_diffusion_numpy", "public")
        for signature in session.execute(SIGNATURES, [schema]).fetchall()
    ]
    assert len(signatures) > 120
    session.execute("set statement_timeout = '300ms'")

    @settings(FUZZ, max_examples=2500 * FACTOR)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        schema, name, names, kinds = data.draw(st.sampled_from(signatures))
        types = dict(zip(names, kinds, strict=True))
        arguments = {argument: data.draw(ODD.get(types[argument], st.none())) for argument in names}
        outcome = call(session, schema, name, types, arguments)
        if name.endswith("_plan") and str(outcome[1]).startswith("the plan has no step"):
            return  # of a configuration that check_component refuses
        assert outcome[0] == "answer" or name == "fail" or outcome[0].startswith(EXPECTED_STATES), (
            schema, name, outcome, arguments,
        )  # fmt: skip

    run()
    session.execute("reset statement_timeout")
