"""The loop of `driftwood tail-loki`: ask Loki, give what is new to the topic, wait."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Protocol

from models.errors import DataSetError
from models.logql import ENCODING_HEADER, QUERY_PATH, LokiQuery
from models.loki_tail import LokiTail, TailPage
from udfs.clients.http import HttpClient, authorization
from udfs.clients.patience import Patience

ADVICE = "Check that Loki is up, then start again: it goes on where it was."


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


class LokiPages:
    """Answers of one Loki to range queries."""

    def __init__(self, query: LokiQuery) -> None:
        self._patience = Patience(query.retry, f"Loki at {query.base_url}", ADVICE, DataSetError)
        # A cached answer may be older than the lines that came late.
        headers = ENCODING_HEADER | {"Cache-Control": "no-cache"}
        headers |= authorization(query.user, query.password, bearer=query.token)
        if query.tenant:
            headers["X-Scope-OrgID"] = query.tenant
        self._http = HttpClient(query.base_url, headers, query.ca_file, self._patience)

    def get(self, fields: dict[str, str]) -> bytes:
        """The body of one answer.

        Raises:
            DataSetError: Loki was away for too long, or refused the query.
        """
        self._patience.begin()
        answer = self._http.get(QUERY_PATH, fields)
        if answer.status != 200:
            raise DataSetError(
                f"Loki did not read the range ({answer.status}: {' '.join(answer.text.split())[:500]}). "
                "Check the query, user and password or token, ?tenant=, and ?limit=."
            )
        return answer.body

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()


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
