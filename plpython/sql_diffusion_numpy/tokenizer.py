"""Tokenizers: byte-level byte-pair encodings, those of CLIP and of GPT-2, from the rows of sql_diffusion.tokenizers."""

from __future__ import annotations

import heapq
import json
import re
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .session import query

KEPT = 8  # tokenizers that a session keeps
WORDS = 100_000  # that it remembers of each
SPACE, UNSTABLE = 3, 4

# As split_words in SQL has them; these are the tokenizers' own, whose first alternative counts.
CLIP_WORDS = re.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[A-Za-z]+|[0-9]|[^ A-Za-z0-9]+", re.S
)
GPT2_WORDS = re.compile(
    r"'s|'t|'re|'ve|'m|'ll|'d| ?[A-Za-z]+| ?[0-9]+| ?[^ \tA-Za-z0-9]+|[ \t]+(?![^ \t])|[ \t]+", re.S
)
CLIP_TOKENS = re.compile(r"[a-z]+|[^a-z]+")
# What a character of each class is written as, where it is none of printable ASCII.
LETTERS = np.frombuffer(b".q0\t", np.uint8)


class Unicode(NamedTuple):
    """The constants of sql/tokenizers/unicode.sql."""

    classes: np.ndarray
    lower: dict[int, int]
    decomposed: dict[int, tuple[int, int]]  # code point -> the two that it is made of, or one and 0
    composed: dict[tuple[int, int], int]
    combining: list[int]


class Tokenizer(NamedTuple):
    config: dict[str, Any]
    vocabulary: dict[int, tuple[bytes, bool]]  # id -> bytes, ends a word
    symbols: dict[tuple[int, bool], int]  # byte, at the end of a word -> id
    merges: dict[tuple[int, int], tuple[int, int]]  # ids side by side -> rank, id of what they become
    raw: dict[str, int]  # added tokens that are looked for in the text as it is
    normalized: dict[str, int]  # and those in the normalized text
    words: dict[bytes, list[int]]  # what was encoded before


_unicode: list[Unicode] = []
_tokenizers: OrderedDict[tuple[str, str], tuple[str, Tokenizer]] = OrderedDict()  # -> where the row lies, the tokenizer

_IDENTITY = """
select sql_diffusion.tokenizer_config($1, $2)::text as config,
       (select pg_catalog.concat_ws(' ', t.tableoid, t.ctid, t.xmin)
        from sql_diffusion.tokenizers t
        where t.model = $1
          and t.component = $2) as place
"""
_VOCABULARY = """
select pg_catalog.array_agg(v.id) as ids,
       pg_catalog.array_agg(v.token) as tokens,
       pg_catalog.array_agg(v.ends_word) as ends_word
from sql_diffusion.vocabulary v
where v.model = $1
  and v.component = $2
"""
_MERGES = """
select pg_catalog.array_agg(m.first) as first,
       pg_catalog.array_agg(m.second) as second,
       pg_catalog.array_agg(m.rank) as rank,
       pg_catalog.array_agg(m.merged) as merged
from sql_diffusion.merges m
where m.model = $1
  and m.component = $2
"""
_UNICODE = """
select sql_diffusion.unicode_classes() as classes,
       sql_diffusion.unicode_uppercase() as uppercase,
       sql_diffusion.unicode_lowercase() as lowercase,
       sql_diffusion.unicode_decomposed() as decomposed,
       sql_diffusion.unicode_decomposition_first() as first,
       sql_diffusion.unicode_decomposition_second() as second,
       sql_diffusion.unicode_combining_classes() as combining
"""


def get_unicode(plpy: Any) -> Unicode:
    """Read once a session."""
    if not _unicode:
        [row] = query(plpy, _UNICODE, [], [])
        parts = list(zip(row["decomposed"], row["first"], row["second"], strict=True))
        _unicode.append(
            Unicode(
                np.array(row["classes"], np.int64),
                dict(zip(row["uppercase"], row["lowercase"], strict=True)),
                {code: (first, abs(second)) for code, first, second in parts},
                {(first, second): code for code, first, second in parts if second > 0},
                row["combining"],
            )
        )
    return _unicode[0]


def get_tokenizer(plpy: Any, model: str | None, component: str | None) -> Tokenizer:
    """A model's tokenizer, read once a session; again where its row in sql_diffusion.tokenizers is another one, which a change
    of its vocabulary makes it."""
    [identity] = query(plpy, _IDENTITY, ["text", "text"], [model, component])
    assert model is not None and component is not None  # tokenizer_config refuses them
    known = _tokenizers.get((model, component))
    if known is not None and known[0] == identity["place"]:
        _tokenizers.move_to_end((model, component))
        return known[1]
    tokenizer = _read(plpy, model, component, json.loads(identity["config"]))
    _tokenizers[model, component] = identity["place"], tokenizer
    while len(_tokenizers) > KEPT:
        _tokenizers.popitem(last=False)
    return tokenizer


