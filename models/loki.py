"""Anomalies as Loki push requests: which labels, which time, which line, and what each answer asks for.

```
anomalies ── LokiEntries ──→ Entry* ── requests ──→ [Entry, …] of ONE stream ── payload ──→ JSON
                                                          ↑                                   │ POST
                                                          └── resolve ←── decide ←── status, body   (loki_answers.py)
```

One stream a request, always. An ingester keeps the error of the *last* stream of a request only, so an entry "too far
behind" in an earlier stream is dropped under a 204 (seen on Loki 3.7.8; `instance.Push` in pkg/ingester/instance.go).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import xxhash

from models.delivery import RetryParams, SinkUrl, anomalies, dead_letter, event_time_ms, iso_ms
from models.errors import SettingsError

#: The value of a label whose true value is beyond its cap.
OTHER = "__other__"
#: Labels that the sink itself sets; `clock` is set on re-stamped entries only, so that they do not push the newest time
#: of the stream forward and make its other late entries "too far behind".
OWN_LABELS = ("service_name", "detector", "mode", "clock")
MAX_LABELS = 15  # Loki's max_label_names_per_series
MAX_LABEL_VALUE = 256
MAX_DETECTORS = 16
MAX_METADATA_VALUE = 1024
DAY_MS = 86_400_000

#: Left out of the line, which cannot be changed later: what depends on the open incident at the moment of writing, and so
#: may differ when a replay writes the same anomaly again. Score, severity and detectors are the first verdict's own.
CHANGING_FIELDS = frozenset(("revision", "status", "requires_immediate_action", "count", "correlated"))
#: Left out, in this order, when the line is too long for Loki.
BULKY_FIELDS = ("context", "expected", "parameters")

Labels = tuple[tuple[str, str], ...]
_LABEL_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


@dataclasses.dataclass(frozen=True)
class LokiParams:
    """Where and how anomalies are pushed to Loki.

    Units: `max_age_ms` and `max_ahead_ms` are event time against the Kafka record's time; outside of them Loki would not
    take the event time (its defaults: one week back, ten minutes ahead), so the record's time is used from the start.
    """

    host: str
    port: int = 3100
    is_tls: bool = False
    path: str = ""
    tenant: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    token: str = dataclasses.field(default="", repr=False)
    ca_file: str = ""
    labels: Labels = (("job", "driftwood"),)
    max_services: int = 100
    has_metadata: bool = True
    batch_bytes: int = 1 << 20  # Alloy's and Vector's batch
    batch_entries: int = 10_000
    max_line_bytes: int = 250_000  # Loki's max_line_size is 256 KB
    max_age_ms: int = 7 * DAY_MS - 3_600_000
    max_ahead_ms: int = 600_000
    retry: RetryParams = dataclasses.field(default_factory=RetryParams)

    def __post_init__(self) -> None:
        wrong = []
        if len(self.labels) + len(OWN_LABELS) > MAX_LABELS:
            wrong.append(f"at most {MAX_LABELS - len(OWN_LABELS)} labels of your own (Loki takes {MAX_LABELS})")
        for name, value in self.labels:
            if not _LABEL_NAME.fullmatch(name) or name.startswith("__") or name in OWN_LABELS:
                wrong.append(f"the label name {name!r} cannot be used")
            if not 0 < len(value) <= MAX_LABEL_VALUE:
                wrong.append(f"the value of label {name!r} must have 1 to {MAX_LABEL_VALUE} characters")
        if self.token and self.user:
            wrong.append("give a token or a user with a password, not both")
        if self.batch_bytes < self.max_line_bytes or self.max_line_bytes < 1024:
            wrong.append("batch_bytes must be at least max_line_bytes, and that at least 1024")
        if wrong:
            raise SettingsError(f"The Loki sink cannot be used: {'; '.join(wrong)}.")

    @classmethod
    def from_url(cls, url: str) -> LokiParams:
        """The settings in an address: `loki://[user:password@]host[:3100][/prefix]?tenant=…&label.env=prod`.

        `loki+https://` speaks TLS. Other options: token, ca_file, max_services, metadata, batch_bytes, max_line_bytes,
        max_age_ms, deadline_s, timeout_s, max_tries.

        Raises:
            SettingsError: with every fault at once.

        >>> LokiParams.from_url("loki+https://logs.example/loki-prefix?tenant=shop&label.env=prod").labels
        (('env', 'prod'), ('job', 'driftwood'))
        """
        at = SinkUrl(url, {"loki": 3100, "loki+http": 3100, "loki+https": 443})
        labels = {"job": "driftwood"} | dict(at.prefixed("label."))
        options: dict[str, Any] = {
            "host": at.host,
            "port": at.port,
            "is_tls": at.is_tls,
            "path": at.path.rstrip("/"),
            "tenant": at.text("tenant"),
            "user": at.user,
            "password": at.password,
            "token": at.text("token"),
            "ca_file": at.text("ca_file"),
            "labels": tuple(sorted(labels.items())),
            "max_services": int(at.number("max_services", cls.max_services, 1, 1000)),
            "has_metadata": at.flag("metadata", True),
            "batch_bytes": int(at.number("batch_bytes", cls.batch_bytes, 1024, 64 << 20)),
            "max_line_bytes": int(at.number("max_line_bytes", cls.max_line_bytes, 1024, 16 << 20)),
            "max_age_ms": int(at.number("max_age_ms", cls.max_age_ms, 0)),
            "retry": at.retry(),
        }
        at.finish()
        return cls(**options)

    @property
    def base_url(self) -> str:
        """Scheme, host, port and path prefix; no secret in it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.is_tls else ''}://{host}:{self.port}{self.path}"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One line for Loki. `raw` and `source` are the anomaly it came from, for a dead letter."""

    labels: Labels
    time_ns: int
    line: str
    metadata: tuple[tuple[str, str], ...]
    record_ns: int | None  # the time to use when Loki does not take the event time; None when unknown or already used
    source: Mapping[str, Any]
    raw: bytes

    @property
    def size_bytes(self) -> int:
        """A bound on what the entry adds to a request, before gzip."""
        # 64: the 19 digits of the time, brackets, quotes; a metadata pair costs 6 more than its text.
        # Twice the line: its quotes are escaped, and a control character becomes six bytes but is rare.
        return 64 + 2 * len(self.line.encode()) + sum(len(k) + len(v.encode()) + 6 for k, v in self.metadata)

    def restamped(self) -> Entry:
        """The same entry at the Kafka record's time, in a stream of its own."""
        assert self.record_ns is not None, "an entry without a record time cannot be stamped again"
        labels = tuple(sorted((*self.labels, ("clock", "record"))))
        return dataclasses.replace(self, labels=labels, time_ns=self.record_ns, record_ns=None)


