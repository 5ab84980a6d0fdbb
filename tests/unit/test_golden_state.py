"""State bytes that were once written must still load, and go on with the same answers.

The bytes, the lines, the model and the answers are kept in tests/golden/state/; `python -m tests.golden.state.make` wrote them and
writes a new set, in a folder of its own, for a new version of a format.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from models.artefact import load_all
from models.sections import VERSION, join, split
from models.shard import Shard
from tests.golden.state.make import PARAMS, THIRD, anomalies, templates

STATE = Path(__file__).parents[1] / "golden" / "state" / "v2"
VALUES = (STATE / "lines.jsonl").read_bytes().splitlines()
EXPECTED = [orjson.loads(line) for line in (STATE / "anomalies.jsonl").read_bytes().splitlines()]
#: Other processors and libraries add up in another order; ids, counts and texts must be equal to the letter.
TOLERANCE = 1e-4
_PERCENT = re.compile(r"[\d.]+%")


def _kept() -> tuple[list[bytes], bytes, list[bytes]]:
    """The template entries, the snapshot and the journal after it."""
    state = orjson.loads((STATE / "state.json").read_bytes())
    entries, journal = (
        [base64.b64decode(entry) for entry in found] for found in (state["entries"].values(), state["journal"])
    )
    return entries, base64.b64decode(state["snapshot"]), journal


def _restored(*, without: str = "") -> Shard:
    """A shard from the kept bytes, all of them or without one kind, or without one section of each."""
    entries, snapshot, journal = _kept()
    rows = [*([snapshot] if without != "snapshot" else []), *(journal if without != "journal" else [])]
    rows = [join((name, data) for name, data in split(row) if name.partition("@")[0] != without) for row in rows]
    return PARAMS.build(load_all(STATE / "model"), entries if without != "entries" else (), rows)


def _about(value: Any) -> Any:
    """The value with every fraction within the tolerance."""
    if isinstance(value, dict):
        return {key: _about(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_about(part) for part in value]
    return pytest.approx(value, abs=TOLERANCE) if isinstance(value, float) else value


def _unspoken(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The anomalies without the fractions that their sentences spell out."""
    return [anomaly | {"explanation": _PERCENT.sub("%", anomaly["explanation"])} for anomaly in found]


def _named(found: list[dict[str, Any]]) -> list[tuple[str, int]]:
    return [(anomaly["anomaly_id"], anomaly["revision"]) for anomaly in found]


@pytest.mark.parametrize("batch", [1, 7, len(VALUES)])
def test_the_state_of_the_second_format_still_loads_and_goes_on_with_the_same_verdicts(batch: int) -> None:
    found = anomalies(_restored(), VALUES[THIRD:], THIRD, batch)
    assert _named(found) == _named(EXPECTED)
    assert _unspoken(found) == _about(_unspoken(EXPECTED))


def test_templates_numbers_and_counts_come_back() -> None:
    shard = _restored()
    assert templates(shard) == orjson.loads((STATE / "templates.json").read_bytes())
    for part in (shard.templates, shard.windows, shard.incidents, *_detectors(shard)):
        part.check()


def _detectors(shard: Shard) -> list[Any]:
    return [detector for judge in shard.services.judges.values() for detector in judge.detectors.values()]


def test_every_part_of_the_state_is_among_the_kept_bytes() -> None:
    _, snapshot, journal = _kept()
    assert {snapshot[0], *(entry[0] for entry in journal)} == {VERSION} == {2}
    parts = {"windows", "statistics", "incidents", "count", "frequency"}
    for rows in ([snapshot], journal):
        assert {name.partition("@")[0] for row in rows for name, _ in split(row)} >= parts


@pytest.mark.parametrize("kind", ["entries", "snapshot", "journal", "windows", "incidents", "count", "frequency"])
def test_verdicts_hang_on_every_kind_of_state(kind: str) -> None:
    found = anomalies(_restored(without=kind), VALUES[THIRD:], THIRD, len(VALUES))
    assert _unspoken(found) != _about(_unspoken(EXPECTED))


def test_the_kept_verdicts_tell_of_lines_before_the_restore() -> None:
    """Ends of sessions that no later line touched, from the snapshot and from the journal; incidents told before."""
    ends = {anomaly["source"]["offset"] for anomaly in EXPECTED if anomaly["kind"] == "end"}
    assert {27, 32, 41} <= ends
    new = {anomaly["anomaly_id"] for anomaly in EXPECTED if not anomaly["revision"]}
    grown = [anomaly for anomaly in EXPECTED if anomaly["anomaly_id"] not in new]
    assert {anomaly["kind"] for anomaly in grown} == {"line", "end"}
    assert "rate" in {anomaly["kind"] for anomaly in EXPECTED}
    assert all(len(anomaly["evidence"]) > 1 for anomaly in grown)
