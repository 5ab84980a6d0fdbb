from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from pyflink.datastream import OutputTag

from models.batch import BatchParams
from models.parsing import Raw
from models.shard import ShardParams
from udfs.detect import TICK_MS, DetectFn
from udfs.tags import CATALOGUE, DELIVERIES, RANGES, REJECTS


class FakeMap:
    """A MapState that is a dict."""

    def __init__(self) -> None:
        self.data: dict[Any, bytes] = {}

    def put(self, key: Any, value: bytes) -> None:
        self.data[key] = value

    def remove(self, key: Any) -> None:
        del self.data[key]

    def clear(self) -> None:
        self.data.clear()

    def items(self) -> Any:
        return list(self.data.items())

    def values(self) -> Any:
        return list(self.data.values())


class FakeRuntime:
    """What open() asks for: state by name, and metrics that count."""

    def __init__(self) -> None:
        self.states: dict[str, FakeMap] = {}
        self.counts: dict[str, int] = {}

    def get_map_state(self, descriptor: Any) -> FakeMap:
        return self.states.setdefault(descriptor.name, FakeMap())

    def get_metrics_group(self) -> FakeRuntime:
        return self

    def add_group(self, name: str) -> FakeRuntime:
        return self

    def counter(self, name: str) -> Any:
        runtime = self

        class Counter:
            def inc(self, by: int) -> None:
                runtime.counts[name] = runtime.counts.get(name, 0) + by

        return Counter()


class FakeContext:
    """One key, and the timers that were set."""

    def __init__(self) -> None:
        self.timers: set[int] = set()

    def get_current_key(self) -> str:
        return "0"

    def timer_service(self) -> FakeContext:
        return self

    def register_processing_time_timer(self, at: int) -> None:
        self.timers.add(at)


def _packed(first: int, count: int) -> bytes:
    values = [
        orjson.dumps({"service": "cart", "level": "INFO", "message": f"added item {number} to cart"})
        for number in range(first, first + count)
    ]
    values[0] = b""
    raw = Raw(
        values=values,
        topic="logs",
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count, dtype=np.int64),
        timestamp_ms=np.full(count, 1_700_000_000_000, np.int64),
    )
    ((_, blob),) = BatchParams(shards=1).build().step(raw)
    return blob


def _open(runtime: FakeRuntime) -> DetectFn:
    function = DetectFn(ShardParams(), None, has_deliveries=True, has_ranges=True)
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


def test_one_timer_stands_at_the_next_full_tick_and_its_call_sets_the_next() -> None:
    context, function = FakeContext(), _open(FakeRuntime())
    list(function.process_element(_packed(0, 5), context))
    list(function.process_element(_packed(5, 5), context))
    assert len(context.timers) == 1
    assert context.timers.pop() % TICK_MS == 0
    list(function.on_timer(0, context))
    assert len(context.timers) == 1
