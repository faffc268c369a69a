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

from numpy_server import STRESS
from reference import relative_error
from sql_diffusion import database, verify
from sql_diffusion.load import Request, load
from sql_diffusion_numpy import gpt as numpy_gpt
from sql_diffusion_numpy.gpt import next_tokens
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
    """The hidden states, the logits, and these again where the text comes in three parts, with the keys and values of those before."""
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
            if backend == "sql" and variation != "small":  # where all variations would take long
                continue
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


def bare(error: psycopg.Error) -> str:
    return str(error.diag.message_primary).removeprefix("sql_diffusion: ")  # which pure SQL puts before all


def generated(connection: psycopg.Connection, backend: str, prompt: str | None, **settings: Any) -> list[Any]:
    named = "".join(f", {name} => %s" for name in settings)
    return connection.execute(
        f"select * from gpt_generate(%s{named}, model => 'gpt', backend => %s)".encode(),
        [prompt, *settings.values(), backend],
    ).fetchall()


@pytest.mark.parametrize("backend", BACKENDS)
def test_greedy_text_is_transformers(
    gpt: psycopg.Connection, network: GPT2LMHeadModel, tokenizer: Any, backend: str
) -> None:
    """Token by token, the text of the tokens so far in every row; in pure SQL 200 of them under SQL_DIFFUSION_STRESS=1."""
    count = 200 if backend == "numpy" or STRESS else 30
    ids = tokenizer(PROMPT, return_tensors="pt")
    settings = GenerationConfig(do_sample=False, max_new_tokens=count, eos_token_id=None, pad_token_id=0)
    expected = network.generate(**ids, generation_config=settings)[0].tolist()
    # transformers goes on behind the end here; ours ends there
    length = ids["input_ids"].shape[1]
    end = next((n for n, id in enumerate(expected[length:], length) if id == tokenizer.eos_token_id), len(expected) - 1)
    rows = generated(gpt, backend, PROMPT, max_new_tokens=count)
    assert [(row[0], row[1]) for row in rows] == list(enumerate(expected))[length : end + 1]
    for position, _, token, text in rows:
        so_far = tokenizer.decode(expected[: position + 1], skip_special_tokens=True)
        assert text == so_far.replace("\0", "\N{REPLACEMENT CHARACTER}")
        assert token == tokenizer.decode(expected[position]).replace("\0", "\N{REPLACEMENT CHARACTER}")


@pytest.mark.parametrize("schema", ["sql", "numpy"])
@pytest.mark.parametrize(
    "settings",
    [
        (1.0, None, None, 1.0),
        (0.7, None, None, 1.0),
        (1.0, 3, None, 1.0),
        (1.3, None, 0.8, 1.0),
        (0.9, 40, 0.5, 1.3),
        (1.0, None, 0.01, 0.5),
    ],
)
def test_what_may_be_drawn_is_what_transformers_leaves(
    numpy_connection: psycopg.Connection, rng: np.random.Generator, schema: str, settings: Any
) -> None:
    temperature, top_k, top_p, penalty = settings
    logits = torch.tensor(3 * rng.standard_normal(500), dtype=torch.float32)
    logits[rng.integers(500, size=100)] = float(logits[7])  # equals
    ids = rng.integers(500, size=20).tolist()
    processors = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(penalty), TemperatureLogitsWarper(temperature)])
    if top_k is not None:
        processors.append(TopKLogitsWarper(top_k))
    if top_p is not None:
        processors.append(TopPLogitsWarper(top_p))
    expected = processors(torch.tensor([ids]), logits[None])[0].double().softmax(0).numpy()
    if schema == "sql":
        rows = numpy_connection.execute(
            "select token_id, probability from sql_diffusion.next_tokens(%s::real[], %s, %s, %s, %s, %s)",
            [logits.tolist(), ids, *settings],
        ).fetchall()
    else:
        found = next_tokens(logits.numpy(), ids, *settings)
        rows = list(zip(*(each.tolist() for each in found), strict=True))
    ours = np.zeros(500)
    for token_id, probability in rows:
        ours[token_id] = probability
    assert sum(probability for _, probability in rows) == pytest.approx(1)
    if top_p is None:  # where it cuts among equals there is no order
        assert np.array_equal(ours > 0, expected > 0)
        assert np.allclose(ours, expected, rtol=1e-5, atol=0)
    assert np.allclose(np.sort(ours), np.sort(expected), rtol=1e-5, atol=0)


