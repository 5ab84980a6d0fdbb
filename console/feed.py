"""Kafka to the board and back: a thread that reads the job's topics from their (bounded) beginning and then follows, and a sender of commands.

```
anomalies, incidents, status, templates, control ─ thread: poll, read ─→ events ─ deliver ─→ board (in the console's own loop)
                                            └ nothing comes: do the brokers answer? ─→ health
```

Everything the pages show is on these topics, so the console may be killed and started at any moment.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from console.board import Board, Told, read_anomaly
from console.settings import ConsoleSettings
from models.control import Command, read_command
from models.errors import RecordError, SinkError

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

_log = logging.getLogger("driftwood.console.feed")

#: Newest messages of a topic that are read at the start; those of compacted topics are mostly older versions of the same keys.
_NEWEST: Final[Mapping[str, int]] = {
    "anomalies": 10_000,
    "incidents": 20_000,
    "status": 20_000,
    "templates": 200_000,
    "control": 50_000,
}
#: Roles of topics without which a console is whole; a job may tell of no incidents.
_OPTIONAL: Final = frozenset({"incidents"})
_POLL_MS: Final = 100
_PROBE_S: Final = 2.0  # silence after which the brokers are asked whether they are there
_LOOK_S: Final = 5.0  # how often topics that are missing are looked for
_RETRY_S: Final = 2.0
_CHUNK: Final = 500  # events that reach the board at once: the pages stay quick while it loads


@dataclass(frozen=True, slots=True)
class Event:
    """One message, read: `kind` is its topic by role; `body` a `Told`, a `Command` or the message's bytes, None where it could not be read."""

    kind: str
    body: Told | Command | bytes | None


@dataclass(frozen=True, slots=True)
class Health:
    """How the feed is: `loading`, `live` or `away`, since when (ms), and what to do about it."""

    state: str
    since_ms: int
    said: str = ""


def read_event(kind: str, value: bytes | None, timestamp_ms: int) -> Event:
    """A message as an event."""
    if value is None:
        return Event(kind, None)
    if kind == "anomalies":
        return Event(kind, read_anomaly(value, timestamp_ms))
    if kind == "control":
        with contextlib.suppress(RecordError):  # not ours to answer: the job tells of commands that it cannot read
            return Event(kind, read_command(value))
        return Event(kind, None)
    return Event(kind, value)


def apply(board: Board, events: Sequence[Event]) -> None:
    """Put events on the board."""
    take = {"status": board.tell_status, "templates": board.tell_template, "incidents": board.tell_incident}
    for event in events:
        body = event.body
        if isinstance(body, Told):
            board.tell(body)
        elif isinstance(body, bytes):
            take[event.kind](body)
        elif body is not None:
            board.tell_command(body)
        elif event.kind == "anomalies":
            board.unread += 1


def client_options(settings: ConsoleSettings) -> dict[str, Any]:
    """What every Kafka client of the console is made with."""
    given = {name.replace(".", "_"): value.get_secret_value() for name, value in settings.kafka_properties.items()}
    return {"bootstrap_servers": settings.kafka.split(","), "client_id": "driftwood-console", **given}


def is_anyone_there(servers: str, timeout_s: float = 2.0) -> bool:
    """Whether one of the brokers takes a connection; a poll that finds nobody looks like one that finds nothing."""
    for server in servers.split(","):
        host, _, port = server.rpartition(":")
        with contextlib.suppress(OSError, ValueError):
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
            return True
    return False


