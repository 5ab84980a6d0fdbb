"""Lines that nobody flagged: looked for in Loki, or among the newest of the logs topic; parsed and redacted as the job does it.

```
Loki query_range ──┐
                   ├─→ raw records ─ models.parsing ─→ lines, newest first
newest of a topic ─┘
```
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import httpx
import numpy as np

from console.board import Board
from console.feed import client_options, is_anyone_there
from console.links import lines_query, session_query
from console.settings import ConsoleSettings
from models.errors import DataSetError, SinkError
from models.logql import ENCODING_HEADER, QUERY_PATH, Cursor, LokiQuery, step
from models.parsing import LEVELS, ParseParams, Raw, parse

MOST: Final = 500
_REQUEST_MS: Final = 3_600_000  # a request's lines are looked for this far to either side
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True, slots=True)
class Line:
    """One line: `source` is its place on the topic, None from Loki; `anomaly_id` of the anomaly it made, empty where it made none."""

    ts: int
    service: str
    level: str
    host: str
    session: str
    message: str
    source: tuple[str, int, int, int] | None
    anomaly_id: str = ""


@dataclass(frozen=True)
class Search:
    """What is looked for; empty means all. Units: event times in ms; `until_ms` 0 is now."""

    text: str = ""
    service: str = ""
    session: str = ""
    since_ms: int = 0
    until_ms: int = 0
    unflagged_only: bool = True


class Source(Protocol):
    """Where lines are looked for."""

    name: str

    def find(self, search: Search) -> list[Line]:
        """Lines, newest first, at most `MOST`.

        Raises:
            SinkError: the server does not answer as it should; with what to do.
        """
        ...


def source_of(settings: ConsoleSettings, board: Board, now_ms: Callable[[], int]) -> Source | None:
    """Loki if it is named, else the topic of lines, else nothing."""
    params = ParseParams(redaction_key=settings.redaction_key.get_secret_value().encode())
    if settings.loki_url:
        return LokiLines(settings, board, params, now_ms)
    return TopicLines(settings, board, params) if settings.logs else None


def _parsed(raw: Raw, params: ParseParams, has_place: bool) -> list[Line]:
    records, _ = parse(raw, params)
    topic = raw.topic if isinstance(raw.topic, str) else ""
    return [
        Line(
            ts=int(records.ts[at]),
            service=records.service[at],
            level=LEVELS[int(records.level[at])],
            host=records.host[at] or "",
            session=records.session[at] or "",
            message=records.message[at],
            source=(topic, int(raw.partition[row]), int(raw.offset[row]), int(records.index[at]))
            if has_place
            else None,
        )
        for at, row in enumerate(records.row.tolist())
    ]


def chosen(lines: Sequence[Line], search: Search, board: Board) -> list[Line]:
    """The lines that a search admits, newest first, those that made an anomaly told apart; at most `MOST`."""
    words = search.text.lower().split()
    found = []
    for line in sorted(lines, key=lambda line: line.ts, reverse=True):
        if (
            (search.service and line.service != search.service)
            or (search.session and line.session != search.session)
            or line.ts < search.since_ms
            or (search.until_ms and line.ts > search.until_ms)
            or not all(word in line.message.lower() for word in words)
        ):
            continue
        flagged = _anomaly_id(line, board)
        if flagged and search.unflagged_only:
            continue
        found.append(
            Line(line.ts, line.service, line.level, line.host, line.session, line.message, line.source, flagged)
        )
        if len(found) == MOST:
            break
    return found


def _anomaly_id(line: Line, board: Board) -> str:
    row = (
        board.at_source(line.source) if line.source is not None else board.at_line(line.service, line.ts, line.message)
    )
    return row.told.anomaly_id if row is not None else ""


class LokiLines:
    """Lines of a Loki, through query_range."""

    def __init__(self, settings: ConsoleSettings, board: Board, params: ParseParams, now_ms: Callable[[], int]) -> None:
        self.name = "Loki"
        self._settings = settings
        self._board = board
        self._params = params
        self._now_ms = now_ms

    def find(self, search: Search) -> list[Line]:
        """As `Source.find`; one request of the newest lines, or two where a session's id may stand in the lines or beside them."""
        settings = self._settings
        where = settings.loki_selector, settings.loki_service_label, search.service
        expressions = [lines_query(*where, search.session, search.text)]
        if search.session:
            expressions.append(session_query(*where, search.session, search.text))
        lines = [line for expression in expressions for line in self._ask(expression, search)]
        return chosen(list(dict.fromkeys(lines)), search, self._board)

    def _ask(self, expression: str, search: Search) -> list[Line]:
        settings = self._settings
        until_ms = search.until_ms or self._now_ms()
        since_ms = search.since_ms or until_ms - 24 * _REQUEST_MS
        headers = dict(ENCODING_HEADER)
        if settings.loki_tenant:
            headers["X-Scope-OrgID"] = settings.loki_tenant
        if settings.loki_token.get_secret_value():
            headers["Authorization"] = f"Bearer {settings.loki_token.get_secret_value()}"
        asked = {
            "query": expression,
            "start": str(since_ms * 1_000_000),
            "end": str((until_ms + 1) * 1_000_000),
            "limit": str(4 * MOST),
            "direction": "backward",
        }
        try:
            answer = httpx.get(f"{settings.loki_url}{QUERY_PATH}", params=asked, headers=headers, timeout=_TIMEOUT_S)
        except httpx.HTTPError as error:
            raise SinkError(
                f"Loki at {settings.loki_url} does not answer ({type(error).__name__}); check loki_url, or whether it runs."
            ) from error
        if answer.status_code != 200:
            raise SinkError(f"Loki at {settings.loki_url} answered {answer.status_code}: {answer.text[:300]}")
        query = LokiQuery("loki", expression, since_ms * 1_000_000, (until_ms + 1) * 1_000_000, limit=4 * MOST)
        try:
            records, _ = step(query, Cursor(query.start_ns), answer.content)
        except DataSetError as error:
            raise SinkError(str(error)) from error
        count = len(records)
        raw = Raw(list(records), "", np.zeros(count, np.int32), np.arange(count), np.zeros(count, np.int64))
        return _parsed(raw, self._params, has_place=False)


