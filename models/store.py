"""The store of models: all versions of every service's model, in a local folder or an S3-compatible object store.

```
STORE/<service>/<version>/    an artefact folder (models/artefact.py); the service's name as `folder_name` writes it
```

A version is written whole or not at all: a local one is made aside and renamed, an object store gets the manifest last. A folder without manifest does not
exist. What is read is checked: every sha256, the service and the version.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import orjson
from pyarrow import fs

from models.artefact import MANIFEST, Artefact, load, save
from models.errors import ArtefactError, SettingsError
from models.folders import folder_name

_VERSION: Final = re.compile(r"[0-9a-f]{12}")
_CACHE: Final = "driftwood/models"


@dataclass(frozen=True, slots=True)
class Version:
    """A version in the store.

    Attributes:
        service, version: of the model.
        created: when it was trained, ISO 8601, UTC.
        lines: it learned from.
        detectors: it has.
    """

    service: str
    version: str
    created: str
    lines: int
    detectors: tuple[str, ...]


class Store:
    """Versions of models.

    Args:
        files: where the store is.
        root: its folder there.
        cache: a local folder for copies of what is read; None where `files` is local already.
    """

    def __init__(self, files: fs.FileSystem, root: str, cache: Path | None = None) -> None:
        self._files = files
        self._root = root.rstrip("/")
        self._cache = cache

    @classmethod
    def open(cls, url: str, cache: Path | None = None) -> Store:
        """The store at an address: a path, `file:path`, or `s3://bucket/path?endpoint_override=http://host:9000&region=…`.

        An object store asks the usual environment for its credentials (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, a profile, a role).

        Args:
            url: the address.
            cache: where copies of models from an object store are kept; by default in the user's cache folder.

        Raises: SettingsError if it is no such address.
        """
        parts = urlsplit(url)
        if parts.scheme in ("", "file"):
            path = unquote(parts.netloc + parts.path)
            if not path:
                raise SettingsError(
                    f"{url!r} names no folder for the models; write store=path or store=s3://bucket/path."
                )
            return cls(fs.LocalFileSystem(), str(Path(path).absolute()))
        if parts.scheme != "s3" or not parts.netloc:
            raise SettingsError(f"{url!r} is no model store; write a path, or s3://bucket/path.")
        if parts.username or parts.password:
            raise SettingsError(
                "Credentials do not go into the address of the model store, where process lists show them; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment."
            )
        try:
            files, root = fs.FileSystem.from_uri(url)
        except (OSError, ValueError) as error:
            raise SettingsError(f"{url!r} is no model store: {error}.") from error
        base = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _CACHE
        return cls(files, root, base / hashlib.sha256(url.encode()).hexdigest()[:12])

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self._cache is None

    # ---- reading

    def services(self) -> list[str]:
        """The services that have a version, sorted.

        Raises: ArtefactError if the store cannot be read.
        """
        names = [unquote(info.base_name) for info in self._inside(self._root) if not info.base_name.startswith(".")]
        return sorted(name for name in names if self.versions(name))

    def versions(self, service: str) -> list[Version]:
        """The versions of a service's model, the newest first; what has no manifest, or one that cannot be understood, is none.

        Raises: ArtefactError if the store cannot be read.
        """
        found = []
        for info in self._inside(self._place(service)):
            version = self._version(service, info.base_name) if _VERSION.fullmatch(info.base_name) else None
            if version is not None:
                found.append(version)
        return sorted(found, key=lambda one: (one.created, one.version), reverse=True)

    def has(self, service: str, version: str) -> bool:
        """Whether this version is there.

        Raises: ArtefactError if the store cannot be read.
        """
        return self._version(service, version) is not None

    def load(self, service: str, version: str) -> Artefact:
        """A version, every file checked; a copy of it stays on the local disk.

        Raises: ArtefactError if it is not there, damaged, or the store cannot be read.
        """
        folder = self._fetched(service, version)
        try:
            artefact = load(folder)
        except ArtefactError:
            if self.is_local:
                raise
            shutil.rmtree(folder, ignore_errors=True)  # the copy may be what is damaged
            artefact = load(self._fetched(service, version))
        if (artefact.service, artefact.version) != (service, version):
            raise ArtefactError(
                f"{folder} holds version {artefact.version} of the model of {artefact.service!r}, not {version} of {service!r}; "
                "remove it from the store and train again."
            )
        return artefact

    # ---- writing

    def save(self, artefact: Artefact) -> Version:
        """Write a version; one that is there is left as it is, unless it is damaged.

        Raises: ArtefactError if the store cannot be written.
        """
        service, version = artefact.service, artefact.version
        if not self._is_sound(service, version):
            self._remove(service, version)
            self._write(artefact)
        found = self._version(service, version)
        if found is None:
            raise ArtefactError(
                f"Version {version} of {service!r} is not in the model store after it was written there."
            )
        return found

    def prune(self, service: str, keep: int, held: Collection[str] = ()) -> list[str]:
        """Remove all but the newest `keep` versions of a service and those in `held`, and what writers that were killed left; gives what was removed.

        Nobody else may be writing a version of this service.

        Raises: ArtefactError if the store cannot be written.
        """
        old = [one.version for one in self.versions(service)[keep:] if one.version not in held]
        for version in old:
            self._remove(service, version)
        kept = {one.version for one in self.versions(service)}
        with self._told("cleaned"):
            for info in self._inside(self._place(service)):
                if info.base_name not in kept and info.type == fs.FileType.Directory:
                    self._files.delete_dir(info.path)
        return old

    # ---- places

    def _place(self, service: str, *parts: str) -> str:
        return "/".join((self._root, folder_name(service), *parts))

    def _inside(self, path: str) -> list[fs.FileInfo]:
        with self._told("read"):
            found: list[fs.FileInfo] = self._files.get_file_info(fs.FileSelector(path, allow_not_found=True))
        return sorted(found, key=lambda info: info.path)

    def _version(self, service: str, version: str) -> Version | None:
        with self._told("read"):
            try:
                with self._files.open_input_stream(self._place(service, version, MANIFEST)) as file:
                    manifest: Any = orjson.loads(file.read())
            except (FileNotFoundError, NotADirectoryError, orjson.JSONDecodeError):
                return None
        try:
            if (manifest["service"], manifest["version"]) != (service, version):
                return None
            return Version(
                service,
                version,
                str(manifest["created"]),
                int(manifest["training"]["lines"]),
                tuple(str(name) for name in manifest["detectors"]),
            )
        except (KeyError, TypeError, ValueError):
            return None

    def _is_sound(self, service: str, version: str) -> bool:
        if not self.has(service, version):
            return False
        try:
            self.load(service, version)
        except ArtefactError:
            return False
        return True

    def _write(self, artefact: Artefact) -> None:
        if self.is_local:
            target = Path(self._place(artefact.service, artefact.version))
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryDirectory(
                    prefix=".new-", dir=target.parent, ignore_cleanup_errors=True
                ) as aside:
                    save(artefact, Path(aside)).rename(target)
            except OSError as error:
                raise ArtefactError(
                    f"The model cannot be written to {target}: {error.strerror}; check the store's permissions and space."
                ) from error
            return
        with tempfile.TemporaryDirectory(prefix="driftwood-") as aside, self._told("written"):
            folder = save(artefact, Path(aside))
            self._files.create_dir(self._place(artefact.service, artefact.version), recursive=True)
            names = sorted((path.name for path in folder.iterdir()), key=lambda name: (name == MANIFEST, name))
            for name in names:
                with self._files.open_output_stream(self._place(artefact.service, artefact.version, name)) as file:
                    file.write((folder / name).read_bytes())

    def _remove(self, service: str, version: str) -> None:
        """The manifest first: from then on the version does not exist."""
        place = self._place(service, version)
        with self._told("changed"):
            for path, delete in ((f"{place}/{MANIFEST}", self._files.delete_file), (place, self._files.delete_dir)):
                if self._files.get_file_info(path).type != fs.FileType.NotFound:
                    delete(path)
        if self._cache is not None:
            shutil.rmtree(self._cache / folder_name(service) / version, ignore_errors=True)

    def _fetched(self, service: str, version: str) -> Path:
        """The version as a local folder."""
        if not _VERSION.fullmatch(version) or not self.has(service, version):
            raise ArtefactError(
                f"Version {version} of the model of {service!r} is not in the store {self._root}; `driftwood trainer --list` shows what is."
            )
        if self._cache is None:
            return Path(self._place(service, version))
        target = self._cache / folder_name(service) / version
        if (target / MANIFEST).exists():
            return target
        try:
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=target.parent))
            for info in self._inside(self._place(service, version)):
                with self._told("read"), self._files.open_input_stream(info.path) as file:
                    (fresh / info.base_name).write_bytes(file.read())
            with contextlib.suppress(OSError):  # another process was quicker, and has the same
                fresh.rename(target)
            shutil.rmtree(fresh, ignore_errors=True)
        except PermissionError as error:
            raise ArtefactError(
                f"A copy of the model cannot be written to {target}: {error.strerror}; check permissions."
            ) from error
        return target

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Errors of the file system, in words."""
        try:
            yield
        except OSError as error:
            raise ArtefactError(
                f"The model store {self._root} cannot be {what}: {error}. Check its address, that it can be reached, and the credentials."
            ) from error
