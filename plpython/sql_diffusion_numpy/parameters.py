"""From the tables to networks: read once, kept for the session, shared between sessions (cache.py)."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np

from . import cache, memory
from .errors import fail
from .layers.modules import Arrays, Layout, Network, PlanRow
from .network import ENGINE
from .session import in_server, query
from .tensors import numbers_from_bytes, read_array_send

KEPT = 8  # networks that a session keeps
LARGE = 64 << 20  # weights from which on a network has few kernels kept as they are multiplied
SOURCE_DIGEST = ""  # of this package's source, set by the loader: other code, other layout, another file
DEFAULT_FOLDER = (
    "pg_stat_tmp/sql_diffusion"  # below the data directory, which is where a backend runs; backups leave it out
)


class Model(NamedTuple):
    network: Network
    shape: list[int]  # channels, height, width of a sample
    shared: str | None  # the file that it is mapped from, None for the session's own copy


_models: OrderedDict[tuple[str, str, str], tuple[str, Model]] = (
    OrderedDict()
)  # database, model, component and whose files -> digest and engine, network

# What tells one state of a model from another: where its rows lie and which transaction put them there. Nobody can
# change a value of a row and leave both as they are; VACUUM FULL could move a row to where an older one lay, but writes another file.
_IDENTITY = """
select sql_diffusion.component_config($1, $2)::text as config,
       sql_diffusion.sample_shape(sql_diffusion.component_config($1, $2)) as shape,
       d.oid::bigint as database,
       pg_catalog.concat_ws(' ', s.system_identifier, c.timeline_id, d.oid,
                            'sql_diffusion.stored_parameters'::pg_catalog.regclass::oid,
                            pg_catalog.pg_relation_filenode('sql_diffusion.stored_parameters')) as place,
       (select pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', p.key, p.version), E'\\n'
                                                    order by p.key collate "C"))
        from sql_diffusion.parameters p
        where p.model = $1
          and p.component = $2) as parameters
from pg_catalog.pg_database d,
     pg_catalog.pg_control_system() s,
     pg_catalog.pg_control_checkpoint() c
where d.datname = pg_catalog.current_database()
"""

_PLAN = """
select step, operation, key, inputs, in_channels, out_channels, level, settings::text
from sql_diffusion.plan($1, $2)
order by step
"""

_SHAPES = """
select p.key, p.weight_shape as shape
from sql_diffusion.parameters p
where p.model = $1
  and p.component = $2
order by p.key collate "C"
"""

_PARAMETER = """
select p.dtype, p.weight_shape,
       case when p.dtype is null then pg_catalog.array_send(p.weight) else p.weight_bytes end as weight,
       pg_catalog.array_send(p.bias) as bias
from sql_diffusion.parameters p
where p.model = $1
  and p.component = $2
  and p.key = $3
"""


def get_model(plpy: Any, name: str | None, component: str = "unet") -> Model:
    """A network of a model, in the state in which this statement sees it."""
    [identity] = query(plpy, _IDENTITY, ["text", "text"], [name, component])
    assert name is not None  # component_config refuses it
    digest = hashlib.sha256(
        json.dumps(
            [SOURCE_DIGEST, name, component, identity["place"], identity["config"], identity["parameters"]]
        ).encode()
    ).hexdigest()
    engine = ENGINE.get()
    place, state = (identity["place"], name, component + engine.files), f"{digest} {engine.name}"
    known = _models.get(place)
    if known is not None and known[0] == state:
        _models.move_to_end(place)
        return known[1]
    _models.pop(place, None)
    model = _load(plpy, name, component, identity, digest)
    memory.give_back()
    if not in_server(plpy) and query(plpy, _IDENTITY, ["text", "text"], [name, component]) != [identity]:
        del model  # each query saw what there was then: it may be of two states
        return get_model(plpy, name, component)
    _models[place] = state, model
    while len(_models) > KEPT:
        _models.popitem(last=False)
    return model


def _load(plpy: Any, name: str, component: str, identity: Any, digest: str) -> Model:
    engine = ENGINE.get()
    file = cache.file_name(identity["database"], name, component + engine.files, digest)
    shape = list(identity["shape"])
    try:
        folder = cache.open_folder(cache_folder(plpy), make=True)
    except cache.Unusable:
        return Model(engine.assemble(_read(plpy, name, component, shape, {})), shape, None)
    try:
        try:
            layout = cache.read(folder, file)
        except cache.Unusable:
            cache.write(folder, file, lambda arrays: _read(plpy, name, component, shape, arrays))
            layout = cache.read(folder, file)
            _sweep(plpy, folder, file, identity["database"])
        return Model(engine.assemble(layout), shape, file)
    except cache.Unusable:
        return Model(engine.assemble(_read(plpy, name, component, shape, {})), shape, None)
    finally:
        os.close(folder)


def forget(files: str) -> None:
    """Let go of the session's networks of the engines with these files."""
    for place in [place for place in _models if place[2].endswith(files)]:
        del _models[place]
    memory.give_back()


