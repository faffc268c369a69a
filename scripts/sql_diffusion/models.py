"""Writes, lists and removes models: everything that touches the tables of the extension."""

from collections.abc import Callable
from datetime import datetime
from math import prod
from typing import Any, NamedTuple

import psycopg
from psycopg.types.json import Jsonb

from .arrays import COPY_SIGNATURE, COPY_TRAILER, Bytes, Field, encode_row
from .checkpoint import Checkpoint, ExpectedModule, Module, read_weight, stays_in_16_bits
from .database import Connection
from .errors import MODEL, Problem
from .tensors import NAMES, read_bytes, read_tensor
from .tokenizer_tables import write_tokenizer
from .tokenizers import Tokenizer

COMPONENT = "unet"

PACKED_BYTES = 40  # that a parameter takes when it is packed
PACKED_UNASKED = 10_000_000  # parameters of the largest model that is packed without being asked to: 400 MB


class Summary(NamedTuple):
    """One model, as `list` and `show` print it."""

    name: str
    pipeline: str
    parameters: int
    bytes: int
    source: str | None
    revision: str | None
    sha256: str | None
    loaded_at: datetime
    bundled: bool


# Fetched in binary form: as text, loaded_at is written as the session's DateStyle wants it.
SUMMARIES = """
select m.name, m.pipeline, c.configs, p.bytes, m.source, m.revision, m.sha256, m.loaded_at, m.bundled
from sql_diffusion.models m
left join lateral (
  select pg_catalog.array_agg(c.config) as configs
  from sql_diffusion.components c
  where c.model = m.name
) c on true
left join lateral (
  -- the size of what is stored out of line is known without reading it
  select sum(case when p.dtype is null then pg_catalog.pg_column_size(p.weight) else pg_catalog.pg_column_size(p.weight_bytes) end + coalesce(pg_catalog.pg_column_size(p.bias), 0))::bigint as bytes
  from sql_diffusion.parameters p
  where p.model = m.name
) p on true
"""


def list_models(connection: Connection) -> list[Summary]:
    """Every model, by name."""
    return [
        summary(connection, row)
        for row in connection.execute(SUMMARIES + 'order by m.name collate "C"', binary=True).fetchall()
    ]


def find_model(connection: Connection, name: str) -> Summary:
    """One model. Raises a Problem where there is none of that name."""
    row = connection.execute(SUMMARIES + "where m.name = %s", [name], binary=True).fetchone()
    if row is None:
        raise unknown(connection, name)
    return summary(connection, row)


def summary(connection: Connection, row: tuple[Any, ...]) -> Summary:
    """A row of SUMMARIES, its configs turned into the number of parameters that such networks have."""
    name, pipeline, configs, stored, *rest = row
    shapes = [module for config in configs or [] for module in expected_modules(connection, config)]
    count = sum(prod(weight_shape) + prod(bias_shape or [0]) for _, weight_shape, bias_shape in shapes)
    return Summary(name, pipeline, count, stored or 0, *rest)


def unknown(connection: Connection, name: str) -> Problem:
    """There is no model of that name; what there is."""
    names = [
        row[0] for row in connection.execute("select m.name from sql_diffusion.models m order by m.name").fetchall()
    ]
    have = f"There are: {', '.join(names)}." if names else "There is none yet: sql-diffusion load REPOSITORY"
    return Problem(f"there is no model {name}", have, MODEL)


def settings(connection: Connection, name: str) -> dict[str, Any]:
    """A model's configurations: of its U-Net, of each of its networks and of its scheduler, and its defaults."""
    row = connection.execute(
        "select pg_catalog.jsonb_object_agg(c.component, c.config) as components, m.scheduler, m.defaults "
        "from sql_diffusion.models m join sql_diffusion.components c on c.model = m.name "
        "where m.name = %s group by m.name",
        [name],
    ).fetchone()
    if row is None:
        raise unknown(connection, name)
    components, scheduler, defaults = row
    return {
        "config": components.get(COMPONENT),
        "components": components,
        "scheduler": scheduler,
        "defaults": defaults,
    }


PLAN = ("step", "operation", "key", "inputs", "in_channels", "out_channels", "level", "settings")


def plan(connection: Connection, name: str, component: str = COMPONENT) -> list[dict[str, Any]]:
    """The steps of a network of a model, as sql_diffusion.plan tells them."""
    rows = connection.execute(
        f"select {', '.join(f'p.{column}' for column in PLAN)} from sql_diffusion.plan(%s, %s) p order by p.step",
        [name, component],
    ).fetchall()
    return [dict(zip(PLAN, row, strict=True)) for row in rows]


def remove_model(connection: Connection, name: str) -> None:
    """Removes a model that was loaded; the bundled one goes with the extension."""
    with connection.transaction():
        delete(connection, name, must_exist=True)


def delete(connection: Connection, name: str, must_exist: bool) -> None:
    """Deletes a model inside the transaction that is under way."""
    row = connection.execute("select m.bundled from sql_diffusion.models m where m.name = %s", [name]).fetchone()
    if row is None:
        if must_exist:
            raise unknown(connection, name)
    elif row[0]:
        raise bundled(name)
    else:
        connection.execute("delete from sql_diffusion.models where name = %s", [name])


def bundled(name: str) -> Problem:
    """The model is the extension's own."""
    return Problem(
        f"{name} comes with the extension and is neither removed nor replaced",
        "Load yours under another name: sql-diffusion load ... --name NAME",
        MODEL,
    )


