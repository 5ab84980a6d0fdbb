"""The job's graph, top to bottom.

```
kafka://…  raw rows ──→ pack lines (Arrow UDF: parse, redact, mask) ─┐
control    raw rows ──→ read commands ───────────────────────────────┤
file:…     splits ────→ read files (the same, on chunks) ────────────┤
   ?follow=1  ticks ──→ follow files (the same, as they grow) ───────┴─→ packed batches, one for each shard
                                                                             │ key by shard
                                                                             ▼
                                                          detect (templates → windows → DeepLog)
     main output: anomalies ─┬→ Kafka
                             └→ second opinion ──→ Kafka    where a model has heavy detectors; in a slot of its own; hears commands too
                                |=> deliveries ──→ Elastic, file; Loki keeps first tellings only
                    all of them ─→ correlate ──→ Kafka incidents (compacted), file
     |=> rejects    ──────────→ Kafka logs-rejected, file   ◄── entries that Loki or Elastic refused
     |=> catalogue  ──────────→ Kafka templates (compacted), file
     |=> ranges     ──────────→ Kafka verdicts, file (off by default)
     |=> deliveries ──────────→ Loki, Elastic, file
     |=> status     ──────────→ Kafka status (compacted), file
     |=> sequences  ──────────→ Redis
```
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import xxhash
from loguru import logger
from pyflink.common import Row
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.table import StreamTableEnvironment
from pyflink.util.java_utils import get_j_env_configuration, is_local_deployment

from flink_jobs.addresses import RESULTS, KafkaAddress, parse_source
from flink_jobs.connectors import (
    PACKED_ROW,
    Sinks,
    commands_from_kafka,
    key_by_shard,
    packed_from_files,
    packed_from_growing_files,
    packed_from_kafka,
    send_to_kafka,
)
from flink_jobs.settings import Settings
from models.alerts.correlator import CorrelatorParams
from models.artefact import load_all
from models.batch import BatchParams
from models.second_opinion import has_voices
from models.shard import ShardParams
from udfs.correlate import CorrelateFn
from udfs.deliver import DeliverToElastic, DeliverToLoki, DeliverToRedis
from udfs.detect import DetectFn
from udfs.one_key import under_one_key
from udfs.second_opinion import SecondOpinionFn
from udfs.tags import BYTES, CATALOGUE, DELIVERIES, MESSAGE, RANGES, REJECTS, SEQUENCES, STATUS
from udfs.write_file import WriteFileFn

#: Of a mini-cluster.
_SLOTS = "taskmanager.numberOfTaskSlots"


def build_pipeline(
    env: StreamExecutionEnvironment,
    tables: StreamTableEnvironment,
    settings: Settings,
    batching: BatchParams,
    shard: ShardParams,
) -> None:
    """Put the whole graph into the environment: one submission holds all sources and sinks."""
    sinks = Sinks.of(settings.sink)
    has_deliveries = bool(sinks.loki or sinks.elastic or sinks.files)

    # ROW(shard STRING, packed BYTES)
    packed = _packed(env, tables, settings, batching)
    letters, commands = [], None
    if settings.control:
        # ROW(shard STRING, packed BYTES), a command each
        commands = commands_from_kafka(tables, KafkaAddress.control(settings.control), settings, settings.shards)
        letters.append(commands.get_side_output(REJECTS).name("no commands"))
        packed = packed.union(commands)

    # main: MESSAGE(service, anomaly JSON)
    anomalies = (
        key_by_shard(packed)
        .process(
            DetectFn(
                replace(shard, has_sequences=bool(sinks.redis)),
                str(settings.model) if settings.model else None,
                store=settings.store or (str(settings.model) if settings.model else None),
                has_deliveries=has_deliveries,
                has_ranges=sinks.has("verdicts"),
                has_status=sinks.has("status"),
            ),
            MESSAGE,
        )
        .uid("detect")
        .name("detect")
    )
    rejects = anomalies.get_side_output(REJECTS).name("rejects")  # MESSAGE(topic, dead letter JSON)
    catalogue = anomalies.get_side_output(CATALOGUE).name("catalogue")  # MESSAGE(service/template id, template JSON)
    ranges = anomalies.get_side_output(RANGES).name("ranges")  # MESSAGE(shard, account JSON)
    status = anomalies.get_side_output(STATUS).name("status")  # MESSAGE(service, status JSON)
    deliveries = anomalies.get_side_output(DELIVERIES).name("deliveries")  # BYTES, a batch's anomalies as JSON lines
    sequences = anomalies.get_side_output(SEQUENCES).name("sequences")  # BYTES, SequenceBatch
    if settings.model and has_voices(load_all(settings.model).values(), shard.fusion):
        # MESSAGE(service, revised anomaly JSON)
        revisions = _second_opinion(
            env, anomalies, commands, SecondOpinionFn(shard, str(settings.model), has_deliveries=has_deliveries)
        )
        seconds = revisions.get_side_output(DELIVERIES).name("second deliveries")  # BYTES, a revision as a JSON line
        deliveries = deliveries.union(seconds.set_parallelism(1))  # in the same slot
        anomalies = anomalies.union(revisions)

    for number, redis in enumerate(sinks.redis):
        sequences.process(DeliverToRedis(redis), BYTES).uid(f"redis-{number}").name("redis")
    letters += [
        *(
            _as_messages(deliveries.process(DeliverToLoki(loki), BYTES).uid(f"loki-{n}").name("loki"))
            for n, loki in enumerate(sinks.loki)
        ),
        *(
            _as_messages(deliveries.process(DeliverToElastic(elastic), BYTES).uid(f"elastic-{n}").name("elastic"))
            for n, elastic in enumerate(sinks.elastic)
        ),
    ]
    if letters:
        rejects = rejects.union(*letters)

    results = {
        "anomalies": anomalies,
        "incidents": _incidents(anomalies) if sinks.has("incidents") else anomalies,
        "rejects": rejects,
        "templates": catalogue,
        "verdicts": ranges,
        "status": status,
    }
    for kind in RESULTS:
        for path in sinks.paths(kind):
            _write_file(deliveries if kind == "anomalies" else results[kind], kind, path)

    statements = tables.create_statement_set()
    for address in sinks.kafka:
        for kind in RESULTS:
            topic = address.place(kind)
            # The newest status counts, so a repeated one is no harm, and a command is answered before the next checkpoint.
            guarantee = "at-least-once" if kind == "status" else settings.guarantee
            if topic:
                send_to_kafka(statements, tables, results[kind], address, topic, settings, guarantee)
    if sinks.kafka:
        statements.attach_as_datastream()


def _packed(
    env: StreamExecutionEnvironment, tables: StreamTableEnvironment, settings: Settings, batching: BatchParams
) -> DataStream:
    streams = []
    for source in map(parse_source, settings.source):
        if isinstance(source, KafkaAddress):
            streams.append(packed_from_kafka(tables, source, settings, batching))
        elif source.is_followed:
            streams.append(packed_from_growing_files(tables, source, batching))
        else:
            streams.append(packed_from_files(env, source, batching))
    return streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]


def _second_opinion(
    env: StreamExecutionEnvironment, anomalies: DataStream, commands: DataStream | None, opinion: SecondOpinionFn
) -> DataStream:
    """The revisions of a second opinion, given in a slot of its own and so in a Python process of its own, where it holds up no first one."""
    configuration = get_j_env_configuration(env._j_stream_execution_environment)
    slots = env.get_parallelism() + 1
    logger.info("the second opinion takes a slot of its own: the job needs {}", slots)
    if is_local_deployment(configuration):
        configuration.setString(_SLOTS, str(max(int(configuration.getString(_SLOTS, "1")), slots)))
    asked = anomalies.map(under_one_key, PACKED_ROW).uid("ask").name("ask")
    if commands is not None:
        asked = asked.union(commands.map(under_one_key, PACKED_ROW).uid("tell").name("tell"))
    return (
        key_by_shard(asked)
        .process(opinion, MESSAGE)
        .uid("second-opinion")
        .name("second opinion")
        .slot_sharing_group("second-opinion")
        .set_parallelism(1)  # there are few anomalies, and the models are large
    )


def _incidents(anomalies: DataStream) -> DataStream:
    """The incidents that anomalies make: one operator, because what belongs together may come from any service."""
    return (
        key_by_shard(anomalies.map(under_one_key, PACKED_ROW).uid("to-correlate").name("to correlate"))
        .process(CorrelateFn(CorrelatorParams()), MESSAGE)
        .uid("correlate")
        .name("correlate")
        .set_parallelism(1)
    )


def _as_messages(letters: DataStream) -> DataStream:
    return letters.map(lambda letter: Row(b"sink", letter), MESSAGE).name("dead letters")


def _write_file(results: DataStream, kind: str, path: Path) -> None:
    """Write one kind of result to a file; the writer keeps the file's length, so it has a key, and there is one of it."""
    label = xxhash.xxh32_hexdigest(f"{kind} {path}".encode())
    (
        key_by_shard(results.map(under_one_key, PACKED_ROW).uid(f"to-file-{label}").name(f"{kind} to file"))
        .process(WriteFileFn(str(path), has_anomalies=kind == "anomalies"), BYTES)
        .uid(f"file-{label}")
        .name(f"{kind} file")
        .set_parallelism(1)
    )
