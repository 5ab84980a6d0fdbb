"""Tracing: the masks once more over one message, keeping for every piece where in the message it came from.

So a value is exactly what stood in the line. This costs as much as all the masks: `models.layouts` spares most of it.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from models.masking import CUT, Mask, MaskParams, cap, python_pattern

PLACEHOLDER: Final = re.compile(r"<(?:\*|[a-z]+)>")
_GROUP: Final = re.compile(r"\$\{([0-9]+)\}")
_TOKEN: Final = re.compile(r"\S+")


class Hole(NamedTuple):
    """A placeholder inside a token: where it lies there, which mask made it, what it stands for and where that begins."""

    start: int
    end: int
    mask: str
    value: str
    at: int


class Piece(NamedTuple):
    """One token of the masked message, the text it came from, its holes, and where in the message the text begins."""

    token: str
    raw: str
    holes: tuple[Hole, ...]
    at: int


class _Traced:
    """A text under substitution that remembers, for each character, the stretch of the message it stands for."""

    def __init__(self, message: str) -> None:
        self.text = message
        self._message = message
        self._starts = list(range(len(message)))
        self._ends = list(range(1, len(message) + 1))

    def substitute(self, mask: Mask) -> None:
        """Replace every match, as `str.replace_all` does."""
        if mask.needs and mask.needs not in self.text:
            return
        matches = list(python_pattern(mask.pattern).finditer(self.text))
        if not matches:
            return
        source, at = self, 0
        built = _Traced("")
        built._message = self._message
        bits = _GROUP.split(mask.replacement)  # literal, group, literal, …
        for match in matches:
            built._copy(source, at, match.start())
            at = match.start()
            for place, bit in enumerate(bits):
                if place % 2:
                    built._copy(source, *match.span(int(bit)))
                    at = match.end(int(bit))
                elif bit:
                    end = match.start(int(bits[place + 1])) if place + 1 < len(bits) else match.end()
                    built._put(bit, source._stretch(at, end))
            at = match.end()
        built._copy(source, at, len(source.text))
        self.text, self._starts, self._ends = built.text, built._starts, built._ends

    def _copy(self, source: _Traced, start: int, end: int) -> None:
        self.text += source.text[start:end]
        self._starts += source._starts[start:end]
        self._ends += source._ends[start:end]

    def _put(self, text: str, stretch: tuple[int, int]) -> None:
        self.text += text
        self._starts += [stretch[0]] * len(text)
        self._ends += [stretch[1]] * len(text)

    def pieces(self, max_tokens: int) -> list[Piece]:
        """The tokens, capped as Drain sees them."""
        found = list(_TOKEN.finditer(self.text))
        tokens = cap([match.group() for match in found], max_tokens)
        return [
            Piece(
                token,
                self._raw(match.start(), match.end()),
                tuple(self._hole(match.start(), hole) for hole in PLACEHOLDER.finditer(match.group())),
                self._starts[match.start()],
            )
            for token, match in zip(tokens, found, strict=False)
            if token != CUT
        ]

    def _hole(self, token_at: int, match: re.Match[str]) -> Hole:
        start, end = token_at + match.start(), token_at + match.end()
        return Hole(match.start(), match.end(), match.group()[1:-1], self._raw(start, end), self._starts[start])

    def _raw(self, start: int, end: int) -> str:
        """What a stretch of the present text stands for in the message."""
        first, last = self._stretch(start, end)
        return self._message[first:last]

    def _stretch(self, start: int, end: int) -> tuple[int, int]:
        if start >= end:
            edge = self._ends[start - 1] if start else 0
            return edge, edge
        return self._starts[start], self._ends[end - 1]


def trace(message: str, params: MaskParams) -> list[Piece]:
    """The tokens of a message as `mask` and `tokenise` make them, each with the text it came from; without cut marks."""
    traced = _Traced(message[: params.max_chars])
    for mask in (*params.masks, *params.shapes):
        traced.substitute(mask)
    return traced.pieces(params.max_tokens)
