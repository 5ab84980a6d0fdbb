"""What a layout reads is what tracing finds, whatever stands in the place of the values."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import parameters as module
from models.grouping import mine
from models.layouts import MAX_CHARS
from models.masking import Mask, MaskParams, mask, tokenise
from models.parameters import parameters, traced_parameters
from models.sample.bench import BenchParams, bench_lines
from models.sample.shop import ShopParams, generate

PARAMS = MaskParams()

# Values that the masks take for one thing, for several, or for part of one, by what stands beside them
VALUES = [
    *["5", "-5", "1.5", "1,234", "5-6", "5/6", "10:00:01", "007", "5.", "5/6/7", "12/05/2024", "-", "of", "is", "com"],
    *[
        "a5",
        "node-12",
        "blk_-42",
        "7f9c",
        "5d",
        "5s-abc",
        "abc-5s",
        "x2024-01-02",
        "a1.2.3.4",
        "aa:bb:cc:dd:ee:f1",
        "f1",
        "web1.example.com",
        "B-5",
        "a5.",
        "5-abc",
    ],
    *[
        "foo",
        "GET",
        "B",
        "KB",
        "bytes",
        "Mon",
        "Mar",
        "UTC",
        "xMon",
        "x.com",
        "org.Foo",
        "a:b",
        "list:all",
        "foo-bar",
        "u",
        "b",
        "<num>",
        "<foo>",
        "None",
        "true",
    ],
    *[
        "10.0.0.1",
        "/10.0.0.1:430",
        "10.0.0.1,10.0.0.2",
        "/a/b",
        "/a",
        "/a/b?c=1",
        "/a/b?c=1)",
        "/a/2024-01-02/b",
        "C:\\a\\b",
        "http://a.b/c",
    ],
    *["1b4e28ba-2fa1-11d2-883f-0016d3cca427", "abcdefab-abcd-abcd-abcd-abcdefabcdef", "mail.example.com", "a.com:80"],
    *("2024-01-02", "2024-01-02 10:00:01", "Sun Dec 04 04:47:44 2005", "Mon Mar 5", "5 KB", "5ms", "5 bytes"),
    *('"x y"', '"GET /x"', "'a b'", "'", '"', "{'a': 1}", "[a, b]", "<redacted:email:1a2b>", "\n  at foo"),
]
BETWEEN = [
    *["=", ":", "(", ")", "[", "]", ",", ";", "|", "#", "`", "/", ".", "-", "_", "'", '"', "<", ">"],
    " ",
    " ",
    " ",
    " ",
    ": ",
    ", ",
    " (",
    "",
    " Mar 5",
    ' "GET ',
    " KB",
    "/b:",
]


@pytest.fixture(autouse=True)
def no_layouts_yet():
    module._plan.cache_clear()


def tokens_of(message: str) -> tuple[str, ...]:
    return tokenise(mask([message], PARAMS).to_list(), PARAMS)[0]


def learn(tokens: tuple[str, ...], *messages: str) -> None:
    """Show each message until its layout is kept."""
    for message in messages:
        module._plan(tokens).traced = 1
        parameters(tokens, message)


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The messages that were traced by `parameters`."""
    seen: list[str] = []
    learned: Callable[..., list[module.Parameter]] = module._learn

    def spy(plan, tokens, message, params):
        seen.append(message)
        return learned(plan, tokens, message, params)

    monkeypatch.setattr(module, "_learn", spy)
    return seen


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_message_that_differs_in_its_values_is_read_as_tracing_reads_it(data):
    between = data.draw(st.lists(st.sampled_from(BETWEEN), min_size=2, max_size=5))
    values = st.lists(st.sampled_from(VALUES), min_size=len(between), max_size=len(between))

    def message() -> str:
        return "".join(chain(*zip(data.draw(values), between, strict=True)))

    first = message()
    free = data.draw(st.sets(st.integers(0, 9)))
    tokens = tuple("<*>" if at in free else token for at, token in enumerate(tokens_of(first)))
    learn(tokens, first)
    for one in (first, message(), message(), message(), message()):
        assert parameters(tokens, one) == traced_parameters(tokens, one)