def check_name(connection: Connection, name: str, replace: bool) -> None:
    """Says before anything is downloaded whether the name can be had."""
    row = connection.execute("select m.bundled from sql_diffusion.models m where m.name = %s", [name]).fetchone()
    if row is None:
        return
    if row[0]:
        raise bundled(name)
    if not replace:
        raise Problem(
            f"a model {name} is there already",
            f"Replace it with --replace, give another --name, or: sql-diffusion remove {name}",
            MODEL,
        )


def expected_modules(connection: Connection, config: dict[str, Any]) -> list[ExpectedModule]:
    """The modules of such a network: key, shape of the weight, shape of the bias or None."""
    return connection.execute(
        "select p.key, p.weight_shape, p.bias_shape from sql_diffusion.network_parameters(%s) p", [Jsonb(config)]
    ).fetchall()


def check_configuration(connection: Connection, checkpoint: Checkpoint) -> dict[str, list[ExpectedModule]]:
    """The modules that each network has to have. The server refuses settings that it cannot run, and names them."""
    for component in checkpoint.components:
        connection.execute("select sql_diffusion.check_component(%s, %s)", [component.name, Jsonb(component.config)])
    if checkpoint.scheduler is not None:
        connection.execute("select sql_diffusion.check_scheduler(%s)", [Jsonb(checkpoint.scheduler)])
    return {component.name: expected_modules(connection, component.config) for component in checkpoint.components}


def write_model(
    connection: Connection,
    name: str,
    checkpoint: Checkpoint,
    modules: dict[str, list[Module]],
    tokenizers: dict[str, Tokenizer],
    sha256: Callable[[], str],
    replace: bool,
    advance: Callable[[int], None],
) -> str:
    """Writes a model in one transaction, so that readers see all of it or nothing.

    modules are those of each network. sha256 is asked at the end for the digest of the weights, which is returned; where it raises nothing is written.
    advance is told the bytes read.
    """
    with connection.transaction():
        # Two loads of one name take turns; the loser is told that the name is taken, or replaces what the winner wrote.
        connection.execute(
            "select pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtextextended('sql_diffusion ' || %s, 0))", [name]
        )
        check_name(connection, name, replace)
        if replace:
            delete(connection, name, must_exist=False)
        connection.execute(
            "insert into sql_diffusion.models (name, pipeline, scheduler, defaults, source, revision) "
            "values (%s, %s, %s, %s, %s, %s)",
            [
                name,
                checkpoint.pipeline,
                None if checkpoint.scheduler is None else Jsonb(checkpoint.scheduler),
                Jsonb(checkpoint.defaults),
                checkpoint.label,
                checkpoint.source.revision,
            ],
        )
        for component in checkpoint.components:
            connection.execute(
                "insert into sql_diffusion.components (model, component, config) values (%s, %s, %s)",
                [name, component.name, Jsonb(component.config)],
            )
            copy_modules(connection, name, component.name, modules[component.name], advance)
        for part, tokenizer in tokenizers.items():
            write_tokenizer(connection, name, part, tokenizer)
        connection.execute("select sql_diffusion.check_model(%s)", [name])
        digest = sha256()
        connection.execute("update sql_diffusion.models set sha256 = %s where name = %s", [digest, name])
    return digest


def copy_modules(
    connection: Connection, name: str, component: str, modules: list[Module], advance: Callable[[int], None]
) -> None:
    """Copies the modules into the table of parameters, one tensor in memory at a time."""
    with (
        connection.cursor() as cursor,
        cursor.copy(
            "copy sql_diffusion.parameters (model, component, key, bias, weight, weight_shape, dtype, weight_bytes) "
            "from stdin (format binary)"
        ) as copy,
    ):
        copy.write(COPY_SIGNATURE)
        for module in modules:
            bias = None if module.bias is None else read_tensor(module.bias)
            for piece in encode_row(name, component, module.key, bias, *weight_fields(module)):
                copy.write(piece)
            advance(module_bytes(module))
        copy.write(COPY_TRAILER)


def weight_fields(module: Module) -> tuple[Field, Field, Field, Field]:
    """weight, or else weight_shape, dtype and weight_bytes."""
    if stays_in_16_bits(module):
        weight = module.weight
        return None, module.weight_shape, NAMES[weight.dtype], Bytes(weight.nbytes, read_bytes(weight))
    return read_weight(module), None, None, None


def pack_query(name: str) -> str:
    """What packs a model, for psql."""
    return f"select sql_diffusion.pack({psycopg.sql.quote(name)})"


def pack_model(connection: Connection, name: str, parameters: int, wanted: bool | None) -> tuple[bool, str | None]:
    """Packs a model that was just loaded, and says whether it did, and what the user should be told.

    Not asked for, it is done where pure SQL draws the pictures and the room is small beside what a server has.
    """
    row: Any = connection.execute("select sql_diffusion.choose_backend(null)").fetchone()
    room = f"about {parameters * PACKED_BYTES / 1e6:,.0f} MB"
    if wanted is False or (wanted is None and row[0] != "sql"):
        return False, None
    if wanted is None and parameters > PACKED_UNASKED:
        return (
            False,
            f"packed, pictures in pure SQL take half the time, for {room}: {pack_query(name)}",
        )
    try:
        connection.execute("select sql_diffusion.pack(%s)", [name])
    except psycopg.errors.InsufficientPrivilege:
        if wanted:
            raise
        return False, f"it is not packed, which only the owner may: {pack_query(name)}"
    return True, None


def module_bytes(module: Module) -> int:
    """What a module takes in the file."""
    return module.weight.nbytes + (module.bias.nbytes if module.bias else 0)
