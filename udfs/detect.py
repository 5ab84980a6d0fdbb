"""The keyed operator: one shard's batches and commands in; anomalies, and on the side all that goes with them, out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from models.artefact import load_all
from models.control import COMMAND, read_command
from models.packing import unpack
from models.services import no_store
from models.shard import Shard, ShardParams, StateWrites
from models.store import Store
from udfs.state import JOURNAL, TEMPLATES
from udfs.tags import CATALOGUE, DELIVERIES, RANGES, REJECTS, SEQUENCES, STATUS
from udfs.worker import prepare_worker, settle

#: How often, in ms of processing time, a shard frees what is out of sight.
TICK_MS = 300_000
#: How often, in seconds, a shard that has lines says how its services are.
STATUS_S = 10.0


class DetectFn(KeyedProcessFunction):
    """Mines templates and scores windows for every service of a shard.

    State: by shard, template entries and a journal of rows (udfs/state.py); the decoded shard is a cache that may be dropped at any moment.
    """

    def __init__(
        self,
        params: ShardParams,
        models: str | None,
        *,
        store: str | None = None,
        has_deliveries: bool = False,
        has_ranges: bool = False,
        has_status: bool = False,
    ) -> None:
        self._params = params
        self._models = models
        self._store = store
        self._has_status = has_status
        self._has_deliveries = has_deliveries
        self._has_ranges = has_ranges

    def open(self, runtime_context: RuntimeContext) -> None:
        """Get the state and load the models."""
        prepare_worker()
        torch.set_num_threads(1)  # the one core that the slot has
        self._artefacts = load_all(self._models) if self._models else {}
        self._load = Store.open(self._store).load if self._store else no_store
        self._templates = runtime_context.get_map_state(TEMPLATES)
        self._journal = runtime_context.get_map_state(JOURNAL)
        self._shards: dict[str, Shard] = {}
        self._length: dict[str, int] = {}  # journal entries by shard
        self._said: dict[str, float] = {}  # when a shard's status was last told
        metrics = runtime_context.get_metrics_group().add_group("driftwood")
        self._counters = {
            name: metrics.counter(name)
            for name in (
                "lines_total",
                "scored_total",
                "late_total",
                "unmodelled_total",
                "anomalies_total",
                "rejects_total",
                "templates_total",
                "commands_total",
            )
        }
        settle()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """Judge one packed batch, or let a command act."""
        key = ctx.get_current_key()
        shard = self._shard(key, ctx)
        if value.startswith(COMMAND):
            writes, catalogue = shard.obey(read_command(value))
            self._write(key, writes)
            for name, entry in catalogue:
                yield CATALOGUE, Row(name.encode(), entry)
            self._counters["commands_total"].inc(1)
            yield from self._status(shard, is_full=False)
            return
        lines = unpack(value)
        step = shard.step(lines)
        self._write(key, step.writes)
        self._count(len(lines), step)
        for service, anomaly in step.anomalies:
            yield Row(service.encode(), anomaly)
        for origin, reject in step.rejects:
            yield REJECTS, Row(origin.encode(), reject)
        for name, entry in step.catalogue:
            yield CATALOGUE, Row(name.encode(), entry)
        if self._has_ranges and step.ranges:
            yield RANGES, Row(key.encode(), step.ranges)
        if self._has_deliveries and step.anomalies:
            yield DELIVERIES, b"\n".join(anomaly for _, anomaly in step.anomalies)
        if step.sequences is not None and len(lines):
            yield SEQUENCES, step.sequences.to_bytes()
        if time.monotonic() - self._said.get(key, -STATUS_S) >= STATUS_S:
            self._said[key] = time.monotonic()
            yield from self._status(shard, is_full=True)
        elif shard.services.has_news:
            yield from self._status(shard, is_full=False)

    def _status(self, shard: Shard, *, is_full: bool) -> Iterator[Any]:
        if self._has_status:
            for service, status in shard.statuses(int(time.time() * 1000), is_full=is_full):
                yield STATUS, Row(service.encode(), status)

    def on_timer(self, timestamp: int, ctx: KeyedProcessFunction.OnTimerContext) -> Iterator[Any]:
        """Free what is out of sight, and say how the services are."""
        key = ctx.get_current_key()
        shard = self._shard(key, ctx)
        self._write(key, shard.tick())
        _set_timer(ctx)
        yield from self._status(shard, is_full=True)

    def _shard(self, key: str, ctx: Any) -> Shard:
        if key not in self._shards:
            journal = [entry for _, entry in sorted(self._journal.items())]
            self._shards[key] = self._params.build(self._artefacts, self._templates.values(), journal, self._load)
            self._length[key] = len(journal)
            _set_timer(ctx)
        return self._shards[key]

    def _write(self, key: str, writes: StateWrites) -> None:
        for name, entry in writes.entries:
            self._templates.put(name, entry)
        for name in writes.dropped:
            self._templates.remove(name)
        if writes.is_snapshot:
            self._journal.clear()
            self._length[key] = 0
        self._journal.put(self._length[key], writes.journal)
        self._length[key] += 1

    def _count(self, lines: int, step: Any) -> None:
        for name, by in (
            ("lines_total", lines),
            ("scored_total", step.scored),
            ("late_total", step.late),
            ("unmodelled_total", step.unmodelled),
            ("anomalies_total", len(step.anomalies)),
            ("rejects_total", len(step.rejects)),
            ("templates_total", len(step.catalogue)),
        ):
            self._counters[name].inc(by)


def _set_timer(ctx: Any) -> None:
    """One timer a shard at the next full tick; setting it twice is setting it once."""
    now = int(time.time() * 1000)
    ctx.timer_service().register_processing_time_timer(now - now % TICK_MS + TICK_MS)
