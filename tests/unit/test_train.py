"""Training from lines to artefacts: what is learned, what is held out, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.artefact import load_all
from models.datasets import to_batches
from models.deeplog import DeepLogRule
from models.errors import DataSetError, SettingsError
from models.fitting import FitParams, pick_device
from models.thresholds import HeldOut, alarms, choose_rule
from models.train import TrainParams, train, train_lines, train_path
from models.training_set import Lines, examples
from models.windows import WindowParams

QUICK = TrainParams(fit=FitParams(hidden=16, epochs=1, min_steps=80, max_steps=80, learning_rate=2e-2), min_lines=200)
STEPS = ("request accepted", "cart loaded", "stock reserved", "payment charged", "mail queued", "request finished")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Batches this small gain nothing by threads, and lose much beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def record(ts, text, service="cart", session=None):
    found = {
        "@timestamp": f"2024-01-01T{ts // 3600:02}:{ts // 60 % 60:02}:{ts % 60:02}Z",
        "service": service,
        "message": text,
    }
    return json.dumps(found if session is None else {**found, "session": session}).encode()


def shop(sessions=80, start=0, steps=STEPS):
    """Sessions of one fixed workflow, two at a time."""
    for number in range(0, sessions, 2):
        for at, text in enumerate(steps):
            for one in (number, number + 1):
                yield record(start + number * 3 + at, text, session=f"s{start}-{one}")


def lines_of(seq, ts, group, has_session=True):
    count = len(seq)
    return Lines(
        np.array(seq, np.int32),
        np.array(ts, np.int64),
        np.array(group, np.uint64),
        np.zeros(count, np.int32),
        np.full(count, has_session),
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("models")
    epochs = []
    result = train_lines(shop(), out, QUICK, report=lambda service, epoch: epochs.append((service, epoch)))
    return result, out, epochs


def test_a_model_of_normal_lines_expects_the_next_step(trained):
    result, out, epochs = trained
    artefact = load_all(out)["cart"]
    assert artefact.version == result.artefacts["cart"].version
    assert artefact.training["lines"] == 480
    assert artefact.training["sessions"] == 80
    assert sorted(artefact.text(code) for code in range(2, artefact.end)) == sorted(STEPS)
    code = {artefact.text(code): code for code in range(2, artefact.end)}
    window = np.array([0] * 8 + [code["request accepted"], code["cart loaded"]], np.int32)
    assert artefact.scorer().expected(window, 1)[0][0] == code["stock reserved"]
    finished = np.array([[0] * 4 + [code[text] for text in STEPS]], np.int32)
    assert not artefact.rule.is_anomalous_end(artefact.scorer().end_probability(finished))[0]
    assert artefact.rule.is_anomalous_end(artefact.scorer().end_probability(window[None, :]))[0]
    assert epochs[0][0] == "cart"
    assert epochs[-1][1].held_out_loss < epochs[0][1].held_out_loss


def test_the_same_seed_gives_the_same_model_and_another_seed_another(trained):
    result, _, _ = trained
    again = train(to_batches(shop(), size=7), None, QUICK, source="elsewhere")
    assert again.artefacts["cart"].version == result.artefacts["cart"].version
    other = replace(QUICK, fit=replace(QUICK.fit, seed=1))
    assert train_lines(shop(), None, other).artefacts["cart"].version != result.artefacts["cart"].version


def test_each_service_gets_its_model_and_the_small_ones_are_named(tmp_path):
    others = [record(at, f"tick {'abc'[at % 3]} done", service="clock/1") for at in range(300)]
    few = [record(1, "hello", service="rare")]
    trained = train_lines([*shop(), *others, *few], tmp_path, QUICK)
    assert set(trained.artefacts) == set(load_all(tmp_path)) == {"cart", "clock/1"}
    assert trained.skipped == {"rare": 1}
    clock = trained.artefacts["clock/1"]
    assert clock.metrics["held_out_session_alarm_rate"] is None
    assert clock.metrics["held_out_line_alarm_rate"] == 0
    assert set(clock.wait_ms) == {-1}


def test_one_default_model_covers_all_services(tmp_path):
    few = [record(1, "hello", service="rare")]
    trained = train_lines([*shop(), *few], tmp_path, QUICK, default=True)
    assert list(trained.artefacts) == ["default"]
    assert trained.artefacts["default"].training["services"] == ["cart", "rare"]
    assert "hello" in {entry["tokens"] for entry in trained.artefacts["default"].templates}


def test_too_little_to_train_on_is_refused_with_what_would_be_enough():
    with pytest.raises(DataSetError, match="at least 200 lines"):
        train_lines(list(shop())[:100], None, QUICK)
    with pytest.raises(DataSetError, match="no line of the service 'mail'"):
        train_lines(shop(), None, QUICK, service="mail")
    with pytest.raises(DataSetError, match="nothing to train on"):
        train([], None, QUICK)


def test_only_the_training_part_of_a_data_set_is_learned(tmp_path):
    lines = [*shop(), record(900, "the disk melted", session="bad")]
    (tmp_path / "logs.jsonl").write_bytes(b"\n".join(lines))
    about = {"name": "shop", "unit": "session", "train_sessions": [f"s0-{one}" for one in range(60)]}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    artefact = train_path(tmp_path, None, QUICK).artefacts["cart"]
    assert artefact.training["sessions"] == 60
    assert "the disk melted" not in {entry["tokens"] for entry in artefact.templates}
    (tmp_path / "dataset.json").write_text('{"unit": "session"}')
    with pytest.raises(DataSetError, match="nothing may be trained on"):
        train_path(tmp_path, None, QUICK)


def test_the_last_sessions_are_held_out_and_the_windows_begin_with_padding():
    sessions = [[0, 1, 2]] * 40 + [[0, 2, 1]] * 10
    seq = [s for session in sessions for s in session]
    group = [g for g in range(50) for _ in range(3)]
    data = examples(lines_of(seq, range(150), group), np.array([30, 20, 10], np.uint32), WindowParams(length=2), 0.2)
    assert data.vocabulary == (0, 0, 10, 20, 30)
    assert data.sessions == (40, 10)
    rows = {
        tuple(row): (fit, held)
        for row, fit, held in zip(data.rows.tolist(), data.fit_count, data.held_count, strict=True)
    }
    assert rows[0, 0, 4] == (40, 10)
    assert rows[0, 4, 3] == (40, 0)
    assert rows[0, 4, 2] == (0, 10)


def test_a_template_seen_only_late_is_learned_and_not_held_out():
    sessions = [[0, 1]] * 49 + [[0, 2]]
    seq = [s for session in sessions for s in session]
    group = [g for g in range(50) for _ in range(2)]
    data = examples(lines_of(seq, range(100), group), np.array([1, 2, 3], np.uint32), WindowParams(length=2), 0.2)
    assert data.sessions == (41, 9)
    assert data.fit_count[(data.rows[:, -1] == 4)].sum() == 1


def test_the_silence_a_session_may_keep_is_learned_from_its_own():
    """Twice the longest, and ten seconds; the held-out sessions do not count."""
    seq, ts, group = [], [], []
    for number in range(50):
        seq += [0, 1]
        ts += [number * 1000, number * 1000 + (500 if number < 40 else 900)]
        group += [number] * 2
    data = examples(lines_of(seq, ts, group), np.array([7, 8], np.uint32), WindowParams(length=2), 0.2)
    assert data.wait_ms[2:] == (11_000, 11_000)
    ends = data.rows[:, -1] == data.end
    told = sum(number * 1000 + 500 + 11_000 < 49_900 for number in range(40))  # the others may still go on
    assert (data.fit_count[ends].sum(), data.held_count[ends].sum()) == (told, 0)


held_outs = st.lists(
    st.tuples(
        st.integers(0, 12),
        st.floats(0, 1, width=32).map(lambda p: round(p, 5)),
        st.integers(0, 9),
        st.booleans(),
    ),
    min_size=1,
    max_size=60,
)


@settings(max_examples=80, deadline=None)
@given(held_outs, st.sampled_from([0.0, 0.1, 0.3]))
def test_alarms_on_held_out_data_stay_within_the_target_with_the_smallest_g(rows, rate):
    unit = np.array([r[0] for r in rows])
    held = HeldOut(
        np.array([r[1] for r in rows], np.float32),
        np.array([r[2] for r in rows], np.int32),
        np.array([r[3] for r in rows]),
        unit,
        unit < 8,  # units 8 to 12 are lines without a session
    )
    rule = choose_rule(held, rate, rate, classes=12)
    for share in alarms(held, rule):
        assert share is None or share <= rate + 1e-9
    if rule.top_g > 1:
        smaller = replace(rule, top_g=rule.top_g - 1)
        assert any(share is not None and share > rate + 1e-9 for share in alarms(held, smaller))


def test_without_held_out_data_the_rule_is_the_papers():
    nothing = np.zeros(0, np.int64)
    held = HeldOut(nothing.astype(np.float32), nothing.astype(np.int32), nothing > 0, nothing, nothing > 0)
    assert choose_rule(held, 0.1, 0.1, classes=30) == DeepLogRule(top_g=9)


def test_the_device_is_chosen_and_a_missing_one_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(SettingsError, match="no CUDA device"):
        pick_device("cuda")
    with pytest.raises(SettingsError, match="choose auto, cpu or cuda"):
        FitParams(device="tpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
