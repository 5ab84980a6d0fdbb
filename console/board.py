"""What the console knows: the newest anomalies, what was said of them, and how each service is doing. Pure.

```
topic anomalies ─→ Told ────→ rows by anomaly_id, revisions folded; the newest 10,000
      incidents ─→ Incident → the newest record of each
      status    ─→ status ──→ by service; which commands were obeyed
      templates ─→ template → by service
      control   ─→ command ─→ marks
```

A row keeps its place in the list for good: a later revision changes what it says, never where it stands.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import orjson

from console.fields import mappings, number, read_object, text
from console.incidents import Incident, Incidents, Part, Present, read_incident
from console.marks import Mark, Marks
from models.control import Command

MAX_ANOMALIES: Final = 10_000
MAX_REVISIONS: Final = 64
MAX_TEMPLATES: Final = 20_000  # of one service
MAX_SERVICES: Final = 5_000
MAX_ACKS: Final = 20_000
_MESSAGE: Final = 600  # characters of a message that a row keeps; the whole is in the record
_SPOKE: Final = 2.0  # evidence from which on a detector had a part in telling an anomaly
_BUCKETS: Final = 24  # of an incident's histogram
_DAY_MS: Final = 86_400_000


@dataclass(frozen=True, slots=True)
class Telling:
    """One revision of an anomaly, for its timeline."""

    revision: int
    status: str
    ts: int
    at_ms: int
    score: float
    strength: float
    explanation: str


@dataclass(frozen=True)
class Told:
    """An anomaly record as it came, read and cut to what lists need.

    Attributes:
        raw: the record's own bytes.
        at_ms: when it reached the topic.
        patterns: what it has in common with its repeats; goes back in feedback as (pattern, level).
        haystack: the text that a search looks through, in lower case.
    """

    raw: bytes
    at_ms: int
    anomaly_id: str
    revision: int
    status: str
    mode: str
    kind: str
    ts: int
    service: str
    host: str
    session: str
    level: str
    severity: str
    score: float
    strength: float
    votes: tuple[tuple[str, float], ...]
    template_id: str
    message: str
    explanation: str
    fingerprint: str
    source: tuple[str, int, int, int]
    patterns: tuple[tuple[str, float], ...]
    haystack: str

    @property
    def detector(self) -> str:
        """The one with the most evidence."""
        return self.votes[0][0] if self.votes else ""

    @property
    def of_incident(self) -> Part:
        """What tells which incident it belongs to."""
        return Part(self.anomaly_id, (self.mode, self.service, self.kind, self.template_id), self.ts)

    @property
    def telling(self) -> Telling:
        """Its line of the timeline."""
        return Telling(
            self.revision, self.status, self.ts, self.at_ms, self.score, self.strength, self.explanation[:_MESSAGE]
        )


def read_anomaly(raw: bytes, at_ms: int) -> Told | None:
    """The anomaly in a message's value; None where it is none. A field of another type counts as absent."""
    found = read_object(raw)
    name, revision, service = text(found, "anomaly_id"), found.get("revision"), text(found, "service")
    if not name or not service or len(name) > 64 or not isinstance(revision, int):
        return None
    message, template = text(found, "message"), text(found, "template")
    votes = found.get("detectors")
    source = found.get("source")
    source = source if isinstance(source, dict) else {}
    explanation, host, session = text(found, "explanation"), text(found, "host"), text(found, "session")
    return Told(
        raw=raw,
        at_ms=at_ms,
        anomaly_id=name,
        revision=revision,
        status=text(found, "status") or "new",
        mode=text(found, "mode") or "live",
        kind=text(found, "kind") or "line",
        ts=int(number(found, "ts")),
        service=service,
        host=host,
        session=session,
        level=text(found, "level"),
        severity=text(found, "severity"),
        score=number(found, "score"),
        strength=number(found, "strength"),
        votes=_votes(votes) if isinstance(votes, dict) else (),
        template_id=text(found, "template_id"),
        message=message[:_MESSAGE],
        explanation=explanation,
        fingerprint=text(found, "fingerprint") or name,
        source=(
            text(source, "topic"),
            int(number(source, "partition")),
            int(number(source, "offset")),
            int(number(source, "index")),
        ),
        patterns=tuple(
            (entry["pattern"], float(entry["level"]))
            for entry in mappings(found.get("patterns"))
            if isinstance(entry.get("pattern"), str) and isinstance(entry.get("level"), int | float)
        ),
        haystack="\n".join((message[:4_000], template[:1_000], explanation, service, host, session, name)).lower(),
    )


