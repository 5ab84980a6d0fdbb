"""Templates changed by hand from the console: the preview on recent lines."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from console.template_preview import Preview, preview
from models.control import EditTemplate
from models.masking import mask
from models.said import Said
from models.template_edits import NO_EDITS, Edits
from models.templates import ShardTemplates, TemplateParams, template_hex

LINES = [
    *(f"door {at} in the hall is green" for at in range(6)),
    *(f"door {at} in the hall is red" for at in range(4)),
    *(f"key {at} turned" for at in range(3)),
    *(f"job{at} with --fast uid={at}" for at in range(2)),
]


def mined(lines: list[str], *edits: Edits) -> tuple[ShardTemplates, list[str]]:
    """The job's templates after some lines, and the id of each line's when the lines come again under each of the changes."""
    shard = TemplateParams().build()
    texts = [f"hall\0{text}" for text in mask(lines, TemplateParams().masking).to_list()]
    ids: list[str] = []
    for one in (NO_EDITS, *edits):
        shard.edit("hall", one)
        distinct = list(dict.fromkeys(texts))
        rows = np.array([distinct.index(text) for text in texts], np.int32)
        seq = shard.step(distinct, rows, np.zeros(len(rows), np.int64), np.zeros(len(rows), np.uint8)).seq
        ids = [template_hex(int(shard.ids[at])) for at in seq]
    return shard, ids


def catalogue_of(shard: ShardTemplates) -> dict[str, str]:
    return {template_hex(int(number)): shard.template(seq) for seq, number in enumerate(shard.ids)}


def edit(action: str, **fields: str) -> EditTemplate:
    return EditTemplate(command_id="c", version=0, service="hall", by="ada", action=action, **fields)


def seen(command: EditTemplate, edits: list[dict[str, object]] | None = None, lines: list[str] = LINES) -> Preview:
    return preview(command, lines, catalogue_of(mined(LINES)[0]), edits or [])


def id_of(line: str) -> str:
    return mined(LINES)[1][LINES.index(line)]


class Everything:
    """A service that has every template."""

    def find(self, message: str) -> int | None:
        return None

    def has(self, template: int) -> bool:
        return True


def test_a_join_moves_the_lines_of_one_template_to_the_other() -> None:
    found = seen(edit("join", template_id=id_of(LINES[0]), into=id_of("key 0 turned")))
    [move] = found.moves
    assert (found.lines, found.moved, move.count) == (15, 10, 10)
    assert (move.before.template_id, move.after.template_id) == (id_of(LINES[0]), id_of("key 0 turned"))
    assert move.after.text == "key <num> turned"
    assert not move.after.is_new
    assert move.examples == tuple(LINES[:3])


def test_a_pin_moves_no_line() -> None:
    found = seen(edit("pin", template_id=id_of(LINES[0])))
    assert (found.refusal, found.moves, found.reworded) == ("", (), ())


def test_a_word_that_is_kept_parts_the_lines_that_have_it_as_the_job_would() -> None:
    # The template was made by a line with "green", so that one keeps the id, and the others get a new one.
    found = seen(edit("keep", word="red"))
    [move] = found.moves
    assert (move.count, move.after.is_new, move.after.text) == (4, True, "door <num> in the hall is red")
    _, after = mined(LINES, Edits(keep_words=frozenset({"red"})))
    assert move.after.template_id == after[LINES.index("door 0 in the hall is red")]
    kept = seen(edit("keep", word="green"))
    assert [(one.count, one.before.template_id) for one in kept.moves] == [(4, id_of(LINES[0]))]
    assert [after.text for _, after in kept.reworded] == ["door <num> in the hall is green"]


def test_a_mask_that_only_changes_how_a_template_reads_is_told_as_that() -> None:
    found = seen(edit("mask", name="flag", pattern="--[a-z]+"))
    [(before, after)] = found.reworded
    assert (before.text, after.text) == ("<id> with --fast uid=<num>", "<id> with <*> uid=<num>")
    assert (before.template_id, found.moves) == (after.template_id, ())


@pytest.mark.parametrize(
    ("action", "fields"),
    [
        ("join", {"template_id": id_of(LINES[0]), "into": id_of("key 0 turned")}),
        ("pin", {"template_id": id_of(LINES[0])}),
        ("keep", {"word": "red"}),
        ("keep", {"word": "green"}),
        ("keep", {"word": "fast"}),
        ("mask", {"name": "flag", "pattern": "--[a-z]+"}),
        ("mask", {"name": "colour", "pattern": "is (?:red|green)"}),
        ("mask", {"name": "all", "pattern": ".+"}),
    ],
)
def test_what_it_says_is_what_the_job_does_with_the_same_lines(action: str, fields: dict[str, str]) -> None:
    command = edit(action, **fields)
    said = Said()
    assert said.take_edit(command, Everything()).is_obeyed
    (_, before), (_, after) = mined(LINES, NO_EDITS), mined(LINES, said.template_edits)
    moved = Counter((one, other) for one, other in zip(before, after, strict=True) if one != other)
    assert Counter({(one.before.template_id, one.after.template_id): one.count for one in seen(command).moves}) == moved


def test_what_is_in_force_already_is_no_part_of_the_difference() -> None:
    known = [{"command_id": "a", "by": "eve", "action": "keep", "word": "red"}]
    assert seen(edit("keep", word="red"), known).moves == ()
    assert seen(edit("pin", template_id=id_of(LINES[0])), known).moves == ()


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (edit("pin", template_id="00000000"), "has no template 00000000"),
        (edit("mask", name="x", pattern="("), "no regular expression"),
        (edit("mask", name="x", pattern="a*"), "empty text"),
    ],
)
def test_what_the_job_would_refuse_is_said_before(command: EditTemplate, why: str) -> None:
    assert why in seen(command).refusal


def test_a_template_that_was_joined_already_is_not_joined_in_a_ring() -> None:
    one, other = id_of(LINES[0]), id_of("key 0 turned")
    known = [{"command_id": "a", "by": "eve", "action": "join", "template_id": one, "into": other}]
    assert "counts as" in seen(edit("join", template_id=other, into=one), known).refusal


def test_without_lines_there_is_nothing_to_show_and_no_fault() -> None:
    assert seen(edit("keep", word="red"), lines=[]) == Preview("", 0)


def test_what_is_no_template_in_the_catalogue_is_passed_over() -> None:
    odd = {"none": "x", "00000001": "", "00000000": "<overflow>"}
    assert preview(edit("keep", word="red"), LINES, odd, []).moved == 4


def test_lines_of_templates_that_the_catalogue_has_not_yet_are_new_before_and_after() -> None:
    found = preview(edit("keep", word="red"), LINES, {}, [])
    [move] = found.moves
    assert (move.before.is_new, move.after.is_new, move.count) == (True, True, 4)
