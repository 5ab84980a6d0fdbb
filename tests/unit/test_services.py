"""Commands in a running shard: what people say holds at once, survives a restore, is undone by an undo and by nothing older."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import pytest

from models.artefact import Artefact
from models.control import (
    EditTemplate,
    Feedback,
    Pattern,
    Release,
    SetBudget,
    SetMode,
    SetModel,
    SetShares,
    Undo,
    read_command,
)
from models.errors import ArtefactError, RecordError
from models.life import LifeParams
from models.said import NothingKnown
from models.shard import Shard, ShardParams
from models.training_buffer import Sequence as BufferedSequence
from tests.unit.shard_cases import ODD, PARAMS, STEPS, artefact, line, steps

GRADUAL = dataclasses.replace(PARAMS, life=LifeParams(is_gradual=True, block=8), has_sequences=True)


class Job:
    """A shard with its state as the operator keeps it; `restart` builds it anew from that."""

    def __init__(self, params: ShardParams = PARAMS, models: dict[str, Artefact] | None = None) -> None:
        self.params = params
        self.models = {"default": artefact()} if models is None else models
        self.store: dict[tuple[str, str], Artefact] = {}
        self.entries: dict[str, bytes] = {}
        self.journal: list[bytes] = []
        self.offset = 0
        self.commands = 0
        self.withheld: list[bool] = []
        self.restart()

    def load(self, service: str, version: str) -> Artefact:
        try:
            return self.store[service, version]
        except KeyError:
            raise ArtefactError(f"{version} of {service} is not in the store") from None

    def restart(self) -> None:
        self.shard: Shard = self.params.build(self.models, self.entries.values(), self.journal, self.load)

    def _write(self, writes: Any) -> None:
        self.entries.update(writes.entries)
        self.journal = [writes.journal] if writes.is_snapshot else [*self.journal, writes.journal]

    def read(self, values: Sequence[bytes], size: int = 1_000) -> list[dict[str, Any]]:
        """The anomalies of some lines."""
        found = []
        for first in range(0, len(values), size):
            part = values[first : first + size]
            for step in steps(self.shard, part, self.offset):
                self._write(step.writes)
                found += [orjson.loads(blob) for _, blob in step.anomalies]
                if step.sequences is not None:
                    for one in step.sequences.sequences:
                        sequence = BufferedSequence.unpack(one.service, one.topic, one.partition, one.packed)
                        self.withheld += (sequence.template_ids == 0).tolist()
            self.offset += len(part)
        return found

    def say(self, kind: Any, service: str = "cart", version: int | None = None, **fields: Any) -> str:
        """Send a command; gives its id."""
        self.commands += 1
        command_id = fields.pop("command_id", f"c{self.commands}")
        command = kind(
            command_id=command_id,
            version=self.commands if version is None else version,
            service=service,
            by="ada",
            **fields,
        )
        writes, self.catalogue = self.shard.obey(read_command(command.to_bytes()))
        self._write(writes)
        return command_id

    def status(self, service: str = "cart") -> dict[str, Any]:
        statuses = dict(self.shard.statuses(7, is_full=True))
        return orjson.loads(statuses[service])

    def answer(self, command_id: str, service: str = "cart") -> dict[str, Any]:
        return self.status(service)["commands"][command_id]


def walks(first: int, count: int, odd: Sequence[str] = (), service: str = "cart") -> list[bytes]:
    """Sessions through the four steps, each with the odd lines after its second step."""
    lines = []
    for number in range(first, first + count):
        texts = [*STEPS[:2], *odd, *STEPS[2:]]
        lines += [
            line(number * 20_000 + at * 700, text.format(number + 1), service, f"w-{number}")
            for at, text in enumerate(texts)
        ]
    return lines


def patterns_of(anomalies: Iterable[dict[str, Any]]) -> tuple[Pattern, ...]:
    found = {one["pattern"]: one["level"] for anomaly in anomalies for one in anomaly["patterns"]}
    return tuple(Pattern(pattern=name, level=level) for name, level in found.items())


def say_normal(job: Job, anomalies: Sequence[dict[str, Any]], **fields: Any) -> str:
    last = anomalies[-1]
    fields = {"label": "normal", "anomaly_id": last["anomaly_id"], "patterns": patterns_of(anomalies), **fields}
    return job.say(Feedback, **fields)


@pytest.fixture
def job() -> Job:
    job = Job()
    assert not job.read(walks(0, 10))
    return job


# -- feedback --------------------------------------------------------------------------------------------------------


def test_what_was_called_normal_is_told_no_more_and_an_undo_brings_it_back(job: Job) -> None:
    told = job.read(walks(10, 1, ODD[:1]))
    assert told
    assert all(anomaly["patterns"] for anomaly in told)
    command = say_normal(job, told)
    assert job.answer(command)["is_obeyed"]
    assert not job.read(walks(11, 5, ODD[:1]))
    job.restart()
    assert not job.read(walks(16, 5, ODD[:1]))
    assert job.read(walks(21, 1, ODD[1:2])), "another line is another matter"
    job.say(Undo, target=command)
    assert job.read(walks(22, 1, ODD[:1]))
    assert not job.status()["muted"]


def test_what_is_stranger_than_what_was_marked_is_told(job: Job) -> None:
    """A new line in the middle of a session was accepted; not that the session ends with it."""
    say_normal(job, job.read(walks(10, 1, ODD[:1])))
    assert not job.read(walks(11, 1, ODD[:1]))
    assert job.read(walks(12, 1, (ODD[0], ODD[2], ODD[3])))


def test_a_mute_of_one_service_is_none_of_another(job: Job) -> None:
    say_normal(job, job.read(walks(10, 1, ODD[:1])))
    assert job.read(walks(11, 1, ODD[:1], service="mail"))


def test_a_suppression_ends_with_its_time_and_its_lines_are_not_learned() -> None:
    job = Job(dataclasses.replace(PARAMS, has_sequences=True))
    job.read(walks(0, 10))
    told = job.read(walks(10, 1, ODD[:1]))
    job.withheld.clear()
    until = told[-1]["ts"] + 40_000
    say_normal(job, told, label="suppressed", until_ms=until)
    assert not job.read(walks(11, 1, ODD[:1]))
    assert any(job.withheld)
    assert job.read(walks(14, 1, ODD[:1]))


def test_an_old_command_does_not_undo_a_newer_one(job: Job) -> None:
    told = job.read(walks(10, 1, ODD[:1]))
    newer = say_normal(job, told, label="anomalous", version=100)
    older = say_normal(job, told, version=50)
    assert job.answer(newer)["is_obeyed"]
    assert not job.answer(older)["is_obeyed"]
    assert "newer" in job.answer(older)["why"]
    assert job.read(walks(11, 1, ODD[:1]))


def test_a_command_read_again_after_its_undo_stays_undone(job: Job) -> None:
    told = job.read(walks(10, 1, ODD[:1]))
    command = say_normal(job, told, version=10)
    job.say(Undo, target=command, version=11)
    say_normal(job, told, version=10, command_id=command)
    assert job.read(walks(11, 1, ODD[:1]))


def test_a_line_that_was_missed_is_told_from_then_on_by_itself_or_by_what_came_before(job: Job) -> None:
    wanted = job.say(
        Feedback, label="missed", message="priced cart at 7 cents", before="added item 3 to cart", why="a test"
    )
    assert job.answer(wanted)["is_obeyed"]
    (told,) = job.read(walks(11, 1))
    assert told["message"].startswith("priced")
    assert told["explanation"].startswith("ada wants to be told of such lines: a test.")
    job.restart()
    assert job.read(walks(12, 1))
    job.say(Undo, target=wanted)
    assert not job.read(walks(13, 1))
    unknown = job.say(Feedback, label="missed", message="no such line was ever seen here at all today")
    assert not job.answer(unknown)["is_obeyed"]


def test_what_is_said_of_all_services_holds_for_those_not_met_yet(job: Job) -> None:
    told = job.read(walks(10, 1, ODD[:1]))
    say_normal(job, told, service="*")
    assert not job.read(walks(11, 1, ODD[:1], service="mail"))
    job.restart()
    assert not job.read(walks(12, 1, ODD[:1], service="post"))


def test_what_is_new_after_a_release_is_one_item_and_what_comes_later_is_not(job: Job) -> None:
    before = job.read(walks(10, 1, ODD[:1]))
    at = 1_700_000_000_000 + 11 * 20_000
    command = job.say(Release, label="v2", ts_ms=at, minutes=2)
    assert job.answer(command)["is_obeyed"]
    job.restart()
    during = [one for number in range(11, 16) for one in job.read(walks(number, 1, ODD[1:2] + ODD[2:3]))]
    new = [one for one in during if "It came with the release v2." in one["explanation"]]
    assert new
    assert len({one["anomaly_id"] for one in new}) == 1
    later = [one for number in range(20, 23) for one in job.read(walks(number, 1, ODD[3:4]))]
    assert {one["session"] for one in later} >= {"w-20", "w-21", "w-22"}
    assert not any("release" in one["explanation"] for one in before + later)


# -- templates by hand -----------------------------------------------------------------------------------------------

GATES = [
    f"gate {name} of lane {{}} {state}" for name in ("north", "south") for state in ("opens slowly", "shuts slowly")
]


def template_ids(job: Job, texts: Sequence[str]) -> list[int]:
    """The id of each line's template, as the training buffer gets it."""
    lines = [line(900_000 + at, text.format(at + 3)) for at, text in enumerate(texts)]
    found: list[int] = []
    for step in steps(job.shard, lines, job.offset):
        job._write(step.writes)
        for one in step.sequences.sequences if step.sequences else ():
            found += BufferedSequence.unpack(one.service, one.topic, one.partition, one.packed).template_ids.tolist()
    job.offset += len(lines)
    job.shard.templates.check()
    return found


