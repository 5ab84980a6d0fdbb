"""Reading a range of Loki page by page: which request comes next, and the records of an answer. Pure.

```
cursor ── request ──→ query parameters ──→ GET query_range ──→ answer ── step ──→ records, next cursor
```

A page ends anywhere among entries of one time, so the next page starts at that time again and leaves out the entries
already given. An entry is known by stream, time, metadata and line: Loki itself keeps two that agree in these once.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import orjson
import xxhash

from models.delivery import RetryParams, SinkUrl, event_time_ms
from models.errors import DataSetError, SettingsError

#: Asks Loki to keep structured metadata apart from the stream's labels.
ENCODING_HEADER = {"X-Loki-Response-Encoding-Flags": "categorize-labels"}
QUERY_PATH = "/loki/api/v1/query_range"
#: The parser's accepted names: a record that has one keeps its own time.
_TIME_FIELDS = ("@timestamp", "timeUnixNano", "time", "date", "ts", "timestamp")
_DURATION = re.compile(r"(\d+)([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@dataclasses.dataclass(frozen=True)
class LokiQuery:
    """A range of log lines: a LogQL log query and its times, ns since the epoch, end excluded.

    `window_ns` bounds one request's range; Loki's own limit is max_query_length (30 days and 1 hour by default).
    """

    host: str
    query: str
    start_ns: int
    end_ns: int
    port: int = 3100
    is_tls: bool = False
    path: str = ""
    tenant: str = ""
    user: str = ""
    password: str = dataclasses.field(default="", repr=False)
    token: str = dataclasses.field(default="", repr=False)
    ca_file: str = ""
    limit: int = 2_000
    max_limit: int = 5_000  # Loki's max_entries_limit_per_query
    window_ns: int = 86_400 * 10**9
    retry: RetryParams = dataclasses.field(default_factory=RetryParams)

    def __post_init__(self) -> None:
        wrong = []
        if "{" not in self.query:
            wrong.append('?query= must be a LogQL log query, such as {service_name="checkout"}')
        if self.start_ns >= self.end_ns:
            wrong.append("the start must lie before the end")
        if not 1 <= self.limit <= self.max_limit:
            wrong.append("the limit must be from 1 to max_limit")
        if self.token and self.user:
            wrong.append("give a token or a user with a password, not both")
        if wrong:
            raise SettingsError(f"Loki cannot be read: {'; '.join(wrong)}.")

    @classmethod
    def from_url(cls, url: str, now_ms: int) -> LokiQuery:
        """The query in an address: `loki://host[:3100]?query={app="x"}&since=24h`.

        Instead of `since` (s, m, h, d, w before the end): `start`; and `end` (now, when absent): ISO 8601 or ms. Other options:
        tenant, token, ca_file, limit, max_limit, deadline_s, timeout_s, max_tries. Special characters of the query may be %-escaped.

        Raises:
            SettingsError: with every fault at once.

        >>> LokiQuery.from_url('loki://h?query={app="x"}&since=1h', 7_200_000).start_ns
        3600000000000
        """
        at = SinkUrl(url, {"loki": 3100, "loki+http": 3100, "loki+https": 443})
        start, end, since = at.text("start"), at.text("end"), at.text("since")
        end_ms = _time_ms(at, "end", end, now_ms)
        if start and since:
            at.wrong.append("give ?start= or ?since=, not both")
        match = _DURATION.fullmatch(since or "24h")
        if match is None:
            at.wrong.append("?since= must be a number with s, m, h, d or w, such as 24h")
        back_ms = int(match[1]) * _SECONDS[match[2]] * 1000 if match else 0
        options: dict[str, Any] = {
            "host": at.host,
            "query": at.text("query"),
            "start_ns": _time_ms(at, "start", start, end_ms - back_ms) * 1_000_000,
            "end_ns": end_ms * 1_000_000,
            "port": at.port,
            "is_tls": at.is_tls,
            "path": at.path.rstrip("/"),
            "tenant": at.text("tenant"),
            "user": at.user,
            "password": at.password,
            "token": at.text("token"),
            "ca_file": at.text("ca_file"),
            "limit": int(at.number("limit", cls.limit, 1, 1_000_000)),
            "max_limit": int(at.number("max_limit", cls.max_limit, 1, 1_000_000)),
            "retry": at.retry(),
        }
        at.finish()
        return cls(**options)

    @property
    def base_url(self) -> str:
        """Scheme, host, port and path prefix; no secret in it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.is_tls else ''}://{host}:{self.port}{self.path}"


def _time_ms(at: SinkUrl, name: str, text: str, default: int) -> int:
    if not text:
        return default
    found = int(text) if text.isascii() and text.isdigit() else event_time_ms(text)
    if found is None:
        at.wrong.append(f"?{name}= must be a time in ISO 8601 or in ms since the epoch")
    return default if found is None else found


