"""How detectors name classes to people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from models.deeplog import FIRST_TEMPLATE, PADDING

_MOST: Final = 120  # characters of a text inside a sentence


def shortened(text: str, most: int = _MOST) -> str:
    r"""A text on one line, cut to so many characters.

    >>> shortened("a lot\nof words", 8)
    'a lot o…'
    """
    line = " ".join(text.split())
    return line if len(line) <= most else line[: most - 1] + "…"


def quoted(names: Sequence[str], code: int) -> str:
    """A class that may stand in a window, for use inside a sentence."""
    if code < FIRST_TEMPLATE:
        return "the session's start" if code == PADDING else "an unknown line"
    return f"“{shortened(names[code])}”"
