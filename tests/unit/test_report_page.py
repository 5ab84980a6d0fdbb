"""The page: everything of the report on it, and nothing in it that log text put there."""

from __future__ import annotations

import doctest
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import report_markup, report_pictures
from models.datasets import DataSet, Unit
from models.report import build_report
from models.report_markup import adopted, element, shown, to_html
from models.report_page import report_page
from models.report_pictures import curves, interval_bar, moment, ticks, timeline

HOUR = 3_600_000
DAY = 24 * HOUR
HOSTILE = (
    "</code><script>alert(1)</script><img src=x onerror=alert(2)>\x1b[31m\x00\u202eevil\u2066\u200b\u2028\ud800\"'&amp;"
)
VOID = {"meta", "br", "hr", "img", "input", "link"}


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text by the element that holds it."""

    def __init__(self, html):
        super().__init__(convert_charrefs=True)
        self.elements, self.texts, self.open = [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def text(self):
        return "".join(text for tag, text in self.texts if tag != "style")

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def anomaly(ts=0, session=None, score=0.9, text="disk 7 melted", **votes):
    return {
        "ts": ts,
        "service": "cart",
        "session": session,
        "level": "ERROR",
        "score": score,
        "detectors": votes or {"deeplog": score},
        "template_id": "0000abcd",
        "template": "disk <*> melted",
        "message": text,
        "explanation": f"No line like «{text}» was seen.",
        "source": {"offset": 17},
    }


def windows(tmp_path, labels=(True, False, True, False)):
    units = tuple(Unit(str(n), label, n * HOUR, n * HOUR + HOUR // 2) for n, label in enumerate(labels))
    return DataSet(folder=tmp_path, name="shop", unit="window", logs=None, units=units, grace_ms=30_000)


def report(data, fused, by_detector=None, without=None, span_ms=(0, 4 * HOUR), **options):
    options = {"data_sha256": "ab" * 32, "resamples": 100} | options
    return build_report(data, fused, by_detector or {}, without or {}, span_ms, **options)


@pytest.mark.parametrize("module", [report_markup, report_pictures])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


# -- the whole page --------------------------------------------------------------------------------------------------


def test_the_page_shows_every_part_of_the_report(tmp_path):
    found = [anomaly(5), anomaly(HOUR + 5, score=0.7, text="cart emptied")]
    made = report(
        windows(tmp_path),
        found,
        {"deeplog": found, "count": [anomaly(2 * HOUR, score=0.4, count=0.4)]},
        {"deeplog": found[:1], "count": found},
        versions={"driftwood": "0.1.0"},
    )
    made["lines"], made["lines_per_s"], made["through"] = 123_456, 31_877.4, "core"
    made["models"] = {"cart": "20260102-c0ffee"}
    page = Page(report_page(made, "<svg><text>a workflow</text></svg>"))
    for part in (
        "Evaluation: shop",
        "The fused verdict flags 1 of 2 anomalous windows and 1 of 2 normal ones.",
        "sha256 " + "ab" * 32,
        "4 windows, 2 of them anomalous, in 4.00 h; an anomaly counts for a window until 30 s after its end",
        "123,456, scored at 31,877 a second",
        "driftwood 0.1.0; model of cart 20260102-c0ffee",
        "core",
        "a workflow",
        "1 anomalous window was not flagged; no single detector saw 0 of them.",
        "1 normal window was flagged.",
        "No line like «cart emptied» was seen.",
        "1970-01-01 01:00:00 to 1970-01-01 01:30:00 UTC",
        "votes: count 0.400",
        "1970-01-01 00:00:00 to 1970-01-01 04:00:00 UTC",
        "100 resamples",
    ):
        assert part in page.text
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == [
        "Detectors",
        "Curves",
        "Scores over time",
        "What each detector adds",
        "Workflow",
        "Misses",
        "False alarms",
        "How to read this",
    ]
    labels = [attributes.get("aria-label") for attributes in page.all("svg") if attributes.get("role") == "img"]
    assert labels == ["Recall by False positive rate", "Precision by Recall", "scores over time"]
    f1, low, high = made["fused"]["f1"], *made["fused"]["intervals"]["f1"]
    assert page.text.count(f"{f1:.3f}{low:.3f}–{high:.3f}") >= 2  # the tile and the table
    change = made["ablation"]["deeplog"]["f1_change"]
    assert f"{change['value']:+.3f}".replace("-", "−") in page.text


def test_no_log_text_becomes_markup_or_reaches_the_reader_as_a_control(tmp_path):
    units = (Unit(HOSTILE + "1", True), Unit(HOSTILE + "2", False), Unit(HOSTILE + "3", True))
    data = DataSet(folder=tmp_path, name=HOSTILE, unit="session", logs=None, units=units)
    found = [
        anomaly(5, HOSTILE + key, text=HOSTILE, **{HOSTILE: 0.9})
        | {"service": HOSTILE, "level": HOSTILE, "template_id": HOSTILE, "template": HOSTILE}
        for key in "12"
    ]
    missed = [anomaly(5, HOSTILE + "3", text=HOSTILE, **{HOSTILE: 0.9})]
    made = report(data, found, {HOSTILE: missed}, {HOSTILE: found}, versions={HOSTILE: HOSTILE}, data_sha256=HOSTILE)
    made["through"], made["models"] = HOSTILE, {HOSTILE: HOSTILE}
    html = report_page(made)
    page = Page(html)
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "img", "iframe", "link", "object", "a"})
    assert page.text.count("<script>alert(1)</script>") > 10
    assert "\\x1b[31m\\x00\\u202eevil\\u2066\\u200b\\u2028\\ud800" in page.text
    assert not re.search("[^\n]", "".join(char for char in html if not char.isprintable()))
    html.encode()


def test_the_page_runs_nothing_and_loads_nothing(tmp_path):
    page = Page(report_page(report(windows(tmp_path), [anomaly(5)], {"deeplog": [anomaly(5)]})))
    policy = next(meta for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'")
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "href")]
    style = "".join(text for tag, text in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style


@pytest.mark.parametrize("labels", [(), (True,), (False,), (True, True), (False, False), (True, False)])
@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("unit", ["window", "session"])
def test_any_labels_and_flags_make_a_page(tmp_path, labels, flagged, unit):
    units = tuple(Unit(str(n), label, n * HOUR, n * HOUR + 9) for n, label in enumerate(labels))
    data = DataSet(folder=tmp_path, name="shop", unit=unit, logs=None, units=units)
    found = [anomaly(5, "0")] if flagged else []
    page = Page(report_page(report(data, found, {"deeplog": found}, {"deeplog": []})))
    assert ("The data set has no labels" in page.text) == (not labels)
    assert ("The test part holds nothing anomalous." in page.text) == (not any(labels))
    assert "nan" not in page.text.lower()
    assert "None" not in page.text.replace("None.", "")
    assert ("Curves" in page.text) == any(labels)


def test_parts_without_content_are_left_out(tmp_path):
    data = DataSet(folder=tmp_path, name="shop", unit="session", logs=None, units=(Unit("a", False),))
    page = Page(report_page(report(data, [], span_ms=None)))
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings == ["Detectors", "Misses", "False alarms", "How to read this"]


# -- markup ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=40), st.text(max_size=20))
def test_text_and_attributes_come_back_as_they_are_shown(text, value):
    page = Page(to_html(element("p", text, element("b", value, title=value), text, class_=value)))
    assert page.text == shown(text) + shown(value) + shown(text)
    assert [attributes["class"] for attributes in page.all("p")] == [shown(value)]
    assert shown(text).isprintable()


def test_a_foreign_picture_keeps_only_what_draws():
    svg = """<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 9 9" onload="a()">
      <script>alert(1)</script>
      <a href="javascript:alert(1)"><text>link</text></a>
      <image href="https://example.org/x.png"/><foreignObject><p>html</p></foreignObject><use href="#m"/>
      <animate attributeName="href" to="javascript:alert(1)"/>
      <style>.n { fill: red } @media print { .n { fill: none } }</style>
      <style>.n { background: url(https://example.org/x) }</style>
      <style>} body { display: none } .n {</style>
      <style>.n { content: "{" } } body { display: none }</style>
      <defs><marker id="m"><path d="M0,0"/></marker></defs>
      <rect class="n" x="1" onclick="a()" style="fill:url(https://example.org/x)" xlink:href="https://example.org"/>
      <path marker-end="url(#m)" d="M0,0L9,9" stroke="currentColor"/><text x="2">a &lt;*&gt;&#x202e;b<tspan>c</tspan>d</text>
    </svg>"""
    kept = adopted(svg, "workflow")
    assert [part.tag for part in kept.iter()] == [
        "svg",
        "style",
        "defs",
        "marker",
        "path",
        "rect",
        "path",
        "text",
        "tspan",
    ]
    assert kept.attrib == {"viewBox": "0 0 9 9"}
    assert kept.find("rect").attrib == {"class": "n", "x": "1"}
    assert kept.findall("path")[0].attrib == {"marker-end": "url(#m)", "d": "M0,0L9,9", "stroke": "currentColor"}
    assert kept.find("style").text.startswith(".workflow {.n { fill: red }")
    html = to_html(kept)
    assert "example.org" not in html
    assert "a &lt;*&gt;\\u202eb<tspan>c</tspan>d" in html


def test_raw_controls_in_a_foreign_picture_are_written_out():
    html = to_html(adopted("<svg><text>a\x1b[31m\u202eb</text></svg>", "workflow"))
    assert html == "<svg><text>a\\x1b[31m\\u202eb</text></svg>"


@pytest.mark.parametrize(
    ("svg", "reason"),
    [
        ("<svg><g></svg>", "well-formed"),
        ("", "well-formed"),
        ("<p>no picture</p>", "is no SVG"),
        ('<!DOCTYPE svg [<!ENTITY a "b">]><svg>&a;</svg>', "document type"),
    ],
)
def test_what_is_no_picture_is_refused(svg, reason):
    with pytest.raises(ValueError, match=reason):
        adopted(svg, "workflow")


# -- pictures --------------------------------------------------------------------------------------------------------


def test_a_curve_goes_through_its_points_and_a_stepped_one_along_them():
    points = {"count": [[0.0, 0.0], [1.0, 1.0]], "fused": [[0.5, 1.0], [1.0, 0.5]]}
    straight = [part.get("d") for part in curves(points, "x", "y").iter("path")]
    assert straight == ["M36.0,270.0L336.0,8.0", "M186.0,8.0L336.0,139.0"]
    stepped = [part.get("d") for part in curves(points, "x", "y", is_stepped=True).iter("path")]
    assert stepped[1] == "M36,8.0V8.0H186.0V139.0H336.0"


def test_the_fused_verdict_stands_where_its_figures_are():
    picture = curves({"fused": [[0.0, 0.0], [1.0, 1.0]]}, "x", "y", at=(0.25, 0.5))
    dot = picture.find("circle")
    assert (float(dot.get("cx")), float(dot.get("cy"))) == (36 + 75, 8 + 131)
    assert curves({"fused": []}, "x", "y", at=(None, 0.5)).find("circle") is None


def test_windows_and_flags_lie_at_their_time_in_the_timeline():
    stretch = {"start_ms": 500, "end_ms": 750, "is_anomalous": True, "is_flagged": False}
    flag = {"ts": 250, "score": 0.95, "kind": "false", "count": 3}
    picture = timeline({"start_ms": 0, "end_ms": 1000, "flags": [flag], "windows": [stretch]})
    shade, label, verdict = picture.findall("rect")
    assert [rect.get("class") for rect in (shade, label, verdict)] == ["shade", "anomalous", "normal wrong"]
    assert {(float(rect.get("x")), float(rect.get("width"))) for rect in (shade, label, verdict)} == {(402.0, 175.0)}
    mark = picture.find("path")
    assert mark.get("d").startswith("M227.0,85.0")
    assert mark.find("title").text == "1970-01-01 00:00:00 UTC: 0.950, in a normal unit, the strongest of 3"
    assert timeline({"start_ms": None, "end_ms": None, "flags": [], "windows": []}) is None


def test_a_moment_alone_has_a_timeline():
    flag = {"ts": 7, "score": 1.0, "kind": "hit", "count": 1}
    picture = timeline({"start_ms": 7, "end_ms": 7, "flags": [flag], "windows": []})
    assert ElementTree.tostring(picture).count(b"mark hit") == 1


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 4 * 10**12), st.integers(0, 4 * 10**12))
def test_time_has_at_most_ten_ticks_all_within_it(one, other):
    start, end = sorted((one, other))
    found = ticks(start, end)
    assert len(found) <= 10
    assert all(start <= ts <= end for ts, _ in found)
    assert end - start < 10_000 or len(found) >= 2
    assert len({label for _, label in found}) == len(found)


def test_ticks_name_the_day_where_there_are_several():
    assert [label for _, label in ticks(0, 5 * HOUR)][:2] == ["00:00", "01:00"]
    assert [label for _, label in ticks(0, 2 * DAY)][:2] == ["01-01 00:00", "01-01 06:00"]
    assert [label for _, label in ticks(0, 30 * DAY)][:2] == ["1970-01-01", "1970-01-08"]
    assert moment(-(10**17)) == "-100000000000000000 ms"


def test_a_bar_keeps_within_its_ends():
    bar = interval_bar(0.5, (-3.0, 0.75), -1.0, 1.0)
    assert float(bar.find("circle").get("cx")) == 5 + 110 * 0.75
    whisker = bar.findall("line")[-1]
    assert (float(whisker.get("x1")), float(whisker.get("x2"))) == (5.0, round(5 + 110 * 0.875, 1))
    assert interval_bar(None, None) is None
