"""Masking folds values, keeps meaning, and costs a bounded time."""

from __future__ import annotations

import time

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.errors import SettingsError
from models.masking import CUT, Mask, MaskParams, mask, signature, tokenise
from models.tracing import trace
from models.vocabulary import EVENT_WORDS, KEEP_WORDS

PARAMS = MaskParams()


def masked(message: str) -> str:
    return " ".join(tokenise(mask([message], PARAMS).to_list(), PARAMS)[0])


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("took 35ms or 35 ms, 12.5 % of 3", "took <amount> or <num> ms, <num> % of <num>"),
        ("free 5.2 KB of 2560MB", "free <amount> of <amount>"),
        ("from /10.0.0.7:50010 to 10.0.0.8", "from <ip> to <ip>"),
        ("via 10.0.0.1,10.0.0.2 ok", "via <ip> ok"),
        ("id 1b4e28ba-2fa1-11d2-883f-0016d3cca427 at 0xdeadbeef1", "id <uuid> at <id>"),
        ("card 00:16:3e:aa:bb:cc", "card <id>"),
        ("task_2017_0042_m: 3", "<id>: <num>"),
        ("open /var/lib/x/y.log", "open <path>"),
        (r"open C:\Program\x.dll now", "open <path> now"),
        ("get https://a.example.com/x?y=1 now", "get <url> now"),
        ('"GET /a/b?c=1 HTTP/1.1" 200', "GET <path> HTTP/<num> <num>"),
        ("lock \"the one\" and 'the other'", "lock <str> and <str>"),
        ("can't find the user's home", "can't find the user's home"),
        ("login from mail.example.com.", "login from <host>."),
        ("java.net.SocketException: gone", "java.net.SocketException: gone"),
        ("at 2024-05-16T10:00:01.250Z and 06/10/2013 17:26", "at <time> and <time>"),
        ("at Fri Jun 17 07:07:00 2005", "at <time>"),
        ("uid=0 tty= (by=x,to=y)", "uid= <num> tty= (by= x, to= y)"),
        ("ids a1 b2, c3 and 1, 2, 3", "ids <id> and <num>"),
        ("body {'a': {'b': 1}} [x, y]", "body <obj> <list>"),
        ("mail <redacted:email:1a2b3c4d> key <redacted:api_key:00000000>", "mail <redacted> key <redacted>"),
        ("boom\n  at a.b(C:1)\n  at d.e(F:2)\nCaused by: bang", "boom <lines> Caused by: bang"),
        ("first\nsecond", "first second"),
        ("any <*> here", "any <any> here"),
        ('"Killing container" pod="a/b" id=5', "Killing container pod= <str> id= <num>"),
        ('proxy.go:12] "Sync failed" err="x"', "proxy.go:<num>] Sync failed err= <str>"),
        ('said "no way" to it=5', "said <str> to it= <num>"),
        ("after <1 sec, <5ms or < 5", "after <amount>, <amount> or < <num>"),
        ("op. allowed.....1 mode...0 a..b 1..10", "op. allowed.....<num> mode...<num> a..b <num>..<num>"),
        ("speeds ( 3552 35 **** ) of (41) and (1 2)", "speeds (<num>) of (<num>) and (<num>)"),
        (r"read C:\Program Files (x86)\Mill 2\a.dll and D:\b", r"read <path> and D:\b"),
        ("naïve café № 5", "naïve café № <num>"),
        ("", ""),
    ],
)
def test_values_are_folded_and_words_stay(message, expected):
    assert masked(message) == expected


def test_a_column_is_masked_as_its_lines_one_by_one():
    messages = ["a 1", 'b "x" c', "p /a/b/c", "see https://x.y/z", "l\n  m", "plain", "<redacted:email:1a2b3c4d>"]
    assert mask(messages, PARAMS).to_list() == [mask([message], PARAMS)[0] for message in messages]
    assert mask(pl.Series("any", messages), PARAMS).to_list() == mask(messages, PARAMS).to_list()
    assert mask([], PARAMS).to_list() == []


def test_lines_of_too_many_characters_or_tokens_are_cut_with_a_mark():
    params = MaskParams(max_tokens=3, max_chars=10)
    assert mask(["abcdefghijk", "ééééééééé"], params).to_list() == [f"abcdefghij {CUT}", "ééééééééé"]
    assert tokenise(["a b c", "a b c d"], params) == [("a", "b", "c"), ("a", "b", "c", CUT)]


MESSAGES = st.text(st.sampled_from("aZx09 ./:-_=,;()[]{}<>*\"'\\\n\té€"), max_size=60)