def _read(plpy: Any, model: str, component: str, config: dict[str, Any]) -> Tokenizer:
    def columns(sql: str) -> Iterator[tuple[Any, ...]]:
        [row] = query(plpy, sql, ["text", "text"], [model, component])
        return zip(*[row[name] or [] for name in row], strict=True)

    vocabulary = {id: (bytes(token), ends_word) for id, token, ends_word in columns(_VOCABULARY)}
    added = sorted((int(id), token) for id, token in config["added_tokens_decoder"].items())
    unicode = get_unicode(plpy)
    clip = config["tokenizer_class"] == "CLIPTokenizer"
    return Tokenizer(
        config,
        vocabulary,
        {(token[0], ends_word): id for id, (token, ends_word) in vocabulary.items() if len(token) == 1},
        {(first, second): (rank, merged) for first, second, rank, merged in columns(_MERGES)},
        {token["content"]: id for id, token in added if not token["normalized"] and token["content"]},
        {
            clip_normalize(unicode, token["content"]) if clip else token["content"]: id
            for id, token in reversed(added)  # of two of one content the first counts
            if token["normalized"] and token["content"]
        },
        {},
    )


# Characters


def unicode_class(unicode: Unicode, text: str) -> np.ndarray:
    """0 other, 1 letter, 2 number, 3 white space; 4 more where NFC may change the character."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64)
    return unicode.classes[np.searchsorted(unicode.classes, codes * 8 + 7, side="right") - 1] & 7


def combining_class(unicode: Unicode, code: int) -> int:
    return unicode.combining[bisect_right(unicode.combining, code * 256 + 255) - 1] & 255


def nfc(unicode: Unicode, text: str) -> str:
    """Unicode's normalization form C; most texts are in it and have nothing that could not be."""
    unstable = unicode_class(unicode, text) & UNSTABLE != 0
    if not unstable.any():
        return text
    # Segments, as in SQL: one begins at each character that NFC leaves alone.
    starts = [0, *(np.flatnonzero(~unstable[1:]) + 1).tolist(), len(text)]
    changes = np.logical_or.reduceat(unstable, starts[:-1])
    return "".join(
        _compose(unicode, text[start:end]) if change else text[start:end]
        for start, end, change in zip(starts[:-1], starts[1:], changes, strict=True)
    )


