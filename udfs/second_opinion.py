"""The operator of the second opinion: anomalies and commands in, the next revisions out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import torch
from pyflink.common import Row
from pyflink.datastream import KeyedProcessFunction, RuntimeContext

from models.artefact import load_all
from models.control import COMMAND, read_command
from models.second_opinion import SecondOpinion
from models.shard import ShardParams
from udfs.state import ACCEPTED
from udfs.tags import DELIVERIES
from udfs.worker import prepare_worker, settle


class SecondOpinionFn(KeyedProcessFunction):
    """Asks the heavy detectors about each anomaly, and lets them know what people call normal.

    State: `ACCEPTED`, under one key.
    Metrics: `second_opinions_asked_total`, `second_opinions_given_total` (counters).
    """

    def __init__(self, params: ShardParams, models: str, *, has_deliveries: bool) -> None:
        self._params = params
        self._models = models
        self._has_deliveries = has_deliveries

    def open(self, runtime_context: RuntimeContext) -> None:
        """Load the models."""
        prepare_worker()
        torch.set_num_threads(1)  # the one core that the slot has
        self._accepted = runtime_context.get_map_state(ACCEPTED)
        self._is_restored = False
        self._opinion = SecondOpinion(load_all(self._models), self._params.templates, self._params.fusion)
        metrics = runtime_context.get_metrics_group().add_group("driftwood")
        self._asked = metrics.counter("second_opinions_asked_total")
        self._given = metrics.counter("second_opinions_given_total")
        settle()

    def process_element(self, value: bytes, ctx: KeyedProcessFunction.Context) -> Iterator[Any]:
        """Give the second opinion on one anomaly, if there is one; or take note of a command."""
        if not self._is_restored:  # only with an element the state can be read
            self._opinion.restore(dict(self._accepted.items()))
            self._is_restored = True
        if value.startswith(COMMAND):
            for command_id, entry in self._opinion.obey(read_command(value)).items():
                if entry is None:
                    self._accepted.remove(command_id)
                else:
                    self._accepted.put(command_id, entry)
            return
        revisions = self._opinion.step([value])
        self._asked.inc(1)
        self._given.inc(len(revisions))
        for revision in revisions:
            yield Row(orjson.loads(revision)["service"].encode(), revision)
            if self._has_deliveries:
                yield DELIVERIES, revision