def _votes(votes: Mapping[str, object]) -> tuple[tuple[str, float], ...]:
    found = [(str(name), float(value)) for name, value in votes.items() if isinstance(value, int | float)]
    return tuple(sorted(found, key=lambda vote: (-vote[1], vote[0])))


@dataclass(slots=True)
class Row:
    """One anomaly of the list: its newest revision, and the older ones as a timeline. `seq` orders rows by arrival."""

    seq: int
    told: Told
    tellings: list[Telling]

    def record(self) -> dict[str, Any]:
        """The whole newest record."""
        found: dict[str, Any] = orjson.loads(self.told.raw)
        return found


@dataclass(frozen=True)
class Filter:
    """Which rows a list shows; empty means all.

    Units: `since_ms` and `until_ms` are event times.
    """

    service: str = ""
    detector: str = ""
    mode: str = ""
    status: str = ""
    label: str = ""
    text: str = ""
    fingerprint: str = ""
    session: str = ""
    since_ms: int = 0
    until_ms: int = 0
    incident: str = ""

    @cached_property
    def words(self) -> tuple[str, ...]:
        """The words of the search, each of which must occur."""
        return tuple(self.text.lower().split())

    def admits(self, row: Row, label: str) -> bool:
        """Whether a row with this label belongs in the list."""
        told = row.told
        return (
            (not self.service or told.service == self.service)
            and (not self.mode or told.mode == self.mode)
            and (not self.status or told.status == self.status)
            and (not self.label or label == self.label)
            and (not self.fingerprint or told.fingerprint == self.fingerprint)
            and (not self.session or told.session == self.session)
            and told.ts >= self.since_ms
            and (not self.until_ms or told.ts <= self.until_ms)
            and (not self.detector or any(n == self.detector and v >= _SPOKE for n, v in told.votes))
            and all(word in told.haystack for word in self.words)
        )


@dataclass(frozen=True)
class Page:
    """Some rows, newest first; `before` asks for the next ones, None at the end; `total` counts all that the filter admits."""

    rows: Sequence[Row]
    before: int | None
    total: int


@dataclass
class Repeats:
    """Rows of one fingerprint: repeats of the same thing.

    Attributes:
        newest: its newest row.
        histogram: rows by equal parts of the time that all repeats shown together cover.
    """

    newest: Row
    count: int = 0
    first_ts: int = 1 << 62
    last_ts: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    times: list[int] = field(default_factory=list)
    histogram: list[int] = field(default_factory=list)

    def add(self, row: Row, label: str) -> None:
        """Count one more repeat."""
        self.count += 1
        self.first_ts = min(self.first_ts, row.told.ts)
        self.last_ts = max(self.last_ts, row.told.ts)
        self.labels[label] += 1
        self.times.append(row.told.ts)


@dataclass(frozen=True)
class Precision:
    """What people said of the anomalies that a detector had a part in."""

    right: int = 0
    wrong: int = 0

    @property
    def ratio(self) -> float | None:
        """Rightly told among those that were judged."""
        judged = self.right + self.wrong
        return self.right / judged if judged else None


