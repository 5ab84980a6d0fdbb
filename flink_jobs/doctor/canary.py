"""The canary: a record that is none, sent in at the one end, must come out at the other as a dead letter.

It needs no model and no luck, and it proves source, parser, job, checkpoint and sink: a dead letter can be read by a reader of committed
messages when the checkpoint after it is done. The letter is known by the place of the record it is about: topic, partition and offset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import orjson

from flink_jobs.doctor.checks import Check
from flink_jobs.kafka_client import security_keywords, unreachable
from flink_jobs.settings import KafkaAddress, Settings
from models.errors import SettingsError

SERVICE: Final = "driftwood-canary"
_CONNECT_MS: Final = 10_000
_POLL_MS: Final = 200


def is_canary(letter: Mapping[str, Any]) -> bool:
    """Whether a dead letter is about a canary."""
    return str(letter.get("value", "")).startswith(f'["{SERVICE}"')


def send(settings: Settings, source: KafkaAddress, sink: KafkaAddress, timeout_s: float) -> Check:
    """Sends a canary to a source and waits for its dead letter at a sink."""
    from kafka import KafkaConsumer, KafkaProducer, TopicPartition
    from kafka.errors import KafkaError

    topic, rejects = source.topics[0], sink.place("rejects")
    if rejects is None:
        return Check(
            "canary", "skipped", "The Kafka sink has no topic of dead letters (rejects=), so the canary cannot be seen."
        )
    security: dict[str, Any] = {}
    servers = source.servers
    try:
        security = security_keywords(
            {name: value.get_secret_value() for name, value in settings.kafka_properties.items()}
        )
        common = {"bootstrap_timeout_ms": _CONNECT_MS, **security}
        servers = sink.servers
        reader = KafkaConsumer(
            bootstrap_servers=sink.servers.split(","),
            enable_auto_commit=False,
            isolation_level="read_committed",
            **common,
        )
        try:
            partitions = [TopicPartition(rejects, number) for number in reader.partitions_for_topic(rejects) or ()]
            if not partitions:
                return Check(
                    "canary", "fail", f"There is no topic {rejects}.", "Start the job, or correct the sink's rejects=."
                )
            reader.assign(partitions)
            for partition, end in reader.end_offsets(partitions).items():
                reader.seek(partition, end)
            servers = source.servers
            producer = KafkaProducer(bootstrap_servers=source.servers.split(","), acks="all", **common)
            try:
                # A list of texts is no record, whatever the settings of the parser.
                sent = producer.send(topic, value=orjson.dumps([SERVICE, time.time_ns()]), key=SERVICE.encode()).get(
                    timeout=30
                )
            finally:
                producer.close(timeout=5)
            return _wait(reader, (topic, sent.partition, sent.offset), rejects, timeout_s)
        finally:
            reader.close()
    except SettingsError as error:
        return Check("canary", "fail", str(error), "Correct kafka_properties.")
    except (KafkaError, OSError, ValueError) as error:
        what, _, step = str(unreachable(servers, security, error)).partition("; ")
        return Check("canary", "fail", what, step)


def _wait(reader: Any, place: tuple[str, int, int], rejects: str, timeout_s: float) -> Check:
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        for records in reader.poll(timeout_ms=_POLL_MS).values():
            for record in records:
                try:
                    letter = orjson.loads(record.value)
                except orjson.JSONDecodeError:
                    continue
                if (letter.get("topic"), letter.get("partition"), letter.get("offset")) == place:
                    took = time.monotonic() - began
                    return Check("canary", "ok", f"A canary went through source, parser, job and sink in {took:.1f} s.")
    topic, partition, offset = place
    return Check(
        "canary",
        "fail",
        f"The canary at {topic}, partition {partition}, offset {offset} did not come out on {rejects} within {timeout_s:g} s.",
        "Either the job does not run or stands (see its checks), or it reads another topic, or it lags behind; --canary-timeout waits for longer.",
    )
