from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from pyflink.datastream import OutputTag

from models.artefact import save
from models.batch import BatchParams
from models.fusion import FusionParams
from models.parsing import Raw
from models.shard import ShardParams
from tests.operators.fakes import FakeContext, FakeRuntime
from tests.unit.shop_model import STEPS, record, shop_model
from udfs.detect import TICK_MS, DetectFn
from udfs.tags import CATALOGUE, DELIVERIES, RANGES, REJECTS


def _packed(first: int, count: int) -> bytes:
    values = [
        orjson.dumps({"service": "cart", "level": "INFO", "message": f"added item {number} to cart"})
        for number in range(first, first + count)
    ]
    values[0] = b""
    return _blob(values, first)


def _blob(values: list[bytes], first: int) -> bytes:
    """Lines from an offset on, as one packed batch."""
    count = len(values)
    raw = Raw(
        values=values,
        topic="logs",
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count, dtype=np.int64),
        timestamp_ms=np.full(count, 1_704_100_000_000, np.int64),
    )
    ((_, blob),) = BatchParams(shards=1).build().step(raw)
    return blob


def _open(runtime: FakeRuntime, models: Path | None = None) -> DetectFn:
    params = ShardParams(fusion=FusionParams(budget_per_day=10_000))
    function = DetectFn(params, None if models is None else str(models), has_deliveries=True, has_ranges=True)
    function.open(runtime)
    return function


def _by_tag(outputs: list[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for output in outputs:
        tag, value = output if isinstance(output, tuple) and isinstance(output[0], OutputTag) else (None, output)
        found.setdefault(tag.tag_id if tag else "main", []).append(value)
    return found


def test_a_batch_gives_rejects_catalogue_and_ranges_and_is_counted() -> None:
    runtime = FakeRuntime()
    outputs = _by_tag(list(_open(runtime).process_element(_packed(0, 5), FakeContext())))
    assert [orjson.loads(row[1])["reason"] for row in outputs[REJECTS.tag_id]] == ["empty"]
    assert len(outputs[CATALOGUE.tag_id]) == 1
    assert orjson.loads(outputs[RANGES.tag_id][0][1])["accounts"][0]["scored"] == [[1, 4]]
    assert DELIVERIES.tag_id not in outputs
    assert (runtime.counts["lines_total"], runtime.counts["rejects_total"]) == (4, 1)


@pytest.mark.parametrize("drops", [False, True])
def test_a_restart_and_a_dropped_cache_go_on_from_the_state(drops: bool) -> None:
    runtime = FakeRuntime()
    function = _open(runtime)
    list(function.process_element(_packed(0, 5), FakeContext()))
    before = dict(runtime.states["templates"].data)
    if drops:
        function._shards.clear()
    else:
        function = _open(runtime)
    outputs = _by_tag(list(function.process_element(_packed(5, 5), FakeContext())))
    assert CATALOGUE.tag_id not in outputs  # the template is known already
    assert runtime.states["templates"].data == before
    assert sorted(runtime.states["journal"].data) == [0, 1]


def _watched() -> list[bytes]:
    """A session that does as it should; one that goes wrong more and more; and one that stops, with time going on."""
    odd = ("the disk melted", "a fuse blew somewhere", "no route is left", "watchdog bit twice today")
    lines = [record(100 + at, text, session="good") for at, text in enumerate(STEPS)]
    lines += [record(110 + at, text, session="bad") for at, text in enumerate((STEPS[0], *odd, *odd))]
    lines += [record(130 + at, text, session="stops") for at, text in enumerate(STEPS[:2])]
    return [*lines, *(record(200 + at, text, session="later") for at, text in enumerate(STEPS))]


def _anomalies(folder: Path, size: int, *, drops: bool = False, restarts: bool = False, ticks: bool = False) -> Any:
    """What is told of the lines in batches of `size`, with the cache dropped, the operator restarted or ticks between them."""
    runtime, context = FakeRuntime(), FakeContext()
    function, told, delivered = _open(runtime, folder), [], []
    values = _watched()
    for first in range(0, len(values), size):
        if drops:
            function._shards.clear()
        if restarts:
            function = _open(runtime, folder)
        if ticks:
            list(function.on_timer(0, context))
        outputs = _by_tag(list(function.process_element(_blob(values[first : first + size], first), context)))
        told += [(row[0], row[1]) for row in outputs.get("main", [])]
        delivered += [line for batch in outputs.get(DELIVERIES.tag_id, []) for line in batch.split(b"\n")]
    assert delivered == [anomaly for _, anomaly in told]
    assert runtime.counts["anomalies_total"] == len(told)
    assert runtime.counts["scored_total"] == len(values)
    return sorted(told)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save(shop_model(), folder)
    return folder


def test_anomalies_go_out_by_service_and_as_one_delivery_a_batch(models: Path) -> None:
    told = _anomalies(models, 100)
    assert {service for service, _ in told} == {b"cart"}
    found = [orjson.loads(anomaly) for _, anomaly in told]
    assert {anomaly["session"] for anomaly in found} == {"bad", "stops"}
    assert {anomaly["kind"] for anomaly in found} == {"line", "end"}
    assert max(anomaly["revision"] for anomaly in found) > 0


@pytest.mark.parametrize("how", ["drops", "restarts", "ticks"])
def test_neither_a_dropped_cache_nor_a_restart_nor_a_tick_changes_an_anomaly(models: Path, how: str) -> None:
    assert _anomalies(models, 3, **{how: True}) == _anomalies(models, 100)


def test_one_timer_stands_at_the_next_full_tick_and_its_call_sets_the_next() -> None:
    context, function = FakeContext(), _open(FakeRuntime())
    list(function.process_element(_packed(0, 5), context))
    list(function.process_element(_packed(5, 5), context))
    assert len(context.timers) == 1
    assert context.timers.pop() % TICK_MS == 0
    list(function.on_timer(0, context))
    assert len(context.timers) == 1