class Board:
    """Everything the pages show.

    State: `MAX_ANOMALIES` rows with their records, `MAX_TEMPLATES` templates a service, marks; all bounded. `version` grows with every change.
    """

    def __init__(self, most: int = MAX_ANOMALIES) -> None:
        self.most = most
        self.version = 0
        self.marks = Marks()
        self.statuses: dict[str, dict[str, Any]] = {}
        self.templates: dict[str, dict[str, str]] = {}
        self.counts_as: dict[str, dict[str, str]] = {}  # by service: a template that was joined → the one it counts as
        self.incidents = Incidents()
        self.acks: dict[str, tuple[bool, str]] = {}
        self.unread = 0  # messages of the anomalies topic that are no anomalies
        self._rows: dict[str, Row] = {}
        self._by_source: dict[tuple[str, int, int, int], str] = {}
        self._by_line: dict[tuple[str, int, str], str] = {}
        self._services: Counter[str] = Counter()
        self._detectors: Counter[str] = Counter()
        self._seq = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def newest_seq(self) -> int:
        """The place of the newest row; 0 where there is none."""
        return self._seq

    # ---- what comes in

    def tell(self, told: Told) -> Row:
        """Take in one revision of an anomaly; an older one than is known joins the timeline only."""
        self.version += 1
        row = self._rows.get(told.anomaly_id)
        if row is None:
            self._seq += 1
            row = self._rows[told.anomaly_id] = Row(self._seq, told, [told.telling])
            self._index(told)
            while len(self._rows) > self.most:
                oldest = next(iter(self._rows))
                self._unindex(self._rows.pop(oldest).told)
            return row
        if all(telling.revision != told.revision for telling in row.tellings):
            row.tellings = sorted([*row.tellings, told.telling], key=lambda telling: telling.revision)[-MAX_REVISIONS:]
        if told.revision > row.told.revision:
            self._unindex(row.told)
            row.told = told
            self._index(told)
        return row

    def tell_status(self, raw: bytes) -> None:
        """Take in what the job says of a service."""
        found = read_object(raw)
        service = text(found, "service")
        if not service or (service not in self.statuses and len(self.statuses) >= MAX_SERVICES):
            return
        known = self.statuses.get(service)
        if known is not None and number(found, "at_ms") < number(known, "at_ms"):
            return
        self.version += 1
        self.statuses[service] = found
        commands = found.get("commands")
        for command_id, answer in commands.items() if isinstance(commands, dict) else ():
            if isinstance(answer, dict):
                self.acks[str(command_id)] = (answer.get("is_obeyed") is True, text(answer, "why"))
        while len(self.acks) > MAX_ACKS:
            self.acks.pop(next(iter(self.acks)))

    def tell_template(self, raw: bytes) -> None:
        """Take in a template of the catalogue."""
        found = read_object(raw)
        service, name, template = (text(found, field_) for field_ in ("service", "template_id", "template"))
        if not service or not name or (service not in self.templates and len(self.templates) >= MAX_SERVICES):
            return
        self.version += 1
        known = self.templates.setdefault(service, {})
        known[name] = template
        while len(known) > MAX_TEMPLATES:
            known.pop(next(iter(known)))
        joined = self.counts_as.setdefault(service, {})
        joined.pop(name, None)
        if into := text(found, "counts_as"):
            joined[name] = into
            while len(joined) > MAX_TEMPLATES:
                joined.pop(next(iter(joined)))

    def tell_incident(self, raw: bytes) -> None:
        """Take in the newest record of an incident."""
        incident = read_incident(raw)
        if incident is not None:
            self.version += 1
            self.incidents.tell(incident)

    def tell_command(self, command: Command) -> None:
        """Take in a command that somebody gave, here or elsewhere."""
        self.version += 1
        self.marks.apply(command)

    def _index(self, told: Told) -> None:
        self._by_source[told.source] = told.anomaly_id
        self._by_line[_line_key(told.service, told.ts, told.message)] = told.anomaly_id
        self._services[told.service] += 1
        self._detectors.update(name for name, _ in told.votes)

    def _unindex(self, told: Told) -> None:
        if self._by_source.get(told.source) == told.anomaly_id:
            del self._by_source[told.source]
        key = _line_key(told.service, told.ts, told.message)
        if self._by_line.get(key) == told.anomaly_id:
            del self._by_line[key]
        for counts, names in ((self._services, [told.service]), (self._detectors, [name for name, _ in told.votes])):
            for name in names:
                counts[name] -= 1
                if not counts[name]:
                    del counts[name]

    # ---- what is asked

    def row(self, anomaly_id: str) -> Row | None:
        """An anomaly by its id."""
        return self._rows.get(anomaly_id)

    def at_source(self, source: tuple[str, int, int, int]) -> Row | None:
        """The anomaly of a record, by topic, partition, offset and index."""
        return self._rows.get(self._by_source.get(source, ""))

    def at_line(self, service: str, ts: int, message: str) -> Row | None:
        """The anomaly of such a line, where its place on the topic is not known."""
        return self._rows.get(self._by_line.get(_line_key(service, ts, message), ""))

    def label(self, row: Row) -> str:
        """`normal`, `suppressed`, `anomalous` as marked; `muted` if a mark of another anomaly covers its patterns; else `open`."""
        mark = self.marks.of(row.told.anomaly_id)
        if mark is not None:
            return mark.given.label
        return "muted" if self.covering(row) is not None else "open"

    def covering(self, row: Row) -> Mark | None:
        """The mark, of whatever anomaly, that keeps the repeats of this one quiet."""
        patterns = [pattern for pattern, _ in row.told.patterns]
        return self.marks.muting(row.told.service, patterns, row.told.ts) if patterns else None

    def page(
        self, wanted: Filter, limit: int = 100, before: int | None = None, up_to: int | None = None, after: int = 0
    ) -> Page:
        """Rows that the filter admits, newest first.

        Args:
            wanted: which rows.
            limit: at most this many.
            before: only rows older than this seq: the next page.
            up_to: only rows up to this seq: a list that does not move counts no newer ones.
            after: only rows newer than this seq.
        """
        rows: list[Row] = []
        total, has_more = 0, False
        for row in reversed(self._rows.values()):
            if up_to is not None and row.seq > up_to:
                continue
            if row.seq <= after:
                break
            if not self._admits(wanted, row):
                continue
            total += 1
            if before is None or row.seq < before:
                if len(rows) < limit:
                    rows.append(row)
                else:
                    has_more = True
        return Page(rows, rows[-1].seq if has_more and rows else None, total)

    def _admits(self, wanted: Filter, row: Row) -> bool:
        if wanted.incident and not self._is_in(wanted.incident, row):
            return False
        return wanted.admits(row, self.label(row) if wanted.label else "")

    def _is_in(self, incident_id: str, row: Row) -> bool:
        incident = self.incidents.get(incident_id)
        return incident is not None and incident.has(row.told.of_incident)

    def rows(self, wanted: Filter) -> Iterator[Row]:
        """Every row that the filter admits, newest first."""
        return (row for row in reversed(self._rows.values()) if self._admits(wanted, row))

    def repeats(self, wanted: Filter, limit: int = 200) -> list[Repeats]:
        """Rows grouped by fingerprint, those with the newest row first: what stands for incidents where the job tells of none."""
        found: dict[str, Repeats] = {}
        for row in self.rows(wanted):
            found.setdefault(row.told.fingerprint, Repeats(row)).add(row, self.label(row))
        shown = list(found.values())[:limit]
        first = min((group.first_ts for group in shown), default=0)
        size = max(1, max((group.last_ts for group in shown), default=0) - first + 1)
        for group in shown:
            buckets = Counter((ts - first) * _BUCKETS // size for ts in group.times)
            group.histogram = [buckets[at] for at in range(_BUCKETS)]
        return shown

    def incidents_of(self, wanted: Filter) -> list[Incident]:
        """Incidents that the filter admits, open ones first; of label, status and fingerprint it is enough that one of its anomalies has them."""
        of_row = Filter(label=wanted.label, status=wanted.status, fingerprint=wanted.fingerprint)
        rows = Present(row.told.of_incident for row in self.rows(of_row)) if of_row != Filter() else None
        return [
            incident
            for incident in self.incidents
            if (not wanted.service or wanted.service in incident.services)
            and (not wanted.mode or incident.mode == wanted.mode)
            and (not wanted.session or wanted.session in incident.sessions)
            and (not wanted.incident or incident.incident_id == wanted.incident)
            and (not wanted.detector or any(kind.detector == wanted.detector for kind in incident.kinds))
            and incident.last_ms >= wanted.since_ms
            and (not wanted.until_ms or incident.started_ms <= wanted.until_ms)
            and all(word in incident.haystack for word in wanted.words)
            and (rows is None or rows.has_one_of(incident))
        ]

    def rows_in(self, incident: Incident) -> list[Row]:
        """The anomalies of an incident that are here, newest first."""
        return [row for row in reversed(self._rows.values()) if incident.has(row.told.of_incident)]

    def incident_of(self, row: Row) -> Incident | None:
        """The incident that an anomaly belongs to; None where the job told of none."""
        return next((incident for incident in self.incidents if incident.has(row.told.of_incident)), None)

    def services(self) -> list[str]:
        """Every service that is known, by name."""
        return sorted({*self._services, *self.statuses, *self.templates})

    def detectors(self) -> list[str]:
        """Every detector that has voted, by name."""
        return sorted(self._detectors)

    def told_a_day(self, service: str) -> int:
        """Live anomalies of a service in the last day of its event time."""
        live = [r.told.ts for r in self._rows.values() if r.told.service == service and r.told.mode == "live"]
        last = max(self.last_ts(service), *live, 0)
        return sum(ts > last - _DAY_MS for ts in live)

    def last_ts(self, service: str) -> int:
        """Event time of a service's newest line, as the job says; 0 where it has not."""
        return int(number(self.statuses.get(service, {}), "last_ts"))

    def precision(self, service: str = "") -> dict[str, Precision]:
        """By detector, and `all`: what people said of the anomalies it had a part in."""
        right: Counter[str] = Counter()
        wrong: Counter[str] = Counter()
        for row, label in self._judged(service):
            voices = ["all", *(name for name, evidence in row.told.votes if evidence >= _SPOKE)]
            (right if label == "anomalous" else wrong).update(voices)
        return {name: Precision(right[name], wrong[name]) for name in sorted({**right, **wrong})}

    def precision_by_day(self, service: str = "") -> list[tuple[int, Precision]]:
        """By day of the event time, as (its start in ms, precision), oldest first."""
        right: Counter[int] = Counter()
        wrong: Counter[int] = Counter()
        for row, label in self._judged(service):
            (right if label == "anomalous" else wrong)[row.told.ts // _DAY_MS * _DAY_MS] += 1
        return [(day, Precision(right[day], wrong[day])) for day in sorted({**right, **wrong})]

    def _judged(self, service: str) -> Iterator[tuple[Row, str]]:
        for mark in self.marks.labels():
            row = self._rows.get(mark.given.anomaly_id or "")
            if (
                row is not None
                and (not service or row.told.service == service)
                and mark.given.label in ("normal", "anomalous")
            ):
                yield row, mark.given.label

    def check(self) -> None:
        """Raise AssertionError unless the state is whole and within its bounds."""
        assert len(self._rows) <= self.most
        assert len(self._by_source) <= len(self._rows)
        assert sum(self._services.values()) == len(self._rows)
        assert sum(self._detectors.values()) == sum(len(row.told.votes) for row in self._rows.values())
        assert set(self._by_line.values()) | set(self._by_source.values()) <= set(self._rows)
        seqs = [row.seq for row in self._rows.values()]
        assert seqs == sorted(seqs)


def _line_key(service: str, ts: int, message: str) -> tuple[str, int, str]:
    """What a line is known by where its place on the topic is not."""
    return service, ts, message[:200]
