"""The operator of alerts: anomalies in, incidents out; one for the whole job, because what belongs together may come from any service."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from loguru import logger
from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from models.alerts.correlator import Correlator, CorrelatorParams, Upsert
from udfs.state import INCIDENTS
from udfs.worker import prepare_worker, settle


class CorrelateFn(KeyedProcessFunction):
    """Makes incidents of anomalies: anomaly JSON in, MESSAGE(incident id, incident JSON) out.

    A timer of processing time ticks while there is any incident, so that people are told and incidents end where nothing more comes.

    State: `INCIDENTS`, one row for each that changed.

    Metrics: `incidents_opened_total`, `incident_messages_total`, `incidents_evicted_total` (counters), `incidents_open` (gauge).
    """

    def __init__(self, params: CorrelatorParams) -> None:
        self._params = params

    def open(self, runtime_context: RuntimeContext) -> None:
        """Get the state; it is read with the first element or timer, for only then it can be."""
        prepare_worker()
        self._rows = runtime_context.get_map_state(INCIDENTS)
        self._correlator: Correlator | None = None
        metrics = runtime_context.get_metrics_group().add_group("driftwood")
        names = ("incidents_opened_total", "incident_messages_total", "incidents_evicted_total")
        self._counters = [metrics.counter(name) for name in names]
        self._counted = (0, 0, 0)
        metrics.gauge("incidents_open", lambda: self._correlator.open if self._correlator is not None else 0)
        settle()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        """Take one anomaly."""
        now_ms = ctx.timer_service().current_processing_time()
        yield from self._written(self._ready().step([value], now_ms), now_ms, ctx)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Row]:
        """Let time pass."""
        now_ms = ctx.timer_service().current_processing_time()
        yield from self._written(self._ready().tick(now_ms), now_ms, ctx)

    def _ready(self) -> Correlator:
        if self._correlator is None:
            self._correlator = self._params.build()
            self._correlator.restore(dict(self._rows.items()))
            logger.info("incidents: {} are open", self._correlator.open)
        return self._correlator

    def _written(self, upserts: Iterable[Upsert], now_ms: int, ctx: KeyedProcessFunction.Context) -> Iterator[Row]:
        correlator = self._ready()
        for name, row in correlator.touched().items():
            if row is None:
                self._rows.remove(name)
            else:
                self._rows.put(name, row)
        if not correlator.is_idle:
            tick_ms = self._params.tick_ms  # on a grid, so that a restart and an element add no second series of ticks
            ctx.timer_service().register_processing_time_timer((now_ms // tick_ms + 1) * tick_ms)
        totals = (correlator.opened, correlator.told, correlator.evicted)
        for counter, total, counted in zip(self._counters, totals, self._counted, strict=True):
            counter.inc(total - counted)
        self._counted = totals
        for name, record in upserts:
            yield Row(name.encode(), record)
