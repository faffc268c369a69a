"""What sql-diffusion load reads of whole pipelines: folders, single files, LoRA files, another autoencoder.

Every tensor is compared with the one that diffusers and transformers have in their modules, every derived setting with the
configuration of the module that the file was made of.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderTiny,
    DDIMScheduler,
    DDPMScheduler,
    LDMPipeline,
    LDMSuperResolutionPipeline,
    StableDiffusionUpscalePipeline,
    UNet2DConditionModel,
    UNet2DModel,
    VQModel,
)
from psycopg.types.json import Jsonb
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, GPT2Config, GPT2LMHeadModel

import helper_command as command
import pipelines
from reference import SMALL
from sql_diffusion import database as helper_database
from sql_diffusion import single_file, verify
from sql_diffusion.checkpoint import Checkpoint, Component, Module, match_modules, read_headers, read_weight
from sql_diffusion.errors import Problem
from sql_diffusion.load import Request, choose, tokenizer_folder
from sql_diffusion.names import network_tensors
from sql_diffusion.tensors import read_header, read_tensor

FAMILIES = ["1", "2", "XL"]
QUIET = Progress(disable=True)


def opened(source: object, **settings: Any) -> Checkpoint:
    """What `sql-diffusion load` finds."""
    return choose(Request(str(source), **settings), QUIET)


def read(component: Component, network: torch.nn.Module) -> list[Module]:
    """The modules of a network as they are read; the server would ask for those that the module of diffusers has."""
    state = pipelines.state(network)
    expected = []
    for key in dict.fromkeys(name.rpartition(".")[0] for name in state):
        bias = state.get(f"{key}.bias")
        expected.append((key, list(state[f"{key}.weight"].shape), None if bias is None else list(bias.shape)))
    files = [component.source.fetch(file, QUIET) for file in component.weights]
    return match_modules(component.translate(read_headers(files)), expected)


def assert_read(component: Component, network: torch.nn.Module, dtype: torch.dtype = torch.float32) -> None:
    """Every tensor is the network's, to the bit."""
    state = {name: tensor.to(dtype).float().numpy() for name, tensor in pipelines.state(network).items()}
    for module in read(component, network):
        np.testing.assert_array_equal(read_weight(module), state.pop(f"{module.key}.weight"), err_msg=module.key)
        if module.bias is not None:
            np.testing.assert_array_equal(read_tensor(module.bias), state.pop(f"{module.key}.bias"), err_msg=module.key)
    assert not state


def assert_all_read(checkpoint: Checkpoint, pipeline: Any, dtype: torch.dtype = torch.float32) -> None:
    """Of a pipeline every network is there with its config and every tensor."""
    networks = pipelines.networks(pipeline)
    assert {component.name for component in checkpoint.components} == set(networks)
    for component in checkpoint.components:
        assert_read(component, networks[component.name], dtype)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pipeline(family: str, rng: np.random.Generator, tmp_path: Path) -> Any:
    return pipelines.random_pipeline(family, rng, tmp_path / "words")


# Folders


def test_a_folder(family: str, pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "whole")
    checkpoint = opened(tmp_path / "whole")
    assert checkpoint.pipeline == type(pipeline).__name__
    assert checkpoint.scheduler is not None
    assert checkpoint.scheduler["_class_name"] == type(pipeline.scheduler).__name__
    assert checkpoint.defaults == ({"force_zeros_for_empty_prompt": True} if family == "XL" else {})
    assert [each.name for each in checkpoint.tokenizers] == ["tokenizer", "tokenizer_2"][: 2 if family == "XL" else 1]
    for component in checkpoint.components:
        assert component.config == json.loads((tmp_path / "whole" / component.name / "config.json").read_text())
    assert_all_read(checkpoint, pipeline)


