"""The control topic, read whole and written with every replica's word."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from loguru import logger

from flink_jobs.feed import client_options
from flink_jobs.settings import KafkaAddress
from models.control import Command, read_command
from models.errors import RecordError, SettingsError, SinkError
from models.learning.feedback_log import FeedbackLog

if TYPE_CHECKING:
    from kafka import KafkaConsumer, KafkaProducer

_CONNECT_MS: Final = 10_000
_POLL_MS: Final = 200
_SILENT_S: Final = 30.0
_CONFIRM_S: Final = 30.0


class ControlTopic:
    """Commands of one topic: `refresh` folds those that are new into a log, `send` adds one.

    As a context manager it closes its clients.

    Args:
        address: one topic, as kafka://host:9092/control.
        properties: further Kafka client properties, such as security.protocol.

    Raises: SettingsError if the address names no single topic, or no broker answers.
    """

    def __init__(self, address: KafkaAddress, properties: Mapping[str, str] | None = None) -> None:
        if len(address.topics) != 1:
            raise SettingsError("The control topic is one topic: write kafka://host:9092/control.")
        self.topic = address.topics[0]
        self.servers = address.servers
        self._common = {
            "bootstrap_servers": address.servers.split(","),
            "bootstrap_timeout_ms": _CONNECT_MS,
            **client_options({**(properties or {}), **address.properties}),
        }
        self._consumer: KafkaConsumer | None = None
        self._producer: KafkaProducer | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the clients; the next call opens them again and reads the topic from its beginning."""
        from kafka.errors import KafkaError

        consumer, producer = self._consumer, self._producer
        self._consumer = self._producer = None
        with contextlib.suppress(KafkaError):
            if consumer is not None:
                consumer.close()
        with contextlib.suppress(KafkaError):
            if producer is not None:
                producer.close(timeout=5)

    def create(self) -> None:
        """Make the topic if it is missing: one partition, and commands are kept for ever.

        Raises: SettingsError if no broker answers, or refuses.
        """
        from kafka import KafkaAdminClient
        from kafka.errors import KafkaError, TopicAlreadyExistsError

        try:
            with KafkaAdminClient(**self._common) as admin:
                if self.topic in admin.list_topics():
                    return
                config = {"num_partitions": 1, "replication_factor": -1, "configs": {"retention.ms": "-1"}}
                with contextlib.suppress(TopicAlreadyExistsError):
                    admin.create_topics({self.topic: config}, wait_for_metadata=True)
        except (KafkaError, OSError) as error:
            raise self._unreachable(error) from error
        logger.info("created topic {}", self.topic)

    def refresh(self, log: FeedbackLog) -> int:
        """Fold all that is new on the topic into the log; gives how many commands that were.

        Raises: SettingsError if the broker cannot be reached, or has no such topic.
        """
        from kafka.errors import KafkaError

        try:
            return self._refresh(log)
        except (KafkaError, OSError) as error:
            self.close()
            raise self._unreachable(error) from error

    def _refresh(self, log: FeedbackLog) -> int:
        consumer = self._open_consumer()
        partitions = sorted(consumer.assignment())
        ends = consumer.end_offsets(partitions)
        count, heard = 0, time.monotonic()
        while any(consumer.position(partition) < ends[partition] for partition in partitions):
            batches = consumer.poll(timeout_ms=_POLL_MS)
            for record in (record for records in batches.values() for record in records):
                try:
                    count += log.add(read_command(record.value))
                except RecordError as error:
                    logger.warning("{} {}/{}: {}", self.topic, record.partition, record.offset, error)
            if batches:
                heard = time.monotonic()
            elif time.monotonic() - heard > _SILENT_S:
                self.close()
                raise SettingsError(
                    f"The broker gave nothing more of {self.topic} for {_SILENT_S:.0f} s; check that it runs."
                )
        return count

    def send(self, command: Command) -> None:
        """Write a command and wait until the broker has it.

        Raises: SinkError if it did not take it; it may be there all the same. SettingsError if no broker answers.
        """
        from kafka import KafkaProducer
        from kafka.errors import KafkaError

        try:
            if self._producer is None:
                self._producer = KafkaProducer(
                    acks="all",
                    enable_idempotence=True,
                    delivery_timeout_ms=int(_CONFIRM_S * 1000),
                    request_timeout_ms=10_000,
                    **self._common,
                )
            self._producer.send(self.topic, value=command.to_bytes(), key=command.key).get(timeout=_CONFIRM_S)
        except (KafkaError, OSError) as error:
            self.close()
            raise SinkError(
                f"The broker at {self.servers} did not confirm the command for topic {self.topic} ({type(error).__name__}: {error}). It may be "
                "there all the same; sent again with the same id it changes nothing."
            ) from error

    def _open_consumer(self) -> KafkaConsumer:
        from kafka import KafkaConsumer, TopicPartition

        if self._consumer is None:
            consumer = KafkaConsumer(
                auto_offset_reset="earliest",
                enable_auto_commit=False,
                isolation_level="read_committed",
                **{name: value for name, value in self._common.items() if name in KafkaConsumer.DEFAULT_CONFIG},
            )
            numbers = consumer.partitions_for_topic(self.topic)
            if not numbers:
                consumer.close()
                raise SettingsError(
                    f"There is no topic {self.topic!r} at {self.servers}; start the job with it, or create it."
                )
            partitions = [TopicPartition(self.topic, number) for number in sorted(numbers)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            self._consumer = consumer
        return self._consumer

    def _unreachable(self, error: Exception) -> SettingsError:
        return SettingsError(
            f"The control topic {self.topic} at {self.servers} cannot be reached ({type(error).__name__}: {error}); check the address, and "
            "kafka_properties if the broker asks for a login or TLS."
        )


def say(**fields: Any) -> dict[str, Any]:
    """The id and version of a command given now, beside its other fields.

    >>> sorted(say(service="cart"))
    ['command_id', 'service', 'version']
    """
    return {"command_id": uuid.uuid4().hex[:16], "version": time.time_ns() // 1_000_000, **fields}
