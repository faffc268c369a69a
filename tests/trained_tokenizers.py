"""The outside reference: tokenizers of transformers, with a vocabulary that is trained here, and their way into the database."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer, GPT2Tokenizer

from sql_diffusion.tokenizer_tables import write_tokenizer
from sql_diffusion.tokenizers import read_tokenizer

CODES = [code for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
MARKS = [code for code in CODES if unicodedata.combining(chr(code))]
DECOMPOSED = [code for code in CODES if unicodedata.decomposition(chr(code)).partition(" ")[0].isalnum()]
ASCII = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '!?.,-_<|>"

HARD = [
    "", " ", "a photo of a cat", "A PHOTO OF A CAT", "an astronaut's horse, they're 8k & they'll've it'd I'm 't 's's ''s", "don't DON'T",
    "<|endoftext|>", "a<|startoftext|>b<|endoftext|>!c", "<|ENDOFTEXT|>!", "x <|EndOfText|>y", "<|endoftext", "<<|endoftext|>>", "<|endoftext|><|endoftext|> !",
    "!", "!!", "wow! what?! a cat!", "... -- ?!*", "</w> a</w>", "</w></w>", "é", "e\u0301", "e\u0301\u0323 e\u0323\u0301 \u1eb9\u0301", "\u212b \u2126 \u1e9b\u0323",
    "\u0301", " \u0301\u0301", "a\u0301" * 40, "İstanbul IĞDIR ılık \u0130\u0307", "Straße GROẞE ß", "ΣΊΣΥΦΟΣ σας ς Σ", "Ǆ ǅ ǆ ŉ ﬁ ﬀ",
    "ＦＵＬＬ　ＷＩＤＴＨ １２３", "中文字符 日本語のテキスト か\u3099 カ\u3099", "한국어 \u1112\u1161\u11ab \u1100\u1161\u11a8 가\u11a8 각\u11a8 \u1100\u1161\u1161", "สวัสดีชาวโลก น้ำ",
    "مرحبا بالعالم \u0645\u0651\u064e", "नमस्ते दुनिया \u0915\u093c \u0958 \u0929", "👨‍👩‍👧‍👦 🇩🇪 👍🏽 ❤️ \u200d", "١٢٣ Ⅷ ½ ² ① 𝟘 १२", "1234567890 12ab34",
    "a\tb\nc\r\nd\x0be\x0cf\x1cg\x1fh\x85i\u00a0j\u1680k\u2003l\u2028m\u202fn\u205fo\u3000p\u180eq\u200br", "  two  spaces  ", "\n\n\n", " \n a", "a  \u00a0 b", "\x01\x02\x7f",
    "\ufeffbom", "\ud7a3\uf8ff\U000f0000\U0010ffff", "\u0344 \u0f73 \u0f75 \u0f81 \u2adc \ufb1d \ufb2c", "𝅗𝅥 \U0001d1bc \U000110ba \U0001d15f", "𐐀𐐨 𞤀 Ꭰ ꭰ Ა ა", "__init__ a_b x²",
    "word " * 100, "x" * 300, "aAaA" * 30, "lorem ipsum dolor sit amet, " * 12 + "!",
]  # fmt: skip


def random_text(rng: np.random.Generator, longest: int = 20) -> str:
    """Of all planes of Unicode, and of what is hard."""

    def piece() -> str:
        kind = rng.integers(10)
        if kind < 3:
            return str(HARD[rng.integers(len(HARD))])[:30]
        if kind < 4:
            return chr(CODES[rng.integers(len(CODES))])
        if kind < 5:
            return chr(rng.integers(1, 0x3000))
        if kind < 6:
            return chr(MARKS[rng.integers(len(MARKS))])
        if kind < 7:
            character = chr(DECOMPOSED[rng.integers(len(DECOMPOSED))])
            return unicodedata.normalize("NFD", character) if rng.integers(2) else character
        if kind < 8:
            return chr(rng.choice([rng.integers(0xAC00, 0xD7A4), rng.integers(0x1100, 0x1200)]))
        return ASCII[rng.integers(len(ASCII))]

    return "".join(piece() for _ in range(rng.integers(1, longest)))


def train(folder: Path, kind: str, rng: np.random.Generator, **settings: Any) -> Path:
    """Writes the files of a tokenizer, as the checkpoints of the hub have them: of CLIP's kind, or of GPT-2's."""
    suffix = "</w>" if kind == "CLIPTokenizer" else ""
    trained = Tokenizer(models.BPE(end_of_word_suffix=suffix))
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=1500, end_of_word_suffix=suffix, show_progress=False)
    names = [unicodedata.name(chr(code), "").lower() for code in CODES[:6000]]
    trained.train_from_iterator(names + HARD + [random_text(rng) for _ in range(1000)], trainer)
    pairs = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = (
        alphabet + [character + suffix for character in alphabet if suffix] + [left + right for left, right in pairs]
    )
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: id for id, token in enumerate(dict.fromkeys(tokens))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(f"{left} {right}" for left, right in pairs), ""]))
    clip = (
        {"model_max_length": 77, "pad_token": "<|endoftext|>"}
        if kind == "CLIPTokenizer"
        else {"model_max_length": 1024}
    )
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **clip, **settings}))
    return folder


def added(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False, **flags}


def train_all(root: Path, rng: np.random.Generator) -> dict[str, Path]:
    """One of each kind that there is, by name; SQL_DIFFUSION_TOKENIZER names the folder of one more, CLIP's own say."""
    bos, eos = added("<|startoftext|>"), added("<|endoftext|>")
    typed = {
        "bos_token": bos | {"__type": "AddedToken"},
        "eos_token": eos | {"__type": "AddedToken"},
        "unk_token": eos | {"__type": "AddedToken"},
    }
    named = {"bos_token": bos, "eos_token": eos, "unk_token": eos}
    folders = {
        "clip": train(root / "clip", "CLIPTokenizer", rng, **typed),
        "clip, padded with !": train(root / "clip2", "CLIPTokenizer", rng, **typed),
        "gpt2": train(root / "gpt2", "GPT2Tokenizer", rng),
        "gpt2, space before": train(root / "gpt2space", "GPT2Tokenizer", rng, add_prefix_space=True),
    }
    (folders["clip"] / "special_tokens_map.json").write_text(json.dumps({**named, "pad_token": "<|endoftext|>"}))
    (folders["clip, padded with !"] / "special_tokens_map.json").write_text(json.dumps({**named, "pad_token": "!"}))
    if own := os.environ.get("SQL_DIFFUSION_TOKENIZER"):
        folders["own"] = Path(own)
    return folders


def reference(folder: Path) -> Any:
    kind = json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"].removesuffix("Fast")
    return {"CLIPTokenizer": CLIPTokenizer, "GPT2Tokenizer": GPT2Tokenizer}[kind].from_pretrained(folder)


def insert_tokenizer(connection: psycopg.Connection, model: str, folder: Path, component: str = "tokenizer") -> None:
    """A model, where there is none of that name, with this tokenizer."""
    connection.execute(
        "insert into sql_diffusion.models (name, pipeline, scheduler) "
        """values (%s, 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}') on conflict do nothing""",
        [model],
    )
    write_tokenizer(connection, model, component, read_tokenizer(folder))
