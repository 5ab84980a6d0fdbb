"""From the training buffer to a model that is published or refused."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import orjson
import pytest

from models.artefact import Artefact
from models.batch import BatchParams
from models.control import EditTemplate, Feedback, Pattern, Undo
from models.datasets import to_batches
from models.fusion import FusionParams
from models.learning.buffered import LEARNABLE, Buffer, BufferedLines, BufferedTemplates, gather
from models.learning.due import DueParams, Last, again, enough
from models.learning.feedback_log import FeedbackLog
from models.learning.gate import GateParams, held_out, is_told, most_by_chance
from models.learning.marked import Anomaly, Oddity, TextFinder, is_odd, oddities, oddity_of, scenes
from models.learning.renewal import learnable, prepare, renew
from models.learning.telling import JobParams, told
from models.masking import MaskParams
from models.packing import group_key, unpack
from models.shard import ShardParams
from models.templates import TemplateParams, template_hex
from models.train import TrainParams, learn, train
from models.training_buffer import Sequence as Packed
from models.training_buffer import sequences
from models.windows import WindowParams
from tests.unit.buffer_cases import buffered, entries, sequence_batches
from tests.unit.shop_model import DETECTORS, QUICK, STEPS, record, shop, shop_model

#: A budget for logs of minutes, at which what is odd is told.
EAGER = FusionParams(budget_per_day=10_000)
JOB = JobParams(TemplateParams(), WindowParams(), EAGER)
MASKING = MaskParams()
OWN = group_key("cart", None)
DAY = JobParams(TemplateParams(), WindowParams(), FusionParams())
FLEETING = replace(QUICK, detectors=("novelty", "ngram", "count"))


def lines_of(*rows: tuple[int, int]) -> BufferedLines:
    """Lines of (template, session), one a second; session 0 is none."""
    template, session = (np.array(column) for column in zip(*rows, strict=True))
    key = np.where(session > 0, session, OWN).astype(np.uint64)
    return BufferedLines("cart", template.astype(np.uint32), key, session > 0, 1_000 * np.arange(len(rows)))


def sequence(partition: int, first: int, *rows: tuple[int, int]) -> Packed:
    """Lines of (template, seconds) from an offset on."""
    template, seconds = (np.array(column) for column in zip(*rows, strict=True))
    size = len(rows)
    return Packed(
        "cart",
        "logs",
        partition,
        np.arange(first, first + size),
        template.astype(np.uint32),
        np.full(size, 7, np.uint64),
        seconds * 1_000,
    )


@functools.cache
def steady_model() -> Artefact:
    """A model of so many sessions that one odd line is told."""
    return learn("cart", [0], Buffer(*buffered(shop(1_000), size=5_000), MASKING), FLEETING, {"data_sha256": "x"})


def day(*ways: Sequence[str]) -> Iterator[bytes]:
    """Sessions five minutes apart, each of which goes its way."""
    for number, steps in enumerate(ways):
        for at, text in enumerate(steps):
            yield record(300 * number + at, text, session=f"d{number}")


def ids() -> dict[str, int]:
    """The template id of each of the shop's steps."""
    model = shop_model()
    return {name: number for name, number in zip(model.names, model.vocabulary, strict=True) if name}


# ---- the buffer


def test_a_model_trained_from_the_buffer_is_the_one_that_train_makes_of_the_same_lines():
    lines, texts = buffered(shop(300), size=500)
    offline = train(to_batches(shop(300)), None, QUICK).artefacts["cart"]
    ours = learn("cart", [0], Buffer(lines, texts, MASKING), QUICK, {"source": "", "data_sha256": lines.sha256()})
    assert (ours.vocabulary, ours.names, ours.wait_ms) == (offline.vocabulary, offline.names, offline.wait_ms)
    for name in DETECTORS:
        assert ours.learned[name].facts == offline.learned[name].facts
        for part, array in offline.learned[name].arrays.items():
            assert np.array_equal(ours.learned[name].arrays[part], array)
    odd = [*shop(20, 2_000), *shop(2, 3_000, STEPS[::-1]), record(3_500, "disk on fire", session="x")]
    ours_told, offline_told = (
        [(one["anomaly_id"], one["strength"]) for one in told_by(model, odd)] for model in (ours, offline)
    )
    assert ours_told == offline_told
    assert len(ours_told) >= 3


