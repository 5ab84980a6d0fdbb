"""The bench of the detectors: its lines, and ways of voting that take turns on the same batches."""

from __future__ import annotations

import gc
import json
from itertools import islice

import numpy as np
import pytest
from typer.testing import CliRunner

from flink_jobs.bench import detectors as bench
from flink_jobs.cli import app
from models.datasets import to_batches
from models.train import TrainParams, train
from tests.unit.shop_model import DETECTORS, QUICK_FIT, shop, shop_model


def test_many_templates_come_from_worlds_that_share_each_batch():
    lines = list(bench.bench_world(960, 9_000))
    params = TrainParams(detectors=("novelty",))
    artefact = train(to_batches(lines), None, params, default=True).artefacts["default"]
    assert 0.85 * 960 <= artefact.metrics["templates"] <= 960
    records = [json.loads(line) for line in lines]
    assert len({record["request_id"] for record in records}) > 100
    times = [record["@timestamp"] for record in records]
    assert times == sorted(times)
    first, other = ({record["message"].split()[0] for record in records[world::3]} for world in range(2))
    assert "Accepted" in first
    assert not first & other


def test_one_world_is_the_lines_of_the_other_parts():
    records = [json.loads(line) for line in islice(bench.bench_world(320, 2_000), 500)]
    assert len({record["service"] for record in records}) == 5
    assert any(record["message"].startswith("Accepted ") for record in records)


def test_ways_of_voting_take_turns_and_only_the_one_with_heavy_detectors_asks_for_a_second_opinion():
    heavy = TrainParams(detectors=(*DETECTORS, "semantic"), fit=QUICK_FIT)
    artefact = train(to_batches(shop(120)), None, heavy).artefacts["cart"]
    batches, parse_us = bench._packed(shop(60, start=1_000))
    assert parse_us > 0
    lanes = [
        bench._Lane.of("deeplog", shop_model(), ("deeplog",), batches),
        bench._Lane.of("cheap", artefact, DETECTORS, batches),
        bench._Lane.of("all", artefact, (*DETECTORS, "semantic"), batches),
    ]
    shorter = bench._Lane.of("shorter", artefact, DETECTORS, batches * 2)
    assert [lane.second is not None for lane in lanes] == [False, False, True]
    cost = bench.take_turns(lanes)
    assert list(cost) == ["deeplog", "cheap", "all"]
    assert all(len(lane.seconds) == len(batches) and cost[lane.name] > 0 for lane in lanes)
    assert lanes[1].told == lanes[2].told
    assert bench.take_turns([bench._Lane.of("longer", artefact, DETECTORS, batches * 3), shorter]).keys() == {
        "longer",
        "shorter",
    }
    assert len(shorter.seconds) == 2 * len(batches)
    assert gc.get_freeze_count() == 0


def test_the_cost_is_that_of_the_median_batch_after_the_warm_up():
    batches, _ = bench._packed(shop(60))
    lane = bench._Lane.of("deeplog", shop_model(), ("deeplog",), batches * 6)
    lane.seconds = [len(lines) * us / 1e6 for lines, us in zip(lane.batches, (99, 99, 5, 1, 3, 99), strict=True)]
    assert lane.us_a_line() == pytest.approx(np.median([5, 1, 3, 99]))


def test_the_part_runs_without_broker_or_cluster(monkeypatch):
    monkeypatch.setattr("flink_jobs.bench.scenarios.detector_figures", lambda *_: {"cost": {"100": {"cheap": 1.5}}})
    found = CliRunner().invoke(app, ["bench", "--only", "detectors"])
    assert found.exit_code == 0
    assert "cost 100 cheap" in found.output
    assert "1.500" in found.output
