"""The training buffer in a real redis-server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from flink_jobs.runtime.redis import RedisServer
from models.delivery import RetryParams
from models.errors import SinkError
from models.training_buffer import RedisParams, SequenceBatch
from udfs.clients.training_buffer import TrainingBuffer, connect, read_sequences, read_services, read_templates

pytestmark = pytest.mark.e2e

QUICK = RetryParams(base_s=0.2, cap_s=1, max_tries=100, deadline_s=30, timeout_s=5)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as started:
        yield started


def params(server: RedisServer, prefix: str, **settings: Any) -> RedisParams:
    return RedisParams("127.0.0.1", server.port, **{"prefix": prefix, "retry": QUICK} | settings)


def batch(first: int, last: int, services: int = 2) -> bytes:
    """Offsets first..last of partition 0, dealt to the services in turn."""
    offset = np.arange(first, last + 1)
    return SequenceBatch.of(
        services=[f"s{n}" for n in range(services)],
        topics=["logs"],
        service=(offset % services).astype(np.int32),
        topic=np.zeros(len(offset), np.int32),
        partition=np.zeros(len(offset), np.int32),
        offset=offset,
        template_ids=(offset % 7).astype(np.uint32),
        sessions=(offset // 10).astype(np.uint64),
        ts_ms=1_700_000_000_000 + offset,
        templates=[(f"s{n}", 7, f"took <*> ms in s{n}") for n in range(services)],
    ).to_bytes()


def offsets(where: RedisParams, service: str) -> list[int]:
    with connect(where) as client:
        return [int(o) for sequence in read_sequences(client, where, service) for o in sequence.offsets]


def sink(where: RedisParams) -> TrainingBuffer:
    return TrainingBuffer(where)


def test_sequences_and_template_texts_come_back_by_service(server: RedisServer):
    where = params(server, "plain")
    buffer = sink(where)
    buffer.deliver(batch(0, 99))
    buffer.deliver(batch(100, 149))
    assert buffer.sent == 150
    buffer.close()
    with connect(where) as client:
        assert read_services(client, where) == ["s0", "s1"]
        assert read_templates(client, where, "s1") == {7: "took <*> ms in s1"}
        sequences = list(read_sequences(client, where, "s1"))
        entry = client.xrange("plain:sequences:s1")[0][1]
    assert [(s.partition, s.first_offset, s.last_offset) for s in sequences] == [(0, 1, 99), (0, 101, 149)]
    assert sequences[0].template_ids.tolist() == [n % 7 for n in range(1, 100, 2)]
    assert (entry[b"first"], entry[b"last"], entry[b"lines"]) == (b"1", b"99", b"50")


def test_a_replay_with_other_cuts_doubles_nothing(server: RedisServer):
    where = params(server, "replay")
    for first, last in ((0, 99), (100, 149), (50, 120), (121, 199)):
        buffer = sink(where)
        buffer.deliver(batch(first, last))
        buffer.close()
    assert offsets(where, "s0") == list(range(0, 200, 2))


def test_a_stream_keeps_about_its_newest_entries(server: RedisServer):
    where = params(server, "capped", max_entries=50)
    buffer = sink(where)
    for n in range(400):
        buffer.deliver(batch(10 * n, 10 * n + 9))
    buffer.close()
    with connect(where) as client:
        # "About": Redis drops whole nodes of its tree, of 100 entries each.
        assert 50 <= client.xlen("capped:sequences:s0") <= 150
    assert offsets(where, "s0")[-1] == 3998


def test_services_over_the_cap_are_left_out_also_after_a_restart(server: RedisServer):
    where = params(server, "few", max_services=2)
    for _ in range(2):
        buffer = sink(where)
        buffer.deliver(batch(0, 99, services=4))
        assert (buffer.sent, buffer.refused) == (50, 50)
        buffer.deliver(batch(0, 99, services=2))
        buffer.close()
    with connect(where) as client:
        assert read_services(client, where) == ["s0", "s1"]
        assert read_templates(client, where, "s3") == {}


def test_redis_away_for_three_seconds_and_back_loses_and_doubles_nothing(server: RedisServer):
    where = params(server, "away")
    buffer = sink(where)
    buffer.deliver(batch(0, 99))
    server.kill()
    threading.Timer(3, server.start).start()
    buffer.deliver(batch(100, 199))
    assert buffer.retried > 1
    buffer.close()
    assert offsets(where, "s1") == list(range(1, 200, 2))


def test_a_redis_that_came_back_empty_is_filled_again(server: RedisServer):
    where = params(server, "empty")
    buffer = sink(where)
    buffer.deliver(batch(0, 99))
    with connect(where) as client:
        client.delete(*client.keys("empty:*"))
        client.client_kill_filter(_type="normal", skipme=True)  # as a restart does
    buffer.deliver(batch(100, 199))
    buffer.close()
    with connect(where) as client:
        assert read_services(client, where) == ["s0", "s1"]
    assert offsets(where, "s0") == list(range(100, 200, 2))


def test_wrong_credentials_fail_at_once_and_name_the_setting(server: RedisServer):
    with connect(params(server, "x")) as client:
        client.acl_setuser("reader", enabled=True, passwords=["+pw"], keys="*", commands=["+smembers"])
    for user, password in (("reader", "wrong"), ("reader", "pw")):  # the second may not write
        buffer = sink(params(server, "acl", user=user, password=password))
        with pytest.raises(SinkError, match="user and password"):
            buffer.deliver(batch(0, 9))
        assert buffer.retried == 0
        buffer.close()


def test_a_redis_out_of_memory_is_waited_for_and_then_fails_the_job(server: RedisServer):
    where = params(server, "full", retry=RetryParams(base_s=0.01, cap_s=0.02, max_tries=3, deadline_s=5))
    with connect(where) as client:
        client.config_set("maxmemory", "1")
        try:
            buffer = sink(where)
            with pytest.raises(SinkError, match="memory"):
                buffer.deliver(batch(0, 9))
            assert buffer.retried == 3
            buffer.close()
        finally:
            client.config_set("maxmemory", "0")


def test_a_key_of_another_program_is_told(server: RedisServer):
    where = params(server, "foreign")
    with connect(where) as client:
        client.set("foreign:sequences:s0", "mine")
    buffer = sink(where)
    with pytest.raises(SinkError, match="prefix"):
        buffer.deliver(batch(0, 9))
    buffer.close()