def told_by(model: Artefact, lines: Iterable[bytes]) -> list[dict[str, Any]]:
    """The anomalies that a shard tells of some lines."""
    shard = ShardParams(fusion=EAGER).build({"cart": model})
    batches = (blob for raw in to_batches(lines, topic="logs") for _, blob in BatchParams(shards=1).build().step(raw))
    return [orjson.loads(anomaly) for blob in batches for _, anomaly in shard.step(unpack(blob)).anomalies]


@pytest.mark.parametrize("size", [7, 50])
def test_the_cut_into_entries_changes_no_line(size: int):
    whole, cut = buffered(shop())[0], buffered(shop(), size=size)[0]
    assert cut.sha256() == whole.sha256()


def test_partitions_are_merged_by_event_time_and_keep_their_own_order():
    first = sequence(0, 10, (1, 0), (2, 5), (3, 4), (4, 9))  # the third came late, and stays behind the second
    second = sequence(1, 500, (11, 1), (12, 6))
    assert gather("cart", [second, first]).template.tolist() == [1, 11, 2, 3, 12, 4]
    assert gather("cart", [sequence(0, 20, (5, 3)), sequence(0, 10, (4, 3))]).template.tolist() == [4, 5]


def test_an_empty_buffer_has_no_line_and_is_not_enough():
    lines = gather("cart", [])
    assert len(lines) == 0
    assert not enough(lines, DueParams()).is_met


def test_lines_without_session_are_known_by_the_services_own_key():
    lines, _ = buffered([record(at, STEPS[at % 3]) for at in range(9)])
    assert not lines.has_session.any()
    assert set(lines.key.tolist()) == {OWN}


def test_a_session_with_a_suspect_is_left_out_whole_and_the_services_own_sequence_is_parted_there():
    lines = lines_of((1, 1), (2, 2), (5, 0), (0, 1), (3, 2), (0, 0), (6, 0), (7, 0), (9, 1))
    kept = lines.without(lines.template == 0)
    assert kept.template.tolist() == [2, 5, 3, 6, 7]
    assert kept.key[1] != kept.key[3] == kept.key[4]
    assert kept.has_session.tolist() == [True, False, True, False, False]
    assert kept.before().tolist() == [0, 0, 2, 0, 6]


def test_a_long_session_is_parted_at_its_suspect_and_not_lost():
    rows = [(at % 3 + 1, 4) for at in range(3_000)]
    rows[1_000] = (0, 4)
    lines = lines_of(*rows, (8, 5), (0, 5))
    kept = lines.without(lines.template == 0)
    assert (len(kept), kept.sessions) == (2_999, 2)
    assert 8 not in kept.template


def test_templates_come_back_with_the_tokens_that_they_had():
    texts = {9: "uid=<num> by (pid=<num>)", 5: "took <*> of <num>", 0: "withheld"}
    templates = BufferedTemplates("cart", texts, MASKING)
    assert templates.ids.tolist() == [5, 9]
    assert [entry["tokens"] for entry in templates.export("cart")] == [
        "took <*> of <num>",
        "uid= <num> by (pid= <num>)",
    ]
    assert [templates.template(seq) for seq in range(2)] == [texts[5], texts[9]]
    assert templates.seq(np.array([9, 7, 5, 10], np.uint32)).tolist() == [1, -1, 0, -1]
    assert templates.export("mail") == []


