"""The memory and the threads that the NumPy functions take: bounded, reckoned beforehand, limited by an administrator."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from psycopg import Connection, sql

from numpy_server import Connect
from reference import insert_model, random_unet, randomize, relative_error
from sql_diffusion_numpy import memory, threads
from sql_diffusion_numpy.layers import conv2d, winograd
from sql_diffusion_numpy.layers.activation import Piece
from sql_diffusion_numpy.layers.modules import PlanRow
from sql_diffusion_numpy.layers.scaled_dot_product_attention import attend

pytest_plugins = ["numpy_server"]

PICTURE = "select sql_diffusion_numpy.ddpm_generate(1, 'random', 1)"


@pytest.fixture(autouse=True, params=[1, 3])
def count(request: pytest.FixtureRequest) -> Iterator[int]:
    threads.set_count(request.param)
    yield request.param
    threads.set_count(1)
    threads.set_check(lambda: None)


# ----------------------------------------------------------------------------------------------------------------------
# Layers
# ----------------------------------------------------------------------------------------------------------------------


def test_attention_holds_no_matrix_of_all_scores(rng: np.random.Generator, count: int) -> None:
    queries, keys, values = (rng.standard_normal((1, 2, 3000, 8), np.float32) for _ in range(3))
    out = np.empty_like(values)
    held: list[int] = []

    def work() -> None:
        attend(queries * np.float32(8**-0.5), keys, values, out)
        held.append(sum(array.nbytes for array in threads._workspaces.__dict__.values()))

    one = threading.Thread(target=work)  # whose workspaces are new
    one.start()
    one.join()
    expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (queries, keys, values)))
    assert relative_error(out, expected.numpy()) < 1e-5
    assert held[0] < 3000 * 3000 * 4 / 8


def test_the_shared_copy_of_a_large_network_is_hardly_larger_than_its_weights(count: int) -> None:
    if count > 1:
        pytest.skip("threads do not matter")
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8
        )
    weights = kept = 0
    for name, module in unet.named_modules():
        if getattr(module, "weight", None) is None:
            continue
        size = points = module.weight.numel()
        level = int(match[2]) if (match := re.match(r"(down|up)_blocks\.(\d)", name)) else 0
        level = 3 if name.startswith("mid") else 3 - level if name.startswith("up_") else level
        if "upsamplers" in name:
            points = size * 25 // 9
        elif isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3) and module.stride == (1, 1):
            chosen = winograd.choose_algorithm(module.in_channels, module.out_channels, 64 >> level, 64 >> level, True)
            points = size * (chosen.g.shape[0] ** 2 if chosen.kept else 9) // 9
        weights, kept = weights + size, kept + points
    assert 859_000_000 < weights < kept < 1.3 * weights


def test_a_cancel_acts_within_a_layer(rng: np.random.Generator, count: int) -> None:
    x = [Piece(rng.standard_normal((1, 96, 96, 64), np.float32), None)]
    algorithm = winograd.DIRECT3
    weight = winograd.lay_out_weight(rng.standard_normal((64, 64, 3, 3), np.float32), algorithm)
    convolution = winograd.assemble(algorithm, weight, np.zeros(64, np.float32), (1, 1, 1, 1))
    whole = conv2d.convolve(x, convolution)[0].values.copy()
    calls = []

    def cancel() -> None:
        calls.append(1)
        raise KeyboardInterrupt

    threads.set_check(cancel)
    with pytest.raises(KeyboardInterrupt):
        conv2d.convolve(x, convolution)
    assert calls == [1]
    threads.set_check(lambda: None)
    assert (conv2d.convolve(x, convolution)[0].values == whole).all()


# ----------------------------------------------------------------------------------------------------------------------
# What is reckoned
# ----------------------------------------------------------------------------------------------------------------------


def test_what_is_held_at_once_is_reckoned(count: int) -> None:
    """A skip stays until it is taken, a concatenation holds what it joins and nothing more."""
    plan = [
        PlanRow(1, "input", "sample", [], 4, 4, 0, {}),
        PlanRow(2, "conv2d", "a", [1], 4, 1000, 0, {}),
        PlanRow(3, "conv2d", "b", [2], 1000, 2000, 1, {}),
        PlanRow(4, "conv2d", "c", [3], 2000, 500, 0, {}),
        PlanRow(5, "concatenate", "", [4, 2], 1500, 1500, 0, {}),
        PlanRow(6, "conv2d", "d", [5], 1500, 4, 0, {}),
    ]
    pixels = 4 * 3 * 64 * 64
    scratch = 4 * threads.get_count() * 3 * 36 * 16 * 2000
    expected = pixels * (1000 + 2000 // 4 + 500) + scratch
    assert memory.activations(plan, {"sample": (3, 4, 64, 64)}) == expected


def test_the_narrowest_control_group_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: int) -> None:
    """A service's limit lies in a group below the root, and may lie in one above it."""
    below, read = Path("system.slice/postgresql.service"), memory._read
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    groups = f"1:name=systemd:/\n0::/{below}\n"
    monkeypatch.setattr(memory, "_read", lambda path: groups if path == "/proc/self/cgroup" else read(path))
    (tmp_path / below).mkdir(parents=True)
    for folder, most in ((tmp_path / below, "max"), (tmp_path / below.parent, str(3 << 20)), (tmp_path, str(5 << 20))):
        (folder / "memory.max").write_text(most + "\n")
        (folder / "memory.current").write_text(f"{2 << 20}\n")
        (folder / "memory.stat").write_text(f"anon 17\nfile {1 << 19}\n")
    assert memory.available() == (1 << 20) + (1 << 19)
    (tmp_path / below / "memory.max").write_text(f"{2 << 20}\n")
    assert memory.available() == 1 << 19


