"""Artefacts: written as a whole, read with every check, refused with what to do next."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace

import numpy as np
import orjson
import pytest
import safetensors.numpy

from models.artefact import CALIBRATION, MANIFEST, TEMPLATES, _version, load, load_all, save
from models.detectors.contract import Learned
from models.errors import ArtefactError
from models.fusion import Fusion, FusionParams
from tests.unit.shop_model import DETECTORS, STEPS, shop_model

WEIGHTS = "deeplog.safetensors"


@pytest.fixture(scope="module")
def artefact():
    return shop_model()


def other(artefact, **facts):
    """The model with other facts of its network: another model, of the same size."""
    deeplog = artefact.learned["deeplog"]
    changed = Learned(deeplog.arrays, {**deeplog.facts, **facts})
    return replace(artefact, learned={**artefact.learned, "deeplog": changed})


def test_what_is_written_is_what_is_read(artefact, tmp_path):
    path = save(artefact, tmp_path)
    assert path == tmp_path / "cart"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["cart"]
    found = load(path)
    for name in (
        "service",
        "vocabulary",
        "names",
        "templates",
        "length",
        "session_gap_ms",
        "wait_ms",
        "mining",
        "metrics",
        "training",
        "created",
        "version",
    ):
        assert getattr(found, name) == getattr(artefact, name)
    assert list(found.learned) == list(DETECTORS)
    for name, learned in artefact.learned.items():
        assert found.learned[name].facts == learned.facts
        assert set(found.learned[name].arrays) == set(learned.arrays)
        for key, array in learned.arrays.items():
            assert np.array_equal(found.learned[name].arrays[key], array)
    kept, read = artefact.calibration.arrays(), found.calibration.arrays()
    assert set(read) == set(kept)
    assert all(np.array_equal(read[name], kept[name]) for name in kept)
    params = FusionParams(budget_per_day=10)
    assert Fusion(found.calibration, params).threshold == Fusion(artefact.calibration, params).threshold


def test_a_model_that_was_read_scores_as_before(artefact, tmp_path):
    found = load(save(artefact, tmp_path))
    windows = np.array([[0] * 9 + [2], [0] * 8 + [2, 3]], np.int32)
    for one, another in zip(
        found.build("deeplog").scorer.score(windows, windows[:, -1]),
        artefact.build("deeplog").scorer.score(windows, windows[:, -1]),
        strict=True,
    ):
        assert np.array_equal(one, another)


def test_templates_have_classes_and_texts(artefact):
    first, second = artefact.vocabulary[2:4]
    assert artefact.classes(np.array([second, 99, first, 0], np.uint32)).tolist() == [3, 1, 2, 1]
    assert artefact.names[:2] == ("", "")
    assert sorted(artefact.names[2:]) == sorted(STEPS)
    assert artefact.end == len(artefact.vocabulary) == artefact.build("deeplog").scorer.end
    parted = [{"id": first, "created": "uid= <num> by x", "tokens": "uid= <num> by x"}, *artefact.templates]
    named = replace(artefact, templates=[entry for entry in parted if entry is parted[0] or entry["id"] != first])
    assert named.names[2] == "uid=<num> by x"  # as the shard shows it


def test_the_version_is_that_of_the_content_and_not_of_the_hour(artefact):
    assert replace(artefact, created="2025").version == artefact.version
    assert replace(artefact, training={**artefact.training, "source": "elsewhere"}).version == artefact.version
    assert replace(artefact, training={**artefact.training, "lines": 1}).version != artefact.version
    assert other(artefact, top_g=3).version != artefact.version
    assert replace(artefact, calibration=replace(artefact.calibration, days=9.0)).version != artefact.version
    assert replace(artefact, mining={**artefact.mining, "depth": 9}).version != artefact.version


def test_a_new_model_replaces_the_old_one_as_a_whole(artefact, tmp_path):
    save(artefact, tmp_path)
    (tmp_path / "cart" / "left-over").write_text("x")
    path = save(other(artefact, top_g=4), tmp_path)
    assert load(path).build("deeplog").top_g == 4
    arrays = [f"{name}.safetensors" for name in ("deeplog", "ngram", "count")]  # novelty has facts only
    assert sorted(file.name for file in path.iterdir()) == sorted([MANIFEST, TEMPLATES, CALIBRATION, *arrays])
    assert [file.name for file in tmp_path.iterdir()] == ["cart"]


def test_a_service_may_have_any_name(artefact, tmp_path):
    names = ("shop/cart", "..", ".hidden", "a b", "ü", "default")
    for name in names:
        path = save(replace(artefact, service=name), tmp_path)
        assert path.parent == tmp_path
    assert set(load_all(tmp_path)) == set(names)


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


# -- refused ---------------------------------------------------------------------------------------------------------


def change(path, section, **values):
    """Alter a manifest and give it the version that fits, as someone who means it would."""
    manifest = orjson.loads(path.read_bytes())
    part = manifest
    for name in filter(None, section.split("/")):
        part = part[name]
    part.update(values)
    manifest["version"] = _version(manifest)
    path.write_bytes(orjson.dumps(manifest))


@pytest.mark.parametrize("name", [MANIFEST, TEMPLATES, WEIGHTS, CALIBRATION])
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
        ("", {"format": 1}, "format 1.*reads 2"),
        ("", {"files": {"../x": "0"}}, "does not name the files"),
        ("", {"files": {TEMPLATES: "0"}}, f"does not name the files.*{CALIBRATION}"),
        ("", {"detectors": ["deeplog", "oracle"]}, "no such detector here: oracle"),
        ("", {"detectors": []}, "no such detector here"),
        ("", {"detectors": ["deeplog", "rapid"], "families": ["order", "text"]}, "rapid"),
        ("", {"families": ["order"]}, "differ in length"),
        ("", {"wait_ms": [1]}, "differ in length"),
        ("", {"vocabulary": [0, 0, 1], "wait_ms": [1, 1, 1]}, "shapes of deeplog's weights"),
        ("", {"windows": {"length": 0, "session_gap_ms": 1}}, "out of range"),
        ("", {"windows": {"length": "ten", "session_gap_ms": 1}}, "does not hold together"),
        ("", {"learned": {}}, "does not hold together"),
        ("learned/deeplog", {"top_g": 0}, "out of range"),
        ("learned/deeplog", {"hidden": 10**9}, "out of range"),
        ("learned/deeplog", {"hidden": 8}, "shapes of deeplog's weights"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(artefact, tmp_path, section, values, message):
    path = save(artefact, tmp_path)
    change(path / MANIFEST, section, **values)
    with pytest.raises(ArtefactError, match=message):
        load(path)


def test_weights_that_are_no_numbers_are_refused(artefact, tmp_path):
    deeplog = artefact.learned["deeplog"]
    bias = deeplog.arrays["head.bias"].copy()
    bias[0] = np.nan
    broken = Learned({**deeplog.arrays, "head.bias": bias}, deeplog.facts)
    path = save(replace(artefact, learned={**artefact.learned, "deeplog": broken}), tmp_path)
    with pytest.raises(ArtefactError, match="not finite"):
        load(path)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("line.deeplog.value", np.array([2.0, 1.0], np.float32), "normal scores is damaged"),
        ("key", np.zeros(3, np.int64), "differ in length"),
        ("service", np.zeros(3, np.int64), "differ in length"),
        ("end.count.tail", None, "end.count.tail"),
    ],
)
def test_a_calibration_that_does_not_hold_together_is_refused(artefact, tmp_path, name, array, message):
    path = save(artefact, tmp_path)
    arrays = safetensors.numpy.load((path / CALIBRATION).read_bytes())
    arrays.pop(name)
    if array is not None:
        arrays[name] = array
    data = safetensors.numpy.save(arrays)
    (path / CALIBRATION).write_bytes(data)
    manifest = orjson.loads((path / MANIFEST).read_bytes())
    change(path / MANIFEST, "files", **{**manifest["files"], CALIBRATION: hashlib.sha256(data).hexdigest()})
    with pytest.raises(ArtefactError, match=message):
        load(path)


def test_a_folder_that_cannot_be_written_is_said_so(artefact, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtefactError, match="cannot be written"):
        save(artefact, tmp_path / "file")
