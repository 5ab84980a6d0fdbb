"""Java libraries by Maven coordinates, each checked against a committed SHA-256, kept in a cache folder.

`jars.txt` lists them: `group sha256 org:artifact:version`. They are fetched through jgo, which knows where Maven
artefacts live; DRIFTWOOD_MAVEN names another repository (a mirror inside a company, for example).
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

from models.errors import DriftwoodError

LISTED = Path(__file__).with_name("jars.txt")


def cache_folder() -> Path:
    """Where downloads are kept between checkouts: DRIFTWOOD_CACHE, else `driftwood` in the user's cache folder."""
    named = os.environ.get("DRIFTWOOD_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "driftwood"


@cache
def listed() -> dict[str, dict[str, str]]:
    """Group → {Maven coordinate: SHA-256}."""
    groups: dict[str, dict[str, str]] = {}
    for line in LISTED.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            group, digest, coordinate = line.split()
            groups.setdefault(group, {})[coordinate] = digest
    return groups


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(coordinate: str, digest: str) -> Path:
    """The jar of a Maven coordinate, from the cache or the registry, if its sha256 is this one.

    Raises: DriftwoodError if it cannot be had, or is another one.
    """
    org, artifact, version = coordinate.split(":")
    store = cache_folder() / "maven"
    path = store / org.replace(".", "/") / artifact / version / f"{artifact}-{version}.jar"
    if not path.exists():
        from jgo.maven import MavenContext

        mirror = os.environ.get("DRIFTWOOD_MAVEN")
        context = MavenContext(repo_cache=store, remote_repos={"mirror": mirror} if mirror else None, timeout=60)
        try:
            context.project(org, artifact).at_version(version).artifact(packaging="jar").resolve()
        except Exception as error:  # jgo raises whatever its HTTP library does
            raise DriftwoodError(
                f"the Java library {coordinate} cannot be fetched: {error}. Check the network or the proxy, or set "
                f"DRIFTWOOD_MAVEN to a Maven repository that can be reached; libraries are kept in {store}."
            ) from error
    found = sha256(path)
    if found != digest:
        path.unlink()
        raise DriftwoodError(
            f"the Java library {coordinate} is not the one that {LISTED.name} names: SHA-256 {found}, not {digest}. It "
            "was removed; try again, and look at the Maven repository this machine is set to if that repeats."
        )
    return path


@cache
def _group(name: str, cache_path: Path) -> tuple[Path, ...]:
    store = cache_path / "maven"
    store.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(8) as pool:
        return tuple(pool.map(lambda item: fetch(*item), listed()[name].items()))


def connector_jar() -> Path:
    """Flink's Kafka connector with all it needs, to be shipped with the job."""
    return _group("connector", cache_folder())[0]


def broker_jars() -> tuple[Path, ...]:
    """The Kafka broker and all it needs."""
    return _group("broker", cache_folder())


def tools_jars() -> tuple[Path, ...]:
    """Kafka's command line tools, beside the broker's jars."""
    return _group("tools", cache_folder())


def logging_jars() -> tuple[Path, ...]:
    """The logging back end the broker lacks, from the PyFlink package (the same version of log4j)."""
    spec = importlib.util.find_spec("pyflink")
    home = Path(spec.origin).parent if spec and spec.origin else Path()
    return tuple(sorted((home / "lib").glob("log4j-slf4j-impl-*.jar")))
