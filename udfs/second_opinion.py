"""The operator of the second opinion: anomalies in, their next revisions out; it keeps nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from pyflink.common import Row
from pyflink.datastream import ProcessFunction, RuntimeContext

from models.artefact import load_all
from models.second_opinion import SecondOpinion
from models.shard import ShardParams
from udfs.tags import DELIVERIES
from udfs.worker import prepare_worker, settle


class SecondOpinionFn(ProcessFunction):
    """Asks the heavy detectors about each anomaly.

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
        self._opinion = SecondOpinion(load_all(self._models), self._params.templates, self._params.fusion)
        metrics = runtime_context.get_metrics_group().add_group("driftwood")
        self._asked = metrics.counter("second_opinions_asked_total")
        self._given = metrics.counter("second_opinions_given_total")
        settle()

    def process_element(self, value: Row, ctx: ProcessFunction.Context) -> Iterator[Any]:
        """Give the second opinion on one anomaly, if there is one."""
        service, anomaly = value
        revisions = self._opinion.step([anomaly])
        self._asked.inc(1)
        self._given.inc(len(revisions))
        for revision in revisions:
            yield Row(service, revision)
            if self._has_deliveries:
                yield DELIVERIES, revision
