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
from models.shard import Shard
from tests.golden.state.make import PARAMS, THIRD, anomalies, templates

STATE = Path(__file__).parents[1] / "golden" / "state" / "v1"
VALUES = (STATE / "lines.jsonl").read_bytes().splitlines()
EXPECTED = [orjson.loads(line) for line in (STATE / "anomalies.jsonl").read_bytes().splitlines()]
#: Other processors and libraries add up in another order; ids, counts and texts must be equal to the letter.
TOLERANCE = 1e-4
_PERCENT = re.compile(r"[\d.]+%")


def _restored(*, without: str = "") -> Shard:
    """A shard from the kept bytes, all of them or without one kind."""
    state = orjson.loads((STATE / "state.json").read_bytes())
    entries = [base64.b64decode(entry) for entry in state["entries"].values()]
    snapshot, journal = [base64.b64decode(state["snapshot"])], [base64.b64decode(entry) for entry in state["journal"]]
    return PARAMS.build(
        load_all(STATE / "model"),
        entries if without != "entries" else (),
        [*(snapshot if without != "snapshot" else ()), *(journal if without != "journal" else ())],
    )


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


@pytest.mark.parametrize("batch", [1, 7, len(VALUES)])
def test_the_state_of_the_first_format_still_loads_and_goes_on_with_the_same_verdicts(batch: int) -> None:
    found = anomalies(_restored(), VALUES[THIRD:], THIRD, batch)
    assert [anomaly["anomaly_id"] for anomaly in found] == [anomaly["anomaly_id"] for anomaly in EXPECTED]
    assert _unspoken(found) == _about(_unspoken(EXPECTED))


def test_templates_numbers_and_counts_come_back() -> None:
    shard = _restored()
    assert templates(shard) == orjson.loads((STATE / "templates.json").read_bytes())
    shard.templates.check()
    shard.windows.check()


@pytest.mark.parametrize("kind", ["entries", "snapshot", "journal"])
def test_verdicts_hang_on_every_kind_of_state(kind: str) -> None:
    found = anomalies(_restored(without=kind), VALUES[THIRD:], THIRD, len(VALUES))
    assert _unspoken(found) != _about(_unspoken(EXPECTED))


def test_the_kept_verdicts_tell_of_lines_before_the_restore() -> None:
    """Ends of sessions that no later line touched, from the snapshot and from the journal; windows that began before."""
    ends = {anomaly["source"]["offset"] for anomaly in EXPECTED if anomaly["kind"] == "end"}
    assert {27, 32, 41} <= ends
    session = next(anomaly for anomaly in EXPECTED if anomaly["source"]["offset"] == THIRD)
    assert len(session["context"]) == 3
