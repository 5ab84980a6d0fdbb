"""One incident: anomalies that a person should hear of together, and what was told of it. `docs/incident.schema.json` is the contract of its record."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

import orjson
import xxhash

from models.alerts.severity import rank
from models.alerts.severity_corpus import SEVERITIES
from models.alerts.sighting import Example, Sighting

#: Kept of an incident at most; what is beyond is counted in it and not shown.
PARTS: Final = 64
SERVICES: Final = 1_000
MINUTES: Final = 120
_SHOWN_PARTS: Final = 20
_SESSIONS: Final = 10
_ANOMALIES: Final = 20

_MINUTE_MS: Final = 60_000
#: From so many services on, an incident is one step worse than its worst line.
WIDE: Final = 10
#: Grades: the ranks of severities, and above them critical anomalies that cannot wait.
_GRADES: Final = len(SEVERITIES) + 1


@dataclass(slots=True)
class Part:
    """One kind of anomaly in an incident."""

    service: str
    detector: str
    kind: str
    template_id: str
    template: str
    slug: str
    first_ms: int
    last_ms: int
    count: int = 0


@dataclass(slots=True)
class Told:
    """The last message to people about an incident; number 0 is none yet.

    Attributes:
        kind: opened, escalated, reopened, reminder, resolved or merged.
        why: one sentence.
        rank, count: of the incident then.
    """

    number: int = 0
    kind: str = ""
    why: str = ""
    at_ms: int = 0
    rank: int = 0
    count: int = 0


@dataclass(slots=True)
class Incident:
    """Anomalies with one cause, as far as can be seen.

    Units: `started_ms`, `last_ms`, `joined_ms` are event time: of the first and the newest anomaly, and of the newest that was of a new kind;
    `opened_at`, `seen_at`, `closed_at`, `published_at` are processing time.

    State: at most `PARTS` kinds, `SERVICES` names and `MINUTES` minutes, about 40 KB; 2 KB is usual.
    """

    incident_id: str
    mode: str
    started_ms: int
    last_ms: int
    joined_ms: int
    opened_at: int
    seen_at: int
    cause: Example
    worst: Example
    state: str = "open"
    merged_into: str | None = None
    revision: int = -1
    closed_at: int | None = None
    published_at: int = 0
    is_published: bool = False
    reopened: int = 0
    refuted: int = 0
    is_storm: bool = False
    grades: list[int] = field(default_factory=lambda: [0] * _GRADES)
    parts: dict[str, Part] = field(default_factory=dict)  # by group
    services: dict[str, int] = field(default_factory=dict)  # anomalies by service
    minutes: dict[int, int] = field(default_factory=dict)  # anomalies by minute since 1970
    sessions: list[str] = field(default_factory=list)
    anomaly_ids: list[str] = field(default_factory=list)
    told: Told = field(default_factory=Told)

    @classmethod
    def of(cls, first: Sighting, now_ms: int) -> Incident:
        """The incident that an anomaly begins; its id is the same in every run in which this anomaly is the first."""
        example = first.example
        name = xxhash.xxh3_64_hexdigest(f"incident\0{first.mode}\0{example.anomaly_id}".encode())
        return cls(name, first.mode, example.ts, example.ts, example.ts, now_ms, now_ms, example, example)

    @property
    def is_open(self) -> bool:
        """True while it is neither resolved nor withdrawn nor part of another."""
        return self.closed_at is None

    @property
    def count(self) -> int:
        """Anomalies in it; refuted ones are not."""
        return sum(self.grades)

    @property
    def rank(self) -> int:
        """Of its severity: that of its worst anomaly, and one step more where many services have it."""
        worst = max((min(grade, 3) for grade, count in enumerate(self.grades) if count), default=0)
        return min(3, worst + 1) if len(self.services) >= WIDE else worst

    # ---- anomalies in and out

    def add(self, seen: Sighting, now_ms: int, *, is_known: bool) -> None:
        """Count an anomaly; one that is known already, in a new revision, is not another one."""
        example = seen.example
        self.grades[seen.grade] += 1
        self.seen_at = now_ms
        self.last_ms = max(self.last_ms, example.ts)
        self.started_ms = min(self.started_ms, example.ts)
        if (example.ts, example.anomaly_id) < (self.cause.ts, self.cause.anomaly_id):
            self.cause = example
        if _badness(example) > _badness(self.worst):
            self.worst = example
        part = self.parts.get(seen.group)
        if part is None:
            self.joined_ms = max(self.joined_ms, example.ts)
            kind = (example.service, example.detector, example.kind, example.template_id, example.template)
            part = self.parts[seen.group] = Part(*kind, example.slug, example.ts, example.ts)
            self._trim()
        part.first_ms, part.last_ms = min(part.first_ms, example.ts), max(part.last_ms, example.ts)
        part.count += 1
        if example.service in self.services or len(self.services) < SERVICES:
            self.services[example.service] = self.services.get(example.service, 0) + 1
        self._count_minute(example.ts, 1)
        if not is_known:
            self.anomaly_ids = [*self.anomaly_ids, example.anomaly_id][-_ANOMALIES:]
            if example.session is not None and example.session not in self.sessions:
                self.sessions = [*self.sessions, example.session][-_SESSIONS:]

    def take_out(self, group: str, service: str, grade: int, ts: int, anomaly_id: str) -> None:
        """Count an anomaly no more, as it was counted."""
        self.grades[grade] -= 1
        part = self.parts.get(group)
        if part is not None:
            part.count -= 1
        if service in self.services:
            self.services[service] -= 1
            if not self.services[service]:
                del self.services[service]
        self._count_minute(ts, -1)
        if self.worst.anomaly_id == anomaly_id:
            self.worst = self.cause

    def swallow(self, other: Incident) -> None:
        """Take in all of another incident."""
        self.grades = [a + b for a, b in zip(self.grades, other.grades, strict=True)]
        self.started_ms = min(self.started_ms, other.started_ms)
        self.last_ms, self.joined_ms = max(self.last_ms, other.last_ms), max(self.joined_ms, other.joined_ms)
        self.opened_at, self.seen_at = min(self.opened_at, other.opened_at), max(self.seen_at, other.seen_at)
        self.refuted += other.refuted
        self.cause = min(self.cause, other.cause, key=lambda each: (each.ts, each.anomaly_id))
        self.worst = max(self.worst, other.worst, key=_badness)
        for group, part in other.parts.items():
            own = self.parts.setdefault(group, dataclasses.replace(part, count=0))
            own.first_ms, own.last_ms = min(own.first_ms, part.first_ms), max(own.last_ms, part.last_ms)
            own.count += part.count
        self._trim()
        for service, count in other.services.items():
            if service in self.services or len(self.services) < SERVICES:
                self.services[service] = self.services.get(service, 0) + count
        for minute, count in other.minutes.items():
            self._count_minute(minute * _MINUTE_MS, count)
        self.anomaly_ids = [*self.anomaly_ids, *other.anomaly_ids][-_ANOMALIES:]
        self.sessions = list(dict.fromkeys([*self.sessions, *other.sessions]))[-_SESSIONS:]

    def _trim(self) -> None:
        """Let the kinds with the fewest anomalies go, of equal ones the newest."""
        if len(self.parts) > PARTS:
            kept = sorted(self.parts.items(), key=lambda item: (-item[1].count, item[1].first_ms, item[0]))[:PARTS]
            self.parts = dict(kept)

    def _count_minute(self, ts: int, by: int) -> None:
        minute = ts // _MINUTE_MS
        count = self.minutes.get(minute, 0) + by
        if count > 0:
            self.minutes[minute] = count
        else:
            self.minutes.pop(minute, None)
        if len(self.minutes) > MINUTES:
            del self.minutes[min(self.minutes)]

    # ---- the record

    def record(self) -> bytes:
        """The incident as JSON, as it is on the topic."""
        parts = sorted(self.parts.items(), key=lambda item: (-item[1].count, item[1].first_ms, item[0]))
        first = min(self.minutes, default=self.started_ms // _MINUTE_MS)
        last = max(self.minutes, default=first)
        if last - first >= MINUTES:
            first = last - MINUTES + 1
        told = self.told
        return orjson.dumps(
            {
                "incident_id": self.incident_id,
                "revision": self.revision,
                "state": self.state,
                "merged_into": self.merged_into,
                "mode": self.mode,
                "severity": SEVERITIES[self.rank],
                "severity_confidence": self.worst.confidence,
                "requires_immediate_action": self.grades[-1] > 0,
                "title": f"{self.worst.service}: {self.worst.template}",
                "started_ms": self.started_ms,
                "last_ms": self.last_ms,
                "opened_at_ms": self.opened_at,
                "updated_at_ms": self.published_at,
                "closed_at_ms": self.closed_at,
                "count": self.count,
                "refuted": self.refuted,
                "reopened": self.reopened,
                "is_storm": self.is_storm,
                "services": sorted(self.services),
                "histogram": {
                    "start_ms": first * _MINUTE_MS,
                    "step_ms": _MINUTE_MS,
                    "counts": [self.minutes.get(minute, 0) for minute in range(first, last + 1)],
                },
                "cause": self.cause,
                "worst": self.worst,
                "kinds": [part for _, part in parts[:_SHOWN_PARTS]],
                "sessions": self.sessions,
                "anomaly_ids": self.anomaly_ids,
                "message": {"number": told.number, "kind": told.kind, "why": told.why, "at_ms": told.at_ms},
            }
        )

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Incident:
        """An incident from what orjson makes of it and reads again."""
        return cls(
            **row
            | {
                "cause": Example(**row["cause"]),
                "worst": Example(**row["worst"]),
                "parts": {group: Part(**part) for group, part in row["parts"].items()},
                "minutes": {int(minute): count for minute, count in row["minutes"].items()},
                "told": Told(**row["told"]),
            }
        )

    def check(self) -> None:
        """Raise AssertionError unless the bounds hold and nothing is counted below zero."""
        assert len(self.parts) <= PARTS
        assert len(self.services) <= SERVICES
        assert len(self.minutes) <= MINUTES
        assert min(self.grades) >= 0


def _badness(example: Example) -> tuple[int, float, int]:
    return rank(example.severity), example.strength, -example.ts
