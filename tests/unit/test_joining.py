"""A shard that joins stack traces: their lines are one line to it, whatever the cut, and each is accounted for."""

from __future__ import annotations

import dataclasses

import numpy as np
import orjson
import pytest

from models.batch import BatchParams
from models.datasets import to_batches
from models.packing import unpack
from models.shard import ShardParams
from models.templates import TemplateParams
from models.traces import TraceParams
from models.training_set import LineCollector
from tests.unit.shard_cases import raw

PARAMS = ShardParams(traces=TraceParams())
TRACE = (
    "checkout of order 17 failed",
    "java.lang.IllegalStateException: no stock left",
    "\tat shop.Cart.add(Cart.java:42)",
    "\tat shop.Checkout.run(Checkout.java:17)",
    "Caused by: java.io.IOException: connection reset",
    "\tat shop.Net.read(Net.java:9)",
)


def _values() -> list[bytes]:
    """Lines of two hosts in turns, one of which prints a trace three times."""
    lines = []
    for at in range(60):
        place = at % 20
        text = TRACE[place - 4] if 4 <= place < 4 + len(TRACE) else f"served request {at} in {at % 7} ms"
        level = {"level": "ERROR"} if place == 4 else {} if 4 < place < 4 + len(TRACE) else {"level": "INFO"}
        for host, said in (("a", text), ("b", f"polled queue {at}")):
            lines.append(
                orjson.dumps(
                    {
                        "@timestamp": 1_700_000_000_000 + at * 20,
                        "service": "cart",
                        "host": host,
                        "message": said,
                        **level,
                    }
                )
            )
    return lines


def _texts(size: int, *, is_restored: bool = False, params: ShardParams = PARAMS) -> tuple[list[str], int]:
    """The templates after all lines in batches of a size, and how many offsets were accounted for."""
    values, shard, entries, journal, accounted = _values(), params.build({}), {}, [], 0
    for first in range(0, len(values), size):
        if is_restored:
            shard = params.build({}, entries.values(), journal)
        for _, blob in BatchParams(shards=1).build().step(raw(values[first : first + size], first)):
            step = shard.step(unpack(blob))
            entries.update(step.writes.entries)
            journal = [step.writes.journal] if step.writes.is_snapshot else [*journal, step.writes.journal]
            accounted += sum(b - a + 1 for part in orjson.loads(step.ranges)["accounts"] for a, b in part["scored"])
    return sorted(shard.templates.template(seq) for seq in range(len(shard.templates))), accounted


@pytest.mark.parametrize(("size", "is_restored"), [(1, False), (7, False), (7, True), (500, False)])
def test_only_the_head_of_a_trace_makes_a_template_and_every_line_is_accounted_for(
    size: int, is_restored: bool
) -> None:
    texts, accounted = _texts(size, is_restored=is_restored)
    assert texts == ["checkout of order <num> failed", "polled queue <num>", "served request <num> in <num> ms"]
    assert accounted == len(_values())


def test_a_shard_that_joins_nothing_makes_templates_of_frames() -> None:
    texts, _ = _texts(500, params=dataclasses.replace(PARAMS, traces=None))
    assert any("shop.Cart" in text for text in texts)


def test_training_leaves_out_the_same_lines() -> None:
    collector = LineCollector(BatchParams(shards=1), TemplateParams(), 1_000, traces=TraceParams())
    for batch in to_batches(_values()):
        collector.add(batch)
    assert collector.count == len(_values()) - 3 * (len(TRACE) - 1)
    assert len(np.unique(np.concatenate([part.seq for part in collector.parts]))) == 3
