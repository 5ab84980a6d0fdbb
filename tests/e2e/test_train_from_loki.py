"""`driftwood train loki://…`: a model of lines that are in a real Loki."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import orjson
import pytest
import urllib3
from typer.testing import CliRunner

from flink_jobs.cli import app
from models.artefact import load_all
from models.errors import DataSetError, SettingsError

LINES = 600


def push(url: str, job: str, first_ns: int) -> None:
    """A service whose requests all go the same way, in two streams, many lines to a nanosecond."""
    steps = [
        "request received",
        "stock looked up for sku {}",
        "payment of {} cents taken",
        "order {} stored",
        "reply sent in {} ms",
    ]
    streams: dict[str, list[Any]] = {"web-1": [], "web-2": []}
    for n in range(LINES):
        pod = "web-1" if n // 5 % 2 else "web-2"
        line = steps[n % 5].format(n * 7 % 997)
        streams[pod].append([str(first_ns + n // 20 * 10**9), f"{line}", {"trace_id": f"{n // 5:032x}"}])
    body = {
        "streams": [
            {"stream": {"job": job, "service_name": "shop", "pod": pod}, "values": values}
            for pod, values in streams.items()
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


def train(address: str, out: Path, *options: str) -> dict[str, Any]:
    done = CliRunner().invoke(
        app, ["train", address, "--out", str(out), "--device", "cpu", "--epochs", "2", "--json", *options]
    )
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    return found


def test_a_model_is_trained_on_a_range_of_loki_page_by_page(loki_url: str, tmp_path: Path):
    job = f"train-{time.time_ns()}"
    push(loki_url, job, time.time_ns() - 300 * 10**9)
    address = f"{loki_url.replace('http://', 'loki://')}?query=%7Bjob%3D%22{job}%22%7D&since=10m&limit=37"
    outcome = train(address, tmp_path / "models")
    assert (outcome["lines"], outcome["rejected"]) == (LINES, 0)
    (artefact,) = load_all(tmp_path / "models").values()
    assert artefact.service == "shop"
    assert outcome["models"]["shop"]["metrics"]["templates"] == 5


def test_an_empty_range_a_wrong_address_and_a_wrong_query_are_told(loki_url: str, tmp_path: Path):
    address = loki_url.replace("http://", "loki://")
    with pytest.raises(DataSetError):
        train(f"{address}?query=%7Bjob%3D%22nothing-here%22%7D&since=10m", tmp_path)
    with pytest.raises(DataSetError, match="parse error"):
        train(f"{address}?query=%7Bjob%3D%7D&since=10m", tmp_path)
    with pytest.raises(SettingsError, match="query"):
        train(f"{address}?since=10m", tmp_path)
    with pytest.raises(DataSetError, match="Check that Loki is up"):
        train("loki://127.0.0.1:9?query=%7Bjob%3D%22x%22%7D&since=10m&max_tries=1&deadline_s=2", tmp_path)