@dataclasses.dataclass(frozen=True, slots=True)
class Cursor:
    """Where reading goes on: at `time_ns`, without the entries of that time in `given` (their hashes).

    Bound: `given` holds the entries of one nanosecond, at most `max_limit`.

    >>> Cursor.from_bytes(Cursor(7, frozenset((1, 2))).to_bytes()) == Cursor(7, frozenset((1, 2)))
    True
    """

    time_ns: int
    given: frozenset[int] = frozenset()
    limit: int = 0  # 0: the query's own; larger after a page that brought nothing new

    def to_bytes(self) -> bytes:
        """The cursor as JSON, to go on in another process."""
        return orjson.dumps({"version": 1, "time_ns": self.time_ns, "given": sorted(self.given)})

    @classmethod
    def from_bytes(cls, data: bytes) -> Cursor:
        """The inverse of `to_bytes`."""
        value = orjson.loads(data)
        if value.get("version") != 1:
            raise DataSetError("The cursor is of another version; start reading from the beginning.")
        return cls(value["time_ns"], frozenset(value["given"]))


def request(query: LokiQuery, cursor: Cursor) -> dict[str, str] | None:
    """The parameters of the next request, None when the range is read to its end."""
    if cursor.time_ns >= query.end_ns:
        return None
    return {
        "query": query.query,
        "start": str(cursor.time_ns),
        "end": str(min(cursor.time_ns + query.window_ns, query.end_ns)),
        "direction": "forward",
        "limit": str(cursor.limit or query.limit),
    }


def step(query: LokiQuery, cursor: Cursor, body: bytes) -> tuple[list[bytes], Cursor]:
    """The new records of an answer, oldest first, and where to go on.

    Raises:
        DataSetError: the answer holds no log lines, or more entries share one nanosecond than Loki gives at once.
    """
    entries = entries_of(body)
    limit = cursor.limit or query.limit
    end_ns = min(cursor.time_ns + query.window_ns, query.end_ns)
    fresh = [e for e in entries if not (e[0] == cursor.time_ns and e[1] in cursor.given)]
    records = [record for _, _, record in fresh]
    if len(entries) < limit:  # the window is read to its end
        return records, Cursor(end_ns)
    last_ns = entries[-1][0]
    given = frozenset(key for time_ns, key, _ in entries if time_ns == last_ns)
    if last_ns == cursor.time_ns:
        given |= cursor.given
    if fresh:
        return records, Cursor(last_ns, given, cursor.limit if last_ns == cursor.time_ns else 0)
    if limit >= query.max_limit:
        raise DataSetError(
            f"{limit} entries or more of the query share the time {last_ns} ns, and Loki gives {query.max_limit} at once. "
            "Narrow the query by a label, or raise Loki's max_entries_limit_per_query and ?max_limit= with it."
        )
    return records, Cursor(last_ns, given, min(2 * limit, query.max_limit))


def entries_of(body: bytes) -> list[tuple[int, int, bytes]]:
    """(time, identity, record) of each entry, sorted by time and then identity."""
    try:
        data = orjson.loads(body)["data"]
        kind, result = data["resultType"], data["result"]
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DataSetError(
            f"Loki's answer is no query result ({error!r}). Check host, port and path prefix."
        ) from error
    if kind != "streams":
        raise DataSetError(f"The query gives {kind}, not log lines. Leave out rate(), count_over_time() and the like.")
    found = []
    for stream in result:
        labels = stream["stream"]
        head = orjson.dumps(labels, option=orjson.OPT_SORT_KEYS)
        for time_text, line, *rest in stream["values"]:
            groups = rest[0] if rest else {}
            metadata = groups.get("structuredMetadata") or {}
            identity = b"\x00".join(
                (head, time_text.encode(), orjson.dumps(metadata, option=orjson.OPT_SORT_KEYS), line.encode())
            )
            key = xxhash.xxh3_64_intdigest(identity)
            time_ns = int(time_text)
            fields = labels | metadata | (groups.get("parsed") or {})
            found.append((time_ns, key, record(time_ns, line, fields)))
    found.sort(key=lambda entry: entry[:2])
    return found


def record(time_ns: int, line: str, labels: Mapping[str, str]) -> bytes:
    """A raw record as a shipper would send it: the line's own JSON fields, or `message`, with the labels beside them.

    A line's own field wins over a label of the same name, and its own time over Loki's.

    >>> record(1, "disk full", {"service_name": "db"})
    b'{"service_name":"db","timeUnixNano":"1","message":"disk full"}'
    >>> record(1, '{"msg":"hi","ts":5}', {"service_name": "db"})
    b'{"service_name":"db","msg":"hi","ts":5}'
    """
    fields: dict[str, Any] = dict(labels)
    own: Any = None
    if line.startswith("{"):
        try:
            own = orjson.loads(line)
        except orjson.JSONDecodeError:
            own = None  # a line that only looks like JSON is a message
    if isinstance(own, dict):
        if not any(name in own for name in _TIME_FIELDS):
            own["timeUnixNano"] = str(time_ns)
        return orjson.dumps(fields | own)
    return orjson.dumps(fields | {"timeUnixNano": str(time_ns), "message": line})
