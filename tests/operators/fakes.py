"""What an operator sees of Flink, without Flink: state that is a dict, metrics that count, timers that are noted."""

from __future__ import annotations

from typing import Any


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