def test_shards(pipeline: Any, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "whole", max_shard_size="300KB")
    checkpoint = opened(tmp_path / "whole")
    assert all(len(component.weights) > 1 for component in checkpoint.components)
    assert_all_read(checkpoint, pipeline)


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "200KB"}])
def test_variants(rng: np.random.Generator, tmp_path: Path, shards: dict[str, str]) -> None:
    """The only variant there is, the one asked for, and of a network that lacks it the plain one, as in diffusers."""
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    whole = {
        name: {key: value.clone() for key, value in part.state_dict().items()}
        for name, part in pipelines.networks(pipeline).items()
    }
    pipeline.to(torch.float16).save_pretrained(tmp_path / "half", variant="fp16", **shards)
    pipeline.to(torch.float32)
    for name, part in pipelines.networks(pipeline).items():
        part.load_state_dict(whole[name])
    assert_all_read(opened(tmp_path / "half"), pipeline, torch.float16)

    pipeline.vae.save_pretrained(tmp_path / "half" / "vae", **shards)
    for file in (tmp_path / "half" / "vae").glob("*fp16*"):
        file.unlink()
    checkpoint = opened(tmp_path / "half", variant="fp16")
    by_name = {component.name: component for component in checkpoint.components}
    assert_read(by_name["vae"], pipeline.vae)
    assert_read(by_name["unet"], pipeline.unet, torch.float16)
    with pytest.raises(Problem, match="no variant bf16"):
        opened(tmp_path / "half", variant="bf16")


