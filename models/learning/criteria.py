"""A criterion in words and figures: what a decision about a model rests on, for logs, the console and tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Criterion:
    """One criterion.

    Attributes:
        name: short, the same in every run.
        is_met: whether it is.
        value, bound: the figure, and what it is compared with; None where there is nothing to compare.
        words: both in one sentence.
    """

    name: str
    is_met: bool
    value: float | None
    bound: float | None
    words: str


@dataclass(frozen=True, slots=True)
class Decision:
    """Criteria that must all be met."""

    criteria: tuple[Criterion, ...]

    @property
    def is_met(self) -> bool:
        """Whether all are."""
        return all(one.is_met for one in self.criteria)

    @property
    def words(self) -> str:
        """What is missing; with nothing missing, all of it."""
        return sentences([one for one in self.criteria if not one.is_met] or self.criteria)

    def to_json(self) -> list[dict[str, Any]]:
        """The criteria as JSON values, as the console's page of trainings reads them."""
        return [
            {
                "criterion": one.name,
                "figure": one.value,
                "bound": one.bound,
                "is_passed": one.is_met,
                "words": one.words,
            }
            for one in self.criteria
        ]


def sentences(criteria: Sequence[Criterion]) -> str:
    """Their words in a row.

    >>> sentences([Criterion("lines", False, 3, 5, "3 lines of 5"), Criterion("sessions", True, 9, 2, "9 sessions")])
    '3 lines of 5; 9 sessions'
    """
    return "; ".join(one.words for one in criteria)
