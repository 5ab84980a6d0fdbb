"""Which text lies in which template: the memo across batches, and one batch while its unknown texts are placed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Final

import numpy as np
from numpy.typing import NDArray

from models.masking import MaskParams, tokenise
from models.statistics import grown

NEVER: Final = 0  # the leaf of texts that nothing can move: those in an overflow template

Int32s = NDArray[np.int32]
Int64s = NDArray[np.int64]


class Memo:
    """The texts seen lately, each with its template and its leaf; what lies in a leaf disturbed since is forgotten.

    Bound: `max_texts` texts of `max_chars` characters together; when full, all are forgotten, which changes no answer.
    """

    def __init__(self, max_texts: int, max_chars: int) -> None:
        self._max_texts = max_texts
        self._max_chars = max_chars
        self._chars = 0
        self._slots: dict[str, int] = {}
        self._seq = np.zeros(1024, np.int32)
        self._leaf = np.zeros(1024, np.int32)
        self._version = np.zeros(1024, np.int32)
        self._leaf_version = np.zeros(64, np.int32)

    def __len__(self) -> int:
        return len(self._slots)

    def find(self, texts: Sequence[str]) -> tuple[Int32s, Int32s]:
        """Template and leaf of each text, -1 where it is not known.

        Shapes: texts [T] → int32[T], int32[T].
        """
        slots = np.fromiter(map(self._slots.get, texts, repeat(-1)), np.int64, len(texts))
        leaf = self._leaf[slots]
        is_known = (slots >= 0) & (self._version[slots] == self._leaf_version[leaf])
        return np.where(is_known, self._seq[slots], -1).astype(np.int32), np.where(is_known, leaf, -1).astype(np.int32)

    def remember(self, text: str, seq: int, leaf: int) -> None:
        """Keep where a text was placed."""
        slot = self._slots.get(text)
        if slot is None:
            if len(self._slots) >= self._max_texts or self._chars >= self._max_chars:
                self.clear()
            slot = self._slots[text] = len(self._slots)
            self._chars += len(text)
            self._seq, self._leaf = grown(self._seq, slot + 1), grown(self._leaf, slot + 1)
            self._version = grown(self._version, slot + 1)
        self._leaf_version = grown(self._leaf_version, leaf + 1)
        self._seq[slot], self._leaf[slot], self._version[slot] = seq, leaf, self._leaf_version[leaf]

    def disturb(self, leaf: int) -> None:
        """Forget all texts of a leaf."""
        self._leaf_version = grown(self._leaf_version, leaf + 1)
        self._leaf_version[leaf] += 1

    def clear(self) -> None:
        """Forget all texts."""
        self._slots.clear()
        self._chars = 0


class Batch:
    """One batch while its unknown texts are placed."""

    def __init__(self, texts: Sequence[str], text_of_line: Int32s, seq_of_text: Int32s, leaf_of_text: Int32s) -> None:
        self.texts = texts
        self.leaf_of_text = leaf_of_text  # -1: not placed, or waiting to be placed again
        self._text_of_line = text_of_line
        self._first_seq = seq_of_text
        self._seq = seq_of_text.copy()
        self._moves: list[tuple[int, int, int]] = []  # (text, from line, seq)
        self._order = np.argsort(text_of_line, kind="stable")  # lines by text, in source order
        self._starts = np.searchsorted(text_of_line[self._order], np.arange(len(texts) + 1))
        self._tokens: dict[int, tuple[str, ...]] = {}

    def unknown(self) -> list[tuple[int, int]]:
        """(first line, text) of the texts to place, a heap."""
        texts = np.flatnonzero(self.leaf_of_text < 0)
        texts = texts[self._starts[texts] < self._starts[texts + 1]]
        return sorted(zip(self._order[self._starts[texts]].tolist(), texts.tolist(), strict=True))

    def leave(self, leaf: int, line: int) -> list[tuple[int, int]]:
        """Take the texts of a disturbed leaf out of it; gives (next line, text) of those that come again."""
        texts: list[int] = np.flatnonzero(self.leaf_of_text == leaf).tolist()
        self.leaf_of_text[texts] = -1
        next_lines = ((self._next_line(text, line), text) for text in texts)
        return [(again, text) for again, text in next_lines if again is not None]

    def assign(self, text: int, line: int, seq: int, leaf: int) -> None:
        """From this line on, the text has this template."""
        self.leaf_of_text[text] = leaf
        if self._seq[text] < 0:
            self._first_seq[text] = seq
        elif self._seq[text] != seq:
            self._moves.append((text, line, seq))
        self._seq[text] = seq

    def seq_of_line(self) -> Int32s:
        """The template of each line."""
        seq = self._first_seq[self._text_of_line]
        for text, line, moved in self._moves:
            lines = self._lines(text)
            seq[lines[np.searchsorted(lines, line) :]] = moved
        return seq

    def tokens_of(self, text: int, params: MaskParams) -> tuple[str, ...]:
        """The tokens of one text, made once a batch."""
        if text not in self._tokens:
            waiting = np.flatnonzero(self.leaf_of_text < 0).tolist()
            wanted = [one for one in waiting if one not in self._tokens]
            masked = [self.texts[one].partition("\0")[2] for one in wanted]
            self._tokens.update(zip(wanted, tokenise(masked, params), strict=True))
        return self._tokens[text]

    def _lines(self, text: int) -> Int64s:
        return self._order[self._starts[text] : self._starts[text + 1]]

    def _next_line(self, text: int, line: int) -> int | None:
        """The first line of a text after this one."""
        lines = self._lines(text)
        at = int(np.searchsorted(lines, line, side="right"))
        return int(lines[at]) if at < len(lines) else None
