"""The models that the trainer has published, by service and version: a folder, or s3://bucket/path.

```
<store>/<folder of the service>/<version>/manifest.json, …      an artefact folder (models/artefact.py); immutable once it is there
```
"""

from __future__ import annotations

import re
import shutil
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import orjson
from pyarrow import fs

from models.errors import ArtefactError, SettingsError
from models.folders import folder_name

if TYPE_CHECKING:
    from models.artefact import Artefact

_VERSION: Final = re.compile(r"[0-9a-f]{12}")
_MANIFEST_BYTES: Final = 32 << 20
_LOADED: Final = 16  # models kept ready


@dataclass(frozen=True)
class Version:
    """One version of a service's model, from its manifest."""

    version: str
    created: str
    lines: int | None
    detectors: tuple[str, ...]
    metrics: Mapping[str, float | int | None]


class Store:
    """Reads a model store; never writes to it. Blocking: call it in a thread.

    State: manifests and the `_LOADED` models used last; a version's contents never change.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        try:
            if "://" in url:
                self._files, self._root = fs.FileSystem.from_uri(url)
            else:
                self._files, self._root = fs.LocalFileSystem(), str(Path(url).absolute())
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"The model store {url!r} cannot be opened ({error}); write a folder or s3://bucket/path."
            ) from error
        self._manifests: dict[tuple[str, str], Version] = {}
        self._models: dict[tuple[str, str], Artefact] = {}
        self._lock = threading.Lock()

    def versions(self, service: str) -> list[Version]:
        """The versions of a service's model, the newest first; one whose manifest cannot be read is left out.

        Raises:
            ArtefactError: the store does not answer.
        """
        root = self._folder(service)
        try:
            found = self._files.get_file_info(fs.FileSelector(root, allow_not_found=True))
        except OSError as error:
            raise ArtefactError(
                f"The model store {self.url} cannot be read ({error}); is it there, and may the console read it?"
            ) from error
        names = [
            info.base_name
            for info in found
            if info.type == fs.FileType.Directory and _VERSION.fullmatch(info.base_name)
        ]
        versions = [version for name in names if (version := self._version(service, name)) is not None]
        return sorted(versions, key=lambda version: version.created, reverse=True)

    def _version(self, service: str, name: str) -> Version | None:
        with self._lock:
            if (service, name) in self._manifests:
                return self._manifests[service, name]
        try:
            with self._files.open_input_stream(f"{self._folder(service)}/{name}/manifest.json") as file:
                manifest = orjson.loads(file.read(_MANIFEST_BYTES))
            version = _described(manifest)
        except (OSError, orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return None  # half a copy, or no model at all
        with self._lock:
            self._manifests[service, name] = version
        return version

    def _folder(self, service: str) -> str:
        return f"{self._root}/{folder_name(service)}"

    def model(self, service: str, version: str) -> Artefact:
        """A model, checked as a whole.

        Raises:
            ArtefactError: it is not there, or damaged.
        """
        if not _VERSION.fullmatch(version):
            raise ArtefactError(f"{version!r} is no model version.")
        with self._lock:
            if (service, version) in self._models:
                return self._models[service, version]
        from models.artefact import load

        folder = Path(tempfile.mkdtemp(prefix="driftwood-model-"))
        try:
            source = f"{self._folder(service)}/{version}"
            for info in self._files.get_file_info(fs.FileSelector(source)):
                if info.type == fs.FileType.File:
                    fs.copy_files(info.path, str(folder / info.base_name), self._files, fs.LocalFileSystem())
            model = load(folder)
        except OSError as error:
            raise ArtefactError(
                f"The model {version} of {service!r} cannot be read from {self.url} ({error})."
            ) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        with self._lock:
            self._models[service, version] = model
            while len(self._models) > _LOADED:
                self._models.pop(next(iter(self._models)))
        return model


def _described(manifest: Mapping[str, Any]) -> Version:
    return Version(
        version=str(manifest["version"]),
        created=str(manifest["created"]),
        lines=manifest["training"].get("lines"),
        detectors=tuple(str(name) for name in manifest["detectors"]),
        metrics={str(name): value for name, value in manifest["metrics"].items() if isinstance(value, int | float)},
    )