def test_drawn_text_is_the_seeds(gpt: psycopg.Connection, rng: np.random.Generator) -> None:
    """The same in both backends, again for a seed, another one for another seed; and as probable as it should be."""
    seed = int(rng.integers(2**62))
    settings = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 50, "top_p": 0.95, "repetition_penalty": 1.1}
    first, second = (generated(gpt, "numpy", PROMPT, **settings, seed=seed + n) for n in range(2))
    assert first == generated(gpt, "numpy", PROMPT, **settings, seed=seed)
    assert first == generated(gpt, "sql", PROMPT, **settings, seed=seed)
    assert first != second
    [(best, probability)] = gpt.execute("select token_id, probability from gpt_next(%s, 'gpt', 1)", [PROMPT]).fetchall()
    ids = [generated(gpt, "numpy", PROMPT, max_new_tokens=1, temperature=1, seed=n)[0][1] for n in range(60)]
    assert abs(ids.count(best) / 60 - probability) < 5 * (probability * (1 - probability) / 60) ** 0.5 + 1e-9


@pytest.mark.parametrize("stop_id", [None, 4])
def test_as_many_passes_as_tokens(monkeypatch: pytest.MonkeyPatch, stop_id: int | None) -> None:
    begun = []

    def passes(found: Any, ids: list[int], between: Any) -> Iterator[np.ndarray]:
        while True:
            begun.append(len(ids))
            yield np.eye(9, dtype=np.float32)[len(ids)]

    monkeypatch.setattr(numpy_gpt, "passes", passes)
    network: Any = None
    texts = [list(ids) for ids in numpy_gpt.generate(network, [0, 1], 4, stop_id, 0, 0, None, None, 1, lambda: None)]
    assert texts[-1] == [0, 1, 2, 3, 4, 5][: 6 if stop_id is None else 5]
    assert begun == [len(text) - 1 for text in texts]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_model_without_an_end(gpt: psycopg.Connection, backend: str) -> None:
    with gpt.transaction(force_rollback=True):
        gpt.execute(
            """update sql_diffusion.components set config = config || '{"eos_token_id": null}' where model = 'gpt'"""
        )
        assert len(generated(gpt, backend, PROMPT, max_new_tokens=3)) == 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_stop(gpt: psycopg.Connection, tokenizer: Any, backend: str) -> None:
    rows = generated(gpt, backend, PROMPT, max_new_tokens=6, temperature=1, seed=3, top_k=400)
    usable = [row for row in rows if "\N{REPLACEMENT CHARACTER}" not in row[2]]
    if usable:
        stop = usable[-1][2]
        end = next(n for n, row in enumerate(rows) if row[2] == stop)
        assert (
            generated(gpt, backend, PROMPT, max_new_tokens=6, temperature=1, seed=3, top_k=400, stop=stop)
            == rows[: end + 1]
        )
    assert generated(gpt, backend, PROMPT, max_new_tokens=0) == []


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ("", {}, "prompt has no tokens, expected at least one"),
        (None, {}, "tokenize: text is null, expected a text"),
        ("x y " * 200, {}, "prompt has "),
        ("a", {"max_new_tokens": 256}, "prompt has 1 tokens and max_new_tokens is 256, expected at most 256 together"),
        (
            "a",
            {"max_new_tokens": 2**31 - 1},
            "prompt has 1 tokens and max_new_tokens is 2147483647, expected at most 256 together",
        ),
        ("a", {"max_new_tokens": -1}, "max_new_tokens is -1, expected at least 0"),
        ("a", {"max_new_tokens": None}, "max_new_tokens is null, expected at least 0"),
        ("a", {"temperature": -0.5}, "temperature is -0.5, expected 0 or a number from 1e-30 to 1e30"),
        ("a", {"temperature": float("nan")}, "temperature is NaN, expected 0 or a number from 1e-30 to 1e30"),
        ("a", {"temperature": None}, "temperature is null, expected 0 or a number from 1e-30 to 1e30"),
        ("a", {"temperature": 1e-310}, "temperature is 1e-310, expected 0 or a number from 1e-30 to 1e30"),
        ("a", {"top_k": 0}, "top_k is 0, expected at least 1"),
        ("a", {"top_p": 0.0}, "top_p is 0, expected above 0 and at most 1"),
        ("a", {"top_p": 1.5}, "top_p is 1.5, expected above 0 and at most 1"),
        ("a", {"repetition_penalty": 0.0}, "repetition_penalty is 0, expected a number from 1e-30 to 1e30"),
        ("a", {"repetition_penalty": 1e-310}, "repetition_penalty is 1e-310, expected a number from 1e-30 to 1e30"),
        ("a", {"seed": None}, "seed is null, expected an integer"),
        ("a", {"stop": "no such token"}, "stop is 'no such token', which is no token of model \"gpt\""),
    ],
)
def test_refused_alike(gpt: psycopg.Connection, prompt: str | None, settings: dict[str, Any], message: str) -> None:
    told = set()
    for backend in BACKENDS:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            generated(gpt, backend, prompt, **settings)
        assert bare(caught.value).startswith(message)
        told.add((bare(caught.value), caught.value.diag.message_hint))
        if not settings:
            with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
                gpt.execute("select gpt_next(%s, 'gpt', backend => %s)", [prompt, backend])
            assert bare(caught.value).startswith(message)
    assert len(told) == 1


