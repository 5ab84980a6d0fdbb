"""A trained model as a folder: written at once or not at all, checked when read, nothing in it executed.

```
DIR/<service>/manifest.json             what it is: service, version, vocabulary, detectors and their facts, training data, sha256 of each file
              templates.json            the templates it was trained on, as the template miner exports them
              <detector>.safetensors    what a detector learned, if it has arrays
              calibration.safetensors   scores of normal lines
```
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import safetensors
import safetensors.numpy

from models.deeplog import FIRST_TEMPLATE
from models.detectors.contract import Detector, Learned
from models.detectors.registry import REGISTRY
from models.errors import ArtefactError
from models.folders import folder_name
from models.fusion import Calibration
from models.templates import display

FORMAT: Final = 2
DEFAULT: Final = "default"  # the service name of the model for services without one of their own

MANIFEST: Final = "manifest.json"
TEMPLATES: Final = "templates.json"
CALIBRATION: Final = "calibration.safetensors"

_AGAIN = "train it again with `driftwood train`, or copy the whole folder again"


@dataclass(frozen=True, eq=False)
class Artefact:
    """A model of one service.

    Attributes:
        service: whose lines it learned; `default` stands in where a service has none of its own.
        vocabulary: external template id by class; 0 for the classes that are no template. The end class comes after the last.
        templates: the templates of training, as `ShardTemplates.export` gives them.
        length: lines in a window.
        session_gap_ms: event time after which training forgot a session's history; the job should use the same.
        wait_ms: by class, the silence after such a line that is still normal in a session; -1 where any is.
        learned: what each detector learned, by name.
        calibration: what normal lines look like to them.
        mining: how lines were masked and templates mined, by setting; the job should do the same.
        metrics: what training measured.
        training: sha256, lines, sessions and so on of the training data.
        created: when, ISO 8601; like the name of the training data, no part of the version.
    """

    service: str
    vocabulary: tuple[int, ...]
    templates: list[dict[str, Any]]
    length: int
    session_gap_ms: int
    wait_ms: tuple[int, ...]
    learned: Mapping[str, Learned]
    calibration: Calibration
    mining: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float | int | None] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    created: str = ""

    @cached_property
    def version(self) -> str:
        """A hash of the contents: equal models have equal versions."""
        return _version(self._manifest(self._files()))

    @property
    def end(self) -> int:
        """The class of a session's end."""
        return len(self.vocabulary)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The template of each class, as training named it to the detectors; empty for padding and unknown."""
        texts = {int(entry["id"]): display(tuple(str(entry["tokens"]).split())) for entry in self.templates}
        return tuple(
            texts.get(number, "") if code >= FIRST_TEMPLATE else "" for code, number in enumerate(self.vocabulary)
        )

    def build(self, detector: str) -> Detector:
        """A detector with empty state.

        Raises: ValueError if what it learned does not hold together.
        """
        return REGISTRY[detector]().build(self.learned[detector], self.names)

    def classes(self, ids: npt.NDArray[np.uint32]) -> npt.NDArray[np.int32]:
        """The class of each template id; unknown where training had no such template."""
        code_of = {number: code for code, number in enumerate(self.vocabulary) if code >= FIRST_TEMPLATE}
        return np.fromiter((code_of.get(number, 1) for number in ids.tolist()), np.int32, len(ids))

    def _files(self) -> dict[str, bytes]:
        arrays = {f"{name}.safetensors": learned.arrays for name, learned in self.learned.items() if learned.arrays}
        arrays[CALIBRATION] = self.calibration.arrays()
        return {
            TEMPLATES: orjson.dumps(self.templates, option=orjson.OPT_INDENT_2),
            **{name: safetensors.numpy.save(_contiguous(found)) for name, found in arrays.items()},
        }

    def _manifest(self, files: Mapping[str, bytes]) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "service": self.service,
            "detectors": list(self.calibration.names),
            "families": list(self.calibration.families),
            "created": self.created,
            "windows": {"length": self.length, "session_gap_ms": self.session_gap_ms},
            "vocabulary": list(self.vocabulary),
            "wait_ms": list(self.wait_ms),
            "learned": {name: dict(learned.facts) for name, learned in self.learned.items()},
            "mining": dict(self.mining),
            "metrics": dict(self.metrics),
            "training": dict(self.training),
            "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
        }


def _contiguous(arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _version(manifest: Mapping[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name not in ("version", "created")}
    content["training"] = {name: value for name, value in manifest["training"].items() if name != "source"}
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:12]


def save(artefact: Artefact, folder: Path) -> Path:
    """Write a model as `folder/<service>/`; one that is there is replaced as a whole. Gives the path written.

    Raises: ArtefactError if the folder cannot be written.
    """
    files = artefact._files()
    manifest = artefact._manifest(files)
    target = folder / folder_name(artefact.service)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))  # hidden: load_all does not see it
        fresh.chmod(0o755)
        with contextlib.ExitStack() as clean:
            clean.callback(shutil.rmtree, fresh, ignore_errors=True)
            files[MANIFEST] = orjson.dumps({"version": _version(manifest), **manifest}, option=orjson.OPT_INDENT_2)
            for name, data in files.items():
                with (fresh / name).open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            if target.exists():
                old = Path(tempfile.mkdtemp(prefix=".old-", dir=folder))
                clean.callback(shutil.rmtree, old, ignore_errors=True)
                target.rename(old / "replaced")
            fresh.rename(target)
    except OSError as error:
        raise ArtefactError(
            f"the model cannot be written to {target}: {error.strerror}; choose another folder"
        ) from error
    return target


def load(folder: Path | str) -> Artefact:
    """The model of one artefact folder, every file checked.

    Raises: ArtefactError if something is missing, damaged, of another format, or does not fit together.
    """
    root = Path(folder)
    data = _read(root / MANIFEST)
    try:
        manifest: dict[str, Any] = orjson.loads(data)
        if not isinstance(manifest, dict):
            raise TypeError("no JSON object")
    except (orjson.JSONDecodeError, TypeError) as error:
        raise ArtefactError(f"{root / MANIFEST} is damaged ({error}); {_AGAIN}.") from error
    if manifest.get("format") != FORMAT:
        raise ArtefactError(
            f"{root} has artefact format {manifest.get('format')}, this program reads {FORMAT}; train it again with this release."
        )
    if not isinstance(manifest.get("training"), dict) or manifest.get("version") != _version(manifest):
        raise ArtefactError(f"{root / MANIFEST} was changed after training (its version does not match); {_AGAIN}.")
    sums = manifest.get("files")
    if not isinstance(sums, dict) or not {TEMPLATES, CALIBRATION} <= set(sums) or any("/" in name for name in sums):
        raise ArtefactError(f"{root / MANIFEST} does not name the files {TEMPLATES} and {CALIBRATION}; {_AGAIN}.")
    files = {name: _read(root / name) for name in sums}
    for name, expected in sums.items():
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise ArtefactError(
                f"{root / name} is damaged or was changed (sha256 does not match the manifest); {_AGAIN}."
            )
    try:
        with _as_artefact_error(root):
            return _decode(manifest, files)
    except RecursionError as error:
        raise ArtefactError(f"{root} is damaged (nested too deep); {_AGAIN}.") from error


def _decode(manifest: dict[str, Any], files: Mapping[str, bytes]) -> Artefact:
    names = [str(name) for name in manifest["detectors"]]
    unknown = sorted(set(names) - set(REGISTRY))
    if unknown or not names:
        raise ValueError(f"no such detector here: {', '.join(unknown) or '(none named)'}")
    arrays = {
        name.removesuffix(".safetensors"): safetensors.numpy.load(data)
        for name, data in files.items()
        if name.endswith(".safetensors")
    }
    artefact = Artefact(
        service=str(manifest["service"]),
        vocabulary=tuple(int(number) for number in manifest["vocabulary"]),
        templates=orjson.loads(files[TEMPLATES]),
        length=int(manifest["windows"]["length"]),
        session_gap_ms=int(manifest["windows"]["session_gap_ms"]),
        wait_ms=tuple(int(wait) for wait in manifest["wait_ms"]),
        learned={name: Learned(arrays.get(name, {}), manifest["learned"][name]) for name in names},
        calibration=Calibration.from_arrays(names, [str(f) for f in manifest["families"]], arrays["calibration"]),
        mining=manifest["mining"],
        metrics=manifest["metrics"],
        training=manifest["training"],
        created=str(manifest["created"]),
    )
    if len(artefact.wait_ms) != len(artefact.vocabulary):
        raise ValueError("wait_ms and vocabulary differ in length")
    if not 1 <= artefact.length <= 255:
        raise ValueError("the window's length is out of range")
    for name in names:
        artefact.build(name)
    return artefact


@contextlib.contextmanager
def _as_artefact_error(root: Path) -> Iterator[None]:
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise ArtefactError(f"{root} does not hold together ({type(error).__name__}: {error}); {_AGAIN}.") from error


def load_all(folder: Path | str) -> dict[str, Artefact]:
    """The models under a folder, by service; a folder that is itself a model counts as one.

    Raises: ArtefactError if there is no such folder, one of the models cannot be used, or two are of one service.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ArtefactError(f"{root} is not there; train a model with `driftwood train DATA --service S --out {root}`.")
    if (root / MANIFEST).exists():
        artefact = load(root)
        return {artefact.service: artefact}
    artefacts: dict[str, Artefact] = {}
    for path in sorted(root.iterdir()):
        if path.name.startswith(".") or not (path / MANIFEST).exists():
            continue
        artefact = load(path)
        if artefact.service in artefacts:
            raise ArtefactError(
                f"{root} holds two models of the service {artefact.service!r}; remove {path} or the other one."
            )
        artefacts[artefact.service] = artefact
    return artefacts


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ArtefactError(f"{path} is missing; {_AGAIN}.") from None
    except OSError as error:
        raise ArtefactError(f"{path} cannot be read: {error.strerror}; check its permissions.") from error
