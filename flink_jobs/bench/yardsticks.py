"""The jobs that the main job is measured against; submitted by `flink run -py`, as it is.

`source`      Kafka raw → blackhole: no Python at all.
`floor`       Kafka raw → an Arrow UDF that gives nulls → blackhole: what crossing into Python costs in batches.
`identity`    Kafka raw → an Arrow UDF that gives back its input → blackhole: what crossing there and back costs; the job, too, carries each line back.
`per_record`  the main job's work one record at a time: the same core with a batch of one, state and model cached, default bundles.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import typer
from pyflink.common import Configuration, Row, SimpleStringSchema, Types, WatermarkStrategy
from pyflink.datastream import KeyedProcessFunction, MapFunction, RuntimeContext, StreamExecutionEnvironment
from pyflink.datastream.connectors.kafka import KafkaOffsetsInitializer, KafkaSource
from pyflink.table import DataTypes, Schema, StreamTableEnvironment, TableDescriptor
from pyflink.table.udf import ScalarFunction, udf

from flink_jobs.connectors import kafka_lines, send_to_kafka
from flink_jobs.job import core_params
from flink_jobs.settings import KafkaAddress, Settings
from models.artefact import load_all
from models.batch import Batcher, BatchParams
from models.packing import unpack
from models.parsing import Raw
from models.shard import Shard, ShardParams
from udfs.state import JOURNAL, TEMPLATES
from udfs.tags import BYTES, MESSAGE
from udfs.worker import prepare_worker, settle


class NothingFn(ScalarFunction):
    """Takes a whole Arrow batch and gives nulls."""

    def is_deterministic(self) -> bool:
        """False, as the main job's."""
        return False

    def eval(self, value: pd.Series, *_: pd.Series) -> pd.Series:
        """Nulls."""
        return pd.Series(np.full(len(value), None, object))


class IdentityFn(NothingFn):
    """Gives back its first argument."""

    def eval(self, value: pd.Series, *_: pd.Series) -> pd.Series:
        """The input."""
        return value


class ParseOneFn(MapFunction):
    """One record to its one packed line."""

    def __init__(self, params: str) -> None:
        self._params = params

    def open(self, runtime_context: RuntimeContext) -> None:
        """Build the core."""
        self._batcher: Batcher = BatchParams.from_json(self._params).build()
        self._offset = 0
        settle()

    def map(self, value: str) -> Row:
        """The service's shard and its line; DataStream's Kafka source gives no offset, so lines are counted."""
        self._offset += 1
        raw = Raw(
            values=[value.encode()],
            topic="logs",
            partition=np.zeros(1, np.int32),
            offset=np.full(1, self._offset, np.int64),
            timestamp_ms=np.zeros(1, np.int64),
        )
        ((shard, packed),) = self._batcher.step(raw)
        return Row(str(shard), packed)


class DetectOneFn(KeyedProcessFunction):
    """The main job's keyed operator on single lines, with its state and its cache."""

    def __init__(self, params: ShardParams, models: str) -> None:
        self._params = params
        self._models = models

    def open(self, runtime_context: RuntimeContext) -> None:
        """Get the state and load the models."""
        prepare_worker()
        torch.set_num_threads(1)
        self._artefacts = load_all(self._models)
        self._templates = runtime_context.get_map_state(TEMPLATES)
        self._journal = runtime_context.get_map_state(JOURNAL)
        self._shards: dict[str, Shard] = {}
        self._length = 0
        settle()

    def process_element(self, value: Row, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Judge one line."""
        key = ctx.get_current_key()
        if key not in self._shards:
            self._shards[key] = self._params.build(self._artefacts)
        step = self._shards[key].step(unpack(value[1]))
        for name, entry in step.writes.entries:
            self._templates.put(name, entry)
        if step.writes.is_snapshot:
            self._journal.clear()
            self._length = 0
        self._journal.put(self._length, step.writes.journal)
        self._length += 1
        for service, anomaly in step.anomalies:
            yield Row(service.encode(), anomaly)


def main(
    kind: str,
    servers: Annotated[str, typer.Option()],
    topic: Annotated[str, typer.Option()],
    model: Annotated[str, typer.Option()] = "",
) -> None:
    """Submit one of the yardsticks."""
    configuration = Configuration()
    configuration.set_string("table.local-time-zone", "UTC")
    if kind == "per_record":
        # Flink's defaults, which the cluster's configuration raises for the main job
        configuration.set_string("python.fn-execution.bundle.size", "1000")
        configuration.set_string("python.fn-execution.bundle.time", "1000")
    env = StreamExecutionEnvironment.get_execution_environment(configuration)
    env.set_parallelism(1)
    tables = StreamTableEnvironment.create(env)
    address = KafkaAddress(servers=servers, topics=(topic,), options={"start": "earliest"})
    settings = Settings(job_name=kind)
    if kind == "per_record":
        _per_record(env, tables, address, settings, model)
        return
    schema = Schema.new_builder().column("value", DataTypes.BYTES()).build()
    tables.create_temporary_table("nowhere", TableDescriptor.for_connector("blackhole").schema(schema).build())
    lines = kafka_lines(tables, address, settings)
    query = f"SELECT `value` FROM {lines}"
    if kind in ("floor", "identity"):
        nothing: Any = udf(
            NothingFn() if kind == "floor" else IdentityFn(),
            result_type=DataTypes.BYTES(),
            deterministic=False,
            func_type="pandas",
        )
        tables.create_temporary_function("nothing", nothing)
        query = (
            f"SELECT p FROM (SELECT nothing(`value`, `topic`, `partition`, `offset`, `timestamp`) AS p FROM {lines}) "
            "WHERE p IS NOT NULL"
        )
    tables.sql_query(query).execute_insert("nowhere")


def _per_record(
    env: StreamExecutionEnvironment,
    tables: StreamTableEnvironment,
    address: KafkaAddress,
    settings: Settings,
    model: str,
) -> None:
    batching, shard = core_params(settings)
    source = (
        KafkaSource.builder()
        .set_bootstrap_servers(address.servers)
        .set_topics(*address.topics)
        .set_group_id("per_record")
        .set_starting_offsets(KafkaOffsetsInitializer.earliest())
        .set_value_only_deserializer(SimpleStringSchema())
        .build()
    )
    row = Types.ROW([Types.STRING(), BYTES])
    anomalies = (
        env.from_source(source, WatermarkStrategy.no_watermarks(), "lines")
        .map(ParseOneFn(batching.to_json()), row)
        .key_by(lambda line: line[0], Types.STRING())
        .process(DetectOneFn(shard, model), MESSAGE)
    )
    statements = tables.create_statement_set()
    send_to_kafka(statements, tables, anomalies, address, "per-record-anomalies", settings, settings.guarantee)
    statements.attach_as_datastream()
    env.execute_async("per_record")


if __name__ == "__main__":
    # Functions of a module that runs as __main__ are shipped by value; imported, they are shipped by name.
    from flink_jobs.bench.yardsticks import main as submit_yardstick

    typer.run(submit_yardstick)
