"""From anomalies to incidents: one for everything that seems to have one cause.

```
anomaly ─ same service and oddity as in an open incident? ────────────────┐
        ─ same session, request or trace as an anomaly minutes before? ───┼─→ into that incident
        ─ its service began another incident within the last minute? ─────┘
        ─ three services began to fail within a minute of each other? ─────→ their incidents become one, a storm
        ─ else ────────────────────────────────────────────────────────────→ a new incident
ticks   ─ quiet for a quarter of an hour ──────────────────────────────────→ resolved
```

What belongs together is decided by event time, so that a job that catches up decides as one that kept up; when people are told, and when it is over, by
the processing time that the caller hands in. A service in shadow mode has incidents of its own, of which nobody is told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from models.alerts.incident import Incident
from models.alerts.sighting import Sighting, read
from models.alerts.table import Table
from models.alerts.telling import TellingParams, tell
from models.errors import SettingsError

#: Between two calls more time than this has passed only if the program was away; that time was not quiet.
_AWAY_MS: Final = 60_000


@dataclass(frozen=True)
class CorrelatorParams:
    """What counts as one incident, and for how long.

    Attributes:
        telling: when people are told.
        quiet_ms: processing time without an anomaly after which an incident is over.
        trace_ms: event time within which anomalies of one session, request or trace belong together.
        storm_ms: event time within which services that begin to fail do so together …
        storm_span_ms: … and after which a storm takes in nothing new.
        storm_services: so many of them are a storm.
        publish_ms: counts of an incident are published at most this often; what is told, at once.
        tick_ms: processing time between ticks.
        max_incidents, max_groups, max_sessions, max_anomalies: kept at most; those longest untouched give way.
    """

    telling: TellingParams = field(default_factory=TellingParams)
    quiet_ms: int = 900_000
    trace_ms: int = 600_000
    storm_ms: int = 60_000
    storm_span_ms: int = 600_000
    storm_services: int = 3
    publish_ms: int = 1_000
    tick_ms: int = 1_000
    max_incidents: int = 2_000
    max_groups: int = 20_000
    max_sessions: int = 20_000
    max_anomalies: int = 50_000

    def __post_init__(self) -> None:
        wrong = [name for name, value in vars(self).items() if isinstance(value, int) and value <= 0]
        if wrong:
            raise SettingsError(f"Alerts: {', '.join(sorted(wrong))} must be above 0.")

    def build(self) -> Correlator:
        """No incident yet."""
        return Correlator(self)


@dataclass(frozen=True, slots=True)
class _Counted:
    """How an anomaly was counted; grade −1 if it is not.

    State: about 120 bytes as a row.
    """

    incident_id: str
    revision: int
    grade: int
    group: str
    service: str
    ts: int


@dataclass(frozen=True, slots=True)
class _Touch:
    """The incident that a session was last seen in."""

    incident_id: str
    ts: int


class Upsert(NamedTuple):
    """The newest record of an incident, for a topic that keeps the last by key."""

    incident_id: str
    record: bytes


class Correlator:
    """Open incidents, those closed not long ago, and what leads to them.

    State: rows of four tables and a clock, bounded by the params; with the defaults at most about 100 MB, and 1 MB where 100 incidents are open.
    """

    def __init__(self, params: CorrelatorParams) -> None:
        self.params = params
        self._incidents: Table[Incident] = Table("i:", params.max_incidents + 1, Incident.from_row)
        self._groups: Table[str] = Table("g:", params.max_groups, str)
        self._sessions: Table[_Touch] = Table("s:", params.max_sessions, lambda row: _Touch(**row))
        self._anomalies: Table[_Counted] = Table("a:", params.max_anomalies, lambda row: _Counted(**row))
        # One row: the time of the last call, and since when the program has not been away.
        self._clock: Table[list[int]] = Table("clock", 1, list)
        self._unsaid: dict[str, Incident] = {}  # changed since published, or to be published for the last time
        self.opened = self.told = self.evicted = 0  # in all, for metrics

    # ---- anomalies in, incidents out

    def step(self, anomalies: Sequence[bytes], now_ms: int) -> list[Upsert]:
        """Take some records of the topic `anomalies`; gives the incidents to publish."""
        self._wake(now_ms)
        for anomaly in anomalies:
            self._take(read(anomaly), now_ms)
        return self._publish(now_ms)

    def tick(self, now_ms: int) -> list[Upsert]:
        """Let processing time pass; gives the incidents to publish: those to tell, those that are over, and those whose counts have moved."""
        self._wake(now_ms)
        resumed = self._clock_row()[1]
        for name, incident in self._incidents:
            if incident.is_open and now_ms - max(incident.seen_at, resumed) >= self.params.quiet_ms:
                self._close(incident, "resolved", now_ms)
            self._tell(incident, now_ms)
            if not incident.is_open and now_ms - max(incident.seen_at, incident.told.at_ms) > self._memory_ms:
                self._incidents.drop(name)
        return self._publish(now_ms)

    @property
    def is_idle(self) -> bool:
        """True when no tick would do anything."""
        return not len(self._incidents) and not self._unsaid

    @property
    def open(self) -> int:
        """Incidents that are open."""
        return sum(1 for _, incident in self._incidents if incident.is_open)

    @property
    def _memory_ms(self) -> int:
        """How long a closed incident may come back as the same."""
        return max(self.params.telling.cooldown_ms, self.params.quiet_ms)

    def _clock_row(self) -> list[int]:
        return self._clock.get("") or [0, 0]

    def _wake(self, now_ms: int) -> None:
        last, resumed = self._clock_row()
        self._clock.put("", [now_ms, now_ms if now_ms - last > _AWAY_MS else resumed])

    def _take(self, seen: Sighting, now_ms: int) -> None:
        example = seen.example
        name = example.anomaly_id
        before = self._anomalies.get(name)
        if before is not None and seen.revision <= before.revision:
            return  # read again, or overtaken by a later word on it
        was_in = self._incidents.get(before.incident_id) if before is not None and before.grade >= 0 else None
        if before is not None and was_in is not None:
            was_in.take_out(before.group, before.service, before.grade, before.ts, name)
        if seen.is_refuted:
            if was_in is not None:
                was_in.refuted += 1
                self._changed(was_in)
                if was_in.is_open and not was_in.count:
                    self._close(was_in, "withdrawn", now_ms)
                    self._tell(was_in, now_ms)
            home_id, grade = was_in.incident_id if was_in is not None else "", -1
        else:
            home = was_in if was_in is not None and was_in.is_open else self._home(seen, now_ms)
            home.add(seen, now_ms, is_known=was_in is home)
            self._lead(seen, home)
            self._changed(home)
            self._tell(home, now_ms, is_arrival=True)
            home_id, grade = home.incident_id, seen.grade
        self._anomalies.put(name, _Counted(home_id, seen.revision, grade, seen.group, example.service, example.ts))

    def _lead(self, seen: Sighting, home: Incident) -> None:
        """Let what comes later with the same oddity or session find this incident."""
        self._groups.put(seen.group, home.incident_id)
        if seen.example.session is not None:
            self._sessions.put(_session_key(seen), _Touch(home.incident_id, seen.example.ts))

    # ---- which incident

    def _home(self, seen: Sighting, now_ms: int) -> Incident:
        """The incident that an anomaly belongs to, a new one if to none."""
        known = self._incidents.get(self._groups.get(seen.group))
        if known is not None:
            if not known.is_open:
                self._reopen(known, now_ms)
            return known
        touch = self._sessions.get(_session_key(seen)) if seen.example.session is not None else None
        if touch is not None and abs(seen.example.ts - touch.ts) <= self.params.trace_ms:
            traced = self._incidents.get(touch.incident_id)
            if traced is not None and traced.is_open:
                return traced
        return self._among_neighbours(seen, now_ms) or self._new(seen, now_ms)

    def _among_neighbours(self, seen: Sighting, now_ms: int) -> Incident | None:
        ts, service = seen.example.ts, seen.example.service
        near = [
            incident
            for _, incident in self._incidents
            if incident.is_open
            and incident.mode == seen.mode
            and _apart_ms(ts, incident) <= self.params.storm_ms
            and abs(ts - incident.started_ms) <= self.params.storm_span_ms
        ]
        own = [incident for incident in near if service in incident.services]
        if own:
            return min(own, key=lambda each: (_apart_ms(ts, each), each.incident_id))
        services = {service}.union(*(incident.services for incident in near))
        if len(services) < self.params.storm_services:
            return None
        # One that was told goes on, so that nobody hears of a merger who need not.
        first, *others = sorted(near, key=lambda each: (not each.told.number, each.started_ms, each.incident_id))
        for other in others:
            self._merge(other, first, now_ms)
        first.is_storm = True
        return first

    def _new(self, seen: Sighting, now_ms: int) -> Incident:
        if len(self._incidents) >= self.params.max_incidents:
            self._make_room(now_ms)
        incident = Incident.of(seen, now_ms)
        earlier = self._incidents.get(incident.incident_id)  # its first anomaly was refuted, and now holds again
        if earlier is not None:
            self._reopen(earlier, now_ms)
            return earlier
        self.opened += 1
        return incident

    def _make_room(self, now_ms: int) -> None:
        """Give up the closed incident that was longest untouched, or else the open one."""
        name, incident = next((each for each in self._incidents if not each[1].is_open), next(iter(self._incidents)))
        if incident.is_open:
            self._close(incident, "resolved", now_ms)
            self._tell(incident, now_ms)
            self.evicted += 1
        self._incidents.drop(name)

    def _merge(self, other: Incident, into: Incident, now_ms: int) -> None:
        into.swallow(other)
        other.merged_into = into.incident_id
        self._close(other, "merged", now_ms)
        self._tell(other, now_ms)
        old, new = other.incident_id, into.incident_id
        for group, name in self._groups:
            if name == old:
                self._groups.put(group, new)
        for session, touch in self._sessions:
            if touch.incident_id == old:
                self._sessions.put(session, replace(touch, incident_id=new))
        for anomaly, counted in self._anomalies:
            if counted.incident_id == old:
                self._anomalies.put(anomaly, replace(counted, incident_id=new))
        self._incidents.drop(old)

    def _close(self, incident: Incident, state: str, now_ms: int) -> None:
        incident.state, incident.closed_at = state, now_ms
        self._changed(incident)

    def _reopen(self, incident: Incident, now_ms: int) -> None:
        incident.state, incident.closed_at = "open", None
        incident.reopened += 1
        if not incident.told.number:
            incident.opened_at = now_ms  # it gathers anew

    # ---- what goes out

    def _tell(self, incident: Incident, now_ms: int, *, is_arrival: bool = False) -> None:
        if tell(incident, now_ms, self.params.telling, is_arrival=is_arrival):
            self.told += 1
            self._changed(incident)

    def _changed(self, incident: Incident) -> None:
        incident.is_published = False
        self._unsaid[incident.incident_id] = incident
        if incident.merged_into is None:
            self._incidents.put(incident.incident_id, incident)

    def _publish(self, now_ms: int) -> list[Upsert]:
        """The incidents whose news are due, in the order in which they changed."""
        upserts = []
        for name, incident in list(self._unsaid.items()):
            is_news = incident.revision < 0 or not incident.is_open or incident.told.at_ms == now_ms
            if is_news or now_ms - incident.published_at >= self.params.publish_ms:
                incident.revision += 1
                incident.published_at, incident.is_published = now_ms, True
                upserts.append(Upsert(name, incident.record()))
                del self._unsaid[name]
                if self._incidents.get(name) is incident:
                    self._incidents.put(name, incident)
        return upserts

    # ---- state

    @property
    def _tables(self) -> Iterable[Table[Any]]:
        return self._incidents, self._groups, self._sessions, self._anomalies, self._clock

    def touched(self) -> dict[str, bytes | None]:
        """The rows of the state that changed since the last call; None for those that are gone."""
        return {name: row for table in self._tables for name, row in table.touched().items()}

    def restore(self, rows: Mapping[str, bytes]) -> None:
        """Go on from all rows of a state; called before the first step.

        Raises: ValueError for rows of another version.
        """
        for table in self._tables:
            table.restore(dict(rows))
        self._unsaid = {name: incident for name, incident in self._incidents if not incident.is_published}

    def check(self) -> None:
        """Raise AssertionError unless the bounds and invariants hold."""
        for table in self._tables:
            table.check()
        for name, incident in self._incidents:
            assert name == incident.incident_id
            assert incident.merged_into is None
            incident.check()
        homes = [counted.incident_id for _, counted in self._anomalies if counted.grade >= 0]
        for name, incident in self._incidents:
            assert incident.count >= homes.count(name)


def _apart_ms(ts: int, incident: Incident) -> int:
    """How long before an incident began, or after it last took in something new."""
    return max(incident.started_ms - ts, ts - incident.joined_ms, 0)


def _session_key(seen: Sighting) -> str:
    return f"{seen.mode}\0{seen.example.session}"
