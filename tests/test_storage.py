"""How weights lie in the database: those of 16-bit checkpoints in 16 bits, and nobody who reads them sees it."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from psycopg import Connection, sql
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

import helper_command as command
from pipelines import networks, random_pipeline
from reference import config_of, insert_model, random_unet, relative_error
from sql_diffusion import arrays, verify
from sql_diffusion.errors import Problem
from sql_diffusion.tensors import read_bytes, read_header
from sql_diffusion_numpy.tensors import numbers_from_bytes

pytest_plugins = ["numpy_server"]

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
INSERT = (
    "insert into sql_diffusion.parameters (model, component, key, dtype, weight_bytes, weight_shape, bias) "
    "values ('half', 'unet', %s, %s, %s, %s, '{1}')"
)


@pytest.fixture
def server(connection: Connection[Any]) -> Connection[Any]:
    """A session that reads real[] as arrays, and a model without networks."""
    arrays.register(connection)
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) values ('half', 'DDPMPipeline', '{\"_class_name\": \"DDPMScheduler\"}')"
    )
    connection.execute(
        "insert into sql_diffusion.components (model, component, config) values ('half', 'unet', %s)",
        [json.dumps(config_of(random_unet(np.random.default_rng())))],
    )
    return connection


def bytes_of(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(torch.int16).numpy().astype("<i2").tobytes()


def picture(own: Connection[Any], name: str, backend: str) -> Any:
    query = "select ddpm_generate(7, %s, 1, backend => %s)"
    return own.cursor(binary=True).execute(query, [name, backend]).fetchall()[0][0]


def row(server: Connection[Any], key: str, columns: str = "weight") -> Any:
    query = f"select {columns} from sql_diffusion.parameters where model = 'half' and key = %s"
    return server.cursor(binary=True).execute(query.encode(), [key]).fetchone()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_pattern_of_bits_is_read_exactly(server: Connection[Any], dtype: str) -> None:
    """Subnormals, both zeros, infinities and NaNs too; in SQL and in NumPy."""
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(DTYPES[dtype])
    expected = every.float().numpy()
    server.execute(INSERT, ["every", dtype, bytes_of(every), [4, 128, 128]])
    (weight, data) = row(server, "every", "weight, weight_bytes")
    assert weight.shape == (4, 128, 128) and data == bytes_of(every)
    for read in (weight.reshape(-1), numbers_from_bytes(data, dtype)):
        numbers = ~np.isnan(expected)
        assert (np.isnan(read) == ~numbers).all() and numbers.sum() < 65536
        np.testing.assert_array_equal(read[numbers].view(np.uint32), expected[numbers].view(np.uint32))


@pytest.mark.parametrize("shape", [(5,), (3, 4), (2, 3, 4), (2, 3, 4, 5), (1, 1, 1, 1)])
def test_a_weight_has_its_shape(server: Connection[Any], rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    weight = rng.standard_normal(shape).astype(np.float16)
    server.execute(INSERT, ["one", "float16", weight.tobytes(), list(shape)])
    np.testing.assert_array_equal(row(server, "one")[0], weight.astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "data", "shape", "words"),
    [
        ("float16", bytes(6), [2, 2], "weight_bytes has 6 bytes, expected 8, two a number of shape {2,2}"),
        ("float16", bytes(8), None, 'null value in column "weight_shape"'),
        ("float16", None, [2, 2], "weight_bytes is null, expected the weight's numbers as float16"),
        ("float16", b"", [0, 2], "weight_shape is {0,2}, expected 1 to 6 positive sizes"),
        ("float32", bytes(16), [2, 2], "dtype is 'float32', expected float16, bfloat16 or null"),
        (None, bytes(8), [2, 2], "weight_bytes is given without dtype"),
        (None, None, [2, 2], "parameters: weight is null"),
    ],
)
def test_what_is_no_weight_is_refused(
    server: Connection[Any], dtype: str | None, data: bytes | None, shape: list[int] | None, words: str
) -> None:
    with pytest.raises(psycopg.Error, match=re.escape(words)):
        server.execute(INSERT, ["one", dtype, data, shape])


def test_two_weights_in_a_row_are_refused(server: Connection[Any]) -> None:
    server.execute(INSERT, ["one", "float16", bytes(2), [1]])
    with pytest.raises(psycopg.Error, match="weight_bytes is given without dtype"), server.transaction():
        server.execute("update sql_diffusion.parameters set dtype = null where model = 'half'")
    with pytest.raises(psycopg.Error, match="weight and weight_bytes are given, expected one of the two"):
        server.execute(
            "insert into sql_diffusion.parameters (model, component, key, dtype, weight_bytes, weight_shape, weight) "
            "values ('half', 'unet', 'two', 'float16', E'\\\\x0000', '{1}', '{1}')"
        )


@pytest.mark.parametrize("stored", ["float16", None])
def test_an_update_that_gives_two_weights_is_refused(server: Connection[Any], stored: str | None) -> None:
    server.execute(INSERT, ["one", "float16", bytes(2), [1]])
    if stored is None:
        server.execute("update sql_diffusion.parameters set weight = '{2}' where model = 'half'")
    before = server.execute("select weight, dtype from sql_diffusion.parameters where model = 'half'").fetchone()
    with (
        pytest.raises(psycopg.Error, match="weight and weight_bytes are given, expected one of the two"),
        server.transaction(),
    ):
        server.execute(
            "update sql_diffusion.parameters set weight = '{1}', dtype = 'float16', weight_bytes = E'\\\\x0001' "
            "where model = 'half'"
        )
    assert (
        server.execute("select weight, dtype from sql_diffusion.parameters where model = 'half'").fetchone() == before
    )
    server.execute(
        "update sql_diffusion.parameters set dtype = 'bfloat16', weight_bytes = E'\\\\x803f' where model = 'half'"
    )
    row = server.execute("select weight, dtype from sql_diffusion.parameters where model = 'half'").fetchone()
    assert row == ([1.0], "bfloat16")


def test_an_update_does_not_undo_another(database: str) -> None:
    """It has read the row before the other one has committed, and writes all of it."""
    name = f"model_{secrets.token_hex(4)}"
    update = "update sql_diffusion.parameters set {} where model = %s and component = 'unet' and key = 'conv_in'"
    with psycopg.connect(dbname=database, autocommit=True) as server:
        insert_model(server, name, random_unet(np.random.default_rng()))
        try:
            with psycopg.connect(dbname=database) as first, psycopg.connect(dbname=database) as second:
                first.execute(update.format("weight = '{7}'").encode(), [name])
                with ThreadPoolExecutor() as pool:
                    waiting = pool.submit(second.execute, update.format("bias = '{8}'").encode(), [name])
                    waits = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
                    while server.execute(waits, [second.info.backend_pid]).fetchone() != (True,):
                        assert not waiting.done()
                    first.commit()
                    with pytest.raises(psycopg.errors.SerializationFailure, match=r"conv_in .* was changed meanwhile"):
                        waiting.result()
                second.rollback()
                assert second.execute(update.format("bias = '{8}'").encode(), [name]).rowcount == 1
                row = second.execute(
                    "select weight, bias from sql_diffusion.parameters where model = %s and key = 'conv_in'", [name]
                ).fetchone()
                assert row == ([7], [8])
        finally:
            server.execute("delete from sql_diffusion.models where name = %s", [name])


def test_changes_by_hand(server: Connection[Any], rng: np.random.Generator) -> None:
    weight = rng.standard_normal((4, 6)).astype(np.float16)
    weight[0, 0] = 0
    server.execute(INSERT, ["one", "float16", weight.tobytes(), [4, 6]])
    kept = ("float16", weight.tobytes(), [4, 6])
    stored = "dtype, weight_bytes, weight_shape"
    update = "update sql_diffusion.parameters set {} where model = 'half' and key = 'one'"

    # what leaves the weight alone leaves its bytes alone
    server.execute(update.format("bias = '{2,3}'"))
    assert row(server, "one", f"{stored}, bias_shape") == (*kept, [2])
    server.execute(update.format("weight = weight"))
    assert row(server, "one", stored) == kept
    server.execute("update sql_diffusion.models set name = 'other' where name = 'half'")
    server.execute("update sql_diffusion.models set name = 'half' where name = 'other'")
    assert row(server, "one", stored) == kept

    # a weight that is replaced becomes real[]
    changed = weight.astype(np.float32)
    changed[0, 0], changed[0, 1] = -0.0, 7
    assert server.execute(update.format("weight = %s"), [changed]).rowcount == 1
    read, *rest = row(server, "one", f"weight, {stored}, bias")
    np.testing.assert_array_equal(read.view(np.uint32), changed.view(np.uint32))
    assert rest[:3] == [None, None, [4, 6]] and rest[3].tolist() == [2, 3]
    server.execute(update.format("weight = '{{1,2}}'"))
    assert row(server, "one", stored) == (None, None, [1, 2])

    # as bytes again, and as the numbers that they were
    server.execute(update.format("dtype = 'float16', weight_bytes = %s, weight_shape = '{6,4}'"), [weight.tobytes()])
    np.testing.assert_array_equal(row(server, "one")[0], weight.astype(np.float32).reshape(6, 4))
    server.execute(update.format("dtype = null, weight_bytes = null"))
    assert row(server, "one", stored) == (None, None, [6, 4])
    np.testing.assert_array_equal(row(server, "one")[0], weight.astype(np.float32).reshape(6, 4))

    server.execute("update sql_diffusion.parameters set key = 'two' where key = 'one'")
    assert row(server, "one") is None and row(server, "two") is not None
    assert server.execute("delete from sql_diffusion.parameters where model = 'half'").rowcount == 1
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="parameters: weight is null"):
        server.execute("insert into sql_diffusion.parameters (model, component, key) values ('half', 'unet', 'one')")


def test_the_data_of_an_older_dump(server: Connection[Any]) -> None:
    """Such a dump copies into what was a table then."""
    with server.cursor().copy("copy sql_diffusion.parameters (model, component, key, weight, bias) from stdin") as copy:
        copy.write("half\tunet\tone\t{{1,2},{3,4}}\t\\N\nhalf\tunet\ttwo\t{5}\t{6}\n")
    shapes = "select key, weight_shape, bias_shape from sql_diffusion.parameters where model = 'half' order by key"
    assert server.execute(shapes).fetchall() == [("one", [2, 2], None), ("two", [1], [1])]


def test_room_on_disk_and_in_a_dump(server: Connection[Any], rng: np.random.Generator) -> None:
    """Of the bytes: a tenth more at most on disk; in text two digits each, and a little."""
    size = "select pg_total_relation_size('sql_diffusion.stored_parameters')"
    before = server.execute(size).fetchall()[0][0]
    data = rng.bytes(4 << 20)
    server.execute(INSERT, ["large", "bfloat16", data, [1024, 2048]])
    after = server.execute(size).fetchall()[0][0]
    assert after - before < 1.1 * len(data)
    where = "(select s.* from sql_diffusion.stored_parameters s where s.model = 'half')"
    with server.cursor().copy(f"copy {where} to stdout".encode()) as copy:
        assert sum(map(len, copy)) < 2 * len(data) + 1000
    # a part is read alone, as the row of an embedding is
    server.execute("set local jit = off")
    query = "explain (analyze, buffers, format json) select sql_diffusion.embedding_tokens('{7}', weight_bytes, dtype, weight_shape, 'ids') from sql_diffusion.parameters where key = 'large'"
    server.execute(query.encode())
    [(plan,)] = server.execute(query.encode()).fetchall()
    assert plan[0]["Plan"]["Shared Hit Blocks"] + plan[0]["Plan"]["Shared Read Blocks"] < 200
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="ids holds 1024, expected from 0 to 1023"):
        server.execute(query.replace("{7}", "{7,1024}").encode())


def test_only_the_view_is_read(database: str) -> None:
    with psycopg.connect(dbname=database) as own:
        own.execute("create role storage_reader")
        own.execute("set role storage_reader")
        own.execute("select weight from sql_diffusion.parameters limit 1")
        for query in (
            "select 1 from sql_diffusion.stored_parameters",
            "delete from sql_diffusion.parameters",
            "insert into sql_diffusion.parameters (model, component, key, weight) values ('butterflies', 'unet', 'x', '{1}')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege), own.transaction():
                own.execute(query.encode())
        own.rollback()


@pytest.fixture(scope="module", params=DTYPES)
def loaded(
    request: pytest.FixtureRequest, numpy_database: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """A U-Net of this type, loaded as it is, and again with its weights as real[]."""
    dtype = DTYPES[request.param]
    unet = random_unet(np.random.default_rng()).to(dtype)
    folder = tmp_path_factory.mktemp(request.param) / "half"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    command.succeed(numpy_database, "load", folder, "--pack")
    command.succeed(numpy_database, "load", folder, "--name", "half unpacked", "--no-pack")
    command.succeed(numpy_database, "load", folder, "--name", "whole", "--no-pack")
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        arrays.register(own)
        own.execute(
            "update sql_diffusion.parameters set dtype = null, weight_bytes = null where model = 'whole' and dtype is not null"
        )
        try:
            yield own, unet, folder
        finally:
            own.execute("delete from sql_diffusion.models where not bundled")


def test_a_checkpoint_stays_as_it_is(loaded: Any) -> None:
    own, unet, _ = loaded
    dtype = str(unet.dtype).removeprefix("torch.")
    rows = own.execute("select key, dtype, weight_bytes from sql_diffusion.parameters where model = 'half'").fetchall()
    weights = {key: unet.get_submodule(key).weight.detach() for key, _, _ in rows}
    assert {(key, kind, data) for key, kind, data in rows} == {
        (key, dtype, bytes_of(weight)) if weight.ndim > 1 else (key, None, None) for key, weight in weights.items()
    }
    assert own.execute(
        "select count(*) from sql_diffusion.parameters where model = 'whole' and dtype is null"
    ).fetchone() == (len(rows),)
    read = verify.read_weights(own, "half", "unet", torch)
    assert read.keys() == unet.state_dict().keys()
    assert all(torch.equal(read[name], tensor.float()) for name, tensor in unet.state_dict().items())


@pytest.mark.parametrize("backend", ["sql", "numpy"])
def test_pictures_are_the_same_to_the_bit(loaded: Any, backend: str) -> None:
    own, unet, _ = loaded
    half, unpacked, whole = (picture(own, name, backend) for name in ("half", "half unpacked", "whole"))
    assert np.array_equal(unpacked, whole)
    assert np.abs(half - whole).max() < 1e-4 and half.std() > 0.01
    theirs = DDPMPipeline(unet.float(), DDPMScheduler())
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(generator=torch.Generator().manual_seed(7), num_inference_steps=1, output_type="np").images[0]
    assert np.abs(half.transpose(1, 2, 0) - expected).max() < 1 / 255


def test_a_weight_that_is_replaced_is_forgotten_where_it_is_packed(loaded: Any) -> None:
    own, _, _ = loaded
    packed = "select count(*) from sql_diffusion.packed_layers where model = 'half' and key = 'conv_in'"
    with own.transaction(force_rollback=True):
        before = picture(own, "half", "sql")
        assert own.execute(packed).fetchone() == (1,)
        own.execute("update sql_diffusion.parameters set bias = bias where model = 'half' and key = 'conv_in'")
        assert own.execute(packed).fetchone() == (1,)
        own.execute(
            "update sql_diffusion.parameters set weight = sql_diffusion.silu(weight) where model = 'half' and key = 'conv_in'"
        )
        assert own.execute(packed).fetchone() == (0,)
        ours = [picture(own, "half", backend) for backend in ("sql", "numpy")]
        assert not np.array_equal(ours[0], before)
        assert np.abs(ours[0] - ours[1]).max() < 1e-4


def test_tokens(numpy_connection: Connection[Any], rng: np.random.Generator, tmp_path: Path) -> None:
    """Of an embedding in 16 bits, whose rows are read alone."""
    arrays.register(numpy_connection)
    encoder: CLIPTextModel = networks(random_pipeline("1", rng, tmp_path / "tokenizer"))["text_encoder"].half().eval()
    insert_model(numpy_connection, "tokens", encoder, pipeline="StableDiffusionPipeline", component="text_encoder")
    stored = "select dtype, weight_shape from sql_diffusion.parameters where model = 'tokens' and key like '%token_embedding'"
    assert numpy_connection.execute(stored.encode()).fetchone() == ("float16", [600, 64])
    ids = [0, *rng.integers(3, 500, 9).tolist(), 2]
    with torch.no_grad():
        expected = encoder.float()(torch.tensor([ids])).last_hidden_state[0]
    for schema, tolerance in (("sql_diffusion", 1e-4), ("sql_diffusion_numpy", 1e-5)):
        call = f"select {schema}.text_encoder(%s, 'tokens')".encode()
        found = numpy_connection.cursor(binary=True).execute(call, [ids]).fetchall()[0][0]
        assert relative_error(found, expected) < tolerance


def test_a_broken_half_is_refused(tmp_path: Path) -> None:
    weight = torch.ones(3, 5, dtype=torch.float16)
    weight[1, 2] = torch.inf
    save_file({"x.weight": weight}, tmp_path / "x.safetensors")
    [tensor] = read_header(tmp_path / "x.safetensors").values()
    with pytest.raises(Problem, match=r"x\.weight.*holds 1 values that are NaN or infinite, the first at \[1, 2\]"):
        list(read_bytes(tensor))


def test_a_transposed_half_is_stored_in_order(tmp_path: Path, rng: np.random.Generator) -> None:
    """As GPT-2's linear layers are in its files."""
    weight = torch.from_numpy(rng.standard_normal((3, 5)).astype(np.float16))
    save_file({"x": weight}, tmp_path / "x.safetensors")
    [tensor] = read_header(tmp_path / "x.safetensors").values()
    assert b"".join(read_bytes(tensor.transpose())) == bytes_of(load_file(tmp_path / "x.safetensors")["x"].T)


def test_a_role_that_loads_writes_through_the_view(loaded: Any, numpy_database: str) -> None:
    own, _, folder = loaded
    own.execute("create role storage_loader login")
    try:
        own.execute("grant insert, delete, update (sha256) on sql_diffusion.models to storage_loader")
        own.execute("grant insert on sql_diffusion.components, sql_diffusion.parameters to storage_loader")
        command.succeed(numpy_database, "load", folder, "--name", "theirs", "--dsn", "user=storage_loader")
        same = sql.SQL("select key, weight_bytes from sql_diffusion.parameters where model = {} order by key")
        theirs, ours = (own.execute(same.format(sql.Literal(name))).fetchall() for name in ("theirs", "half"))
        assert theirs == ours
    finally:
        own.execute("drop owned by storage_loader")
        own.execute("drop role storage_loader")
