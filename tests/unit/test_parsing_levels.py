"""Levels: the declared one wins, and its number means what its field's name says."""

import json

import numpy as np
import pytest

from models.parsing import LEVELS, ParseParams, Raw, parse
from models.parsing.levels import from_head, normalise


def level_of(value):
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    records, _ = parse(
        Raw([data], "t", np.zeros(1, np.int32), np.zeros(1, np.int64), np.array([1_700_000_000_000])), ParseParams()
    )
    return LEVELS[records.level[0]]


@pytest.mark.parametrize(
    ("words", "level"),
    [
        ("trace TRACE Trc verbose FINEST", "TRACE"),
        ("debug DBG Debug FINE", "DEBUG"),
        ("info Information INF notice INFO2 [info] success", "INFO"),
        ("warn Warning WRN warning:", "WARN"),
        ("err ERROR Error severe ERROR3", "ERROR"),
        ("fatal crit CRITICAL alert emerg panic", "FATAL"),
        ("audit low 8 - none", ""),
    ],
)
def test_words_of_all_loggers_come_to_one_scale(words, level):
    assert {LEVELS[normalise(word)] for word in words.split()} == {level}


@pytest.mark.parametrize(
    ("field", "values", "levels"),
    [
        ("level", [10, 20, 30, 40, 50, 60, 35], ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "INFO"]),
        ("level", range(8), ["FATAL", "FATAL", "FATAL", "ERROR", "WARN", "INFO", "INFO", "DEBUG"]),
        ("PRIORITY", ["3", "4", "6", "9"], ["ERROR", "WARN", "INFO", ""]),
        (
            "severityNumber",
            [1, 5, 9, 13, 17, 21, 24, 25],
            ["TRACE", "DEBUG", "INFO", "WARN", "ERROR", "FATAL", "FATAL", ""],
        ),
        ("severity", [3, 9, 24, -32], ["ERROR", "INFO", "FATAL", ""]),
        ("levelno", [10, 20, 30, 40, 50], ["DEBUG", "INFO", "WARN", "ERROR", "FATAL"]),
        ("level_value", [5000, 10000, 20000, 30000, 40000], ["TRACE", "DEBUG", "INFO", "WARN", "ERROR"]),
    ],
)
def test_a_number_is_read_by_the_name_of_its_field(field, values, levels):
    assert [LEVELS[normalise(value, field)] for value in values] == levels
    for value, level in zip(values, levels, strict=True):
        assert level_of({"msg": "x", field: value}) == level


@pytest.mark.parametrize(
    ("record", "level"),
    [
        # Source: github.com/grafana/loki issues 13523, 14443, 15444, 16611, 17833, 12645, 9620; grafana 25887, 45015.
        ({"level": "DEBUG", "message": "test log levels"}, "DEBUG"),
        ({"level": "INFO", "message": "test log levels"}, "INFO"),
        ({"message": "An error occurred using a transaction.", "level": "WARNING", "severity": "WARNING"}, "WARN"),
        ({"severity_text": "INFO", "body": "ERROR budget is fine"}, "INFO"),
        ({"req_id": "af2d", "message": "POST /api?var-levels=detected_level%7C%3D%7Cerror HTTP/2.0"}, ""),
        ({"Timestamp": "2025-05-27T01:50:36.5184494Z", "Level": "Information", "Message": "x"}, "INFO"),
        ({"level": "Warn", "msg": "error while reading"}, "WARN"),
        ({"anything": "alert", "level": "INFO", "msg": "alert"}, "INFO"),
        ({"level": "audit", "severity": "error", "msg": "x"}, "ERROR"),
        ({"level": None, "severity": "error", "msg": "x"}, "ERROR"),
        ({"level": {"name": "x"}, "msg": "WARN: y"}, "WARN"),
        ({"level": True, "msg": "x"}, ""),
    ],
)
def test_a_declared_level_wins_over_the_text(record, level):
    assert level_of(record) == level


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("ERROR disk full", "ERROR"), ("[WARN] slow", "WARN"), ("warning: slow", "WARN"), ("<error> x", "ERROR"),
        ("ERROR:root:message", "ERROR"), ("E/Activity( 123): crash", "ERROR"), ("INFO  [main] apm-error ran", "INFO"),
        ("Error handling is enabled", ""), ("no ERROR here", ""), ("ERRORS: 5", ""), ("Information desk", ""),
        ("informal: chat", ""), ("info://host", ""), ("", ""), ("C: drive", ""), ("debugging", ""),
    ],
)  # fmt: skip
def test_a_level_in_the_text_counts_at_its_head_and_as_a_word(text, level):
    assert LEVELS[from_head(text)] == level
    if text:
        assert level_of(text.encode()) == level
