"""Sources and sinks: the tables and streams at both ends of the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import xxhash
from loguru import logger
from pyflink.common import Types
from pyflink.datastream import DataStream, StreamExecutionEnvironment
from pyflink.datastream.data_stream import KeyedStream
from pyflink.java_gateway import get_gateway
from pyflink.table import DataTypes, Schema, StatementSet, StreamTableEnvironment, TableDescriptor

from flink_jobs.addresses import RESULTS, FileAddress, KafkaAddress, parse_sink
from flink_jobs.settings import Settings
from models.batch import BatchParams
from models.elastic import ElasticParams
from models.loki import LokiParams
from models.training_buffer import RedisParams
from udfs.batch import pack_lines
from udfs.commands import ReadCommandsFn
from udfs.follow import FollowFilesFn, ReadFilesFn, matching, plan
from udfs.tags import BYTES

#: Transactions must outlive a checkpoint and a recovery, and stay below the broker's transaction.max.timeout.ms (15 min by default).
TRANSACTION_TIMEOUT_MS = 600_000
#: New partitions, and new topics of a pattern, are looked for this often.
DISCOVERY = "30 s"
#: The fat connector jar carries the Kafka client under this name.
_SHADED = "org.apache.flink.kafka.shaded."

#: A packed batch and the shard whose state it meets.
PACKED_ROW = Types.ROW_NAMED(["shard", "packed"], [Types.STRING(), BYTES])


def kafka_properties(address: KafkaAddress, settings: Settings) -> dict[str, str]:
    """The client's properties as connector options, JAAS class names as the fat jar has them."""
    secret = {name: value.get_secret_value() for name, value in settings.kafka_properties.items()}
    properties = {"bootstrap.servers": address.servers, **secret, **address.properties}
    if "sasl.jaas.config" in properties and _SHADED not in properties["sasl.jaas.config"]:
        properties["sasl.jaas.config"] = properties["sasl.jaas.config"].replace(
            "org.apache.kafka.", f"{_SHADED}org.apache.kafka."
        )
    return {f"properties.{name}": value for name, value in properties.items()}


def _describe(connector: str, schema: Schema, options: Mapping[str, str]) -> TableDescriptor:
    builder = TableDescriptor.for_connector(connector).schema(schema)
    for name, value in options.items():
        builder = builder.option(name, value)
    return builder.build()


def _label(address: KafkaAddress | FileAddress) -> str:
    """What tells a source from the others, in every run the same."""
    return xxhash.xxh32_hexdigest(address.model_dump_json().encode())


def kafka_lines(tables: StreamTableEnvironment, address: KafkaAddress, settings: Settings) -> str:
    """The name of a table of raw rows of Kafka topics: value, topic, partition, offset, timestamp; nothing is decoded in the JVM."""
    options = {
        "format": "raw",
        **address.startup(),
        "scan.topic-partition-discovery.interval": DISCOVERY,
        "properties.group.id": address.options.get("group", settings.job_name),
        "properties.auto.offset.reset": "earliest",
        **kafka_properties(address, settings),
    }
    if address.pattern:
        options["topic-pattern"] = address.pattern
    else:
        options["topic"] = ";".join(address.topics)
    if address.options.get("until") == "latest":
        options["scan.bounded.mode"] = "latest-offset"
    schema = (
        Schema.new_builder()
        .column("value", DataTypes.BYTES())
        .column_by_metadata("topic", DataTypes.STRING(), is_virtual=True)
        .column_by_metadata("partition", DataTypes.INT(), is_virtual=True)
        .column_by_metadata("offset", DataTypes.BIGINT(), is_virtual=True)
        .column_by_metadata("timestamp", DataTypes.TIMESTAMP_LTZ(3), is_virtual=True)
        .build()
    )
    name = f"lines_{_label(address)}"
    tables.create_temporary_table(name, _describe("kafka", schema, options))
    return name


def packed_from_kafka(
    tables: StreamTableEnvironment, address: KafkaAddress, settings: Settings, params: BatchParams
) -> DataStream:
    """Packed batches of a Kafka source; element ROW(shard STRING, packed BYTES)."""
    name = kafka_lines(tables, address, settings)
    if "pack_lines" not in tables.list_user_defined_functions():  # one for all sources
        tables.create_temporary_function("pack_lines", pack_lines(params.to_json()))
    packed = tables.sql_query(
        "SELECT p.shard AS shard, p.packed AS packed "
        f"FROM (SELECT pack_lines(`value`, `topic`, `partition`, `offset`, `timestamp`) AS p FROM {name}) "
        "WHERE p.shard IS NOT NULL"
    )
    return tables.to_append_stream(packed, PACKED_ROW)


def packed_from_files(env: StreamExecutionEnvironment, address: FileAddress, params: BatchParams) -> DataStream:
    """Packed batches of files, in order; element ROW(shard STRING, packed BYTES)."""
    splits = plan(address.path)
    label = _label(address)
    return (
        env.from_collection([split.to_json() for split in splits], Types.STRING())
        .uid(f"files-{label}")
        .name("files")
        .set_parallelism(1)
        .flat_map(ReadFilesFn(params.to_json()), PACKED_ROW)
        .uid(f"read-files-{label}")
        .name("read files")
        .set_parallelism(1)  # the parts of a file must be read in order
    )


