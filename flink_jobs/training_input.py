"""What `driftwood train` may read: a data set folder, a log file, a Kafka topic, a range of Loki."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flink_jobs.kafka_client import security_keywords, unreachable
from flink_jobs.settings import KafkaAddress, Settings
from models.datasets import BATCH_LINES, DataSet, read_lines, to_batches
from models.errors import DataSetError, SettingsError
from models.parsing import Raw

if TYPE_CHECKING:
    from kafka import KafkaConsumer

_POLL_MS = 1_000
_CONNECT_MS = 10_000
_SILENT_S = 60.0  # a broker that gives nothing for so long, though there is more, is given up


def open_input(data: str, settings: Settings) -> tuple[Iterator[Raw], DataSet | None]:
    """The source batches of an address or path, and the data set if it is one.

    Raises:
        DataSetError: there is nothing to read there; SettingsError: the address is wrong or no broker answers.
    """
    if data.startswith("kafka://"):
        return read_topics(KafkaAddress.parse(data), settings), None
    if data.startswith("loki"):
        from models.logql import LokiQuery
        from udfs.clients.loki_reader import LokiReader

        query = LokiQuery.from_url(data, int(time.time() * 1000))
        return to_batches(LokiReader(query), topic="loki"), None
    path = Path(data.removeprefix("file:"))
    if (path / "dataset.json").exists():
        dataset = DataSet.open(path)
        if dataset.logs is None or not dataset.has_training_part:
            raise DataSetError(
                f"{path / 'dataset.json'} names no train_until, train_sessions or train_windows, so nothing may be trained on; "
                "name a log file of normal lines instead."
            )
        return to_batches(read_lines(dataset.logs)), dataset
    return to_batches(read_lines(path)), None


def read_topics(address: KafkaAddress, settings: Settings) -> Iterator[Raw]:
    """All records that are in some topics now, partition by partition in order of offset.

    Raises:
        SettingsError: no broker answers, or a topic is missing. DataSetError: the broker falls silent.
    """
    from kafka import KafkaConsumer
    from kafka.errors import KafkaError

    if address.pattern is not None:
        raise SettingsError("train reads topics by name, not by pattern; write kafka://host:9092/topic[,topic].")
    secrets = {name: value.get_secret_value() for name, value in settings.kafka_properties.items()}
    security = security_keywords({**secrets, **address.properties})
    try:
        consumer = KafkaConsumer(
            bootstrap_servers=address.servers.split(","),
            bootstrap_timeout_ms=_CONNECT_MS,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            consumer_timeout_ms=_POLL_MS,
            **security,
        )
    except (KafkaError, OSError, ValueError) as error:
        raise unreachable(address.servers, security, error) from error
    try:
        for topic in address.topics:
            yield from _read_topic(consumer, topic)
    except KafkaError as error:
        raise DataSetError(f"reading from {address.servers} failed ({type(error).__name__}: {error}).") from error
    finally:
        consumer.close()


def _read_topic(consumer: KafkaConsumer, topic: str) -> Iterator[Raw]:
    from kafka import TopicPartition

    numbers = consumer.partitions_for_topic(topic)
    if not numbers:
        raise SettingsError(f"there is no topic {topic!r}; check the name.")
    for number in sorted(numbers):
        partition = TopicPartition(topic, number)
        consumer.assign([partition])
        end = consumer.end_offsets([partition])[partition]
        consumer.seek_to_beginning(partition)
        yield from _read_partition(consumer, partition, end)


def _read_partition(consumer: KafkaConsumer, partition: object, end: int) -> Iterator[Raw]:
    """The records of one partition up to an offset; transaction marks take offsets too, so the position tells when it is reached."""
    heard = time.monotonic()
    while consumer.position(partition) < end:
        records = consumer.poll(timeout_ms=_POLL_MS, max_records=BATCH_LINES).get(partition, [])
        if not records:
            if time.monotonic() - heard > _SILENT_S:
                raise DataSetError(
                    f"the broker gave nothing more of {partition} for {_SILENT_S:.0f} s; check that it runs."
                )
            continue
        heard = time.monotonic()
        yield Raw(
            [record.value for record in records],
            records[0].topic,
            np.full(len(records), records[0].partition, np.int32),
            np.array([record.offset for record in records], np.int64),
            np.array([record.timestamp for record in records], np.int64),
        )
