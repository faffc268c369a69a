"""sql-diffusion load: every layout, from folders and from a hub on loopback, down to the last bit of every tensor."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_tensors

import helper_command as command
import loopback_hub
from reference import random_unet
from sql_diffusion.errors import Problem
from sql_diffusion.tensors import read_header, read_tensor

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def db(database: str) -> Iterator[str]:
    """The tests' database; models that a test loaded are removed after it."""
    yield database
    with psycopg.connect(dbname=database, autocommit=True) as own:
        own.execute("delete from sql_diffusion.models where not bundled")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[loopback_hub.Hub]:
    with loopback_hub.serve() as running:
        yield running


@pytest.fixture
def unet(rng: np.random.Generator) -> UNet2DModel:
    return random_unet(rng)


@pytest.fixture
def pipeline(unet: UNet2DModel, tmp_path: Path) -> Path:
    """A folder as diffusers saves a pipeline."""
    DDPMPipeline(unet, DDPMScheduler(num_train_timesteps=100)).save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def use(hub: loopback_hub.Hub, tmp_path: Path, **variables: str) -> dict[str, str]:
    """The variables that send huggingface_hub to this hub, with a cache of the test's own."""
    return {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **variables,
    }


def rows(db: str, name: str) -> dict[str, tuple[Any, Any]]:
    """A model's parameters as the server has them: key, weight, bias."""
    with psycopg.connect(dbname=db) as own:
        found = own.execute(
            "select key, weight, bias from sql_diffusion.parameters where model = %s", [name]
        ).fetchall()
    return {key: (weight, bias) for key, weight, bias in found}


def model(db: str, name: str) -> dict[str, Any]:
    """A model's row, its network's config with it."""
    with psycopg.connect(dbname=db, row_factory=psycopg.rows.dict_row) as own:
        found = own.execute(
            "select m.*, c.config from sql_diffusion.models m join sql_diffusion.components c on c.model = m.name "
            "where m.name = %s order by c.component",
            [name],
        ).fetchone()
    assert found is not None
    return found


def tokens(db: str, name: str) -> list[Any]:
    """A model's tokenizers: their settings, tokens and merges."""
    with psycopg.connect(dbname=db) as own:
        return own.execute(
            """select t.component, t.config,
                      array(select (v.id, v.token, v.ends_word)::text
                            from sql_diffusion.vocabulary v
                            where (v.model, v.component) = (t.model, t.component)
                            order by v.id),
                      array(select (m.first, m.second, m.rank, m.merged)::text
                            from sql_diffusion.merges m
                            where (m.model, m.component) = (t.model, t.component)
                            order by m.rank)
               from sql_diffusion.tokenizers t
               where t.model = %s
               order by t.component""",
            [name],
        ).fetchall()


def names(db: str) -> list[str]:
    with psycopg.connect(dbname=db) as own:
        return [row[0] for row in own.execute("select name from sql_diffusion.models where not bundled order by name")]


def assert_equal(db: str, name: str, unet: UNet2DModel, dtype: torch.dtype = torch.float32) -> None:
    """Every tensor in the database is the network's, bit by bit, after rounding to dtype."""
    state = {key: value.to(dtype).float().numpy() for key, value in unet.state_dict().items()}
    loaded = rows(db, name)
    assert {key.rpartition(".")[0] for key in state} == set(loaded)
    for key, (weight, bias) in loaded.items():
        np.testing.assert_array_equal(np.asarray(weight, np.float32), state[f"{key}.weight"], err_msg=key)
        np.testing.assert_array_equal(np.asarray(bias, np.float32), state[f"{key}.bias"], err_msg=key)


