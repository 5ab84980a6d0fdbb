"""How bad an anomaly is: what the text says, and what level and verdict may add."""

from __future__ import annotations

import time

import numpy as np
import pytest

from models.alerts.severity import IMMEDIATE, features, rank, severities, severity, text_logits
from models.alerts.severity_corpus import SEVERITIES, messages, wordings
from models.alerts.train_severity import Corpus, FitParams, fit, measure
from models.parsing.levels import DEBUG, ERROR, FATAL, INFO, NONE, WARN


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("all copies of the ledger are lost, data loss", "critical"),
        ("java.lang.OutOfMemoryError: Java heap space", "critical"),
        ("java.lang.NullPointerException at com.example.Cart.add", "error"),
        ("Failed to read /var/lib/x/7.db", "error"),
        ("Retrying request 17 in 300 ms", "warning"),
        ("certificate of db-1 expires in 9 days", "warning"),
        ("Order 8812 shipped", "informational"),
        ("request finished with no errors in 12 ms", "informational"),
    ],
)
def test_the_text_alone_tells_how_bad_it_is(message: str, name: str) -> None:
    assert severity(message, NONE, 2.0, 1.9).name == name


def test_shipped_weights_tell_seven_of_ten_wordings_that_were_never_learned() -> None:
    rows = list(messages("test", copies=4, seed=5))
    told = [severity(text, NONE, 1.0, 1.0) for _, text in rows]
    true = [SEVERITIES[of] for of, _ in rows]
    right = sum(t.name == name for t, name in zip(told, true, strict=True)) / len(rows)
    assert right > 0.66, "measured: 0.71; chance is 0.25"
    immediate = [name for t, name in zip(told, true, strict=True) if t.is_immediate]
    assert len(immediate) > 20
    assert immediate.count("critical") / len(immediate) > 0.9, "who is woken is woken for a reason"
    near = sum(abs(rank(t.name) - rank(name)) <= 1 for t, name in zip(told, true, strict=True)) / len(rows)
    assert near > 0.8


def test_no_wording_is_learned_and_tested() -> None:
    parts = [{text for _, text in wordings(part)} for part in ("learn", "calibrate", "test")]
    assert all(len(part) > 50 for part in parts)
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]


def test_training_gives_the_same_weights_again_and_they_are_better_than_chance() -> None:
    params = FitParams(steps=5)
    one, two = fit(params), fit(params)
    assert one.to_bytes() == two.to_bytes()
    assert measure(one, Corpus.part("test", 3)).accuracy > 0.45


def test_the_shipped_weights_and_the_regression_compute_the_same() -> None:
    """What is learned with numpy is what is used without it."""
    fitted = fit(FitParams(steps=3))
    text = "Disk /dev/sda1 is almost full: 93 %"
    corpus = Corpus.of([(0, text)])
    table = {int(f): row for f, row in zip(fitted.known, fitted.weights, strict=True)}
    found = features(text)
    summed = sum((table.get(f, np.zeros(4)) for f in found), np.zeros(4)) / np.sqrt(len(found)) + fitted.bias
    assert np.allclose(corpus.logits(fitted.known, fitted.weights, fitted.bias)[0], summed)


def test_numbers_and_names_of_things_say_nothing_but_their_kind() -> None:
    assert features("order 17 shipped in 250 ms") == features("order 99123 shipped in 251 ms")
    assert features("GET /x 503") != features("GET /x 204")


@pytest.mark.parametrize("message", ["entry 17 booked by worker", "x", "", "\x00\ud800", "ä" * 100_000])
def test_a_worse_level_never_makes_it_less_bad(message: str) -> None:
    ranks = [rank(severity(message, level, 2.0, 1.0).name) for level in (DEBUG, INFO, WARN, ERROR, FATAL)]
    assert ranks == sorted(ranks)


def test_a_clear_text_is_not_outvoted_by_its_level() -> None:
    assert severity("data corruption detected, all replicas lost", INFO, 2.0, 1.0).name == "critical"
    assert severity("Retrying in 3 s", ERROR, 2.0, 1.0).name in ("warning", "error")


def test_a_surer_verdict_moves_away_from_informational() -> None:
    text = "Order 8812 shipped late by courier"
    weak = severity(text, NONE, 1.0, 1.0)
    strong = severity(text, NONE, 64.0, 1.0, votes={"a": 3.0, "b": 3.0, "c": 3.0, "d": 3.0}, pieces=8)
    assert (weak.name, strong.confidence < weak.confidence or strong.name != weak.name) == ("informational", True)


@pytest.mark.parametrize("kind", ["end", "rate"])
def test_that_something_did_not_come_is_at_least_a_warning_however_harmless_the_line_before(kind: str) -> None:
    assert severity("Order 8812 shipped", INFO, 2.0, 1.0, kind).name == "warning"


def test_only_what_is_critical_and_sure_cannot_wait() -> None:
    sure = severity("all replicas are lost, data loss", FATAL, 9.0, 1.0)
    assert sure.is_immediate
    assert sure.confidence > IMMEDIATE
    told = [severity(text, NONE, 2.0, 1.0) for _, text in messages("learn", 1, 2)]
    assert any(t.name == "critical" and not t.is_immediate for t in told)
    assert not any(t.is_immediate for t in told if t.name != "critical")


def test_a_batch_is_as_one_by_one() -> None:
    rows = [
        {"message": text, "level": level, "strength": 3.0, "threshold": 2.0, "kind": "line", "detectors": {"a": 2.0}, "evidence": [{}]}
        for level, (_, text) in zip(["INFO", None, "ERROR", "FATAL"] * 5, messages("test", 1, 1), strict=False)
    ]  # fmt: skip
    assert severities(rows) == [severities([row])[0] for row in rows]


def test_it_is_cheap() -> None:
    text = "Ledger entry 493022 booked for payment pay-683506 by worker com.example.Foo in 12 ms"
    text_logits(text)
    best = min(_seconds(text) for _ in range(20))
    assert best < 300e-6, "about 30 µs; the margin is for a machine that does much else"


def _seconds(text: str) -> float:
    start = time.perf_counter()
    for _ in range(20):
        severity(text, INFO, 4.0, 2.0, "line", {"a": 2.0, "b": 3.0}, 3)
    return (time.perf_counter() - start) / 20
