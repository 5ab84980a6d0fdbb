from __future__ import annotations

import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from flink_jobs.show import event_time, print_anomaly, summary_view
from models.sample.truth import KindScore, Summary
from models.visible import visible

ANOMALY = {
    "anomaly_id": "a1",
    "revision": 0,
    "status": "new",
    "mode": "live",
    "ts": 1_772_442_001_042,
    "service": "payments",
    "host": "pay-1",
    "session": "39263059f28c105d",
    "level": "INFO",
    "severity": None,
    "score": 0.99951,
    "template": "Ledger entry <*> booked for payment <*>",
    "parameters": [
        {"position": 0, "name": "entry", "type": "integer", "unit": None, "value": "493022"},
        {"position": 1, "name": "payment", "type": "id", "unit": "", "value": "pay-683506"},
    ],
    "message": "Ledger entry 493022 booked for payment pay-683506",
    "expected": [
        {"template_id": "1", "template": "Captured <*> EUR of payment <*>", "probability": 0.9912},
        {"template_id": "2", "template": "Refused payment <*>, issuer code <*>", "probability": 0.004},
    ],
    "explanation": "not among the lines that follow here in normal logs",
    "count": None,
}


def shown(anomaly: dict, width: int = 80) -> str:
    out = io.StringIO()
    print_anomaly(Console(file=out, width=width, color_system=None), anomaly)
    return out.getvalue()


def test_an_anomaly_shows_time_service_score_message_parameters_reason_and_what_was_expected() -> None:
    text = shown(ANOMALY)
    for part in ("09:00:01.042", "payments", "INFO", "1.00", "request 39263059f28c105d", "entry 493022", "not among"):
        assert part in text
    assert "Ledger entry 493022 booked for payment pay-683506" in text
    assert " 99.1 %  Captured <*> EUR of payment <*>" in text


def test_nothing_is_wider_than_the_terminal() -> None:
    long = {**ANOMALY, "message": "x" * 900 + "\n" * 20, "service": "s" * 90, "explanation": "word " * 60}
    assert max(len(line) for line in shown(long).splitlines()) <= 80


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@settings(max_examples=60, deadline=None)
def test_no_control_character_of_the_log_reaches_the_terminal(text: str) -> None:
    dangerous = f"\x1b[2J\x07\u202e\x9b{text}"
    fields = ("service", "session", "message", "explanation", "severity", "level", "template")
    out = shown({**ANOMALY, **dict.fromkeys(fields, dangerous), "expected": [{"template": dangerous}]})
    assert all(char.isprintable() or char == "\n" for char in out)


def test_log_text_is_never_markup() -> None:
    assert "[bold]x[/bold] :smile:" in shown({**ANOMALY, "message": "[bold]x[/bold] :smile:"})


@pytest.mark.parametrize("gone", sorted(ANOMALY))
def test_any_field_may_be_null(gone: str) -> None:
    assert shown({**ANOMALY, gone: None})


@pytest.mark.parametrize("odd", [{}, {"ts": "yesterday"}, {"expected": "x", "parameters": [3]}, {"ts": 10**30}])
def test_an_odd_anomaly_is_shown_as_far_as_it_goes(odd: dict) -> None:
    assert "?" in shown(odd)


def test_a_stack_trace_is_cut_after_a_few_lines() -> None:
    text = shown({**ANOMALY, "message": "boom\n" + "\n".join(f"\tat frame{n}" for n in range(50))})
    assert "frame0" in text
    assert "frame9" not in text
    assert "…" in text


def test_clean_keeps_what_people_read_and_writes_out_the_rest() -> None:
    assert visible("größe 漢 \u00a0x\u200b\ud800") == "größe 漢  x\\u200b\\ud800"
    assert event_time("not a time") == "?"


def test_the_summary_shows_recall_by_kind_and_precision() -> None:
    out = io.StringIO()
    kinds = (KindScore("order", 10, 9), KindScore("value", 8, 0), KindScore("rate", 0, 0))
    Console(file=out, width=80, color_system=None).print(summary_view(Summary(40, 10, 9, 2, kinds)))
    text = out.getvalue()
    assert "order" in text
    assert "90 %" in text
    assert "rate" not in text
    assert "9 of 10 flagged requests are faulty; 2 anomalies" in " ".join(text.split())
