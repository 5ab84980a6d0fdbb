"""The trainer against a real Redis and broker: it publishes one model, whatever kills it on the way; one trainer a service; roll back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
import pytest

from models.control import SetModel, SetShares, read_command
from models.store import Store
from models.training_buffer import RedisParams
from tests.unit.buffer_cases import sequence_batches
from tests.unit.shop_model import shop
from udfs.clients.training_buffer import TrainingBuffer, connect

if TYPE_CHECKING:
    from flink_jobs.runtime.broker import Broker
    from flink_jobs.runtime.redis import RedisServer

ROOT = Path(__file__).parents[2]
SESSIONS = 120
POINTS = (
    "while training",
    "before the intent",
    "before the store",
    "halfway through the store",
    "between store and topic",
    "after the topic",
    "after the record",
)


@dataclass
class Place:
    """One test's Redis prefix, store and control topic."""

    server: RedisServer
    broker: Broker
    prefix: str
    store: Path
    topic: str
    read: Callable[..., list[bytes]]

    @property
    def redis(self) -> RedisParams:
        return RedisParams("127.0.0.1", self.server.port, prefix=self.prefix)

    def fill(self, first: int = 0, sessions: int = SESSIONS) -> None:
        """Let the job's core read some sessions of the shop from a topic of their own, and put what it sends into the buffer."""
        buffer = TrainingBuffer(self.redis)
        for batch in sequence_batches(shop(sessions, first), topic=f"logs-{first}"):
            buffer.deliver(batch.to_bytes())
        buffer.close()

    def start(self, *options: str, point: str = "") -> subprocess.Popen[bytes]:
        """`driftwood trainer` with detectors that learn in a moment."""
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.e2e.trainer_driver", point, "trainer"),
                *("--redis", f"redis://127.0.0.1:{self.server.port}/0?prefix={self.prefix}"),
                *("--store", str(self.store), "--control", f"kafka://{self.broker.bootstrap}/{self.topic}"),
                *("--min-lines", "500", "--detectors", "novelty,ngram,count", "--device", "cpu", *options),
            ],
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, *options: str, point: str = "") -> tuple[int, str]:
        """Its exit status and all that it said."""
        with self.start(*options, point=point) as process:
            try:
                said, _ = process.communicate(timeout=240)
            finally:
                process.kill()
        return process.returncode, said.decode()

    def announced(self) -> list[SetModel]:
        """The models that the control topic announces; beside them it has nothing but the shares of the budget."""
        commands = [read_command(value) for value in self.read(self.topic)]
        assert all(isinstance(command, SetModel | SetShares) for command in commands)
        return [command for command in commands if isinstance(command, SetModel)]

    def fields(self) -> dict[str, str]:
        with connect(self.redis) as client:
            found = client.hgetall(f"{self.prefix}:trainer:cart")
        return {name.decode(): value.decode() for name, value in found.items()}

    def free_lock(self) -> None:
        """What its expiry does a minute after a trainer was killed."""
        with connect(self.redis) as client:
            assert 0 < client.pttl(f"{self.prefix}:trainer-lock:cart") <= 60_000
            client.delete(f"{self.prefix}:trainer-lock:cart")


@pytest.fixture
def place(
    redis_server: RedisServer,
    kafka_broker: Broker,
    new_topic: Callable[..., str],
    read: Callable[..., list[bytes]],
    tmp_path: Path,
) -> Place:
    topic = new_topic("control")
    return Place(redis_server, kafka_broker, f"trainer-{topic}", tmp_path / "models", topic, read)


@pytest.mark.parametrize("point", POINTS)
def test_a_trainer_killed_at_any_point_leaves_nothing_half_done_and_the_next_one_announces_one_model(
    place: Place, point: str
):
    place.fill()
    status, said = place.run("--once", point=point)
    assert status == -signal.SIGKILL, said
    store = Store.open(str(place.store))
    for left in store.versions("cart"):
        store.load("cart", left.version)
    place.free_lock()
    status, said = place.run("--once")
    assert status == 0, said
    (command,) = place.announced()
    assert (command.service, command.by) == ("cart", "trainer")
    assert store.load("cart", command.model_version).training["lines"] == SESSIONS * 6
    assert [one.version for one in store.versions("cart")] == [command.model_version]
    assert [path.name for path in (place.store / "cart").iterdir()] == [command.model_version]
    assert (place.fields()["publishing"], place.fields()["version"]) == ("", command.model_version)


def test_a_service_is_trained_asked_again_rolled_back_and_listed(place: Place):
    status, said = place.run("--once")
    assert status == 0
    place.fill(sessions=40)
    status, said = place.run("--once")
    assert "240 normal lines are in the buffer; 500 are needed" in said
    assert place.fields()["state"] == "waiting"
    assert place.announced() == []

    place.fill(3_600)
    status, said = place.run("--once")
    assert (status, place.fields()["state"]) == (0, "published"), said
    first = place.announced()[-1].model_version
    gate = orjson.loads(place.fields()["gate"])
    assert [one["criterion"] for one in gate] == ["held-out alarms", "withheld"]
    assert all(one["is_passed"] for one in gate)

    status, said = place.run("--now", "cart")
    assert (status, len(place.announced())) == (0, 1)
    assert "the same lines make the same model" in said

    place.fill(7_200)
    status, said = place.run("--now", "cart")
    assert status == 0, said
    second = place.announced()[-1].model_version
    assert second != first
    gate = orjson.loads(place.fields()["gate"])
    assert [one["criterion"] for one in gate] == [
        "held-out alarms",
        "withheld",
        "against the present model",
        "known anomalies",
    ]

    status, said = place.run("--roll-back", "cart")
    assert (status, place.announced()[-1].model_version) == (0, first), said
    listed = orjson.loads(place.run("--list", "--json")[1])
    assert [(one["version"], one["is_announced"]) for one in listed] == [(second, False), (first, True)]
    status, said = place.run("--roll-back", "cart")
    assert status == 2
    assert "is the oldest version" in said
    status, said = place.run("--roll-back", "cart", "--to", second)
    assert (status, place.announced()[-1].model_version) == (0, second), said
    versions = [command.version for command in place.announced()]
    assert versions == sorted(set(versions))
    with connect(place.redis) as client:
        runs = [orjson.loads(run) for run in client.lrange(f"{place.prefix}:trainings:cart", 0, -1)]
    assert [run["state"] for run in runs] == ["published", "unchanged", "published"]


def test_a_second_trainer_leaves_the_service_to_the_first_and_a_lost_lock_publishes_nothing(place: Place):
    place.fill()
    with connect(place.redis) as client:
        key = f"{place.prefix}:trainer-lock:cart"
        client.set(key, "another", px=600_000)
        assert "busy" in place.run("--once")[1]
        assert client.get(key) == b"another"
        client.delete(key)
        first = place.start("--once", "--detectors", "deeplog", "--epochs", "2000")
        try:
            deadline = time.monotonic() + 60
            while place.fields().get("step") is None:
                assert time.monotonic() < deadline
                assert first.poll() is None, first.communicate()[0].decode()
                time.sleep(0.02)
            assert client.exists(key)
            client.set(key, "another", px=600_000)
            said, _ = first.communicate(timeout=240)
        finally:
            first.kill()
            first.wait()
        assert b"nothing was published" in said
        assert (place.announced(), Store.open(str(place.store)).versions("cart")) == ([], [])
        assert client.get(key) == b"another"
