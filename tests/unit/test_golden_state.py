"""State bytes that were once written must still load, and go on with the same answers.

`python -m tests.unit.test_golden_state` writes a new set; do that for a new version of a format only, into a folder of its own.
"""

from __future__ import annotations

import base64
from pathlib import Path

import orjson

from models.artefact import Artefact, load_all, save
from models.batch import BatchParams
from models.packing import unpack
from tests.unit.test_shard import PARAMS, _artefact, _raw, _values

STATE = Path(__file__).parents[1] / "golden" / "state" / "v1"
CUT = 64


def _follow(artefact: Artefact, entries: dict[str, bytes], journal: list[bytes]) -> list[dict[str, object]]:
    """The anomalies of the lines after the cut, from a shard restored from these bytes."""
    shard = PARAMS.build({"default": artefact}, entries.values(), journal)
    ((_, blob),) = BatchParams(shards=1).build().step(_raw(_values()[CUT:], CUT))
    found = [orjson.loads(anomaly) for _, anomaly in shard.step(unpack(blob)).anomalies]
    return sorted(found, key=lambda anomaly: str(anomaly["anomaly_id"]))


def test_the_state_of_the_first_format_still_loads_and_goes_on_with_the_same_anomalies() -> None:
    state = orjson.loads((STATE / "state.json").read_bytes())
    entries = {key: base64.b64decode(entry) for key, entry in state["entries"].items()}
    journal = [base64.b64decode(entry) for entry in state["journal"]]
    expected = [orjson.loads(line) for line in (STATE / "anomalies.jsonl").read_bytes().splitlines()]
    assert len(expected) > 10
    assert _follow(load_all(STATE / "model")["default"], entries, journal) == expected


def _write() -> None:
    STATE.mkdir(parents=True)
    save(_artefact(), STATE / "model")
    shard, entries, journal = PARAMS.build({"default": _artefact()}), {}, []
    batcher = BatchParams(shards=1).build()
    for first in range(0, CUT, 16):
        for _, blob in batcher.step(_raw(_values()[first : first + 16], first)):
            writes = shard.step(unpack(blob)).writes
            entries.update(writes.entries)
            journal.append(writes.journal)
    state = {
        "entries": {key: base64.b64encode(entry).decode() for key, entry in entries.items()},
        "journal": [base64.b64encode(entry).decode() for entry in journal],
    }
    (STATE / "state.json").write_bytes(orjson.dumps(state, option=orjson.OPT_INDENT_2))
    found = _follow(_artefact(), entries, journal)
    (STATE / "anomalies.jsonl").write_bytes(b"".join(orjson.dumps(anomaly) + b"\n" for anomaly in found))


if __name__ == "__main__":
    _write()
