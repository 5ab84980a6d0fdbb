"""IPLoM: lines are split by length, by the position that varies least, and by which tokens come together.

Source: Makanju, Zincir-Heywood and Milios, Clustering Event Logs Using Iterative Partitioning (KDD 2009), section 3.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from models.drain import PARAMETER

_Line = tuple[str, ...]
_Part = list[int]  # places of lines in the input


@dataclass(frozen=True)
class Iplom:
    """The settings of the paper; its upper bound is not among them, since what lies between the bounds goes as above them.

    Attributes:
        goodness: a part with at least this share of constant positions is not split by mapping.
        lower: where a token meets many others, these are constants if they are at most this share of the lines.

    >>> lines = ["user ann came in", "user bob came in", "disk sda is full", "disk sdb is full", "bye"]
    >>> groups, templates = Iplom().mine([tuple(line.split()) for line in lines])
    >>> groups, [" ".join(template) for template in templates]
    ([0, 0, 1, 1, 2], ['user <*> came in', 'disk <*> is full', 'bye'])
    """

    goodness: float = 0.6
    lower: float = 0.25

    def mine(self, lines: Sequence[_Line]) -> tuple[list[int], list[_Line]]:
        """The number of each line's template, and the templates in order of their first line."""
        parts = self._parts(lines)
        groups, templates = [0] * len(lines), []
        for number, part in enumerate(sorted(parts)):
            columns = zip(*(lines[at] for at in part), strict=True)
            templates.append(tuple(_only(column) for column in columns))
            for at in part:
                groups[at] = number
        return groups, templates

    def _parts(self, lines: Sequence[_Line]) -> list[_Part]:
        by_length: defaultdict[int, _Part] = defaultdict(list)
        for at, line in enumerate(lines):
            by_length[len(line)].append(at)
        made = []
        for part in by_length.values():
            for piece in self._by_position(lines, part):
                made += self._by_mapping(lines, piece)
        return made

    def _by_position(self, lines: Sequence[_Line], part: _Part) -> list[_Part]:
        """Step 2: split by the tokens of the position that has the fewest, the first of them."""
        cardinalities = _cardinalities(lines, part)
        if not cardinalities:
            return [part]
        place = cardinalities.index(min(cardinalities))
        return _split(part, [lines[at][place] for at in part])

    def _by_mapping(self, lines: Sequence[_Line], part: _Part) -> list[_Part]:
        """Step 3: split by how the tokens of two positions go together."""
        cardinalities = _cardinalities(lines, part)
        places = None if self._is_good(cardinalities) else _two_places(cardinalities)
        if places is None:
            return [part]
        first, second = places
        made, many_with_many = [], []
        for linked in _linked(lines, part, first, second):
            left = {lines[at][first] for at in linked}
            right = {lines[at][second] for at in linked}
            if len(left) > 1 and len(right) > 1:
                many_with_many += linked
                continue
            many, one = (second, first) if len(left) == 1 else (first, second)
            is_constant = max(len(left), len(right)) <= self.lower * len(linked)
            made += _split(linked, [lines[at][many if is_constant else one] for at in linked])
        return [*made, sorted(many_with_many)] if many_with_many else made

    def _is_good(self, cardinalities: Sequence[int]) -> bool:
        return not cardinalities or cardinalities.count(1) >= self.goodness * len(cardinalities)


def _two_places(cardinalities: Sequence[int]) -> tuple[int, int] | None:
    """The first two positions of the most frequent number of tokens above one; where only one has it, one of the next."""
    varying = Counter(number for number in cardinalities if number > 1)
    if varying.total() < 2:
        return None
    ranked = sorted(varying, key=lambda number: (-varying[number], number))
    places = [place for number in ranked[:2] for place, found in enumerate(cardinalities) if found == number]
    first, second = sorted(places[:2])
    return first, second


def _linked(lines: Sequence[_Line], part: _Part, first: int, second: int) -> Iterable[_Part]:
    """The part by tokens that reach each other over lines: a token at one place, all it meets at the other, and so on."""
    root: dict[tuple[int, str], tuple[int, str]] = {}

    def find(token: tuple[int, str]) -> tuple[int, str]:
        while root.setdefault(token, token) != token:
            root[token] = root[root[token]]
            token = root[token]
        return token

    for at in part:
        root[find((first, lines[at][first]))] = find((second, lines[at][second]))
    return _split(part, [find((first, lines[at][first])) for at in part])


def _split(part: _Part, keys: Sequence[object]) -> list[_Part]:
    """The part by key, in order of first line."""
    made: defaultdict[object, _Part] = defaultdict(list)
    for at, key in zip(part, keys, strict=True):
        made[key].append(at)
    return list(made.values())


def _cardinalities(lines: Sequence[_Line], part: _Part) -> list[int]:
    """Number of different tokens at each position."""
    return [len(set(column)) for column in zip(*(lines[at] for at in part), strict=True)]


def _only(column: Sequence[str]) -> str:
    return column[0] if len(set(column)) == 1 else PARAMETER
