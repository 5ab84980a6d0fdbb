"""What was said on the control topic, folded; and what the command line makes of words."""

from __future__ import annotations

import itertools
import random

import pytest

from flink_jobs.commands.feedback import build, fields_of
from models.control import EVERY, EditTemplate, Feedback, Pattern, Release, SetBudget, SetMode, SetModel, Undo
from models.errors import SettingsError
from models.learning.feedback_log import FeedbackLog

ONE, OTHER = "line:order:0000000a:0000000b", "line:text:0000000c:-"


def about(service: str, command_id: str, version: int) -> dict:
    return {"command_id": command_id, "version": version, "service": service, "by": "ada"}


def feedback(
    command_id: str, version: int, label: str = "normal", *patterns: str, service: str = "cart", **fields
) -> Feedback:
    return Feedback(
        **about(service, command_id, version),
        label=label,
        patterns=tuple(Pattern(pattern=one, level=2) for one in patterns or (ONE,)),
        **{"anomaly_id": "00000000000000aa", **fields},
    )


def logged(*commands) -> FeedbackLog:
    log = FeedbackLog()
    for command in commands:
        log.add(command)
    return log


def labels(log: FeedbackLog) -> dict[str, str]:
    return {name: held.feedback.label for name, held in log.patterns("cart").items()}


def test_the_newest_word_about_a_pattern_holds_in_any_order_of_arrival():
    said = [
        feedback("a", 1, "normal", ONE, OTHER),
        feedback("b", 2, "anomalous", ONE),
        feedback("c", 3, "suppressed", OTHER),
    ]
    for order in itertools.permutations(said):
        assert labels(logged(*order)) == {ONE: "anomalous", OTHER: "suppressed"}


def test_what_was_taken_back_stays_taken_back_and_brings_nothing_older_back():
    first, second = feedback("a", 1, "normal"), feedback("b", 2, "anomalous")
    undo = Undo(**about("cart", "u", 3), target="b")
    for order in itertools.permutations([first, second, undo]):
        log = logged(*order)
        assert labels(log) == {}
        assert log.is_undone(second)
        assert not log.is_undone(first)
        assert {one.command_id for one in log.anomalies("cart").values()} == set()
    assert labels(logged(first, second, undo, feedback("d", 4, "suppressed"))) == {ONE: "suppressed"}


def test_a_command_read_twice_counts_once():
    log = logged(feedback("a", 1))
    assert not log.add(feedback("a", 1))
    assert len(log.history("cart")) == 1


def test_each_service_has_its_own_last_model_mode_and_budget_and_those_for_every_service():
    log = logged(
        SetModel(**about("cart", "a", 5), model_version="0" * 12),
        SetModel(**about("cart", "b", 4), model_version="1" * 12),
        SetMode(**about(EVERY, "c", 3), mode="learning"),
        SetMode(**about("mail", "d", 4), mode="live"),
        SetBudget(**about("cart", "e", 1), per_day=2),
        SetBudget(**about("cart", "f", 2)),
        Release(**about(EVERY, "g", 6), label="v2", ts_ms=0),
    )
    assert log.model("cart").model_version == "0" * 12
    assert (log.model("mail"), log.mode("cart").mode, log.mode("mail").mode) == (None, "learning", "live")
    assert log.budget("cart").per_day is None
    assert [one.label for one in log.releases("cart")] == ["v2"]
    assert log.services() == ["cart", "mail"]
    assert [one.command_id for one in log.history("cart")] == ["g", "a", "b", "c", "f", "e"]


def test_missed_lines_are_listed_once_each_by_their_newest_word():
    def missed(command_id: str, version: int, message: str) -> Feedback:
        return Feedback(**about("cart", command_id, version), label="missed", message=message)

    log = logged(missed("a", 1, "disk full"), missed("b", 2, "disk full"), missed("c", 3, "no route"))
    assert [one.command_id for one in log.missed("cart")] == ["b", "c"]
    log.add(Undo(**about("cart", "u", 4), target="b"))
    assert [one.command_id for one in log.missed("cart")] == ["c"]


def test_templates_that_people_joined_count_as_the_last_of_the_chain_and_a_ring_joins_nothing():
    def join(command_id: str, version: int, template: int, into: int) -> EditTemplate:
        fields = {"template_id": f"{template:08x}", "into": f"{into:08x}"}
        return EditTemplate(**about("cart", command_id, version), action="join", **fields)

    log = logged(join("a", 1, 1, 2), join("b", 2, 2, 3), join("c", 3, 5, 6), join("d", 4, 6, 5))
    assert log.joined("cart") == {1: 3, 2: 3}
    log.add(Undo(**about("cart", "u", 5), target="b"))
    log.add(Undo(**about("cart", "v", 6), target="d"))
    assert log.joined("cart") == {1: 2, 5: 6}


