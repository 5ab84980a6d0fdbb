"""The second opinion inside the job: a slot of its own, and revisions that the core gives as well."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import orjson
import pytest

from flink_jobs import job
from flink_jobs.settings import load
from models.artefact import save
from models.datasets import read_lines, to_batches
from models.evaluate import score_through_core
from models.second_opinion import SecondOpinion
from models.train import TrainParams, train
from tests.unit.shop_model import DETECTORS, QUICK_FIT, STEPS, record, shop

HEAVY = ("loggpt", "rapid")
ODD = ("the disk melted", "a fuse blew somewhere", "no route is left")


@pytest.fixture(scope="module")
def artefact():
    """Takes its normal lines for those of years, so that it tells of what is odd."""
    trained = train(to_batches(shop(120)), None, TrainParams(detectors=(*DETECTORS, *HEAVY), fit=QUICK_FIT))
    found = trained.artefacts["cart"]
    assert set(found.learned) == {*DETECTORS, *HEAVY}
    return replace(found, calibration=replace(found.calibration, days=1_000.0))


@pytest.fixture
def log(tmp_path):
    """Normal sessions, some with new lines in them, some in another order, and one that stops."""
    lines = list(shop(40, start=1_000))
    for number, odd in enumerate(ODD):
        lines += [
            record(1_200 + 20 * number + at, text, session=odd) for at, text in enumerate((*STEPS[:2], odd, *STEPS[2:]))
        ]
    for name, steps in {"order": (0, 1, 3, 2, 4, 5), "stops": (0, 1, 2)}.items():
        lines += [record(1_400 + at, STEPS[step], session=name) for at, step in enumerate(steps)]
    lines += shop(40, start=2_000)
    path = tmp_path / "shop.log"
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def test_heavy_detectors_answer_inside_the_job_by_odd_revisions_of_the_same_anomalies(artefact, log, tmp_path):
    save(artefact, tmp_path / "models")
    out = tmp_path / "anomalies.jsonl"
    command = ["evaluate", log, "--model", tmp_path / "models", "--through", "job", "--out", out]
    done = subprocess.run(
        [sys.executable, "-m", "flink_jobs.cli", *map(str, command)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the job needs 2" in done.stderr  # slots: its parallelism of one, and one more
    told = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    first = [anomaly for anomaly in told if anomaly["revision"] % 2 == 0]
    second = [anomaly for anomaly in told if anomaly["revision"] % 2]

    batching, shards = job.core_params(load())
    by_core = list(score_through_core(read_lines(log), {"cart": artefact}, batching, shards))
    assert [(a["source"]["offset"], a["revision"]) for a in by_core] == [
        (a["source"]["offset"], a["revision"]) for a in first
    ]
    assert {anomaly["message"] for anomaly in first} >= set(ODD)

    asked = SecondOpinion({"cart": artefact}, shards.templates, shards.fusion)
    expected = [orjson.loads(answer) for answer in asked.step([orjson.dumps(anomaly) for anomaly in first])]
    assert {(a["anomaly_id"], a["revision"]): a for a in second} == {
        (a["anomaly_id"], a["revision"]): a for a in expected
    }
    assert len(second) == len(expected) >= len(ODD)
    assert {anomaly["status"] for anomaly in second} <= {"strengthened", "refuted"}
    assert all(set(anomaly["detectors"]) & set(HEAVY) for anomaly in second)
