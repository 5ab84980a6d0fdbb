"""The operator of alerts, opened and called as Flink would."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from pyflink.common import Row

from models.alerts.correlator import CorrelatorParams
from tests.unit.test_alerts_correlator import SECOND, T0, anomaly
from udfs.correlate import CorrelateFn
from udfs.one_key import under_one_key


class FakeState:
    """A MapState that is a dict."""

    def __init__(self, data: dict[str, bytes] | None = None) -> None:
        self.data = data or {}

    def items(self) -> Any:
        return sorted(self.data.items())

    def put(self, key: str, value: bytes) -> None:
        assert isinstance(value, bytes)
        self.data[key] = value

    def remove(self, key: str) -> None:
        self.data.pop(key, None)


class FakeFlink:
    """A keyed context with a clock and timers, and what open() asks for."""

    def __init__(self, state: FakeState) -> None:
        self.state = state
        self.now_ms = T0
        self.timers: set[int] = set()
        self.counts: dict[str, int] = {}
        self.gauges: dict[str, Any] = {}

    def get_map_state(self, descriptor: Any) -> FakeState:
        return self.state

    def get_metrics_group(self) -> FakeFlink:
        return self

    def add_group(self, name: str) -> FakeFlink:
        return self

    def counter(self, name: str) -> Any:
        flink = self

        class Counter:
            def inc(self, by: int) -> None:
                flink.counts[name] = flink.counts.get(name, 0) + by

        return Counter()

    def gauge(self, name: str, value: Any) -> None:
        self.gauges[name] = value

    def timer_service(self) -> FakeFlink:
        return self

    def current_processing_time(self) -> int:
        return self.now_ms

    def register_processing_time_timer(self, at_ms: int) -> None:
        assert at_ms > self.now_ms
        self.timers.add(at_ms)

    def pass_time(self, function: CorrelateFn, until_ms: int) -> list[Row]:
        """Fire the timers that fall due."""
        rows: list[Row] = []
        while self.timers and min(self.timers) <= until_ms:
            self.now_ms = min(self.timers)
            self.timers.remove(self.now_ms)
            rows += function.on_timer(self.now_ms, self)
        self.now_ms = until_ms
        return rows


def opened(flink: FakeFlink) -> CorrelateFn:
    function = CorrelateFn(CorrelatorParams())
    function.open(flink)
    return function


def test_anomalies_become_incidents_keyed_by_their_id_and_timers_tell_and_end_them() -> None:
    flink = FakeFlink(FakeState())
    function = opened(flink)
    rows = list(function.process_element(under_one_key(Row(b"cart", anomaly(1)))[1], flink))
    assert [row[0] for row in rows] == [orjson.loads(row[1])["incident_id"].encode() for row in rows]
    assert flink.gauges["incidents_open"]() == 1
    told = [orjson.loads(row[1]) for row in flink.pass_time(function, T0 + 12 * SECOND)]
    assert [row["message"]["kind"] for row in told] == ["opened"]
    over = [orjson.loads(row[1]) for row in flink.pass_time(function, T0 + 20 * 60 * SECOND)]
    assert [(row["state"], row["message"]["kind"]) for row in over] == [("resolved", "resolved")]
    assert flink.counts == {
        "incidents_opened_total": 1,
        "incident_messages_total": 2,
        "incidents_evicted_total": 0,
    }
    flink.pass_time(function, T0 + 4 * 3600 * SECOND)
    assert not flink.timers, "nothing ticks where there is no incident"
    assert set(flink.state.data) <= {"clock"} | {name for name in flink.state.data if name[:2] in ("g:", "a:")}


@pytest.mark.parametrize("cut", [1, 7, 14])
def test_an_operator_that_is_made_anew_at_any_moment_gives_the_same(cut: int) -> None:
    def run(is_cut: bool) -> list[bytes]:
        flink = FakeFlink(FakeState())
        function = opened(flink)
        out: list[Row] = []
        for n in range(15):
            if is_cut and n == cut:
                # Flink restores timers with the state.
                flink.state = FakeState(dict(flink.state.data))
                function = opened(flink)
            out += function.process_element(anomaly(n, f"s{n % 4}", f"t{n % 6}", ts=T0 + n * 9 * SECOND), flink)
            out += flink.pass_time(function, flink.now_ms + 3_500)
        out += flink.pass_time(function, flink.now_ms + 20 * 60 * SECOND)
        return [row[1] for row in out]

    assert run(is_cut=True) == run(is_cut=False)


def test_elements_and_restarts_add_no_second_series_of_ticks() -> None:
    flink = FakeFlink(FakeState())
    for n in range(5):
        function = opened(flink)
        flink.now_ms += 130
        list(function.process_element(anomaly(n), flink))
    assert len(flink.timers) == 1