@pytest.fixture
def gates() -> tuple[Job, list[int]]:
    """A service without model, whose templates people may change, and the ids of its lines."""
    job = Job(dataclasses.replace(PARAMS, has_sequences=True), models={})
    return job, template_ids(job, [*GATES, *STEPS])


def test_a_template_joined_to_another_counts_as_it_until_that_is_undone(gates) -> None:
    job, before = gates
    one, other = before[-2:]
    assert one != other
    command = job.say(EditTemplate, action="join", template_id=f"{one:08x}", into=f"{other:08x}")
    assert job.answer(command)["is_obeyed"]
    ((key, entry),) = job.catalogue
    assert key == f"cart/{one:08x}"
    assert orjson.loads(entry)["counts_as"] == f"{other:08x}"
    assert template_ids(job, STEPS[-2:]) == [other, other]
    job.restart()
    assert template_ids(job, STEPS[-2:]) == [other, other]
    circle = job.say(EditTemplate, action="join", template_id=f"{other:08x}", into=f"{one:08x}")
    assert not job.answer(circle)["is_obeyed"]
    job.say(Undo, target=command)
    assert orjson.loads(job.catalogue[0][1])["counts_as"] is None
    job.restart()
    assert template_ids(job, STEPS[-2:]) == [one, other]


