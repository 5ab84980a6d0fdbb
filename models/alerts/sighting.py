"""What the correlator reads of an anomaly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import orjson
import xxhash

from models.alerts.severity import rank

#: An example keeps this much of a text.
_CHARS: Final = 600


@dataclass(frozen=True, slots=True)
class Example:
    """One anomaly as an incident shows it: where it began, or what is worst in it."""

    anomaly_id: str
    ts: int
    service: str
    host: str | None
    session: str | None
    severity: str | None
    confidence: float | None
    strength: float
    detector: str
    kind: str
    template_id: str
    template: str
    slug: str
    message: str
    explanation: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """One revision of an anomaly.

    Attributes:
        group: mode, service and what was odd; equal for its repeats, and free of ids and times.
        grade: rank of its severity; one above the highest for a critical one that cannot wait.
    """

    revision: int
    is_refuted: bool
    mode: str
    group: str
    grade: int
    example: Example


def read(anomaly: bytes) -> Sighting:
    """The sighting in one record of the topic `anomalies`."""
    row = orjson.loads(anomaly)
    detectors = row["detectors"]
    example = Example(
        anomaly_id=row["anomaly_id"],
        ts=row["ts"],
        service=row["service"],
        host=row["host"],
        session=row["session"],
        severity=row["severity"],
        confidence=row.get("severity_confidence"),
        strength=row["strength"],
        detector=max(detectors, key=lambda name: detectors[name]),
        kind=row["kind"],
        template_id=row["template_id"],
        template=row["template"][:_CHARS],
        slug=row["slug"],
        message=row["message"][:_CHARS],
        explanation=row["explanation"][:_CHARS],
    )
    return Sighting(
        revision=row["revision"],
        is_refuted=row["status"] in ("refuted", "withdrawn"),
        mode=row["mode"],
        group=_group(row),
        grade=rank(row["severity"]) + bool(row["requires_immediate_action"]),
        example=example,
    )


def _group(row: dict[str, Any]) -> str:
    """By the strongest pattern, which names a template or a transition; by the fingerprint where an anomaly has no patterns.

    >>> _group({"mode": "live", "service": "cart", "fingerprint": "5d41402a7b52009b"})
    'a086104f1036e68e'
    """
    patterns = row.get("patterns") or [{"pattern": row["fingerprint"], "level": 0.0}]
    strongest = min(patterns, key=lambda each: (-each["level"], each["pattern"]))["pattern"]
    return xxhash.xxh3_64_hexdigest(f"{row['mode']}\0{row['service']}\0{strongest}".encode())
