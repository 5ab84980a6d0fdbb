"""The second opinion: who is asked, what is decided, and that nothing but the anomaly and the model decides it."""

from __future__ import annotations

import doctest
import functools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import fusion, second_opinion
from models.artefact import Artefact
from models.batch import BatchParams
from models.conformal import NormalScores
from models.datasets import to_batches
from models.errors import DataSetError, SettingsError
from models.evaluate import score_through_core
from models.fusion import Fusion, FusionParams
from models.loki import LokiEntries, LokiParams
from models.second_opinion import SecondOpinion, has_voices
from models.shard import ShardParams
from models.templates import TemplateParams, template_hex
from models.train import TrainParams, train
from tests.unit.shop_model import DETECTORS, QUICK_FIT, STEPS, record, shop, shop_model

ROOT = Path(__file__).parents[2]
HEAVY = ("loggpt", "rapid", "semantic", "autoencoder")
FAMILY = {"loggpt": "order", "rapid": "text", "semantic": "text", "autoencoder": "text"}
BUDGET = 10_000  # nearly all that is odd is told
ODD = ("the disk melted", "a fuse blew somewhere", "no route is left", "watchdog bit twice today")
DAY_MS = 1_704_067_200_000

Anomaly = dict[str, Any]


@functools.cache
def model() -> Artefact:
    """The shop's model with all heavy detectors."""
    params = TrainParams(detectors=(*DETECTORS, *HEAVY), fit=QUICK_FIT, min_lines=200)
    return train(to_batches(shop()), None, params).artefacts["cart"]


@functools.cache
def told(detectors: tuple[str, ...] | None = None) -> tuple[bytes, ...]:
    """What is told of some sessions that go wrong, of which one incident grows."""
    wrong = {"order": (0, 1, 3, 2, 4, 5), "stops": (0, 1, 2), "again": (0, 1, 2, 2, 2, 3, 4, 5)}
    lines = list(shop(20, start=1_000))
    for number, (name, steps) in enumerate(wrong.items()):
        lines += [record(1_200 + 20 * number + at, STEPS[step], session=name) for at, step in enumerate(steps)]
    lines += [record(1_300 + at, text, session="new") for at, text in enumerate((*STEPS[:2], *ODD, *STEPS[2:]))]
    lines += [record(1_320 + at % 3, text) for at, text in enumerate((*ODD, *STEPS))]
    lines += shop(20, start=2_000)
    shards = ShardParams(fusion=FusionParams(BUDGET, detectors=detectors))
    return tuple(orjson.dumps(a) for a in score_through_core(lines, {"cart": model()}, BatchParams(), shards))


def anomaly(message: str = "stock reserved", before: Sequence[int] = (0, 1), **fields: Any) -> Anomaly:
    """Something told of a line of the shop, after some of the six steps: by default one at its usual place, barely told."""
    ids = {entry["tokens"]: template_hex(int(entry["id"])) for entry in model().templates}
    first = orjson.loads(told()[0])
    context = [{"template_id": ids[STEPS[step]], "template": STEPS[step]} for step in before]
    about = {"message": message, "template_id": ids.get(message, "0badf00d"), "template": message, "context": context}
    barely = {"kind": "line", "strength": 1.2, "threshold": 1.0, "score": 0.54545, "session": "s", "is_late": False}
    return first | about | barely | fields


def opinion(*detectors: str) -> SecondOpinion:
    """The second opinion of some heavy detectors; of all if none is named."""
    return SecondOpinion(
        {"cart": model()}, TemplateParams(), FusionParams(detectors=(*DETECTORS, *(detectors or HEAVY)))
    )


def revised(found: Anomaly, *detectors: str) -> Anomaly | None:
    """The revision of one anomaly."""
    revisions = [orjson.loads(data) for data in opinion(*detectors).step([orjson.dumps(found)])]
    assert len(revisions) <= 1
    return revisions[0] if revisions else None


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(second_opinion)
    assert result.attempted > 0
    assert result.failed == 0


# -- the verdict -----------------------------------------------------------------------------------------------------