class TopicLines:
    """The newest lines of the topic that the job reads."""

    def __init__(self, settings: ConsoleSettings, board: Board, params: ParseParams) -> None:
        self.name = f"the newest {settings.logs_newest:,} lines of the topic {settings.logs}"
        self._settings = settings
        self._board = board
        self._params = params

    def find(self, search: Search) -> list[Line]:
        """As `Source.find`."""
        return chosen(self._newest(), search, self._board)

    def _newest(self) -> list[Line]:
        from kafka import KafkaConsumer, TopicPartition
        from kafka.errors import KafkaError

        settings = self._settings
        if not is_anyone_there(settings.kafka):
            raise SinkError(f"The Kafka broker at {settings.kafka} does not answer; try again when it is back.")
        try:
            consumer = KafkaConsumer(
                **client_options(settings), enable_auto_commit=False, isolation_level="read_committed"
            )
            try:
                numbers = consumer.partitions_for_topic(settings.logs)
                if not numbers:
                    raise SinkError(
                        f"There is no topic {settings.logs} at {settings.kafka}; correct the setting `logs`."
                    )
                places = [TopicPartition(settings.logs, number) for number in sorted(numbers)]
                consumer.assign(places)
                begins, ends = consumer.beginning_offsets(places), consumer.end_offsets(places)
                share = settings.logs_newest // len(places) + 1
                for place in places:
                    consumer.seek(place, max(begins[place], ends[place] - share))
                return self._read(consumer, ends)
            finally:
                consumer.close()
        except (KafkaError, OSError) as error:
            raise SinkError(f"The topic {settings.logs} cannot be read ({type(error).__name__}: {error}).") from error

    def _read(self, consumer: Any, ends: dict[Any, int]) -> list[Line]:
        found: list[Any] = []
        deadline = time.monotonic() + _TIMEOUT_S
        while any(consumer.position(place) < end for place, end in ends.items()) and time.monotonic() < deadline:
            polled = consumer.poll(timeout_ms=200, max_records=5_000)
            found += [record for records in polled.values() for record in records]
        if not found:
            return []
        raw = Raw(
            [record.value for record in found],
            self._settings.logs,
            np.array([record.partition for record in found], np.int32),
            np.array([record.offset for record in found]),
            np.array([record.timestamp for record in found]),
        )
        return _parsed(raw, self._params, has_place=True)
