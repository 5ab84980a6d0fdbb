"""The anomaly record: what the topic, Loki and people get for a line that does not belong.

`docs/anomaly.schema.json` is its contract. Fields whose detector or stage is not there are null.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import xxhash

from models.parsing import LEVELS
from models.templates import template_hex

#: An explanation names at most this many expected templates, and quotes at most this many characters of each.
_NAMED = 2
_QUOTED = 100
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
class Finding:
    """What the model thought of the line, or, if `is_end`, of nothing coming after it."""

    probability: float
    rank: int
    is_known: bool
    is_late: bool
    is_end: bool = False


@dataclass(frozen=True, slots=True)
class Expected:
    """A template that the model thought likely at this place."""

    template_id: int
    template: str
    probability: float


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


def _quote(template: str) -> str:
    return f"«{template if len(template) <= _QUOTED else template[: _QUOTED - 1] + '…'}»"


def explain(template: str, finding: Finding, expected: Sequence[Expected]) -> str:
    """Why the line was flagged, in one sentence."""
    if not finding.is_known:
        late = " It came too late for its place in the session to be judged." if finding.is_late else ""
        return f"No line like {_quote(template)} was seen while learning.{late}"
    likely = " or ".join(f"{_quote(e.template)} ({e.probability:.1%})" for e in expected[:_NAMED])
    if finding.is_end:
        return f"The session stopped after {_quote(template)}; DeepLog expected {likely} to follow, and nothing came."
    return (
        f"After these lines DeepLog expected {likely}; {_quote(template)} came instead, "
        f"number {finding.rank + 1} in its order with a probability of {finding.probability:.3%}."
    )


def render(
    *,
    cluster: str,
    place: Place,
    finding: Finding,
    template_id: int,
    template: str,
    slug: str,
    parameters: list[dict[str, Any]],
    expected: Sequence[Expected],
    context: Sequence[orjson.Fragment],
    model_version: str,
) -> bytes:
    """The anomaly as JSON, revision 0; `score` is 1 − probability of what was seen at this place."""
    score = round(1.0 - finding.probability, 5)
    origin = place.origin
    detector = "deeplog"
    return orjson.dumps(
        {
            "anomaly_id": anomaly_id(cluster, origin, "end" if finding.is_end else ""),
            "revision": 0,
            "status": "new",
            "mode": "live",
            "kind": "end" if finding.is_end else "line",
            "ts": place.ts,
            "service": place.service,
            "host": place.host,
            "session": place.session,
            "level": LEVELS[place.level] or None,
            "severity": None,
            "requires_immediate_action": None,
            "score": score,
            "p_value": None,
            "detectors": {detector: score},
            "template_id": template_hex(template_id),
            "template": template,
            "slug": slug,
            "parameters": parameters,
            "message": place.message,
            "expected": [
                {"template_id": template_hex(e.template_id), "template": e.template, "probability": e.probability}
                for e in expected
            ],
            "explanation": explain(template, finding, expected),
            "context": context,
            "fingerprint": fingerprint(place.service, f"{detector}-end" if finding.is_end else detector, template_id),
            "count": None,
            "correlated": None,
            "model_version": model_version,
            "source": {
                "topic": origin.topic,
                "partition": origin.partition,
                "offset": origin.offset,
                "index": origin.index,
                "kafka_ts": place.kafka_ts,
            },
        }
    )
