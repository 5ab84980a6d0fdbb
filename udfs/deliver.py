"""The sinks beside Kafka as operators: each call sends what it was given, and returns when it is stored.

```
anomalies (JSON lines, one element a packed batch) ──→ DeliverToLoki     ──→ dead letters ──→ logs-rejected
                                                   ──→ DeliverToElastic  ──→ dead letters ──→ logs-rejected
sequences (SequenceBatch bytes)                    ──→ DeliverToRedis    (gives nothing)
```

The Python API has no hook at a bundle's end or a snapshot, so nothing may wait in an operator: what is not stored when
`process_element` returns would be lost by the next checkpoint. A sink that is away holds the call, within the deadline of
its retry settings; then SinkError fails the job, and the checkpoint repeats the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pyflink.datastream import ProcessFunction, RuntimeContext

from models.elastic import ElasticParams
from models.loki import LokiParams
from models.training_buffer import RedisParams
from udfs.clients.elastic import ElasticClient
from udfs.clients.loki import LokiClient
from udfs.clients.training_buffer import TrainingBuffer


def element_bytes(value: Any) -> bytes:
    """The bytes of an element: plain, or the first field of a Row."""
    return bytes(value) if isinstance(value, bytes | bytearray | memoryview) else bytes(value[0])


class Client(Protocol):
    """What an operator needs of a sink's client; the counts are totals since it was made."""

    sent: int
    refused: int

    @property
    def retried(self) -> int:
        """Requests sent again."""

    def deliver(self, data: bytes, /) -> list[bytes]:
        """Stores the element and gives the dead letters."""

    def close(self) -> None:
        """Closes the connection."""


class Deliver(ProcessFunction):
    """Moves elements to a client, and its dead letters on.

    Metrics: `<sink>_sent`, `<sink>_retried`, `<sink>_refused` (counters).
    """

    sink: str
    _client: Client | None = None

    def connect(self) -> Client:
        """The client; it connects on first use."""
        raise NotImplementedError

    def open(self, runtime_context: RuntimeContext) -> None:
        """Makes the client."""
        self._client = self.connect()
        group = runtime_context.get_metrics_group()
        self._counters = [group.counter(f"{self.sink}_{what}") for what in ("sent", "retried", "refused")]
        self._counted = [0, 0, 0]

    def process_element(self, value: Any, ctx: ProcessFunction.Context) -> Iterator[bytes]:
        """Sends the element, then gives the dead letters."""
        client = self._client
        letters = client.deliver(element_bytes(value))
        totals = [client.sent, client.retried, client.refused]
        for counter, total, counted in zip(self._counters, totals, self._counted, strict=True):
            counter.inc(total - counted)
        self._counted = totals
        yield from letters

    def close(self) -> None:
        """Closes the connection."""
        if self._client is not None:
            self._client.close()


class DeliverToLoki(Deliver):
    """Anomalies in, dead letters out; the rest is in Loki."""

    sink = "loki"

    def __init__(self, params: LokiParams) -> None:
        self._params = params

    def connect(self) -> LokiClient:
        """A client of Loki."""
        return LokiClient(self._params)


class DeliverToElastic(Deliver):
    """Anomalies in, dead letters out; the rest is in Elasticsearch."""

    sink = "elastic"

    def __init__(self, params: ElasticParams) -> None:
        self._params = params

    def connect(self) -> ElasticClient:
        """A client of Elasticsearch."""
        return ElasticClient(self._params)


class DeliverToRedis(Deliver):
    """Batches of sequences in, nothing out; they are in the training buffer. `redis_refused` counts lines over the caps."""

    sink = "redis"

    def __init__(self, params: RedisParams) -> None:
        self._params = params

    def connect(self) -> TrainingBuffer:
        """A client of Redis."""
        return TrainingBuffer(self._params)
