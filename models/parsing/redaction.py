"""Secrets and personal data taken out of every text, before anything else sees it.

Each rule (`rules`) names what it finds. A value becomes `<redacted:NAME:hhhhhhhh>`, one token without blanks, where
the eight digits are a keyed hash: equal values stay equal, and without the key nobody can try guesses against them.
One cheap Rust regex over the whole column finds the few lines that may hold something; only those meet the rules.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import numpy as np
import polars as pl

from models.parsing.rules import VALIDATORS, RedactionRule

PLACEHOLDER: Final = re.compile(r"<redacted:[a-z0-9_-]+:[0-9a-f]{8}>")
_NO_KEY: Final = "00000000"
_ESCAPED: Final = re.compile(r"\\u00([2-7][0-9a-fA-F])")


def card_rows(texts: pl.Series) -> list[int]:
    """Gives the rows with a number as long as a card's, alone or in groups as cards print them.

    A regex that begins with a digit stops at every number; runs of digits are found in a few passes over all bytes.

    >>> card_rows(pl.Series(["at 12:30", "4111111111111111", "4111-1111-1111-1111", "id_4111111111111111"]))
    [1, 2]
    """
    data = b"\n" + "\n".join(texts.to_list()).encode() + b"\n"
    buffer = np.frombuffer(data, np.uint8)
    is_digit = (buffer - np.uint8(48)) < 10
    edges = np.flatnonzero(is_digit[1:] != is_digit[:-1]) + 1
    starts, lengths = edges[0::2], edges[1::2] - edges[0::2]
    if not len(starts):
        return []
    brand = (buffer[starts] >= 50) & (buffer[starts] <= 54)
    alone = brand & (lengths >= 13) & (lengths <= 19)
    four = brand & (lengths == 4)
    four[-1] = False
    following = np.flatnonzero(four)
    gap = buffer[starts[following] + 4]
    next_length = lengths[following + 1]
    four[following] &= (
        ((gap == 32) | (gap == 45))
        & (starts[following + 1] == starts[following] + 5)
        & ((next_length == 4) | (next_length == 6))
    )
    hits = starts[alone | four]
    before = buffer[hits - 1]
    letter = before & np.uint8(0xDF)  # upper case
    hits = hits[~(((letter >= 65) & (letter <= 90)) | (before == 95) | (before == 45) | (before == 46))]
    if not len(hits):
        return []
    breaks = np.cumsum(texts.str.len_bytes().to_numpy().astype(np.int64) + 1)
    rows: list[int] = np.unique(np.searchsorted(breaks, hits)).tolist()
    return rows


GATES: Final[dict[str, Callable[[pl.Series], list[int]]]] = {"card": card_rows}
_Compiled = tuple[str, re.Pattern[str], Callable[[str], bool] | None]
_MARK: Final = "\x01"  # no cleaned text has it


class Redactor:
    """The rules, compiled; made once for each set of rules and key by `redactor_of`."""

    def __init__(self, rules: tuple[RedactionRule, ...], key: bytes) -> None:
        self._key = key if len(key) <= 64 else hashlib.blake2b(key).digest()
        self._rules: list[_Compiled] = []
        self._gates: list[tuple[int, Callable[[pl.Series], list[int]]]] = []
        self._filters: list[tuple[int, str, bool]] = []
        hints = []
        for number, rule in enumerate(rules):
            if not re.fullmatch(r"[a-z0-9_-]{1,32}", rule.name):
                raise ValueError(f"redaction rule {rule.name!r}: a name has 1 to 32 of a-z, 0-9, _ and -")
            for what, name, known in (("validator", rule.validator, set(VALIDATORS)), ("gate", rule.gate, set(GATES))):
                if name and name not in known:
                    raise ValueError(f"redaction rule {rule.name!r}: no {what} {name!r}; use one of {sorted(known)}")
            try:
                self._rules.append((rule.name, re.compile(rule.pattern), VALIDATORS.get(rule.validator)))
            except re.error as error:
                raise ValueError(
                    f"redaction rule {rule.name!r}: the pattern is no regular expression: {error}"
                ) from error
            if rule.gate:
                self._gates.append((number, GATES[rule.gate]))
                continue
            hint = _rust(rule.name, "hint" if rule.hint else "pattern", rule.hint or rule.pattern)
            hints.append(hint)
            sharp = _rust(rule.name, "prefilter", rule.prefilter) if rule.prefilter else hint
            self._filters.append((number, sharp, rule.is_anchored))
        self._hints = "|".join(f"(?:{hint})" for hint in hints)

    def hash(self, value: str) -> str:
        """Gives the eight hexadecimal digits that stand for a value; zeros without a key."""
        if not self._key:
            return _NO_KEY
        return hashlib.blake2b(value.encode("utf-8", "replace"), digest_size=4, key=self._key).hexdigest()

    def digest(self, data: bytes) -> str:
        """Gives the keyed hash (256 bits, hexadecimal) of a whole message, so that equal ones can be told."""
        return hashlib.blake2b(data, digest_size=32, key=self._key).hexdigest()

    def redact_column(self, texts: pl.Series) -> dict[int, str]:
        """Gives, by row, the texts that hold something to redact, redacted.

        Shapes: texts String[N].

        >>> from models.parsing.rules import DEFAULT_RULES
        >>> redactor_of(DEFAULT_RULES, b"k" * 16).redact_column(pl.Series(["fine", "pwd=hunter2"]))
        {1: 'pwd=<redacted:secret:37fcf93f>'}
        """
        work: dict[int, list[tuple[int, list[int] | None]]] = {}  # row → rules, each with the places to try
        for number, gate in self._gates:
            for row in gate(texts):
                work.setdefault(row, []).append((number, None))
        hinted = texts.str.contains(self._hints).arg_true() if self._hints else pl.Series(dtype=pl.UInt32)
        if len(hinted):
            some = texts.gather(hinted)
            for number, pattern, is_anchored in self._filters:
                hits = some.str.contains(pattern).arg_true()
                if not len(hits):
                    continue
                rows = hinted.gather(hits).to_list()
                if is_anchored:
                    marked = some.gather(hits).str.replace_all(f"({pattern})", _MARK + "$1").to_list()
                    for row, text in zip(rows, marked, strict=True):
                        work.setdefault(row, []).append((number, _places(text)))
                else:
                    for row in rows:
                        work.setdefault(row, []).append((number, None))
        found = {}
        for row, todo in work.items():
            text = original = texts[row]
            todo.sort(key=lambda item: item[0])
            for number, places in todo:
                # Places hold for the text as it came; once a rule has changed it, the next one looks everywhere.
                text = self._apply(text, self._rules[number], places if text is original else None)
            if text != original:
                found[row] = text
        return found

    def redact(self, text: str) -> str:
        """Gives the text with every secret replaced; doing it twice changes nothing more.

        >>> from models.parsing.rules import DEFAULT_RULES
        >>> redactor_of(DEFAULT_RULES, b"k" * 16).redact("user=joe password=hunter2 ok")
        'user=joe password=<redacted:secret:37fcf93f> ok'
        """
        for rule in self._rules:
            text = self._apply(text, rule, None)
        return text

    def _apply(self, text: str, rule: _Compiled, places: list[int] | None) -> str:
        name, pattern, validator = rule
        if places is None:
            return pattern.sub(lambda match: self._replacement(match, name, validator), text)
        parts = []
        done = 0
        for place in places:
            match = pattern.match(text, place) if place >= done else None
            if match is not None:
                parts += [text[done:place], self._replacement(match, name, validator)]
                done = match.end()
        return "".join([*parts, text[done:]]) if parts else text

    def _replacement(self, match: re.Match[str], name: str, validator: Callable[[str], bool] | None) -> str:
        whole, text, begin = match[0], match.string, match.start()
        opened = text.rfind("<redacted:", max(0, begin - 48), begin + 1)
        if opened >= 0 and text.find(">", opened, begin) < 0:  # the name inside a placeholder is no name of a secret
            return whole
        start, end = match.span()
        for group in ("value", "bare"):
            if group in match.re.groupindex and match[group] is not None:
                start, end = match.span(group)
                break
        value = text[start:end]
        if PLACEHOLDER.fullmatch(value) or (validator is not None and not validator(value)):
            return whole
        return f"{whole[: start - begin]}<redacted:{name}:{self.hash(value)}>{whole[end - begin :]}"

    def redact_bytes(self, data: bytes, limit: int) -> bytes:
        """Gives a message's bytes for a dead letter: redacted, then cut at `limit` bytes with a mark.

        Bytes that are no UTF-8 are kept one to one, so that a binary message stays what it was.
        """
        try:
            text, errors = data.decode(), "replace"
        except UnicodeDecodeError:
            text, errors = data.decode(errors="surrogateescape"), "surrogateescape"
        if "\\u00" in text:  # JSON may write a name's letters as \u0070; read them before the rules look
            text = _ESCAPED.sub(_unescape, text)
        redacted = self.redact(text).encode(errors=errors)
        if len(redacted) <= limit:
            return redacted
        return redacted[:limit] + f" <cut {len(redacted) - limit} bytes>".encode()


def _places(marked: str) -> list[int]:
    """Gives where the marks stand, as places in the text without them."""
    pieces = marked.split(_MARK)
    places, place = [], 0
    for piece in pieces[:-1]:
        place += len(piece)
        places.append(place)
    return places


def _unescape(match: re.Match[str]) -> str:
    char = chr(int(match[1], 16))
    return f"\\{char}" if char in '"\\' else char


def _rust(name: str, what: str, pattern: str) -> str:
    """Gives a pattern that Rust's regex can read."""
    try:
        pl.Series([""], dtype=pl.String).str.contains(pattern)
    except pl.exceptions.ComputeError as error:
        raise ValueError(
            f"redaction rule {name!r}: Rust's regex cannot read the {what}; give a hint without look-around and back "
            "references that finds at least the same lines"
        ) from error
    return pattern


@lru_cache(maxsize=16)
def redactor_of(rules: tuple[RedactionRule, ...], key: bytes) -> Redactor:
    """Gives the compiled rules; the same object for the same settings.

    Raises:
        ValueError: a rule cannot be compiled; the message says which and what to do.
    """
    return Redactor(rules, key)
