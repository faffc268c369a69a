"""Write sql/tokenizers/unicode.sql: what a tokenizer has to know of each character, as compact constants.

    .venv/bin/python scripts/unicode_tables.py > sql/tokenizers/unicode.sql

Every code point is shown to the library `tokenizers`, which transformers' tokenizers run on, so the constants are of that
library's edition of Unicode and not of Python's or the server's. tests/test_tokenizer.py says when a new one differs.
"""

from __future__ import annotations

import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [code for code in range(1, 0x110000) if not 0xD800 <= code < 0xE000]
LETTER, NUMBER, SPACE, UNSTABLE = 1, 2, 3, 4
HANGUL = range(0xAC00, 0xAC00 + 11172)
HANGUL_FOLLOWING = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}

nfc, nfd, lower = normalizers.NFC(), normalizers.NFD(), normalizers.Lowercase()


def matches(pattern: str) -> set[int]:
    """The code points that the library's regular expressions take for this."""
    found: set[int] = set()
    splitter = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
    for start in range(0, len(CODES), 4096):
        text = "".join(map(chr, CODES[start : start + 4096]))
        for piece, _ in splitter.pre_tokenize_str(text):
            found.update(map(ord, piece))
    return found


def combining_classes() -> dict[int, int]:
    """Code point -> canonical combining class, of those that have one.

    The library tells none, but sorts by them: each is compared with marks of classes that never changed.
    """
    high, low = "\u0345", "\u0334"  # classes 240 and 1, the highest and the lowest
    moving = [
        code
        for code in CODES
        if code not in HANGUL
        and nfd.normalize_str(chr(code)) == chr(code)
        and (
            nfd.normalize_str(high + chr(code)) != high + chr(code)
            or nfd.normalize_str(chr(code) + low) != chr(code) + low
        )
    ]
    marks: dict[int, str] = {}  # one of each class
    for code in moving:
        marks.setdefault(unicodedata.combining(chr(code)), chr(code))
    classes = {}
    for code in moving:
        # its class is the one with which neither order is changed
        found = [
            c
            for c, mark in marks.items()
            if all(nfd.normalize_str(pair) == pair for pair in (mark + chr(code), chr(code) + mark))
        ]
        assert len(found) == 1, (hex(code), found)
        classes[code] = found[0]
    return classes


def decompositions(classes: dict[int, int]) -> dict[int, tuple[int, int, bool]]:
    """Code point -> the two that it is made of (or one and 0), and whether these are put together again.

    Only the first of the two can be made of others itself.
    """
    whole = {chr(code): nfd.normalize_str(chr(code)) for code in CODES if code not in HANGUL}
    whole = {character: parts for character, parts in whole.items() if parts != character}
    of_parts = {parts: character for character, parts in whole.items()}
    found = {}
    for character, parts in whole.items():
        if len(parts) == 1:
            found[ord(character)] = (ord(parts), 0, False)
            continue
        head = nfc.normalize_str(parts[:-1])
        if len(head) > 1:
            head = of_parts[parts[:-1]]
        found[ord(character)] = (ord(head), ord(parts[-1]), nfc.normalize_str(parts) == character)
    for code, (first, second, composes) in found.items():
        assert second not in found, hex(code)
        assert not (composes and classes.get(first)), hex(code)
    return found


def boundaries(value: dict[int, int], scale: int) -> list[int]:
    """code x scale + value wherever the value becomes another one, from code 0 on."""
    result, last = [0], 0
    for code in range(1, 0x110001):
        if value.get(code, 0) != last:
            last = value.get(code, 0)
            result.append(code * scale + last)
    return result


def function(name: str, numbers: list[int], comment: str) -> str:
    lines, line = [], "  "
    for number in numbers:
        if len(line) > 130:
            lines.append(line)
            line = "  "
        line += f"{number},"
    lines.append(line.rstrip(","))
    body = "\n".join(lines)
    return (
        f"create function sql_diffusion.{name}() returns int[]\nlanguage sql immutable parallel safe\nreturn '{{\n{body}}}'::int[];\n"
        f"comment on function sql_diffusion.{name}() is\n  '{comment}';\n"
    )


def main() -> None:
    classes = combining_classes()
    parts = decompositions(classes)
    lowered = {code: lower.normalize_str(chr(code)) for code in CODES}
    lowered = {code: text for code, text in lowered.items() if text != chr(code)}
    longer = {code: text for code, text in lowered.items() if len(text) > 1}
    assert longer == {0x130: "i\u0307"}, longer

    kind = (
        dict.fromkeys(matches(r"\p{L}"), LETTER)
        | dict.fromkeys(matches(r"\p{N}"), NUMBER)
        | dict.fromkeys(matches(r"\s"), SPACE)
    )
    unstable = HANGUL_FOLLOWING | set(classes) | {second for _, second, composes in parts.values() if composes}
    unstable |= {code for code, (_, _, composes) in parts.items() if not composes}
    for code in unstable:
        kind[code] = kind.get(code, 0) + UNSTABLE

    sys.stdout.write(
        "-- What a tokenizer has to know of each character, as sorted arrays that width_bucket searches: the same in every database, whatever\n"
        "-- its encoding and locale. Written by scripts/unicode_tables.py.\n\n"
    )
    names = sorted(lowered)
    codes = sorted(parts)
    for text in (
        function(
            "unicode_classes",
            boundaries(kind, 8),
            "Code point x 8 + class wherever the class changes. Class: 0 other, 1 letter, 2 number, 3 white space; 4 more where NFC may change the character or join it to the one before.",
        ),
        function("unicode_uppercase", names, "The code points that have a lower case, ascending."),
        function(
            "unicode_lowercase",
            [ord(lowered[code][0]) for code in names],
            "The lower case of each code point of unicode_uppercase; U+0130 becomes U+0069 and U+0307, of which this has the first.",
        ),
        function(
            "unicode_decomposed",
            codes,
            "The code points with a canonical decomposition, ascending, without the Hangul syllables, which are calculated.",
        ),
        function(
            "unicode_decomposition_first",
            [parts[code][0] for code in codes],
            "The first of the two code points that each of unicode_decomposed is made of.",
        ),
        function(
            "unicode_decomposition_second",
            [parts[code][1] if parts[code][2] else -parts[code][1] for code in codes],
            "The second of the two code points that each of unicode_decomposed is made of; 0 where there is none, negative where the two are not put together again.",
        ),
        function(
            "unicode_combining_classes",
            boundaries(classes, 256),
            "Code point x 256 + canonical combining class wherever that changes.",
        ),
    ):
        sys.stdout.write(text + "\n")


if __name__ == "__main__":
    main()