@pytest.mark.parametrize(
    "bit",
    [
        "(",
        "[* ",
        "( 1 ",
        "a..",
        "..",
        "a:\\a ",
        "a:\\",
        "\\a",
        '] "a',
        '"a" ',
        "<1",
        "{",
        "[a,",
        "a.com.",
        "1.1.",
        "=",
        "'a",
    ],
)
def test_a_hostile_line_is_masked_and_traced_in_time_proportional_to_its_length(bit):
    message = bit * (PARAMS.max_chars // len(bit))
    started = time.perf_counter()
    (tokens,) = tokenise(mask([message], PARAMS).to_list(), PARAMS)
    signature(tokens, PARAMS)
    trace(message, PARAMS)
    assert time.perf_counter() - started < 1.0  # some 10 ms; what backtracks takes minutes


@settings(max_examples=100, deadline=None)
@given(MESSAGES)
def test_one_message_traced_by_python_has_the_tokens_that_the_column_has(message):
    pieces = trace(message, PARAMS)
    assert [piece.token for piece in pieces] == masked(message).split()
    assert all(piece.raw in message for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(MESSAGES)
def test_no_token_is_the_parameter_mark_of_the_tree(message):
    assert "<*>" not in masked(message).split()


def test_keep_words_part_everywhere_and_event_words_only_where_they_are_no_value():
    def events(text: str) -> list[str]:
        return [word for _, word in signature(text.split(), PARAMS).events]

    def keep(text: str) -> list[str]:
        return [word for _, word in signature(text.split(), PARAMS).keep]

    assert keep("Service STARTED, link is= down") == ["started", "down"]
    assert events("total memory name= memory user backup state ZOMBIE is= WRAITH") == [
        *("total", "memory", "name", "ZOMBIE", "is")
    ]
    assert events("<id> Frobnicating it") == ["frobnicating"]  # the first plain word after masks leads
    assert events("- frank came") == []
    assert events("it was never Frobnicated") == ["frobnicated"]  # a verb by its ending; "never" parts anyway
    assert events("king red String thing") == ["string", "thing"]


def test_keys_part_and_names_of_who_did_it_do_not():
    def events(text: str) -> list[tuple[int, str]]:
        return list(signature(tokenise([text], PARAMS)[0], PARAMS).events)

    assert events("lamp in =<num>") == [(1, "in")]
    assert events("lamp out =<num>") == [(1, "out")]
    assert events("token for sync from <ip>") == []
    assert events("token for sync") == [(2, "sync")]
    assert events("<list> of <time>") == [(1, "of")]  # what leads; a placeholder is no word


def test_what_leads_is_a_word_and_a_value_does_not_choose_the_path():
    def lead(token: str) -> str:
        return signature((token, "x"), PARAMS).lead

    assert [lead(token) for token in ("Reading", "main:", "double-buffer", "load/store")] == ["", "", "", ""]
    assert [lead(token) for token in ("<ip>", "a.b.Gate:", "(root)", "[main]", "/tmp", "x1", "a@b")] == ["<*>"] * 7
    assert [lead(token) for token in ("isOn:true,", "lr:<id>", "Token{<id>")] == ["isOn", "lr", "Token"]


def test_without_event_words_only_keep_words_part():
    params = MaskParams(event_words=None, keep_words=frozenset({"red"}))
    assert signature(("<id>", "read", "RED", "RUNNING"), params) == (4, ((2, "red"),), (), "<*>")


def test_the_word_lists_hold_the_pairs_that_matter_and_do_not_overlap():
    pairs = (
        "started stopped opened closed up down enabled disabled success failed acquired released connected disconnected"
    )
    assert set(pairs.split()) <= KEEP_WORDS
    assert not KEEP_WORDS & EVENT_WORDS


def test_settings_travel_as_json():
    params = MaskParams(masks=(Mask("[0-9]+", "<num>"),), keep_words=frozenset({"red"}), event_words=None, max_chars=9)
    for one in (params, PARAMS):
        assert MaskParams.from_json(one.to_json()) == one
    assert PARAMS.to_json().keys() == {"max_tokens", "max_chars"}


@pytest.mark.parametrize("pattern", ["(", "a(?=b)", r"(a)\1"])
def test_a_pattern_that_one_engine_cannot_read_is_refused_with_a_reason(pattern):
    with pytest.raises(SettingsError, match="cannot be read"):
        MaskParams(masks=(Mask(pattern, "<x>"),))
    with pytest.raises(SettingsError, match="at least 1"):
        MaskParams(max_chars=0)