def test_what_a_heavy_detector_finds_unusual_is_strengthened_by_the_weight_of_the_families():
    before = anomaly("the disk melted")
    after = revised(before)
    assert after["status"] == "strengthened"
    assert (after["anomaly_id"], after["revision"]) == (before["anomaly_id"], before["revision"] + 1)
    votes = {name: after["detectors"][name] for name in HEAVY}
    weight = 0.0
    for family in ("order", "text"):
        voices = [max(votes[name] - fusion._USUAL, 0) for name in HEAVY if FAMILY[name] == family]
        weight += (max(voices) + sum(voices) / len(voices)) / 2
    assert max(votes.values()) >= 2
    assert after["strength"] == pytest.approx(1.2 + weight, abs=2e-3)
    assert after["score"] == pytest.approx(after["strength"] / (after["strength"] + 1.0), abs=1e-5)


def test_the_strongest_says_why_and_rapid_names_the_nearest_normal_line():
    before = anomaly("stock melted")
    after = revised(before, "rapid")
    assert after["explanation"].startswith(f"{before['explanation']} A second look by rapid agrees: Distance ")
    assert after["nearest"] == {"text": "stock reserved", "differing": ["melted"]}
    assert after["detectors"] == before["detectors"] | {"rapid": after["detectors"]["rapid"]}


def test_what_all_find_ordinary_and_was_barely_told_is_refuted():
    before = anomaly()
    after = revised(before, "loggpt", "rapid")
    assert after["status"] == "refuted"
    assert after["revision"] == before["revision"] + 1
    assert after["score"] == pytest.approx(before["score"] / 2, abs=1e-5)
    assert after["strength"] == before["strength"]
    assert max(after["detectors"][name] for name in ("loggpt", "rapid")) < 1
    explanation = after["explanation"].removeprefix(before["explanation"])
    assert explanation.startswith(" A second look by loggpt and rapid finds it ordinary: ")
    assert "The nearest normal line is “stock reserved”." in explanation
    assert "After “cart loaded” and the lines before it, “stock reserved”" in explanation
    assert after["nearest"] == {"text": "stock reserved", "differing": []}


@pytest.mark.parametrize(("strength", "status"), [(1.0, "refuted"), (1.9999, "refuted"), (2.0, None), (9.0, None)])
def test_what_is_twice_the_threshold_is_not_refuted(strength: float, status: str | None):
    score = round(strength / (strength + 1.0), 5)
    after = revised(anomaly(strength=strength, score=score), "loggpt", "rapid")
    assert (after and after["status"]) == status
    assert after is None or after["score"] < 0.5


def test_one_who_finds_it_unusual_outweighs_those_who_do_not():
    wrong_place = anomaly("payment charged")
    by_text = wrong_place | {"detectors": {"novelty": 3.0}}
    assert revised(by_text, "rapid")["status"] == "refuted"
    assert revised(wrong_place, "rapid") is None  # told for its place, of which one who reads texts knows nothing
    after = revised(wrong_place, "rapid", "loggpt")
    assert after["status"] == "strengthened"
    assert "A second look by loggpt agrees: After “cart loaded” and the lines before it" in after["explanation"]


def test_between_the_two_nothing_is_said(monkeypatch):
    found = [anomaly(), anomaly("the disk melted")]
    monkeypatch.setattr(second_opinion, "_ORDINARY", 0.1)
    monkeypatch.setattr(second_opinion, "_UNUSUAL", 9.0)
    assert opinion().step([orjson.dumps(one) for one in found]) == []
    monkeypatch.undo()
    assert len(opinion().step([orjson.dumps(one) for one in found])) == 2


def test_the_end_of_a_session_is_judged_by_those_that_judge_ends():
    stopped = revised(anomaly(before=(0, 1, 2), kind="end"))
    assert stopped["status"] == "strengthened"
    assert "the session's end came" in stopped["explanation"]
    finished = revised(anomaly("request finished", range(6), kind="end"))
    assert finished["status"] == "refuted"
    for after in (stopped, finished):
        assert set(after["detectors"]) == {*DETECTORS, "loggpt"}
        assert after["nearest"] is None
    assert revised(anomaly(before=(0, 1, 2), kind="end"), "rapid", "semantic", "autoencoder") is None