def test_a_pipeline_folder(db: str, pipeline: Path, unet: UNet2DModel) -> None:
    said = command.succeed(db, "load", pipeline)
    assert said.startswith(f"Loaded pipeline: {sum(p.numel() for p in unet.parameters()):,} parameters")
    assert_equal(db, "pipeline", unet)
    row = model(db, "pipeline")
    assert row["pipeline"] == "DDPMPipeline"
    assert row["scheduler"] == json.loads((pipeline / "scheduler/scheduler_config.json").read_text())
    assert row["config"] == json.loads((pipeline / "unet/config.json").read_text())
    assert row["source"] == "pipeline"  # everybody may read it, and where its owner keeps it is nobody's business
    assert row["revision"] is None
    assert row["sha256"] == hashlib.sha256((pipeline / "unet" / WEIGHTS).read_bytes()).hexdigest()
    assert not row["bundled"]
    assert row["defaults"] == {}


def test_defaults_come_from_a_file(db: str, pipeline: Path) -> None:
    (pipeline / "sql_diffusion.json").write_text('{"scheduler": "ddim", "num_inference_steps": 7}')
    command.succeed(db, "load", pipeline, "--name", "mine")
    assert model(db, "mine")["defaults"] == {"scheduler": "ddim", "num_inference_steps": 7}
    (pipeline / "sql_diffusion.json").write_text('{"steps": 7}')
    assert "steps" in command.fail(db, 4, "load", pipeline, "--name", "other")


@pytest.mark.parametrize("name", ["butterflies", "prompted-butterflies"])
def test_a_bundled_model_is_what_load_makes_of_its_folder(db: str, name: str) -> None:
    """Two ways into the tables, one by SQL and one by COPY, and the same rows."""
    command.succeed(db, "load", Path(__file__).parent.parent / "models" / name, "--name", "again")
    assert rows(db, "again") == rows(db, name)
    assert tokens(db, "again") == tokens(db, name)
    assert bool(tokens(db, name)) == (name == "prompted-butterflies")
    again, bundled = model(db, "again"), model(db, name)
    for column in ("pipeline", "scheduler", "defaults", "config", "sha256"):
        assert again[column] == bundled[column], column


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(db: str, unet: UNet2DModel, tmp_path: Path, dtype: torch.dtype) -> None:
    random = {key: value.clone() for key, value in unet.state_dict().items()}
    DDPMPipeline(unet.to(dtype), DDPMScheduler()).save_pretrained(tmp_path / "half")
    said = command.succeed(db, "load", tmp_path / "half")
    assert str(dtype).removeprefix("torch.") in said
    unet.float().load_state_dict(random)
    assert_equal(db, "half", unet, dtype)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_every_half_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    """All 65536 bit patterns less the NaNs and infinities: subnormals and the largest too."""
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)
    finite = every[every.isfinite()]
    save_tensors({"x": finite}, tmp_path / "x.safetensors")
    read = read_tensor(read_header(tmp_path / "x.safetensors")["x"])
    np.testing.assert_array_equal(read.view(np.uint32), finite.float().numpy().view(np.uint32))


