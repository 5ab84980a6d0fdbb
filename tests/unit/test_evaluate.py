"""Evaluation: where anomalies fall, what the figures say, and the whole way through the core."""

from __future__ import annotations

import json

import pytest
import torch
import zstandard

from models.batch import BatchParams
from models.datasets import DataSet, Unit
from models.errors import DataSetError, SettingsError
from models.evaluate import Passage, evaluate, figures, log_lines, score_through_core
from models.fitting import FitParams
from models.parsing import ParseParams
from models.shard import ShardParams
from models.train import TrainParams, train_dataset

STEPS = ("request accepted", "cart loaded", "stock reserved", "payment charged", "mail queued", "request finished")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches this small gain nothing by threads, and lose much beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def anomaly(ts=0, session=None, offset=0, score=0.9):
    return {"ts": ts, "session": session, "score": score, "detectors": {"deeplog": score}, "source": {"offset": offset}}


def dataset(tmp_path, unit, units, **options):
    return DataSet(folder=tmp_path, name="x", unit=unit, logs=tmp_path / "logs", units=tuple(units), **options)


def test_a_session_is_flagged_when_an_anomaly_names_it(tmp_path):
    units = [Unit("a", True), Unit("b", True), Unit("c", False), Unit("d", False)]
    found = figures(
        dataset(tmp_path, "session", units),
        [anomaly(session="a"), anomaly(session="a"), anomaly(session="c", score=0.5), anomaly(session="training")],
        (0, 2 * 3_600_000),
    )
    assert (found["precision"], found["recall"], found["f1"]) == (0.5, 0.5, 0.5)
    assert found["auc"] == pytest.approx(0.625)
    assert found["false_alarm_ratio"] == pytest.approx(1 / 3, abs=1e-5)
    assert found["alerts_per_hour"] == 1.5
    assert found["median_delay_s"] is None


def test_a_window_holds_what_comes_within_its_grace_unless_it_lies_in_another(tmp_path):
    units = [Unit("w1", True, 1000, 2000), Unit("w2", False, 2500, 3000), Unit("w3", True, 9000, 9500)]
    data = dataset(tmp_path, "window", units, grace_ms=1000, train_until_ms=0)
    found = figures(data, [anomaly(ts=2400)], (0, 3_600_000))
    assert (found["precision"], found["recall"]) == (1.0, 0.5)
    assert found["median_delay_s"] == 1.4
    assert figures(data, [anomaly(ts=2600)], (0, 1))["precision"] == 0.0
    outside = figures(data, [anomaly(ts=5000), anomaly(ts=900)], (0, 1))
    assert (outside["alerts"], outside["precision"], outside["recall"]) == (0, None, 0.0)


def test_a_line_is_known_by_its_number(tmp_path):
    units = [Unit("0", False), Unit("7", True)]
    found = figures(dataset(tmp_path, "line", units), [anomaly(offset=7)], None)
    assert (found["precision"], found["recall"], found["alerts_per_hour"]) == (1.0, 1.0, None)


def write_shop(folder, broken):
    """Sessions of one workflow; from number 80 on, the broken ones go wrong in the way named."""
    lines, labels = [], ["session,label"]
    for number in range(120):
        steps = list(STEPS)
        how = broken.get(number)
        if how == "order":
            steps[2], steps[3] = steps[3], steps[2]
        elif how == "new":
            steps[3] = "the disk melted"
        elif how == "stops":
            steps = steps[:2]
        if number >= 80:
            labels.append(f"s{number},{int(how is not None)}")
        for at, text in enumerate(steps):
            time = f"2024-01-01T{number // 60:02}:{number % 60:02}:{at:02}Z"
            lines.append({"time": time, "service": "cart", "session": f"s{number}", "level": "INFO", "message": text})
    (folder / "logs.jsonl.zst").write_bytes(zstandard.compress("\n".join(map(json.dumps, lines)).encode()))
    (folder / "labels.csv").write_text("\n".join(labels))
    about = {"name": "shop", "unit": "session", "train_sessions": [f"s{n}" for n in range(80)]}
    (folder / "dataset.json").write_text(json.dumps(about))
    return len(lines)


@pytest.mark.parametrize("is_level_hidden", [False, True])
def test_faults_of_order_novelty_and_silence_are_found_through_the_core(tmp_path, is_level_hidden):
    count = write_shop(tmp_path, {90: "order", 97: "new", 104: "stops"})
    data = DataSet.open(tmp_path)
    quick = TrainParams(FitParams(hidden=16, min_steps=120, max_steps=120, learning_rate=2e-2), min_lines=200)
    models = train_dataset(data, None, quick).artefacts
    kept, told = [], []
    report = evaluate(
        data,
        lambda lines: score_through_core(lines, models, BatchParams(), ShardParams(), lambda *at: told.append(at)),
        is_level_hidden=is_level_hidden,
        keep=kept.append,
    )
    assert {found["session"] for found in kept} == {"s90", "s97", "s104"}
    assert report["fused"] == report["detectors"]["deeplog"]
    assert (report["fused"]["precision"], report["fused"]["recall"], report["fused"]["auc"]) == (1.0, 1.0, 1.0)
    assert (report["unit"], report["units"], report["anomalous"], report["lines"]) == ("session", 40, 3, count)
    assert report["data_sha256"] == data.sha256()
    assert report["lines_per_s"] > 0
    assert told[-1] == (count, len(kept))


def test_data_without_labels_are_counted_only(tmp_path):
    (tmp_path / "app.log").write_bytes(b'{"message":"hi"}\n' * 3)
    data = DataSet(folder=tmp_path, name="app.log", unit="line", logs=tmp_path / "app.log", units=())
    report = evaluate(data, lambda lines: [anomaly() | {"service": "cart"} for _ in lines])
    assert (report["lines"], report["anomalies"], report["by_service"], report["fused"]) == (3, 3, {"cart": 3}, None)


def test_a_detector_that_does_not_exist_is_refused(tmp_path):
    data = dataset(tmp_path, "line", [])
    with pytest.raises(SettingsError, match="no such detector: rapid"):
        evaluate(data, lambda lines: [], detectors=["deeplog", "rapid"])
    with pytest.raises(DataSetError, match="no log file"):
        log_lines(DataSet(folder=tmp_path, name="x", unit="template", logs=None, units=()))


def test_the_span_of_time_is_read_from_the_ends_of_the_data():
    lines = Passage(json.dumps({"time": 1_700_000_000_000 + n, "message": "x"}).encode() for n in range(5000))
    assert sum(1 for _ in lines) == 5000
    assert lines.span_ms(ParseParams()) == (1_700_000_000_000, 1_700_000_004_999)
    assert Passage([]).span_ms(ParseParams()) is None
