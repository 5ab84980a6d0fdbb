"""Evaluation: the whole way from a data set through the core to a report."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import zstandard

from models.batch import BatchParams
from models.datasets import DataSet
from models.errors import DataSetError
from models.evaluate import Passage, evaluate, log_lines, opinions_of, score_through_core
from models.fusion import FusionParams
from models.parsing import ParseParams
from models.shard import ShardParams
from models.train import train_dataset
from tests.unit.shop_model import DETECTORS, QUICK, STEPS

SHARDS = ShardParams(fusion=FusionParams(budget_per_day=10_000))


def anomaly(ts=0, session=None, offset=0, score=0.9):
    return {"ts": ts, "session": session, "score": score, "detectors": {"deeplog": score}, "source": {"offset": offset}}


def write_shop(folder, broken):
    """Sessions of one workflow; from number 400 on, the broken ones go wrong in the way named."""
    lines, labels = [], ["session,label"]
    for number in range(440):
        steps = list(STEPS)
        how = broken.get(number)
        if how == "order":
            steps[2], steps[3] = steps[3], steps[2]
        elif how == "new":
            steps[3] = "the disk melted"
        elif how == "stops":
            steps = steps[:2]
        if number >= 400:
            labels.append(f"s{number},{int(how is not None)}")
        for at, text in enumerate(steps):
            time = f"2024-01-01T{number // 60:02}:{number % 60:02}:{at:02}Z"
            lines.append({"time": time, "service": "cart", "session": f"s{number}", "level": "INFO", "message": text})
    (folder / "logs.jsonl.zst").write_bytes(zstandard.compress("\n".join(map(json.dumps, lines)).encode()))
    (folder / "labels.csv").write_text("\n".join(labels))
    about = {"name": "shop", "unit": "session", "train_sessions": [f"s{n}" for n in range(400)]}
    (folder / "dataset.json").write_text(json.dumps(about))
    return len(lines)


@pytest.mark.parametrize("is_level_hidden", [False, True])
def test_faults_of_order_novelty_and_silence_are_found_through_the_core(tmp_path, is_level_hidden):
    count = write_shop(tmp_path, {410: "order", 417: "new", 424: "stops"})
    data = DataSet.open(tmp_path)
    models = train_dataset(data, None, QUICK).artefacts
    versions = {name: artefact.version for name, artefact in models.items()}
    kept, told, opinions = [], [], opinions_of(models, SHARDS)
    report = evaluate(
        data,
        lambda lines: score_through_core(
            lines, models, BatchParams(), SHARDS, lambda *at: told.append(at), opinions=opinions
        ),
        opinions=opinions,
        is_level_hidden=is_level_hidden,
        keep=kept.append,
        versions=versions,
    )
    assert {found["session"] for found in kept} == {"s410", "s417", "s424"}
    assert (report["fused"]["precision"], report["fused"]["recall"], report["fused"]["auc"]) == (1.0, 1.0, 1.0)
    assert set(report["detectors"]) == set(report["ablation"]) == set(DETECTORS)
    assert report["detectors"]["novelty"]["recall"] in (0, round(1 / 3, 5))  # it can see no more than one of the three
    assert (report["unit"], report["units"], report["anomalous"], report["lines"]) == ("session", 40, 3, count)
    assert report["anomalies"] == len(kept)
    assert (report["data_sha256"], report["versions"]) == (data.sha256(), versions)
    assert report["hide_levels"] is is_level_hidden
    assert {found["level"] for found in kept} == ({None} if is_level_hidden else {"INFO"})
    assert report["lines_per_s"] > 0
    assert told[-1] == (count, len(kept))


def test_without_opinions_there_are_fused_figures_only(tmp_path):
    write_shop(tmp_path, {410: "order"})
    report = evaluate(DataSet.open(tmp_path), lambda lines: [anomaly(session="s410") for _ in list(lines)[:1]])
    assert (report["detectors"], report["ablation"]) == ({}, {})
    assert (report["fused"]["precision"], report["fused"]["recall"]) == (1.0, 1.0)


def test_only_the_detectors_asked_for_vote(tmp_path):
    write_shop(tmp_path, {417: "new"})
    data = DataSet.open(tmp_path)
    models = train_dataset(data, None, replace(QUICK, detectors=("novelty", "ngram", "count"))).artefacts
    chosen = replace(SHARDS, fusion=FusionParams(10_000, detectors=("count", "ngram")))
    found = list(score_through_core(log_lines(data), models, BatchParams(), chosen))
    assert {one["session"] for one in found} == {"s417"}
    assert {name for one in found for name in one["detectors"]} == {"count", "ngram"}


def test_data_without_labels_are_counted_only(tmp_path):
    (tmp_path / "app.log").write_bytes(b'{"message":"hi"}\n' * 3)
    data = DataSet(folder=tmp_path, name="app.log", unit="line", logs=tmp_path / "app.log", units=())
    report = evaluate(data, lambda lines: [anomaly() | {"service": "cart"} for _ in lines])
    assert (report["lines"], report["anomalies"], report["by_service"], report["fused"]) == (3, 3, {"cart": 3}, None)


def test_a_data_set_without_a_log_file_cannot_be_scored(tmp_path):
    with pytest.raises(DataSetError, match="no log file"):
        log_lines(DataSet(folder=tmp_path, name="x", unit="template", logs=None, units=()))


def test_the_span_of_time_is_read_from_the_ends_of_the_data():
    lines = Passage(json.dumps({"time": 1_700_000_000_000 + n, "message": "x"}).encode() for n in range(5000))
    assert sum(1 for _ in lines) == 5000
    assert lines.span_ms(ParseParams()) == (1_700_000_000_000, 1_700_000_004_999)
    assert Passage([]).span_ms(ParseParams()) is None
