"""Layers, and the servers that the upper layers talk to; each server starts once, on first use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from flink_jobs.runtime.broker import Broker
    from flink_jobs.runtime.cluster import Cluster
    from flink_jobs.runtime.redis import RedisServer

LAYERS = ("unit", "operators", "engine", "e2e")
HERE = Path(__file__).parent


def layer_of(item: pytest.Item) -> str:
    """The layer a test belongs to: its folder under tests/."""
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--every-layer", action="store_true", help="fail if one of the named folders holds no test")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    found = {layer_of(item) for item in items}
    for item in items:
        if layer_of(item) in {"engine", "e2e"}:
            item.add_marker(layer_of(item))
    if config.getoption("--every-layer"):
        asked = [layer for layer in LAYERS if any(Path(arg).name == layer for arg in config.args)]
        empty = [layer for layer in asked if layer not in found]
        if empty:
            raise pytest.UsageError(f"no tests in {', '.join(f'tests/{layer}' for layer in empty)}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    result = yield
    if nextitem is not None and item.session.testsfailed and layer_of(item) != layer_of(nextitem):
        # The upper layers take minutes and would fail for the same reason.
        item.session.shouldstop = f"tests/{layer_of(item)} failed; the layers above it were not started"
    return result


def missing(service: str, reason: str) -> NoReturn:
    """Skips a test whose server cannot be had here; on CI that is a failure, because nobody would notice."""
    message = f"{service} is missing: {reason}"
    if os.environ.get("CI", "").lower() in {"1", "true"}:
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


@pytest.fixture(scope="session")
def logs_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the servers keep their files; pytest keeps the last three runs, so a failure can be looked into."""
    return tmp_path_factory.mktemp("servers")


@pytest.fixture(scope="session")
def kafka_broker(logs_folder: Path) -> Iterator[Broker]:
    """A real Kafka broker. A test that kills it starts it again."""
    from flink_jobs.runtime.broker import Broker

    with Broker(logs_folder / "kafka") as broker:
        yield broker


@pytest.fixture(scope="session")
def redis_server(logs_folder: Path) -> Iterator[RedisServer]:
    """A real redis-server. A test that kills it starts it again."""
    from flink_jobs.runtime.redis import RedisServer

    with RedisServer(logs_folder / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def loki_url(request: pytest.FixtureRequest) -> str:
    """The address of a real Loki: LOKI_URL, or one of our own."""
    named = os.environ.get("LOKI_URL")
    return named.rstrip("/") if named else request.getfixturevalue("loki_server").url


@pytest.fixture(scope="session")
def loki_server(logs_folder: Path) -> Iterator[object]:
    """A real Loki of our own, which a test may kill and start again."""
    from flink_jobs.runtime import loki

    binary = loki.loki_binary()
    if binary is None or not os.access(binary, os.X_OK):
        missing("Loki", loki.MISSING if binary is None else f"{binary} cannot be run (LOKI_BIN)")
    with loki.LokiServer(logs_folder / "loki", binary) as server:
        yield server


@pytest.fixture(scope="session")
def flink_cluster(logs_folder: Path) -> Iterator[Cluster]:
    """A standalone cluster with a spare TaskManager, so that a job goes on when one is killed."""
    from flink_jobs.runtime.cluster import Cluster

    quick = {
        # A fault is noticed and answered in seconds; the loaded machine of a test run still keeps these times.
        "heartbeat.interval": "1 s",
        "heartbeat.timeout": "10 s",
        "restart-strategy.exponential-delay.initial-backoff": "200 ms",
        "restart-strategy.exponential-delay.max-backoff": "5 s",
    }
    with Cluster(logs_folder / "flink", taskmanagers=2, slots=2, overrides=quick) as cluster:
        yield cluster
