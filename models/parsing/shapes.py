"""The shapes a message comes in, read one message at a time: the long way, for all that is no flat JSON object.

| the message begins with | it is |
|---|---|
| `{` | a JSON object: a record, an OTLP message, or several objects, one a line |
| `[` | a list of JSON objects (Fluent Bit's HTTP output), else a plain line |
| `"` | a JSON text (OpenTelemetry collector, raw), else a plain line |
| 0x0A | OTLP protobuf, else a plain line |
| a number, true, false, null and nothing else | no record |
| anything else | a plain line |
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final

import orjson

from models.errors import RecordError
from models.parsing import otlp
from models.parsing.fields import ABSENT, OTLP_KEYS, Draft, Fields
from models.parsing.params import REASONS

Outcome = Draft | RecordError
_SCALAR: Final = re.compile(rb"\s*(?:-?\d[\d.eE+-]{0,63}|true|false|null|NaN|-?Infinity)\s*$")
_UTF8_BOM: Final = b"\xef\xbb\xbf"
_UTF16_BOMS: Final = (b"\xff\xfe", b"\xfe\xff")
_UNPRINTABLE: Final = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f-\x9f\ufffd]")


class Shapes:
    """Reads any message into drafts; holds no state of its own."""

    def __init__(self, fields: Fields) -> None:
        self._fields = fields

    def outcomes(self, value: bytes | None) -> Iterator[Outcome]:
        """Gives a draft, or why there is none, for each record in a message; at least one in all."""
        try:
            yield from self._outcomes(value)
        except RecordError as error:
            yield error

    def _outcomes(self, value: bytes | None) -> Iterator[Outcome]:
        if value is None:
            raise _refuse("tombstone")
        if value.startswith(_UTF8_BOM):
            value = value[3:]
        body = value.strip()
        if not body:
            raise _refuse("empty")
        if value[0] == 0x0A:
            try:
                yield from _at_least_one(otlp.proto_records(value, self._fields))
            except RecordError:
                if not _is_text(value):
                    raise
                yield _plain(value)
            return
        first = body[:1]
        if first == b"{" or first == b"[" or first == b'"':
            parsed = _loads(body)
            if parsed is not None:
                yield from self._json(parsed)
                return
            if first == b"{" and b"\n" in body:
                lines = [_loads(line) for line in body.split(b"\n") if line.strip()]
                if all(isinstance(line, dict) for line in lines):
                    for line in lines:
                        yield from self._json(line)
                    return
        elif _SCALAR.match(body):
            raise _refuse("not_a_record")
        yield _plain(value)

    def _json(self, parsed: Any) -> Iterator[Outcome]:
        if isinstance(parsed, dict):
            if not OTLP_KEYS.isdisjoint(parsed):
                yield from _at_least_one(otlp.json_records(parsed, self._fields))
            else:
                yield self._object(parsed)
        elif isinstance(parsed, str):
            yield (ABSENT, parsed, ABSENT, ABSENT, ABSENT, ABSENT) if parsed.strip() else _refuse("empty")
        elif isinstance(parsed, list) and len(parsed) == 2 and isinstance(parsed[1], dict) and _is_number(parsed[0]):
            yield self._object({"@timestamp": parsed[0]} | parsed[1])  # Fluent Bit's event: [time, record]
        elif isinstance(parsed, list) and any(isinstance(item, dict) for item in parsed):
            for item in parsed:
                yield self._object(item) if isinstance(item, dict) else _refuse("not_a_record")
        else:
            raise _refuse("not_a_record")

    def _object(self, record: dict[Any, Any]) -> Outcome:
        try:
            return self._fields.read(record)
        except RecordError as error:
            return error


def _at_least_one(outcomes: Iterator[Outcome]) -> Iterator[Outcome]:
    is_empty = True
    for outcome in outcomes:
        is_empty = False
        yield outcome
    if is_empty:
        raise _refuse("no_log_records")


def _refuse(reason: str) -> RecordError:
    return RecordError(reason, "parse", REASONS[reason])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _loads(data: bytes) -> Any:
    """Gives the value of JSON, also of JSON that is not quite: NaN, raw control characters, bad UTF-8, half surrogates.

    None if it is no JSON.

    Raises:
        RecordError: it is nested too deep.
    """
    try:
        return orjson.loads(data)
    except ValueError:
        pass
    try:
        return json.loads(data.decode("utf-8", "replace"), strict=False, parse_constant=_no_number, parse_int=_integer)
    except RecursionError as error:
        raise _refuse("too_deep") from error
    except ValueError:
        return None


def _no_number(_: str) -> None:
    return None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= 20 else float(digits[:400])


def _plain(value: bytes) -> Outcome:
    """Gives a plain line; the head is read later, for all lines at once."""
    text = value.decode("utf-16" if value.startswith(_UTF16_BOMS) else "utf-8", "replace")
    # Two in three characters that cannot be shown: a binary message (Avro, MessagePack), no line.
    if ("\ufffd" in text or not text.isprintable()) and len(_UNPRINTABLE.findall(text[:4096])) * 3 > len(
        text[:4096]
    ) * 2:
        return _refuse("not_text")
    return (ABSENT, text, ABSENT, ABSENT, ABSENT, ABSENT)


def _is_text(value: bytes) -> bool:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return False
    return not _UNPRINTABLE.search(text)
