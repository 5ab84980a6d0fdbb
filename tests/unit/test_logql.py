from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import DataSetError, SettingsError
from models.logql import Cursor, LokiQuery, record, request, step

Stored = tuple[int, str, str, str]  # time, app, trace id, line


def query(**fields: Any) -> LokiQuery:
    return LokiQuery(**{"host": "h", "query": '{app=~".+"}', "start_ns": 0, "end_ns": 1000} | fields)


def loki(stored: list[Stored], fields: dict[str, str], order: int) -> bytes:
    """Loki's answer: the first `limit` entries of the range by time; which of those of one time is its own affair."""
    start, end, limit = (int(fields[name]) for name in ("start", "end", "limit"))
    found = sorted(
        (e for e in set(stored) if start <= e[0] < end), key=lambda e: (e[0], hash((e, order)) if order else e)
    )
    streams: dict[str, list[Any]] = {}
    for time_ns, app, trace, line in found[:limit]:
        streams.setdefault(app, []).append([str(time_ns), line, {"structuredMetadata": {"trace_id": trace}}])
    result = [{"stream": {"app": app}, "values": values} for app, values in streams.items()]
    return orjson.dumps({"status": "success", "data": {"resultType": "streams", "result": result}})


stored_entries = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from(["l1", "l2"])),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(stored_entries, st.integers(1, 6), st.integers(1, 9), st.integers(0, 3), st.integers(0, 10))
def test_paging_gives_each_entry_once_in_time_order_whatever_limit_window_and_restart(
    stored: list[Stored], limit: int, window: int, order: int, restart: int
):
    asked = query(limit=limit, max_limit=64, window_ns=window, end_ns=13)
    cursor, got, pages = Cursor(asked.start_ns), [], 0
    while (fields := request(asked, cursor)) is not None:
        records, cursor = step(asked, cursor, loki(stored, fields, order and order + pages))
        got += [orjson.loads(one) for one in records]
        pages += 1
        if pages == restart:
            cursor = Cursor.from_bytes(cursor.to_bytes())
        assert pages < 500
    keys = [(int(r["timeUnixNano"]), r["app"], r["trace_id"], r["message"]) for r in got]
    assert sorted(keys) == sorted(set(stored))
    assert [key[0] for key in keys] == sorted(key[0] for key in keys)


def test_more_entries_of_one_nanosecond_than_loki_gives_are_told_and_not_lost_in_silence():
    stored = [(5, "a", "x", str(n)) for n in range(9)]
    asked = query(limit=2, max_limit=4)

    def read(cursor: Cursor) -> None:
        while (fields := request(asked, cursor)) is not None:
            _, cursor = step(asked, cursor, loki(stored, fields, 0))

    with pytest.raises(DataSetError, match="max_limit"):
        read(Cursor(0))


def test_an_answer_that_holds_no_lines_says_so():
    matrix = orjson.dumps({"data": {"resultType": "matrix", "result": []}})
    with pytest.raises(DataSetError, match="matrix"):
        step(query(), Cursor(0), matrix)
    with pytest.raises(DataSetError, match="path prefix"):
        step(query(), Cursor(0), b"<html>")


def test_a_line_keeps_its_own_fields_and_time_before_those_of_loki():
    line = '{"service_name":"own","time":"2024-01-01T00:00:00Z"}'
    assert orjson.loads(record(5, line, {"service_name": "label", "env": "prod"})) == {
        "service_name": "own",
        "time": "2024-01-01T00:00:00Z",
        "env": "prod",
    }


@pytest.mark.parametrize("line", ["plain", "{broken", "[1]", '{"a":1} tail', ""])
def test_a_line_that_is_no_object_is_a_message(line: str):
    assert orjson.loads(record(5, line, {})) == {"timeUnixNano": "5", "message": line}


def test_an_address_gives_the_range():
    url = "loki://me:pw@h:1/p?query=%7Bapp%3D%22x%22%7D&start=2024-01-01T00:00:00Z&end=2024-01-02T00:00:00Z&tenant=t"
    asked = LokiQuery.from_url(url, 0)
    assert asked.query == '{app="x"}'
    assert asked.end_ns - asked.start_ns == 86_400 * 10**9
    assert asked.base_url == "http://h:1/p"
    assert "pw" not in repr(asked)
    later = LokiQuery.from_url('loki://h?query={app="x"}&since=2d', 10 * 86_400_000)
    assert later.start_ns == 8 * 86_400 * 10**9


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ("since=1h", "query"),
        ("query={}&since=soon", "since"),
        ("query={}&start=1&since=1h", "not both"),
        ("query={}&start=tomorrow", "start"),
        ("query={}&start=9&end=5", "before the end"),
        ("query={}&limit=9999", "max_limit"),
    ],
)
def test_an_address_that_names_no_range_is_refused(options: str, word: str):
    with pytest.raises(SettingsError, match=word):
        LokiQuery.from_url(f"loki://h?{options}", 10_000_000)
