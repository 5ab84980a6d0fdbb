"""The loop of `driftwood tail-loki`: ask Loki, give what is new to the topic, wait."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

from models.loki_tail import LokiTail, TailPage
from udfs.clients.loki_reader import LokiPages


class Pages(Protocol):
    """Where pages go."""

    def commit(self, page: TailPage) -> None:
        """Writes a page, all or nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Progress:
    """How far a tail is.

    Attributes:
        lines: given since the start of this program.
        behind_s: from the newest time that was read to now.
    """

    lines: int
    behind_s: float


def follow(
    tail: LokiTail,
    loki: LokiPages,
    topic: Pages,
    *,
    poll_s: float,
    until_ns: int | None = None,
    tell: Callable[[Progress], None] = lambda progress: None,
    clock_ns: Callable[[], int] = time.time_ns,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Gives new lines to the topic as they come; with `until_ns`, until all up to there is given."""
    while True:
        now_ns = clock_ns()
        end_ns = now_ns if until_ns is None else min(now_ns, until_ns)
        tail.begin(end_ns)
        while (fields := tail.request()) is not None:
            page = tail.step(loki.get(fields))
            if page.note:
                topic.commit(page)
            tell(Progress(tail.given, max(0.0, (clock_ns() - tail.mark_ns) / 1e9)))
        if until_ns is not None and end_ns == until_ns:
            return
        sleep(poll_s)