@pytest.mark.parametrize("function", ["gpt_next", "gpt_generate"])
def test_models_that_write_no_text(gpt: psycopg.Connection, function: str) -> None:
    for model, error, message in (
        ("butterflies", psycopg.errors.InvalidParameterValue, 'model "butterflies" writes no text, expected one that has a GPT2LMHeadModel'),
        ("nobody", psycopg.errors.UndefinedObject, 'model "nobody" does not exist'),
    ):  # fmt: skip
        for backend in BACKENDS:
            with pytest.raises(error) as caught:
                gpt.execute(f"select {function}('a', model => %s, backend => %s)".encode(), [model, backend])
            assert bare(caught.value) == message


@pytest.mark.parametrize(
    "call",
    [
        "ddpm_generate(42, model => 'gpt', backend => '{backend}')",
        "ddpm_generate(array[42], model => 'gpt', backend => '{backend}')",
        "ddpm_steps(42, 'gpt', backend => '{backend}')",
        "text_to_image('a', 42, 'gpt', backend => '{backend}')",
        "text_to_image_steps('a', 42, 'gpt', backend => '{backend}')",
        "upscale(array_fill(0.5::real, '{{3,8,8}}'), 42, 'a', model => 'gpt', backend => '{backend}')",
        "sql_diffusion.plan('gpt')",
        "sql_diffusion.unet_steps(array_fill(0.5::real, '{{3,8,8}}'), 1, 'gpt')",
    ],
)
def test_a_model_of_text_makes_no_pictures(gpt: psycopg.Connection, call: str) -> None:
    for backend in BACKENDS:
        with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
            gpt.execute(f"select {call.format(backend=backend)}".encode())
        assert bare(caught.value) == 'model "gpt" writes text, expected one that makes pictures'
        assert caught.value.diag.message_hint == "What it writes: gpt_generate(prompt, model => '...')."


def test_a_model_of_text_has_no_scheduler_and_one_of_pictures_has(gpt: psycopg.Connection) -> None:
    assert gpt.execute("select scheduler from sql_diffusion.models where name = 'gpt'").fetchone() == (None,)
    with pytest.raises(psycopg.errors.CheckViolation, match="models_scheduler_supported"):
        gpt.execute("insert into sql_diffusion.models (name, pipeline) values ('other', 'DDPMPipeline')")


