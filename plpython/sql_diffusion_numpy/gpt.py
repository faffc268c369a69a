"""Text from a text: which tokens may come next, and the loop that takes one, appends it and asks again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from . import network
from .layers.modules import Network
from .random import manual_seed, random_words


def next_tokens(
    logits: np.ndarray,
    input_ids: list[int],
    temperature: float = 1,
    top_k: int | None = None,
    top_p: float | None = None,
    repetition_penalty: float = 1,
) -> tuple[np.ndarray, np.ndarray]:
    """ids and probabilities, the best first: as sql_diffusion.next_tokens has them."""
    scores = logits.astype(np.float64)
    seen = np.unique(np.array(input_ids, np.int64))
    scores[seen] *= np.where(scores[seen] < 0, repetition_penalty, 1 / repetition_penalty)
    if temperature == 0:
        return np.array([scores.argmax()]), np.ones(1)
    scores /= temperature
    ids = np.argsort(-scores, kind="stable")
    if top_k is not None and top_k < len(ids):
        ids = ids[: np.count_nonzero(scores >= scores[ids[top_k - 1]])]
    weights = np.exp(np.maximum(scores[ids] - scores[ids[0]], -700))
    if top_p is not None and top_p < 1:
        better = np.concatenate([[0], weights.cumsum()[:-1]]) / weights.sum()
        weights = weights[better < top_p]
        ids = ids[: len(weights)]
    return ids, weights / weights.sum()


def passes(found: Network, input_ids: list[int], between: Callable[[], None]) -> Iterator[np.ndarray]:
    """The logits after a list of tokens, which whoever takes them lets grow: of those that a pass has read, the next one
    has the keys and values."""
    past: dict[str, Any] = {}
    read = 0
    while True:
        new = np.array(input_ids[read:], np.float32)
        places = np.arange(read, len(input_ids), dtype=np.float32)
        outputs = {}
        for row, value in network.run_steps(
            found, {"input_ids": new[None, :, None], "position_ids": places[None, :, None], **past}
        ):
            between()
            if row.operation == "output" and not row.key.startswith("hidden_states."):
                outputs[row.key] = value
        logits = found.engine.step_tensor(row, outputs.pop("logits"))[0]
        past = {key: found.engine.kept_value(value) for key, value in outputs.items()}
        read = len(input_ids)
        yield logits


def generate(
    found: Network,
    input_ids: list[int],
    max_new_tokens: int,
    stop_id: int | None,
    seed: int,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    repetition_penalty: float,
    between: Callable[[], None],
) -> Iterator[list[int]]:
    """All tokens, each time that there is one more."""
    ids = list(input_ids)
    drawn = (random_words(manual_seed(seed), max_new_tokens)[0] & 16777215) / 16777216
    # The numbers first: where they end, no pass is begun whose logits nobody wants.
    for number, logits in zip(drawn, passes(found, ids, between), strict=False):
        candidates, probabilities = next_tokens(logits, ids, temperature, top_k, top_p, repetition_penalty)
        place = min(np.searchsorted(probabilities.cumsum(), number, side="right"), len(candidates) - 1)
        ids.append(int(candidates[place]))
        yield ids
        if ids[-1] == stop_id:
            return
