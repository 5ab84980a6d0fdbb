"""The Kafka side of `driftwood tail-loki`: lines and the notes of what they were, in one transaction a page.

```
lines ──→ topic                       ┐ one transaction; readers of committed messages see both or neither
note  ──→ cursor topic, name/number   ┘ compacted; tombstones for notes that are needed no longer
```

A second program of the same name fences the first: its next commit fails. Whether a commit that broke off in the middle took place or not, the notes
say at the next start.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from loguru import logger

from flink_jobs.kafka_client import security_keywords, topic_settings, unreachable
from flink_jobs.settings import KafkaAddress
from models.errors import SettingsError, SinkError
from models.loki_tail import TailPage

if TYPE_CHECKING:
    from kafka import KafkaAdminClient

_CONNECT_MS: Final = 10_000
_POLL_MS: Final = 500
# A line of 256 KiB, JSON escapes in it, and its labels; the broker has a limit of its own (message.max.bytes).
_MAX_REQUEST_BYTES: Final = 8 * 1024 * 1024
#: Of a page that a dead program left open: after this readers of committed messages go on.
_TRANSACTION_MS: Final = 60_000


class TailTopic:
    """Writes pages; as a context manager it closes its clients.

    Args:
        address: of the topic.
        cursor_topic: where the notes are kept.
        name: of this tail; two of one name shut each other out.
        properties: Kafka client properties, such as security.protocol.
        create: make the topic with this many partitions if it is missing.

    Raises:
        SettingsError: no broker answers, or a topic is missing or not compacted.
    """

    def __init__(
        self,
        address: KafkaAddress,
        cursor_topic: str,
        name: str,
        properties: Mapping[str, str],
        create: int | None = None,
    ) -> None:
        from kafka import KafkaAdminClient, KafkaProducer
        from kafka.errors import KafkaError

        self.topic, self.cursor_topic, self.name = address.topics[0], cursor_topic, name
        security = security_keywords({**properties, **address.properties})
        self._common: dict[str, Any] = {
            "bootstrap_servers": address.servers.split(","),
            "bootstrap_timeout_ms": _CONNECT_MS,
            **security,
        }
        try:
            with KafkaAdminClient(**self._common) as admin:
                self._prepare(admin, address.servers, create)
            self._producer = KafkaProducer(
                transactional_id=f"driftwood-tail-loki-{self.topic}-{name}",
                transaction_timeout_ms=_TRANSACTION_MS,
                linger_ms=20,
                batch_size=256 * 1024,
                max_request_size=_MAX_REQUEST_BYTES,
                request_timeout_ms=10_000,
                **self._common,
            )
            # Ends what an earlier program of this name left open, so that its notes can be read to their end.
            self._producer.init_transactions()
        except (KafkaError, OSError, ValueError) as error:
            raise unreachable(address.servers, security, error) from error

    def _prepare(self, admin: KafkaAdminClient, servers: str, create: int | None) -> None:
        from kafka.errors import TopicAlreadyExistsError

        there = set(admin.list_topics())
        wanted: dict[str, dict[str, Any]] = {}
        if self.topic not in there:
            if create is None:
                raise SettingsError(
                    f"the broker at {servers} has no topic {self.topic!r}; create it, or add --create 1 for one partition"
                )
            wanted[self.topic] = {"num_partitions": create, "replication_factor": -1}
        if self.cursor_topic not in there:
            configs = {"cleanup.policy": "compact"}
            wanted[self.cursor_topic] = {"num_partitions": 1, "replication_factor": -1, "configs": configs}
        if wanted:
            with contextlib.suppress(TopicAlreadyExistsError):
                admin.create_topics(wanted, wait_for_metadata=True)
            logger.info("created {}", ", ".join(wanted))
        if self.cursor_topic in there:
            settings = topic_settings(admin, [self.cursor_topic])[self.cursor_topic]
            if "compact" not in settings.get("cleanup.policy", ""):
                raise SettingsError(
                    f"the topic {self.cursor_topic} holds the cursor and must keep it: set its cleanup.policy to compact, or name another by --cursor-topic"
                )

    def notes(self) -> list[tuple[int, bytes]]:
        """The notes of this name that are there, as (number, bytes)."""
        from kafka import KafkaConsumer, TopicPartition

        consumer = KafkaConsumer(**self._common, enable_auto_commit=False, isolation_level="read_committed")
        found: dict[int, bytes] = {}
        prefix = f"{self.name}/"
        try:
            partitions = [
                TopicPartition(self.cursor_topic, n) for n in consumer.partitions_for_topic(self.cursor_topic) or ()
            ]
            consumer.assign(partitions)
            ends = consumer.end_offsets(partitions)
            consumer.seek_to_beginning(*partitions)
            while any(consumer.position(partition) < end for partition, end in ends.items()):
                for records in consumer.poll(timeout_ms=_POLL_MS).values():
                    for record in records:
                        key = record.key.decode()
                        if not key.startswith(prefix):
                            continue
                        number = int(key[len(prefix) :])
                        if record.value is None:
                            found.pop(number, None)
                        else:
                            found[number] = record.value
        finally:
            consumer.close()
        return sorted(found.items())

    def commit(self, page: TailPage) -> None:
        """Writes a page, all or nothing.

        Raises:
            SinkError: the broker refused, went away, or another program of this name took over.
        """
        from kafka.errors import KafkaError, ProducerFencedError

        failures: list[BaseException] = []
        try:
            self._producer.begin_transaction()
            for line in page.lines:
                self._producer.send(self.topic, value=line.value, key=line.key).add_errback(failures.append)
            self._send_note(page.number, page.note, failures)
            for number in page.dropped:
                self._send_note(number, None, failures)
            self._producer.flush()
            if failures:
                self._producer.abort_transaction()
                raise failures[0]
            self._producer.commit_transaction()
        except KafkaError as error:
            # The client may wrap the broker's answer into a general error.
            if isinstance(error, ProducerFencedError) or "Fenced" in str(error):
                raise SinkError(
                    f"another tail-loki of the name {self.name!r} has begun to write to {self.topic}, so this one ends; give one of them another "
                    "--name if both are wanted."
                ) from error
            raise SinkError(
                f"the broker did not take {len(page.lines)} lines for {self.topic} ({type(error).__name__}: {error}). Nothing is lost: the next start "
                "goes on with them. Check that the broker runs, and takes messages this long (max.message.bytes of the topic)."
            ) from error

    def _send_note(self, number: int, note: bytes | None, failures: list[BaseException]) -> None:
        key = f"{self.name}/{number:012d}".encode()
        self._producer.send(self.cursor_topic, value=note, key=key).add_errback(failures.append)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        from kafka.errors import KafkaError

        with contextlib.suppress(KafkaError):
            self._producer.close(timeout=5)
