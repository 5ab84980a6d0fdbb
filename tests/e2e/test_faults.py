"""What the job must survive: a TaskManager, a Python worker, the broker, Redis and Loki lost in the middle of a log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from models.logql import LokiQuery
from models.training_buffer import RedisParams
from tests.e2e.shop_stream import Judged, Sender, Shop, ShopStream, Tail, open_shop
from udfs.clients.loki_reader import LokiReader
from udfs.clients.training_buffer import connect, read_sequences, read_services

#: The part of the log that is sent before the fault is prepared; the rest goes slowly, so that the fault meets it.
FIRST_RATIO = 0.4


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return open_shop(tmp_path_factory.mktemp("model"))


@pytest.fixture
def stream(flink_cluster, kafka_broker, new_topic, shop, caplog) -> Iterator[Callable[..., ShopStream]]:
    """Makes the topics of a test and the job between them; the job is gone afterwards, and the cluster whole."""
    # pytest keeps every record that is logged, and with those of kafka-python its sockets.
    caplog.set_level(logging.CRITICAL, logger="kafka")
    opened: list[ShopStream] = []

    def make(*sinks: str) -> ShopStream:
        opened.append(ShopStream(flink_cluster, kafka_broker, new_topic, shop.model, sinks))
        return opened[-1]

    yield make
    kafka_broker.start()
    for one in opened:
        one.cancel()
    while len(flink_cluster.taskmanagers) < flink_cluster.wanted:
        flink_cluster.start_taskmanager()


class Underway:
    """A job in the middle of the log: checkpoints are there, lines are being sent, some are not finished."""

    def __init__(self, stream: ShopStream, shop: Shop, per_s: int = 400) -> None:
        self.stream, self.rest = stream, stream.cluster.rest
        first = int(len(shop.messages) * FIRST_RATIO)
        stream.submit()
        stream.send(shop.messages[:first])
        self.rest.wait_for_checkpoints(stream.job)
        self.sender = Sender(stream, shop.messages[first:], per_s)
        self.sender.start()
        # Into the middle of an interval, so that there is something to do again.
        self.rest.wait_for_checkpoints(stream.job)
        time.sleep(1)
        self.checkpoints = self.rest.checkpoints(stream.job)
        assert self.checkpoints >= 1
        assert self.rest.exceptions(stream.job) == []
        self._sent_before = first + self.sender.sent
        assert not self.sender.is_done

    def assert_unfinished(self) -> None:
        """Lines that were with the broker at the fault are not scored, or not committed."""
        judged = Judged()
        for record in self.stream.committed(self.stream.verdicts):
            judged.add_account(record.value)
        assert 0 < len(judged.accounted) < self._sent_before

    def assert_restarted(self) -> None:
        """The job was restarted; the figure is some seconds old."""
        self.rest.until(lambda: self.rest.restarts(self.stream.job) >= 1, 60, "a restart of the job")

    def assert_some_was_done_again(self) -> None:
        """The work since the last checkpoint was written, taken back and written again."""
        written = Tail(self.stream.broker, self.stream.verdicts, "read_uncommitted").read(60)
        assert len(written) > len(self.stream.committed(self.stream.verdicts))

    def finish(self, shop: Shop) -> Judged:
        """Sends the rest, waits until every offset is accounted for, and gives what the job committed."""
        self.sender.finish()
        self.stream.wait_until_accounted(len(shop.messages))
        assert self.rest.checkpoints(self.stream.job) > self.checkpoints
        return self.stream.judged()


def assert_equal(judged: Judged, expected: Judged) -> None:
    """The same anomalies and accounts, each once; enough of them to mean something."""
    assert len(expected.anomalies) > 100
    assert {anomaly["kind"] for anomaly in expected.found.values()} == {"line", "end"}
    lost, added = (
        expected.anomalies.keys() - judged.anomalies.keys(),
        judged.anomalies.keys() - expected.anomalies.keys(),
    )
    assert (len(lost), len(added)) == (0, 0), [expected.found.get(i) or judged.found[i] for i, _ in [*lost, *added]][:3]
    assert judged.anomalies == expected.anomalies
    assert judged.scored == expected.scored
    assert judged.rejected == expected.rejected
    assert set(judged.accounted.values()) == {1}


def same(anomaly: dict[str, Any]) -> dict[str, Any]:
    """What of an anomaly depends on its record and the lines before it only; texts of templates may still generalise."""
    names = ("kind", "ts", "service", "host", "session", "level", "score", "template_id", "message", "model_version")
    context = [entry["template_id"] for entry in anomaly["context"]]
    expected = [(entry["template_id"], entry["probability"]) for entry in anomaly["expected"]]
    return {name: anomaly[name] for name in names} | {
        "source": anomaly["source"],
        "context": context,
        "expected": expected,
    }


def test_the_cluster_finds_what_the_core_finds(stream, shop):
    run = stream()
    run.submit()
    run.send(shop.messages)
    run.wait_until_accounted(len(shop.messages))
    judged, expected = run.judged(), run.by_core()
    assert_equal(judged, expected)
    assert len(expected.rejected) > 80
    assert len(expected.scored) == len(shop.messages) - len(expected.rejected)
    assert {i: same(found) for i, found in judged.found.items()} == {i: same(f) for i, f in expected.found.items()}
    assert len(run.committed(run.rejects)) == len(expected.rejected)
    assert run.cluster.rest.exceptions(run.job) == []


def test_a_killed_taskmanager_loses_and_doubles_nothing(stream, shop):
    run = stream()
    underway = Underway(run, shop)
    dead = run.cluster.kill_taskmanager(run.job)
    assert not dead.alive
    underway.assert_unfinished()
    judged = underway.finish(shop)
    underway.assert_restarted()
    assert any("taskmanager" in text.lower().replace(" ", "") for text in underway.rest.exceptions(run.job))
    assert_equal(judged, run.by_core())
    underway.assert_some_was_done_again()
    run.assert_no_orphans()


def test_a_killed_python_worker_loses_and_doubles_nothing(stream, shop):
    run = stream()
    underway = Underway(run, shop)
    run.cluster.python_workers()[0].kill()
    underway.assert_unfinished()
    judged = underway.finish(shop)
    underway.assert_restarted()
    assert_equal(judged, run.by_core())
    underway.assert_some_was_done_again()
    run.assert_no_orphans()


def test_a_broker_that_was_killed_and_came_back_loses_and_doubles_nothing(stream, shop, kafka_broker):
    run = stream()
    underway = Underway(run, shop)
    underway.assert_unfinished()
    kafka_broker.kill()
    time.sleep(5)
    assert not kafka_broker.alive
    kafka_broker.start()
    judged = underway.finish(shop)
    assert_equal(judged, run.by_core())
    run.assert_no_orphans()


def test_redis_and_loki_away_and_back_hold_the_job_up_and_lose_nothing(stream, shop, redis_server, loki_server):
    name = f"faults-{time.time_ns()}"
    buffer = f"redis://127.0.0.1:{redis_server.port}/0?prefix={name}&max_entries=1000000"
    run = stream(buffer, f"loki://127.0.0.1:{loki_server.port}?label.job={name}")
    underway = Underway(run, shop, per_s=150)
    underway.assert_unfinished()
    for server, seconds in ((redis_server, 10), (loki_server, 30)):
        server.kill()
        time.sleep(5)
        # What is not stored there is not done: the batch waits, and with it every checkpoint.
        held = underway.rest.checkpoints(run.job)
        time.sleep(seconds - 5)
        assert not server.alive
        assert underway.rest.checkpoints(run.job) == held
        assert not underway.sender.is_done
        server.start()
        underway.rest.wait_for_checkpoints(run.job)
    judged = underway.finish(shop)
    expected = run.by_core()
    assert_equal(judged, expected)
    run.assert_no_orphans()

    where = RedisParams.from_url(buffer)
    stored = Judged()
    with connect(where) as client:
        for service in read_services(client, where):
            for lines in read_sequences(client, where, service):
                stored.add_sequence(lines)
    assert stored.sequences == expected.sequences
    assert {(p, o) for lines in stored.sequences.values() for p, o, _ in lines} == set(expected.scored)

    times = [anomaly["ts"] * 1_000_000 for anomaly in expected.found.values()]
    query = LokiQuery(
        "127.0.0.1", f'{{job="{name}"}}', min(times) - 10**9, max(times) + 10**9, loki_server.port, limit=500
    )
    in_loki = [orjson.loads(record)["anomaly_id"] for record in LokiReader(query)]
    assert sorted(in_loki) == sorted(expected.found)
