"""The header that lines of a file have in common is found and taken off, and nothing of the content with it."""

from __future__ import annotations

import random
import time

import pytest

from models.grouping import Contents
from models.header import find_header

CONTENTS = [
    "disk is full",
    "user=5 opened a session",
    "Reading block 77 from 10.0.0.7",
    "error while waiting for 3 workers",
    "[unit: 5] came back after 30 ms",
    "retry: gate is slow",
    "42 parts were moved to shelf 9",
    "(cache) swept",
    "-5 degrees at the sensor",
    "Tail of list reached - nothing to do",
]
#: Each with what differs from line to line in braces: d a digit, L a level, n a name, w a word, m a mark.
FORMATS = {
    "rack": "{m} 11{d}{d}{d}{d}{d}{d}{d}{d} 2005.06.1{d} R0{d}-M{d}-N{w} 2005-06-1{d}-15.42.1{d}.363{d}79 R0{d}-{w} RAS {n} {L} ",
    "cabinet": "{d}{d}{d} node-{d} unix.{w} {w}.{w} 107780{d}{d}{d}{d} {d} ",
    "pipes": "2017121{d}-22:15:1{d}:606|Step_{w}|3000{d}|",
    "phone": "03-1{d} 16:13:38.8{d}{d}  17{d}{d}  23{d}{d} D {n}Manager: ",
    "tunnel": "[10.1{d} 16:4{d}:06] {n}.exe - ",
    "setup": "2016-09-2{d} 04:30:3{d}, Info                  {n}    ",
    "daemons": "- 1131{d}{d}{d}{d}{d}{d} 2005.11.1{d} dn{d} Nov {d} 12:01:0{d} dn{d}/dn{d} crond(pam_unix)[{d}{d}]: ",
    "laptop": "Jul  {d} 09:00:5{d} host-10-{d}-160 com.acme.{w}[{d}] (com.acme.agent[{d}{d}]): ",
    "logger": "2024-05-16 10:00:0{d}.{d}{d}{d} [pool-{d}-thread-{d}] {L}  com.acme.{n}.{n} - ",
    "bars": "2024-05-16T10:00:0{d}Z | {L} | {d}{d} | api.{n} | ",
    "prefix": "api-{d}.log 2024-05-16 10:00:0{d}.25{d} 25{d}{d} {L} store.{w}.server [req-{d}f{d}{d} - -] ",
    "colons": "[{L}] 2024/05/16 10:00:1{d} main.{w}:{d}{d}: ",
    "none": "",
}


def line(form: str, rng: random.Random) -> str:
    choices = {
        "d": "123456789",
        "m": ["-"] * 9 + ["ALARM"],
        "L": ["INFO", "WARN", "ERROR"],
        "n": ["Gate", "Cache", "Mover"],
        "w": ["hw", "io", "net"],
    }
    for kind, values in choices.items():
        while f"{{{kind}}}" in form:
            form = form.replace(f"{{{kind}}}", rng.choice(values), 1)
    return form


@pytest.mark.parametrize("kind", FORMATS)
def test_content_of_any_format_is_what_stands_after_the_header(kind):
    rng = random.Random(kind)
    expected = [rng.choice(CONTENTS) for _ in range(300)]
    lines = [line(FORMATS[kind], rng) + content for content in expected]
    found = Contents(1_700_000_000_000).read([one.encode() for one in lines])
    assert [text.strip() for text in found] == expected


@pytest.mark.parametrize(
    "lines",
    [
        CONTENTS,
        [f"{at} parts of {at} were moved" for at in range(40)],
        [f'{{"time": "2024-05-16T10:00:01Z", "n": {at}}}' for at in range(40)],
        [f"host{at % 3} api: said {at}" for at in range(40)],
        [""] * 40,
        [],
        ["2024-05-16 10:00:01 INFO api: done"] * 7,
    ],
    ids=["sentences", "numbers", "objects", "names", "blank", "nothing", "too few"],
)
def test_lines_without_a_time_or_a_level_or_too_few_of_them_have_no_header(lines):
    assert find_header(lines) is None


def test_words_after_the_time_are_content():
    lines = [f"2024-05-16 10:00:01 user u{at} came from 10.0.0.{at}" for at in range(40)]
    header = find_header(lines)
    assert header is not None
    assert [header.content(line) for line in lines] == [f"user u{at} came from 10.0.0.{at}" for at in range(40)]


def test_lines_written_otherwise_and_lines_of_a_header_alone_stay_as_they_are():
    header = find_header([f"a{at}.log 2024-05-16 10:00:01.{at} INFO api: done" for at in range(40)])
    assert header is not None
    strays = [
        "Caused by: java.io.IOException: gone",
        "    at a.b(C:1)",
        "",
        "a1.log 2024-05-16 10:00:01.250 INFO api: ",
    ]
    assert [header.content(line) for line in strays] == strays
    assert header.content("b.log 2025-01-01 00:00:00.5 WARN db: is cold") == "is cold"


def test_the_header_of_the_first_batch_holds_for_the_rest_of_the_file():
    contents = Contents(1_700_000_000_000)
    first = [f"x.log 2024-05-16 10:00:0{at}.250 INFO api.Gate: took {at} ms".encode() for at in range(9)]
    assert contents.read(first)[3] == "took 3 ms"
    assert contents.read([b"y.log 2024-05-17 10:00:01.250 WARN api.Gate: is cold"]) == ["is cold"]


@pytest.mark.parametrize("bit", ["[", "[(", "(", "a.", "a ", "1 ", "- ", "x|", "a: ", "[[a]"])
def test_a_hostile_line_is_read_in_time_proportional_to_its_length(bit):
    header = find_header([f"a{at}.log 2024-05-16 10:00:01.{at} INFO api.Gate [r-{at}] done" for at in range(40)])
    assert header is not None
    head = "a1.log 2024-05-16 10:00:01.5 INFO "
    started = time.perf_counter()
    for line in (bit * 50_000, head + bit * 50_000, head + "api.Gate " + bit * 50_000):
        header.content(line)
        find_header([line] * 9)
    assert time.perf_counter() - started < 1.0  # a few ms; what backtracks takes minutes
