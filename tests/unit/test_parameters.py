"""Parameters are the values of the message itself, with a name, a type and a unit."""

from __future__ import annotations

import pytest

from models.masking import MaskParams, mask, tokenise
from models.parameters import Parameter, parameters, slug, traced_parameters

PARAMS = MaskParams()


def found(message: str, template: str | None = None) -> list[tuple[str | None, str, str | None, str]]:
    tokens = template.split() if template else tokenise(mask([message], PARAMS).to_list(), PARAMS)[0]
    return [(one.name, one.type, one.unit, one.value) for one in parameters(tokens, message)]


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "Receiving block blk_-42 src: /10.0.0.1:430 dest: /10.0.0.2:50010",
            [
                ("block", "id", None, "blk_-42"),
                ("src", "ip", None, "/10.0.0.1:430"),
                ("dest", "ip", None, "/10.0.0.2:50010"),
            ],
        ),
        ("of size 67108864 in 35 ms", [("size", "int", None, "67108864"), (None, "duration", "ms", "35")]),
        ("sent 2703 bytes, free 5.2 KB", [("sent", "size", "bytes", "2703 bytes"), ("free", "size", "KB", "5.2 KB")]),
        ("wait=1.5 left=0x1f", [("wait", "float", None, "1.5"), ("left", "hex", None, "0x1f")]),
        ("host 'a b' (pid=7)", [("host", "text", None, "a b"), ("pid", "int", None, "7")]),
        ("[req: 1b4e28ba-2fa1-11d2-883f-0016d3cca427]", [("req", "uuid", None, "1b4e28ba-2fa1-11d2-883f-0016d3cca427")]),
        ('"GET /a/b?c=1 HTTP/1.1"', [("GET", "path", None, "/a/b?c=1"), (None, "float", None, "1.1")]),
        ("at 2024-05-16 10:00:01 by mail.example.com.", [(None, "time", None, "2024-05-16 10:00:01"), ("by", "host", None, "mail.example.com")]),
        ("mail <redacted:email:1a2b3c4d>", [("mail", "redacted", None, "<redacted:email:1a2b3c4d>")]),
        ("used 12 percent", [("used", "ratio", "percent", "12")]),
    ],
)  # fmt: skip
def test_each_value_has_the_name_type_and_unit_that_its_neighbours_give(message, expected):
    assert found(message) == expected
    assert all(value in message for *_, value in expected)


def test_what_the_tree_made_a_parameter_is_found_by_its_place():
    assert found("session opened for user ann by (uid=0)", "session opened for user <*> by (uid= <num>)") == [
        ("user", "word", None, "ann"),
        ("uid", "int", None, "0"),
    ]


def test_positions_count_from_zero():
    assert parameters(("<*>", "and", "<*>"), "x1 and y") == [
        Parameter(position=0, name=None, type="id", unit=None, value="x1"),
        Parameter(position=1, name=None, type="word", unit=None, value="y"),
    ]


def test_a_template_that_does_not_fit_the_message_gives_no_parameters():
    assert parameters(("<overflow>",), "anything 5 else") == []


def test_a_cut_message_still_gives_the_parameters_before_the_cut():
    params = MaskParams(max_tokens=3)
    message = "a 1 b 2 c 3"
    (tokens,) = tokenise(mask([message], params).to_list(), params)
    assert [one.value for one in parameters(tokens, message, params)] == ["1"]
    params = MaskParams(max_chars=5)
    (tokens,) = tokenise(mask([message], params).to_list(), params)
    assert [one.value for one in parameters(tokens, message, params)] == ["1"]


def test_a_slug_is_the_first_plain_words():
    assert slug(["Receiving", "block", "<id>", "src:", "<ip>", "dest:", "<ip>"]) == "receiving-block-src-dest"
    assert slug(["<num>", "<*>"]) == "values-only"
    assert len(slug(["word" * 9] * 9)) <= 60


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("at a5 x", ["at x..7 x", "at a_x...7 x"]),
        ('"a" f-o= 5', ['"a" foo= 5']),
    ],
)
def test_what_no_layout_allows_for_is_traced(first, others):
    (folded,) = tokenise(mask([first], PARAMS).to_list(), PARAMS)
    for message in (first, *others):
        for tokens in (folded, tuple("<*>" for _ in folded)):
            for _ in range(4):  # learned at the second, fourth, …
                parameters(tokens, first)
            assert parameters(tokens, message) == traced_parameters(tokens, message)