def _decompose(unicode: Unicode, code: int) -> list[int]:
    tail: list[int] = []
    while code in unicode.decomposed:
        code, second = unicode.decomposed[code]
        if second:
            tail.insert(0, second)
    syllable = code - 0xAC00
    if 0 <= syllable < 11172:  # Hangul, section 3.12 of the standard
        last = [0x11A7 + syllable % 28] if syllable % 28 else []
        return [0x1100 + syllable // 588, 0x1161 + syllable % 588 // 28, *last, *tail]
    return [code, *tail]


def _pair(unicode: Unicode, first: int, second: int) -> int | None:
    """What two characters become together."""
    if 0x1100 <= first <= 0x1112 and 0x1161 <= second <= 0x1175:
        return 0xAC00 + ((first - 0x1100) * 21 + second - 0x1161) * 28
    if 0xAC00 <= first < 0xAC00 + 11172 and (first - 0xAC00) % 28 == 0 and 0x11A8 <= second <= 0x11C2:
        return first + second - 0x11A7
    return unicode.composed.get((first, second))


def _compose(unicode: Unicode, segment: str) -> str:
    decomposed = [part for character in segment for part in _decompose(unicode, ord(character))]
    starters, keys = 0, []
    for place, code in enumerate(decomposed):
        combining = combining_class(unicode, code)
        starters += combining == 0
        keys.append((starters, combining, place, code))
    codes: list[int] = []
    starter, last = -1, 0
    for _, combining, _, code in sorted(keys):
        composed = None
        if starter >= 0 and (last == 0 or last < combining):
            composed = _pair(unicode, codes[starter], code)
        if composed is not None:
            codes[starter] = composed
            continue
        codes.append(code)
        last = combining
        if combining == 0:
            starter = len(codes) - 1
    return "".join(map(chr, codes))


def clip_normalize(unicode: Unicode, text: str) -> str:
    """A text as CLIP's tokenizer takes it: in NFC, white space as one space, each character in lower case."""
    text = nfc(unicode, text)
    space = unicode_class(unicode, text) & 3 == SPACE
    kept, after_space = [], False
    for character, is_space in zip(text, space.tolist(), strict=True):
        if not is_space:
            kept.append("i\u0307" if character == "\u0130" else chr(unicode.lower.get(ord(character), ord(character))))
        elif not after_space:
            kept.append(" ")
        after_space = is_space
    return "".join(kept)


# Words


def split_added_tokens(text: str, tokens: dict[str, int]) -> Iterator[tuple[str, int | None]]:
    """Pieces, each with the token that follows it; the last one has none."""
    place = 0
    if tokens:
        longest_first = sorted(tokens, key=lambda content: -len(content.encode()))
        for match in re.finditer("|".join(map(re.escape, longest_first)), text):
            yield text[place : match.start()], tokens[match[0]]
            place = match.end()
    yield text[place:], None


def split_words(unicode: Unicode, text: str, clip: bool) -> Iterator[bytes]:
    """The words of a text, in UTF-8. The expressions are matched with a letter of ASCII for each character's class."""
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    printable = (codes >= 32) & (codes <= 126)
    letters = (
        np.where(printable, codes, LETTERS[unicode_class(unicode, text) & 3]).astype(np.uint8).tobytes().decode("ascii")
    )
    for match in (CLIP_WORDS if clip else GPT2_WORDS).finditer(letters):
        if clip and match[0] in ("<|startoftext|>", "<|endoftext|>"):
            yield from (part[0].encode() for part in CLIP_TOKENS.finditer(match[0]))
        else:
            yield text[match.start() : match.end()].encode()


def tokenizer_words(plpy: Any, text: str, tokenizer: Tokenizer) -> Iterator[tuple[bytes, int | None]]:
    """The words of a text; an added token has its id beside it."""
    unicode = get_unicode(plpy)
    clip = tokenizer.config["tokenizer_class"] == "CLIPTokenizer"
    contents = {int(id): token["content"].encode() for id, token in tokenizer.config["added_tokens_decoder"].items()}
    for raw_piece, raw_id in split_added_tokens(text, tokenizer.raw):
        piece = clip_normalize(unicode, raw_piece) if clip else raw_piece
        for normalized_piece, id in split_added_tokens(piece, tokenizer.normalized):
            words = normalized_piece
            if words and not clip and tokenizer.config["add_prefix_space"] and not words.startswith(" "):
                words = " " + words
            yield from ((word, None) for word in split_words(unicode, words, clip))
            if id is not None:
                yield contents[id], id
        if raw_id is not None:
            yield contents[raw_id], raw_id


# Byte pairs


def byte_pair_encoding(tokenizer: Tokenizer, word: bytes) -> list[int]:
    """The tokens of a word: of its neighbours those of the lowest rank become one, the leftmost first."""
    known = tokenizer.words.get(word)
    if known is not None:
        return known
    clip = tokenizer.config["tokenizer_class"] == "CLIPTokenizer"
    unknown = tokenizer.config["unk_token_id"] if clip else None
    symbols = [
        tokenizer.symbols.get((byte, clip and place == len(word)), unknown) for place, byte in enumerate(word, 1)
    ]
    ids = [id for id in symbols if id is not None]
    # A heap of pairs, and a list of what is still there: each place knows the one before and the one behind.
    before, behind = list(range(-1, len(ids) - 1)), list(range(1, len(ids) + 1))
    gone = [False] * len(ids)
    heap: list[tuple[int, int, int, int, int]] = []  # rank, place, the pair, what it becomes

    def push(place: int) -> None:
        if place >= 0 and behind[place] < len(ids):
            pair = ids[place], ids[behind[place]]
            merge = tokenizer.merges.get(pair)
            if merge is not None:
                heapq.heappush(heap, (merge[0], place, *pair, merge[1]))

    for place in range(len(ids)):
        push(place)
    while heap:
        _, place, first, second, merged = heapq.heappop(heap)
        other = behind[place]
        if gone[place] or other >= len(ids) or (ids[place], ids[other]) != (first, second):
            continue  # one of the two has become another since
        ids[place] = merged
        gone[other] = True
        behind[place] = behind[other]
        if behind[place] < len(ids):
            before[behind[place]] = place
        push(before[place])
        push(place)
    result = [id for id, is_gone in zip(ids, gone, strict=True) if not is_gone]
    if len(tokenizer.words) >= WORDS:
        tokenizer.words.clear()
    tokenizer.words[word] = result
    return result


def tokenize(plpy: Any, text: str, tokenizer: Tokenizer, padding: bool, truncation: bool) -> list[int]:
    """The ids of a text; a notice tells where it was cut."""
    config = tokenizer.config
    framed = config["tokenizer_class"] == "CLIPTokenizer"
    length = config["model_max_length"]
    words = list(tokenizer_words(plpy, text, tokenizer))
    most = length - 2 if framed and truncation and length is not None else None
    ids: list[int] = []
    for place, (word, id) in enumerate(words):
        encoded = byte_pair_encoding(tokenizer, word) if id is None else [id]
        if most is not None and len(ids) + len(encoded) > most:
            rest = b" ".join(word for word, _ in words[place : place + 10])
            query(plpy, "select sql_diffusion.warn_truncated($1, $2)", ["int", "bytea"], [length, rest])
            ids = (ids + encoded)[:most]
            break
        ids += encoded
    if not framed:
        return ids
    ids = [config["bos_token_id"], *ids, config["eos_token_id"]]
    if padding and length is not None and config["pad_token_id"] is not None:
        ids += [config["pad_token_id"]] * (length - len(ids))
    return ids


def detokenize_bytes(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool) -> bytes:
    """What tokens of the vocabulary stand for, a space behind each that ends a word."""
    added = tokenizer.config["added_tokens_decoder"]
    parts = []
    for id in ids:
        if skip_special_tokens and added.get(str(id), {}).get("special"):
            continue
        token, ends_word = tokenizer.vocabulary[id]
        parts.append(token + b" " if ends_word else token)
    return b"".join(parts)
