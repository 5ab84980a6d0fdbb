from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from pyflink.common import Row

from models.control import EVERY, SetMode, SetModel
from models.fusion import FusionParams
from models.life import LifeParams
from models.packing import shard_of
from models.shard import ShardParams
from models.store import Store
from tests.operators.fakes import FakeContext, FakeRuntime
from tests.unit.shop_model import shop_model
from udfs.commands import ReadCommandsFn
from udfs.detect import DetectFn
from udfs.tags import REJECTS, STATUS

MODE = SetMode(command_id="c1", version=1, service="cart", by="ada", mode="shadow")


def _read(value: bytes | None) -> list[Any]:
    return list(ReadCommandsFn(4).process_element(Row(value, "control", 0, 17), None))


def test_a_command_goes_to_the_shard_of_its_service_and_one_for_all_to_every_shard() -> None:
    assert _read(MODE.to_bytes()) == [Row(str(shard_of("cart", 4)), MODE.to_bytes())]
    every = MODE.model_copy(update={"service": EVERY})
    assert [row[0] for row in _read(every.to_bytes())] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("value", [None, b"", b"not json", b'{"kind": "mode"}', b" " + b"x" * 300_000])
def test_what_is_no_command_becomes_a_dead_letter_that_names_its_place(value: bytes | None) -> None:
    ((tag, (key, letter)),) = _read(value)
    assert tag is REJECTS
    assert key == b"control"
    letter = orjson.loads(letter)
    assert (letter["reason"], letter["stage"], letter["offset"]) == ("no_command", "control", 17)


@pytest.fixture
def opened(tmp_path: Path) -> tuple[DetectFn, FakeRuntime]:
    Store.open(str(tmp_path)).save(shop_model())
    params = ShardParams(fusion=FusionParams(budget_per_day=10_000), life=LifeParams(is_gradual=True))
    runtime = FakeRuntime()
    function = DetectFn(params, None, store=str(tmp_path), has_status=True)
    function.open(runtime)
    return function, runtime


def _statuses(outputs: Any) -> list[dict[str, Any]]:
    return [orjson.loads(row[1]) for tag, row in outputs if tag is STATUS]


def test_a_command_acts_at_once_is_answered_and_is_still_in_force_after_a_restore(opened) -> None:
    function, runtime = opened
    model = SetModel(command_id="m1", version=5, service="cart", by="trainer", model_version=shop_model().version)
    (status,) = _statuses(function.process_element(model.to_bytes(), FakeContext()))
    assert status["commands"]["m1"]["is_obeyed"]
    assert (status["mode"], status["model_version"]) == ("shadow", shop_model().version)
    assert runtime.counts["commands_total"] == 1
    function._shards.clear()
    (status,) = _statuses(function.process_element(MODE.to_bytes(), FakeContext()))
    assert status["model_version"] == shop_model().version
    assert set(status["commands"]) == {"m1", "c1"}
