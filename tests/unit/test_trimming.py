"""Sessions left out of training as suspicious: what is, what is not, and that people are told."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest
from rich.console import Console

from flink_jobs.commands.train import tell_left_out
from models.artefact import load_all
from models.datasets import to_batches
from models.errors import SettingsError
from models.learning.feedback_log import FeedbackLog
from models.learning.gate import GateParams
from models.learning.renewal import prepare, renew
from models.learning.telling import JobParams
from models.packing import group_key
from models.shard import ShardParams
from models.templates import TemplateParams
from models.train import TrainParams, train_lines
from models.training_set import Lesson, LineCollector, lesson
from models.trimming import suspicious
from tests.unit.buffer_cases import buffered
from tests.unit.shop_model import STEPS, record

SESSIONS = 600
MELTED = "the disk melted"
STOPS, NEW = STEPS[:2], (*STEPS[:3], MELTED)
SWAPPED = (STEPS[0], STEPS[2], STEPS[1], *STEPS[3:])
FLEETING = TrainParams(detectors=("novelty", "ngram", "count"), suspicious_ratio=0.1)


def lines(broken: Mapping[int, Sequence[str]], usual: Sequence[Sequence[str]] = (STEPS,)) -> list[bytes]:
    """Sessions that take the usual ways in turns, but for some that take their own."""
    return [
        record(number * 20 + at, text, session=f"s{number}")
        for number in range(SESSIONS)
        for at, text in enumerate(broken.get(number, usual[number % len(usual)]))
    ]


def taught(given: Iterable[bytes]) -> Lesson:
    params = TrainParams()
    collector = LineCollector(replace(params.batching, shards=1), params.templates, params.max_lines)
    for raw in to_batches(given):
        collector.add(raw)
    return lesson(collector, [0], params.windows, params.held_out_ratio)


def every(step: int, way: Sequence[str], start: int = 7) -> dict[int, Sequence[str]]:
    return dict.fromkeys(range(start, SESSIONS, step), way)


def keys(numbers: Iterable[int]) -> list[int]:
    return sorted(group_key("cart", f"s{number}") for number in numbers)


@pytest.mark.parametrize("share", [20, 40, 100])
def test_faults_are_left_out_however_often_they_recur_and_nothing_else_is(share):
    broken = every(2 * share, STOPS) | every(2 * share, NEW, start=11)
    found, of = suspicious(taught(lines(broken)), 0.1)
    assert found.tolist() == keys(broken)
    assert of == SESSIONS


def test_a_single_odd_session_hides_nothing_and_stays():
    assert suspicious(taught(lines({300: NEW})), 0.1)[0].tolist() == []


def test_what_is_odd_in_one_way_only_stays():
    assert suspicious(taught(lines(every(20, SWAPPED))), 0.1)[0].tolist() == []


def test_what_more_sessions_have_than_may_be_suspicious_is_usual():
    broken = every(15, NEW)
    assert suspicious(taught(lines(broken)), 0.1)[0].tolist() == keys(broken)
    assert suspicious(taught(lines(broken)), 0.05)[0].tolist() == []
    assert suspicious(taught(lines(broken)), 0.0)[0].tolist() == []


def test_a_rare_kind_of_work_with_lines_of_its_own_stays():
    other = ("refund asked", "invoice found", "money returned")
    found, of = suspicious(taught(lines(every(20, other))), 0.1)
    assert (found.tolist(), of) == ([], SESSIONS - 30)


def test_where_work_is_of_many_kinds_nothing_is_left_out():
    things = ("orders", "invoices", "parcels", "refunds", "coupons", "reviews", "returns", "wishes")
    kinds = [(STEPS[0], f"{thing} found", f"{thing} were checked", f"and the {thing} sent") for thing in things]
    found, of = suspicious(taught(lines(every(50, NEW), usual=kinds)), 0.1)
    assert (found.tolist(), of) == ([], 0)


def test_lines_without_session_and_too_few_sessions_are_not_looked_at():
    ticks = [record(at, "tick done" if at % 40 else MELTED) for at in range(800)]
    assert suspicious(taught(ticks), 0.1)[1] == 0
    assert suspicious(taught(lines(every(20, NEW))[: 190 * len(STEPS)]), 0.1)[1] == 0


def test_a_model_says_what_was_left_out_and_does_not_know_it(tmp_path):
    given = lines(every(20, NEW))
    model = train_lines(given, tmp_path, FLEETING).artefacts["cart"]
    assert model.training["suspicious"] == {"sessions": 30, "of": SESSIONS}
    assert load_all(tmp_path)["cart"].training["suspicious"] == model.training["suspicious"]
    assert model.training["sessions"] == SESSIONS - 30
    assert MELTED not in model.names
    whole = train_lines(given, None, replace(FLEETING, suspicious_ratio=0.0)).artefacts["cart"]
    assert whole.training["suspicious"] == {"sessions": 0, "of": 0}
    assert MELTED in whole.names


def test_people_are_told_how_many_were_left_out_and_nothing_where_none_was():
    said = io.StringIO()
    tell_left_out(train_lines(lines(every(20, NEW)), None, FLEETING), Console(file=said))
    assert said.getvalue().startswith("cart: 30 of 600 sessions were left out of training as suspicious")
    quiet = io.StringIO()
    tell_left_out(train_lines(lines({}), None, FLEETING), Console(file=quiet))
    assert quiet.getvalue() == ""


def test_a_model_from_the_buffer_leaves_out_the_same_sessions_says_so_and_is_not_asked_about_them():
    given = lines(every(20, NEW))
    shard = ShardParams()
    job = JobParams(shard.templates, shard.windows, shard.fusion)
    prepared = prepare(*buffered(given), FeedbackLog(), TemplateParams())
    outcome = renew(prepared, None, FLEETING, job, GateParams(), {"source": "test"})
    model = train_lines(given, None, FLEETING).artefacts["cart"]
    assert outcome.candidate.training["suspicious"] == model.training["suspicious"]
    assert outcome.candidate.vocabulary == model.vocabulary
    assert "30 of 600 sessions were left out of training as suspicious" in outcome.notes[-1]
    assert outcome.decision.is_met


@pytest.mark.parametrize("ratio", [-0.1, 0.21])
def test_a_share_that_cannot_be_is_refused(ratio):
    with pytest.raises(SettingsError, match="leave no session out"):
        TrainParams(suspicious_ratio=ratio)
