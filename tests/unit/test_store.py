"""The store of models: whole versions or none, listed, pruned, checked when read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from pyarrow import fs

from models.errors import ArtefactError, SettingsError
from models.store import Store
from tests.unit.shop_model import shop_model


def version(number: int, service: str = "cart"):
    """The shop's model with another seed noted, which gives another version, and an hour younger."""
    model = shop_model()
    return replace(
        model,
        service=service,
        training={**model.training, "seed": number},
        created=f"2026-01-0{1 + number // 24}T{number % 24:02}:00:00+00:00",
    )


@pytest.fixture(params=["local", "remote"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A local folder; and the way an object store is written, on a file system that stands for it."""
    if request.param == "local":
        return Store.open(str(tmp_path / "models"))
    (tmp_path / "far").mkdir()
    return Store(fs.SubTreeFileSystem(str(tmp_path / "far"), fs.LocalFileSystem()), "bucket/models", tmp_path / "cache")


def folder_of(store: Store, tmp_path: Path, one) -> Path:
    root = tmp_path / "models" if store.is_local else tmp_path / "far/bucket/models"
    return root / one.service / one.version


def test_a_version_comes_back_as_it_was_saved(store: Store):
    saved = store.save(shop_model())
    loaded = store.load("cart", saved.version)
    assert loaded.version == shop_model().version == saved.version
    assert (saved.lines, saved.detectors) == (480, ("deeplog", "novelty", "ngram", "count"))
    assert store.services() == ["cart"]


def test_versions_are_listed_newest_first_by_service(store: Store):
    made = [version(number) for number in (2, 0, 1)]
    for one in (*made, version(5, "shop/mail")):
        store.save(one)
    assert [one.version for one in store.versions("cart")] == [made[at].version for at in (0, 2, 1)]
    assert store.services() == ["cart", "shop/mail"]
    assert store.versions("nobody") == []


def test_what_has_no_whole_manifest_does_not_exist(store: Store, tmp_path: Path):
    one, other = version(1), version(2)
    store.save(one)
    store.save(other)
    (folder_of(store, tmp_path, other) / "manifest.json").unlink()
    half = folder_of(store, tmp_path, one).parent / ("0" * 12)
    half.mkdir()
    (half / "manifest.json").write_bytes(b'{"service": "cart", "versi')
    assert [found.version for found in store.versions("cart")] == [one.version]
    with pytest.raises(ArtefactError, match="not in the store"):
        store.load("cart", other.version)
    store.save(other)
    assert store.load("cart", other.version).version == other.version


def test_a_damaged_version_is_never_loaded_and_is_written_again(store: Store, tmp_path: Path):
    one = version(1)
    store.save(one)
    weights = folder_of(store, tmp_path, one) / "deeplog.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(ArtefactError, match="sha256"):
        store.load("cart", one.version)
    store.save(one)
    assert store.load("cart", one.version).version == one.version


def test_a_version_under_another_services_name_is_none(store: Store, tmp_path: Path):
    one = version(1)
    store.save(one)
    folder = folder_of(store, tmp_path, one)
    (folder.parent.parent / "mail").mkdir()
    folder.rename(folder.parent.parent / "mail" / one.version)
    assert store.versions("mail") == []
    assert not store.has("mail", one.version)


def test_pruning_keeps_the_newest_the_announced_and_removes_what_killed_writers_left(store: Store, tmp_path: Path):
    made = [version(number) for number in range(5)]
    for one in made:
        store.save(one)
    left = [folder_of(store, tmp_path, made[0]).parent / name for name in (".new-x1", "0" * 12)]
    for folder in left:
        folder.mkdir()
        (folder / "templates.json").write_bytes(b"[]")
    assert store.prune("cart", 2, held={made[1].version}) == [made[2].version, made[0].version]
    assert [one.version for one in store.versions("cart")] == [made[at].version for at in (4, 3, 1)]
    assert not any(folder.exists() for folder in left)


def test_a_copy_serves_when_it_is_whole_and_is_fetched_again_when_it_is_damaged(tmp_path: Path):
    (tmp_path / "far").mkdir()
    store = Store(fs.SubTreeFileSystem(str(tmp_path / "far"), fs.LocalFileSystem()), "models", tmp_path / "cache")
    one = version(1)
    store.save(one)
    store.load("cart", one.version)
    copy = tmp_path / "cache/cart" / one.version
    assert {path.name for path in copy.iterdir()} == {
        path.name for path in (tmp_path / "far/models/cart" / one.version).iterdir()
    }
    (copy / "templates.json").write_bytes(b"[]")
    assert store.load("cart", one.version).version == one.version
    assert (copy / "templates.json").read_bytes() != b"[]"


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArtefactError, match="cannot be written"):
        Store.open(str(tmp_path / "file")).save(shop_model())


@pytest.mark.parametrize("url", ["", "s3://", "ftp://host/models", "s3://key:secret@bucket/models"])
def test_addresses_that_are_none_are_refused_without_their_secrets(url: str):
    with pytest.raises(SettingsError) as refused:
        Store.open(url)
    assert "secret@" not in str(refused.value)
