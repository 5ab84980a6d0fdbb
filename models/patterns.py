"""What an anomaly has in common with its repeats, so that one word of a person is about all of them.

```
line:order:5d41402a:7b52009b      a line of template 5d41402a after one of 7b52009b, odd by the order of lines
line:text:5d41402a:-              the same line, odd by its text; for other families than order what came before plays no part
end:number:5d41402a:-             the end of a session after such a line, odd by how many lines it had
rate:number:5d41402a:-            how often such lines come in the service
```

With each goes a level, the evidence there was. What is clearly stranger than what a person saw is another matter, and is told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from models.detectors.registry import REGISTRY
from models.templates import template_hex

#: Evidence below this is not worth a pattern: it weighs nothing in the verdict (models/fusion.py).
NOTABLE: Final = 1.5
#: Evidence may rise by this much with the same oddity, as when a model is trained again.
_MARGIN: Final = 0.25
_ORDER: Final = "order"
_NEW: Final = ("line", "text")  # how a line is odd that was never seen before

#: Of a detector's vote: its kind (`rate` for what concerns a whole service, else `line`) and its family.
Slot = tuple[str, str]


Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Oddity:
    """One line, or end of a session, that some detector finds odd.

    Attributes:
        template, before: of the line, and of the one before it in its session; None if there is none.
        now_ms: the service's event time.
        is_end: it is about the end of the session.
        is_unknown: the model does not know the template.
        unknown_before: templates in its window that the model does not know.
    """

    template: int
    before: int | None
    now_ms: int
    is_end: bool
    is_unknown: bool
    unknown_before: Collection[int]


@dataclass(frozen=True, slots=True)
class Muted:
    """A pattern that is told no more.

    Attributes:
        level: up to which evidence.
        until_ms: event time up to which; None is for ever.
        is_normal: such lines are normal, and may be learned.
        command_id, by: of whom it is.
    """

    level: float
    until_ms: int | None
    is_normal: bool
    command_id: str
    by: str

    def holds(self, level: float, now_ms: int) -> bool:
        """Whether evidence of this level is muted at this event time."""
        return level <= self.level + _MARGIN and (self.until_ms is None or now_ms <= self.until_ms)


def slots(detectors: Sequence[str]) -> dict[Slot, list[int]]:
    """The columns of evidence of each kind and family.

    >>> slots(["deeplog", "count", "ngram", "frequency"])
    {('line', 'order'): [0, 2], ('line', 'number'): [1], ('rate', 'number'): [3]}
    """
    found: dict[Slot, list[int]] = {}
    for column, name in enumerate(detectors):
        kind = REGISTRY[name]
        found.setdefault(("rate" if kind.is_service_wide else "line", kind.family), []).append(column)
    return found


def pattern(slot: Slot, template: int, before: int | None, *, is_end: bool = False) -> str:
    """The pattern of a vote about a line of this template, or about the end of the session after it.

    >>> pattern(("line", "order"), 0x5d41402a, 0x7b52009b)
    'line:order:5d41402a:7b52009b'
    """
    kind, family = slot
    after = template_hex(before) if before is not None and family == _ORDER and not is_end else "-"
    return f"{'end' if is_end and kind == 'line' else kind}:{family}:{template_hex(template)}:{after}"


def note(evidence: Float32, columns: Mapping[Slot, list[int]], odd: Oddity) -> str:
    """The patterns of some evidence, `float32[D]`, with their levels, as one text that `collected` reads."""
    found = []
    for slot, members in columns.items():
        level = float(evidence[members].max())
        if level >= NOTABLE:
            found.append(f"{pattern(slot, odd.template, odd.before, is_end=odd.is_end)}={level:.4g}")
    return " ".join(found)


def silence(
    evidence: Float32,
    columns: Mapping[Slot, list[int]],
    odd: Oddity,
    muted: Mapping[str, Muted],
) -> list[Muted]:
    """Take out of some evidence, `float32[D]`, what people want to hear no more; gives what was in the way.

    A template that the model does not know and a person has accepted makes the order of lines around it look odd, until a model has learned it:
    that is no evidence either.
    """
    held = []
    for slot, members in columns.items():
        level = float(evidence[members].max())
        if level < NOTABLE:
            continue
        one = muted.get(pattern(slot, odd.template, odd.before, is_end=odd.is_end))
        if one is not None and one.holds(level, odd.now_ms):
            evidence[members] = 0
            held.append(one)

    def is_accepted(template: int) -> bool:
        one = muted.get(pattern(_NEW, template, None))
        return one is not None and one.holds(0, odd.now_ms)

    if odd.is_unknown and is_accepted(odd.template):
        evidence[:] = 0
    elif any(map(is_accepted, odd.unknown_before)):
        for (_, family), members in columns.items():
            if family == _ORDER:
                evidence[members] = 0
    return held


def collected(notes: Iterable[str], *, is_rate: bool, most: int) -> list[dict[str, Any]]:
    """The patterns of an incident's pieces, as the anomaly shows them: each once with its greatest level, the strongest first.

    >>> collected(["line:text:5d41402a:-=3.2 rate:number:5d41402a:-=2", "line:text:5d41402a:-=4"], is_rate=False, most=9)
    [{'pattern': 'line:text:5d41402a:-', 'level': 4.0}]
    """
    levels: dict[str, float] = {}
    for note in notes:
        for part in note.split():
            name, _, level = part.rpartition("=")
            if name.startswith("rate:") == is_rate:
                levels[name] = max(levels.get(name, 0.0), float(level))
    order = sorted(levels, key=lambda name: (-levels[name], name))
    return [{"pattern": name, "level": levels[name]} for name in order[:most]]
