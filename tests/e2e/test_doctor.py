"""`driftwood doctor` at real servers: what is well is called so, and each part taken away is named."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import typer
from kafka import KafkaConsumer, KafkaProducer
from typer.testing import CliRunner

from flink_jobs.commands.doctor import command
from flink_jobs.runtime.broker import Broker
from flink_jobs.runtime.loki import LokiServer
from flink_jobs.runtime.redis import RedisServer
from tests.e2e.shop_stream import Shop, ShopStream


def checks_of(arguments: list[str]) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The exit status, and the checks by the first word of their name."""
    app = typer.Typer()
    app.command()(command)
    done = CliRunner().invoke(app, ["--json", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    found: dict[str, list[dict[str, Any]]] = {}
    for check in json.loads(done.stdout)["checks"]:
        found.setdefault(check["name"].split()[0], []).append(check)
    return done.exit_code, found


@pytest.fixture
def echo(kafka_broker: Broker) -> Iterable[Callable[[str, str], None]]:
    """In place of a job: commits what it has read of a topic, and writes a dead letter for each canary."""
    is_over = threading.Event()
    threads: list[threading.Thread] = []

    def start(source: str, rejects: str) -> None:
        def work() -> None:
            producer = KafkaProducer(bootstrap_servers=kafka_broker.bootstrap)
            consumer = KafkaConsumer(
                source, bootstrap_servers=kafka_broker.bootstrap, group_id=source, auto_offset_reset="earliest"
            )
            while not is_over.is_set():
                for records in consumer.poll(timeout_ms=200).values():
                    for record in records:
                        if record.value.startswith(b'["driftwood-canary"'):
                            place = {"topic": record.topic, "partition": record.partition, "offset": record.offset}
                            letter = {**place, "reason": "not_a_record", "value": record.value.decode()}
                            producer.send(rejects, json.dumps(letter).encode())
                    producer.flush()
                    consumer.commit()
            consumer.close()
            producer.close()

        threads.append(threading.Thread(target=work))
        threads[-1].start()

    yield start
    is_over.set()
    for thread in threads:
        thread.join()


def test_each_part_is_asked_and_judged_by_what_it_says(
    kafka_broker: Broker,
    redis_server: RedisServer,
    loki_server: LokiServer,
    new_topic: Callable[..., str],
    send: Callable[[str, Iterable[bytes]], None],
    echo: Callable[[str, str], None],
):
    logs, anomalies, rejects = (new_topic(name) for name in ("logs", "anomalies", "rejected"))
    templates, status = new_topic("templates", cleanup_policy="compact"), new_topic("status")
    now_ms = int(time.time() * 1000)
    send(logs, [b"x"] * 500)
    send(
        rejects,
        [
            json.dumps({"topic": logs, "partition": 0, "offset": 480 + n, "reason": "no_text"}).encode()
            for n in range(20)
        ],
    )
    learning = {
        "service": "cart",
        "mode": "learning",
        "mode_since_ms": now_ms - 10**8,
        "why": "waits for 400 lines",
        "at_ms": now_ms,
    }
    send(status, [json.dumps(learning).encode()])
    options = f"rejects={rejects}&templates={templates}&status={status}"
    arguments = [
        *("--source", f"kafka://{kafka_broker.bootstrap}/{logs}?group={logs}"),
        *("--sink", f"kafka://{kafka_broker.bootstrap}/{anomalies}?{options}"),
        *("--sink", redis_server.url, "--sink", f"loki://127.0.0.1:{loki_server.port}"),
        *("--flink", "", "--write", "--canary"),
    ]
    exit_status, found = checks_of([*arguments, "--canary-timeout", "1"])
    assert "lag" in found, found["kafka"]
    assert (exit_status, found["lag"][0]["verdict"], found["canary"][0]["verdict"]) == (1, "fail", "fail")

    echo(logs, rejects)
    exit_status, found = checks_of(arguments)
    assert exit_status == 1
    topics = {check["name"].split()[1]: check["verdict"] for check in found["topic"]}
    assert topics == {logs: "ok", anomalies: "ok", rejects: "ok", templates: "ok", status: "fail"}
    assert "cleanup.policy=compact" in next(c for c in found["topic"] if c["verdict"] == "fail")["next"]
    assert found["canary"][0]["verdict"] == "ok"
    assert found["loki"][0]["verdict"] == "ok"
    assert found["clocks"][0]["verdict"] == "ok"
    assert (found["learning"][0]["verdict"], "waits for 400 lines" in found["learning"][0]["what"]) == ("warn", True)
    exit_status, found = checks_of(arguments)
    assert found["lag"][0]["verdict"] == "ok"
    assert found["dead"][0]["verdict"] == "warn"
    assert "20 of the newest 50" in found["dead"][0]["what"]


def doctor(run: ShopStream, *options: str) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    """The checks of a job's deployment."""
    arguments = ["--flink", run.cluster.rest.url, "--model", str(run.settings.model)]
    for name in ("source", "sink"):
        for address in getattr(run.settings, name):
            arguments += [f"--{name}", address]
    return checks_of([*arguments, "--set", f"job_name={run.settings.job_name}", *options])


def test_a_deployment_that_is_well_is_called_so_and_each_part_taken_away_is_named(
    stream: Callable[..., ShopStream], shop: Shop, redis_server: RedisServer, loki_server: LokiServer
):
    run = stream(
        f"redis://127.0.0.1:{redis_server.port}/0?prefix=doctor-{time.time_ns()}",
        f"loki://127.0.0.1:{loki_server.port}?label.job=doctor",
    )
    run.submit()
    run.send(shop.messages[:4_000])
    run.wait_until_accounted(4_000)
    run.cluster.rest.wait_for_checkpoints(run.job, 2)  # the offsets are committed after a checkpoint, not with it
    status, found = doctor(run, "--write", "--canary")
    failed = [check for checks in found.values() for check in checks if check["verdict"] == "fail"]
    assert (status, failed) == (0, [])
    for name in ("models", "kafka", "lag", "dead", "flink", "job", "checkpoints", "redis", "loki", "canary"):
        assert found[name][0]["verdict"] == "ok", found[name]
    # The canary's own letter is no complaint: the share is that of the log's bad records.
    assert "of the newest 4,00" in found["dead"][0]["what"]

    loki_server.kill()
    try:
        status, found = doctor(run)
        assert status == 1
        assert found["loki"][0]["verdict"] == "fail"
    finally:
        loki_server.start()
    run.cluster.rest.cancel(run.job)
    status, found = doctor(run, "--canary", "--canary-timeout", "3")
    assert status == 1
    assert found["job"][0]["verdict"] == "fail"
    assert found["canary"][0]["verdict"] == "fail"
    assert "does not run" in found["canary"][0]["next"]
