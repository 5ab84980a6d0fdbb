"""SECURITY.md promises by naming tests: each of them is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_threat_model_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 25
    gone = [
        f"{path}::{name}"
        for path, name in named
        if not (ROOT / path).exists()
        or not re.search(rf"^(?:async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
    ]
    assert not gone


def test_every_file_that_the_documents_name_exists():
    for document in ("SECURITY.md", "docs/deploy.md", "docs/dashboards.md", "docs/scaling.md"):
        # docker/.env is written by `make secrets`.
        for path in re.findall(
            r"`((?:docker|models|flink_jobs|flink-conf|tests)/[\w./-]+(?<!\.env))`", (ROOT / document).read_text()
        ):
            assert (ROOT / path).exists(), f"{document} names {path}"
