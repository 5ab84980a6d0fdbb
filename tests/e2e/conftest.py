"""Helpers of the end-to-end tests: topics of their own, and everything that is on one."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from flink_jobs.runtime.broker import Broker
    from flink_jobs.runtime.cluster import Cluster
    from tests.e2e.shop_stream import Shop, ShopStream

# Its assertions speak as those of a test do.
pytest.register_assert_rewrite("tests.e2e.shop_stream")

_numbers = itertools.count(1)


@pytest.fixture
def new_topic(kafka_broker: Broker, request: pytest.FixtureRequest) -> Callable[..., str]:
    """Creates a topic that no other test uses: `new_topic("logs", partitions=4)` gives its name."""

    def create(name: str, partitions: int = 1, **configs: str) -> str:
        topic = f"{name}-{next(_numbers)}"
        kafka_broker.create_topic(topic, partitions, {key.replace("_", "."): value for key, value in configs.items()})
        return topic

    return create


@pytest.fixture
def send(kafka_broker: Broker) -> Callable[[str, Iterable[bytes]], None]:
    """Writes values to a topic and returns when the broker has them all."""
    from kafka import KafkaProducer

    def write(topic: str, values: Iterable[bytes]) -> None:
        producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap, acks="all", linger_ms=5, retries=10)
        try:
            for value in values:
                producer.send(topic, value)
            producer.flush(60)
        finally:
            producer.close()

    return write


@pytest.fixture
def read(kafka_broker: Broker) -> Callable[..., list[bytes]]:
    """All committed values of a topic, up to its end; waits until `at_least` of them are there."""
    from kafka import KafkaConsumer, TopicPartition

    def values(topic: str, at_least: int = 0, timeout_s: float = 120) -> list[bytes]:
        consumer = KafkaConsumer(
            bootstrap_servers=kafka_broker.bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            isolation_level="read_committed",
        )
        found: list[bytes] = []
        deadline = time.monotonic() + timeout_s
        try:
            partitions = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            while True:
                batches = consumer.poll(timeout_ms=500, max_records=10_000)
                found += [record.value for records in batches.values() for record in records]
                if batches:
                    continue
                ends = consumer.end_offsets(partitions)
                at_end = all(consumer.position(partition) >= ends[partition] for partition in partitions)
                if (at_end and len(found) >= at_least) or time.monotonic() > deadline:
                    return found
        finally:
            consumer.close()

    return values


@pytest.fixture
def flink_cluster(flink_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster of all tests. After each it is whole and idle again: a test that failed takes nothing from the next."""
    from flink_jobs.runtime.rest import FINAL

    yield flink_cluster
    rest = flink_cluster.rest
    while len(flink_cluster.taskmanagers) < flink_cluster.wanted:
        flink_cluster.start_taskmanager()
    for job, state in rest.jobs().items():
        if state not in FINAL:
            rest.cancel(job)
    try:
        rest.until(lambda: not flink_cluster.python_workers(), 60, "the end of the jobs' Python workers")
    finally:
        for worker in flink_cluster.python_workers():
            worker.kill()


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop's log and a model of its first part."""
    from tests.e2e.shop_stream import open_shop

    return open_shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture
def stream(
    flink_cluster: Cluster,
    kafka_broker: Broker,
    new_topic: Callable[..., str],
    shop: Shop,
    caplog: pytest.LogCaptureFixture,
) -> Iterator[Callable[..., ShopStream]]:
    """Makes the topics of a test and the job between them."""
    from tests.e2e.shop_stream import ShopStream

    # pytest keeps every record that is logged, and with those of kafka-python its sockets.
    caplog.set_level(logging.CRITICAL, logger="kafka")

    def make(*sinks: str, has_model: bool = True, **sets: str) -> ShopStream:
        return ShopStream(flink_cluster, kafka_broker, new_topic, shop.model if has_model else None, sinks, **sets)

    yield make
    # Before the job is cancelled, which has its transactions there.
    kafka_broker.start()
