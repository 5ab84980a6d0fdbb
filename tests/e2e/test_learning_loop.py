"""A service that nobody trained: the job fills the buffer, the trainer makes a model of it, and the running job takes it over and goes live."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import orjson

from models.store import Store
from tests.e2e.shop_stream import ShopStream, Tail

#: A log of minutes: with a budget of a few alerts a day next to nothing could be told in it.
BUDGET = "10000"


def _statuses(run: ShopStream, service: str) -> list[dict[str, Any]]:
    """What the job has said of a service, in order."""
    records = Tail(run.broker, run.status, "read_uncommitted").read(timeout_s=60)
    return [orjson.loads(record.value) for record in records if record.key == service.encode()]


def test_a_service_learns_by_itself_is_in_shadow_and_goes_live(
    stream, shop, kafka_broker, redis_server, new_topic, tmp_path
) -> None:
    control = f"kafka://{kafka_broker.bootstrap}/{new_topic('control')}"
    buffer = f"redis://127.0.0.1:{redis_server.port}/0?prefix=loop-{time.time_ns()}"
    store = tmp_path / "store"
    run = stream(buffer, has_model=False, control=control, store=str(store), shadow_lines="300", budget_per_day=BUDGET)
    run.submit(1)
    normal, rest = shop.messages[: shop.learning], shop.messages[shop.learning :]
    service = max({name for name, _ in normal}, key=lambda name: sum(one == name for one, _ in normal))
    run.send(normal)
    run.wait_until_accounted(len(normal))
    assert not run.committed(run.anomalies)

    trained = subprocess.run(
        [
            *(sys.executable, "-m", "flink_jobs.cli", "trainer", "--once", "--service", service),
            *("--redis", buffer, "--store", str(store), "--control", control),
            *(
                "--set",
                f"budget_per_day={BUDGET}",
                "--min-lines",
                "400",
                "--min-sessions",
                "50",
                "--min-minutes",
                "1",
                "--epochs",
                "20",
            ),
        ],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert trained.returncode == 0, trained.stderr[-3000:]
    (version,) = Store.open(str(store)).versions(service)

    run.cluster.rest.until(
        lambda: _statuses(run, service)[-1]["model_version"] == version.version, 60, "the new model in the job"
    )
    said = _statuses(run, service)
    assert {one["mode"] for one in said if one["model_version"] is None} == {"learning"}
    assert said[-1]["mode"] == "shadow"
    run.send(rest)
    run.wait_until_accounted(len(shop.messages))
    told = [orjson.loads(record.value) for record in run.committed(run.anomalies)]
    assert told
    assert {one["service"] for one in told} == {service}
    assert {one["model_version"] for one in told} == {version.version}
    modes = [one["mode"] for one in sorted(told, key=lambda one: one["source"]["kafka_ts"])]
    assert modes[-1] == "live"
    assert modes == sorted(modes, reverse=True), "first in shadow, then live"
    run.cluster.rest.until(lambda: _statuses(run, service)[-1]["mode"] == "live", 60, "the status of a live service")
    assert set(run.accounted().values()) == {1}