def test_parts_that_make_no_picture(rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    index = json.loads((tmp_path / "whole/model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    index["feature_extractor"] = ["transformers", "CLIPImageProcessor"]
    (tmp_path / "whole/model_index.json").write_text(json.dumps(index))
    (tmp_path / "whole/safety_checker").mkdir()
    (tmp_path / "whole/safety_checker/config.json").write_text('{"architectures": ["StableDiffusionSafetyChecker"]}')
    (tmp_path / "whole/safety_checker/model.safetensors").write_bytes(b"never opened")
    checkpoint = opened(tmp_path / "whole")
    assert {component.name for component in checkpoint.components} == {"unet", "vae", "text_encoder"}
    (note,) = checkpoint.notes
    assert "safety_checker and feature_extractor" in note


def test_an_unconditional_latent_pipeline(rng: np.random.Generator, tmp_path: Path) -> None:
    """LDMPipeline, whose autoencoder quantizes; its folder is called vqvae."""
    torch.manual_seed(int(rng.integers(2**32)))
    vqvae = VQModel(
        block_out_channels=[32, 32],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        num_vq_embeddings=16,
    )
    unet = UNet2DModel(**SMALL)
    LDMPipeline(vqvae, unet, DDIMScheduler()).save_pretrained(tmp_path / "latent")
    checkpoint = opened(tmp_path / "latent")
    assert checkpoint.pipeline == "LDMPipeline"
    assert {component.name: component.config["_class_name"] for component in checkpoint.components} == {
        "vqvae": "VQModel",
        "unet": "UNet2DModel",
    }
    for component in checkpoint.components:
        assert_read(component, {"vqvae": vqvae, "unet": unet}[component.name])
    assert checkpoint.tokenizers == []


def test_a_pipeline_that_makes_pictures_larger(rng: np.random.Generator, tmp_path: Path) -> None:
    """Its second schedule, and how much noise it knows, are among the defaults."""
    whole = pipelines.random_pipeline("2", rng, tmp_path / "words", in_channels=7, num_class_embeds=9)
    parts = {name: part for name, part in whole.components.items() if name not in ("image_encoder", "safety_checker")}
    pipeline = StableDiffusionUpscalePipeline(
        **parts, low_res_scheduler=DDPMScheduler(beta_schedule="scaled_linear"), max_noise_level=8
    )
    pipeline.save_pretrained(tmp_path / "whole")
    checkpoint = opened(tmp_path / "whole")
    assert checkpoint.pipeline == "StableDiffusionUpscalePipeline"
    assert_all_read(checkpoint, whole)
    assert checkpoint.defaults["max_noise_level"] == 8
    assert checkpoint.defaults["low_res_scheduler"]["beta_schedule"] == "scaled_linear"
    (tmp_path / "whole/low_res_scheduler/scheduler_config.json").unlink()
    with pytest.raises(Problem, match="low_res_scheduler"):
        opened(tmp_path / "whole")


def test_super_resolution_without_a_text(rng: np.random.Generator, tmp_path: Path) -> None:
    torch.manual_seed(int(rng.integers(2**32)))
    vqvae = VQModel(block_out_channels=(32,), latent_channels=3, num_vq_embeddings=8)
    unet = UNet2DModel(**{**SMALL, "in_channels": 6})
    LDMSuperResolutionPipeline(vqvae, unet, DDIMScheduler()).save_pretrained(tmp_path / "larger")
    checkpoint = opened(tmp_path / "larger")
    assert checkpoint.pipeline == "LDMSuperResolutionPipeline"
    for component in checkpoint.components:
        assert_read(component, {"vqvae": vqvae, "unet": unet}[component.name])


def test_what_is_not_whole(rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    folder = tmp_path / "whole"

    def refused(name: str, content: str | None) -> str:
        kept = (folder / name).read_text()
        (folder / name).unlink() if content is None else (folder / name).write_text(content)
        with pytest.raises(Problem) as refusal:
            opened(folder)
        (folder / name).write_text(kept)
        return refusal.value.message

    assert "vae/config.json" in refused("vae/config.json", None)
    assert "unet is a FluxTransformer2DModel" in refused(
        "unet/config.json", '{"_class_name": "FluxTransformer2DModel"}'
    )
    assert "text_encoder is a T5EncoderModel" in refused(
        "text_encoder/config.json", '{"architectures": ["T5EncoderModel"]}'
    )
    assert "KandinskyPipeline" in refused("model_index.json", '{"_class_name": "KandinskyPipeline"}')
    (folder / "tokenizer/tokenizer.json").unlink()
    with pytest.raises(Problem, match="tokenizer"):
        opened(folder)


# Names


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "_orig_mod.module.", "ema_model."])
def test_wrappers(wrapper: str, rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    for name in ("unet/diffusion_pytorch_model", "text_encoder/model"):
        file = tmp_path / "whole" / f"{name}.safetensors"
        tensors = {wrapper + key: value for key, value in load_file(file).items()}
        if wrapper == "ema_model.":  # beside the averages, the weights themselves and how often they were averaged
            tensors |= {key.replace("ema_model.", "online_model."): value + 1 for key, value in tensors.items()}
            tensors |= {"step": torch.tensor(7), "initted": torch.tensor(True)}
        if wrapper == "_orig_mod.":  # as torch.compile leaves it that wrapped a part
            tensors = {key.replace("mid_block.", "mid_block._orig_mod."): value for key, value in tensors.items()}
        save_file(tensors, file)
    assert_all_read(opened(tmp_path / "whole"), pipeline)


def test_text_encoders_with_and_without_text_model(rng: np.random.Generator, tmp_path: Path) -> None:
    """As transformers wrote them before its version 5, with integers and with what a whole CLIP has."""
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    file = tmp_path / "whole/text_encoder/model.safetensors"
    state = {name: tensor.clone() for name, tensor in pipelines.state(pipeline.text_encoder).items()}
    for names in (state, {name.removeprefix("text_model."): tensor for name, tensor in state.items()}):
        more = {
            "text_model.embeddings.position_ids": torch.arange(77).reshape(1, 77),
            "vision_model.embeddings.class_embedding": torch.zeros(8),
            "visual_projection.weight": torch.zeros(8, 8),
            "logit_scale": torch.tensor(2.6),
        }
        save_file(names | more, file)
        assert_all_read(opened(tmp_path / "whole"), pipeline)


def test_old_attention_names_of_autoencoders(rng: np.random.Generator, tmp_path: Path) -> None:
    """query, key, value and proj_attn, as convolutions too; diffusers reads the same from them."""
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    file = tmp_path / "whole/vae/diffusion_pytorch_model.safetensors"
    old = {}
    for name, tensor in load_file(file).items():
        for now, then in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            if f".{now}." in name:
                name = name.replace(f".{now}.", f".{then}.")
        old[name] = tensor
    assert sum(".proj_attn." in name for name in old) == 4
    save_file(old, file)
    back = AutoencoderKL.from_pretrained(tmp_path / "whole/vae")
    assert all(torch.equal(tensor, back.state_dict()[name]) for name, tensor in pipeline.vae.state_dict().items())
    assert_all_read(opened(tmp_path / "whole"), pipeline)
    squares = {name: tensor[:, :, None, None] if tensor.ndim == 2 else tensor for name, tensor in old.items()}
    save_file({name: tensor.contiguous() for name, tensor in squares.items()}, file)
    assert_all_read(opened(tmp_path / "whole"), pipeline)


@pytest.mark.parametrize("bare", [False, True])
def test_gpt2_turns_its_matrices(bare: bool, tmp_path: Path, rng: np.random.Generator) -> None:
    """GPT-2's Conv1D has (in, out); what is read multiplies as a linear layer does."""
    torch.manual_seed(int(rng.integers(2**32)))
    network = GPT2LMHeadModel(GPT2Config(vocab_size=30, n_positions=16, n_embd=12, n_layer=2, n_head=2)).eval()
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    if bare:
        state = {name.removeprefix("transformer."): tensor for name, tensor in state.items()}
    save_file(state, tmp_path / "model.safetensors")
    tensors = network_tensors("GPT2LMHeadModel", read_header(tmp_path / "model.safetensors"))
    assert "lm_head.weight" not in tensors and "h.0.attn.bias" not in tensors
    module: Any = network.transformer.h[1].mlp.c_fc
    inputs = torch.randn(5, 12)
    weight, bias = (
        torch.from_numpy(read_tensor(tensors[f"h.1.mlp.c_fc.{kind}"]).copy()) for kind in ("weight", "bias")
    )
    torch.testing.assert_close(torch.nn.functional.linear(inputs, weight, bias), module(inputs))
    assert {name.removeprefix("transformer.") for name in network.state_dict()} - {"lm_head.weight"} == set(tensors)


# Single files


def assert_config(ours: dict[str, Any], network: torch.nn.Module) -> None:
    """A network built of the derived config has every setting of the one that the file was made of."""
    kind = type(network)
    if kind in (CLIPTextModel, CLIPTextModelWithProjection):
        assert ours["architectures"] == [kind.__name__]
        theirs = network.config.to_dict()
        settings = CLIPTextConfig(**ours).to_dict()
        same = set(theirs) - {"architectures", "dtype", "transformers_version", "_name_or_path"}
        assert {key: settings[key] for key in same} == {key: theirs[key] for key in same}
    else:
        assert ours["_class_name"] == kind.__name__
        with torch.device("meta"):
            built = dict(kind.from_config(ours).config)
        theirs = dict(network.config)
        same = {key for key in theirs if not key.startswith("_")}
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in theirs.items()}
        built = {key: list(value) if isinstance(value, tuple) else value for key, value in built.items()}
        assert {key: built[key] for key in same} == {key: lists[key] for key in same}


def test_a_single_file(family: str, pipeline: Any, tmp_path: Path) -> None:
    """The tensors that diffusers finds in it and the configs of the networks that it was made of."""
    pipeline.save_pretrained(tmp_path / "whole")
    pipelines.save_single(family, pipeline, tmp_path / "single.safetensors")
    nothing: dict[str, Any] = {} if family == "XL" else {"safety_checker": None}
    back = type(pipeline).from_single_file(
        str(tmp_path / "single.safetensors"), config=str(tmp_path / "whole"), local_files_only=True, **nothing
    )
    checkpoint = opened(tmp_path / "single.safetensors")
    assert_all_read(checkpoint, back)
    assert_all_read(checkpoint, pipeline)  # the file was right
    assert checkpoint.pipeline == type(pipeline).__name__
    for component in checkpoint.components:
        assert_config(component.config, pipelines.networks(pipeline)[component.name])
    scheduler = type(pipeline.scheduler).from_config(checkpoint.scheduler).config
    assert checkpoint.scheduler is not None
    assert checkpoint.scheduler["_class_name"] == type(pipeline.scheduler).__name__
    theirs = {key: value for key, value in pipeline.scheduler.config.items() if not key.startswith("_")}
    assert {key: scheduler[key] for key in theirs} == theirs


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_single_file_for_inpainting(wrapper: str, rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words", in_channels=9)
    pipelines.save_single("1", pipeline, tmp_path / "single.safetensors")
    tensors = load_file(tmp_path / "single.safetensors")
    save_file({wrapper + name: tensor for name, tensor in tensors.items()}, tmp_path / "single.safetensors")
    checkpoint = opened(tmp_path / "single.safetensors")
    assert checkpoint.pipeline == "StableDiffusionInpaintPipeline"
    assert_all_read(checkpoint, pipeline)


def test_the_configs_of_the_published_sizes(family: str, tmp_path: Path) -> None:
    """Derived from shapes alone: networks of 860 million to 2.6 billion parameters, none of which exists."""
    with torch.device("meta"):
        unet = UNet2DConditionModel(**pipelines.UNETS[family])
        vae = AutoencoderKL(**pipelines.VAES[family])
    shapes = {
        name: single_file.Tensor(tmp_path, name, "F16", tuple(tensor.shape), 0)
        for name, tensor in {**pipelines.original_unet(unet), **pipelines.original_vae(vae)}.items()
    }
    projection = f"{single_file.OPEN_CLIP_XL}text_projection"
    shapes[projection] = single_file.Tensor(tmp_path, projection, "F16", (1280, 1280), 0)
    kind = {"1": single_file.SD1, "2": single_file.SD2, "XL": single_file.XL}[family]
    assert_config(single_file.unet_config(kind, shapes), unet)
    assert_config(single_file.vae_config(kind, single_file.part(shapes, single_file.VAE)), vae)


def test_a_single_file_with_the_configs_of_a_pipeline(rng: np.random.Generator, tmp_path: Path) -> None:
    """As from_single_file(config=...): a base of Stable Diffusion 2, which predicts epsilon."""
    pipeline = pipelines.random_pipeline("2", rng, tmp_path / "words", sample_size=32)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config, prediction_type="epsilon")
    pipeline.save_pretrained(tmp_path / "whole")
    pipelines.save_single("2", pipeline, tmp_path / "single.safetensors")
    derived = opened(tmp_path / "single.safetensors")
    assert any("predicts v" in note for note in derived.notes)
    assert derived.scheduler is not None
    assert derived.scheduler["prediction_type"] == "v_prediction"
    (words,) = derived.tokenizers
    assert (words.source, words.pad_token) == (single_file.TOKENIZER, "!")

    checkpoint = opened(tmp_path / "single.safetensors", config=str(tmp_path / "whole"))
    assert checkpoint.notes == []
    assert checkpoint.scheduler is not None
    assert checkpoint.scheduler["prediction_type"] == "epsilon"
    by_name = {component.name: component for component in checkpoint.components}
    assert by_name["unet"].config["sample_size"] == 32
    assert_all_read(checkpoint, pipeline)
    folder = tokenizer_folder(checkpoint.tokenizers[0], tmp_path / "copy", QUIET)
    assert (folder / "tokenizer.json").read_bytes() == (tmp_path / "whole/tokenizer/tokenizer.json").read_bytes()


def test_a_tokenizer_with_another_padding_token(rng: np.random.Generator, tmp_path: Path) -> None:
    """The second tokenizer of XL pads with !, where it is CLIP's own in all else."""
    pipeline = pipelines.random_pipeline("XL", rng, tmp_path / "words")
    pipelines.save_single("XL", pipeline, tmp_path / "single.safetensors")
    checkpoint = opened(tmp_path / "single.safetensors", config=str(tmp_path / "words"))
    first, second = (tokenizer_folder(each, tmp_path / each.name, QUIET) for each in checkpoint.tokenizers)
    kind = type(pipeline.tokenizer)
    assert kind.from_pretrained(first).pad_token == "<|endoftext|>"
    assert kind.from_pretrained(second).pad_token == "!"
    assert kind.from_pretrained(second)("a b").input_ids == pipeline.tokenizer("a b").input_ids


def test_single_files_that_are_refused(rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipelines.save_single("1", pipeline, tmp_path / "single.safetensors")
    whole = load_file(tmp_path / "single.safetensors")

    def refused(tensors: dict[str, torch.Tensor]) -> str:
        save_file(tensors, tmp_path / "other.safetensors")
        with pytest.raises(Problem) as refusal:
            opened(tmp_path / "other.safetensors")
        return refusal.value.message

    for prefix in ("first_stage_model.", "cond_stage_model."):
        assert prefix in refused({name: tensor for name, tensor in whole.items() if not name.startswith(prefix)})
    assert "refiner" in refused(whole | {"conditioner.embedders.0.model.ln_final.weight": torch.ones(64)})
    assert "upscaler" in refused(whole | {"model.diffusion_model.label_emb.weight": torch.ones(1000, 64)})
    assert "config.json" in refused({"some.weight": torch.ones(3)})


# Another autoencoder


@pytest.mark.parametrize("kind", ["folder", "pipeline", "original", "original alone", "file"])
def test_another_autoencoder(kind: str, rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("XL", rng, tmp_path / "words")
    other = pipelines.random_pipeline("1", rng, tmp_path / "other words").vae
    pipeline.save_pretrained(tmp_path / "whole")
    source = tmp_path / "vae"
    if kind == "folder":
        other.save_pretrained(source)
    elif kind == "pipeline":
        other.save_pretrained(source / "vae")
    elif kind == "file":
        other.save_pretrained(source)
        source = source / "diffusion_pytorch_model.safetensors"
    else:
        source = tmp_path / "vae.safetensors"
        tensors = pipelines.original_vae(other, "first_stage_model." if kind == "original" else "")
        save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, source)
    checkpoint = opened(tmp_path / "whole", vae=str(source))
    assert checkpoint.label == f"whole + {source.name}"
    by_name = {component.name: component for component in checkpoint.components}
    assert_read(by_name["vae"], other)
    assert_read(by_name["unet"], pipeline.unet)
    # a file of weights alone does not say how latents are scaled: as those of the pipeline
    wanted = 0.13025 if "original" in kind else 0.18215
    assert by_name["vae"].config["scaling_factor"] == wanted


def test_a_tiny_autoencoder(rng: np.random.Generator, tmp_path: Path) -> None:
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    tiny = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    )
    tiny.save_pretrained(tmp_path / "tiny")
    checkpoint = opened(tmp_path / "whole", vae=str(tmp_path / "tiny"))
    assert_read({component.name: component for component in checkpoint.components}["vae"], tiny)
    pipeline.unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(Problem, match="is a UNet2DConditionModel, and --vae takes"):
        opened(tmp_path / "whole", vae=str(tmp_path / "unet"))


# Into the tables


@pytest.mark.parametrize("layout", ["folder", "single file"])
def test_a_pipeline_in_the_tables(database: str, layout: str, rng: np.random.Generator, tmp_path: Path) -> None:
    """Networks, tokenizer and what made them, in one transaction; what a network must have is the server's to say."""
    pipeline = pipelines.random_pipeline("1", rng, tmp_path / "words")
    pipeline.save_pretrained(tmp_path / "whole")
    factors = {
        "unet.conv_in.lora_A.weight": torch.randn(2, 4, 3, 3),
        "unet.conv_in.lora_B.weight": torch.randn(32, 2, 1, 1),
    }
    save_file(factors, tmp_path / "style.safetensors")
    source = tmp_path / "whole"
    arguments: list[object] = ["--lora", f"{tmp_path / 'style.safetensors'}:0.5"]
    if layout == "single file":
        source = tmp_path / "painter.safetensors"
        pipelines.save_single("1", pipeline, source)
        arguments += ["--config", tmp_path / "whole"]
    said = command.succeed(database, "load", source, "--name", "painter", *arguments)
    parts = pipelines.networks(pipeline)
    count = sum(tensor.numel() for part in parts.values() for tensor in part.parameters())
    assert said.startswith(f"Loaded painter: {count:,} parameters")

    with psycopg.connect(dbname=database) as own:
        rows = own.execute(
            "select p.component, p.key, p.weight, p.bias from sql_diffusion.parameters p where p.model = 'painter'"
        ).fetchall()
        row = own.execute(
            "select m.pipeline, m.source, m.sha256, (select array_agg(t.component) from sql_diffusion.tokenizers t "
            "where t.model = m.name) from sql_diffusion.models m where m.name = 'painter'"
        ).fetchone()
    assert row is not None
    assert row[0] == "StableDiffusionPipeline" and row[3] == ["tokenizer"]
    assert row[1] == f"{source.name} + style.safetensors:0.5"
    weights = sorted((tmp_path / "whole").glob("*/*.safetensors")) if layout == "folder" else [source]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in [*weights, tmp_path / "style.safetensors"]]
    assert row[2] == hashlib.sha256("".join(digests).encode()).hexdigest()
    states = {name: pipelines.state(part) for name, part in parts.items()}
    up, down = factors["unet.conv_in.lora_B.weight"], factors["unet.conv_in.lora_A.weight"]
    states["unet"]["conv_in.weight"] = states["unet"]["conv_in.weight"] + 0.5 * (
        up.flatten(1) @ down.flatten(1)
    ).reshape(32, 4, 3, 3)
    found = 0
    for component, key, weight, bias in rows:
        wanted = states[component][f"{key}.weight"].detach().numpy()
        np.testing.assert_allclose(np.asarray(weight, np.float32), wanted, rtol=1e-6, atol=1e-6)
        found += wanted.size
        if bias is not None:
            wanted = states[component][f"{key}.bias"].detach().numpy()
            np.testing.assert_array_equal(np.asarray(bias, np.float32), wanted)
            found += wanted.size
    assert found == count
    listed = {each["name"]: each for each in json.loads(command.succeed(database, "list", "--json"))}
    assert listed["painter"]["parameters"] == count
    shown = json.loads(command.succeed(database, "show", "painter", "--json"))
    assert set(shown["plans"]) == set(parts)
    command.succeed(database, "remove", "painter")


def test_verify_compares_every_network(database: str, rng: np.random.Generator) -> None:
    """Each step that is a module of diffusers or transformers, residuals taken off; and a wrong weight is found."""
    torch.manual_seed(int(rng.integers(2**32)))
    small = {
        "sample_size": 8,
        "block_out_channels": (32, 64),
        "layers_per_block": 1,
        "attention_head_dim": (2, 4),
        "cross_attention_dim": 16,
        "transformer_layers_per_block": 1,
        "norm_num_groups": 8,
    }
    parts: dict[str, Any] = {
        "unet": UNet2DConditionModel(**pipelines.SMALL_UNETS["XL"] | small),
        "text_encoder": CLIPTextModel(pipelines.text_config(64, 2, hidden_act="quick_gelu")),
        "text_encoder_2": CLIPTextModelWithProjection(
            pipelines.text_config(64, 1, hidden_act="gelu", projection_dim=32)
        ),
        "vae": AutoencoderKL(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
        ),
        "tiny_vae": AutoencoderTiny(
            encoder_block_out_channels=(6, 6),
            decoder_block_out_channels=(8, 8),
            num_encoder_blocks=(1, 1),
            num_decoder_blocks=(1, 1),
        ),
        "vqvae": VQModel(
            block_out_channels=(8, 16),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            num_vq_embeddings=20,
        ),
    }
    torch.nn.init.normal_(parts["vqvae"].quantize.embedding.weight)  # so that there is no doubt which is the nearest
    with helper_database.connect(f"dbname={database}") as own, own.transaction(force_rollback=True):
        own.execute(
            "insert into sql_diffusion.models (name, pipeline, scheduler) values ('parts', 'DDPMPipeline', %s)",
            [Jsonb({"_class_name": "DDPMScheduler"})],
        )
        for name, network in parts.items():
            if "text" in name:
                config = network.config.to_diff_dict() | {"architectures": [type(network).__name__]}
            else:
                config = {key: value for key, value in network.config.items() if not key.startswith("_")}
                config |= {"_class_name": type(network).__name__}
            own.execute(
                "insert into sql_diffusion.components (model, component, config) values ('parts', %s, %s)",
                [name, Jsonb(config)],
            )
            state = {key: tensor.detach().numpy() for key, tensor in pipelines.state(network).items()}
            for key in dict.fromkeys(each.rpartition(".")[0] for each in state):
                own.execute(
                    "insert into sql_diffusion.parameters (model, component, key, weight, bias) "
                    "values ('parts', %s, %s, %s, %s)",
                    [name, key, state[f"{key}.weight"], state.get(f"{key}.bias")],
                )
        layers = verify.verify(own, "parts", 0, 500, "sql")
    found = {(layer.component, layer.operation) for layer in layers}
    assert found >= {("unet", "attention"), ("unet", "resnet_block"), ("unet", "linear"), ("text_encoder", "attention")}
    assert found >= {("vae", "downsample"), ("vae", "upsample"), ("tiny_vae", "conv2d"), ("vqvae", "quantize")}
    assert {component for component, _ in found} == set(parts)
    assert [layer for layer in layers if not layer.passed] == []
