"""The bytes a collector would send: one message for one line, or for several (OTLP).

Each shape carries the service and the request id where that shape carries them; background lines have no request id.
Sources: the shapes of Fluent Bit's tail and systemd inputs, its parser and kubernetes filters, of an ECS logger, of logfmt and of the
OpenTelemetry collector's `otlp_json` encoding (opentelemetry-proto, examples/logs.json).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Event:
    """One log record before it gets a shape.

    `fault` is the number of the fault it shows, None for a normal line; `step` is the name of its step in the service.

    Units:
        ts: milliseconds since 1970, UTC.
    """

    ts: int
    service: str
    host: str
    session: str | None
    level: str
    message: str
    step: str
    fault: int | None = None


_OTEL_NUMBERS = {"INFO": 9, "WARN": 13, "ERROR": 17}
# RFC 5424, section 6.2.1; the journal's PRIORITY is a string
_SYSLOG_SEVERITIES = {"INFO": "6", "WARN": "4", "ERROR": "3"}


def iso_time(ts: int) -> str:
    """The time as collectors write it, with milliseconds.

    >>> iso_time(1_772_442_001_042)
    '2026-03-02T09:00:01.042Z'
    """
    return datetime.fromtimestamp(ts // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%S") + f".{ts % 1000:03d}Z"


def render(shape: str, events: Sequence[Event]) -> bytes:
    """One message of the given shape; every shape but `otlp` holds one event."""
    if shape == "otlp":
        return _dump(_otlp(events))
    if len(events) != 1:
        raise ValueError(f"shape {shape} holds one event a message, not {len(events)}")
    event = events[0]
    if shape == "logfmt":
        return _logfmt(event)
    return _dump(_JSON_SHAPES[shape](event))


def _dump(record: dict[str, object]) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode()


def _with_session(record: dict[str, object], key: str, session: str | None) -> dict[str, object]:
    if session is not None:
        record[key] = session
    return record


def _flat_json(event: Event) -> dict[str, object]:
    record: dict[str, object] = {
        "@timestamp": iso_time(event.ts),
        "service": event.service,
        "level": event.level.lower(),
        "host": event.host,
        "message": event.message,
    }
    return _with_session(record, "request_id", event.session)


def _millis_json(event: Event) -> dict[str, object]:
    record: dict[str, object] = {
        "time": event.ts,
        "severity": event.level,
        "service_name": event.service,
        "hostname": event.host,
        "msg": event.message,
    }
    return _with_session(record, "traceId", event.session)


def _ecs(event: Event) -> dict[str, object]:
    record: dict[str, object] = {
        "@timestamp": iso_time(event.ts),
        "log": {"level": event.level, "logger": f"shop.{event.service}"},
        "message": event.message,
        "ecs": {"version": "8.11.0"},
        "service": {"name": event.service, "version": "4.2.1"},
        "host": {"name": event.host},
    }
    return record if event.session is None else {**record, "trace": {"id": event.session}}


def _kubernetes(event: Event) -> dict[str, object]:
    return {
        "pod_name": event.host,
        "namespace_name": "shop",
        "container_name": event.service,
        "labels": {"app.kubernetes.io/name": event.service},
    }


def _kubernetes_text(event: Event) -> dict[str, object]:
    """A plain line; a parser filter of the collector has lifted the request id and kept the line."""
    when = iso_time(event.ts)
    record: dict[str, object] = {
        "@timestamp": when,
        "stream": "stdout",
        "log": f"{when[:10]} {when[11:19]},{event.ts % 1000:03d} {event.level:<5} {event.message}",
    }
    return {**_with_session(record, "request_id", event.session), "kubernetes": _kubernetes(event)}


def _kubernetes_cri(event: Event) -> dict[str, object]:
    """A line of the container runtime, tailed without its parser: the runtime's head is still in `log`."""
    when = iso_time(event.ts)
    record: dict[str, object] = {
        "@timestamp": when,
        "log": f"{when[:-1]}000000Z stdout F {event.level} {event.message}",
    }
    return {**_with_session(record, "request_id", event.session), "kubernetes": _kubernetes(event)}


def _logfmt(event: Event) -> bytes:
    request = "" if event.session is None else f" request_id={event.session}"
    text = json.dumps(event.message, ensure_ascii=False)
    return (
        f"ts={iso_time(event.ts)} level={event.level.lower()} service={event.service} host={event.host}{request} msg={text}"
    ).encode()


def _journal(event: Event) -> dict[str, object]:
    """A unit's line from the systemd journal, as Fluent Bit's systemd input reads it, with a field of the unit's own."""
    record: dict[str, object] = {
        "@timestamp": event.ts / 1000,
        "PRIORITY": _SYSLOG_SEVERITIES[event.level],
        "SYSLOG_IDENTIFIER": event.service,
        "_HOSTNAME": event.host,
        "MESSAGE": event.message,
    }
    return _with_session(record, "REQUEST_ID", event.session)


def _otlp(events: Sequence[Event]) -> dict[str, object]:
    """Several records of one service in one message; numbers of 64 bits are strings, as OTLP's JSON wants them."""
    records: list[dict[str, object]] = []
    for event in events:
        record: dict[str, object] = {
            "timeUnixNano": str(event.ts * 1_000_000),
            "observedTimeUnixNano": str((event.ts + 3) * 1_000_000),
            "severityNumber": _OTEL_NUMBERS[event.level],
            "severityText": event.level,
            "body": {"stringValue": event.message},
        }
        if event.session is not None:
            record["attributes"] = [_attribute("request_id", event.session)]
        records.append(record)
    resource = [_attribute("service.name", events[0].service), _attribute("host.name", events[0].host)]
    scope = {"name": f"shop.{events[0].service}"}
    return {
        "resourceLogs": [
            {"resource": {"attributes": resource}, "scopeLogs": [{"scope": scope, "logRecords": records}]},
        ]
    }


def _attribute(key: str, value: str) -> dict[str, object]:
    return {"key": key, "value": {"stringValue": value}}


_JSON_SHAPES = {
    "flat_json": _flat_json,
    "millis_json": _millis_json,
    "ecs": _ecs,
    "journal": _journal,
    "kubernetes_text": _kubernetes_text,
    "kubernetes_cri": _kubernetes_cri,
}
