"""Lines of many kinds that nobody tuned the rules to are grouped by the sentences they are made of."""

from __future__ import annotations

from functools import lru_cache

import pytest

from models.grouping import grouping_accuracy, mine
from tests.unit.line_shapes import MORE_SHAPES, SHAPES, lines


@lru_cache
def accuracy(kind: str) -> float:
    made = lines(kind)
    return grouping_accuracy(mine([line for line, _ in made])[1], [sentence for _, sentence in made])


@pytest.mark.parametrize("kind", SHAPES | MORE_SHAPES)
def test_lines_of_any_kind_are_mostly_grouped_by_sentence(kind):
    assert accuracy(kind) >= 0.75


def test_lines_of_all_kinds_together_are_grouped_well():
    assert sum(map(accuracy, SHAPES)) / len(SHAPES) >= 0.97
    assert sum(map(accuracy, MORE_SHAPES)) / len(MORE_SHAPES) >= 0.87


def test_every_line_differs_from_its_sentence_and_comes_again_with_the_seed():
    for kind in SHAPES | MORE_SHAPES:
        made = lines(kind, 5)
        assert made == lines(kind, 5)
        assert len(made) == 5 * len((SHAPES | MORE_SHAPES)[kind])
        assert not any("{" in sentence and line == sentence for line, sentence in made)
