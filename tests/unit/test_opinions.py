"""What each detector alone, and all but each, would have told, from one pass: the same as from passes of their own."""

from __future__ import annotations

import doctest
import functools

import pytest

from models import opinions
from models.batch import BatchParams
from models.evaluate import opinions_of, score_through_core
from models.fusion import FusionParams
from models.opinions import Opinions, choices, split
from models.shard import ShardParams
from models.templates import TemplateParams
from tests.unit.shop_model import DETECTORS, STEPS, record, shop, shop_model

CHOICES = choices(DETECTORS)
FUSION = FusionParams(budget_per_day=10_000)


@functools.cache
def watched():
    """Sessions of the shop, some of which go wrong, and lines without session."""
    lines = list(shop(40, start=1_000))
    wrong = {
        "order": (0, 1, 3, 2, 4, 5),
        "stops": (0, 1, 2),
        "again": (0, 1, 2, 2, 2, 2, 2, 2, 3, 4, 5),
        "begins": (3, 4, 5),
    }
    for number, (name, steps) in enumerate(wrong.items()):
        lines += [record(1_200 + 20 * number + at, STEPS[step], session=name) for at, step in enumerate(steps)]
    odd = ("the disk melted", "a fuse blew somewhere", "no route is left", "watchdog bit twice today")
    lines += [record(1_300 + at, text, session="new") for at, text in enumerate((*STEPS[:2], *odd, *STEPS[2:]))]
    lines += [record(1_320 + at % 3, text) for at, text in enumerate((*odd, *STEPS))]
    return [*lines, *shop(20, start=2_000)]


def run(shards, heard=None):
    models = {"cart": shop_model()}
    return list(score_through_core(watched(), models, BatchParams(), shards, opinions=heard))


def essence(anomalies, names):
    """What a choice's anomaly says, as far as both ways tell it."""
    return [
        (
            anomaly["source"]["offset"],
            anomaly["ts"],
            anomaly["service"],
            anomaly["session"],
            anomaly["message"],
            anomaly["score"],
            {name: round(vote, 3) for name, vote in anomaly["detectors"].items()},
        )
        for anomaly in anomalies
        if set(anomaly["detectors"]) == set(names)
    ]


@pytest.fixture(scope="module")
def heard():
    found = Opinions(FUSION, CHOICES)
    assert run(ShardParams(fusion=FUSION), found)
    return found


def test_the_examples_in_the_docstrings_hold():
    result = doctest.testmod(opinions)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("choice", CHOICES)
def test_each_alone_and_each_left_out_tell_what_a_shard_with_that_choice_tells(heard, choice):
    names = CHOICES[choice]
    told = run(ShardParams(fusion=FusionParams(FUSION.budget_per_day, detectors=names)))
    assert essence(heard.anomalies[choice], names) == essence(told, names)
    assert len(heard.anomalies[choice]) == len(told)


def test_the_choices_tell_different_things(heard):
    told = {choice: tuple(a["source"]["offset"] for a in found) for choice, found in heard.anomalies.items()}
    assert sum(map(bool, told.values())) > len(CHOICES) / 2
    assert len(set(told.values())) > 3


@pytest.mark.parametrize(
    "options",
    [
        {"is_unknown_anomalous": False},
        {"templates": TemplateParams(max_templates=7)},
    ],
)
def test_lines_that_no_verdict_is_given_on_are_not_heard_either(options):
    """Templates unknown to the model where these are to be ignored; those beyond the bound on templates."""
    found = Opinions(FUSION, {"novelty": ("novelty",), "count": ("count",), "-ngram": ("deeplog", "novelty", "count")})
    run(ShardParams(fusion=FUSION, **options), found)
    for choice, names in found.choices.items():
        told = run(ShardParams(fusion=FusionParams(FUSION.budget_per_day, detectors=names), **options))
        assert essence(found.anomalies[choice], names) == essence(told, names)
    assert found.anomalies["-ngram"]


def test_to_listen_changes_no_anomaly(heard):
    assert run(ShardParams(fusion=FUSION), Opinions(FUSION, CHOICES)) == run(ShardParams(fusion=FUSION))


def test_only_the_detectors_that_vote_are_asked():
    shards = ShardParams(fusion=FusionParams(10_000, detectors=("count", "ngram")))
    found = opinions_of({"cart": shop_model()}, shards)
    assert set(found.choices) == {"ngram", "count", "-ngram", "-count"}
    assert set(opinions_of({"cart": shop_model()}, ShardParams()).choices) == set(CHOICES)
    run(shards, found)
    assert found.anomalies["count"]
    assert found.anomalies["-ngram"] == found.anomalies["count"]


def test_a_choice_that_the_model_knows_nothing_of_tells_nothing():
    found = Opinions(FUSION, {"rapid": ("rapid",), "count": ("count", "rapid")})
    run(ShardParams(fusion=FUSION), found)
    assert found.anomalies["rapid"] == []
    assert found.anomalies["count"]


def test_the_anomalies_are_split_into_those_alone_and_those_without():
    alone, without = split({"count": [{"ts": 1}], "-count": [{"ts": 2}], "deeplog-value": [{"ts": 3}]})
    assert alone == {"count": [{"ts": 1}], "deeplog-value": [{"ts": 3}]}
    assert without == {"count": [{"ts": 2}]}
    assert choices(["count"]) == {"count": ("count",)}