@pytest.mark.parametrize(
    ("first", "others"),
    [
        ("took 5 foo", ["took 5 KB", "took 5 B", "took 5 bytes", "took 5 Mon"]),
        ("used node5 KB", ["used node-5 KB", "used v1.5 KB"]),
        ("on a.com KB", ["on a.com:80 KB"]),
        ("foo Mar 5", ["Mon Mar 5", "xMon Mar 5"]),
        ("file /bcd:5 x", ["file /bcd:5/6 x", "file /bcd:-5 x"]),
        ("from /bcd:10.0.0.1 x", ["from /bcd:/10.0.0.1 x"]),
        ("id node5 x", ["id 5d x", "id abc-5s x", "id x2024-01-02 x", "id a1.2.3.4 x", "id 5.5s x"]),
        ("id node5:7", ["id node5:10:11:12:13:14", "id a5:7", "id a5:-7"]),
        ("at 2024-01-02 5 x", ["at 2024-01-02 10:00 x", "at 2024-01-02 10:00:01 x"]),
        ("get /a/b) x", ["get /a/b?c=1) x", "get /a/2024-01-02/b) x"]),
        ("who foo x", ["who abcdefab-abcd-abcd-abcd-abcdefabcdef x", "who x.com x", "who org.Foo x"]),
        ('say "x" and "y"', ['say "GET /x" and "y"', 'say "" and "it\'s"']),
        ("said 'x' and 'y'", ["said 'a \"b' and 'y'", "said 'don't' and 'y'"]),
        ("on mail.example.com x", ["on abcdefab-abcd-abcd-abcd-abcdefabcdef.com x", "on a.com:80 x"]),
        ("get /a/b| x", ["get /a/b?c=1| x"]),
        ("id node5:10:11:12:13:14 x", ["id a5:10:11:12:13:14 x"]),
        ("say foo' y' z", ["say b' y' z"]),
        ("made <x:5> of it", ["made <x:-5> of it"]),
        ("a <redacted:email:-5> b", ["a <redacted:email:5> b"]),
        ('"GET /a HTTP/1.1" 200', ['"GET /a/2024-01-02 HTTP/1.1" 200', '"GET /a?b=/c/d HTTP/2.0" -1']),
    ],
)
def test_a_value_that_the_masks_fold_otherwise_is_not_taken_for_one_of_the_layout(first, others):
    folded = tokens_of(first)
    for tokens in (folded, tuple("<*>" for _ in folded), tuple("<*>" if "<" in token else token for token in folded)):
        module._plan.cache_clear()
        learn(tokens, first)
        for one in (first, *others):
            assert parameters(tokens, one) == traced_parameters(tokens, one)


def test_lines_of_the_samples_are_read_the_same_way_and_nearly_all_without_tracing(traced):
    bench = [
        json.loads(line)["message"] for line in chain.from_iterable(bench_lines(BenchParams(lines=400, templates=32)))
    ]
    shop = [event.message for line in generate(ShopParams(requests=30)) for event in line.events]
    for messages in (bench, shop):
        shard, groups = mine(messages)
        pairs = [(shard.tokens(group), message) for group, message in zip(groups, messages, strict=True)]
        for tokens, message in pairs:
            assert parameters(tokens, message) == traced_parameters(tokens, message)
        traced.clear()
        for tokens, message in pairs:
            parameters(tokens, message)
        assert len(traced) < 0.05 * len(pairs)


def test_a_template_seen_once_costs_no_pattern_and_patterns_are_bounded(traced):
    tokens = ("x", "<*>")
    parameters(tokens, "x foo")
    assert module._plan(tokens).layouts == ()
    learn(tokens, *(f"x {'<' * number}foo" for number in range(30)))
    assert len(module._plan(tokens).layouts) == module._MAX_LAYOUTS


def test_other_masks_and_long_or_cut_messages_are_traced():
    own = MaskParams(masks=(Mask("five", "<num>"),))
    tokens = ("a", "<num>")
    learn(tokens, "a 5")
    assert [one.value for one in parameters(tokens, "a five", own)] == ["five"]
    assert parameters(tokens, "a 5", own) == []
    assert parameters(tokens, "a 55", MaskParams(max_chars=3)) == traced_parameters(
        tokens, "a 55", MaskParams(max_chars=3)
    )
    capped = MaskParams(max_tokens=2)
    assert parameters(tokens, "a 5 b", capped) == traced_parameters(tokens, "a 5 b", capped) != []
    assert parameters(tokens, "a 5 b") == []


@pytest.mark.parametrize(
    "bit", ["a.", "5-", "a5.", "/a", "'", '"', "\n a", "1.1.", "12:", "abc:", "a.com.", "<redacted:a", "5 "]
)
def test_a_hostile_line_is_refused_in_time_proportional_to_its_length(bit):
    message = "id a5 at /a/b by foo in 5 ms of 5 KB 'a b' \"c d\" on mail.example.com from 10.0.0.7 x"
    tokens = tuple("<*>" if token == "foo" else token for token in tokens_of(message))
    learn(tokens, message)
    (kept,) = module._plan(tokens).layouts
    for value in ("a5", "/a/b", "foo", "5", "5 KB", "a b", "c d", "mail.example.com", "10.0.0.7"):
        hostile = message.replace(value, value + bit * (8 * MAX_CHARS // len(bit)), 1)
        started = time.perf_counter()
        kept.pattern.fullmatch(hostile)
        assert time.perf_counter() - started < 0.5  # a few ms; what backtracks takes minutes