def test_real_anomalies_are_strengthened_and_keep_the_schema():
    schema = json.loads((ROOT / "docs" / "anomaly.schema.json").read_text())
    revisions = [orjson.loads(data) for data in opinion().step(told())]
    assert {(r["kind"], r["revision"] > 1) for r in revisions} >= {("line", False), ("line", True), ("end", False)}
    before = {(a["anomaly_id"], a["revision"]): a for a in map(orjson.loads, told())}
    assert all(revision % 2 == 0 for _, revision in before)
    for after in revisions:
        jsonschema.Draft202012Validator(schema).validate(after)
        first = before[after["anomaly_id"], after["revision"] - 1]
        assert after["status"] == "strengthened"
        assert after["strength"] > first["strength"]
        assert after["score"] > first["score"]
        assert after["fingerprint"] == first["fingerprint"]
    refuted = revised(anomaly())
    jsonschema.Draft202012Validator(schema).validate(refuted)


def test_loki_keeps_the_first_telling_only():
    entries = LokiEntries(LokiParams("localhost"))
    (revision,) = opinion().step([orjson.dumps(anomaly("the disk melted", revision=0))])
    assert entries.step(revision) == ([], [])
    assert len(entries.step(told()[0])[0]) == 1


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [{"kind": "rate"}, {"mode": "shadow"}, {"revision": 1}, {"revision": 5}, {"model_version": "000000000000"}],
)
def test_of_rates_shadows_second_opinions_and_other_models_nothing_is_said(fields: Anomaly):
    assert revised(anomaly("the disk melted")) is not None
    assert revised(anomaly("the disk melted", **fields)) is None


def test_the_default_model_is_asked_where_a_service_has_none_and_only_there():
    data = orjson.dumps(anomaly("the disk melted", service="mail"))
    both = {"cart": model(), "mail": shop_model(), "default": model()}
    for models, count in ((both, 0), ({"default": model()}, 1), ({"cart": model()}, 0)):
        assert len(SecondOpinion(models, TemplateParams(), FusionParams()).step([data])) == count


def test_a_line_whose_id_the_model_has_not_is_known_by_its_text():
    usual = revised(anomaly(), "loggpt")
    assert usual["status"] == "refuted"
    assert revised(anomaly(template_id="0badf00d"), "loggpt")["detectors"] == usual["detectors"]
    assert revised(anomaly("the disk melted"), "loggpt")["status"] == "strengthened"


def test_of_a_line_too_late_for_its_place_its_place_is_not_judged():
    first = anomaly(before=())
    assert revised(first, "loggpt")["status"] == "strengthened"  # no session begins with it
    assert revised(first | {"is_late": True}, "loggpt") is None
    told_for_text = first | {"is_late": True, "detectors": {"novelty": 3.0}}
    assert revised(told_for_text, "loggpt", "rapid")["status"] == "refuted"  # its text is still read


def test_a_detector_that_knows_no_normal_score_has_nothing_to_say():
    tables = {**model().calibration.line, "rapid": NormalScores.of(np.zeros(0))}
    blind = replace(model(), calibration=replace(model().calibration, line=tables))
    data = orjson.dumps(anomaly("the disk melted", model_version=blind.version))
    for detectors, heard in ((("count", "rapid"), []), (("count", "rapid", "loggpt"), ["loggpt"])):
        asked = SecondOpinion({"cart": blind}, TemplateParams(), FusionParams(detectors=detectors))
        votes = [orjson.loads(revision)["detectors"] for revision in asked.step([data])]
        assert [name for vote in votes for name in vote if name in HEAVY] == heard


def test_a_service_without_sessions_is_judged_where_its_window_is_full():
    """So says loggpt of its own lines; a context shorter than the window is its beginning."""
    length = model().length
    known = {"session": None}
    assert revised(anomaly(before=[0] * (length - 1), **known), "loggpt") is None
    assert revised(anomaly(before=[0] * length, **known), "loggpt") is not None
    more = revised(anomaly(before=[*[5] * 20, *[0] * length], **known), "loggpt")
    assert more["detectors"] == revised(anomaly(before=[0] * length, **known), "loggpt")["detectors"]


# -- nothing else decides --------------------------------------------------------------------------------------------