def test_a_word_that_is_kept_parts_a_template_and_the_ids_of_before_stay(gates) -> None:
    job, before = gates
    assert before[0] == before[2], "north and south are one template"
    command = job.say(EditTemplate, action="keep", word="South")
    assert job.answer(command)["is_obeyed"]
    after = template_ids(job, [*GATES, *STEPS])
    assert after[:2] == before[:2]
    assert after[4:] == before[4:]
    assert after[2] not in before
    job.restart()
    assert template_ids(job, [*GATES, *STEPS]) == after
    job.say(Undo, target=command)
    job.restart()
    assert set(template_ids(job, GATES)) <= set(after)


def test_a_pinned_template_keeps_its_text(gates) -> None:
    job, before = gates
    texts = ("queue of orders grows", "queue of parcels grows", "queue of letters grows")
    (number,) = template_ids(job, texts[:1])
    job.say(EditTemplate, action="pin", template_id=f"{number:08x}")
    assert set(template_ids(job, texts)) == {number}
    job.restart()
    assert set(template_ids(job, texts)) == {number}
    assert {entry["tokens"] for entry in job.shard.templates.export("cart") if entry["id"] == number} == {texts[0]}
    assert before


def test_a_mask_of_ones_own_is_applied_from_then_on_over_a_restart_and_a_bad_one_is_refused(gates) -> None:
    job, _ = gates
    texts = ["flavour of-vanilla was sold out", "taste of-mint was sold out"]
    assert len(set(template_ids(job, texts))) == 2
    command = job.say(EditTemplate, action="mask", name="kind", pattern="(flavour|taste) of-[a-z]+")
    assert job.answer(command)["is_obeyed"]
    (masked,) = set(template_ids(job, texts))
    missed = job.say(Feedback, label="missed", message="taste of-lemon was sold out")
    assert job.answer(missed)["is_obeyed"], "a line is found by the masks of its service"
    assert job.status()["wanted"][0]["template_id"] == f"{masked:08x}"
    job.restart()
    assert set(template_ids(job, texts)) == {masked}
    for pattern in ("(", "a*", "(?=x)"):
        assert not job.answer(job.say(EditTemplate, action="mask", name="x", pattern=pattern))["is_obeyed"]


