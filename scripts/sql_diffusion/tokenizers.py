"""Reads a checkpoint's tokenizer, a byte-level byte-pair encoding of CLIP or GPT-2. Needs the standard library alone.

Its folder holds either tokenizer.json or vocab.json and merges.txt, and what was set in tokenizer_config.json,
special_tokens_map.json and added_tokens.json, of which only what there is is read.
"""

from pathlib import Path
from typing import Any, NamedTuple

from .errors import Problem
from .json_files import read_json

FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
)
CLIP, GPT2 = "CLIPTokenizer", "GPT2Tokenizer"
SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
DEFAULTS = {
    CLIP: {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
    GPT2: {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
}
END_OF_WORD = "</w>"
LONGEST = 1_000_000  # a larger model_max_length says that there is none


class Token(NamedTuple):
    """A row of sql_diffusion.vocabulary."""

    id: int
    token: bytes
    ends_word: bool


class Merge(NamedTuple):
    """A row of sql_diffusion.merges."""

    first: int
    second: int
    rank: int
    merged: int


class Tokenizer(NamedTuple):
    """What the tables hold of one."""

    config: dict[str, Any]
    vocabulary: list[Token]
    merges: list[Merge]


def byte_alphabet() -> dict[str, int]:
    """Character -> the byte that it stands for in vocab.json: printable ones for themselves, others from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def read_tokenizer(folder: Path, tokenizer_class: str | None = None) -> Tokenizer:
    """The tokenizer in a folder. Its class is what tokenizer_config.json says, unless another is named here.

    Raises a Problem for a file that is damaged and for a tokenizer that is not run.
    """

    def optional(name: str) -> dict[str, Any]:
        return read_json(folder / name, name) if (folder / name).is_file() else {}

    settings, whole = optional("tokenizer_config.json"), optional("tokenizer.json")
    name = tokenizer_class or settings.get("tokenizer_class") or "without a class"
    name = str(name).removesuffix("Fast")
    if name not in DEFAULTS:
        raise Problem(f"{folder} is a tokenizer {name}; {CLIP} and {GPT2} are run", None)
    check_whole(folder, name, whole)
    if name == GPT2 and settings.get("add_bos_token") and not whole:
        raise Problem(f"{folder}: setting add_bos_token is true, expected false", None)

    vocab, pairs = read_pairs(folder, whole)
    added = added_tokens(
        name, vocab, settings, whole, optional("special_tokens_map.json"), optional("added_tokens.json")
    )
    for content, given in added.items():
        vocab.setdefault(content, given["id"])

    config: dict[str, Any] = {"tokenizer_class": name}
    special = special_tokens(name, settings, optional("special_tokens_map.json"))
    for key in ("bos_token", "eos_token", "pad_token", "unk_token"):
        token = special.get(key)
        config[key] = None if token is None else text_of(token)
        config[f"{key}_id"] = None if token is None else vocab.get(text_of(token))
    longest = settings.get("model_max_length")
    usable = isinstance(longest, int | float) and longest <= LONGEST
    config["model_max_length"] = int(longest) if usable else None  # type: ignore[arg-type]
    config["add_prefix_space"] = name == GPT2 and bool(settings.get("add_prefix_space", False))
    config["added_tokens_decoder"] = {
        str(token["id"]): {"content": content, "special": token["special"], "normalized": token["normalized"]}
        for content, token in sorted(added.items(), key=lambda item: int(item[1]["id"]))
    }
    return Tokenizer(config, vocabulary(name, vocab), merges(folder, vocab, pairs))


def check_whole(folder: Path, name: str, whole: dict[str, Any]) -> None:
    """tokenizer.json can say things of which transformers' class of that name takes over the last alone."""
    if not whole:
        return
    kind = whole.get("model", {}).get("type", "BPE")
    if kind != "BPE":
        raise Problem(f"{folder}/tokenizer.json is a {kind}, and only BPE is run", None)
    processor = (whole.get("post_processor") or {}).get("type")
    if processor not in {CLIP: (None, "RobertaProcessing"), GPT2: (None, "ByteLevel")}[name]:
        single = whole["post_processor"].get("single")
        if not (name == GPT2 and single is not None and len(single) == 1):  # a template without a token of its own
            raise Problem(f"{folder}/tokenizer.json has a post_processor {processor}, which is not run", None)


def read_pairs(folder: Path, whole: dict[str, Any]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Token -> id, and the merges in their order."""
    if whole:
        model = whole["model"]
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in model.get("merges", [])]
        return dict(model["vocab"]), [two(folder / "tokenizer.json", pair) for pair in pairs]
    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise Problem(f"{folder} holds neither tokenizer.json nor {name}", "Fetch the whole folder again.")
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    lines = [line.removesuffix("\r") for line in lines if not line.startswith("#version")]
    return (
        read_json(folder / "vocab.json", "vocab.json"),
        [two(folder / "merges.txt", line.split(" ")) for line in lines if line],
    )


def two(file: Path, parts: list[str]) -> tuple[str, str]:
    if len(parts) != 2:
        raise Problem(f"{file}: merge {' '.join(parts)!r} is not of two tokens", "Fetch it again.")
    return parts[0], parts[1]


def text_of(token: Any) -> str:
    """A token as tokenizer_config.json writes it: a text, or an object that has it as its content."""
    return str(token["content"] if isinstance(token, dict) else token)


def special_tokens(name: str, settings: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """The tokens of start, end, padding and so on; special_tokens_map.json is read where the settings are of old."""
    given = {key: value for key, value in settings.items() if key in SPECIAL}
    if "added_tokens_decoder" not in settings:
        given |= {key: value for key, value in special.items() if key in SPECIAL}
    return DEFAULTS[name] | given


def added_tokens(
    name: str,
    vocab: dict[str, int],
    settings: dict[str, Any],
    whole: dict[str, Any],
    special_map: dict[str, Any],
    added_file: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Content -> id, special, normalized of each token that is looked for in a text before anything else.

    They are put together as transformers does it: the list of the settings or of the older files, then the special
    tokens that are not in it; of two that differ in more than their content the last one counts.
    """
    named = special_tokens(name, settings, special_map)
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    extra = list(extra.values()) if isinstance(extra, dict) else list(extra)
    listed: dict[int, dict[str, Any]] = {}
    if "added_tokens_decoder" in settings:
        listed = {int(id): flags(token, False) for id, token in settings["added_tokens_decoder"].items()}
    else:
        specials = {text_of(token) for token in [*named.values(), *extra] if token is not None}
        for content, id in added_file.items():
            listed[id] = flags({"content": content, "normalized": content not in specials}, content in specials)
        for token in whole.get("added_tokens", []):
            listed[token["id"]] = flags(token, False)

    tokens = [token for _, token in sorted(listed.items())]
    contents = {token["content"] for token in tokens}
    for given in [*(named.get(key) for key in SPECIAL), *extra]:
        if given is not None and text_of(given) not in contents:
            token = flags(given, True)
            if token not in tokens:
                tokens.append(token)

    added: dict[str, dict[str, Any]] = {}
    size = len(vocab)
    for token in tokens:
        content = token["content"]
        for setting in ("lstrip", "rstrip", "single_word"):
            if token[setting]:
                raise Problem(f"added token {content!r}: setting {setting} is true, expected false", None)
        if not content:
            continue
        if content not in vocab and content not in added:
            token["id"], size = size, size + 1
        else:
            token["id"] = vocab[content] if content in vocab else added[content]["id"]
        added[content] = token
    return added


def flags(token: Any, special: bool) -> dict[str, Any]:
    """An added token with all its flags; a text becomes a special one that is looked for in the text as it is."""
    given = token if isinstance(token, dict) else {"content": token}
    special = bool(given.get("special", special)) or special
    return {
        "content": str(given["content"]),
        "special": special,
        "normalized": bool(given.get("normalized", not special)),
        **{setting: bool(given.get(setting, False)) for setting in ("lstrip", "rstrip", "single_word")},
    }


def vocabulary(name: str, vocab: dict[str, int]) -> list[Token]:
    """The rows, in the order of their ids."""
    alphabet = byte_alphabet()
    tokens = []
    for text, id in sorted(vocab.items(), key=lambda item: item[1]):
        ends_word = name == CLIP and text.endswith(END_OF_WORD)
        bare = text.removesuffix(END_OF_WORD) if ends_word else text
        known = all(character in alphabet for character in bare)
        tokens.append(Token(id, bytes(alphabet[c] for c in bare) if known else bare.encode(), ends_word))
    return tokens


def merges(folder: Path, vocab: dict[str, int], pairs: list[tuple[str, str]]) -> list[Merge]:
    """The rows; of a pair that is there twice the last one counts."""
    found: dict[tuple[int, int], Merge] = {}
    for rank, (left, right) in enumerate(pairs):
        if missing := [token for token in (left, right, left + right) if token not in vocab]:
            raise Problem(
                f"{folder}: merge {left} {right} has a token {missing[0]} that is not in the vocabulary", None
            )
        pair = vocab[left], vocab[right]
        found[pair] = Merge(*pair, rank, vocab[left + right])
    return list(found.values())
