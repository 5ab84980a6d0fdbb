"""What is known about a sample: each fault with its lines, each session with its label; and how anomalies compare with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from models.sample.faults import INFO_KINDS, KINDS, Fault
from models.sample.shapes import iso_time
from models.sample.shop import SampleLine


@dataclass(slots=True)
class FaultRecord:
    """A fault and where it shows.

    `lines` are the places of its records: (number of the message in the file from 0, index of the record in the message).
    """

    fault: Fault
    start_ms: int
    end_ms: int
    lines: list[tuple[int, int]] = field(default_factory=list)

    def to_dict(self) -> dict[str, object]:
        """One line of the truth file."""
        return {
            "number": self.fault.number,
            "kind": self.fault.kind,
            "service": self.fault.service,
            "session": self.fault.session,
            "start": iso_time(self.start_ms),
            "end": iso_time(self.end_ms),
            "info_only": self.fault.kind in INFO_KINDS,
            "note": self.fault.note,
            "lines": [list(place) for place in self.lines],
        }


@dataclass(slots=True)
class Truth:
    """The truth of a sample, gathered line by line as it is written.

    State: one entry a session of the second part and one a fault.
    """

    messages: int = 0
    records: int = 0
    learning_messages: int = 0
    first_ts: int | None = None
    last_learning_ts: int | None = None
    last_ts: int | None = None
    faults: dict[int, FaultRecord] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)

    def add(self, line: SampleLine) -> None:
        """Takes in the next message of the sample."""
        by_number = {fault.number: fault for fault in line.faults}
        for index, event in enumerate(line.events):
            if not line.is_learning and event.session is not None:
                self.labels.setdefault(event.session, 0)
            if event.fault is not None:
                self._add_fault(by_number[event.fault], event.ts, (self.messages, index))
        self.messages += 1
        self.records += len(line.events)
        self.first_ts = line.ts if self.first_ts is None else min(self.first_ts, line.ts)
        self.last_ts = line.ts if self.last_ts is None else max(self.last_ts, line.ts)
        if line.is_learning:
            self.learning_messages += 1
            self.last_learning_ts = max(self.last_learning_ts or 0, line.ts)

    def _add_fault(self, fault: Fault, ts: int, place: tuple[int, int]) -> None:
        record = self.faults.get(fault.number)
        if record is None:
            start_ms = ts if fault.start_ms is None else fault.start_ms
            end_ms = ts if fault.end_ms is None else fault.end_ms
            record = self.faults[fault.number] = FaultRecord(fault, start_ms, end_ms)
        record.lines.append(place)
        record.end_ms = max(record.end_ms, ts)
        if fault.session is not None:
            self.labels[fault.session] = 1


@dataclass(frozen=True, slots=True)
class KindScore:
    """How many faults of a kind there were and how many were found."""

    kind: str
    faults: int
    found: int

    @property
    def recall(self) -> float | None:
        """Share found; None if there were none."""
        return self.found / self.faults if self.faults else None


@dataclass(frozen=True, slots=True)
class Summary:
    """Anomalies against the truth, by request.

    A request is flagged when an anomaly carries its id. A fault of background lines is found when an anomaly without
    session falls in its time, in its service; `stray` are the anomalies without session that fall in no such fault.
    """

    anomalies: int
    flagged: int
    flagged_rightly: int
    stray: int
    kinds: tuple[KindScore, ...]

    @property
    def precision(self) -> float | None:
        """Share of the flagged requests that are faulty; None if none was flagged."""
        return self.flagged_rightly / self.flagged if self.flagged else None

    @property
    def recall(self) -> float | None:
        """Share of all faults that were found, of every kind; None if there were none."""
        faults = sum(kind.faults for kind in self.kinds)
        return sum(kind.found for kind in self.kinds) / faults if faults else None


def compare(truth: Truth, anomalies: Iterable[Mapping[str, object]], grace_ms: int = 20_000) -> Summary:
    """Precision and recall of `anomalies` (the anomaly contract's `service`, `session`, `ts`) against the truth.

    Args:
        truth: of the sample.
        anomalies: those of its second part, in any order; a revised one counts once, by its `anomaly_id`.
        grace_ms: how long after a background fault's end an anomaly still counts for it (its window still holds the lines).
    """
    rated = [record for record in truth.faults.values() if record.fault.session is None]
    by_session = {
        record.fault.session: record.fault for record in truth.faults.values() if record.fault.session is not None
    }
    flagged: set[str] = set()
    found: set[int] = set()
    ids: set[object] = set()
    stray = 0
    for anomaly in anomalies:
        key = anomaly.get("anomaly_id")
        if key is not None and key in ids:
            continue
        ids.add(key if key is not None else len(ids))
        session = anomaly.get("session")
        if session is not None:
            flagged.add(str(session))
            continue
        ts = int(str(anomaly["ts"]))
        hits = [
            record.fault.number
            for record in rated
            if record.fault.service == anomaly.get("service") and record.start_ms <= ts <= record.end_ms + grace_ms
        ]
        found.update(hits)
        stray += not hits
    found.update(fault.number for session, fault in by_session.items() if session in flagged)
    kinds = tuple(
        KindScore(
            kind,
            sum(record.fault.kind == kind for record in truth.faults.values()),
            sum(truth.faults[number].fault.kind == kind for number in found),
        )
        for kind in KINDS
    )
    return Summary(len(ids), len(flagged), sum(session in by_session for session in flagged), stray, kinds)


def dataset_json(truth: Truth, name: str, seed: int) -> dict[str, object]:
    """The data set folder's `dataset.json`: unit session, split at the end of the learning part."""
    return {
        "name": name,
        "unit": "session",
        "train_until": iso_time((truth.last_learning_ts or truth.first_ts or 0) + 1),
        "train_sessions": None,
        "session_field": "session",
        "source": f"driftwood sample --seed {seed}",
        "licence": "generated; free of any terms",
        "records": truth.records,
        "notes": "no request is open across train_until; labels.csv holds the sessions after it; truth.jsonl has each fault "
        "with its kind, and the faults of background lines, which have no session",
    }
