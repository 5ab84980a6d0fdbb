"""What the parser may be told, and the columns that go in and come out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

from models.parsing.redaction import redactor_of
from models.parsing.rules import DEFAULT_RULES, RedactionRule
from models.parsing.timestamps import Clock, zone_of

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt8 = npt.NDArray[np.uint8]

# Why a message, or a record of it, is no record. `BENIGN_REASONS` are normal in any stream (blank lines, deletions in a
# compacted topic) and say nothing about its health: count them, and leave them out of the ratio that stops the job.
REASONS: Final[dict[str, str]] = {
    "tombstone": "the message has no value",
    "empty": "the message, or the text of the record, is blank",
    "not_a_record": "JSON that is no object, no text and no list of objects",
    "no_text": "an object without any of the text fields; name yours in text_fields or set text_fallback=json",
    "no_log_records": "an OTLP message without log records: metrics or traces sent to a topic of logs",
    "bad_otlp": "neither OTLP protobuf nor text",
    "not_text": "bytes that are neither text nor a known format",
    "too_deep": "JSON nested deeper than the reader goes",
}
BENIGN_REASONS: Final = frozenset({"tombstone", "empty"})

TIME_FIELDS: Final = ("@timestamp", "timeUnixNano", "time", "date", "ts", "timestamp", "time_unix_nano", "@t", "datetime",
                      "eventTime", "t.$date", "__REALTIME_TIMESTAMP", "observedTimeUnixNano")  # fmt: skip
TEXT_FIELDS: Final = ("log", "message", "msg", "body", "MESSAGE", "short_message", "full_message", "@m", "@mt", "textPayload",
                      "text", "event.original", "event", "log_processed", "error.message", "exception.message")  # fmt: skip
LEVEL_FIELDS: Final = ("level", "log.level", "severity", "severityText", "severity_text", "loglevel", "log_level", "lvl",
                       "levelname", "level_name", "severityNumber", "severity_number", "log.syslog.severity.name",
                       "log.syslog.severity.code", "PRIORITY", "levelno", "level_value", "@l", "detected_level")  # fmt: skip
SERVICE_FIELDS: Final = (
    "service.name", "service_name", "service", "app", "application", "serviceName", "kubernetes.labels.app.kubernetes.io/name",
    "kubernetes.labels.app_kubernetes_io/name", "kubernetes.labels.app_kubernetes_io_name", "kubernetes.labels.k8s-app",
    "kubernetes.labels.app", "app_kubernetes_io_name", "labels.app", "labels.application", "k8s.deployment.name",
    "kubernetes.container_name", "kubernetes.container.name", "k8s.container.name", "container_name", "container.name",
    "container", "fields.service", "SYSLOG_IDENTIFIER", "appname", "app_name", "program", "ident", "_SYSTEMD_UNIT", "process.name", "job",
)  # fmt: skip
HOST_FIELDS: Final = ("host.name", "host.hostname", "host", "hostname", "_HOSTNAME", "node_name", "kubernetes.host",
                      "kubernetes.node.name", "k8s.node.name", "agent.hostname", "beat.hostname", "kubernetes.pod_name",
                      "kubernetes.pod.name", "k8s.pod.name", "pod", "instance")  # fmt: skip
SESSION_FIELDS: Final = ("session", "trace_id", "traceId", "trace.id", "request_id", "requestId", "req_id", "reqId",
                         "correlation_id", "correlationId")  # fmt: skip


@dataclass(frozen=True)
class ParseParams:
    """Settings of the parser; plain values, so that they travel to the workers as JSON.

    Attributes:
        redaction: the rules in the order they run; empty turns redaction off.
        redaction_key: the key of the hashes in placeholders and dead letters, a secret of the installation. Without it
            all placeholders of a rule are equal.
        max_line_bytes: longer messages are cut at this many characters, with a mark.
        max_reject_bytes: longer dead letters are cut.
        default_service: the service of a record that names none.
        session_patterns: regular expression (Rust) by service, `*` for all others: its first group, or the whole match,
            in the text is the session of a line that declares none.
        time_zone: the zone of times that state none.
        day_first: 03/04/2024 is the third of April.
        text_fallback: `reject` an object without text, or make its `json` the message.
        time_fields, text_fields, level_fields, service_fields, host_fields, session_fields: where to look, first found
            wins; a dot means nested or flat, letters of any case.
    """

    redaction: tuple[RedactionRule, ...] = DEFAULT_RULES
    redaction_key: bytes = field(default=b"", repr=False)
    max_line_bytes: int = 1 << 20
    max_reject_bytes: int = 1 << 16
    max_name_chars: int = 128
    max_session_chars: int = 256
    default_service: str = "unknown_service"
    session_patterns: Mapping[str, str] | tuple[tuple[str, str], ...] = ()
    time_zone: str = "UTC"
    day_first: bool = False
    text_fallback: str = "reject"
    time_fields: tuple[str, ...] = TIME_FIELDS
    text_fields: tuple[str, ...] = TEXT_FIELDS
    level_fields: tuple[str, ...] = LEVEL_FIELDS
    service_fields: tuple[str, ...] = SERVICE_FIELDS
    host_fields: tuple[str, ...] = HOST_FIELDS
    session_fields: tuple[str, ...] = SESSION_FIELDS

    def __post_init__(self) -> None:
        """Checks everything that can be checked before the first line.

        Raises:
            ValueError: a setting is wrong; the message says which and what to do.
        """
        # A tuple, since the settings are the key of the compiled parser.
        object.__setattr__(self, "session_patterns", tuple(sorted(dict(self.session_patterns).items())))
        for name in ("max_line_bytes", "max_reject_bytes", "max_name_chars", "max_session_chars"):
            if getattr(self, name) < 16:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 16")
        if not self.default_service.strip():
            raise ValueError("default_service is blank; name the service of records that name none")
        if self.text_fallback not in ("reject", "json"):
            raise ValueError(f"text_fallback is {self.text_fallback!r}; use reject or json")
        zone_of(self.time_zone)
        redactor_of(self.redaction, self.redaction_key)
        for service, pattern in dict(self.session_patterns).items():
            try:
                re.compile(pattern)
                pl.Series([""], dtype=pl.String).str.contains(pattern)
            except (re.error, pl.exceptions.ComputeError) as error:
                raise ValueError(
                    f"session pattern of {service!r} is no regular expression that both Python and Rust read "
                    f"(no look-around, no back references): {error}"
                ) from error

    @property
    def clock(self) -> Clock:
        """How times are completed."""
        return Clock(zone_of(self.time_zone), self.day_first)

    def to_json(self) -> str:
        """Gives the settings as JSON, the key in hexadecimal: treat it as a secret."""
        return json.dumps(asdict(self) | {"redaction_key": self.redaction_key.hex()})

    @classmethod
    def from_json(cls, text: str) -> ParseParams:
        """Gives the settings back from `to_json`.

        Raises:
            ValueError: the text has a key that is no setting, or a wrong value.

        >>> ParseParams.from_json(ParseParams(day_first=True).to_json()) == ParseParams(day_first=True)
        True
        """
        data: dict[str, Any] = json.loads(text)
        unknown = sorted(set(data) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"no such setting of the parser: {', '.join(unknown)}")
        for name, value in data.items():
            if name == "redaction_key":
                data[name] = bytes.fromhex(value)
            elif name == "redaction":
                data[name] = tuple(RedactionRule(**rule) for rule in value)
            elif name == "session_patterns":
                data[name] = tuple((str(s), str(p)) for s, p in value)
            elif isinstance(value, list):
                data[name] = tuple(value)
        return cls(**data)


@dataclass(frozen=True, slots=True)
class Raw:
    """One batch of source records.

    Shapes: values list[M]; topic list[M] or one for all; partition int32[M]; offset, timestamp_ms int64[M].
    Units: timestamp_ms is Kafka's, milliseconds since 1970.
    """

    values: list[bytes | None]
    topic: list[str] | str
    partition: Int32
    offset: Int64
    timestamp_ms: Int64


@dataclass(frozen=True, slots=True)
class Records:
    """The records of a batch as columns, in the order of the source.

    N may exceed M (OTLP: many records in one message) or fall below it (rejects). (row, index) is unique.

    Shapes: row, index int32[N]; ts int64[N]; level uint8[N]; service, host, session, message list[N].
    Units: ts is the event time, milliseconds since 1970, UTC. level is an index of `LEVELS`.
    """

    row: Int32
    index: Int32
    ts: Int64
    service: list[str]
    level: UInt8
    host: list[str | None]
    session: list[str | None]
    message: list[str]

    def __len__(self) -> int:
        return len(self.message)


@dataclass(frozen=True, slots=True)
class Reject:
    """One message, or one record inside a message, that is no record.

    Attributes:
        row: index into the batch.
        index: the record's place in its message; 0 where the message as a whole is refused.
        reason: a key of `REASONS`.
        stage: the step that refused it.
        detail: one sentence for a person, free of the record's bytes.
        redacted_bytes: the message's bytes, secrets replaced, cut at a limit.
        digest: keyed hash of the original bytes, hexadecimal.
    """

    row: int
    index: int
    reason: str
    stage: str
    detail: str
    redacted_bytes: bytes
    digest: str
