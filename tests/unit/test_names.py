"""No system or data set is known by name: what works on them must work on logs nobody here has seen."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMES = re.compile(
    r"blk_|\bhdfs|hadoop|namenode|datanode|\bcinder|\bnova\b|neutron|openstack|loghub|thunderbird|\bbgl\b|zookeeper|openssh|\bspark\b",
    re.IGNORECASE,
)


def test_no_name_of_a_system_or_data_set_stands_in_the_core_or_the_default_settings() -> None:
    files = [*(ROOT / "models").rglob("*.py"), *(ROOT / "udfs").rglob("*.py"), ROOT / "flink_jobs" / "settings.py"]
    assert len(files) > 50
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if NAMES.search(line)
    ]
    assert not found