def test_a_template_that_is_not_there_is_not_changed(gates) -> None:
    job, _ = gates
    command = job.say(EditTemplate, action="pin", template_id="00000001")
    assert job.answer(command) == {"is_obeyed": False, "why": "the service has no template 00000001"}


# -- life ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 7, 1_000])
def test_a_service_learns_is_in_shadow_and_goes_live_by_itself_at_the_same_line_for_any_cut(size: int) -> None:
    job = Job(GRADUAL, models={})
    assert not job.read(walks(0, 5, ODD[:1]), size)
    assert job.status()["mode"] == "learning"
    assert len(job.withheld) == 25
    assert not any(job.withheld), "all is normal while learning"
    model = artefact()
    job.store["cart", model.version] = model
    command = job.say(SetModel, model_version=model.version)
    assert job.answer(command)["is_obeyed"]
    assert job.status()["mode"] == "shadow"
    assert job.status()["model_version"] == model.version
    shadow = job.read(walks(10, 4, ODD[:1]), size)
    assert {anomaly["mode"] for anomaly in shadow} == {"shadow"}
    assert job.status()["mode"] == "shadow", "lines that the model does not know"
    job.read(walks(20, 5), size)
    assert job.shard.services.has_news
    ((name, status),) = job.shard.statuses(7, is_full=False)
    assert (name, orjson.loads(status)["mode"]) == ("cart", "live")
    assert not job.shard.services.has_news
    job.restart()
    live = job.read(walks(30, 1, ODD[:1]), size)
    assert {anomaly["mode"] for anomaly in live} == {"live"}
    assert job.status()["mode_since_ms"] == 1_700_000_000_000 + 20_000 * 22 + 2_100


def test_suspects_are_withheld_from_training() -> None:
    job = Job(dataclasses.replace(PARAMS, has_sequences=True))
    job.read(walks(0, 10))
    assert not any(job.withheld)
    job.withheld.clear()
    job.read(walks(10, 1, ODD[:1]))
    assert 1 <= sum(job.withheld) < len(job.withheld)


