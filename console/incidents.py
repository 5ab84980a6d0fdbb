"""Incidents as the job tells of them on the topic `incidents` (docs/incident.schema.json): the newest record of each. Pure.

An anomaly belongs to an incident if the record names it among its newest, or has its kind: service, template, and the time it was told in.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from console.fields import mapping, mappings, number, read_object, text, texts

MAX_INCIDENTS: Final = 2_000
#: States in which something may still be done; these come first.
OPEN: Final = frozenset({"open", "escalated"})
#: States of what is no incident of its own any more; they are not listed.
GONE: Final = frozenset({"merged", "withdrawn"})
_TEXT: Final = 600


@dataclass(frozen=True, slots=True)
class Example:
    """One anomaly of an incident: where it began, or its worst."""

    anomaly_id: str
    ts: int
    service: str
    severity: str
    template: str
    message: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Kind:
    """Anomalies of one incident that are alike."""

    service: str
    detector: str
    kind: str
    template_id: str
    template: str
    first_ms: int
    last_ms: int
    count: int


@dataclass(frozen=True, slots=True)
class Part:
    """What of an anomaly tells which incident it belongs to; `like` is its mode, service, kind and template."""

    anomaly_id: str
    like: tuple[str, str, str, str]
    ts: int


@dataclass(frozen=True)
class Incident:
    """The newest record of an incident.

    Attributes:
        raw: the record's own bytes.
        minutes: anomalies by minute of event time, up to the newest.
        said: the last message to people about it, in a sentence; empty where there was none.
        haystack: the text that a search looks through, in lower case.
    """

    raw: bytes
    incident_id: str
    revision: int
    state: str
    merged_into: str
    mode: str
    severity: str
    title: str
    started_ms: int
    last_ms: int
    closed_at_ms: int
    count: int
    refuted: int
    reopened: int
    is_storm: bool
    services: tuple[str, ...]
    minutes: tuple[int, ...]
    minutes_from_ms: int
    cause: Example
    worst: Example
    kinds: tuple[Kind, ...]
    sessions: tuple[str, ...]
    anomaly_ids: frozenset[str]
    said: str
    haystack: str

    def record(self) -> dict[str, Any]:
        """The whole record."""
        return read_object(self.raw)

    def bars(self, most: int) -> list[int]:
        """Its minutes as at most so many bars."""
        size = max(1, -(-len(self.minutes) // most))
        return [sum(self.minutes[at : at + size]) for at in range(0, len(self.minutes), size)]

    def spans(self) -> Iterator[tuple[tuple[str, str, str, str], int, int]]:
        """What its anomalies are like, from when, to when."""
        for kind in self.kinds:
            yield (self.mode, kind.service, kind.kind, kind.template_id), kind.first_ms, kind.last_ms

    def has(self, part: Part) -> bool:
        """Whether an anomaly belongs to it."""
        return part.anomaly_id in self.anomaly_ids or any(
            like == part.like and first <= part.ts <= last for like, first, last in self.spans()
        )


def read_incident(raw: bytes) -> Incident | None:
    """The incident in a message's value; None where it is none."""
    found = read_object(raw)
    name, services = text(found, "incident_id"), texts(found.get("services"))
    if not name or len(name) > 64 or not isinstance(found.get("revision"), int):
        return None
    cause, worst = _example(mapping(found, "cause")), _example(mapping(found, "worst"))
    kinds = tuple(map(_kind, mappings(found.get("kinds"))))
    histogram = mapping(found, "histogram")
    counts = histogram.get("counts")
    title = text(found, "title")
    return Incident(
        raw=raw,
        incident_id=name,
        revision=found["revision"],
        state=text(found, "state") or "open",
        merged_into=text(found, "merged_into"),
        mode=text(found, "mode") or "live",
        severity=text(found, "severity"),
        title=title[:_TEXT],
        started_ms=int(number(found, "started_ms")),
        last_ms=int(number(found, "last_ms")),
        closed_at_ms=int(number(found, "closed_at_ms")),
        count=int(number(found, "count")),
        refuted=int(number(found, "refuted")),
        reopened=int(number(found, "reopened")),
        is_storm=found.get("is_storm") is True,
        services=services,
        minutes=tuple(value for value in counts if isinstance(value, int)) if isinstance(counts, list) else (),
        minutes_from_ms=int(number(histogram, "start_ms")),
        cause=cause,
        worst=worst,
        kinds=kinds,
        sessions=texts(found.get("sessions")),
        anomaly_ids=frozenset({*texts(found.get("anomaly_ids")), cause.anomaly_id, worst.anomaly_id} - {""}),
        said=text(mapping(found, "message"), "why"),
        haystack="\n".join(
            (
                name, title, *services, *(kind.template for kind in kinds),
                *(part for one in (cause, worst) for part in (one.message, one.explanation)),
            )
        ).lower(),
    )  # fmt: skip