def cache_folder(plpy: Any) -> str:
    """Where the files are; sql_diffusion_numpy.cache_dir reads it where only a superuser can write."""
    if not in_server(plpy):
        raise cache.Unusable("the folder is the server's")
    [row] = query(plpy, "select sql_diffusion_numpy.cache_dir() as folder", [], [])
    if row["folder"] == "":
        raise cache.Unusable("sql_diffusion.cache_dir is empty: sessions do not share networks")
    return row["folder"] or DEFAULT_FOLDER


def _sweep(plpy: Any, folder: int, keep: str, database: int) -> None:
    databases = query(plpy, "select d.oid::bigint as oid from pg_catalog.pg_database d", [], [])
    models = query(plpy, "select m.name from sql_diffusion.models m", [], [])
    cache.sweep(folder, keep, [row["oid"] for row in databases], database, [row["name"] for row in models])


def read_plan(plpy: Any, name: str, component: str) -> list[PlanRow]:
    rows = query(plpy, _PLAN, ["text", "text"], [name, component])
    return [
        PlanRow(
            **{**row, "key": row["key"] or "", "inputs": row["inputs"] or [], "settings": json.loads(row["settings"])}
        )
        for row in rows
    ]


def read_parameter(
    plpy: Any, model: str, component: str, key: str | None
) -> tuple[np.ndarray, np.ndarray | None] | None:
    """weight and bias of a module, None where the model has none of this key."""
    rows = query(plpy, _PARAMETER, ["text", "text", "text"], [model, component, key])
    if not rows:
        return None
    [row] = rows
    if row["dtype"] is None:
        weight = read_array_send(row["weight"])
    else:
        weight = numbers_from_bytes(row["weight"], row["dtype"]).reshape(row["weight_shape"])
    bias = None if row["bias"] is None else read_array_send(row["bias"])
    for array in (weight, bias):
        if array is not None and not np.isfinite(array).all():
            fail(
                f'model "{model}" is unfinished: parameter {key} holds null, NaN or infinite values',
                "Load the model again.",
                "55000",
            )
    return weight, bias


def _read(plpy: Any, name: str, component: str, shape: list[int], arrays: Arrays) -> Layout:
    """The network as the tables have it, its arrays put into what is given for them."""
    query(plpy, "select sql_diffusion.check_model($1)", ["text"], [name])

    def read(key: str) -> tuple[np.ndarray, np.ndarray | None]:
        parameter = read_parameter(plpy, name, component, key)
        assert parameter is not None  # check_model saw to it
        return parameter

    rows = query(plpy, _SHAPES, ["text", "text"], [name, component])
    size = sum(math.prod(row["shape"]) for row in rows)
    memory.check(4 * size)
    keys = [row["key"] for row in rows]
    return ENGINE.get().lay_out(read_plan(plpy, name, component), read, keys, shape[1], shape[2], arrays, size > LARGE)
