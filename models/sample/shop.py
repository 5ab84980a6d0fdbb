"""The shop's log as a stream: requests that overlap, background jobs at their times, faults in the second part.

```
time ──────────────────────────────────────────────────────────────▶
│ learning part: normal requests only │ quiet │ rest: normal requests, `fault_ratio` of them faulty, rate faults │
                                        ▲ boundary: no request is open across it
```
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from random import Random

from models.sample.faults import REQUEST_KINDS, Fault, faulty_request
from models.sample.flows import FLOWS, Step, run_flow, write
from models.sample.services import SERVICES, JobSpec
from models.sample.shapes import Event, render

# 2026-03-02 09:00:00 UTC, a Monday: a fixed start, so that a seed gives the same bytes on any day
START_MS = 1_772_442_000_000
_QUIET_MS = 1_000
# An OpenTelemetry collector's batch processor sends after 200 ms by default (its `timeout`)
_BATCH_MS = 200
_BATCH_RECORDS = 6
# A rate fault this often in the second part; its kind, service and step take turns
_RATE_EVERY_MS = 75_000
_SILENCE_MS = 40_000


@dataclass(frozen=True)
class ShopParams:
    """How much the shop does.

    Args:
        requests: in both parts together.
        seed: the same seed gives the same bytes.
        learn_ratio: share of the requests in the first part, which has no fault.
        fault_ratio: share of the second part's requests that are faulty.
        requests_per_s: mean arrivals a second of event time.
        copies: of the whole shop; with more than one, service names end in `-001`, `-002`…
        start_ms: event time of the first line.

    Raises:
        ValueError: a figure is out of its range.
    """

    requests: int = 3_600
    seed: int = 7
    learn_ratio: float = 0.6
    fault_ratio: float = 0.06
    requests_per_s: float = 2.0
    copies: int = 1
    start_ms: int = START_MS

    def __post_init__(self) -> None:
        if self.requests < 1 or self.copies < 1:
            raise ValueError("requests and copies must be at least 1")
        if not 0 <= self.learn_ratio <= 1 or not 0 <= self.fault_ratio <= 1:
            raise ValueError("learn_ratio and fault_ratio must lie between 0 and 1")
        if self.requests_per_s <= 0:
            raise ValueError("requests_per_s must be above 0")


@dataclass(frozen=True, slots=True)
class SampleLine:
    """One message as a collector sends it, and what is known about it.

    `events` are the log records in it (several for OTLP); `ts` and `service` are the last one's; `session` and `fault` are
    those of its faulty record if it has one, else the last one's.
    """

    value: bytes
    ts: int
    service: str
    session: str | None
    fault: str | None
    is_learning: bool
    events: tuple[Event, ...]
    faults: tuple[Fault, ...]


def generate(params: ShopParams) -> Iterator[SampleLine]:
    """The shop's messages in the order in which a collector would send them.

    >>> first = next(generate(ShopParams(requests=5)))
    >>> first.service, first.is_learning, first.fault
    ('front', True, None)
    """
    shop = _Shop(params)
    for number in range(params.requests):
        yield from shop.run_until(shop.next_arrival(number))
        shop.start_request(number)
    yield from shop.run_until(shop.last_ts + 1)
    yield from shop.send_all()


class _Shop:
    """The clock of the shop: what is still to happen (a heap by time), and the OTLP batches that are open.

    Memory is bounded by the requests under way and three jobs a service.
    """

    def __init__(self, params: ShopParams) -> None:
        self.params = params
        self.rng = Random(params.seed)
        self.learning_requests = round(params.requests * params.learn_ratio)
        self.arrival_ms = params.start_ms
        self.boundary_ms = params.start_ms if self.learning_requests == 0 else None
        self.last_ts = params.start_ms
        self._ties = count()
        self._due: list[tuple[int, int, Event | _Tick]] = []
        self._batches: dict[str, list[Event]] = {}
        self._faults: dict[int, Fault] = {}
        self._sites = dict.fromkeys(REQUEST_KINDS, 0)
        self._silent: dict[tuple[str, str], Fault] = {}
        self._next_rate_ms: int | None = None
        self._rate_turn = 0
        self._hosts: dict[str, str] = {}
        for copy in range(params.copies):
            shift_ms = self.rng.randint(0, 4_999) if params.copies > 1 else 0
            for service, spec in SERVICES.items():
                self._hosts[self._name(service, copy)] = f"{service}-{self.rng.getrandbits(36):09x}"
                for job in spec.jobs:
                    self._push(params.start_ms + shift_ms + job.offset_ms, _Tick(service, copy, job))

    def next_arrival(self, number: int) -> int:
        """When the next request comes; the first one of the second part waits until all the others are done."""
        if number == self.learning_requests and number > 0:
            self.boundary_ms = self.last_ts + _QUIET_MS
            self.arrival_ms = self.boundary_ms + _QUIET_MS
        else:
            self.arrival_ms += max(1, round(self.rng.expovariate(self.params.requests_per_s) * 1000))
        return self.arrival_ms

    def start_request(self, number: int) -> None:
        """Plans all the lines of the next request, and a rate fault when one is due."""
        copy = self.rng.randrange(self.params.copies)
        session = f"{self.rng.getrandbits(64):016x}"
        if number >= self.learning_requests:
            self._plan_rate(copy)
        if number >= self.learning_requests and self.rng.random() < self.params.fault_ratio:
            steps = self._strike(session, copy)
        else:
            names = list(FLOWS)
            steps = run_flow(self.rng, self.rng.choices(names, [share for share, _ in FLOWS.values()])[0])
        ts = self.arrival_ms
        for step in steps:
            ts += max(1, step.delay_ms)
            self._push(ts, self._event(ts, step, copy, session))
        self.last_ts = max(self.last_ts, ts)

    def run_until(self, until_ms: int) -> Iterator[SampleLine]:
        """All that happens before `until_ms`, in order of time."""
        while self._due and self._due[0][0] < until_ms:
            ts, _, what = heapq.heappop(self._due)
            if self.boundary_ms is not None and ts >= self.boundary_ms:
                yield from self.send_all(before_ms=self.boundary_ms)
            yield from self._send_old(ts)
            event = self._run_job(ts, what) if isinstance(what, _Tick) else what
            if event is not None:
                yield from self._send(event)

    def send_all(self, before_ms: int | None = None) -> Iterator[SampleLine]:
        """The batches still open (only those begun before `before_ms`, if given)."""
        for service in [
            name for name, events in self._batches.items() if before_ms is None or events[0].ts < before_ms
        ]:
            yield self._line("otlp", self._batches.pop(service))

    def _name(self, service: str, copy: int) -> str:
        return service if self.params.copies == 1 else f"{service}-{copy + 1:03d}"

    def _push(self, ts: int, what: Event | _Tick) -> None:
        heapq.heappush(self._due, (ts, next(self._ties), what))

    def _event(self, ts: int, step: Step, copy: int, session: str | None) -> Event:
        name = self._name(step.service, copy)
        return Event(ts, name, self._hosts[name], session, step.level, step.message, step.name, step.fault)

    def _strike(self, session: str, copy: int) -> list[Step]:
        """A faulty request; the kinds take turns, so that each has its share."""
        kind = min(REQUEST_KINDS, key=lambda one: self._sites[one])
        fault_number = len(self._faults)
        steps, site = faulty_request(self.rng, kind, self._sites[kind], fault_number)
        self._sites[kind] += 1
        self._faults[fault_number] = Fault(fault_number, kind, self._name(site.service, copy), session, site.note)
        return steps

    def _plan_rate(self, copy: int) -> None:
        """Every 75 s of event time: a burst of a background line, or its silence, in turn."""
        if self._next_rate_ms is None:
            self._next_rate_ms = self.arrival_ms + _RATE_EVERY_MS // 3
        if self.arrival_ms < self._next_rate_ms or self.params.fault_ratio == 0:
            return
        self._next_rate_ms += _RATE_EVERY_MS
        turn = self._rate_turn
        self._rate_turn += 1
        service = list(SERVICES)[(turn * 3) % len(SERVICES)]
        name = self._name(service, copy)
        number = len(self._faults)
        if turn % 2 == 1:
            until_ms = self.arrival_ms + _SILENCE_MS
            fault = Fault(number, "rate", name, None, "no health probe for 40 s", self.arrival_ms, until_ms)
            self._silent[(name, "probed")] = fault
        else:
            step = SERVICES[service].jobs[1 + turn // 2 % 2].step
            lines = self.rng.randint(25, 60)
            ts = self.arrival_ms
            for _ in range(lines):
                ts += self.rng.randint(20, 90)
                line = write(self.rng, service, step, {}, 0)
                line.fault = number
                self._push(ts, self._event(ts, line, copy, None))
            note = f"{lines} lines of the job {step} in {(ts - self.arrival_ms) / 1000:.1f} s"
            fault = Fault(number, "rate", name, None, note, self.arrival_ms, ts)
        self._faults[number] = fault

    def _run_job(self, ts: int, tick: _Tick) -> Event | None:
        """The line of a background job, unless it is silent; plans the job's next turn."""
        self._push(ts + tick.job.period_ms, tick)
        name = self._name(tick.service, tick.copy)
        step = write(self.rng, tick.service, tick.job.step, {}, 0)
        silence = self._silent.get((name, "probed"))
        if silence is not None and silence.end_ms is not None:
            if ts > silence.end_ms:
                del self._silent[(name, "probed")]
            elif tick.job.step == "probed":
                return None
            else:
                step.fault = silence.number  # the job's neighbours are the lines that show it
        return self._event(ts, step, tick.copy, None)

    def _send(self, event: Event) -> Iterator[SampleLine]:
        shape = SERVICES[event.service.split("-")[0]].shape
        if shape != "otlp":
            yield self._line(shape, [event])
            return
        batch = self._batches.setdefault(event.service, [])
        batch.append(event)
        if len(batch) >= _BATCH_RECORDS:
            yield self._line(shape, self._batches.pop(event.service))

    def _send_old(self, ts: int) -> Iterator[SampleLine]:
        # A batch is begun in order of time and dicts keep that order: only the first ones can be old enough
        while self._batches:
            service = next(iter(self._batches))
            if self._batches[service][0].ts + _BATCH_MS > ts:
                return
            yield self._line("otlp", self._batches.pop(service))

    def _line(self, shape: str, events: list[Event]) -> SampleLine:
        shown = next((event for event in events if event.fault is not None), events[-1])
        faults = tuple(self._faults[number] for number in {e.fault: None for e in events} if number is not None)
        last = events[-1]
        is_learning = self.boundary_ms is None or last.ts < self.boundary_ms
        return SampleLine(
            value=render(shape, events),
            ts=last.ts,
            service=last.service,
            session=shown.session,
            fault=None if shown.fault is None else self._faults[shown.fault].kind,
            is_learning=is_learning,
            events=tuple(events),
            faults=faults,
        )


@dataclass(frozen=True, slots=True)
class _Tick:
    """A background job's next turn in one copy of the shop."""

    service: str
    copy: int
    job: JobSpec
