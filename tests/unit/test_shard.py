"""One shard as the job runs it: any cut, any restore, the same anomalies; and each incident told once, or when it doubles."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from models.fusion import FusionParams
from models.incidents import IncidentParams
from models.sections import join, split
from models.shard import Shard, ShardParams
from models.verdicts import REVISIONS
from tests.unit.shard_cases import DETECTORS, ODD, PARAMS, STEPS, artefact, line, models, odd_values, steps

ROOT = Path(__file__).parents[2]
Told = dict[tuple[str, int], dict[str, Any]]


def _drop_memos(shard: Shard) -> None:
    shard.templates.drop_memo()
    for judge in shard.services.judges.values():
        judge.detectors["deeplog"].scorer.drop_memo()


def _run(
    size: int,
    *,
    params: ShardParams = PARAMS,
    restore_every: int = 0,
    tick_every: int = 0,
    drop_memos: bool = False,
    values: Sequence[bytes] = (),
) -> tuple[list[bytes], list[bytes], Shard]:
    """Anomalies and rejects of all lines in batches of `size`, with restores from the written state, and ticks, on the way."""
    shard = params.build(models())
    entries: dict[str, bytes] = {}
    journal: list[bytes] = []
    anomalies: list[bytes] = []
    rejects: list[bytes] = []
    values = values or odd_values()
    for number, first in enumerate(range(0, len(values), size)):
        if restore_every and number and number % restore_every == 0:
            shard = params.build(models(), entries.values(), journal)
        if drop_memos:
            _drop_memos(shard)
        for step in steps(shard, values[first : first + size], first):
            anomalies += [anomaly for _, anomaly in step.anomalies]
            rejects += [reject for _, reject in step.rejects]
            writes = [step.writes]
            if tick_every and number % tick_every == 0:
                writes.append(shard.tick())
            for write in writes:
                entries.update(write.entries)
                journal = [write.journal] if write.is_snapshot else [*journal, write.journal]
    return anomalies, rejects, shard


@pytest.fixture(scope="module")
def whole() -> tuple[list[bytes], list[bytes], Shard]:
    return _run(1_000)


def _by_id(anomalies: list[bytes]) -> Told:
    found = {(anomaly["anomaly_id"], anomaly["revision"]): anomaly for anomaly in map(orjson.loads, anomalies)}
    assert len(found) == len(anomalies)
    return found


# -- any cut ---------------------------------------------------------------------------------------------------------


def test_what_the_cuts_are_tried_on_has_every_kind_of_anomaly(whole) -> None:
    told = _by_id(whole[0])
    assert {anomaly["kind"] for anomaly in told.values()} == {"line", "end", "rate"}
    assert {revision for _, revision in told} >= {0, REVISIONS}
    assert {anomaly["service"] for anomaly in told.values()} > {"cart", "mail"}
    strongest = {max(anomaly["detectors"], key=anomaly["detectors"].get) for anomaly in told.values()}
    assert len(strongest) > 1
    assert set(artefact().learned) == set(DETECTORS)


@pytest.mark.parametrize(("size", "restore_every"), [(1, 0), (7, 0), (7, 1), (23, 2)])
def test_the_cut_into_batches_and_restores_change_no_anomaly(whole, size: int, restore_every: int) -> None:
    anomalies, rejects, shard = _run(size, restore_every=restore_every)
    assert _by_id(anomalies) == _by_id(whole[0])
    assert sorted(rejects) == sorted(whole[1])
    for part in (shard.templates, shard.windows, shard.incidents, *_detectors(shard)):
        part.check()


def _detectors(shard: Shard) -> list[Any]:
    return [detector for judge in shard.services.judges.values() for detector in judge.detectors.values()]


def test_dropping_every_memo_changes_no_anomaly(whole) -> None:
    assert _by_id(_run(7, drop_memos=True)[0]) == _by_id(whole[0])


@pytest.mark.parametrize("restore_every", [0, 1])
def test_when_memory_is_freed_changes_no_anomaly(restore_every: int) -> None:
    """With holds shorter than a session may be silent before its end is told."""
    brief = IncidentParams(session_hold_ms=4_000, service_hold_ms=4_000)
    params = replace(PARAMS, fusion=replace(PARAMS.fusion, incidents=brief))
    blobs, _, kept = _run(1_000, params=params)
    expected = _by_id(blobs)
    assert any(anomaly["kind"] == "end" and anomaly["revision"] for anomaly in expected.values())
    anomalies, _, shard = _run(5, params=params, tick_every=1, restore_every=restore_every)
    assert _by_id(anomalies) == expected
    assert len(shard.incidents) < len(kept.incidents)


@pytest.mark.parametrize("lost", ["windows", "incidents", "count"])
def test_anomalies_hang_on_every_section_of_the_state(whole, lost: str) -> None:
    values, half = odd_values(), 60
    shard = PARAMS.build(models())
    (step,) = steps(shard, values[:half])
    sections = split(step.writes.journal)
    assert any(name.partition("@")[0] == lost for name, _ in sections)
    kept = join([(name, data) for name, data in sections if name.partition("@")[0] != lost])
    entries = [entry for _, entry in step.writes.entries]
    expected = _by_id([blob for one in steps(shard, values[half:], half) for _, blob in one.anomalies])
    forgetful = PARAMS.build(models(), entries, [kept])
    assert _by_id([blob for one in steps(forgetful, values[half:], half) for _, blob in one.anomalies]) != expected


def test_the_state_of_a_detector_that_is_off_now_and_of_a_model_that_is_gone_is_left_out() -> None:
    shard = PARAMS.build(models())
    (step,) = steps(shard, odd_values())
    names = {name for name, _ in split(step.writes.journal)}
    version = artefact().version
    assert {"windows", "statistics", "incidents", f"count@{version}"} <= names
    entries = [entry for _, entry in step.writes.entries]
    odd = [line(90_000 + at * 300, text, session="odd") for at, text in enumerate(ODD)]
    fewer = replace(PARAMS, fusion=FusionParams(10_000, detectors=("novelty", "ngram")))
    (later,) = steps(fewer.build(models(), entries, [step.writes.journal]), odd, 120)
    assert later.anomalies
    assert not {name for name, _ in split(later.writes.journal)} & {f"count@{version}", f"frequency@{version}"}
    gone = PARAMS.build({}, entries, [step.writes.journal])
    assert not gone.services.judges
    assert len(gone.windows) == len(shard.windows)


def test_state_of_another_version_is_refused() -> None:
    (step,) = steps(PARAMS.build(models()), odd_values())
    with pytest.raises(ValueError, match=r"version 1.*CHANGELOG"):
        PARAMS.build(models(), (), [b"\x01" + step.writes.journal[1:]])


# -- what is told ----------------------------------------------------------------------------------------------------


def test_lines_ends_and_new_templates_are_found_and_explained(whole) -> None:
    anomalies = _by_id(whole[0]).values()
    new = [anomaly for anomaly in anomalies if anomaly["message"] == ODD[0]]
    assert {anomaly["source"]["offset"] for anomaly in new} == {50}
    assert any("No line like this was among the 480 lines learned." in anomaly["explanation"] for anomaly in new)
    assert all(anomaly["evidence"][0]["template"] == ODD[0] for anomaly in new)
    ends = [anomaly for anomaly in anomalies if anomaly["kind"] == "end"]
    assert all("end" in {piece["kind"] for piece in anomaly["evidence"]} for anomaly in ends)
    assert any(anomaly["expected"] for anomaly in anomalies)
    for anomaly in anomalies:
        assert anomaly["explanation"].endswith(".")
        weights = [piece["weight"] for piece in anomaly["evidence"]]
        assert weights == sorted(weights, reverse=True)
        assert set(anomaly["detectors"]) == set(DETECTORS)
        assert 0.5 <= anomaly["score"] < 1
        assert anomaly["false_per_day"] > 0


def test_a_template_that_stays_away_is_an_anomaly_of_its_service_and_of_no_session(whole) -> None:
    rates = [anomaly for anomaly in _by_id(whole[0]).values() if anomaly["kind"] == "rate"]
    assert {(anomaly["service"], anomaly["session"]) for anomaly in rates} == {("mail", None)}
    assert all(anomaly["detectors"]["frequency"] == max(anomaly["detectors"].values()) for anomaly in rates)
    assert any("the longest pause before was" in anomaly["explanation"] for anomaly in rates)
    others = {anomaly["anomaly_id"] for anomaly in _by_id(whole[0]).values()} - {a["anomaly_id"] for a in rates}
    assert len(others) == len({a["anomaly_id"] for a in _by_id(whole[0]).values() if a["kind"] != "rate"})


def test_every_anomaly_keeps_the_schema(whole) -> None:
    schema = json.loads((ROOT / "docs" / "anomaly.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for anomaly in whole[0]:
        validator.validate(orjson.loads(anomaly))
        assert set(orjson.loads(anomaly)) == set(schema["properties"]) == set(schema["required"])


def _told(lines: Sequence[bytes], size: int = 1_000, **fusion: Any) -> list[dict[str, Any]]:
    """The anomalies among some lines, in order."""
    params = replace(PARAMS, fusion=FusionParams(**{"budget_per_day": 10_000, **fusion}))
    return [orjson.loads(blob) for blob in _run(size, params=params, values=lines)[0]]


@pytest.mark.parametrize("size", [1, 1_000])
def test_an_incident_that_doubles_is_told_again_under_its_id(size: int) -> None:
    start = [line(at * 700, text.format(5), session="a") for at, text in enumerate(STEPS[:2])]
    told = _told([*start, *(line(2_000 + at * 300, text, session="a") for at, text in enumerate(ODD))], size)
    assert len(told) > 1
    assert len({anomaly["anomaly_id"] for anomaly in told}) == 1
    assert [anomaly["revision"] for anomaly in told] == list(range(0, len(told) * REVISIONS, REVISIONS))
    assert [anomaly["status"] for anomaly in told] == ["new", *["strengthened"] * (len(told) - 1)]
    strength = [anomaly["score"] / (1 - anomaly["score"]) for anomaly in told]
    assert all(later > 1.999 * earlier for earlier, later in itertools.pairwise(strength))
    assert told[-1]["false_per_day"] <= told[0]["false_per_day"]
    assert {piece["template"] for piece in told[-1]["evidence"]} > {piece["template"] for piece in told[0]["evidence"]}
    assert "With it came" in told[-1]["explanation"]


def test_equal_lines_again_and_again_are_told_once() -> None:
    start = [line(at * 700, text.format(5), session="a") for at, text in enumerate(STEPS[:2])]
    again = [line(2_000 + at * 300, ODD[0], session="a") for at in range(40)]
    told = _told([*start, *again], detectors=("novelty", "ngram"))
    assert [(anomaly["source"]["offset"], anomaly["revision"]) for anomaly in told] == [(2, 0)]
    other = [line(2_000 + at * 300, ODD[0], session=f"a-{at}") for at in range(3)]
    assert len({anomaly["anomaly_id"] for anomaly in _told(other)}) == 3


@pytest.mark.parametrize("size", [1, 1_000])
def test_after_the_hold_it_is_a_new_incident(size: int) -> None:
    brief = IncidentParams(session_hold_ms=5_000)

    def told(pause_ms: int) -> list[dict[str, Any]]:
        lines = [line(0, ODD[0], session="a"), line(pause_ms, ODD[0], session="a")]
        return _told(lines, size, detectors=("novelty", "ngram"), incidents=brief)

    assert [anomaly["source"]["offset"] for anomaly in told(5_000)] == [0]
    apart = told(5_001)
    assert [(anomaly["source"]["offset"], anomaly["revision"]) for anomaly in apart] == [(0, 0), (1, 0)]
    assert len({anomaly["anomaly_id"] for anomaly in apart}) == 2
    assert len({anomaly["fingerprint"] for anomaly in apart}) == 1


def test_lines_without_a_session_add_up_in_their_service() -> None:
    told = _told([line(at * 300, text) for at, text in enumerate(ODD)])
    assert len(told) > 1
    assert len({anomaly["anomaly_id"] for anomaly in told}) == 1
    apart = _told([line(at * 300, text, service=f"cart-{at}") for at, text in enumerate(ODD)])
    most, alone = (max((len(anomaly["evidence"]) for anomaly in found), default=1) for found in (told, apart))
    assert most > alone == 1


def test_a_budget_below_all_else_tells_less(whole) -> None:
    strict = _told(odd_values(), budget_per_day=1e-6)
    assert len(strict) < len(whole[0])


def test_templates_that_are_new_to_the_model_may_be_no_anomaly() -> None:
    lines = [line(at * 300, text, session="a") for at, text in enumerate(ODD)]
    params = replace(PARAMS, is_unknown_anomalous=False)
    assert _told(lines)
    assert not _run(1_000, params=params, values=lines)[0]


# -- what else a step gives ------------------------------------------------------------------------------------------


def test_rejects_carry_their_origin_and_every_offset_is_accounted_for(whole) -> None:
    rejects = [orjson.loads(reject) for reject in whole[1]]
    assert [(reject["offset"], reject["reason"]) for reject in rejects] == [(31, "empty")]
    (step,) = steps(PARAMS.build({}), odd_values())
    account = orjson.loads(step.ranges)
    scored = {at for first, last in account["accounts"][0]["scored"] for at in range(first, last + 1)}
    rejected = {offset for _, _, offset, _ in account["rejected"]}
    assert scored | rejected == set(range(140))
    assert not scored & rejected


def test_without_a_model_templates_are_learned_and_nothing_is_reported() -> None:
    (step,) = steps(PARAMS.build({}), odd_values())
    assert not step.anomalies
    assert step.unmodelled == 139
    assert {orjson.loads(entry)["template"] for _, entry in step.catalogue} > {"opened cart for user <num>"}


def test_quiet_services_leave_no_state_behind() -> None:
    shard = replace(PARAMS, idle_ticks=2).build(models())
    (step,) = steps(shard, odd_values())
    entries = {key for key, _ in step.writes.entries}
    assert len(shard.incidents) > 0
    dropped: set[str] = set()
    for _ in range(3):
        writes = shard.tick()
        dropped |= set(writes.dropped)
    assert dropped == entries
    assert len(shard.windows) == len(shard.incidents) == 0
    assert writes.is_snapshot
    assert len(writes.journal) < 400
