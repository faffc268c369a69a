"""Tokenizers against those of transformers, in both backends: any text, in databases of any encoding and locale."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from psycopg import Connection, sql

from installation import ROOT
from numpy_server import STRESS
from sql_diffusion.errors import Problem
from sql_diffusion.tokenizers import read_tokenizer
from trained_tokenizers import CODES, HARD, added, insert_tokenizer, random_text, reference, train, train_all

Tokenize = Callable[..., Any]

# Encoding, locale and provider of databases: what lower(), normalize() and \w mean there differs.
DATABASES = {
    "UTF8, Turkish": "encoding 'UTF8' locale 'C' locale_provider icu icu_locale 'tr-TR'",
    "SQL_ASCII": "encoding 'SQL_ASCII' locale 'C'",
    "LATIN1, Turkish": "encoding 'LATIN1' locale 'C' locale_provider icu icu_locale 'tr-TR'",
    "EUC_JP": "encoding 'EUC_JP' locale 'C'",
}
PYTHON_ENCODING = {"LATIN1": "latin-1", "EUC_JP": "euc_jp"}
BACKENDS = {"sql": "sql_diffusion", "numpy": "sql_diffusion_numpy"}


@contextmanager
def database_with(options: str) -> Iterator[str]:
    name = f"sql_diffusion_{secrets.token_hex(4)}"
    with psycopg.connect(autocommit=True) as server:
        if server.info.server_version < 150000 and "icu" in options:
            options = options.partition(" locale_provider")[0]
        server.execute(sql.SQL("create database {} template template0 " + options).format(sql.Identifier(name)))
        try:
            yield name
        finally:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    seed = secrets.randbits(32)
    print(f"trained with seed {seed}")
    return train_all(tmp_path_factory.mktemp("tokenizers"), np.random.default_rng(seed))


@pytest.fixture(scope="module")
def references(folders: dict[str, Path]) -> dict[str, Any]:
    return {name: reference(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module", params=DATABASES)
def any_database(request: pytest.FixtureRequest, folders: dict[str, Path]) -> Iterator[Connection]:
    with database_with(DATABASES[request.param]) as name, psycopg.connect(dbname=name, autocommit=True) as own:
        own.execute("set client_encoding to 'UTF8'; set client_min_messages = warning")
        if request.param == "SQL_ASCII":
            own.execute("set client_encoding to 'SQL_ASCII'")
        own.execute("create extension sql_diffusion_numpy cascade")
        for model in ("clip", "gpt2"):
            insert_tokenizer(own, model, folders[model])
        yield own


@pytest.fixture(scope="module")
def server(folders: dict[str, Path]) -> Iterator[Connection]:
    """A session in a database of UTF8, with all tokenizers; nothing but temporary changes are made there."""
    with database_with("encoding 'UTF8' locale 'C'") as name, psycopg.connect(dbname=name, autocommit=True) as own:
        own.execute("create extension sql_diffusion_numpy cascade; set client_min_messages = warning")
        for model, folder in folders.items():
            insert_tokenizer(own, model, folder)
        yield own


def whole(connection: Connection, schema: str, texts: list[str], model: str) -> list[list[int]]:
    """The ids of texts without padding, all of them. Bytes go to the server, so that what is UTF-8 there is not the client's affair."""
    query = f"""
        select {schema}.tokenize(convert_from(t.bytes, 'UTF8'), %s, padding => false, truncation => false)
        from unnest(%s::bytea[]) with ordinality as t (bytes, place)
        order by t.place"""
    rows = connection.execute(query.encode(), [model, [text.encode() for text in texts]]).fetchall()
    return [row[0] for row in rows]


def assert_same(ours: list[list[int]], theirs: Any, texts: list[str]) -> None:
    assert len(ours) == len(texts) > 0
    for text, ids in zip(texts, ours, strict=True):
        assert ids == theirs(text).input_ids, ascii(text)


def fits(text: str, encoding: str) -> bool:
    """Whether there is the text in this encoding; Python and PostgreSQL do not agree on all that JIS X 0212 has."""
    if encoding == "EUC_JP" and any(
        0x80 <= ord(character) < 0x3000 or ord(character) in (0x3094, 0xFF5E) for character in text
    ):
        return False
    try:
        return (
            text.encode(PYTHON_ENCODING.get(encoding, "utf-8")).decode(PYTHON_ENCODING.get(encoding, "utf-8")) == text
        )
    except UnicodeError:
        return False


def encoding_of(connection: Connection) -> str:
    return str(connection.execute("show server_encoding").fetchone()[0])  # type: ignore[index]