@pytest.mark.parametrize("tied", [True, False])
def test_verify_compares_every_layer(
    numpy_database: str, folder: Path, tokenizer: Any, rng: np.random.Generator, tied: bool, tmp_path: Path
) -> None:
    """And finds what is wrong."""
    theirs = random_gpt(rng, len(tokenizer), tie_word_embeddings=tied)
    theirs.save_pretrained(tmp_path)
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with database.connect(f"dbname={numpy_database}") as connection, connection.transaction(force_rollback=True):
        load(connection, Request(str(tmp_path)), "verified", False, Progress(disable=True))
        layers = verify.verify(connection, "verified", 0, 500, "numpy")
        keyed = connection.execute(
            """select array_agg(step order by step) from sql_diffusion.plan('verified', 'transformer')
               where key <> '' and operation not in ('input', 'output')"""
        ).fetchone()
        assert keyed == ([layer.step for layer in layers],)
        assert all(layer.passed for layer in layers)
        read = verify.read_weights

        def changed(*arguments: Any) -> dict[str, Any]:
            return {name: value * (1.01 if "h.1.mlp.c_fc" in name else 1) for name, value in read(*arguments).items()}

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(verify, "read_weights", changed)
            layers = verify.verify(connection, "verified", 0, 500, "numpy")
        assert next(layer.key for layer in layers if not layer.passed) == "h.1.mlp.c_fc"


def test_the_model_is_found(gpt: psycopg.Connection) -> None:
    """Where none is named the one that writes text is taken."""
    assert gpt.execute("select count(*) from gpt_next('a', top_k => 3, backend => 'numpy')").fetchone() == (3,)


@pytest.mark.parametrize("form", ["no prefix, and buffers", "no class of the tokenizer"])
def test_checkpoints_of_other_forms(
    numpy_database: str, folder: Path, network: GPT2LMHeadModel, form: str, tmp_path: Path
) -> None:
    for name in ("config.json", "vocab.json", "merges.txt", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    if form == "no prefix, and buffers":
        tensors = {
            name.removeprefix("transformer."): tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        tensors["h.0.attn.bias"], tensors["h.0.attn.masked_bias"] = torch.ones(1, 1, 256, 256), torch.tensor(-1e4)
        save_file(tensors, tmp_path / "model.safetensors")
    else:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1024}))
    with psycopg.connect(dbname=numpy_database) as connection:
        load(connection, Request(str(tmp_path)), "another", False, Progress(disable=True))
        rows = connection.execute("select token_id from gpt_next('a', 'another', 3, 'numpy')").fetchall()
        assert [id for (id,) in rows] == logits_of(network, GPT2Tokenizer.from_pretrained(folder).encode("a")).topk(
            3
        ).indices.tolist()
        connection.rollback()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"activation_function": "swish"}, 'activation_function is "swish", expected "gelu_new" or "gelu"'),
        ({"n_embd": 30, "n_head": 4}, "transformer: n_embd is 30, expected a multiple of n_head, 4"),
        ({"add_cross_attention": True}, "add_cross_attention is true, expected false"),
    ],
)
def test_configurations_that_are_not_run(connection: psycopg.Connection, setting: dict[str, Any], message: str) -> None:
    with pytest.raises(psycopg.errors.FeatureNotSupported, match=message):
        connection.execute(
            "select sql_diffusion.check_gpt2(%s)", [Jsonb({"architectures": ["GPT2LMHeadModel"], **setting})]
        )


@pytest.mark.parametrize("call", ["gpt_next('a')", "gpt_generate('a')"])
def test_the_other_extension_is_not_asked_for(connection: psycopg.Connection, call: str) -> None:
    """Where NumPy's is not there: what leads to it must not be planned into the query."""
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="writes no text"):
        connection.execute(f"select * from {call}".encode())
