"""Training from lines to artefacts: what is learned, what is refused."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from models.artefact import load_all
from models.datasets import to_batches
from models.errors import DataSetError, SettingsError
from models.fitting import FitParams, pick_device
from models.train import TrainParams, train, train_lines, train_path
from tests.unit.shop_model import DETECTORS, QUICK, QUICK_FIT, STEPS, record, shop

FLEETING = replace(QUICK, detectors=("novelty", "ngram"))  # where the network's part is another test's


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    told = []
    result = train_lines(shop(), out, QUICK, report=lambda *what: told.append(what))
    return result, out, told


def test_a_model_of_normal_lines_expects_the_next_step(trained):
    result, out, _ = trained
    artefact = load_all(out)["cart"]
    assert artefact.version == result.artefacts["cart"].version
    assert artefact.training["lines"] == 480
    assert artefact.training["sessions"] == 80
    assert sorted(artefact.names[2:]) == sorted(STEPS)
    code = {text: number for number, text in enumerate(artefact.names)}
    window = np.array([0] * 8 + [code["request accepted"], code["cart loaded"]], np.int32)
    deeplog = artefact.build("deeplog")
    assert deeplog.scorer.expected(window, 1)[0][0] == code["stock reserved"]
    finished = np.array([0] * 4 + [code[text] for text in STEPS], np.int32)
    over, stopped = deeplog.scorer.end_probability(np.stack([finished, window]))
    assert over > 0.5 > stopped
    assert artefact.learned["deeplog"].facts["top_g"] == 1


def test_a_model_names_the_data_it_was_trained_on(trained):
    training = trained[0].artefacts["cart"].training
    assert training["data_sha256"] == hashlib.sha256(b"".join(line + b"\n" for line in shop())).hexdigest()
    assert (training["services"], training["seed"], training["left_out"]) == (["cart"], 0, {})
    assert (training["first_ts"], training["last_ts"]) == (1_704_067_200_000, 1_704_067_200_000 + 239_000)


def test_what_is_new_in_a_part_of_the_normal_lines_shows_how_often_normal_lines_bring_something_new():
    lines = list(shop())
    odd = [*lines[:200], record(99, "the backup took long", session="s0-33"), *lines[200:]]
    usual, one_new = (train_lines(given, None, FLEETING).artefacts["cart"].calibration for given in (lines, odd))
    score = np.array([1.0], np.float32)  # of a template never seen
    assert one_new.line["novelty"].value.tolist() == [0.0, 1.0]
    assert usual.line["novelty"].value.tolist() == [0.0]
    assert one_new.line["novelty"].evidence(score) < usual.line["novelty"].evidence(score)
    assert len(one_new.suspects) > len(usual.suspects) == 0
    assert one_new.days == usual.days == pytest.approx(239 / 86_400)


def test_each_detector_tells_how_far_it_is_and_the_networks_loss_falls(trained):
    _, _, told = trained
    assert {service for service, _, _, _ in told} == {"cart"}
    done = [share for _, _, share, _ in told]
    assert done == sorted(done)
    assert done[-1] == 1
    spoken = list(dict.fromkeys(what.split(":")[0] for _, what, _, _ in told))
    assert [name for name in spoken if name in DETECTORS] == list(DETECTORS)
    losses = [loss for _, what, _, loss in told if what.startswith("deeplog") and loss is not None]
    assert losses[-1] < losses[0]


def test_the_same_seed_gives_the_same_model_for_any_cut_and_another_seed_another(trained):
    result, _, _ = trained
    again = train(to_batches(shop(), size=7), None, QUICK, source="elsewhere")
    assert again.artefacts["cart"].version == result.artefacts["cart"].version
    other = train_lines(shop(), None, replace(QUICK, detectors=("deeplog",), seed=1)).artefacts["cart"]
    weights, others = (a.learned["deeplog"].arrays["head.weight"] for a in (result.artefacts["cart"], other))
    assert weights.shape == others.shape
    assert not np.allclose(weights, others)


def test_each_service_gets_its_model_and_the_small_ones_are_named(tmp_path):
    others = [record(at, f"tick {'abc'[at % 3]} done", service="clock/1") for at in range(300)]
    few = [record(1, "hello", service="rare")]
    trained = train_lines([*shop(), *others, *few], tmp_path, FLEETING)
    assert set(trained.artefacts) == set(load_all(tmp_path)) == {"cart", "clock/1"}
    assert trained.folders == {"cart": tmp_path / "cart", "clock/1": tmp_path / "clock%2F1"}
    assert trained.skipped == {"rare": 1}
    clock = trained.artefacts["clock/1"]
    assert (clock.training["lines"], clock.training["sessions"]) == (300, 0)
    assert clock.training["services"] == ["clock/1"]
    assert {entry["service"] for entry in clock.templates} == {"clock/1"}
    assert set(clock.wait_ms) == {-1}
    assert not {text for text in clock.names if text} & set(STEPS)


def test_one_default_model_covers_all_services(tmp_path):
    few = [record(1, "hello", service="rare")]
    trained = train_lines([*shop(), *few], tmp_path, FLEETING, default=True)
    assert list(trained.artefacts) == ["default"]
    assert trained.artefacts["default"].training["services"] == ["cart", "rare"]
    assert "hello" in {entry["tokens"] for entry in trained.artefacts["default"].templates}
    assert "hello" in trained.artefacts["default"].names


def test_too_little_to_train_on_is_refused_with_what_would_be_enough():
    with pytest.raises(DataSetError, match=r"100 lines.*at least 200 lines"):
        train_lines(list(shop())[:100], None, QUICK)
    with pytest.raises(DataSetError, match="no line of the service 'mail'"):
        train_lines(shop(), None, QUICK, service="mail")
    with pytest.raises(DataSetError, match="nothing to train on"):
        train([], None, QUICK)


def test_a_detector_with_too_little_to_learn_from_is_left_out_by_name():
    trained = train_lines(shop(), None, replace(QUICK, detectors=("novelty", "frequency", "deeplog-value")))
    short = train_lines(list(shop(10)), None, replace(QUICK, detectors=("novelty", "count"), min_lines=10))
    artefact = trained.artefacts["cart"]
    assert artefact.calibration.names == tuple(artefact.learned)
    assert "deeplog-value" not in artefact.learned
    assert "deeplog-value" in artefact.training["left_out"]
    assert set(short.artefacts["cart"].learned) == {"novelty"}
    assert "at least 20" in short.artefacts["cart"].training["left_out"]["count"]
    with pytest.raises(DataSetError, match=r"no detector has enough.*at least 20"):
        train_lines(list(shop(10)), None, replace(QUICK, detectors=("count",), min_lines=10))


def test_only_the_training_part_of_a_data_set_is_learned(tmp_path):
    lines = [*shop(), record(900, "the disk melted", session="bad")]
    (tmp_path / "logs.jsonl").write_bytes(b"\n".join(lines))
    about = {"name": "shop", "unit": "session", "train_sessions": [f"s0-{one}" for one in range(60)]}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    artefact = train_path(tmp_path, None, FLEETING).artefacts["cart"]
    assert artefact.training["sessions"] == 60
    assert artefact.training["source"] == "shop"
    assert "the disk melted" not in {entry["tokens"] for entry in artefact.templates}
    (tmp_path / "dataset.json").write_text('{"unit": "session"}')
    with pytest.raises(DataSetError, match="nothing may be trained on"):
        train_path(tmp_path, None, FLEETING)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"detectors": ("deeplog", "oracle")}, "no such detector: oracle; choose from deeplog"),
        ({"detectors": ()}, r"no such detector: \(none given\)"),
        ({"held_out_ratio": 0.0}, "held_out_ratio is 0.0"),
        ({"held_out_ratio": 0.9}, "held_out_ratio is 0.9"),
    ],
)
def test_parameters_that_cannot_be_are_refused(wrong, message):
    with pytest.raises(SettingsError, match=message):
        TrainParams(**wrong)


def test_the_device_is_chosen_and_a_missing_one_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(SettingsError, match="no CUDA device"):
        pick_device("cuda")
    with pytest.raises(SettingsError, match="choose auto, cpu or cuda"):
        FitParams(device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    assert QUICK_FIT.device == "auto"
