"""Studies, and the trial of single detectors they rest on; the planted faults at a small size with the quick detectors."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from typer.testing import CliRunner

from flink_jobs.cli import app
from models import studies
from models.calibrating import calibrate
from models.datasets import DataSet
from models.detectors.loggpt import LogGPTParams
from models.detectors.ngram import NgramParams
from models.errors import DataSetError, SettingsError
from models.sample.planted import FAULTS, PlantedParams, learning_lines, watched_lines
from models.shard import ShardParams
from models.studies import STUDIES, Subject, contamination, planted, study
from models.train import TrainParams
from models.trial import Heard, Stage, hear, learn, units_of
from tests.unit.shop_model import STEPS
from tests.unit.test_evaluate import write_shop

SMALL = PlantedParams(learning=1_600)
QUICK = ("novelty", "ngram", "count", "frequency", "workflow")


# -- planted faults ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    rows = planted(Subject(None, TrainParams(detectors=QUICK), ShardParams()), SMALL)
    return {row["fault"]: {name: row[name] for name in QUICK} for row in rows}


@pytest.mark.parametrize("name", ["ngram", "count", "frequency", "workflow"])
def test_each_of_these_detectors_sees_a_fault_that_the_others_miss(table, name):
    assert table[name][name] >= 0.9
    assert all(share <= 0.05 for other, share in table[name].items() if other != name)


def test_a_new_line_is_seen_by_all_that_look_at_the_line_itself_and_normal_sessions_by_none(table):
    assert {name for name, share in table["novelty"].items() if share >= 0.9} >= {"novelty", "ngram", "count"}
    assert max(table["normal"].values()) <= 0.01


def test_what_others_are_made_for_these_miss(table):
    for fault in ("deeplog-value", "text"):
        assert max(table[fault].values()) <= 0.05


@pytest.fixture(scope="module")
def learned_until():
    return max(json.loads(line)["@timestamp"] for line in learning_lines(SMALL))


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_log_is_the_same_for_a_seed_and_later_than_what_was_learned(fault, learned_until):
    once, places = watched_lines(SMALL, fault)
    lines = list(once)
    again, _ = watched_lines(SMALL, fault)
    assert lines == list(again)
    assert len(places) == (1 if fault == "frequency" else SMALL.faulty)
    times = [json.loads(line)["@timestamp"] for line in lines]
    assert times == sorted(times)
    assert times[0] > learned_until


# -- trials ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    write_shop(folder, {410: "order", 417: "new", 424: "stops"})
    return Stage.of(DataSet.open(folder), TrainParams(), ShardParams(), say=lambda line: None)


def test_a_detector_is_heard_on_every_line_that_the_job_would_show_it(stage):
    (own,) = stage.lessons.values()
    (seen,) = stage.seen.values()
    steps = sum(map(len, seen))
    assert len(own.corpus) == 400 * len(STEPS)
    assert steps == len(own.corpus) + 40 * len(STEPS) - (len(STEPS) - 2)  # one of the forty stops after two
    unit = np.concatenate([units_of(stage.dataset, batch, "cart")[0] for batch in seen])
    assert np.bincount(unit[unit >= 0]).tolist() == [2 if number == 24 else len(STEPS) for number in range(40)]


def test_the_evidence_of_a_unit_is_the_highest_of_its_lines_and_ends(stage):
    kind = NgramParams()
    learned, refused = learn(stage, kind)
    assert refused == {}
    heard = hear(stage, kind, learned)
    assert np.flatnonzero(heard.is_anomalous).tolist() == [10, 17, 24]
    assert set(np.argsort(-heard.rank)[:3].tolist()) == {10, 17, 24}
    assert heard.figures() == {"auc": 1.0, "pr_auc": 1.0, "best_f1": 1.0}
    normal = calibrate(stage.lessons["cart"], {"ngram": kind}, learned, 0)
    assert heard.rank.max() == pytest.approx(normal.line["ngram"].evidence(np.array([1e9])).max(), abs=1.5)


def test_units_of_equal_evidence_are_ordered_by_score_and_figures_exist_only_for_both_kinds_of_units():
    heard = Heard(np.array([True, False, False]), np.array([2 + 2e-7, 2 + 1e-7, 0.0]))
    assert heard.figures()["auc"] == 1.0
    assert Heard(np.zeros(3, np.bool_), np.arange(3.0)).figures()["auc"] is None


def test_a_service_with_too_little_is_left_out_with_the_reason(stage):
    learned, refused = learn(stage, NgramParams(min_lines=10**9))
    assert learned == {}
    assert "1000000000" in refused["cart"]


# -- the studies themselves --------------------------------------------------------------------------------------------


def test_contamination_moves_anomalous_sessions_into_the_training_and_out_of_the_test(tmp_path):
    kinds = ("order", "new", "stops")
    write_shop(tmp_path, {number: kinds[number % 3] for number in range(400, 440) if number % 4 < 3})
    data = DataSet.open(tmp_path)
    rows = contamination(Subject(data, TrainParams(detectors=("novelty", "ngram", "count")), ShardParams()))
    assert [row["draw"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert row["polluted"] == 20  # one in twenty of 400
        assert row["anomalous_left"] == 30 - 20
        assert row["change"] == pytest.approx(row["f1_polluted"] - row["f1_clean"], abs=1e-4)
        assert row["low"] <= row["change"] <= row["high"]
    few = replace(data, units=tuple(unit for unit in data.units if not unit.is_anomalous))
    with pytest.raises(DataSetError, match="at most four fifths"):
        contamination(Subject(few, TrainParams(), ShardParams()))
    with pytest.raises(DataSetError, match="train_sessions"):
        contamination(Subject(replace(data, train_sessions=None, train_until_ms=1), TrainParams(), ShardParams()))


def test_a_study_says_what_it_is_and_of_which_data(stage, monkeypatch):
    small = partial(LogGPTParams, width=16, heads=2, layers=1, min_steps=30, max_steps=30, refine_steps=3)
    monkeypatch.setattr(studies, "LogGPTParams", lambda **changed: small(**changed))
    subject = Subject(stage.dataset, TrainParams(), ShardParams())
    found = study("loggpt", subject)
    assert (found["study"], found["dataset"], found["data_sha256"]) == ("loggpt", "shop", stage.dataset.sha256())
    assert [(row["seed"], row["refinement"]) for row in found["rows"]] == [
        (seed, when) for seed in range(3) for when in ("before", "after")
    ]
    assert all(row["anomalous_outside"] >= row["normal_outside"] for row in found["rows"])


@pytest.mark.parametrize("name", ["loggpt", "texts", "contamination"])
def test_a_study_of_a_data_set_without_labels_or_without_any_is_refused(name, stage):
    unlabelled = replace(stage.dataset, units=())
    for dataset in (None, unlabelled):
        with pytest.raises(DataSetError, match="needs a data set with labels and a training part"):
            STUDIES[name](Subject(dataset, TrainParams(), ShardParams()))


def test_the_command_refuses_a_study_that_there_is_not_and_nothing_to_evaluate():
    found = CliRunner().invoke(app, ["evaluate", "--study", "everything"])
    assert isinstance(found.exception, SettingsError)
    assert "loggpt, texts, contamination, planted" in str(found.exception)
    assert isinstance(CliRunner().invoke(app, ["evaluate"]).exception, DataSetError)
