"""A tokenizer and a text encoder of a model that is trained on captions: both small, and the captions' own."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from .tokenizers import END_OF_WORD, byte_alphabet

# What CLIP's tokenizer takes a text apart into, in ASCII: other characters are left to their bytes.
PIECES = re.compile(r"[a-z]+|[0-9]|[^\sa-z0-9]+")
START, END = "<|startoftext|>", "<|endoftext|>"


def train_tokenizer(captions: Sequence[str], merges: int, length: int, folder: Path) -> Any:
    """A CLIPTokenizer whose merges are the most frequent ones of the captions; it knows all bytes, so any text."""
    counted = Counter(piece for text in captions for piece in PIECES.findall(text.lower()) if piece.isascii())
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(
        (" ".join([piece] * count) for piece, count in sorted(counted.items())),
        trainers.BpeTrainer(vocab_size=merges + 256, end_of_word_suffix=END_OF_WORD, show_progress=False),
    )
    found = json.loads(bpe.to_str())["model"]["merges"]
    pairs = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in found][:merges]
    letters = list(byte_alphabet())
    joined = dict.fromkeys("".join(pair) for pair in pairs)
    tokens = [*letters, *(f"{letter}{END_OF_WORD}" for letter in letters), *joined, START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({token: id for id, token in enumerate(tokens)}), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in pairs), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": length, "bos_token": START}
    settings |= dict.fromkeys(("eos_token", "unk_token", "pad_token"), END)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def text_encoder(tokenizer: Any, width: int, layers: int) -> Any:
    """A CLIPTextModel by lot for a tokenizer."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            projection_dim=width,
        )
    )


def token_ids(tokenizer: Any, captions: Sequence[str]) -> Any:
    """(N, tokens), padded to the longest that there can be."""
    length = tokenizer.model_max_length
    found = tokenizer(list(captions), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return found.input_ids