def _example(found: Mapping[str, Any]) -> Example:
    return Example(
        anomaly_id=text(found, "anomaly_id"),
        ts=int(number(found, "ts")),
        service=text(found, "service"),
        severity=text(found, "severity"),
        template=text(found, "template")[:_TEXT],
        message=text(found, "message")[:_TEXT],
        explanation=text(found, "explanation")[:_TEXT],
    )


def _kind(found: Mapping[str, Any]) -> Kind:
    return Kind(
        service=text(found, "service"),
        detector=text(found, "detector"),
        kind=text(found, "kind"),
        template_id=text(found, "template_id"),
        template=text(found, "template")[:_TEXT],
        first_ms=int(number(found, "first_ms")),
        last_ms=int(number(found, "last_ms")),
        count=int(number(found, "count")),
    )


class Present:
    """Some anomalies, to be asked quickly whether one of them belongs to an incident."""

    def __init__(self, parts: Iterable[Part]) -> None:
        self._ids: set[str] = set()
        self._times: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(list)
        for part in parts:
            self._ids.add(part.anomaly_id)
            self._times[part.like].append(part.ts)

    def has_one_of(self, incident: Incident) -> bool:
        """Whether an anomaly of this incident is among them."""
        return not self._ids.isdisjoint(incident.anomaly_ids) or any(
            first <= ts <= last for like, first, last in incident.spans() for ts in self._times.get(like, ())
        )


class Incidents:
    """All incidents that the console knows.

    State: the `MAX_INCIDENTS` that were told of last. `version` grows with every change, `newest_seq` with every new one.
    """

    def __init__(self, most: int = MAX_INCIDENTS) -> None:
        self.version = 0
        self.newest_seq = 0
        self._most = most
        self._known: dict[str, tuple[int, Incident]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def tell(self, incident: Incident) -> None:
        """Take in a record; an older one than is known changes nothing."""
        known = self._known.pop(incident.incident_id, None)
        if known is not None and known[1].revision > incident.revision:
            self._known[incident.incident_id] = known
            return
        self.version += 1
        if known is None:
            self.newest_seq += 1
        self._known[incident.incident_id] = (self.newest_seq if known is None else known[0], incident)
        while len(self._known) > self._most:
            self._known.pop(next(iter(self._known)))

    def get(self, incident_id: str) -> Incident | None:
        """An incident by its id."""
        found = self._known.get(incident_id)
        return None if found is None else found[1]

    def seq(self, incident_id: str) -> int:
        """Its place in the order in which incidents were first told of; 0 for one that is not known."""
        found = self._known.get(incident_id)
        return 0 if found is None else found[0]

    def __iter__(self) -> Iterator[Incident]:
        """Those that stand for themselves: the open ones first, each part with the newest anomaly first."""
        standing = [incident for _, incident in self._known.values() if incident.state not in GONE]
        return iter(sorted(standing, key=lambda one: (one.state not in OPEN, -one.last_ms, one.incident_id)))
