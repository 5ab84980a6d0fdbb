"""A small keyed PyFlink job over Kafka, submitted to a real cluster: counts each word, exactly once."""

from __future__ import annotations

import sys

from pyflink.common import Row, Types
from pyflink.datastream import KeyedProcessFunction, StreamExecutionEnvironment
from pyflink.datastream.state import ValueStateDescriptor
from pyflink.table import DataTypes, Schema, StreamTableEnvironment, TableDescriptor

from udfs.orphans import end_with_taskmanager


class Count(KeyedProcessFunction):
    """Word → `word count`, with the count in keyed state."""

    def open(self, runtime_context) -> None:
        end_with_taskmanager()
        self.count = runtime_context.get_state(ValueStateDescriptor("count", Types.LONG()))

    def process_element(self, value, ctx):
        count = (self.count.value() or 0) + 1
        self.count.update(count)
        yield f"{value} {count}"


def main(bootstrap: str, source: str, sink: str) -> None:
    env = StreamExecutionEnvironment.get_execution_environment()
    env.enable_checkpointing(500)
    tables = StreamTableEnvironment.create(env)
    column = Schema.new_builder().column("word", DataTypes.STRING()).build()
    lines = (
        TableDescriptor.for_connector("kafka")
        .schema(column)
        .format("raw")
        .option("properties.bootstrap.servers", bootstrap)
        .option("topic", source)
        .option("scan.startup.mode", "earliest-offset")
        .build()
    )
    counts = (
        TableDescriptor.for_connector("kafka")
        .schema(column)
        .format("raw")
        .option("properties.bootstrap.servers", bootstrap)
        .option("topic", sink)
        .option("sink.delivery-guarantee", "exactly-once")
        .option("sink.transactional-id-prefix", sink)
        .option("properties.transaction.timeout.ms", "60000")
        .build()
    )
    words = tables.to_data_stream(tables.from_descriptor(lines)).map(lambda row: row[0], Types.STRING())
    counted = (
        words.key_by(lambda word: word, Types.STRING()).process(Count(), Types.STRING()).uid("count").name("count")
    )
    rows = counted.map(lambda text: Row(word=text), Types.ROW_NAMED(["word"], [Types.STRING()]))
    statements = tables.create_statement_set()
    statements.add_insert(counts, tables.from_data_stream(rows))
    statements.attach_as_datastream()
    env.execute("counting")


if __name__ == "__main__":
    main(*sys.argv[1:])