def own_memory(connection: Connection) -> int:
    """Bytes."""
    for line in Path(f"/proc/{connection.info.backend_pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no RssAnon")


KL: dict[str, Any] = {
    "sample_size": 256,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [32, 32, 32, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}


def test_decoding_takes_what_was_reckoned_and_refuses_more(
    connect: Connect, rng: np.random.Generator, count: int
) -> None:
    session = connect()
    autoencoder = AutoencoderKL(**KL).eval()
    randomize(autoencoder)
    insert_model(session, "latent", random_unet(rng))
    insert_model(session, "latent", autoencoder, component="vae")
    latent = rng.standard_normal((1, 4, 56, 56), np.float32)
    session.execute(f"set sql_diffusion.threads = {count}")
    query = "select array_send(sql_diffusion_numpy.vae_decode(%s::real[], 'latent'))"
    session.execute(query, [latent[0, :, :8, :8].tolist()])
    session.execute("set sql_diffusion.memory_limit = '1MB'")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded) as refused:
        session.execute(query, [latent[0].tolist()])
    told = re.search(
        r"takes about (\d+) MB of memory, .* more than sql_diffusion.memory_limit, 1 MB", str(refused.value)
    )
    assert told is not None and refused.value.diag.message_hint is not None
    reckoned = int(told[1]) << 20
    session.execute(f"set sql_diffusion.memory_limit = '{told[1]}MB'")
    peak, done = [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], own_memory(session))

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        row = session.execute(query, [latent[0].tolist()], binary=True).fetchone()
    finally:
        done.set()
        watching.join()
    assert row is not None
    output = np.frombuffer(row[0], [("length", ">i4"), ("value", ">f4")], -1, 36)["value"].reshape(3, 448, 448)
    with torch.no_grad():
        expected = autoencoder.decode(torch.from_numpy(latent)).sample[0].numpy()
    assert relative_error(output, expected) < 1e-5
    whole = 4 * 32 * 448 * 448  # of an activation at the full size
    assert 3 * whole < peak[0] < reckoned < 10 * whole + (120 << 20)


# ----------------------------------------------------------------------------------------------------------------------
# Who may raise a limit
# ----------------------------------------------------------------------------------------------------------------------


def test_only_an_administrator_raises_a_limit(connect: Connect, rng: np.random.Generator, count: int) -> None:
    if count > 1:
        pytest.skip("it is a matter of settings alone")
    administrator = connect()
    insert_model(administrator, "random", random_unet(rng))
    name = sql.Identifier("limited_by_an_administrator")
    administrator.execute(sql.SQL("create role {} login").format(name))
    try:
        for setting, most in (("threads", "1"), ("memory_limit", "2MB")):
            administrator.execute(
                sql.SQL("alter role {} set {} = {}").format(name, sql.Identifier("sql_diffusion", setting), most)
            )
        with psycopg.connect(
            dbname=administrator.info.dbname, user="limited_by_an_administrator", autocommit=True,
            options="-c sql_diffusion.memory_limit=100GB -c sql_diffusion.threads=8",
        ) as own:  # fmt: skip
            for attempt in (
                "set sql_diffusion.memory_limit = '100GB'; set sql_diffusion.threads = 8",
                "set \"SQL_Diffusion.Memory_Limit\" = '100GB'",
                "set sql_diffusion.memory_limit = ''",
                "reset all",
            ):
                own.execute(attempt)
                with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="memory_limit, 2 MB"):
                    own.execute(PICTURE)
                own.execute("set sql_diffusion.threads = 8")
                row = own.execute(
                    "select detail from sql_diffusion_numpy.doctor() where \"check\" = 'threads'"
                ).fetchone()
                assert row is not None and row[0].startswith("1 of ")
            for forbidden in (
                "alter role limited_by_an_administrator set sql_diffusion.memory_limit = '100GB'",
                "update pg_db_role_setting set setconfig = null",
                "alter database {} set sql_diffusion.memory_limit = '100GB'",
            ):
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    own.execute(sql.SQL(forbidden).format(sql.Identifier(own.info.dbname)))
            told = "select sql_diffusion_numpy.setting_limit(%s)"
            assert own.execute(told, ["sql_diffusion.memory_limit"]).fetchone() == ("2MB",)
            assert own.execute(told, ["max_connections"]).fetchone() == (None,)  # of a file that is not theirs to read
            administrator.execute(sql.SQL("alter role {} set sql_diffusion.memory_limit = '2GB'").format(name))
            own.execute("set sql_diffusion.memory_limit = '100GB'")
            assert own.execute(PICTURE).fetchone() is not None
            own.execute("set sql_diffusion.memory_limit = '2MB'")  # less than allowed
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="memory_limit, 2 MB"):
                own.execute(PICTURE)
            own.execute("set sql_diffusion.memory_limit = '0.5 MB'")
            with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="memory_limit, 1 MB"):
                own.execute(PICTURE)
            own.execute("set sql_diffusion.memory_limit = 'much'")
            with pytest.raises(psycopg.errors.InvalidParameterValue, match="is 'much', expected a number of kB, MB"):
                own.execute(PICTURE)
    finally:
        administrator.execute(sql.SQL("drop role {}").format(name))
