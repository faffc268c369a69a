"""Writes a tokenizer into the tables, and reads it back as transformers does."""

import json
from pathlib import Path
from typing import Any

from psycopg.types.json import Jsonb

from .database import Connection
from .errors import Problem
from .tokenizers import END_OF_WORD, Tokenizer, byte_alphabet


def write_tokenizer(connection: Connection, model: str, component: str, tokenizer: Tokenizer) -> None:
    """Writes it for a model that is in the tables, inside the transaction that is under way."""
    connection.execute(
        "insert into sql_diffusion.tokenizers (model, component, config) values (%s, %s, %s)",
        [model, component, Jsonb(tokenizer.config)],
    )
    cursor = connection.cursor()
    with cursor.copy(
        "copy sql_diffusion.vocabulary (model, component, id, token, ends_word) from stdin (format binary)"
    ) as copy:
        copy.set_types(["text", "text", "int4", "bytea", "bool"])
        for token in tokenizer.vocabulary:
            copy.write_row((model, component, *token))
    with cursor.copy(
        "copy sql_diffusion.merges (model, component, first, second, rank, merged) from stdin (format binary)"
    ) as copy:
        copy.set_types(["text", "text", "int4", "int4", "int4", "int4"])
        for merge in tokenizer.merges:
            copy.write_row((model, component, *merge))


def save_tokenizer(connection: Connection, model: str, folder: Path, component: str = "tokenizer") -> Any:
    """Writes a tokenizer of a loaded model into a folder, as transformers does, and has transformers read it."""
    import transformers

    row = connection.execute(
        "select t.config from sql_diffusion.tokenizers t where t.model = %s and t.component = %s", [model, component]
    ).fetchone()
    if row is None:
        raise Problem(f"{model} has no {component}", None)
    config = row[0]
    letters = {byte: letter for letter, byte in byte_alphabet().items()}
    tokens = {
        id: "".join(letters[byte] for byte in token) + (END_OF_WORD if ends_word else "")
        for id, token, ends_word in connection.execute(
            "select v.id, v.token, v.ends_word from sql_diffusion.vocabulary v "
            "where v.model = %s and v.component = %s order by v.id",
            [model, component],
        )
    }
    for id, added in config["added_tokens_decoder"].items():
        tokens[int(id)] = added["content"]
    pairs = connection.execute(
        "select m.first, m.second from sql_diffusion.merges m where m.model = %s and m.component = %s order by m.rank",
        [model, component],
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({text: id for id, text in tokens.items()}), encoding="utf-8")
    lines = [f"{tokens[first]} {tokens[second]}" for first, second in pairs]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *lines, ""]), encoding="utf-8")
    known = {key: value for key, value in config.items() if value is not None and not key.endswith("_id")}
    (folder / "tokenizer_config.json").write_text(json.dumps(known), encoding="utf-8")
    return getattr(transformers, config["tokenizer_class"]).from_pretrained(folder)