def test_the_oldest_commands_give_way(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("models.learning.feedback_log._MOST", 50)
    said = [feedback(f"c{at}", at) for at in range(80)]
    random.Random(1).shuffle(said)
    log = logged(*said)
    assert len(log.history("cart")) == 50
    assert log.history("cart")[0].version == 79
    assert labels(log) == {ONE: "normal"}


# ---- driftwood feedback

RECORD = {
    "service": "cart",
    "anomaly_id": "00000000000000aa",
    "ts": 1_000,
    "patterns": [{"pattern": ONE, "level": 3.2}],
}


def said(what: str, value: str | None = None, **fields):
    usual = {
        "record": None,
        "service": None,
        "anomaly_id": None,
        "patterns": [],
        "hold": None,
        "before": "",
        "minutes": 30,
    }
    made = fields_of(what, value, **{**usual, **fields}, now_ms=5_000)
    return build({**made, "command_id": "x", "version": 7, "by": "ada"})


def test_an_anomaly_is_named_by_its_record_or_by_id_and_patterns():
    by_record = said("normal", record=RECORD)
    by_hand = said("normal", service="cart", anomaly_id="00000000000000aa", patterns=[f"{ONE}=3.2"])
    assert by_record == by_hand
    assert (by_record.label, by_record.patterns[0].level, by_record.until_ms) == ("normal", 3.2, None)


def test_a_suppression_may_end_some_time_after_the_anomaly():
    assert said("suppressed", record=RECORD, hold="2h").until_ms == 1_000 + 7_200_000


@pytest.mark.parametrize(
    ("what", "value", "kind"),
    [
        ("missed", "disk full", "feedback"),
        ("undo", "c1", "undo"),
        ("mode", "live", "mode"),
        ("model", "0123456789ab", "model"),
        ("budget", "2.5", "budget"),
        ("budget", "default", "budget"),
        ("release", "v2", "release"),
    ],
)
def test_every_command_can_be_said(what: str, value: str, kind: str):
    assert said(what, value, service="cart").kind == kind


@pytest.mark.parametrize(
    ("action", "given", "made"),
    [
        ("join", {"template_id": "0000000a", "into": "0000000b"}, {"template_id": "0000000a", "into": "0000000b"}),
        ("pin", {"template_id": "0000000a"}, {"template_id": "0000000a"}),
        ("keep", {"word": "open"}, {"word": "open"}),
        ("mask", {"mask": "flag=--[a-z]+=x"}, {"name": "flag", "pattern": "--[a-z]+=x"}),
    ],
)
def test_templates_can_be_changed(action: str, given: dict[str, str], made: dict[str, str]):
    edit = said("template", action, service="cart", edit={"into": None, **given})
    assert isinstance(edit, EditTemplate)
    assert edit.model_dump(include={"action", "template_id", "into", "word", "name", "pattern"}, exclude_none=True) == {
        "action": action,
        **made,
    }


@pytest.mark.parametrize(
    ("what", "value", "fields", "told"),
    [
        ("nonsense", None, {"service": "cart"}, "choose from"),
        ("normal", None, {}, "--service"),
        ("normal", None, {"service": "cart"}, "--record"),
        ("normal", None, {"record": RECORD, "hold": "2h"}, "until it is undone"),
        ("suppressed", None, {"record": RECORD, "hold": "soon"}, "30m, 12h or 7d"),
        ("missed", None, {"service": "cart"}, "Which line"),
        ("undo", None, {"service": "cart"}, "needs a value"),
        ("mode", "asleep", {"service": "cart"}, "no command"),
        ("model", "newest", {"service": "cart"}, "no command"),
        ("budget", "few", {"service": "cart"}, "no number"),
        ("template", None, {"service": "cart"}, "needs a value"),
        ("template", "split", {"service": "cart"}, "choose join"),
        ("template", "join", {"service": "cart", "edit": {"into": "0000000a"}}, "--template-id and --into"),
        ("template", "pin", {"service": "cart", "edit": {"word": "x", "template_id": "0000000a"}}, "--template-id"),
        ("template", "pin", {"service": "cart", "edit": {"template_id": "ten"}}, "no command"),
        ("template", "mask", {"service": "cart", "edit": {"mask": "--[a-z]+"}}, "NAME=REGEX"),
        ("mode", "live", {"service": "cart", "edit": {"word": "open"}}, "--word is of"),
        ("normal", None, {"service": "cart", "anomaly_id": "00000000000000aa", "patterns": [ONE]}, "level is missing"),
    ],
)
def test_what_is_missing_or_wrong_is_said_before_anything_is_sent(what, value, fields, told):
    with pytest.raises(SettingsError, match=told):
        said(what, value, **fields)