def test_detectors_that_need_messages_are_left_out_with_a_word():
    assert set(LEARNABLE) >= {"deeplog", "novelty", "ngram", "count", "frequency", "workflow"}
    kept, absent = learnable(TrainParams(detectors=("novelty", "deeplog-value", "rapid")))
    assert (kept.detectors, absent) == (("novelty",), ("deeplog-value", "rapid"))


# ---- when


def test_a_service_is_due_when_its_lines_suffice_and_its_templates_are_settled():
    lines, _ = buffered(shop(80))
    due = DueParams(min_lines=480, min_sessions=80)
    assert enough(lines, due).is_met
    few, short = replace(due, min_lines=481), replace(due, min_sessions=81, min_minutes=5)
    assert not enough(lines, few).is_met
    assert "480 normal lines are in the buffer; 481 are needed" in enough(lines, few).words
    assert not enough(lines, short).is_met
    assert enough(lines, replace(short, min_minutes=3.9)).is_met  # minutes stand in for sessions
    fresh, _ = buffered([*shop(80), *(record(300 + at, f"new {'abcdefgh'[at]} thing") for at in range(8))])
    found = enough(fresh, due)
    assert [one.name for one in found.criteria if not one.is_met] == ["settled"]


def test_training_comes_again_after_its_time_and_only_with_new_lines():
    day = 86_400_000
    last = Last(at_ms=0, lines=1_000, newest="5-0", is_published=True)
    due = DueParams(every_h=24)
    assert again(last, "6-0", 2_000, day, due, has_model=True).is_met
    assert not again(last, "6-0", 2_000, day - 60_000, due, has_model=True).is_met
    assert not again(last, "5-0", 1_000, day, due, has_model=True).is_met


def test_a_refused_first_model_is_tried_again_when_the_lines_have_grown_by_half():
    last = Last(at_ms=0, lines=1_000, newest="5-0", is_published=False)
    assert again(last, "6-0", 1_500, 60_000, DueParams(), has_model=False).is_met
    assert not again(last, "6-0", 1_499, 60_000, DueParams(), has_model=False).is_met
    assert not again(last, "6-0", 9_000, 60_000, DueParams(), has_model=True).is_met


# ---- feedback


def feedback(number: int, label: str, *patterns: str, version: int | None = None, **fields) -> Feedback:
    return Feedback(
        command_id=f"c{number}",
        version=number if version is None else version,
        service="cart",
        by="ada",
        label=label,
        anomaly_id=f"{number:016x}",
        patterns=tuple(Pattern(pattern=one, level=3) for one in patterns),
        **fields,
    )


def order(template: str, before: str) -> str:
    """The pattern of one step after another."""
    return f"line:order:{template_hex(ids()[template])}:{template_hex(ids()[before])}"


def test_lines_like_those_called_anomalous_are_left_out_with_their_sessions():
    odd = shop(2, 400, [STEPS[0], STEPS[3], STEPS[1]])
    lines, texts = buffered([*shop(80), *odd])
    log = FeedbackLog()
    log.add(feedback(1, "anomalous", order(STEPS[3], STEPS[0])))
    prepared = prepare(lines, texts, log, TemplateParams())
    assert len(lines) - len(prepared.lines) == 6
    assert prepared.notes == (
        "2 lines are like those that people called anomalous",
        "with their sessions 6 of 486 lines were left out",
    )
    log.add(Undo(command_id="u", version=2, service="cart", by="ada", target="c1"))
    assert prepare(lines, texts, log, TemplateParams()).lines is lines


def test_a_missed_line_is_found_by_its_text_and_left_out_after_the_line_named():
    lines, texts = buffered([*shop(80), *shop(2, 400, [STEPS[0], "took 7ms for 3 items"])])
    log = FeedbackLog()
    log.add(feedback(1, "missed", message="took 99ms for 12 items", before=STEPS[0]))
    log.add(feedback(2, "missed", message="nothing like this"))
    finder = TextFinder(BufferedTemplates("cart", texts, MASKING), TemplateParams())
    (found,) = oddities(log, "cart", finder)
    assert (texts[found.template], found.before) == ("took <amount> for <num> items", ids()[STEPS[0]])
    assert is_odd(lines, [found])[0].sum() == 2
    assert prepare(lines, texts, log, TemplateParams()).lines.sessions == 80