def test_a_mode_set_by_hand_stays_until_it_is_handed_back(job: Job) -> None:
    job.say(SetMode, mode="learning")
    assert not job.read(walks(10, 1, ODD[:1]))
    job.restart()
    job.read(walks(11, 1))
    assert job.status()["mode"] == "learning"
    assert not job.status()["is_auto"]
    assert job.status()["mode_by"] == "ada"
    job.say(SetMode, mode="shadow")
    assert {anomaly["mode"] for anomaly in job.read(walks(12, 1, ODD[:1]))} == {"shadow"}
    job.say(SetMode, mode="live")
    assert {anomaly["mode"] for anomaly in job.read(walks(13, 1, ODD[:1]))} == {"live"}


def test_a_model_that_is_not_in_the_store_is_refused_and_the_old_one_goes_on(job: Job) -> None:
    command = job.say(SetModel, model_version="0123456789ab")
    assert not job.answer(command)["is_obeyed"]
    assert "not in the store" in job.answer(command)["why"]
    assert job.read(walks(10, 1, ODD[:1]))


def test_a_swap_of_models_loses_no_line_and_an_older_announcement_does_not_swap_back(job: Job) -> None:
    other = dataclasses.replace(artefact(), service="cart", created="", training={"lines": 1})
    assert other.version != artefact().version
    job.store["cart", other.version] = other
    job.store["cart", artefact().version] = artefact()
    job.say(SetModel, model_version=other.version, version=20)
    job.say(SetModel, model_version=artefact().version, version=10)
    told = job.read(walks(10, 1, ODD[:1]))
    assert {anomaly["model_version"] for anomaly in told} == {other.version}
    assert set(job.shard.services.judges) >= {other.version}
    job.restart()
    assert job.read(walks(11, 1, ODD[:1]))[0]["model_version"] == other.version
    assert job.status()["lines"] == 40 + 10


def test_a_budget_of_its_own_makes_a_service_louder_or_quieter() -> None:
    job = Job(dataclasses.replace(PARAMS, fusion=dataclasses.replace(PARAMS.fusion, budget_per_day=0.001)))
    job.read(walks(0, 10))
    quiet = len(job.read(walks(10, 2, ODD[:1])))
    job.say(SetBudget, per_day=10_000)
    assert job.status()["budget_per_day"] == 10_000
    assert len(job.read(walks(12, 2, ODD[:1]))) > quiet


def test_the_budget_is_shared_among_the_services_that_have_a_model_now(job: Job) -> None:
    job.say(SetShares, service="*", shares=4)
    assert job.status()["budget_per_day"] == PARAMS.fusion.budget_per_day / 4
    job.say(SetShares, service="*", shares=5)
    job.restart()
    job.read(walks(10, 1, service="new"))
    assert job.status("new")["budget_per_day"] == PARAMS.fusion.budget_per_day / 5
    job.say(SetBudget, per_day=2)
    assert job.status()["budget_per_day"] == 2


def test_state_is_bounded_and_whole_after_many_commands(job: Job) -> None:
    for number in range(2_300):
        pattern = Pattern(pattern=f"line:text:{number:08x}:-", level=3)
        job.shard.services.obey(
            Feedback(
                command_id=f"f{number}", version=number, service="cart", by="ada", label="normal", patterns=(pattern,)
            ),
            (),
            lambda service: NothingKnown(),
        )
    job.say(Release, label="v2", ts_ms=1, version=9_999)
    job.shard.services.check()
    assert len(job.status()["muted"]) == 2_000


@pytest.mark.parametrize(
    "value",
    [None, b"", b"[1]", b"{", b'{"kind": "mode"}', b"x" * 300_000, b'{"kind": "explode", "command_id": "a"}'],
)
def test_what_is_no_command_is_a_bad_record(value: bytes | None) -> None:
    with pytest.raises(RecordError):
        read_command(value)
