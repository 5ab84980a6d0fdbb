"""Artefacts: written as a whole, read with every check, refused with what to do next."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import orjson
import pytest
import torch

from models.artefact import MANIFEST, TEMPLATES, WEIGHTS, Artefact, load, load_all, save
from models.deeplog import DeepLog, DeepLogRule
from models.errors import ArtefactError

VOCABULARY = (0, 0, 11, 22, 33)


@pytest.fixture(scope="module")
def artefact():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        weights = DeepLog(len(VOCABULARY) + 1, hidden=8).state_dict()
    return Artefact(
        service="cart",
        vocabulary=VOCABULARY,
        templates=[
            {"id": number, "created": f"event {number}", "tokens": f"event {number}"} for number in VOCABULARY[2:]
        ],
        rule=DeepLogRule(top_g=2, min_probability=0.001, min_end_probability=0.01),
        length=10,
        session_gap_ms=1000,
        wait_ms=(-1, 10, 20, 30, 40),
        hidden=8,
        layers=2,
        weights=weights,
        metrics={"held_out_loss": 0.5},
        training={"lines": 7},
        created="2024-01-01T00:00:00+00:00",
    )


def test_what_is_written_is_what_is_read(artefact, tmp_path):
    path = save(artefact, tmp_path)
    assert path == tmp_path / "cart"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cart"]
    found = load(path)
    for name in (
        "service",
        "vocabulary",
        "templates",
        "rule",
        "length",
        "session_gap_ms",
        "wait_ms",
        "metrics",
        "training",
    ):
        assert getattr(found, name) == getattr(artefact, name)
    assert found.version == artefact.version
    windows = np.array([[0, 2, 3], [2, 3, 4]], np.int32)
    for one, other in zip(
        found.scorer().score(windows, windows[:, 0]), artefact.scorer().score(windows, windows[:, 0]), strict=True
    ):
        assert np.array_equal(one, other)


def test_templates_have_classes_and_texts(artefact):
    assert artefact.classes(np.array([22, 99, 11, 0], np.uint32)).tolist() == [3, 1, 2, 1]
    assert artefact.text(3) == "event 22"
    assert artefact.end == 5 == artefact.scorer().end


def test_the_version_is_that_of_the_content_and_not_of_the_hour(artefact):
    assert replace(artefact, created="2025").version == artefact.version
    assert replace(artefact, rule=DeepLogRule(top_g=3)).version != artefact.version


def test_a_new_model_replaces_the_old_one_as_a_whole(artefact, tmp_path):
    save(artefact, tmp_path)
    (tmp_path / "cart" / "left-over").write_text("x")
    path = save(replace(artefact, rule=DeepLogRule(top_g=4)), tmp_path)
    assert load(path).top_g == 4
    assert sorted(file.name for file in path.iterdir()) == sorted([MANIFEST, TEMPLATES, WEIGHTS])
    assert [file.name for file in tmp_path.iterdir()] == ["cart"]


def test_a_service_may_have_any_name(artefact, tmp_path):
    for name in ("shop/cart", "..", ".hidden", "a b", "ü", "default"):
        path = save(replace(artefact, service=name), tmp_path)
        assert path.parent == tmp_path
    assert set(load_all(tmp_path)) == {"shop/cart", "..", ".hidden", "a b", "ü", "default"}


def test_all_models_of_a_folder_are_found_by_service(artefact, tmp_path):
    save(artefact, tmp_path)
    save(replace(artefact, service="default"), tmp_path)
    (tmp_path / "notes").mkdir()
    assert set(load_all(tmp_path)) == {"cart", "default"}
    assert set(load_all(str(tmp_path / "cart"))) == {"cart"}
    shutil.copytree(tmp_path / "cart", tmp_path / "copy")
    with pytest.raises(ArtefactError, match="two models of the service 'cart'"):
        load_all(tmp_path)


def test_a_missing_folder_says_how_to_train_one(tmp_path):
    with pytest.raises(ArtefactError, match="driftwood train"):
        load_all(tmp_path / "none")


def change(path, section, **values):
    """Alter a manifest and give it the version that fits, as someone who means it would."""
    from models.artefact import _version

    manifest = orjson.loads(path.read_bytes())
    (manifest[section] if section else manifest).update(values)
    manifest["version"] = _version(manifest)
    path.write_bytes(orjson.dumps(manifest))


@pytest.mark.parametrize("name", [MANIFEST, TEMPLATES, WEIGHTS])
def test_a_missing_or_changed_file_is_refused_by_name(artefact, tmp_path, name):
    path = save(artefact, tmp_path)
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole.replace(b"e", b"f", 1))
    with pytest.raises(ArtefactError, match=f"{name}.*train"):
        load(path)
    (path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=name):
        load(path)
    (path / name).unlink()
    with pytest.raises(ArtefactError, match=f"{name} is missing"):
        load(path)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("", {"format": 2}, "format 2"),
        ("", {"files": {"../x": "0"}}, "does not name the files"),
        ("deeplog", {"top_g": 0}, "out of range"),
        ("deeplog", {"vocabulary": [0, 0, 1]}, "differ in length"),
        ("deeplog", {"vocabulary": [0, 0, 1], "wait_ms": [1, 1, 1]}, "shapes"),
        ("deeplog", {"hidden": 10**9}, "out of range"),
        ("deeplog", {"length": "ten"}, "does not hold together"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artefact, tmp_path, section, values, message):
    path = save(artefact, tmp_path)
    change(path / MANIFEST, section, **values)
    with pytest.raises(ArtefactError, match=message):
        load(path)


def test_weights_that_are_no_numbers_are_refused(artefact, tmp_path):
    weights = {name: tensor.clone() for name, tensor in artefact.weights.items()}
    weights["head.bias"][0] = float("nan")
    with pytest.raises(ArtefactError, match="not finite"):
        load(save(replace(artefact, weights=weights), tmp_path))


def test_a_folder_that_cannot_be_written_is_said_so(artefact, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot be written"):
        save(artefact, tmp_path / "file")
