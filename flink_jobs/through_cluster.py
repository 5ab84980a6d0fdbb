"""An evaluation's lines the whole way: a real broker, a standalone cluster, `flink run`, and the anomalies as a consumer gets them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from flink_jobs.runtime.broker import Broker
from flink_jobs.runtime.cluster import Cluster
from flink_jobs.runtime.rest import FINAL
from flink_jobs.runtime.submit import submit
from models.errors import DriftwoodError

_TIMEOUT_S = 3_600


def score_through_cluster(lines: Iterable[bytes], models: Path, options: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The committed anomalies of these lines, in the order of the topic.

    The lines go into one partition, so a line's number, from 0, is its offset, as it is through the core.

    Args:
        lines: in source order.
        models: folder of the models.
        options: further options of the job, as `flink_jobs.main` takes them.

    Raises:
        DriftwoodError: if the job did not end as it should.
    """
    with Broker() as broker, Cluster(taskmanagers=1, slots=2) as cluster:
        broker.create_topic("lines")
        _send(broker.bootstrap, lines)
        job = submit(
            cluster,
            [
                f"--source=kafka://{broker.bootstrap}/lines?start=earliest&until=latest",
                f"--sink=kafka://{broker.bootstrap}/anomalies",
                f"--model={models}",
                *options,
            ],
            parallelism=1,
        )
        state = cluster.rest.wait(job, FINAL, timeout_s=_TIMEOUT_S)
        if state != "FINISHED":
            raise DriftwoodError(cluster.rest.condition(job))
        yield from _committed(broker.bootstrap)


def _send(servers: str, lines: Iterable[bytes]) -> None:
    from kafka import KafkaProducer

    producer = KafkaProducer(bootstrap_servers=servers, linger_ms=50, batch_size=1 << 18)
    for line in lines:
        producer.send("lines", line)
    producer.flush()
    producer.close()


def _committed(servers: str) -> Iterator[Mapping[str, Any]]:
    from kafka import KafkaConsumer, TopicPartition

    consumer = KafkaConsumer(bootstrap_servers=servers, isolation_level="read_committed", auto_offset_reset="earliest")
    try:
        places = [TopicPartition("anomalies", number) for number in consumer.partitions_for_topic("anomalies") or ()]
        consumer.assign(places)
        consumer.seek_to_beginning(*places)
        ends = consumer.end_offsets(places)
        while any(consumer.position(place) < ends[place] for place in places):
            for records in consumer.poll(timeout_ms=500).values():
                yield from (orjson.loads(record.value) for record in records)
    finally:
        consumer.close()
