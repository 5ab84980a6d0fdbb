"""Every side output of the job: its name and the type of its elements. Renaming one is a migration."""

from __future__ import annotations

from typing import Final

from pyflink.common import Types
from pyflink.datastream import OutputTag

BYTES: Final = Types.PRIMITIVE_ARRAY(Types.BYTE())
#: A message for Kafka: key and value, both bytes.
MESSAGE: Final = Types.ROW_NAMED(["key", "value"], [BYTES, BYTES])

REJECTS: Final = OutputTag("rejects", MESSAGE)
CATALOGUE: Final = OutputTag("catalogue", MESSAGE)
RANGES: Final = OutputTag("ranges", MESSAGE)
STATUS: Final = OutputTag("status", MESSAGE)
#: One element a batch: the batch's anomalies as JSON lines, for sinks that are written from Python.
DELIVERIES: Final = OutputTag("deliveries", BYTES)
#: One element a batch: models.training_buffer.SequenceBatch.
SEQUENCES: Final = OutputTag("sequences", BYTES)
