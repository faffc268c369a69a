"""Tokenizers, and the language models that write."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from .. import gpt, memory, parameters, session, tokenizer
from ..boundary import boundary, number_text
from ..errors import fail
from ..layers.modules import Network

# Tokenizers


@boundary
def tokenize(
    plpy: Any, text: str | None, model: str | None, component: str | None, padding: bool | None, truncation: bool | None
) -> Any:
    if text is None:
        fail("tokenize: text is null, expected a text")
    if padding is None or truncation is None:
        fail(f"tokenize: {'padding' if padding is None else 'truncation'} is null, expected true or false")
    return tokenizer.tokenize(plpy, text, tokenizer.get_tokenizer(plpy, model, component), padding, truncation)


def _detokenize(
    plpy: Any, ids: Any, model: str | None, component: str | None, skip_special_tokens: bool | None
) -> tuple[bytes, tokenizer.Tokenizer]:
    if ids is None:
        fail("detokenize: ids is null, expected an array of ids")
    dimensions = np.array(ids, dtype=object).ndim
    if dimensions > 1:
        fail(f"detokenize: ids has {dimensions} dimensions, expected 1")
    if skip_special_tokens is None:
        fail("detokenize: skip_special_tokens is null, expected true or false")
    chosen = tokenizer.get_tokenizer(plpy, model, component)
    for place, id in enumerate(ids, 1):
        if id not in chosen.vocabulary:
            fail(
                f"detokenize: ids has {number_text(id)} at place {place}, "
                f'expected the id of a token of tokenizer "{component}" of model "{model}"'
            )
    return tokenizer.detokenize_bytes(chosen, ids, skip_special_tokens), chosen


@boundary
def detokenize_bytes(plpy: Any, ids: Any, model: str | None, component: str | None, skip_special: bool | None) -> Any:
    return _detokenize(plpy, ids, model, component, skip_special)[0]


@boundary
def detokenize(plpy: Any, ids: Any, model: str | None, component: str | None, skip_special: bool | None) -> Any:
    data, chosen = _detokenize(plpy, ids, model, component, skip_special)
    if b"\0" in data:
        fail(
            "detokenize: the tokens have a zero byte, which no text can hold",
            "sql_diffusion.detokenize_bytes gives them as bytea.",
        )
    text = data.decode(errors="replace")
    clip = chosen.config["tokenizer_class"] == "CLIPTokenizer"
    return text.strip() if clip else text


# Text


def _gpt(plpy: Any, prompt: str | None, model: str | None, **settings: tuple[str, Any]) -> tuple[Network, Any]:
    """The language model of a model, and gpt_settings, which says what cannot be; settings with their types."""
    [found] = session.query(plpy, "select sql_diffusion.gpt_component($1) as component", ["text"], [model])
    if prompt is None:
        fail("tokenize: text is null, expected a text")
    ids = tokenizer.tokenize(plpy, prompt, tokenizer.get_tokenizer(plpy, model, "tokenizer"), True, True)
    given = "".join(f", {name} => ${place}" for place, name in enumerate(settings, 4))
    [row] = session.query(
        plpy,
        f"select * from sql_diffusion.gpt_settings($1, $2, $3{given})",
        ["int[]", "text", "text", *(type for type, _ in settings.values())],
        [ids, model, found["component"], *(value for _, value in settings.values())],
    )
    session.begin(plpy)
    return parameters.get_model(plpy, model, found["component"]).network, row


def _text(data: bytes) -> str:
    return data.decode(errors="replace").replace("\0", "\ufffd")


@boundary
def gpt_next(plpy: Any, prompt: str | None, model: str | None, top_k: int | None) -> Iterator[Any]:
    found, settings = _gpt(plpy, prompt, model, top_k=("int", top_k))
    vocabulary = tokenizer.get_tokenizer(plpy, model, "tokenizer").vocabulary
    logits = next(gpt.passes(found, settings["input_ids"], functools.partial(session.cancel_point, plpy)))
    rows = zip(*(each[:top_k].tolist() for each in gpt.next_tokens(logits, [])), strict=True)
    for rank, (id, probability) in enumerate(rows, 1):
        yield rank, id, _text(vocabulary[id][0]) if id in vocabulary else None, probability
    memory.give_back()


@boundary
def gpt_generate(
    plpy: Any, prompt: str | None, max_new_tokens: int | None, model: str | None, temperature: float | None,
    top_k: int | None, top_p: float | None, seed: int | None, repetition_penalty: float | None, stop: str | None,
) -> Iterator[Any]:  # fmt: skip
    found, settings = _gpt(
        plpy, prompt, model,
        max_new_tokens=("int", max_new_tokens), temperature=("double precision", temperature), top_k=("int", top_k),
        top_p=("double precision", top_p), seed=("bigint", seed),
        repetition_penalty=("double precision", repetition_penalty), stop=("text", stop),
    )  # fmt: skip
    assert max_new_tokens is not None and temperature is not None  # gpt_settings refuses them
    assert seed is not None and repetition_penalty is not None
    tokens = tokenizer.get_tokenizer(plpy, model, "tokenizer")
    progress = session.progress_of(plpy, session.begin(plpy))
    prompt_length = len(settings["input_ids"])
    for ids in gpt.generate(
        found, settings["input_ids"], max_new_tokens, settings["stop_id"], seed, temperature, top_k, top_p,
        repetition_penalty, functools.partial(session.cancel_point, plpy),
    ):  # fmt: skip
        progress(f"step {len(ids) - prompt_length} of {max_new_tokens}")
        known = [id for id in ids if id in tokens.vocabulary]
        token = _text(tokens.vocabulary[ids[-1]][0]) if ids[-1] in tokens.vocabulary else None
        yield len(ids) - 1, ids[-1], token, _text(tokenizer.detokenize_bytes(tokens, known, True))
    memory.give_back()
