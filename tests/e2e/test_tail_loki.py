"""`driftwood tail-loki` between a real Loki and a real broker, killed in the middle."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import urllib3

from flink_jobs.runtime.broker import Broker
from flink_jobs.settings import KafkaAddress
from flink_jobs.tail_loki.topic import TailTopic
from models.errors import SettingsError, SinkError
from models.loki_tail import Line, TailPage
from models.parsing import LEVELS, ParseParams, Raw, parse

ROOT = Path(__file__).parents[2]


def push(url: str, job: str, entries: list[tuple[int, str, str]]) -> None:
    """Writes (ns, service, line) to Loki."""
    streams: dict[str, list[Any]] = {}
    for time_ns, service, line in entries:
        streams.setdefault(service, []).append([str(time_ns), line, {"trace_id": f"t{time_ns % 7}"}])
    body = {
        "streams": [
            {"stream": {"job": job, "service_name": s, "level": "warn"}, "values": v} for s, v in streams.items()
        ]
    }
    answer = urllib3.request(
        "POST",
        f"{url}/loki/api/v1/push",
        body=orjson.dumps(body),
        headers={"Content-Type": "application/json"},
        retries=False,
    )
    assert answer.status == 204, answer.data


def tail(url: str, job: str, broker: Broker, topic: str, *options: str) -> list[str]:
    source = url.replace("http://", "loki://") + "?since=10m&limit=40"
    return [
        *(sys.executable, "-m", "flink_jobs.cli", "tail-loki", "--from", source, "--query", f'{{job="{job}"}}'),
        *("--to", f"kafka://{broker.bootstrap}/{topic}", "--poll", "0.2", "--sweep", "2", "--overlap", "20", *options),
    ]


def test_a_tail_that_is_killed_again_and_again_leaves_no_gap_and_no_double(
    kafka_broker: Broker, loki_url: str, new_topic: Callable[..., str], read: Callable[..., list[bytes]], tmp_path: Path
):
    job, topic = f"tail-{time.time_ns()}", new_topic("tailed", partitions=2)
    rng = random.Random(7)
    sent: list[tuple[int, str, str]] = []
    is_over = threading.Event()

    def write() -> None:
        """Five batches a second: many lines of one nanosecond, some late by up to 8 s, some written twice."""
        while not is_over.is_set():
            now = time.time_ns()
            batch = [
                (now, rng.choice(["cart", "stock"]), f"line {len(sent) + n} took {n} ms")
                for n in range(rng.randint(1, 20))
            ]
            batch += [(now - rng.randint(1, 8) * 10**9, "cart", f"late {len(sent)}")] if rng.random() < 0.3 else []
            push(loki_url, job, [*batch, *batch[:3]])
            sent.extend(batch)
            time.sleep(0.2)

    writer = threading.Thread(target=write)
    writer.start()
    log = (tmp_path / "tail.log").open("wb")
    try:
        for _ in range(3):
            before = len(read(topic))
            process = subprocess.Popen(tail(loki_url, job, kafka_broker, topic), cwd=ROOT, stdout=log, stderr=log)
            try:
                deadline = time.monotonic() + 120
                while len(read(topic)) < before + 40:
                    assert process.poll() is None, (tmp_path / "tail.log").read_text()
                    assert time.monotonic() < deadline
                time.sleep(rng.random())
            finally:
                process.send_signal(signal.SIGKILL)
                process.wait()
    finally:
        is_over.set()
        writer.join()
        log.close()
    time.sleep(1)
    done = subprocess.run(
        tail(loki_url, job, kafka_broker, topic, "--once", "--json"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(value) for value in read(topic)]
    given = Counter((int(r["timeUnixNano"]), r["service_name"], r["message"]) for r in found)
    assert len(set(sent)) > 200
    assert len(set(sent) - given.keys()) == 0
    assert given == Counter(set(sent))
    assert 0 < json.loads(done.stdout)["lines"] < len(set(sent))

    # What the job makes of such records.
    values = read(topic)[:50]
    records, rejects = parse(_raw_of(values), ParseParams())
    assert not rejects
    assert set(records.service) <= {"cart", "stock"}
    assert {LEVELS[level] for level in records.level} == {"WARN"}
    assert set(records.session) <= {f"t{n}" for n in range(7)}


def _raw_of(values: list[bytes]) -> Raw:
    size = len(values)
    return Raw(values, "logs", np.zeros(size, np.int32), np.arange(size, dtype=np.int64), np.ones(size, np.int64))


def test_a_second_tail_of_the_same_name_shuts_the_first_out(
    kafka_broker: Broker, new_topic: Callable[..., str], read: Callable[..., list[bytes]]
):
    topic = new_topic("fenced")
    address = KafkaAddress.parse(f"kafka://{kafka_broker.bootstrap}/{topic}")
    page = TailPage([Line(b"cart", b"one")], 0, b"note", [])
    with TailTopic(address, f"{topic}-cursor", "n", {}) as first:
        first.commit(page)
        with TailTopic(address, f"{topic}-cursor", "n", {}) as second:
            assert second.notes() == [(0, b"note")]
            with pytest.raises(SinkError, match="another tail-loki"):
                first.commit(TailPage([Line(b"cart", b"lost")], 1, b"note", []))
            second.commit(TailPage([Line(b"cart", b"two")], 1, b"newer", [0]))
            assert second.notes() == [(1, b"newer")]
    assert read(topic, at_least=2) == [b"one", b"two"]


def test_a_cursor_topic_that_forgets_is_refused(kafka_broker: Broker, new_topic: Callable[..., str]):
    topic, cursor = new_topic("lines"), new_topic("cursor")
    address = KafkaAddress.parse(f"kafka://{kafka_broker.bootstrap}/{topic}")
    with pytest.raises(SettingsError, match="compact"):
        TailTopic(address, cursor, "n", {})
    with pytest.raises(SettingsError, match="--create"):
        TailTopic(KafkaAddress.parse(f"kafka://{kafka_broker.bootstrap}/nowhere"), "nowhere-cursor", "n", {})


def test_it_ends_in_order_when_it_is_told_to(
    kafka_broker: Broker,
    loki_url: str,
    new_topic: Callable[..., str],
    read: Callable[..., list[bytes]],
    tmp_path: Path,
):
    job, topic = f"stop-{time.time_ns()}", new_topic("stopped")
    push(loki_url, job, [(time.time_ns(), "cart", "hello")])
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            tail(loki_url, job, kafka_broker, topic), cwd=ROOT, stdout=subprocess.PIPE, stderr=log
        )
        deadline = time.monotonic() + 120
        while b"following" not in (tmp_path / "log").read_bytes() and time.monotonic() < deadline:
            time.sleep(0.2)
        while not read(topic) and time.monotonic() < deadline:
            assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert out.startswith(b"stopped: 1 lines given")
