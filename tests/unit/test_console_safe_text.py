from __future__ import annotations

import csv
import io
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.links import explore_url, lines_query, logql_string
from console.login import login_page, next_path
from console.safe_text import csv_cell, csv_text, segments
from models.visible import visible


@given(st.text(max_size=200))
def test_nothing_a_screen_could_obey_is_left(text: str) -> None:
    assert visible(text).isprintable()
    assert all(part.isprintable() for part in visible(text, keep_newlines=True).split("\n"))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("invoice\u202egpj.exe", r"invoice\u202egpj.exe"),
        ("pay\u200bpal", r"pay\u200bpal"),
        ("a\u2066b\u2069", r"a\u2066b\u2069"),
        ("null\0byte\r\n", r"null\x00byte\x0d\x0a"),
        ("\U000e0041", r"\U000e0041"),
        ("שלום und 日本語 é", "שלום und 日本語 é"),
    ],
)
def test_tricks_are_written_out_and_languages_are_left_alone(text: str, shown: str) -> None:
    assert visible(text) == shown


@given(st.text(max_size=80), st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_marking_loses_and_adds_no_text(message: str, values: list[str], differing: list[str]) -> None:
    assert "".join(text for text, _ in segments(message, values, differing)) == message


def test_a_value_that_occurs_twice_is_marked_where_it_stands() -> None:
    assert segments("17 of 17 failed", ["17", "17"], ["failed"]) == [
        ("17", "value"),
        (" of ", ""),
        ("17", "value"),
        (" ", ""),
        ("failed", "odd"),
    ]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " =", "\n+", "＝", "＋", "－", "＠", "|"])
def test_no_cell_of_an_export_is_a_formula(start: str) -> None:
    text = csv_text(("a",), [(start + "cmd|' /C calc'!A0",)])
    [_, [cell]] = csv.reader(io.StringIO(text))
    assert cell.startswith("'") or cell[:1] == "\\"
    assert "\r" not in cell
    assert "\n" not in cell


def test_an_export_keeps_rows_whole_whatever_they_hold() -> None:
    text = csv_text(("a", "b"), [('quo"te, comma', "line\r\nbreak"), (None, 0.5)])
    assert list(csv.reader(io.StringIO(text))) == [["a", "b"], ['quo"te, comma', r"line\x0d\x0abreak"], ["", "0.5"]]
    assert csv_cell("a=b") == "a=b"


@given(st.text(max_size=60))
def test_no_text_ends_a_string_of_a_query(text: str) -> None:
    quoted = logql_string(text)
    inner = quoted[1:-1].replace("\\\\", "").replace('\\"', "")
    assert quoted[0] == quoted[-1] == '"'
    assert '"' not in inner
    assert "\n" not in inner


def test_a_query_names_the_service_and_every_word() -> None:
    assert lines_query('{a=~".+"}', "app", session='s"1', text="x y") == '{a=~".+"} |= "s\\"1" |= "x" |= "y"'


def test_the_link_to_grafana_is_about_the_right_time() -> None:
    url = explore_url("https://grafana.example/prefix", "loki", '{app="a&b#c"}', 1_000_000)
    parts = urlsplit(url)
    pane = orjson.loads(parse_qs(parts.query)["panes"][0])["driftwood"]
    assert (parts.path, parts.fragment) == ("/prefix/explore", "")
    assert pane["range"] == {"from": "400000", "to": "1600000"}
    assert pane["queries"][0]["expr"] == '{app="a&b#c"}'


@pytest.mark.parametrize(
    "there",
    ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:alert(1)", "/login?next=/login", "/a\nb"],
)
def test_a_login_leads_nowhere_else(there: str) -> None:
    assert next_path("next=" + there) == "/"


def test_the_login_page_cannot_be_written_into() -> None:
    page = login_page("next=/%22%3E%3Cscript%3Ealert(1)%3C/script%3E")
    assert "<script>alert" not in page
    assert 'data-next="/&quot;&gt;&lt;script&gt;' in page
