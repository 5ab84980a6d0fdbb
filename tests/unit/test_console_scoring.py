from __future__ import annotations

from pathlib import Path

import pytest

from console.board import Board
from console.scorer import Scorer
from console.scoring import score
from console.store import Store
from models.artefact import load, save
from models.errors import ArtefactError
from models.folders import folder_name
from tests.unit.console_cases import status
from tests.unit.shop_model import shop, shop_model


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store of one version of the shop's model, and half a copy of another."""
    folder = tmp_path_factory.mktemp("store")
    model = shop_model()
    (folder / folder_name("cart")).mkdir()
    save(model, folder / "new").rename(folder / "cart" / model.version)
    (folder / "cart" / "0123456789ab").mkdir()
    return Store(str(folder))


def test_each_line_gets_its_template_evidence_and_verdict() -> None:
    lines = [
        *list(shop(2, 50_000))[:12],
        b"kernel panic on cpu 7",
        b" ",
        b'{"service": "other", "message": "cart loaded"}',
    ]
    answers = score(shop_model(), "cart", lines)
    assert [answer["line"] for answer in answers] == list(range(15))
    assert [answer["template"] for answer in answers[:4]] == ["request accepted"] * 2 + ["cart loaded"] * 2
    assert all(answer["evidence"] == {} and not answer["is_told"] for answer in answers[:12])
    assert answers[12]["evidence"]["novelty"] > 1
    assert answers[12]["template_id"] != "00000000"
    assert "blank" in answers[13]["error"]
    assert answers[14]["template_id"] == answers[2]["template_id"]
    assert score(shop_model(), "cart", lines) == answers


def test_a_generous_budget_tells_what_a_narrow_one_keeps() -> None:
    lines = [b'{"service": "cart", "session": "s", "message": "kernel panic on cpu 7"}'] * 6
    told = {
        budget: [answer["is_told"] for answer in score(shop_model(), "cart", lines, budget)]
        for budget in (0.001, 10_000.0)
    }
    assert sum(told[10_000.0]) > sum(told[0.001])


def test_the_store_lists_whole_versions_and_gives_models_checked(store: Store) -> None:
    model = shop_model()
    [found] = store.versions("cart")
    assert (found.version, found.detectors) == (model.version, tuple(model.calibration.names))
    assert store.versions("nobody") == []
    assert store.model("cart", model.version).version == model.version
    for version in ("0123456789ab", "ffffffffffff", "../../secret"):
        with pytest.raises(ArtefactError):
            store.model("cart", version)


def test_a_service_is_scored_by_the_version_that_the_job_uses(store: Store, tmp_path: Path) -> None:
    board = Board()
    scorer = Scorer(board, store, None)
    assert scorer.artefact("cart").version == shop_model().version
    board.tell_status(status(model_version="0123456789ab"))
    with pytest.raises(ArtefactError):
        scorer.artefact("cart")
    folder = save(shop_model(), tmp_path)
    assert Scorer(Board(), None, folder).artefact("cart").version == load(folder).version
    with pytest.raises(ArtefactError, match="the folder of `model` has: cart"):
        Scorer(Board(), None, folder).artefact("nobody")