def test_what_is_common_is_not_left_out_whatever_was_said_of_one_line():
    lines, _ = buffered(shop(80))
    usual = Oddity(ids()[STEPS[1]], None)
    found, common = is_odd(lines, [usual])
    assert (found.any(), common) == (False, [usual])


@pytest.mark.parametrize("pattern", ["end:number:0000000a:-", "rate:number:0000000a:-", "line:value:0000000a:-"])
def test_patterns_whose_template_is_normal_by_itself_leave_nothing_out(pattern: str):
    assert oddity_of(pattern) is None


def test_templates_that_people_joined_are_learned_as_one():
    lines, texts = buffered(shop(40))
    log = FeedbackLog()
    one, other = (template_hex(ids()[step]) for step in STEPS[:2])
    log.add(
        EditTemplate(command_id="j", version=1, service="cart", by="ada", action="join", template_id=one, into=other)
    )
    joined = prepare(lines, texts, log, TemplateParams()).lines
    assert len(joined) == len(lines)
    assert set(joined.template.tolist()) == set(lines.template.tolist()) - {ids()[STEPS[0]]}


# ---- the gate


def test_normal_lines_raise_no_alarm_and_odd_ones_do():
    lines, texts = buffered([*shop(80), *shop(4, 400, STEPS[::-1])])
    is_late = lines.ts >= lines.ts[480]
    assert told(steady_model(), lines, texts, ~is_late, JOB).incidents == 0
    found = told(steady_model(), lines, texts, is_late, JOB)
    assert (found.incidents, found.lines) == (1, 24)  # four of a kind in an hour are one to a person