class Names:
    """The first `cap` distinct values of a label; every later one is `__other__`.

    State: at most `cap` strings. It lives as long as the worker: after a restart other services may come first, and a
    line sent again may then stand in two streams. Raise the cap above the number of services to rule that out.

    >>> names = Names(1)
    >>> names.of("cart"), names.of("stock"), names.of("cart")
    ('cart', '__other__', 'cart')
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._known: set[str] = set()

    def of(self, value: str) -> str:
        """The value, or `__other__` when it is beyond the cap or too long for a label."""
        if value in self._known:
            return value
        if len(self._known) >= self._cap or len(value) > MAX_LABEL_VALUE:
            return OTHER
        self._known.add(value)
        return value


class LokiEntries:
    """Anomalies in, entries out; holds the names known so far.

    State: `max_services` + 16 label values.
    """

    def __init__(self, params: LokiParams) -> None:
        self._params = params
        self._services = Names(params.max_services)
        self._detectors = Names(MAX_DETECTORS)

    def step(self, blob: bytes) -> tuple[list[Entry], list[bytes]]:
        """The entries of one JSON-lines element, and dead letters for what cannot be an entry.

        Only revision 0 goes to Loki: a later revision says something new of a line that is there already.
        """
        entries = []
        found, letters = anomalies(blob)
        for anomaly, raw in found:
            if anomaly.get("revision"):
                continue
            if (time_ms := event_time_ms(anomaly.get("ts"))) is None:
                detail = "the anomaly has no event time in `ts`"
                letters.append(dead_letter("no_time", "loki", detail, _source(anomaly), raw))
            else:
                entries.append(self._entry(anomaly, raw, time_ms))
        return entries, letters

    def _entry(self, anomaly: dict[str, Any], raw: bytes, time_ms: int) -> Entry:
        params = self._params
        source = _source(anomaly)
        # The part below a millisecond comes from the id: equal times keep apart, and a replay gives the same bytes.
        below_ms = xxhash.xxh3_64_intdigest(anomaly["anomaly_id"].encode()) % 1_000_000
        record_ms = event_time_ms(source.get("kafka_ts"))
        labels = {
            "service_name": self._services.of(str(anomaly.get("service") or "unknown_service")),
            "detector": self._detectors.of(_loudest(anomaly.get("detectors"))),
            "mode": "shadow" if anomaly.get("mode") == "shadow" else "live",
        }
        entry = Entry(
            labels=tuple(sorted((*params.labels, *labels.items()))),
            time_ns=time_ms * 1_000_000 + below_ms,
            line=line_of(anomaly, params.max_line_bytes),
            metadata=_metadata(anomaly, time_ms) if params.has_metadata else (),
            record_ns=None if record_ms is None else record_ms * 1_000_000 + below_ms,
            source=source,
            raw=raw,
        )
        is_far = record_ms is not None and not (
            record_ms - params.max_age_ms <= time_ms <= record_ms + params.max_ahead_ms
        )
        return entry.restamped() if is_far else entry


def _source(anomaly: Mapping[str, Any]) -> Mapping[str, Any]:
    source = anomaly.get("source")
    return source if isinstance(source, dict) else {}


def _loudest(detectors: Any) -> str:
    if not isinstance(detectors, dict) or not detectors:
        return "none"
    return str(min(detectors, key=lambda name: (-(detectors[name] or 0.0), name)))


def _metadata(anomaly: Mapping[str, Any], time_ms: int) -> tuple[tuple[str, str], ...]:
    """Structured metadata: what one filters by and what has too many values for a label. Strings only, none empty."""
    pairs = [("event_time", iso_ms(time_ms))]
    for name in ("anomaly_id", "host", "level", "score", "session", "severity", "template_id"):
        value = anomaly.get(name)
        if value is None or value == "":
            continue
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        pairs.append((name, text[:MAX_METADATA_VALUE]))
    return tuple(sorted(pairs))


def line_of(anomaly: Mapping[str, Any], max_bytes: int) -> str:
    """The entry's line: the anomaly's JSON without the fields that change later, at most `max_bytes` long.

    JSON and not the message alone: `| json` in LogQL then gives every field, and what was expected and why stands beside
    the line. When it is too long the bulky fields go first, and then long texts are cut with a mark, so that it stays JSON.

    >>> line_of({"anomaly_id": "a", "count": 3, "message": "m"}, 1000)
    '{"anomaly_id":"a","message":"m"}'
    """
    fields = {name: value for name, value in anomaly.items() if name not in CHANGING_FIELDS and value is not None}
    line = orjson.dumps(fields)
    for name in BULKY_FIELDS:
        if len(line) <= max_bytes:
            return line.decode()
        if fields.pop(name, None) is not None:
            fields["cut"] = [*fields.get("cut", []), name]
            line = orjson.dumps(fields)
    keep = max_bytes // 8  # characters: two bytes each for most, so that four long texts fit
    while len(line) > max_bytes and keep:
        fields = {name: _cut(value, keep) for name, value in fields.items()}
        line = orjson.dumps(fields)
        keep //= 2
    return line.decode()


def _cut(value: Any, keep: int) -> Any:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return value if len(text) <= keep else f"{text[:keep]}…[{len(text) - keep} characters cut]"


def requests(entries: Iterable[Entry], params: LokiParams) -> Iterator[list[Entry]]:
    """The entries in requests of one stream each, oldest first, within the batch limits.

    Oldest first: a new line moves the stream's window for late ones.
    """
    streams: dict[Labels, list[Entry]] = {}
    for entry in entries:
        streams.setdefault(entry.labels, []).append(entry)
    for labels in sorted(streams):
        batch: list[Entry] = []
        size = 0
        for entry in sorted(streams[labels], key=lambda entry: (entry.time_ns, entry.line)):
            if batch and (size + entry.size_bytes > params.batch_bytes or len(batch) >= params.batch_entries):
                yield batch
                batch, size = [], 0
            batch.append(entry)
            size += entry.size_bytes
        if batch:
            yield batch


def payload(batch: list[Entry]) -> bytes:
    """The JSON body of one push request: `{"streams":[{"stream":{…},"values":[["<ns>","line",{"k":"v"}]]}]}`.

    Source: Loki's HTTP API reference, "Ingest logs".
    """
    assert len({entry.labels for entry in batch}) == 1, "one stream a request (see the module's docstring)"
    values = [[str(e.time_ns), e.line, dict(e.metadata)] if e.metadata else [str(e.time_ns), e.line] for e in batch]
    return orjson.dumps({"streams": [{"stream": dict(batch[0].labels), "values": values}]})
