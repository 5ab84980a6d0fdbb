"""Set-up of the environment: what submit.sh does before anything is installed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest

from flink_jobs.runtime import environment

ROOT = environment.ROOT


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "requirements.txt").write_text("a==1\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    return tmp_path


def test_every_requirement_has_an_exact_version_and_a_hash():
    found = environment.entries((ROOT / "requirements.txt").read_text())
    assert len(found) > 100
    for entry in found:
        assert re.match(r"[a-z0-9][a-z0-9._-]*(\[[a-z,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry


def test_every_direct_requirement_is_pinned():
    names = {re.split(r"[=\[]", entry)[0] for entry in environment.entries((ROOT / "requirements.txt").read_text())}
    direct = {re.split(r"[=<>\s]", line)[0] for line in environment.entries((ROOT / "requirements.in").read_text())}
    assert direct <= names


@pytest.mark.parametrize("name", ["requirements.txt", "requirements.in", "flink_jobs/runtime/jars.txt"])
def test_lists_of_packages_hold_no_address(name):
    assert not re.search(r"\w+://|--index-url|--find-links|@ ", (ROOT / name).read_text())


def test_only_the_cuda_part_is_left_out_for_another_build_of_torch():
    kept = [
        entry
        for entry in environment.entries((ROOT / "requirements.txt").read_text())
        if not environment.TORCH.match(entry)
    ]
    names = {entry.split("==")[0] for entry in kept}
    assert not {name for name in names if name.startswith(("nvidia", "cuda"))} | (names & {"torch", "triton"})
    assert {"numpy", "apache-flink", "uv"} <= names


def test_the_stamp_changes_with_requirements_backend_and_place(checkout, tmp_path):
    first = environment.fingerprint(checkout, "")
    assert environment.fingerprint(checkout, "") == first
    assert environment.fingerprint(checkout, "cpu") != first
    moved = shutil.copytree(checkout, tmp_path / "moved", ignore=shutil.ignore_patterns("moved"))
    assert environment.fingerprint(moved, "") != first
    (checkout / "requirements.txt").write_text("a==2\n")
    assert environment.fingerprint(checkout, "") != first


def test_a_complete_environment_is_used_as_it_is(checkout, monkeypatch):
    monkeypatch.delenv("DRIFTWOOD_TORCH_BACKEND", raising=False)
    monkeypatch.setattr(environment, "install", lambda *_: pytest.fail("installed again"))
    python = checkout / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    (checkout / ".venv" / "driftwood-setup").write_text(environment.fingerprint(checkout, ""))
    assert environment.ensure(checkout) == python


def test_an_interrupted_set_up_leaves_no_stamp(checkout, monkeypatch):
    monkeypatch.setattr(environment, "check_space", lambda *_: None)
    monkeypatch.setattr(environment, "create", lambda folder: folder.mkdir())

    def fail(*_):
        raise environment.SetUpError("no network")

    monkeypatch.setattr(environment, "install", fail)
    with pytest.raises(environment.SetUpError):
        environment.ensure(checkout)
    assert not (checkout / ".venv" / "driftwood-setup").exists()


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("error: Failed to fetch\n  Caused by: dns error: failed to lookup address", "cannot be reached"),
        (
            "ERROR: Could not find a version that satisfies the requirement uv==1 (from versions: none)",
            "cannot be reached",
        ),
        ("OSError: [Errno 28] No space left on device", "disk is full"),
        ("error: Hash mismatch for `torch==2`", "not the one that requirements.txt names"),
        ("Segmentation fault", "the installer failed"),
    ],
)
def test_a_failed_installer_is_explained_with_its_own_last_lines(output, said):
    message = environment.explain("installing packages", output)
    assert said in message
    assert output.splitlines()[0] in message


def test_a_full_disk_is_noticed_before_the_download(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 0, 5 * 10**9))
    with pytest.raises(environment.SetUpError, match=r"5\.0 GB free .* 9 GB needed"):
        environment.check_space(tmp_path, "")
    environment.check_space(tmp_path, "cpu")


def test_an_environment_of_another_place_is_not_used(tmp_path):
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "pyvenv.cfg").write_text("command = python -m venv /elsewhere/.venv\n")
    assert not environment.usable(folder)


def test_submit_without_python_says_what_to_install(tmp_path):
    for tool in ("bash", "dirname"):
        (tmp_path / tool).symlink_to(Path(shutil.which(tool)).resolve())
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(
        [tmp_path / "bash", ROOT / "submit.sh", "demo"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "needs Python 3.11" in done.stderr


def test_help_needs_no_set_up(tmp_path):
    shutil.copy(ROOT / "submit.sh", tmp_path)
    (tmp_path / "flink_jobs" / "runtime").mkdir(parents=True)
    shutil.copy(ROOT / "flink_jobs" / "runtime" / "environment.py", tmp_path / "flink_jobs" / "runtime")
    done = subprocess.run(
        [tmp_path / "submit.sh", "--help"], env=dict(os.environ), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0
    for word in ("demo", "test", "run", "train", "cluster start|stop"):
        assert word in done.stdout
    assert not (tmp_path / ".venv").exists()