class Feed:
    """Reads the topics in a thread of its own.

    Args:
        settings: where, and which topics.
        deliver: is given events in the order of their topics, from the feed's thread.
        now_ms: milliseconds since the epoch.
    """

    def __init__(
        self, settings: ConsoleSettings, deliver: Callable[[list[Event]], None], now_ms: Callable[[], int]
    ) -> None:
        self._settings = settings
        self._deliver = deliver
        self._now_ms = now_ms
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._guarded, name="console-feed", daemon=True)
        self.kinds = {getattr(settings, kind): kind for kind in _NEWEST}
        self.missing: tuple[str, ...] = ()
        self.health = Health("loading", now_ms(), "Reading the topics …")

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """End, within a second or so."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def _say(self, state: str, said: str = "") -> None:
        if self.health.state != state or self.health.said != said:
            since = self.health.since_ms if self.health.state == state else self._now_ms()
            self.health = Health(state, since, said)

    def _away(self, why: str) -> None:
        self._say(
            "away",
            f"The Kafka broker at {self._settings.kafka} does not answer{f' ({why})' if why else ''}. What is shown is as old as that; marks "
            "cannot be given. Start the broker or correct --kafka; the console goes on by itself.",
        )

    def _guarded(self) -> None:
        """Run; a bug ends the thread, and is seen on every page rather than in the log alone."""
        try:
            self._run()
        except BaseException as error:
            self._say(
                "away",
                f"Reading stopped by a fault of the console ({type(error).__name__}); restart it, and report what its log says.",
            )
            raise

    def _run(self) -> None:
        from kafka import KafkaConsumer
        from kafka.errors import KafkaError

        while not self._stop.is_set():
            # kafka-python leaves a socket open for every attempt that is refused, so the port is tried first.
            if not is_anyone_there(self._settings.kafka):
                self._away("")
                self._stop.wait(_RETRY_S)
                continue
            try:
                consumer = KafkaConsumer(
                    **client_options(self._settings),
                    enable_auto_commit=False,
                    isolation_level="read_committed",
                    max_poll_records=2_000,
                )
                try:
                    self._follow(consumer)
                finally:
                    consumer.close()
            except (KafkaError, OSError) as error:
                _log.warning("reading Kafka failed: %s: %s", type(error).__name__, error)
                self._away(type(error).__name__)
                self._stop.wait(_RETRY_S)

    def _follow(self, consumer: KafkaConsumer) -> None:
        """Read until told to stop. What was read before a break is read again: the board takes a message twice for once."""
        places: dict[Any, int] = {}  # partition → end of what was there at the start
        self._assign(consumer, places)
        backlog: list[tuple[int, Event]] = []
        is_loading, silent_since, looked = True, time.monotonic(), time.monotonic()
        while not self._stop.is_set():
            polled = consumer.poll(timeout_ms=_POLL_MS) if places else {}
            found = [
                (record.timestamp, read_event(self.kinds[partition.topic], record.value, record.timestamp))
                for partition, records in polled.items()
                for record in records
            ]
            if not places:  # none of the topics is there yet
                self._stop.wait(_POLL_MS / 1_000)
            now = time.monotonic()
            if found:
                silent_since = now
                if is_loading:
                    backlog += found
                else:
                    self._deliver([event for _, event in found])
            if is_loading and all(consumer.position(place) >= end for place, end in places.items()):
                # Of several partitions: by time, so that the list's order is the same after every start.
                backlog.sort(key=lambda pair: pair[0])
                for low in range(0, len(backlog), _CHUNK):
                    self._deliver([event for _, event in backlog[low : low + _CHUNK]])
                backlog, is_loading = [], False
            if found or now - silent_since > _PROBE_S:
                if not found and not is_anyone_there(self._settings.kafka):
                    self._away("")
                elif not is_loading:
                    self._say("live", self._missing_said())
                silent_since = now
            if self.missing and now - looked > _LOOK_S:
                looked = now
                consumer.topics()  # asks the brokers anew
                self._assign(consumer, places)
            if not is_loading and self.health.state == "loading":
                self._say("live", self._missing_said())

    def _missing_said(self) -> str:
        missing = [topic for topic in self.missing if self.kinds[topic] not in _OPTIONAL]
        if not missing:
            return ""
        is_one = len(missing) == 1
        return (
            f"There {'is no topic' if is_one else 'are no topics'} {', '.join(missing)} yet. "
            f"The job makes {'it' if is_one else 'them'} when it starts; if it runs, compare its sinks with the console's settings."
        )

    def _assign(self, consumer: KafkaConsumer, places: dict[Any, int]) -> None:
        """Read all partitions there are; new ones from their bounded beginning."""
        from kafka import TopicPartition

        there = {topic: consumer.partitions_for_topic(topic) or set() for topic in self.kinds}
        self.missing = tuple(topic for topic, numbers in there.items() if not numbers)
        fresh = [
            partition
            for topic, numbers in there.items()
            for number in sorted(numbers)
            if (partition := TopicPartition(topic, number)) not in places
        ]
        if not fresh:
            return
        kept = {partition: consumer.position(partition) for partition in consumer.assignment()}
        consumer.assign([*kept, *fresh])
        begins, ends = consumer.beginning_offsets(fresh), consumer.end_offsets(fresh)
        for partition, position in kept.items():
            consumer.seek(partition, position)
        for partition in fresh:
            consumer.seek(partition, max(begins[partition], ends[partition] - _NEWEST[self.kinds[partition.topic]]))
            places[partition] = ends[partition]


class Sender:
    """Puts commands on the control topic; the producer is made at the first one. Safe in threads."""

    def __init__(self, settings: ConsoleSettings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._producer: KafkaProducer | None = None

    def send(self, command: Command) -> None:
        """Return when all in-sync replicas have it.

        Raises:
            SinkError: they did not take it within some seconds.
        """
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        if not is_anyone_there(self._settings.kafka):
            raise SinkError(
                f"The Kafka broker at {self._settings.kafka} does not answer; nothing was changed. Try again when it is back."
            )
        try:
            with self._lock:
                if self._producer is None:
                    self._producer = KafkaProducer(
                        **client_options(self._settings),
                        acks="all",
                        linger_ms=0,
                        retries=5,
                        max_block_ms=5_000,
                        request_timeout_ms=5_000,
                    )
                sending = self._producer.send(self._settings.control, key=command.key, value=command.to_bytes())
            sending.get(timeout=10)
        except (KafkaError, OSError) as error:
            raise SinkError(
                f"The command did not reach the topic {self._settings.control} ({type(error).__name__}: {error}). Look whether it took effect "
                "before you give it again; is there such a topic, and may the console write to it?"
            ) from error

    def close(self) -> None:
        """Let go of the producer."""
        if self._producer is not None:
            self._producer.close(timeout=5)
