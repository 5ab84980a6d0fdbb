"""Spell: lines whose longest common subsequence is long enough share a template.

Source: Du and Li, Spell: Streaming Parsing of System Event Logs (ICDM 2016), section IV.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.drain import PARAMETER

MIN_SHARE: Final = 0.5  # of a line's tokens that it must have in common with a template, after the paper


class Spell:
    """Templates of lines fed one by one.

    State: the templates, and where each distinct line went when it was first seen; unbounded.

    Args:
        min_share: the least share of a line's tokens in the common subsequence.

    >>> spell = Spell()
    >>> [spell.add(line.split()) for line in ("user ann came in", "user bob came in", "disk is full", "user eve and kim came in")]
    [0, 0, 1, 0]
    >>> [" ".join(template) for template in spell.templates]
    ['user <*> came in', 'disk is full']
    """

    def __init__(self, min_share: float = MIN_SHARE) -> None:
        self.templates: list[tuple[str, ...]] = []  # runs of what differs are one `<*>`
        self._sequences: list[tuple[str, ...]] = []  # the same without `<*>`
        self._sets: list[frozenset[str]] = []
        self._seen: dict[tuple[str, ...], int] = {}
        self._min_share = min_share

    def add(self, tokens: Sequence[str]) -> int:
        """The number of the line's template, which the line may make or change."""
        line = tuple(tokens)
        found = self._seen.get(line)
        if found is None:
            found = self._seen[line] = self._place(line)
        return found

    def _place(self, line: tuple[str, ...]) -> int:
        best, best_common = self._closest(line)
        if best < 0:
            self.templates.append(line)
            self._sequences.append(line)
            self._sets.append(frozenset(line))
            return len(self.templates) - 1
        if best_common != len(self.templates[best]) or best_common != len(line):
            template = common(self.templates[best], line)
            self.templates[best] = template
            self._sequences[best] = tuple(token for token in template if token != PARAMETER)
            self._sets[best] = frozenset(self._sequences[best])
        return best

    def _closest(self, line: tuple[str, ...]) -> tuple[int, int]:
        """The template with the longest common subsequence, the shorter of two, and its length; -1 if none is long enough."""
        least = max(1.0, self._min_share * len(line))
        present = set(line)
        best, best_rank = -1, (0, 0)
        for number, sequence in enumerate(self._sequences):
            # No subsequence is longer than the template, nor can have tokens that one of the two lacks.
            if len(sequence) < max(least, best_rank[0]) or len(self._sets[number] & present) < 1:
                continue
            length = _lengths(sequence, line)[0][0]
            rank = (length, -len(sequence))
            if length >= least and rank > best_rank:
                best, best_rank = number, rank
        return best, best_rank[0]


def common(template: Sequence[str], line: Sequence[str]) -> tuple[str, ...]:
    """The longest common subsequence, with one `<*>` for every stretch in which the two differ.

    >>> common(("a", "b", "c", "d"), ("a", "x", "y", "c", "d"))
    ('a', '<*>', 'c', 'd')
    """
    lengths = _lengths(template, line)
    made: list[str] = []
    row = column = 0
    while row < len(template) or column < len(line):
        is_both = row < len(template) and column < len(line)
        if is_both and template[row] == line[column] != PARAMETER:
            made.append(template[row])
            row, column = row + 1, column + 1
            continue
        if not made or made[-1] != PARAMETER:
            made.append(PARAMETER)
        if column == len(line) or (is_both and lengths[row + 1][column] >= lengths[row][column + 1]):
            row += 1
        else:
            column += 1
    return tuple(made)


def _lengths(one: Sequence[str], other: Sequence[str]) -> list[list[int]]:
    """Length of the longest common subsequence of every pair of tails.

    Shapes: [len(one) + 1][len(other) + 1].
    """
    table = [[0] * (len(other) + 1) for _ in range(len(one) + 1)]
    for row in range(len(one) - 1, -1, -1):
        token, below, here = one[row], table[row + 1], table[row]
        for column in range(len(other) - 1, -1, -1):
            if token == other[column] != PARAMETER:
                here[column] = below[column + 1] + 1
            else:
                here[column] = max(below[column], here[column + 1])
    return table
