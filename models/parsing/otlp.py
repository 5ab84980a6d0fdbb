"""OTLP log messages, JSON and protobuf, to drafts: one message holds many records.

```
ExportLogsServiceRequest
└─ resourceLogs[]  resource.attributes (service.name, k8s.*, host.name)
   └─ scopeLogs[]  scope.name
      └─ logRecords[]  timeUnixNano, observedTimeUnixNano, severityText, severityNumber, body, attributes, traceId
```
Resource attributes win over record attributes of the same name; body, time and severity are the record's own.
Source: opentelemetry-proto, opentelemetry/proto/logs/v1/logs.proto; JSON: lowerCamelCase names, 64-bit integers as
text, trace ids in hexadecimal. Both spellings of the names are read, since proto3 JSON readers must accept both.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError  # type: ignore[import-untyped] # no stubs in the wheel
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from models.errors import RecordError
from models.parsing.fields import ABSENT, TEXT, Draft, Fields, as_text, dump, merged
from models.parsing.levels import LEVELS, normalise
from models.parsing.params import REASONS

_MAX_DEPTH: Final = 32
Outcome = Draft | RecordError


def json_records(message: dict[Any, Any], fields: Fields) -> Iterator[Outcome]:
    """Gives a draft, or why there is none, for each log record of an OTLP JSON message, in its order."""
    for group in _items(message, "resourceLogs", "resource_logs"):
        resource = _attributes(_object(group, "resource"))
        for scope in _items(group, "scopeLogs", "scope_logs", "instrumentationLibraryLogs"):
            for record in _items(scope, "logRecords", "log_records", "logs"):
                trace = record.get("traceId", record.get("trace_id"))
                yield _outcome(
                    fields,
                    resource,
                    lambda record=record: _attributes(record),  # type: ignore[misc]
                    _any_json(record.get("body"), 0),
                    _integer(record.get("timeUnixNano", record.get("time_unix_nano"))),
                    _integer(record.get("observedTimeUnixNano", record.get("observed_time_unix_nano"))),
                    record.get("severityText", record.get("severity_text")),
                    record.get("severityNumber", record.get("severity_number")),
                    trace.lower() if isinstance(trace, str) else "",
                )


def proto_records(data: bytes, fields: Fields) -> Iterator[Outcome]:
    """Gives a draft, or why there is none, for each log record of an OTLP protobuf message, in its order.

    Raises:
        RecordError: the bytes are no such message.
    """
    try:
        message = ExportLogsServiceRequest.FromString(data)
    except DecodeError as error:
        raise RecordError("bad_otlp", "parse", REASONS["bad_otlp"]) from error
    return _proto_records(message, fields)


def _proto_records(message: Any, fields: Fields) -> Iterator[Outcome]:
    for group in message.resource_logs:
        resource = {pair.key: _any_proto(pair.value, 0) for pair in group.resource.attributes}
        for scope in group.scope_logs:
            for record in scope.log_records:
                yield _outcome(
                    fields,
                    resource,
                    lambda record=record: {p.key: _any_proto(p.value, 0) for p in record.attributes},  # type: ignore[misc]
                    _any_proto(record.body, 0),
                    record.time_unix_nano,
                    record.observed_time_unix_nano,
                    record.severity_text,
                    record.severity_number,
                    record.trace_id.hex(),
                )


def _outcome(
    fields: Fields,
    resource: dict[Any, Any],
    attributes_of: Callable[[], dict[Any, Any]],
    body: Any,
    time_ns: int,
    observed_ns: int,
    severity: Any,
    severity_number: Any,
    trace: str,
) -> Outcome:
    try:
        attributes = attributes_of() | resource
        if trace.strip("0"):
            attributes["traceId"] = trace
        if isinstance(body, dict):
            record = merged(body, attributes, "")
            text: Any = None
            if not fields.paths(tuple(body))[TEXT]:
                text = dump(body)
        else:
            record, text = attributes, as_text(body) if body is not None else None
            if isinstance(text, str) and not text.strip():
                text = None
        if text is not None:
            record["log"] = text
        draft = fields.read(record)
    except RecordError as error:
        return error
    level = normalise(severity, "severityText") or normalise(severity_number, "severityNumber")
    time = time_ns or (observed_ns if draft[0] is ABSENT else 0)
    return (
        time if time else draft[0],
        draft[1] if text is None else text,
        draft[2],
        LEVELS[level] if level else draft[3],
        draft[4],
        draft[5],
    )


def _items(message: Any, *names: str) -> list[dict[Any, Any]]:
    for name in names:
        value = message.get(name)
        if isinstance(value, list):
            return [item if isinstance(item, dict) else {} for item in value]
    return []


def _object(message: dict[Any, Any], name: str) -> dict[Any, Any]:
    value = message.get(name)
    return value if isinstance(value, dict) else {}


def _integer(value: Any) -> int:
    """Gives a 64-bit number of proto3 JSON, text or number; 0 if it is none."""
    if isinstance(value, str):
        return int(value) if value.isascii() and value.isdigit() and len(value) <= 20 else 0
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 64 else 0


def _attributes(message: dict[Any, Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for pair in _items(message, "attributes"):
        key = pair.get("key")
        if isinstance(key, str):
            found[key] = _any_json(pair.get("value"), 0)
    return found


def _any_json(value: Any, depth: int) -> Any:
    """Gives an AnyValue in its JSON form as a plain value."""
    if not isinstance(value, dict) or depth > _MAX_DEPTH:
        return None
    for name, inner in value.items():
        kind = name.replace("_", "").lower()
        if kind in ("stringvalue", "boolvalue", "doublevalue"):
            return inner
        if kind == "intvalue":
            return _integer(inner) if not isinstance(inner, str) or not inner.startswith("-") else inner
        if kind == "bytesvalue" and isinstance(inner, str):
            try:
                return base64.b64decode(inner, validate=True)
            except (binascii.Error, ValueError):
                return inner
        if kind == "arrayvalue" and isinstance(inner, dict):
            return [_any_json(v, depth + 1) for v in _items(inner, "values")]
        if kind == "kvlistvalue" and isinstance(inner, dict):
            return {
                p.get("key"): _any_json(p.get("value"), depth + 1)
                for p in _items(inner, "values")
                if isinstance(p.get("key"), str)
            }
    return None


def _any_proto(value: Any, depth: int) -> Any:
    """Gives an AnyValue message as a plain value."""
    kind = value.WhichOneof("value")
    if kind is None or depth > _MAX_DEPTH:
        return None
    if kind == "array_value":
        return [_any_proto(v, depth + 1) for v in value.array_value.values]
    if kind == "kvlist_value":
        return {p.key: _any_proto(p.value, depth + 1) for p in value.kvlist_value.values}
    return getattr(value, kind)
