"""Anomalies, statuses and a console without a broker, for the tests of the console."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from console.board import Told, read_anomaly
from console.parts import Console, assemble
from console.settings import ConsoleSettings
from models.control import Command

START_MS = 1_772_442_000_000


def number(seed: object) -> str:
    """Sixteen hexadecimal digits."""
    return hashlib.sha256(str(seed).encode()).hexdigest()[:16]


def record(at: int = 0, **given: Any) -> dict[str, Any]:
    """An anomaly as the job writes it."""
    service = given.get("service", "cart")
    return {
        "anomaly_id": number(at),
        "revision": 0,
        "status": "new",
        "mode": "live",
        "kind": "line",
        "is_late": False,
        "ts": START_MS + at * 1_000,
        "service": service,
        "host": "node-3",
        "session": f"req-{at}",
        "level": "ERROR",
        "severity": None,
        "requires_immediate_action": None,
        "score": 0.75,
        "strength": 9.0,
        "threshold": 3.0,
        "p_value": None,
        "false_per_day": 0.02,
        "detectors": {"novelty": 1.1, "deeplog": 4.2},
        "evidence": [{"kind": "line", "template_id": "1a2b3c4d", "template": "payment <*> failed", "weight": 9.0}],
        "template_id": "1a2b3c4d",
        "template": "payment <*> failed after <*> ms",
        "slug": "payment_failed_after_ms",
        "parameters": [
            {"position": 1, "name": "payment", "type": "id", "unit": None, "value": f"p-{at}"},
            {"position": 4, "name": "after", "type": "int", "unit": "ms", "value": "3012"},
        ],
        "message": f"payment p-{at} failed after 3012 ms",
        "expected": [
            {"template_id": "11111111", "template": "payment <*> captured", "probability": 0.97},
            {"template_id": "22222222", "template": "payment <*> retried", "probability": 0.02},
        ],
        "nearest": None,
        "explanation": "This line is not among the 3 that follow here in normal logs.",
        "context": [
            {"template_id": "33333333", "template": "request <*> accepted"},
            {"template_id": "44444444", "template": "cart <*> loaded"},
        ],
        "fingerprint": number(service),
        "count": None,
        "correlated": None,
        "model_version": "0123456789ab",
        "patterns": [{"pattern": "line:order:1a2b3c4d:44444444", "level": 4.2}],
        "source": {"topic": "logs", "partition": 0, "offset": at, "index": 0, "kafka_ts": START_MS + at * 1_000},
    } | given


def told(at: int = 0, **given: Any) -> Told:
    """An anomaly as the console reads it."""
    found = read_anomaly(orjson.dumps(record(at, **given)), START_MS + at * 1_000)
    assert found is not None
    return found


def status(service: str = "cart", **given: Any) -> bytes:
    """What the job says of a service."""
    return orjson.dumps(
        {
            "service": service,
            "mode": "live",
            "is_auto": True,
            "mode_since_ms": START_MS,
            "why": "It alerts.",
            "model_version": "0123456789ab",
            "lines": 120_000,
            "scored": 100_000,
            "unknown_ratio": 0.012,
            "templates": 214,
            "told": 12,
            "muted": [],
            "wanted": [],
            "budget_per_day": 1.0,
            "last_ts": START_MS + 60_000,
            "commands": {},
            "at_ms": START_MS + 60_000,
        }
        | given
    )


def incident(incident_id: str = "", *, at: int = 0, count: int = 3, **given: Any) -> bytes:
    """An incident as the job writes it: so many anomalies of one kind, a minute apart."""
    first, last = START_MS + at * 1_000, START_MS + at * 1_000 + (count - 1) * 60_000
    example = {
        "anomaly_id": number(at), "ts": first, "service": "cart", "host": "node-3", "session": None, "severity": "error", "confidence": 0.8,
        "strength": 9.0, "detector": "deeplog", "kind": "line", "template_id": "1a2b3c4d", "template": "payment <*> failed after <*> ms",
        "slug": "payment_failed_after_ms", "message": "payment p-0 failed after 3012 ms", "explanation": "It does not follow here in normal logs.",
    }  # fmt: skip
    same = ("service", "detector", "kind", "template_id", "template", "slug")
    kind = {name: example[name] for name in same} | {"first_ms": first, "last_ms": last, "count": count}
    return orjson.dumps(
        {
            "incident_id": incident_id or number(f"incident {at}"), "revision": 0, "state": "open", "merged_into": None, "mode": "live",
            "severity": "error", "severity_confidence": 0.8, "requires_immediate_action": False, "title": "payments fail in cart",
            "started_ms": first, "last_ms": last, "opened_at_ms": last, "updated_at_ms": last, "closed_at_ms": None, "count": count, "refuted": 0,
            "reopened": 0, "is_storm": False, "services": ["cart"], "cause": example, "worst": example, "kinds": [kind], "sessions": [],
            "histogram": {"start_ms": first // 60_000 * 60_000, "step_ms": 60_000, "counts": [1] * count}, "anomaly_ids": [number(at)],
            "message": {"number": 1, "kind": "opened", "why": "It began.", "at_ms": last},
        }
        | given
    )  # fmt: skip


def console(sent: list[Command] | None = None, **given: Any) -> Console:
    """A console whose commands go into a list and whose board the test fills."""
    send = (sent if sent is not None else []).append
    return assemble(ConsoleSettings(**given), send)
