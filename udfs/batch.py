"""The first operator: one Arrow UDF that turns up to 10,000 raw rows into one packed batch for each shard."""

from __future__ import annotations

import numpy as np
import pandas as pd
from pyflink.table import DataTypes
from pyflink.table.udf import FunctionContext, ScalarFunction, UserDefinedScalarFunctionWrapper, udf

from models.batch import Batcher, BatchParams
from models.parsing import Raw
from udfs.worker import prepare_worker, settle

#: What a row gives: the shard and its packed batch on the shard's first row, nulls elsewhere.
PACKED = DataTypes.ROW([DataTypes.FIELD("shard", DataTypes.STRING()), DataTypes.FIELD("packed", DataTypes.BYTES())])


class PackLines(ScalarFunction):
    """Parse, redact, mask and pack a whole Arrow batch."""

    def __init__(self, params: str) -> None:
        self._params = params  # JSON: what crosses a process is data

    def open(self, function_context: FunctionContext) -> None:
        """Build the core from its parameters."""
        prepare_worker()
        self._batcher: Batcher = BatchParams.from_json(self._params).build()
        settle()

    def is_deterministic(self) -> bool:
        """False, so that the planner calls it once a row, wherever its result is used."""
        return False

    def eval(
        self, value: pd.Series, topic: pd.Series, partition: pd.Series, offset: pd.Series, timestamp_ms: pd.Series
    ) -> pd.DataFrame:
        """One row for each input row; only the first row of a shard carries its batch."""
        topics = topic.tolist()
        raw = Raw(
            values=value.tolist(),
            topic=topics[0] if len(set(topics)) == 1 else topics,
            partition=partition.to_numpy(np.int32),
            offset=offset.to_numpy(np.int64),
            timestamp_ms=timestamp_ms.to_numpy(np.int64),
        )
        shards: list[str | None] = [None] * len(topics)
        packed: list[bytes | None] = [None] * len(topics)
        for row, (shard, blob) in enumerate(self._batcher.step(raw)):
            shards[row], packed[row] = str(shard), blob
        return pd.DataFrame({"shard": shards, "packed": packed})


def pack_lines(params: str) -> UserDefinedScalarFunctionWrapper:
    """The UDF over those parameters."""
    return udf(PackLines(params), result_type=PACKED, deterministic=False, func_type="pandas", name="pack_lines")
