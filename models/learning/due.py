"""When a service's model is trained: first when its buffer tells enough and its templates are settled, then every so often, or when asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from models.errors import SettingsError
from models.learning.buffered import BufferedLines
from models.learning.criteria import Criterion, Decision

_HOUR_MS: Final = 3_600_000
_NEWEST: Final = 5  # the newest fifth of the lines shows whether templates are settled


@dataclass(frozen=True)
class DueParams:
    """What is enough.

    Attributes:
        min_lines: lines that a model needs.
        min_sessions, min_minutes: and so many sessions, or so many minutes where there are few sessions.
        settled_ratio: of the newest fifth of the lines, the share whose template first came in that fifth, at most.
        every_h: hours after which a model is trained again, if there are new lines.
        grown: after a refusal, a first training is tried again when the lines have grown by this factor.
    """

    min_lines: int = 2_000
    min_sessions: int = 100
    min_minutes: float = 10.0
    settled_ratio: float = 0.02
    every_h: float = 24.0
    grown: float = 1.5

    def __post_init__(self) -> None:
        if self.min_lines < 1 or self.min_sessions < 1 or self.min_minutes < 0 or self.every_h <= 0:
            raise SettingsError(
                "The trainer needs at least 1 line and 1 session, and a time between trainings above 0."
            )
        if not 0 <= self.settled_ratio <= 1 or self.grown <= 1:
            raise SettingsError("settled_ratio is a share from 0 to 1, and grown a factor above 1.")


@dataclass(frozen=True, slots=True)
class Last:
    """The last training of a service.

    Attributes:
        at_ms: when it ended.
        lines: how many there were to learn from.
        newest: the newest entry of the buffer then.
        is_published: whether the model was published; else it was refused.
    """

    at_ms: int
    lines: int
    newest: str
    is_published: bool


def enough(lines: BufferedLines, params: DueParams) -> Decision:
    """Whether these lines make a model, and whether their templates are settled."""
    count, sessions, minutes = len(lines), lines.sessions, lines.minutes
    is_long = sessions >= params.min_sessions or minutes >= params.min_minutes
    fresh = fresh_ratio(lines)
    return Decision(
        (
            Criterion(
                "lines",
                count >= params.min_lines,
                count,
                params.min_lines,
                f"{count:,} normal lines are in the buffer; {params.min_lines:,} are needed",
            ),
            Criterion(
                "sessions",
                is_long,
                sessions,
                params.min_sessions,
                f"they are of {sessions:,} sessions and {minutes:,.1f} minutes; {params.min_sessions:,} sessions or "
                f"{params.min_minutes:g} minutes are needed",
            ),
            Criterion(
                "settled",
                fresh <= params.settled_ratio,
                round(fresh, 4),
                params.settled_ratio,
                f"{fresh:.1%} of the newest fifth of them have a template that first came there; at most {params.settled_ratio:.0%} may",
            ),
        )
    )


def again(last: Last, newest: str, lines: int, now_ms: int, params: DueParams, *, has_model: bool) -> Decision:
    """Whether it is time to train once more.

    Args:
        last: the last training.
        newest: the newest entry of the buffer.
        lines: how many the buffer has.
        now_ms: the time.
        params: how often.
        has_model: whether the service has a model that judges it.
    """
    hours = (now_ms - last.at_ms) / _HOUR_MS
    is_grown = not has_model and not last.is_published and lines >= params.grown * last.lines
    tail = f", or {params.grown:g} times its {last.lines:,} lines" if not has_model and not last.is_published else ""
    return Decision(
        (
            Criterion(
                "time",
                hours >= params.every_h or is_grown,
                round(hours, 2),
                params.every_h,
                f"the last training was {hours:,.1f} hours ago; the next is due after {params.every_h:g}{tail}",
            ),
            Criterion(
                "new lines",
                newest != last.newest,
                None,
                None,
                "new lines came since" if newest != last.newest else "no line came since",
            ),
        )
    )


def fresh_ratio(lines: BufferedLines) -> float:
    """Of the newest fifth of the lines, the share whose template first came in that fifth.

    >>> def of(*templates):
    ...     size = len(templates)
    ...     return BufferedLines("s", np.array(templates, "u4"), np.ones(size, "u8"), np.zeros(size, bool), np.arange(size))
    >>> fresh_ratio(of(1, 2, 1, 2, 1, 2, 1, 2, 1, 9)), fresh_ratio(of(1, 1, 1, 1, 1))
    (0.5, 0.0)
    """
    count = len(lines)
    if not count:
        return 1.0
    low = count - max(1, count // _NEWEST)
    _, first, which = np.unique(lines.template, return_index=True, return_inverse=True)
    return float(np.mean(first[which.ravel()[low:]] >= low))