def test_what_is_told_of_buffered_lines_is_what_the_job_tells_of_them():
    ways = [STEPS, STEPS[::-1], STEPS, (STEPS[0], STEPS[4]), STEPS[:2], (*STEPS, STEPS[5]), STEPS, ("disk on fire",)]
    lines, texts = buffered(day(*(way for way in ways for _ in range(12)), *[STEPS] * 12))
    ours = told(steady_model(), lines, texts, np.ones(len(lines), np.bool_), JOB)
    job = told_by(steady_model(), day(*(way for way in ways for _ in range(12)), *[STEPS] * 12))
    kinds = {(one["evidence"][0]["template_id"], one["ts"] // 3_600_000) for one in job if one["revision"] == 0}
    assert ours.incidents == len(kinds) >= 5


def test_held_out_are_the_newest_lines():
    assert held_out(lines_of(*[(1, 0)] * 10), GateParams()).tolist() == [False] * 8 + [True] * 2


def test_a_model_of_steady_lines_passes_the_gate_and_one_of_changing_lines_does_not():
    steady = prepare(*buffered(day(*[STEPS] * 250)), FeedbackLog(), TemplateParams())
    passed = renew(steady, steady_model(), FLEETING, DAY, GateParams(), {"source": "test"})
    assert passed.decision.is_met, passed.decision.words
    names = ["held-out alarms", "withheld", "against the present model", "known anomalies"]
    assert [one.name for one in passed.decision.criteria] == names
    strange = [" ".join(["alas", *["poor"] * number, "yorick"]) for number in range(12)]
    ways = [(text, *STEPS[::-1]) for text in strange * 4]
    changing = prepare(*buffered(day(*[STEPS] * 220, *ways)), FeedbackLog(), TemplateParams())
    refused = renew(changing, None, FLEETING, DAY, GateParams(), {"source": "test"})
    assert not refused.decision.is_met
    assert "it would tell" in refused.decision.words


def test_a_buffer_that_is_a_choice_of_calm_lines_passes_no_gate():
    lines, texts = buffered(day(*[STEPS] * 250))
    foul = np.zeros(len(lines), np.bool_)
    foul[:: 6 * 9] = True  # a line of every ninth session
    chosen = replace(lines, template=np.where(foul, np.uint32(0), lines.template))
    prepared = prepare(chosen, texts, FeedbackLog(), TemplateParams())
    assert prepared.lines.sessions == 250 - 28
    decision = renew(prepared, None, FLEETING, DAY, GateParams(), {}).decision
    assert [one.name for one in decision.criteria if not one.is_met] == ["withheld"]
    assert "suspects cost 11.2% of the buffer" in decision.words
    assert renew(prepared, None, FLEETING, DAY, GateParams(withheld_ratio=0.12), {}).decision.is_met


def test_the_losses_of_the_candidates_network_are_told():
    lines = prepare(*buffered(shop(40)), FeedbackLog(), TemplateParams())
    told: list[tuple[str, float]] = []
    outcome = renew(
        lines, None, QUICK, JOB, GateParams(), {}, lambda what, done, loss: told.append((what.partition(",")[0], done))
    )
    assert outcome.curve[-1] < outcome.curve[0]
    assert list(dict.fromkeys(part for part, _ in told)) == ["trial", "candidate", "gate"]
    assert [done for _, done in told] == sorted(done for _, done in told)


def test_a_confirmed_anomaly_is_enacted_again_and_must_still_be_told():
    lines, texts = buffered(shop(80))
    skipped = Anomaly("0" * 16, (Oddity(ids()[STEPS[4]], ids()[STEPS[0]]),))
    scene, is_new = scenes(lines, skipped)[-1]
    assert scene.template.tolist() == [ids()[STEPS[0]], ids()[STEPS[4]]]
    assert is_new.tolist() == [False, True]
    assert len(scenes(lines, skipped)) == 3
    assert is_told(steady_model(), lines, texts, skipped, JOB)
    unheard = Anomaly("1" * 16, (Oddity(0xDEAD, None),))
    assert is_told(steady_model(), lines, texts, unheard, JOB)
    usual = Anomaly("2" * 16, (Oddity(ids()[STEPS[1]], ids()[STEPS[0]]),))
    assert not is_told(steady_model(), lines, texts, usual, JOB)


def test_a_candidate_that_has_learned_a_confirmed_anomaly_is_refused():
    taught = [*shop(200), *shop(30, 700, [STEPS[0], STEPS[4], STEPS[5]])]
    lines, texts = buffered(taught)
    log = FeedbackLog()
    log.add(feedback(1, "anomalous", order(STEPS[4], STEPS[0])))
    prepared = prepare(lines, texts, log, TemplateParams())
    assert len(prepared.lines) == len(lines)  # too common to be left out
    decision = renew(prepared, steady_model(), FLEETING, JOB, GateParams(), {"source": "test"}).decision
    (lost,) = [one for one in decision.criteria if one.name == "known anomalies"]
    assert not lost.is_met
    assert f"not {1:016x}" in lost.words


def test_a_count_beyond_chance_is_one_that_comes_once_in_a_hundred_times():
    for mean in (0.3, 2.0, 30.0):
        drawn = np.random.default_rng(1).poisson(mean, 100_000)
        bound = most_by_chance(mean)
        assert (drawn > bound).mean() <= 0.011
        assert (drawn > bound - 1).mean() > 0.01


# ---- suspects of a running job


def test_what_the_job_withholds_as_suspect_is_not_learned():
    lines = [*shop(20), *shop(2, 200, [STEPS[0], "disk on fire", STEPS[5]])]
    stream, texts = entries(sequence_batches(lines, {"cart": steady_model()}))
    prepared = prepare(gather("cart", sequences("cart", stream)), texts, FeedbackLog(), TemplateParams())
    assert "disk on fire" not in {texts[number] for number in np.unique(prepared.lines.template).tolist()}
    assert prepared.lines.sessions == 20
    assert prepared.notes[0].endswith("lines were withheld as suspects")
