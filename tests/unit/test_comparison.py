"""The miners to compare with find what their papers say, and the commands offer them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from flink_jobs.commands import evaluate, templates
from models.comparison import MASKS, PARSERS, WORDS, compared_params, miner
from models.errors import SettingsError
from models.miners.iplom import Iplom
from models.miners.spell import Spell, common
from models.templates import TemplateParams

LINES = st.lists(st.lists(st.sampled_from("abcde"), max_size=6).map(tuple), max_size=12)
app = typer.Typer()
app.command("templates")(templates.command)
app.command("evaluate")(evaluate.command)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def longest(one: tuple[str, ...], other: tuple[str, ...]) -> int:
    """Length of the longest common subsequence, by the definition."""
    if not one or not other:
        return 0
    if one[0] == other[0]:
        return 1 + longest(one[1:], other[1:])
    return max(longest(one[1:], other), longest(one, other[1:]))


@settings(max_examples=80, deadline=None)
@given(*(st.lists(st.sampled_from("abc"), max_size=6).map(tuple) for _ in range(2)))
def test_what_two_lines_have_in_common_is_their_longest_common_subsequence(one, other):
    kept = [token for token in common(one, other) if token != "<*>"]
    assert len(kept) == longest(one, other)
    for line in (one, other):
        rest = iter(line)
        assert all(token in rest for token in kept)


def test_spell_joins_lines_of_any_length_that_have_half_their_tokens_in_common():
    spell = Spell()
    lines = (
        "Warmth ( 41 C ) exceeds level",
        "Warmth ( 41 C , 43 C ) exceeds level",
        "Job has ended",
        "Job has not come to",
    )
    assert [spell.add(line.split()) for line in lines] == [0, 0, 1, 2]  # the last has 2 of 5 in common
    assert " ".join(spell.templates[0]) == "Warmth ( 41 C <*> ) exceeds level"


def test_spell_takes_the_longest_subsequence_and_then_the_shorter_template():
    spell = Spell()
    numbers = [spell.add(line.split()) for line in ("a b x y z w", "a b q r s", "a b t u", "a b x t")]
    assert numbers == [0, 1, 1, 0]


@settings(max_examples=60, deadline=None)
@given(LINES)
def test_every_line_fits_its_template_whichever_the_miner(lines):
    spell = Spell()
    of_spell = [spell.add(line) for line in lines]
    of_iplom, made = Iplom().mine(lines)
    assert all(_fits(line, spell.templates[number]) for line, number in zip(lines, of_spell, strict=True))
    for line, number in zip(lines, of_iplom, strict=True):
        assert len(made[number]) == len(line)
        assert all(token in ("<*>", word) for token, word in zip(made[number], line, strict=True))


def _fits(line: tuple[str, ...], template: tuple[str, ...]) -> bool:
    rest = iter(line)
    return all(token in rest for token in template if token != "<*>")


@pytest.mark.parametrize(
    ("lines", "templates"),
    [
        (["a b", "a b c", "b"], ["a b", "a b c", "b"]),  # by length
        (  # by position
            ["on a b x p", "on a b y q", "off c d z r", "off c d w s"],
            ["on a b <*> <*>", "off c d <*> <*>"],
        ),
        (["k x 1 p", "k y 2 q"], ["k x 1 p", "k y 2 q"]),  # one with one
        (  # a word with many values: the values are no constants
            [f"k open f{at}" for at in range(8)] + [f"k close g{at}" for at in range(8)],
            ["k open <*>", "k close <*>"],
        ),
        (  # a word with few others in many lines: constants
            [f"k a {word}" for word in "pq" * 8] + [f"k b {word}" for word in "rs" * 8],
            ["k a p", "k a q", "k b r", "k b s"],
        ),
        ([f"k {one} {other}" for one in "ab" for other in "pq"], ["k <*> <*>"]),  # many with many
        (["k a b x", "k a b y"], ["k a b <*>"]),  # good enough
    ],
)
def test_iplom_splits_by_length_by_position_and_by_what_comes_together(lines, templates):
    groups, made = Iplom().mine([tuple(line.split()) for line in lines])
    assert [" ".join(template) for template in made] == templates
    assert max(groups) == len(templates) - 1


def test_a_miner_or_a_choice_that_is_not_there_is_refused_with_a_reason():
    with pytest.raises(SettingsError, match="choose one of drain, drain3, spell, iplom"):
        miner("lenma")
    with pytest.raises(SettingsError, match="choose of default, five, none and all, half, keep, none"):
        compared_params(TemplateParams(), masks="six")
    with pytest.raises(SettingsError, match="choose of"):
        compared_params(TemplateParams(), words="some")


def test_half_of_the_words_are_always_the_same_half():
    ours = TemplateParams().masking
    half = compared_params(TemplateParams(), words="half").masking
    assert half == compared_params(TemplateParams(), words="half").masking
    assert half.event_words is not None
    assert ours.event_words is not None
    for some, all_ in ((half.event_words, ours.event_words), (half.keep_words, ours.keep_words)):
        assert some < all_
        assert 0.4 < len(some) / len(all_) < 0.6


def test_fewer_masks_and_words_fold_and_part_less():
    messages = ["link 5 is up on 10.0.0.1 after a1", "link 6 is down on 10.0.0.1 after a2", "read link 7 of b"]
    counts = {}
    for masks in MASKS:
        for words in WORDS:
            found = miner("drain", compared_params(TemplateParams(), masks, words))
            found.add(messages)
            counts[masks, words] = found.grouped().templates
    assert counts["default", "all"] == [
        "link <num> is up on <ip> after <id>",
        "link <num> is down on <ip> after <id>",
        "read link <num> of b",
    ]
    assert counts["default", "none"][0] == "link <num> is <*> on <ip> after <id>"
    assert counts["five", "none"][0] == "link <num> is <*> on <ip> after <*>"
    assert counts["none", "none"][0] == "link <*> is <*> on 10.0.0.1 after <*>"
    assert len(counts["none", "keep"]) == 3


@pytest.mark.parametrize("parser", PARSERS)
def test_every_miner_is_offered_by_both_commands(tmp_path: Path, parser: str):
    lines = [f"paid {at} coins to bank" for at in range(9)] + ["disk is full"] * 3
    folder = tmp_path / "set" / "Shop"
    folder.mkdir(parents=True)
    (folder / "Shop_2k.log").write_text("\n".join(lines))
    rows = [f"{line},{'E1' if 'paid' in line else 'E2'}" for line in lines]
    (folder / "Shop_2k.log_structured.csv").write_text("\n".join(["Content,EventId", *rows]))
    about = {"name": "set", "unit": "template", "train_until": None, "train_sessions": None, "session_field": None}
    (tmp_path / "set" / "dataset.json").write_text(json.dumps(about))
    found = json.loads(run("templates", folder / "Shop_2k.log", "--parser", parser, "--json"))
    assert [(row["count"], row["template"]) for row in found["templates"]] == [
        (9, "paid <num> coins to bank"),
        (3, "disk is full"),
    ]
    figures = json.loads(run("evaluate", tmp_path / "set", "--parser", parser, "--masks", "five", "--json"))
    assert (figures["parser"], figures["masks"], figures["words"]) == (parser, "five", "all")
    assert figures["average"] == {"grouping_accuracy": 1.0, "grouping_accuracy_raw": 1.0}


def test_other_data_sets_refuse_the_choice_of_a_miner(tmp_path: Path):
    about = {"name": "set", "unit": "line", "train_until": None, "train_sessions": None, "session_field": None}
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    (tmp_path / "logs.jsonl").write_text("")
    (tmp_path / "labels.csv").write_text("unit,label\n")
    with pytest.raises(SettingsError, match="are for sets of templates"):
        run("evaluate", tmp_path, "--parser", "spell")
