"""The anomaly record: what the topic, Loki and people get for a line that does not belong.

`docs/anomaly.schema.json` is its contract. Fields whose detector or stage is not there are null.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson
import xxhash

from models.alerts.severity import severity
from models.detectors.contract import Evidence
from models.parsing import LEVELS
from models.templates import template_hex

#: Revisions of each telling: it is even, and the second opinion on it (models/second_opinion.py) is the odd one that follows.
REVISIONS: Final = 2

#: A note of a session's newest line keeps this many characters of its message.
_NOTED = 500


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a record came from; the identity of everything said about it."""

    topic: str
    partition: int
    offset: int
    index: int


@dataclass(frozen=True, slots=True)
class Place:
    """The line that an anomaly is about.

    Units: `ts` and `kafka_ts` are ms since the epoch, UTC.
    """

    origin: Origin
    kafka_ts: int
    ts: int
    service: str
    host: str | None
    session: str | None
    level: int
    message: str
    seq: int  # its template, by creation number in the shard

    def to_bytes(self) -> bytes:
        """The place as a note in the session's row; its message is cut, because a row is written with every line."""
        o = self.origin
        return orjson.dumps(
            (
                (o.topic, o.partition, o.offset, o.index),
                self.kafka_ts,
                self.ts,
                self.service,
                self.host,
                self.session,
                self.level,
                self.message if len(self.message) <= _NOTED else self.message[: _NOTED - 1] + "…",
                self.seq,
            )
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Place:
        """The inverse of `to_bytes`."""
        origin, *rest = orjson.loads(data)
        return cls(Origin(*origin), *rest)


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece of an incident's evidence: a template, or the end of a session after it."""

    template_id: int
    template: str
    weight: float
    is_end: bool

    def to_dict(self) -> dict[str, Any]:
        """As the anomaly shows it."""
        kind = "end" if self.is_end else "line"
        return {
            "kind": kind,
            "template_id": template_hex(self.template_id),
            "template": self.template,
            "weight": round(self.weight, 2),
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the detectors, together, thought.

    Attributes:
        anomaly_id, revision: a later revision of one id says that the incident has grown; they count the tellings.
        is_live: it wakes people; else its service is in shadow.
        kind: of the `line`; of nothing coming after it (`end` of its session); of how often such lines come in its service (`rate`).
        strength, threshold: of the incident's evidence, and from which on it is told.
        false_per_day: incidents of normal lines a day that would be as strong.
        votes: evidence by detector, −log10 of how seldom a normal line scores so.
        reasons: of the strongest detectors.
        pieces: the incident's evidence, the strongest first.
        patterns: what its repeats have in common with it (models/patterns.py).
    """

    anomaly_id: str
    revision: int
    kind: str
    is_live: bool
    is_late: bool
    strength: float
    threshold: float
    false_per_day: float
    votes: Mapping[str, float]
    reasons: Sequence[Evidence]
    pieces: Sequence[Piece]
    patterns: Sequence[Mapping[str, Any]]
    model_version: str

    @property
    def score(self) -> float:
        """From 0 to 1; the threshold lies at 0.5."""
        return score_of(self.strength, self.threshold)

    @property
    def detector(self) -> str:
        """The one with the most evidence."""
        return max(self.votes, key=lambda name: self.votes[name])


def score_of(strength: float, threshold: float) -> float:
    """The score of an incident, from 0 to 1; the threshold lies at 0.5.

    >>> score_of(4.0, 4.0), score_of(12.0, 4.0)
    (0.5, 0.75)
    """
    return round(strength / (strength + threshold), 5)


def anomaly_id(cluster: str, origin: Origin, kind: str = "") -> str:
    """The identity of the anomaly of one record: the same in every run over the same input.

    `kind` tells what the record carries beside itself: "end" for the end of its session.

    >>> anomaly_id("", Origin("logs", 0, 17, 0))
    '633e3ad3da3cc7be'
    """
    parts = (cluster, origin.topic, str(origin.partition), str(origin.offset), str(origin.index), kind)
    return xxhash.xxh3_64_hexdigest("\0".join(parts).encode())


def fingerprint(service: str, detector: str, template_id: int) -> str:
    """What repeats of the same anomaly share: service, detector and template; never an id or a time."""
    return xxhash.xxh3_64_hexdigest(f"{service}\0{detector}\0{template_id}".encode())


def explain(verdict: Verdict) -> str:
    """Why the line was flagged."""
    sentences = [reason.sentence for reason in verdict.reasons]
    others = len(verdict.pieces) - 1
    if others > 0:
        what = "1 other unusual line" if others == 1 else f"{others} other unusual kinds of line"
        sentences.append(f"With it came {what}.")
    if verdict.is_late:
        sentences.append("It came too late for its place in the session to be judged.")
    return " ".join(sentences)


def render(
    *,
    place: Place,
    verdict: Verdict,
    template_id: int,
    template: str,
    slug: str,
    parameters: list[dict[str, Any]],
    expected: list[dict[str, Any]],
    context: Sequence[orjson.Fragment],
) -> bytes:
    """The anomaly as JSON."""
    origin = place.origin
    how_bad = severity(
        place.message,
        place.level,
        verdict.strength,
        verdict.threshold,
        verdict.kind,
        verdict.votes,
        len(verdict.pieces),
    )
    nearest = next((reason for reason in verdict.reasons if reason.nearest is not None), None)
    return orjson.dumps(
        {
            "anomaly_id": verdict.anomaly_id,
            "revision": REVISIONS * verdict.revision,
            "status": "strengthened" if verdict.revision else "new",
            "mode": "live" if verdict.is_live else "shadow",
            "kind": verdict.kind,
            "is_late": verdict.is_late,
            "ts": place.ts,
            "service": place.service,
            "host": place.host,
            "session": place.session,
            "level": LEVELS[place.level] or None,
            "severity": how_bad.name,
            "severity_confidence": round(how_bad.confidence, 3),
            "requires_immediate_action": how_bad.is_immediate,
            "score": verdict.score,
            "strength": round(verdict.strength, 4),
            "threshold": round(verdict.threshold, 4),
            "p_value": None,
            "false_per_day": float(f"{verdict.false_per_day:.3g}"),
            "detectors": verdict.votes,
            "evidence": [piece.to_dict() for piece in verdict.pieces],
            "patterns": verdict.patterns,
            "template_id": template_hex(template_id),
            "template": template,
            "slug": slug,
            "parameters": parameters,
            "message": place.message,
            "expected": expected,
            "nearest": None if nearest is None else {"text": nearest.nearest, "differing": list(nearest.differing)},
            "explanation": explain(verdict),
            "context": context,
            "fingerprint": fingerprint(
                place.service, f"{verdict.detector}-end" if verdict.kind == "end" else verdict.detector, template_id
            ),
            "count": None,
            "correlated": None,
            "model_version": verdict.model_version,
            "source": {
                "topic": origin.topic,
                "partition": origin.partition,
                "offset": origin.offset,
                "index": origin.index,
                "kafka_ts": place.kafka_ts,
            },
        }
    )