def packed_from_growing_files(tables: StreamTableEnvironment, address: FileAddress, params: BatchParams) -> DataStream:
    """Packed batches of files that grow, as they grow; element ROW(shard STRING, packed BYTES).

    Positions are keyed state, and a timer reads on; the ticks only make an unbounded stream with a key, and start the timer.
    """
    pattern = str(Path(address.path).absolute())
    if not matching(pattern):
        logger.warning(
            "there is no {} yet: the job waits for it; on a cluster it is looked for on the TaskManager", pattern
        )
    label = _label(address)
    schema = Schema.new_builder().column("tick", DataTypes.BOOLEAN()).build()
    options = {"rows-per-second": "1", "scan.parallelism": "1"}
    tables.create_temporary_table(f"ticks_{label}", _describe("datagen", schema, options))
    ticks = tables.sql_query(f"SELECT 'files' AS shard, CAST(NULL AS BYTES) AS packed FROM ticks_{label}")
    return (
        key_by_shard(tables.to_append_stream(ticks, PACKED_ROW))
        .process(FollowFilesFn(params.to_json(), pattern), PACKED_ROW)
        .uid(f"follow-files-{label}")
        .name("follow files")
        .set_parallelism(1)  # one key
    )


def commands_from_kafka(
    tables: StreamTableEnvironment, address: KafkaAddress, settings: Settings, shards: int
) -> DataStream:
    """Commands of the control topic, one for each shard concerned; element ROW(shard STRING, packed BYTES). Dead letters go to REJECTS."""
    name = kafka_lines(tables, address, settings)
    rows = tables.sql_query(f"SELECT `value`, `topic`, `partition`, `offset` FROM {name}")
    fields = [BYTES, Types.STRING(), Types.INT(), Types.LONG()]
    messages = tables.to_append_stream(rows, Types.ROW_NAMED(["value", "topic", "partition", "offset"], fields))
    return (
        messages.process(ReadCommandsFn(shards), PACKED_ROW)
        .uid("read-commands")
        .name("read commands")
        .set_parallelism(1)  # they are few, and in order
    )


def key_by_shard(packed: DataStream) -> KeyedStream:
    """The packed batches keyed by shard, without the Python hop that `key_by` would add.

    `DataStream.key_by` runs a Python operator that wraps each element as ROW(key, value) for the JVM's KeyByKeySelector. These
    elements are such rows already, so the selector is used directly; at 2.5 MB a batch the hop costs about 0.5 µs a line.
    """
    keyed = packed._j_data_stream.keyBy(
        get_gateway().jvm.KeyByKeySelector(), Types.ROW([Types.STRING()]).get_java_type_info()
    )
    return KeyedStream(keyed, BYTES, packed)


@dataclass(frozen=True)
class Sinks:
    """Where results go; what is not configured is off.

    Attributes:
        kafka: topics on one broker for anomalies and, by option, rejects, templates and verdicts.
        files: files for the same.
    """

    kafka: list[KafkaAddress] = field(default_factory=list)
    files: list[FileAddress] = field(default_factory=list)
    loki: list[LokiParams] = field(default_factory=list)
    redis: list[RedisParams] = field(default_factory=list)
    elastic: list[ElasticParams] = field(default_factory=list)

    @classmethod
    def of(cls, urls: tuple[str, ...]) -> Sinks:
        """The sinks that a list of addresses names."""
        sinks = cls()
        kinds = {
            KafkaAddress: sinks.kafka,
            FileAddress: sinks.files,
            LokiParams: sinks.loki,
            RedisParams: sinks.redis,
            ElasticParams: sinks.elastic,
        }
        for sink in map(parse_sink, urls):
            kinds[type(sink)].append(sink)
        return sinks

    def off(self) -> list[str]:
        """The kinds of sink that are not configured."""
        kinds = {
            "kafka": self.kafka,
            "file": self.files,
            "loki": self.loki,
            "redis": self.redis,
            "elastic": self.elastic,
        }
        return [name for name, configured in kinds.items() if not configured]

    def topics(self) -> dict[str, list[str]]:
        """The topics that are written, by bootstrap servers."""
        found: dict[str, list[str]] = {}
        for address in self.kafka:
            topics = [address.place(kind) for kind in RESULTS]
            found.setdefault(address.servers, []).extend(topic for topic in topics if topic)
        return found

    def paths(self, kind: str) -> list[Path]:
        """The files for one kind of result, each once."""
        return sorted({path for address in self.files if (path := address.place(kind))})

    def has(self, kind: str) -> bool:
        """Whether one kind of result goes anywhere."""
        return any(address.place(kind) for address in [*self.kafka, *self.files])


def send_to_kafka(
    statements: StatementSet,
    tables: StreamTableEnvironment,
    messages: DataStream,
    address: KafkaAddress,
    topic: str,
    settings: Settings,
    guarantee: str,
) -> None:
    """Write messages, element ROW(key BYTES, value BYTES), to a topic."""
    schema = Schema.new_builder().column("key", DataTypes.BYTES()).column("value", DataTypes.BYTES()).build()
    options = {
        "topic": topic,
        "key.format": "raw",
        "key.fields": "key",
        "value.format": "raw",
        "value.fields-include": "EXCEPT_KEY",
        "sink.delivery-guarantee": guarantee,
        **kafka_properties(address, settings),
    }
    if guarantee == "exactly-once":
        options["sink.transactional-id-prefix"] = f"{settings.job_name}-{topic}"
        options["properties.transaction.timeout.ms"] = str(TRANSACTION_TIMEOUT_MS)
    name = topic.replace("-", "_").replace(".", "_")
    if (
        f"to_{name}" in tables.list_temporary_tables()
    ):  # the same topic on another broker, or a name that differs in signs only
        name = f"{name}_{xxhash.xxh32_hexdigest(f'{address.servers}/{topic}'.encode())}"
    tables.create_temporary_table(f"to_{name}", _describe("kafka", schema, options))
    tables.create_temporary_view(name, messages)
    statements.add_insert(f"to_{name}", tables.from_path(name))