@pytest.mark.parametrize("backend", BACKENDS)
def test_hard_texts_in_any_database(any_database: Connection, references: dict[str, Any], backend: str) -> None:
    encoding = encoding_of(any_database)
    texts = [text for text in HARD if fits(text, encoding)]
    assert len(texts) > 20
    for model in ("clip", "gpt2"):
        assert_same(whole(any_database, BACKENDS[backend], texts, model), references[model], texts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_character_of_an_encoding(any_database: Connection, references: dict[str, Any], backend: str) -> None:
    characters = [chr(code) for code in [*range(1, 0x250), *range(0x3040, 0x30FF), *range(0x4E00, 0x4E20)]]
    characters = [character for character in characters if fits(character, encoding_of(any_database))]
    assert len(characters) > 200
    text = " ".join(f"A{character}b{character}" for character in characters)
    for model in ("clip", "gpt2"):
        assert_same(whole(any_database, BACKENDS[backend], [text], model), references[model], [text])


@pytest.mark.parametrize("backend", BACKENDS)
def test_hard_texts(server: Connection, references: dict[str, Any], backend: str) -> None:
    for model, theirs in references.items():
        assert_same(whole(server, BACKENDS[backend], HARD, model), theirs, HARD)


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_texts(server: Connection, references: dict[str, Any], rng: np.random.Generator, backend: str) -> None:
    """SQL_DIFFUSION_STRESS=1: a hundred thousand of them."""
    count = 100_000 if STRESS else 2000 if backend == "numpy" else 200
    for start in range(0, count, 200):
        texts = [random_text(rng) for _ in range(min(200, count - start))]
        for model in ("clip", "gpt2") if start == 0 else [list(references)[start // 200 % len(references)]]:
            assert_same(whole(server, BACKENDS[backend], texts, model), references[model], texts)


def test_every_code_point(server: Connection, references: dict[str, Any], rng: np.random.Generator) -> None:
    """In Python; that its constants are those of SQL, and of the library, the next test shows. SQL_DIFFUSION_STRESS=1 takes
    every one, and otherwise a twentieth."""
    codes = CODES if STRESS else rng.permutation(CODES)[: len(CODES) // 20].tolist()
    for start in range(0, len(codes), 20000):
        text = " ".join(f"a{chr(code)}b {chr(code)}{chr(code)}" for code in codes[start : start + 20000])
        for model in ("clip", "gpt2"):
            assert whole(server, "sql_diffusion_numpy", [text], model)[0] == references[model](text).input_ids, start


def test_the_constants_are_those_of_the_library() -> None:
    """Of the edition of Unicode that the installed library knows, for every code point."""
    script = subprocess.run(
        [sys.executable, ROOT / "scripts" / "unicode_tables.py"], check=True, capture_output=True, text=True
    )
    assert script.stdout == (ROOT / "sql" / "tokenizers" / "unicode.sql").read_text(), (
        "run: .venv/bin/python scripts/unicode_tables.py > sql/tokenizers/unicode.sql"
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", ["clip", "clip, padded with !"])
def test_padding_and_truncation(
    server: Connection, references: dict[str, Any], rng: np.random.Generator, backend: str, model: str
) -> None:
    theirs = references[model]
    texts = HARD + [random_text(rng, longest) for longest in (5, 20, 100) for _ in range(30)]
    query = f"select {BACKENDS[backend]}.tokenize(%s, %s)"
    lengths = set()
    for text in texts:
        expected = theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
        assert server.execute(query.encode(), [text, model]).fetchone() == (expected,), ascii(text)
        lengths.add(min(len(theirs(text).input_ids), 78))
    assert 78 in lengths and min(lengths) == 2  # some are cut and some are not
    for length in (74, 75, 76):
        text = "!" * length if "!" in model else "1" * length
        expected = theirs(text, padding="max_length", truncation=True, max_length=77).input_ids
        assert server.execute(query.encode(), [text, model]).fetchone() == (expected,)
        cut = server.execute(
            f"select {BACKENDS[backend]}.tokenize(%s, %s, padding => false)".encode(), [text, model]
        ).fetchone()
        assert cut == (theirs(text, truncation=True, max_length=77).input_ids,)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_notice_tells_where_a_text_was_cut(server: Connection, backend: str) -> None:
    notices: list[str] = []
    with psycopg.connect(dbname=server.info.dbname) as own:
        own.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        query = f"select {BACKENDS[backend]}.tokenize(%s, 'clip')".encode()
        own.execute(query, ["1 " * 75])
        assert notices == []
        own.execute(query, ["1 " * 75 + "2 3 4"])
        assert notices == ['tokenize: the text has more than 77 tokens: it was cut before "2 3 4"']
        own.execute(query, ["1 " * 75 + "2 " * 1000])
        assert notices[1:] == [f'tokenize: the text has more than 77 tokens: it was cut before "{" ".join("2" * 10)}"']


@pytest.mark.parametrize("backend", BACKENDS)
def test_detokenize(server: Connection, references: dict[str, Any], rng: np.random.Generator, backend: str) -> None:
    schema = BACKENDS[backend]
    for model, theirs in references.items():
        vocabulary = len(theirs)
        # what a text becomes; and any tokens at all but the byte 0, and for CLIP but white space, which it does not have in words
        chosen = [theirs(text).input_ids for text in HARD]
        held = {id for id in range(vocabulary) if "Ā" not in theirs.convert_ids_to_tokens(id)}
        odd = {id for id in held if "gpt2" not in model and not theirs.decode([id]).strip()}
        usable = sorted(held - odd)
        chosen += [[usable[i] for i in rng.integers(len(usable), size=rng.integers(30))] for _ in range(100)]
        chosen.append(theirs.convert_tokens_to_ids([*"Âł", "a", *"ãĢĢ"]))  # bytes that together are white space
        for ids in chosen:
            for skip in (False, True):
                query = f"select {schema}.detokenize(%s::int[], %s, skip_special_tokens => %s)".encode()
                expected = theirs.decode(ids, skip_special_tokens=skip) if ids else ""
                assert server.execute(query, [ids, model, skip]).fetchone() == (expected,), (model, ids)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gpt2_gives_the_bytes_back(server: Connection, rng: np.random.Generator, backend: str) -> None:
    schema = BACKENDS[backend]
    for text in ["héllo 中文 👍🏽", *(random_text(rng) for _ in range(50))]:
        query = f"select {schema}.detokenize_bytes(t.ids[:%s], 'gpt2') from {schema}.tokenize(%s, 'gpt2') as t (ids)"
        for length in (1, 2, 3, 1000):
            row = server.execute(query.encode(), [length, text]).fetchone()
            assert row is not None
            assert text.encode().startswith(row[0]) and (length < 1000 or row[0] == text.encode())
    inside = server.execute(f"select {schema}.tokenize('👍🏽', 'gpt2')".encode()).fetchone()[0]  # type: ignore[index]
    halves = [
        server.execute(f"select {schema}.detokenize_bytes(%s::int[], 'gpt2')".encode(), [[id]]).fetchone()[0]  # type: ignore[index]
        for id in inside
    ]
    assert b"".join(halves) == "👍🏽".encode()


UNKNOWN = 'model "moths" does not exist'
ERRORS = [
    ("tokenize(null, 'clip')", "22023", "tokenize: text is null, expected a text"),
    ("tokenize('a', null)", "22023", "model is null, expected the name of a model"),
    ("tokenize('a', 'moths')", "42704", UNKNOWN),
    ("tokenize('a', 'butterflies')", "55000", 'model "butterflies" has no tokenizer "tokenizer"'),
    ("tokenize('a', 'clip', 'tokenizer_2')", "55000", 'model "clip" has no tokenizer "tokenizer_2"'),
    ("tokenize('a', 'clip', null)", "55000", 'model "clip" has no tokenizer "null"'),
    ("tokenize('a', 'clip', padding => null)", "22023", "tokenize: padding is null, expected true or false"),
    ("tokenize('a', 'clip', truncation => null)", "22023", "tokenize: truncation is null, expected true or false"),
    ("detokenize(null, 'clip')", "22023", "detokenize: ids is null, expected an array of ids"),
    ("detokenize('{{1,2}}', 'clip')", "22023", "detokenize: ids has 2 dimensions, expected 1"),
    ("detokenize('{1}', 'moths')", "42704", UNKNOWN),
    ("detokenize('{1}', 'butterflies')", "55000", 'model "butterflies" has no tokenizer "tokenizer"'),
    ("detokenize('{1,-1}', 'clip')", "22023", 'detokenize: ids has -1 at place 2, expected the id of a token of tokenizer "tokenizer" of model "clip"'),
    ("detokenize('{1,999999}', 'gpt2')", "22023", 'detokenize: ids has 999999 at place 2, expected the id of a token of tokenizer "tokenizer" of model "gpt2"'),
    ("detokenize('{1,null}', 'clip')", "22023", 'detokenize: ids has null at place 2, expected the id of a token of tokenizer "tokenizer" of model "clip"'),
    ("detokenize('{1}', 'clip', skip_special_tokens => null)", "22023", "detokenize: skip_special_tokens is null, expected true or false"),
]  # fmt: skip


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("call", "state", "message"), ERRORS)
def test_errors(server: Connection, backend: str, call: str, state: str, message: str) -> None:
    calls = [call] + ([call.replace("detokenize(", "detokenize_bytes(")] if call.startswith("detokenize") else [])
    for each in calls:
        with pytest.raises(psycopg.Error) as caught:
            server.execute(f"select {BACKENDS[backend]}.{each}".encode())
        assert caught.value.sqlstate == state
        # PL/Python puts a word before a message that does not begin with a function's name.
        assert (caught.value.diag.message_primary or "").removeprefix("sql_diffusion: ") == message


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_zero_byte_is_no_text(server: Connection, backend: str) -> None:
    schema = BACKENDS[backend]
    query = "select v.id from sql_diffusion.vocabulary v where v.model = 'gpt2' and v.token = '\\x00'"
    (zero,) = server.execute(query).fetchone()  # type: ignore[misc]
    assert server.execute(f"select {schema}.detokenize_bytes(%s, 'gpt2')".encode(), [[zero]]).fetchone() == (b"\0",)
    with pytest.raises(psycopg.Error, match="detokenize: the tokens have a zero byte, which no text can hold"):
        server.execute(f"select {schema}.detokenize(%s, 'gpt2')".encode(), [[zero]])


def test_another_tokenizer_of_that_name_is_read(server: Connection, folders: dict[str, Path]) -> None:
    """A session that has used one does not go on with it when it was replaced; one that goes is gone."""
    query = "select sql_diffusion_numpy.tokenize('it''s a cat', 'changing', padding => false)"
    for folder in ("clip", "gpt2"):
        server.execute("delete from sql_diffusion.models where name = 'changing'")
        insert_tokenizer(server, "changing", folders[folder])
        expected = server.execute(query.replace("_numpy", "").encode()).fetchone()
        assert server.execute(query).fetchone() == expected
    server.execute("delete from sql_diffusion.models where name = 'changing'")
    rows = "select from sql_diffusion.vocabulary where model = 'changing' union all select from sql_diffusion.merges where model = 'changing'"
    assert server.execute(rows).fetchall() == []
    with pytest.raises(psycopg.Error, match='model "changing" does not exist'):
        server.execute(query)


def test_a_changed_vocabulary_is_read_again(server: Connection, folders: dict[str, Path]) -> None:
    """By the session that has used it, whatever was done to its rows, and not kept when that is rolled back."""
    query = "select sql_diffusion_numpy.tokenize('an astronaut riding a horse in the evening light, it''s another cat', 'gpt2')"
    changes = [
        "update sql_diffusion.merges set rank = 100000 - rank where model = 'gpt2'",
        "update sql_diffusion.vocabulary set ends_word = true where model = 'gpt2' and token = 'c'",
        "delete from sql_diffusion.vocabulary where model = 'gpt2' and token = 'i'",
        "insert into sql_diffusion.vocabulary (model, component, id, token) values ('gpt2', 'tokenizer', 100000, 'i')",
        "create temp table odd on commit drop as select * from sql_diffusion.merges where rank % 2 = 1 and model = 'gpt2';"
        "delete from sql_diffusion.merges where model = 'gpt2' and rank % 2 = 1",
        "insert into sql_diffusion.merges select * from odd",
        "update sql_diffusion.merges set model = 'clip' where model = 'gpt2' and first > 256",
        "truncate sql_diffusion.merges",
    ]
    first = last = server.execute(query).fetchone()
    with server.transaction(force_rollback=True):
        server.execute("delete from sql_diffusion.merges where model = 'clip'")
        for change in changes:
            server.execute(change)
            expected = server.execute(query.replace("_numpy", "").encode()).fetchone()
            assert server.execute(query).fetchone() == expected != last, change
            last = expected
        server.execute("truncate sql_diffusion.vocabulary")
        with pytest.raises(psycopg.Error, match='model "gpt2" is unfinished: tokenizer has no vocabulary'):
            server.execute(query)
    assert server.execute(query).fetchone() == first


# ---- files


def written_by_transformers(folder: Path, target: Path, **changes: Any) -> Path:
    reference(folder).save_pretrained(target)
    file = target / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return target


@pytest.mark.parametrize("model", ["clip", "clip, padded with !", "gpt2", "gpt2, space before"])
@pytest.mark.parametrize("form", ["as trained", "tokenizer.json", "added_tokens_decoder", "texts", "added_tokens.json"])
def test_the_forms_of_a_checkpoint(
    server: Connection, folders: dict[str, Path], tmp_path: Path, rng: np.random.Generator, model: str, form: str
) -> None:
    folder = tmp_path / "tokenizer"
    shutil.copytree(folders[model], folder)
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text())
    size = len(json.loads((folder / "vocab.json").read_text()))
    if form == "tokenizer.json":
        folder = written_by_transformers(folders[model], tmp_path / "saved")
    elif form == "added_tokens_decoder":
        eos = added("<|endoftext|>", special=True, normalized=False)
        settings["added_tokens_decoder"] = {str(size - 1): eos, str(size): added("photo", special=False)}
        file.write_text(json.dumps(settings))
    elif form == "texts":
        for key in ("bos_token", "eos_token", "unk_token"):
            settings[key] = "<|endoftext|>"
        settings["additional_special_tokens"] = ["<new>", "a"]
        file.write_text(json.dumps(settings))
        (folder / "special_tokens_map.json").unlink(missing_ok=True)
    elif form == "added_tokens.json":
        (folder / "added_tokens.json").write_text(json.dumps({"<Über>": size, "cat": size + 1}))
    theirs = reference(folder)
    config = read_tokenizer(folder).config
    assert {int(id): token["content"] for id, token in config["added_tokens_decoder"].items()} == {
        id: token.content for id, token in theirs.added_tokens_decoder.items()
    }
    assert [token["normalized"] for token in config["added_tokens_decoder"].values()] == [
        token.normalized for token in theirs.added_tokens_decoder.values()
    ]
    for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
        assert config[key] == getattr(theirs, key), key
    texts = [
        "a photo of a cat! <new> <über> <ÜBER> concat <|startoftext|><|endoftext|>",
        *HARD,
        *(random_text(rng) for _ in range(200)),
    ]
    name = secrets.token_hex(4)
    insert_tokenizer(server, name, folder)
    assert_same(whole(server, "sql_diffusion_numpy", texts, name), theirs, texts)
    assert_same(whole(server, "sql_diffusion", texts[:20], name), theirs, texts[:20])
    server.execute("delete from sql_diffusion.models where name = %s", [name])


def test_what_is_refused(folders: dict[str, Path], tmp_path: Path, rng: np.random.Generator) -> None:
    def changed(model: str, **settings: Any) -> Path:
        folder = tmp_path / secrets.token_hex(4)
        shutil.copytree(folders[model], folder)
        file = folder / "tokenizer_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | settings))
        return folder

    with pytest.raises(Problem, match="is a tokenizer T5Tokenizer; CLIPTokenizer and GPT2Tokenizer are run"):
        read_tokenizer(changed("clip", tokenizer_class="T5Tokenizer"))
    with pytest.raises(Problem, match="setting add_bos_token is true, expected false"):
        read_tokenizer(changed("gpt2", add_bos_token=True))
    with pytest.raises(Problem, match="added token '<x>': setting lstrip is true, expected false"):
        read_tokenizer(changed("gpt2", added_tokens_decoder={"9999": added("<x>", lstrip=True)}))
    folder = changed("clip")
    (folder / "merges.txt").write_text("a b c\n")
    with pytest.raises(Problem, match=r"merge 'a b c' is not of two tokens"):
        read_tokenizer(folder)
    (folder / "merges.txt").write_text("中 b\n")
    with pytest.raises(Problem, match="merge 中 b has a token 中 that is not in the vocabulary"):
        read_tokenizer(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(Problem, match=r"holds neither tokenizer.json nor merges.txt"):
        read_tokenizer(folder)


def test_a_byte_without_a_token(server: Connection, tmp_path: Path, rng: np.random.Generator) -> None:
    """CLIP's is unk_token, GPT-2 leaves it out."""
    for kind in ("CLIPTokenizer", "GPT2Tokenizer"):
        folder = train(tmp_path / kind, kind, rng)
        vocab = json.loads((folder / "vocab.json").read_text())
        pairs = (folder / "merges.txt").read_text().splitlines()
        gone = {"q", "q</w>", "Ã", "1</w>"}
        kept = {token: id for token, id in vocab.items() if token not in gone}
        (folder / "vocab.json").write_text(json.dumps(kept))
        (folder / "merges.txt").write_text(
            "\n".join(
                pair for pair in pairs[1:] if all(part in kept for part in [*pair.split(" "), pair.replace(" ", "")])
            )
        )
        theirs = reference(folder)
        insert_tokenizer(server, f"without {kind}", folder)
        texts = ["quick q aq é ÀÉ 1 21", "qqq", "Ã"]
        for schema in BACKENDS.values():
            assert_same(whole(server, schema, texts, f"without {kind}"), theirs, texts)
