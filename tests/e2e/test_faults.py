"""What the job must survive: a TaskManager, a Python worker, the broker, Redis and Loki lost in the middle of a log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable

import orjson

from models.logql import LokiQuery
from tests.e2e.shop_stream import Judged, Sender, Shop, ShopStream, Tail, assert_equal, stored_sequences
from udfs.clients.loki_reader import LokiReader

#: The part of the log that is sent before the fault is prepared; the rest goes slowly, so that the fault meets it.
FIRST_RATIO = 0.4


class Underway:
    """A job in the middle of the log: checkpoints are there, and lines are being sent."""

    def __init__(self, stream: ShopStream, shop: Shop, per_s: int = 200) -> None:
        self.stream, self.rest = stream, stream.cluster.rest
        self._sent_first = int(len(shop.messages) * FIRST_RATIO)
        stream.submit()
        stream.send(shop.messages[: self._sent_first])
        self.rest.wait_for_checkpoints(stream.job)
        self.sender = Sender(stream, shop.messages[self._sent_first :], per_s)
        self.sender.start()

    def strike(self, fault: Callable[[], object]) -> None:
        """Lets the fault meet work that is begun and not committed."""
        self.checkpoints = self.rest.checkpoints(self.stream.job)
        assert self.checkpoints >= 1
        assert self.rest.exceptions(self.stream.job) == []
        self.stream.wait_for_open_work()
        self._sent_before = self._sent_first + self.sender.sent
        fault()
        assert not self.sender.is_done

    def assert_unfinished(self) -> None:
        """Lines that were with the broker at the fault are not scored, or not committed."""
        assert 0 < len(self.stream.accounted()) < self._sent_before

    def is_held_up(self, since_s: float, for_s: float) -> bool:
        """Whether a checkpoint that is under way could not be done in the last `for_s`, all of them after `since_s` (of the clock)."""
        began_s = self.rest.checkpoint_began_s(self.stream.job)
        return began_s is not None and time.time() - max(began_s, since_s) > for_s

    def assert_restarted(self, because: str = "") -> None:
        """The job was restarted, for a failure whose text matches `because`; what Flink tells of it is some seconds old."""
        reason = re.compile(because, re.IGNORECASE)
        rest, job = self.rest, self.stream.job
        rest.until(lambda: rest.restarts(job) >= 1, 60, "a restart of the job")
        rest.until(lambda: any(map(reason.search, rest.exceptions(job))), 60, f"a failure with {because!r}")

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


def test_the_cluster_finds_what_the_core_finds(stream, shop):
    run = stream()
    run.submit()
    run.send(shop.messages)
    run.wait_until_accounted(len(shop.messages))
    judged, expected = run.judged(), run.by_core()
    assert_equal(judged, expected)
    assert len(expected.rejected) > 80
    assert len(expected.scored) == len(shop.messages) - len(expected.rejected)
    assert len(run.committed(run.rejects)) == len(expected.rejected)
    assert run.cluster.rest.exceptions(run.job) == []


def test_a_killed_taskmanager_loses_and_doubles_nothing(stream, shop):
    run = stream()
    underway = Underway(run, shop)
    victim = run.cluster.taskmanager_of(
        run.job
    )  # asked first: between the look at open work and the fault there is no time
    underway.strike(lambda: run.cluster.kill_taskmanager(victim))
    assert len(run.cluster.taskmanagers) < run.cluster.wanted
    underway.assert_unfinished()
    judged = underway.finish(shop)
    underway.assert_restarted(because="task ?manager")
    assert_equal(judged, run.by_core())
    underway.assert_some_was_done_again()
    run.assert_no_orphans()


def test_a_killed_python_worker_loses_and_doubles_nothing(stream, shop):
    run = stream()
    underway = Underway(run, shop)
    worker = run.cluster.python_workers()[0]
    underway.strike(worker.kill)
    underway.assert_unfinished()
    judged = underway.finish(shop)
    underway.assert_restarted()
    assert_equal(judged, run.by_core())
    underway.assert_some_was_done_again()
    run.assert_no_orphans()


def test_a_broker_that_was_killed_and_came_back_loses_and_doubles_nothing(stream, shop, kafka_broker):
    run = stream()
    underway = Underway(run, shop)
    underway.strike(kafka_broker.kill)
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
    underway = Underway(run, shop, per_s=100)
    for server, away_s in ((redis_server, 10), (loki_server, 30)):
        try:
            underway.strike(server.kill)
            killed = time.time()
            # What is not stored there is not done: the batch waits, and with it the checkpoint. Flink's answers are half a second old.
            underway.rest.until(lambda since=killed: underway.is_held_up(since, for_s=8), 40, "a checkpoint that waits")
            held = underway.rest.checkpoints(run.job)
            time.sleep(max(3.0, killed + away_s - time.time()))
            assert not server.alive
            assert underway.rest.checkpoints(run.job) == held
            assert not underway.sender.is_done
        finally:
            server.start()
        underway.rest.wait_for_checkpoints(run.job)
    judged = underway.finish(shop)
    expected = run.by_core()
    assert_equal(judged, expected)
    run.assert_no_orphans()

    stored = stored_sequences(buffer)
    assert stored == expected.sequences
    assert {(p, o) for lines in stored.values() for p, o, _ in lines} == set(expected.scored)

    times = [anomaly["ts"] * 1_000_000 for anomaly in expected.found.values()]
    query = LokiQuery(
        "127.0.0.1", f'{{job="{name}"}}', min(times) - 10**9, max(times) + 10**9, loki_server.port, limit=500
    )
    in_loki = [orjson.loads(record)["anomaly_id"] for record in LokiReader(query)]
    assert sorted(in_loki) == sorted(expected.found)
