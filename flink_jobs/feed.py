"""Lines into a Kafka topic: pacing, sending in order.

```
lines ─→ chunks, each when it is due ─→ producer (idempotent: order kept, nothing doubled)
```
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flink_jobs.kafka_client import security_keywords, unreachable
from models.errors import DataSetError, SettingsError, SinkError

if TYPE_CHECKING:
    from kafka import KafkaProducer

# Small enough that a rate of some hundreds a second looks even, large enough that pacing costs nothing
_CHUNK_LINES = 500
_TICK_S = 0.05
# A line of 1 MiB inside a JSON envelope; the broker has a limit of its own (message.max.bytes)
_MAX_REQUEST_BYTES = 8 * 1024 * 1024
_CONNECT_MS = 10_000
_CONFIRM_S = 30.0


@dataclass(slots=True)
class Sent:
    """How much was sent so far, and since when."""

    lines: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    @property
    def seconds(self) -> float:
        """From the first line to the last, or to now."""
        return (self.ended or time.monotonic()) - self.started

    @property
    def lines_per_s(self) -> float:
        """The mean rate."""
        return self.lines / max(self.seconds, 1e-9)


def check_readable(path: Path) -> None:
    """Returns if the file is there and can be read.

    Raises:
        DataSetError: it is missing, a folder, or not ours to read.
    """
    if path.is_dir():
        raise DataSetError(f"{path} is a folder; name a file in it, for example {path / 'logs.jsonl.zst'}")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise DataSetError(f"{path} is not there; check the path (the current folder is {Path.cwd()})") from None
    except OSError as error:
        raise DataSetError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def client_options(properties: Mapping[str, str]) -> dict[str, Any]:
    """Kafka client properties as kafka-python wants them; those of the Java client that mean the same are translated.

    Raises:
        SettingsError: kafka-python knows no such property.

    >>> client_options({"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"})
    {'security_protocol': 'SASL_SSL', 'sasl_mechanism': 'PLAIN'}
    """
    from kafka import KafkaProducer

    options = security_keywords(properties)
    for name, value in properties.items():
        if name.startswith(("security.", "sasl.", "ssl.")):
            continue
        option = name.replace(".", "_")
        if option not in KafkaProducer.DEFAULT_CONFIG:
            raise SettingsError(
                f"the Kafka property {name!r} is none of the Python client's; leave it out, or check its name"
            )
        default = KafkaProducer.DEFAULT_CONFIG[option]
        options[option] = int(value) if isinstance(default, int) and not isinstance(default, bool) else value
    return options


@contextlib.contextmanager
def open_producer(
    servers: str, topic: str, create: int | None = None, options: Mapping[str, Any] | None = None
) -> Iterator[KafkaProducer]:
    """A producer that keeps the order inside a partition, with batches large enough for speed.

    Args:
        servers: `host:port[,host:port]` of brokers.
        topic: looked up first; a topic that is missing is an error that says so, unless `create` is given.
        create: create the topic with this many partitions if it is missing.
        options: further options of the client (security).

    Raises:
        SettingsError: no broker answers, or there is no such topic.
    """
    from kafka import KafkaProducer
    from kafka.errors import KafkaError

    common = {"bootstrap_servers": servers.split(","), "bootstrap_timeout_ms": _CONNECT_MS, **(options or {})}
    try:
        _ensure_topic(common, servers, topic, create)
        producer = KafkaProducer(
            linger_ms=20,
            batch_size=256 * 1024,
            max_request_size=_MAX_REQUEST_BYTES,
            acks="all",
            # Idempotence numbers the batches of a partition: a retry neither doubles nor overtakes
            enable_idempotence=True,
            delivery_timeout_ms=int(_CONFIRM_S * 1000),
            request_timeout_ms=10_000,
            **common,
        )
    except (KafkaError, OSError, ValueError) as error:
        raise unreachable(servers, options or {}, error) from error
    try:
        yield producer
    finally:
        # What a broker that is gone did not confirm is in the error that is under way; it would only hide that one
        with contextlib.suppress(KafkaError):
            producer.close(timeout=5)


def _ensure_topic(common: Mapping[str, Any], servers: str, topic: str, create: int | None) -> None:
    from kafka import KafkaAdminClient
    from kafka.errors import TopicAlreadyExistsError

    with KafkaAdminClient(**common) as admin:
        if topic in admin.list_topics():
            return
        if create is None:
            raise SettingsError(
                f"the broker at {servers} has no topic {topic!r}; create it, or add --create 1 for one partition"
            )
        with contextlib.suppress(TopicAlreadyExistsError):
            admin.create_topics({topic: {"num_partitions": create, "replication_factor": -1}}, wait_for_metadata=True)


def send_lines(
    lines: Iterable[bytes],
    producer: KafkaProducer,
    topic: str,
    *,
    rate: float | None = None,
    speed: float | None = None,
    key_field: str | None = None,
    sent: Sent | None = None,
    tell: Callable[[Sent], None] = lambda sent: None,
) -> Sent:
    """Sends lines in order and waits until the broker has them all; after Ctrl-C, those already given to it.

    Args:
        lines: the messages.
        producer: as `open_producer` gives it.
        topic: where to.
        rate: lines a second.
        speed: of event time; lines without a time, or out of order, go with the line before them.
        key_field: JSON field that becomes the key.
        sent: a counter to fill, for a caller who looks at it meanwhile.
        tell: called after each chunk.

    Raises:
        SinkError: the broker refused a line or went away.
    """
    sent = sent or Sent()
    sent.started = time.monotonic()
    failures: list[BaseException] = []
    try:
        for chunk in paced(lines, rate, speed):
            for line in chunk:
                _send(producer, topic, line, None if key_field is None else key_of(line, key_field), sent, failures)
            _raise_first(failures, topic, sent)
            tell(sent)
    except KeyboardInterrupt:
        _confirm(producer, topic, sent)
        raise
    _confirm(producer, topic, sent)
    _raise_first(failures, topic, sent)
    tell(sent)
    return sent


def _send(
    producer: KafkaProducer, topic: str, line: bytes, key: bytes | None, sent: Sent, failures: list[BaseException]
) -> None:
    from kafka.errors import KafkaError

    try:
        producer.send(topic, value=line, key=key).add_errback(failures.append)
    except KafkaError as error:
        failures.append(error)
        return
    sent.lines += 1
    sent.bytes += len(line)


def _confirm(producer: KafkaProducer, topic: str, sent: Sent) -> None:
    from kafka.errors import KafkaError

    try:
        producer.flush(timeout=_CONFIRM_S)
    except KafkaError as error:
        raise SinkError(
            f"the broker did not confirm the last lines for topic {topic!r} within {_CONFIRM_S:.0f} s "
            f"({sent.lines:,} lines were given to it); check that it runs"
        ) from error
    sent.ended = time.monotonic()


def _raise_first(failures: list[BaseException], topic: str, sent: Sent) -> None:
    if failures:
        what = f"{type(failures[0]).__name__}: {failures[0]}"
        raise SinkError(
            f"the broker did not take a line for topic {topic!r}; {sent.lines:,} were given to it, not all of them "
            f"confirmed ({what}). Check that it runs and takes lines this long, then send again"
        )


def key_of(line: bytes, key_field: str) -> bytes | None:
    """The value of a JSON field as the message's key; None if the line is no JSON object or lacks the field.

    >>> key_of(b'{"service": {"name": "cart"}}', "service.name"), key_of(b"plain", "service")
    (b'cart', None)
    """
    import orjson

    try:
        value: Any = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    parts = [key_field] if isinstance(value, dict) and key_field in value else key_field.split(".")
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else orjson.dumps(value)


def paced(
    lines: Iterable[bytes],
    rate: float | None,
    speed: float | None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[list[bytes]]:
    """Chunks of lines, each given when it is due: at `rate` lines a second, at `speed` × event time, or at once."""
    rows = iter(lines)
    if speed is not None:
        yield from _at_speed(rows, speed, clock, sleep)
        return
    size = _CHUNK_LINES if rate is None else max(1, min(_CHUNK_LINES, round(rate * _TICK_S)))
    started = clock()
    given = 0
    while chunk := list(itertools.islice(rows, size)):
        if rate is not None and (wait := started + given / rate - clock()) > 0:
            sleep(wait)
        given += len(chunk)
        yield chunk


def _at_speed(
    rows: Iterator[bytes], speed: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[list[bytes]]:
    started = clock()
    first: int | None = None
    due = started
    while block := list(itertools.islice(rows, _CHUNK_LINES)):
        waiting: list[bytes] = []
        for line, ts in zip(block, event_times(block), strict=True):
            if ts is not None:
                first = ts if first is None else first
                due = max(due, started + (ts - first) / 1000 / speed)
            if due - clock() > _TICK_S:
                if waiting:
                    yield waiting
                    waiting = []
                if (wait := due - clock()) > 0:
                    sleep(wait)
            waiting.append(line)
        yield waiting


def event_times(lines: Sequence[bytes]) -> list[int | None]:
    """Each message's own time (its last record's), in ms, as the job's parser reads it; None where it has none."""
    import numpy as np

    from models.parsing import ParseParams, Raw, parse

    none = -1
    size = len(lines)
    raw = Raw(
        values=list(lines),
        topic="",
        partition=np.zeros(size, np.int32),
        offset=np.arange(size, dtype=np.int64),
        timestamp_ms=np.full(size, none, np.int64),
    )
    records, _ = parse(raw, ParseParams())
    times: list[int | None] = [None] * size
    for row, ts in zip(records.row.tolist(), records.ts.tolist(), strict=True):
        if ts != none:
            times[row] = ts
    return times