@functools.cache
def many() -> tuple[bytes, ...]:
    """Anomalies of some hours: real ones, ordinary lines, new ones, ends, and such as are not asked about."""
    found = [orjson.loads(data) for data in told()]
    for number in range(32):
        ts = {"ts": DAY_MS + 90_000 * number, "session": f"m-{number}" if number % 4 else None}
        found += [
            anomaly(("stock reserved", "mail queued", ODD[number % 4])[number % 3], **ts),
            anomaly(before=[0, 1, 2][: number % 4], kind="end", **ts),
        ]
    found += [anomaly(kind="rate"), anomaly(revision=3)]
    return tuple(orjson.dumps(one | {"anomaly_id": f"{number:016x}"}) for number, one in enumerate(found))


@functools.cache
def whole() -> dict[str, bytes]:
    """The revision of each, from one call."""
    revisions = {orjson.loads(data)["anomaly_id"]: data for data in opinion().step(many())}
    assert {orjson.loads(data)["status"] for data in revisions.values()} == {"strengthened", "refuted"}
    assert len(revisions) < len(many())
    return revisions


@settings(max_examples=4, deadline=None)
@given(st.permutations(range(len(many()))), st.integers(1, 40))
def test_any_order_and_grouping_gives_the_same_bytes(order: list[int], size: int):
    shuffled, asked = [many()[at] for at in order], opinion()
    revisions = [data for low in range(0, len(shuffled), size) for data in asked.step(shuffled[low : low + size])]
    ids = [orjson.loads(data)["anomaly_id"] for data in shuffled]
    assert revisions == [whole()[one] for one in ids if one in whole()]


def test_a_replay_gives_the_same_bytes_and_nothing_is_kept():
    asked = opinion()
    once = asked.step(many())
    assert asked.step(many()) == once == list(whole().values())
    kept = [detector.to_bytes() for voices in asked._voices.values() for detector in voices._detectors.values()]
    fresh = [detector.to_bytes() for voices in opinion()._voices.values() for detector in voices._detectors.values()]
    assert kept == fresh
    assert len(kept) == len(HEAVY)


def test_anomalies_beyond_those_judged_at_once_are_judged_the_same(monkeypatch):
    monkeypatch.setattr(second_opinion, "_AT_ONCE", 7)
    assert opinion().step(many()) == list(whole().values())


def test_of_nothing_nothing_is_said():
    assert opinion().step([]) == []
    assert opinion("rapid").step([orjson.dumps(anomaly(kind="rate"))]) == []


# -- the first opinion -----------------------------------------------------------------------------------------------


def test_heavy_detectors_change_nothing_of_the_first_telling():
    assert told() == told(DETECTORS)
    assert all(set(orjson.loads(data)["detectors"]) == set(DETECTORS) for data in told())
    fast = Fusion(model().calibration, FusionParams(), is_heavy=False)
    assert fast.names == DETECTORS
    assert fast.threshold == Fusion(model().calibration, FusionParams(detectors=DETECTORS)).threshold
    assert model().metrics["threshold"] == fast.threshold


def test_whether_a_model_has_a_second_opinion_depends_on_who_votes():
    assert has_voices([shop_model(), model()], FusionParams())
    assert not has_voices([shop_model()], FusionParams())
    assert not has_voices([model()], FusionParams(detectors=DETECTORS))
    assert has_voices([model()], FusionParams(detectors=("count", "rapid")))
    silent = SecondOpinion({"cart": model()}, TemplateParams(), FusionParams(detectors=DETECTORS))
    assert silent.step(told()) == []


def test_without_one_that_judges_every_line_there_is_no_first_opinion():
    with pytest.raises(
        SettingsError, match=r"rapid only give a second opinion.*add one that judges every line: deeplog, "
    ):
        TrainParams(detectors=("rapid",))
    with pytest.raises(DataSetError, match=r"no detector has enough to learn from: .*at least 20"):
        train(to_batches(shop(10)), None, TrainParams(detectors=("count", "rapid"), min_lines=10))
    with pytest.raises(SettingsError, match=r"none of the detectors rapid that judges every line; it has deeplog, "):
        Fusion(model().calibration, FusionParams(detectors=("rapid",)), is_heavy=False)
    with pytest.raises(
        SettingsError, match="none of the detectors count that gives a second opinion; it has loggpt, rapid"
    ):
        Fusion(model().calibration, FusionParams(detectors=("count",)), is_heavy=True)
