from __future__ import annotations

import functools
from pathlib import Path

import orjson
import pytest
from pyflink.common import Row

from models.artefact import Artefact, save
from models.batch import BatchParams
from models.control import Feedback, Undo
from models.datasets import to_batches
from models.evaluate import score_through_core
from models.fusion import FusionParams
from models.shard import ShardParams
from models.train import TrainParams, train
from tests.operators.fakes import FakeRuntime
from tests.unit.shop_model import STEPS, record, shop
from udfs.second_opinion import SecondOpinionFn
from udfs.tags import DELIVERIES

PARAMS = ShardParams(fusion=FusionParams(budget_per_day=10_000))
ODD = ("the disk melted", "a fuse blew somewhere")


@functools.cache
def _artefact() -> Artefact:
    params = TrainParams(detectors=("novelty", "ngram", "rapid"), min_lines=200)
    return train(to_batches(shop()), None, params).artefacts["cart"]


@functools.cache
def _told() -> tuple[Row, ...]:
    """Two new lines, as the first operator passes them on."""
    lines = [
        record(1_000 + at, text, session=odd) for odd in ODD for at, text in enumerate((*STEPS[:2], odd, *STEPS[2:]))
    ]
    anomalies = score_through_core(lines, {"cart": _artefact()}, BatchParams(), PARAMS)
    return tuple(Row(b"cart", orjson.dumps(anomaly)) for anomaly in anomalies)


def _open(folder: Path, runtime: FakeRuntime, *, has_deliveries: bool = True) -> SecondOpinionFn:
    save(_artefact(), folder)
    function = SecondOpinionFn(PARAMS, str(folder), has_deliveries=has_deliveries)
    function.open(runtime)
    return function


@pytest.mark.parametrize("has_deliveries", [True, False])
def test_each_revision_goes_on_under_its_service_and_to_the_sinks_written_from_python(
    tmp_path: Path, has_deliveries: bool
) -> None:
    runtime = FakeRuntime()
    function = _open(tmp_path, runtime, has_deliveries=has_deliveries)
    before = [orjson.loads(row[1]) for row in _told()]
    assert [anomaly["message"] for anomaly in before] == list(ODD)
    outputs = [list(function.process_element(row[1], None)) for row in _told()]
    for (revision, *deliveries), first in zip(outputs, before, strict=True):
        assert revision[0] == b"cart"
        anomaly = orjson.loads(revision[1])
        assert (anomaly["anomaly_id"], anomaly["revision"]) == (first["anomaly_id"], first["revision"] + 1)
        assert anomaly["status"] == "strengthened"
        assert deliveries == ([(DELIVERIES, revision[1])] if has_deliveries else [])
    assert runtime.counts == {"second_opinions_asked_total": 2, "second_opinions_given_total": 2}


def test_a_revision_gets_no_second_opinion_and_a_restart_gives_the_same(tmp_path: Path) -> None:
    runtime = FakeRuntime()
    function = _open(tmp_path, runtime)
    first = [list(function.process_element(row[1], None)) for row in _told()]
    for revision, *_ in first:
        assert list(function.process_element(revision[1], None)) == []
    assert runtime.counts == {"second_opinions_asked_total": 4, "second_opinions_given_total": 2}
    again = _open(tmp_path, FakeRuntime())
    assert [list(again.process_element(row[1], None)) for row in reversed(_told())] == first[::-1]


def test_a_line_called_normal_joins_the_normal_texts_at_once_over_a_restart_and_until_it_is_undone(
    tmp_path: Path,
) -> None:
    runtime = FakeRuntime()
    function = _open(tmp_path, runtime)
    told = _told()[0][1]
    (first, _) = function.process_element(told, None)
    assert orjson.loads(first[1])["status"] == "strengthened"
    fields = {"service": "cart", "by": "ada"}
    normal = Feedback(command_id="n", version=1, label="normal", message=ODD[0], **fields)
    assert list(function.process_element(normal.to_bytes(), None)) == []
    restarted = SecondOpinionFn(PARAMS, str(tmp_path), has_deliveries=False)
    restarted.open(runtime)
    for one in (function, restarted):
        revisions = [orjson.loads(row[1]) for row in one.process_element(told, None) if isinstance(row, Row)]
        assert [revision["status"] for revision in revisions] != ["strengthened"]
    undo = Undo(command_id="u", version=2, target="n", **fields)
    assert list(restarted.process_element(undo.to_bytes(), None)) == []
    (again,) = restarted.process_element(told, None)
    assert again[1] == first[1]
    assert not runtime.states["accepted"].data