def test_a_bare_unet(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    unet.save_pretrained(tmp_path / "bare")
    result = command.run(db, "load", tmp_path / "bare", "--json")
    assert json.loads(result.stdout)["name"] == "bare"
    assert "scheduler_config.json" in result.stderr
    assert_equal(db, "bare", unet)
    assert model(db, "bare")["scheduler"] == {"_class_name": "DDPMScheduler"}

    DDIMScheduler().save_pretrained(tmp_path / "bare")
    command.succeed(db, "load", tmp_path / "bare", "--replace")
    assert model(db, "bare")["pipeline"] == "DDIMPipeline"
    assert model(db, "bare")["scheduler"]["_class_name"] == "DDIMScheduler"


def test_one_file(db: str, pipeline: Path, unet: UNet2DModel) -> None:
    command.succeed(db, "load", pipeline / "unet" / WEIGHTS)
    assert_equal(db, "pipeline", unet)
    assert model(db, "pipeline")["scheduler"]["num_train_timesteps"] == 100


def test_shards(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    DDIMPipeline(unet, DDIMScheduler()).save_pretrained(tmp_path / "sharded", max_shard_size="40KB")
    shards = sorted((tmp_path / "sharded/unet").glob("*.safetensors"))
    assert len(shards) > 2
    command.succeed(db, "load", tmp_path / "sharded")
    assert_equal(db, "sharded", unet)
    digests = "".join(hashlib.sha256(shard.read_bytes()).hexdigest() for shard in shards)
    assert model(db, "sharded")["sha256"] == hashlib.sha256(digests.encode()).hexdigest()
    shards[1].unlink()
    said = command.fail(db, 4, "load", tmp_path / "sharded", "--name", "other")
    assert shards[1].name in said


def old_names(folder: Path, rng: np.random.Generator) -> None:
    """Rewrites a checkpoint as diffusers wrote it before 0.17; half of the attention's matrices as 1x1 convolutions."""
    new = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for key, value in load_file(folder / WEIGHTS).items():
        for now, then in new.items():
            if f".{now}." in key:
                key = key.replace(f".{now}.", f".{then}.")
                if key.endswith(".weight") and rng.random() < 0.5:
                    value = value[:, :, None, None]
        state[key] = value
    assert any(".query." in key for key in state)
    save_file(state, folder / WEIGHTS)


def test_old_attention_names(db: str, pipeline: Path, unet: UNet2DModel, rng: np.random.Generator) -> None:
    old_names(pipeline / "unet", rng)
    command.succeed(db, "load", pipeline)
    assert_equal(db, "pipeline", unet)


def test_variants(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    whole = {key: value.clone() for key, value in unet.state_dict().items()}
    folder = tmp_path / "variants"
    DDPMPipeline(unet.half(), DDPMScheduler()).save_pretrained(folder, variant="fp16")
    unet.float().load_state_dict(whole)
    command.succeed(db, "load", folder, "--name", "only")  # the only one there is
    assert_equal(db, "only", unet, torch.float16)

    assert "It has: fp16" in command.fail(db, 4, "load", folder, "--variant", "ema", "--name", "x")
    shutil.copy(
        folder / "unet/diffusion_pytorch_model.fp16.safetensors",
        folder / "unet/diffusion_pytorch_model.ema.safetensors",
    )
    assert "ema, fp16" in command.fail(db, 4, "load", folder, "--name", "x")

    unet.save_pretrained(folder / "unet")
    command.succeed(db, "load", folder, "--name", "plain")
    assert_equal(db, "plain", unet)
    command.succeed(db, "load", folder, "--name", "half", "--variant", "fp16")
    assert_equal(db, "half", unet, torch.float16)
    assert names(db) == ["half", "only", "plain"]


# From the hub


def test_the_butterflies_layout_from_the_hub(db: str, hub: loopback_hub.Hub, unet: UNet2DModel, tmp_path: Path) -> None:
    """A repository whose only weights are the fp16 variant; then offline, from the cache."""
    whole = {key: value.clone() for key, value in unet.state_dict().items()}
    DDPMPipeline(unet.half(), DDPMScheduler()).save_pretrained(tmp_path / "repository", variant="fp16")
    unet.float().load_state_dict(whole)
    hub.repositories["gnokit/ddpm-butterflies-64"] = tmp_path / "repository"
    command.succeed(db, "load", "gnokit/ddpm-butterflies-64", **use(hub, tmp_path))
    assert_equal(db, "ddpm-butterflies-64", unet, torch.float16)
    row = model(db, "ddpm-butterflies-64")
    assert (row["source"], row["revision"]) == ("gnokit/ddpm-butterflies-64", loopback_hub.COMMIT)
    assert hub.downloads("diffusion_pytorch_model.fp16.safetensors") == [None]

    hub.requests.clear()
    arguments = ("load", "gnokit/ddpm-butterflies-64", "--name", "offline")
    command.succeed(db, *arguments, **use(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert hub.requests == []
    assert rows(db, "offline") == rows(db, "ddpm-butterflies-64")
    assert model(db, "offline")["revision"] == loopback_hub.COMMIT


@pytest.mark.parametrize("kind", ["bare", "sharded", "old names"])
def test_other_layouts_from_the_hub(
    db: str, hub: loopback_hub.Hub, unet: UNet2DModel, tmp_path: Path, rng: np.random.Generator, kind: str
) -> None:
    folder = tmp_path / "repository"
    if kind == "bare":
        unet.save_pretrained(folder)
    elif kind == "sharded":
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder, max_shard_size="40KB")
    else:
        DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
        old_names(folder / "unet", rng)
    hub.repositories["somebody/model"] = folder
    command.succeed(db, "load", "somebody/model", "--revision", "main", **use(hub, tmp_path))
    assert_equal(db, "model", unet)


def test_an_interrupted_download_goes_on(
    db: str, hub: loopback_hub.Hub, rng: np.random.Generator, tmp_path: Path
) -> None:
    """huggingface_hub keeps what came in whole pieces of 10 MiB."""
    unet = random_unet(
        rng, block_out_channels=[32, 160], down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2
    )
    unet.save_pretrained(tmp_path / "large")
    hub.repositories["somebody/model"] = tmp_path / "large"
    hub.cut_once[WEIGHTS] = 10 * 2**20 + 1000
    command.succeed(db, "load", "somebody/model", **use(hub, tmp_path))
    assert hub.downloads(WEIGHTS) == [None, f"bytes={10 * 2**20}-"]
    assert sum(key.startswith("mid_block") for key in rows(db, "model")) > 0
    assert model(db, "model")["sha256"] == hashlib.sha256((tmp_path / "large" / WEIGHTS).read_bytes()).hexdigest()


def test_a_wrong_hash_is_refused(
    db: str, hub: loopback_hub.Hub, pipeline: Path, unet: UNet2DModel, tmp_path: Path
) -> None:
    hub.repositories["somebody/model"] = pipeline
    hub.corrupt.add(f"unet/{WEIGHTS}")
    said = command.fail(db, 4, "load", "somebody/model", **use(hub, tmp_path))
    assert "SHA-256" in said and names(db) == []
    said = command.fail(db, 4, "load", "somebody/model", **use(hub, tmp_path, HF_HUB_OFFLINE="1"))
    assert "diffusion_pytorch_model" in said and names(db) == []
    hub.corrupt.clear()
    command.succeed(db, "load", "somebody/model", **use(hub, tmp_path))  # the damaged copy did not stay in the cache
    assert_equal(db, "model", unet)


def test_what_the_hub_refuses(db: str, hub: loopback_hub.Hub, pipeline: Path, tmp_path: Path) -> None:
    variables = use(hub, tmp_path)
    assert "neither a folder here nor a repository" in command.fail(db, 4, "load", "nobody/nothing", **variables)
    hub.repositories["somebody/model"] = pipeline
    said = command.fail(db, 4, "load", "somebody/model", "--revision", "v9", **variables)
    assert "no revision v9" in said
    hub.gated.add("somebody/model")
    assert "hf auth login" in command.fail(db, 4, "load", "somebody/model", **variables)
    offline = {**variables, "HF_HUB_OFFLINE": "1"}
    assert "HF_HUB_OFFLINE" in command.fail(db, 4, "load", "somebody/model", **offline)
    nowhere = {**variables, "HF_ENDPOINT": "http://127.0.0.1:9"}
    assert "could not be fetched from http://127.0.0.1:9" in command.fail(db, 4, "load", "somebody/model", **nowhere)
    assert names(db) == []


# What is refused


def test_tensors_that_do_not_fit(db: str, pipeline: Path) -> None:
    """Missing, surplus and misshapen tensors are all named, with what came and what was expected."""
    weights = pipeline / "unet" / WEIGHTS
    state = load_file(weights)
    del state["conv_in.bias"]
    state["conv_extra.weight"] = np.zeros((1, 2), np.float32)
    state["conv_out.weight"] = state["conv_out.weight"][:, :-1].copy()
    save_file(state, weights)
    said = command.fail(db, 4, "load", pipeline)
    assert "1 missing: conv_in.bias" in said
    assert "1 not in the network: conv_extra.weight" in said
    assert "conv_out.weight is (3, 7, 3, 3) and not (3, 8, 3, 3)" in said
    assert names(db) == []


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(db: str, pipeline: Path, bad: float) -> None:
    weights = pipeline / "unet" / WEIGHTS
    state = load_file(weights)
    state["conv_out.weight"][2, 1, 0, 2] = bad
    save_file(state, weights)
    said = command.fail(db, 4, "load", pipeline)
    assert "conv_out.weight" in said and "[2, 1, 0, 2]" in said
    assert names(db) == []


def test_pickles(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "old", safe_serialization=False)
    said = command.fail(db, 4, "load", tmp_path / "old")
    assert "diffusion_pytorch_model.bin" in said and "pickle" in said and "save_pretrained" in said
    said = command.fail(db, 4, "load", tmp_path / "old/unet/diffusion_pytorch_model.bin")
    assert "pickle" in said


def test_a_folder_with_nothing_but_a_pickle(db: str, tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    (tmp_path / "old/model.ckpt").write_bytes(b"pickled")
    said = command.fail(db, 4, "load", tmp_path / "old")
    assert "model.ckpt" in said and "pickle" in said


def test_double_precision(db: str, unet: UNet2DModel, tmp_path: Path) -> None:
    single = {key: value.clone() for key, value in unet.state_dict().items()}
    DDPMPipeline(unet.double(), DDPMScheduler()).save_pretrained(tmp_path / "double")
    assert "float64" in command.succeed(db, "load", tmp_path / "double")
    unet.float().load_state_dict(single)
    assert_equal(db, "double", unet)


def test_a_double_beyond_float32_is_refused(tmp_path: Path) -> None:
    save_tensors({"x": torch.tensor([1.0, 1e300], dtype=torch.float64)}, tmp_path / "x.safetensors")
    with pytest.raises(Problem, match="infinite"):
        read_tensor(read_header(tmp_path / "x.safetensors")["x"])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod."])
def test_what_wrappers_put_before_names(db: str, pipeline: Path, unet: UNet2DModel, prefix: str) -> None:
    file = pipeline / "unet" / WEIGHTS
    save_file({prefix + name: value for name, value in load_file(file).items()}, file)
    command.succeed(db, "load", pipeline)
    assert_equal(db, "pipeline", unet)


def test_integers_beside_the_weights_are_passed_over(db: str, pipeline: Path, unet: UNet2DModel) -> None:
    file = pipeline / "unet" / WEIGHTS
    save_file({**load_file(file), "num_updates": np.array(7), "ids": np.arange(3, dtype=np.int32)}, file)
    command.succeed(db, "load", pipeline)
    assert_equal(db, "pipeline", unet)
    # but no weight may be one
    save_file({**load_file(file), "conv_in.bias": np.zeros(8, dtype=np.int64)}, file)
    assert "conv_in.bias" in command.fail(db, 4, "load", pipeline, "--replace")


def test_settings_of_later_versions_that_are_null(db: str, pipeline: Path, unet: UNet2DModel) -> None:
    file = pipeline / "unet/config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "of_a_later_version": None}))
    command.succeed(db, "load", pipeline)
    assert_equal(db, "pipeline", unet)
    file.write_text(json.dumps({**config, "of_a_later_version": 1}))
    assert "of_a_later_version" in command.fail(db, 4, "load", pipeline, "--replace")


def test_a_pipeline_whose_averaged_network_alone_is_there(db: str, pipeline: Path, unet: UNet2DModel) -> None:
    (pipeline / "unet").rename(pipeline / "unet_ema")
    command.succeed(db, "load", pipeline)
    command.succeed(db, "load", pipeline / "unet_ema" / WEIGHTS, "--name", "file")
    for name in ("pipeline", "file"):
        assert_equal(db, name, unet)


def packed(db: str, name: str) -> bool:
    with psycopg.connect(dbname=db) as own:
        row = own.execute("select exists (select from sql_diffusion.packed_layers where model = %s)", [name]).fetchone()
    assert row is not None
    return bool(row[0])


def test_packing(db: str, pipeline: Path) -> None:
    """By default where pure SQL draws, which it does where NumPy's extension is not."""
    assert "packed for pure SQL" in command.succeed(db, "load", pipeline, "--name", "by default")
    assert json.loads(command.succeed(db, "load", pipeline, "--name", "by request", "--pack", "--json"))["packed"]
    command.succeed(db, "load", pipeline, "--name", "without", "--no-pack")
    assert [packed(db, name) for name in ("by default", "by request", "without")] == [True, True, False]


def test_packing_is_left_to_whoever_may(db: str, pipeline: Path) -> None:
    with psycopg.connect(dbname=db, autocommit=True) as own:
        own.execute("create role helper_loader login")
        own.execute("grant insert, delete, update (sha256) on sql_diffusion.models to helper_loader")
        own.execute("grant insert on sql_diffusion.components, sql_diffusion.parameters to helper_loader")
        try:
            result = command.run(db, "load", pipeline, "--dsn", "user=helper_loader")
            assert result.returncode == 0 and "sql_diffusion.pack('pipeline')" in result.stderr
            assert not packed(db, "pipeline")
        finally:
            own.execute("drop owned by helper_loader")
            own.execute("drop role helper_loader")


def test_networks_that_are_not_run(db: str, pipeline: Path) -> None:
    config = json.loads((pipeline / "unet/config.json").read_text())

    def with_config(**changes: Any) -> str:
        (pipeline / "unet/config.json").write_text(json.dumps({**config, **changes}))
        return command.fail(db, 4, "load", pipeline)

    assert "UNet2DConditionModel" in with_config(_class_name="UNet2DConditionModel")
    assert "act_fn" in with_config(act_fn="leaky_relu")
    assert "SkipDownBlock2D" in with_config(down_block_types=["SkipDownBlock2D", "AttnDownBlock2D"])
    (pipeline / "unet/config.json").write_text("{")
    assert "unet/config.json is not JSON" in command.fail(db, 4, "load", pipeline)
    (pipeline / "unet/config.json").write_text(json.dumps(config))

    index = json.loads((pipeline / "model_index.json").read_text())
    (pipeline / "model_index.json").write_text(json.dumps({**index, "_class_name": "StableDiffusionPipeline"}))
    # a pipeline that is run, of which the other networks are missing
    assert "is not whole: vae/config.json" in command.fail(db, 4, "load", pipeline)
    (pipeline / "model_index.json").write_text(json.dumps(index))

    (pipeline / "scheduler/scheduler_config.json").write_text('{"_class_name": "DEISMultistepScheduler"}')
    assert "DEISMultistepScheduler" in command.fail(db, 4, "load", pipeline)
    assert names(db) == []


def test_sources_that_are_not_there(db: str, tmp_path: Path) -> None:
    assert "does not exist" in command.fail(db, 4, "load", tmp_path / "nowhere")
    assert "does not exist" in command.fail(db, 4, "load", "./nowhere")
    # A file's name is no repository of the hub, though it could be one.
    for missing in ("e/nosuch.safetensors", "nosuch.safetensors", "e/nosuch.ckpt"):
        assert f"{missing} does not exist" in command.fail(db, 4, "load", missing, HF_HUB_OFFLINE="1")
    (tmp_path / "empty").mkdir()
    assert "config.json" in command.fail(db, 4, "load", tmp_path / "empty")
    (tmp_path / "empty/config.json").write_text("{}")
    assert "holds no weights" in command.fail(db, 4, "load", tmp_path / "empty")


def test_names_that_are_taken(db: str, pipeline: Path) -> None:
    command.succeed(db, "load", pipeline, "--name", "mine")
    assert "--replace" in command.fail(db, 5, "load", pipeline, "--name", "mine")
    command.succeed(db, "load", pipeline, "--name", "mine", "--replace")
    assert "comes with the extension" in command.fail(db, 5, "load", pipeline, "--name", "butterflies", "--replace")
    assert "comes with the extension" in command.fail(db, 5, "remove", "butterflies")


def test_a_role_that_may_not_load(db: str, pipeline: Path) -> None:
    with psycopg.connect(dbname=db, autocommit=True) as own:
        own.execute("create role helper_reader login")
        try:
            said = command.fail(db, 3, "load", pipeline, "--dsn", "user=helper_reader")
            assert "permission denied" in said and "owns the models" in said
        finally:
            own.execute("drop role helper_reader")
