"""What people have changed about the templates of one service: joined, kept as they are, parted by a word, masked further.

Ids stay: a template that is joined to another keeps its own, and its lines count as the other's from then on, until that is taken back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import polars as pl

from models.errors import SettingsError

_PROBE = "probe 1.2.3.4 of <num> texts"


@dataclass(frozen=True)
class Edits:
    """All changes in force.

    Attributes:
        joined: template id → the one that it counts as.
        pinned: ids of templates whose text stays as it is, whatever lines join them.
        keep_words: words that part templates, in lower case.
        masks: (name, regular expression over the masked text); what matches becomes `<name>`.
    """

    joined: Mapping[int, int] = field(default_factory=dict)
    pinned: frozenset[int] = frozenset()
    keep_words: frozenset[str] = frozenset()
    masks: tuple[tuple[str, str], ...] = ()

    def final(self, template: int) -> int:
        """The template that one counts as.

        >>> Edits(joined={1: 2, 2: 3}).final(1)
        3
        """
        while template in self.joined:
            template = self.joined[template]
        return template

    def masked(self, texts: Iterable[str]) -> list[str]:
        """Texts with these masks applied, in order. The expressions are those of Rust's regex: their time is linear.

        >>> Edits(masks=(("flag", "--[a-z]+"),)).masked(["run --fast 7"])
        ['run <flag> 7']
        """
        column = pl.Series(list(texts), dtype=pl.String)
        for name, pattern in self.masks:
            column = column.str.replace_all(pattern, f"<{name}>")
        return column.to_list()


NO_EDITS = Edits()


def check_mask(pattern: str) -> None:
    """Passes if this can be a mask.

    Raises: SettingsError if it is no regular expression, or matches nothing at all and so everything.
    """
    try:
        matches_nothing = pl.Series(["", _PROBE]).str.contains(f"^(?:{pattern})$")[0]
    except pl.exceptions.PolarsError as error:
        raise SettingsError(f"it is no regular expression of Rust's syntax: {str(error).splitlines()[0]}") from error
    if matches_nothing:
        raise SettingsError("it matches the empty text, so it would be everywhere")
