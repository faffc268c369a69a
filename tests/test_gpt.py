"""Language models against transformers, in both backends: logits, text, sampling, loading, and what is refused."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
import torch
from psycopg.types.json import Jsonb
from rich.progress import Progress
from safetensors.torch import load_file, save_file
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2Tokenizer,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reference import relative_error
from sql_diffusion.load import Request, load
from trained_tokenizers import train

pytest_plugins = ["numpy_server"]

BACKENDS = ("sql", "numpy")
TOLERANCE = {"sql": 1e-4, "numpy": 1e-5}
PROMPT = "an astronaut's horse, 8k \N{BUTTERFLY}"
SMALL: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
VARIATIONS: dict[str, dict[str, Any]] = {
    "small": {},
    "gelu": {"activation_function": "gelu"},
    "one layer of one head": {"n_layer": 1, "n_head": 1},
    "heads of 12": {"n_embd": 36, "n_head": 3, "n_inner": 20},
    "scaled by the layer": {"n_layer": 3, "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3},
    "not scaled": {"scale_attn_weights": False},
    "a head of its own": {"tie_word_embeddings": False},
}


def random_gpt(rng: np.random.Generator, vocab_size: int, **variation: Any) -> GPT2LMHeadModel:
    torch.manual_seed(int(rng.integers(2**32)))
    eos = vocab_size - 1
    config = GPT2Config(**{**SMALL, "vocab_size": vocab_size, "bos_token_id": eos, "eos_token_id": eos, **variation})
    network = GPT2LMHeadModel(config).eval()
    with torch.no_grad():  # not so small that all tokens are as probable, nor norms at 1 and biases at 0
        for name, parameter in network.named_parameters():
            parameter += (0.3 if "ln_" in name or "lm_head" in name else 0.15) * torch.randn(parameter.shape)
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One with the files of a tokenizer."""
    seed = secrets.randbits(32)
    print(f"trained with seed {seed}")
    return train(tmp_path_factory.mktemp("gpt"), "GPT2Tokenizer", np.random.default_rng(seed))


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return GPT2Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def network(folder: Path, tokenizer: Any) -> GPT2LMHeadModel:
    network = random_gpt(np.random.default_rng(secrets.randbits(32)), len(tokenizer))
    network.save_pretrained(folder)
    return network


@pytest.fixture(scope="module")
def gpt(numpy_database: str, folder: Path, network: GPT2LMHeadModel) -> Iterator[psycopg.Connection]:
    """A session where that network is loaded under the name gpt, as `sql-diffusion load` does it."""
    with psycopg.connect(dbname=numpy_database, autocommit=True) as own:
        load(own, Request(str(folder)), "gpt", False, Progress(disable=True))
        yield own
        own.execute("delete from sql_diffusion.models where not bundled")


def logits_of(network: GPT2LMHeadModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return network(torch.tensor([ids])).logits[0, -1]


def steps(connection: psycopg.Connection, backend: str, model: str, inputs: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a pass by name."""
    schema = {"sql": "sql_diffusion", "numpy": "sql_diffusion_numpy"}[backend]
    given = ", ".join("row(%s, %s::real[])" for _ in inputs)
    rows = connection.execute(
        f"""select key, hidden from {schema}.network_steps(array[{given}]::sql_diffusion.network_input[], %s, 'transformer')
            where operation = 'output'""".encode(),
        [value for pair in inputs.items() for value in pair] + [model],
    )
    return dict(rows.fetchall())


@pytest.mark.parametrize("variation", VARIATIONS)
def test_a_pass_is_transformers(
    numpy_database: str, folder: Path, tokenizer: Any, rng: np.random.Generator, variation: str, tmp_path: Path
) -> None:
    """The hidden states, the logits, and both again where the text comes in three parts, with the keys and values of those before."""
    theirs = random_gpt(rng, len(tokenizer), **VARIATIONS[variation])
    theirs.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    ids = rng.integers(len(tokenizer), size=12).tolist()
    with torch.no_grad():
        expected = theirs(torch.tensor([ids]), output_hidden_states=True)
    with psycopg.connect(dbname=numpy_database) as connection:
        load(connection, Request(str(tmp_path)), "varied", False, Progress(disable=True))
        for backend in BACKENDS:
            whole = steps(connection, backend, "varied", {"input_ids": ids, "position_ids": list(range(12))})
            assert relative_error(whole["logits"], expected.logits[0, -1]) < TOLERANCE[backend]
            for layer in range(theirs.config.n_layer):  # of the last one transformers gives the norm
                ours = whole[f"hidden_states.{layer}"]
                assert relative_error(ours, expected.hidden_states[layer][0]) < TOLERANCE[backend]
            past: dict[str, Any] = {}
            for first, last in ((0, 9), (9, 11), (11, 12)):
                part = {"input_ids": ids[first:last], "position_ids": list(range(first, last))}
                outputs = steps(connection, backend, "varied", {**part, **past})
                past = {key: value for key, value in outputs.items() if key.startswith("past_key_values.")}
                assert relative_error(outputs["logits"], logits_of(theirs, ids[:last])) < TOLERANCE[backend]
            assert np.shape(past["past_key_values.0"]) == (12, 2 * theirs.config.n_embd)
        connection.rollback()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("prompt", [PROMPT, "a", "<|endoftext|>"])
def test_what_comes_next(
    gpt: psycopg.Connection, network: GPT2LMHeadModel, tokenizer: Any, backend: str, prompt: str
) -> None:
    rows = gpt.execute("select * from gpt_next(%s, 'gpt', backend => %s)", [prompt, backend]).fetchall()
    ranks, ids, tokens, probabilities = zip(*rows, strict=True)
    assert list(ranks) == list(range(1, len(tokenizer) + 1))
    assert sorted(ids) == list(range(len(tokenizer)))
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-9)
    expected = logits_of(network, tokenizer.encode(prompt)).double().softmax(0)
    assert np.allclose(probabilities, expected[list(ids)], rtol=1e-3 if backend == "sql" else 1e-4, atol=0)
    assert list(tokens) == [tokenizer.decode([id]).replace("\0", "\N{REPLACEMENT CHARACTER}") for id in ids]
    first = gpt.execute("select * from gpt_next(%s, 'gpt', 5, %s)", [prompt, backend]).fetchall()
    assert first == rows[:5]
