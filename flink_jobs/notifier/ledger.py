"""What was told to whom, in a compacted topic: it survives the program, its disk and its machine, and needs nothing but the broker that is there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer, TopicPartition
from kafka.errors import KafkaError, TopicAlreadyExistsError

from models.alerts.outbox import Entry
from models.errors import SinkError

_CONFIRM_S = 30.0
#: An incident that was over this long ago does not come back under the same id.
_KEPT_MS = 7 * 86_400_000


def make_topic(options: Mapping[str, Any], topic: str, replicas: int) -> None:
    """Make the ledger's topic if it is missing."""
    with KafkaAdminClient(**options) as admin:
        if topic in admin.list_topics():
            return
        configs = {"cleanup.policy": "compact"}
        try:
            admin.create_topics(
                {topic: {"num_partitions": 1, "replication_factor": replicas, "configs": configs}},
                wait_for_metadata=True,
            )
        except TopicAlreadyExistsError:
            return


class Ledger:
    """The rows of one route: `route/incident id` → the last message told.

    Args:
        options: of a Kafka client, with the bootstrap servers.
        topic: the compacted topic.
        route: its name.
    """

    def __init__(self, options: Mapping[str, Any], topic: str, route: str) -> None:
        self._options, self._topic, self._prefix = dict(options), topic, f"{route}/"
        self._producer = KafkaProducer(acks="all", **self._options)

    def read(self, now_ms: int) -> dict[str, Entry]:
        """All rows, those long over taken out of the topic.

        Raises:
            SinkError: the broker did not give them within half a minute.
        """
        rows: dict[str, Entry] = {}
        consumer = KafkaConsumer(enable_auto_commit=False, auto_offset_reset="earliest", **self._options)
        try:
            partitions = [
                TopicPartition(self._topic, number) for number in consumer.partitions_for_topic(self._topic) or ()
            ]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            deadline = time.monotonic() + _CONFIRM_S
            while any(consumer.position(partition) < ends[partition] for partition in partitions):
                if time.monotonic() > deadline:
                    raise SinkError(
                        f"The topic {self._topic} could not be read to its end within {_CONFIRM_S:.0f} s; check the broker."
                    )
                for records in consumer.poll(timeout_ms=500).values():
                    for record in records:
                        self._keep(rows, record.key, record.value)
        finally:
            consumer.close()
        old = [name for name, entry in rows.items() if entry.is_over and now_ms - entry.at_ms > _KEPT_MS]
        for name in old:
            self._producer.send(self._topic, key=self._key(name), value=None)
            del rows[name]
        return rows

    def _keep(self, rows: dict[str, Entry], key: bytes | None, value: bytes | None) -> None:
        name = (key or b"").decode(errors="replace")
        if not name.startswith(self._prefix):
            return
        if value is None:
            rows.pop(name.removeprefix(self._prefix), None)
        else:
            rows[name.removeprefix(self._prefix)] = Entry.from_bytes(value)

    def _key(self, name: str) -> bytes:
        return f"{self._prefix}{name}".encode()

    def write(self, entries: Mapping[str, Entry]) -> None:
        """Write rows, and return when the broker has them.

        Raises:
            SinkError: it did not confirm them.
        """
        try:
            futures = [
                self._producer.send(self._topic, key=self._key(name), value=entry.to_bytes())
                for name, entry in entries.items()
            ]
            for future in futures:
                future.get(timeout=_CONFIRM_S)
        except KafkaError as error:
            raise SinkError(
                f"What was told could not be written to the topic {self._topic} ({type(error).__name__}); check the broker."
            ) from error

    def close(self) -> None:
        """Close the connection."""
        self._producer.close(timeout=5)
