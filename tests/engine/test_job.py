"""The whole graph on Flink's mini-cluster: one run, many asserts."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from flink_jobs import job
from flink_jobs.settings import load
from models.artefact import Artefact, save
from models.datasets import read_lines, to_batches
from models.evaluate import score_through_core
from models.fitting import FitParams
from models.sample.shop import ShopParams, generate
from models.train import TrainParams, train

SAMPLE = ShopParams(requests=600, seed=3)
#: Networks and detectors without and with state, of sessions and of services.
DETECTORS = ("deeplog", "novelty", "ngram", "count", "frequency", "workflow")


@pytest.fixture(scope="module")
def lines() -> tuple[list[bytes], list[bytes]]:
    """The normal part of a small shop sample, and the rest with two lines that are no records."""
    sample = list(generate(SAMPLE))
    watched = [line.value for line in sample if not line.is_learning]
    return [line.value for line in sample if line.is_learning], [*watched[:50], b"", b"[1, 2, 3]", *watched[50:]]


@pytest.fixture(scope="module")
def model(lines: tuple[list[bytes], list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Artefact]:
    """A hastily trained model that takes its normal lines for those of years: it is to tell of many lines, not the right ones."""
    fit = FitParams(hidden=16, epochs=1, min_steps=200, max_steps=200, learning_rate=2e-2)
    trained = train(to_batches(lines[0]), None, TrainParams(detectors=DETECTORS, fit=fit), default=True)
    artefact = trained.artefacts["default"]
    assert set(artefact.learned) == set(DETECTORS)
    strict = replace(artefact, calibration=replace(artefact.calibration, days=1_000.0))
    folder = tmp_path_factory.mktemp("models")
    save(strict, folder)
    return folder, strict


def _essence(anomalies: Iterable[Mapping[str, Any]]) -> dict[tuple[int, int, str], dict[str, Any]]:
    """What must be equal however the lines travelled; the topic's name, and so the id, is not: of it, the line that it names."""
    anomalies = list(anomalies)
    first = {a["anomaly_id"]: a["source"]["offset"] for a in anomalies if not a["revision"]}
    found = {
        (a["source"]["offset"], a["source"]["index"], a["kind"]): {
            name: value for name, value in a.items() if name not in ("anomaly_id", "source", "ts")
        }
        | {"first": first[a["anomaly_id"]]}
        for a in anomalies
    }
    assert len(found) == len(anomalies)
    return found


def _driftwood(*arguments: object) -> str:
    """What a command prints; PyFlink runs in that process and not in pytest's, where its open pipes would count as leaks."""
    done = subprocess.run(
        [sys.executable, "-m", "flink_jobs.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_job_finds_exactly_what_the_core_finds(lines, model, tmp_path) -> None:
    folder, artefact = model
    batching, shards = job.core_params(load())
    log, out = tmp_path / "shop.log", tmp_path / "anomalies.jsonl"
    log.write_bytes(b"\n".join(lines[1]) + b"\n")
    by_core = _essence(score_through_core(read_lines(log), {"default": artefact}, batching, shards))
    _driftwood("evaluate", log, "--model", folder, "--through", "job", "--out", out)
    by_job = _essence(orjson.loads(line) for line in out.read_bytes().splitlines())
    assert len(by_core) > 30
    assert {kind for _, _, kind in by_core} >= {"line", "end"}
    assert any(anomaly["revision"] for anomaly in by_core.values())
    assert by_job == by_core


def test_the_packing_function_is_called_once_a_row_and_every_operator_has_a_name(kafka_broker, model) -> None:
    kafka_broker.create_topic("plan")
    source, sink = f"kafka://{kafka_broker.bootstrap}/plan", f"kafka://{kafka_broker.bootstrap}/plan-anomalies"
    plan = json.loads(_driftwood("run", "--source", source, "--sink", sink, "--model", model[0], "--print-plan"))
    packing = [node for node in plan["nodes"] if "pack_lines" in node["contents"]]
    assert len(packing) == 1
    assert packing[0]["contents"].count("pack_lines(") == 1
    names = {node["type"] for node in plan["nodes"]}
    assert "detect" in names
    assert not {"KEYED PROCESS", "PROCESS"} & names
