"""The job's graph, top to bottom.

```
kafka://…  raw rows ──→ pack lines (Arrow UDF: parse, redact, mask) ─┐
file:…     splits ────→ read files (the same, on chunks) ────────────┴─→ packed batches, one for each shard
                                                                             │ key by shard
                                                                             ▼
                                                          detect (templates → windows → DeepLog)
     main output: anomalies ──→ Kafka
     |=> rejects    ──────────→ Kafka logs-rejected   ◄── entries that Loki or Elastic refused
     |=> catalogue  ──────────→ Kafka templates (compacted)
     |=> ranges     ──────────→ Kafka verdicts (off by default)
     |=> deliveries ──────────→ Loki, Elastic, files
     |=> sequences  ──────────→ Redis
```
"""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from pyflink.common import Row
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment

from flink_jobs.connectors import (
    Sinks,
    key_by_shard,
    packed_from_files,
    packed_from_kafka,
    send_to_kafka,
)
from flink_jobs.settings import FileAddress, KafkaAddress, Settings
from models.batch import BatchParams
from models.shard import ShardParams
from udfs.deliver import DeliverToElastic, DeliverToLoki, DeliverToRedis
from udfs.detect import DetectFn
from udfs.tags import BYTES, CATALOGUE, DELIVERIES, MESSAGE, RANGES, REJECTS, SEQUENCES
from udfs.write_file import WriteFileFn


def build_pipeline(
    env: StreamExecutionEnvironment,
    tables: StreamTableEnvironment,
    settings: Settings,
    batching: BatchParams,
    shard: ShardParams,
) -> None:
    """Put the whole graph into the environment: one submission holds all sources and sinks."""
    sinks = Sinks.of(settings.sink)

    # ROW(shard STRING, packed BYTES)
    packed = _packed(env, tables, settings, batching)

    # main: MESSAGE(service, anomaly JSON)
    detected = (
        key_by_shard(packed)
        .process(
            DetectFn(
                replace(shard, has_sequences=bool(sinks.redis)),
                str(settings.model) if settings.model else None,
                has_deliveries=bool(sinks.loki or sinks.elastic or sinks.files),
                has_ranges=any(sinks.topic(address, "verdicts") for address in sinks.kafka),
            ),
            MESSAGE,
        )
        .uid("detect")
        .name("detect")
    )
    # A slot has one Python process, so one interpreter lock: in a slot of their own both halves of the work run at once.
    anomalies = detected.slot_sharing_group("detect") if settings.apart else detected
    rejects = anomalies.get_side_output(REJECTS).name("rejects")  # MESSAGE(topic, dead letter JSON)
    catalogue = anomalies.get_side_output(CATALOGUE).name("catalogue")  # MESSAGE(service/template id, template JSON)
    ranges = anomalies.get_side_output(RANGES).name("ranges")  # MESSAGE(shard, account JSON)
    deliveries = anomalies.get_side_output(DELIVERIES).name("deliveries")  # BYTES, a batch's anomalies as JSON lines
    sequences = anomalies.get_side_output(SEQUENCES).name("sequences")  # BYTES, SequenceBatch

    for number, redis in enumerate(sinks.redis):
        sequences.process(DeliverToRedis(redis), BYTES).uid(f"redis-{number}").name("redis")
    for number, file in enumerate(sinks.files):
        deliveries.process(WriteFileFn(file.path), BYTES).uid(f"file-{number}").name("file").set_parallelism(1)
    refused = [
        *(
            deliveries.process(DeliverToLoki(loki), BYTES).uid(f"loki-{n}").name("loki")
            for n, loki in enumerate(sinks.loki)
        ),
        *(
            deliveries.process(DeliverToElastic(elastic), BYTES).uid(f"elastic-{n}").name("elastic")
            for n, elastic in enumerate(sinks.elastic)
        ),
    ]
    letters = rejects.union(*(_as_messages(stream) for stream in refused)) if refused else rejects

    statements = tables.create_statement_set()
    for address in sinks.kafka:
        streams = {"anomalies": anomalies, "rejects": letters, "templates": catalogue, "verdicts": ranges}
        for kind, messages in streams.items():
            topic = sinks.topic(address, kind)
            if topic:
                send_to_kafka(statements, tables, messages, address, topic, settings)
    if sinks.kafka:
        statements.attach_as_datastream()


def _packed(
    env: StreamExecutionEnvironment, tables: StreamTableEnvironment, settings: Settings, batching: BatchParams
) -> DataStream:
    streams = [
        packed_from_kafka(tables, KafkaAddress.parse(url), settings, batching)
        if urlsplit(url).scheme == "kafka"
        else packed_from_files(env, FileAddress.parse(url), batching)
        for url in settings.source
    ]
    return streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]


def _as_messages(letters: DataStream) -> DataStream:
    return letters.map(lambda letter: Row(b"sink", letter), MESSAGE).name("dead letters")
