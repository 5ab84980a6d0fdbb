"""Every shape of tests/golden/parsing: the bytes of a collector in, the record out."""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from models.parsing import LEVELS, ParseParams, Raw, parse

FILES = sorted((Path(__file__).parents[1] / "golden" / "parsing").glob("*.json"))
KEY = bytes.fromhex("00112233445566778899aabbccddeeff")


def milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def iso(value: int) -> str:
    return datetime.fromtimestamp(value / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def value_of(golden: dict) -> bytes | None:
    if "input_base64" in golden:
        return base64.b64decode(golden["input_base64"])
    return None if golden["input"] is None else golden["input"].encode()


def raw(values: list[bytes | None], times: list[int]) -> Raw:
    n = len(values)
    return Raw(values, "logs", np.zeros(n, np.int32), np.arange(n, dtype=np.int64), np.array(times, np.int64))


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_a_shape_becomes_the_expected_records_and_rejects(path):
    golden = json.loads(path.read_text())
    params = ParseParams(redaction_key=KEY, **golden.get("params", {}))
    records, rejects = parse(raw([value_of(golden)], [milliseconds(golden["kafka_time"])]), params)
    found = [
        {
            "index": int(records.index[i]),
            "ts": iso(int(records.ts[i])),
            "service": records.service[i],
            "level": LEVELS[records.level[i]],
            "host": records.host[i],
            "session": records.session[i],
            "message": records.message[i],
        }
        for i in range(len(records))
    ]
    assert found == golden["records"]
    assert [{"index": r.index, "reason": r.reason} for r in rejects] == golden["rejects"]


def test_each_golden_file_names_the_source_of_its_shape():
    assert len(FILES) > 60
    for path in FILES:
        golden = json.loads(path.read_text())
        assert golden["shape"] == path.stem
        assert len(golden["source"]) > 5


def test_all_shapes_in_one_batch_give_what_each_gives_alone():
    plain = [golden for path in FILES if "params" not in (golden := json.loads(path.read_text()))]
    params = ParseParams(redaction_key=KEY)
    batch = raw([value_of(g) for g in plain], [milliseconds(g["kafka_time"]) for g in plain])
    records, rejects = parse(batch, params)
    expected = [
        (row, r["index"], r["ts"], r["service"], r["message"]) for row, g in enumerate(plain) for r in g["records"]
    ]
    found = zip(
        records.row.tolist(),
        records.index.tolist(),
        map(iso, records.ts.tolist()),
        records.service,
        records.message,
        strict=True,
    )
    assert list(found) == expected
    assert [(r.row, r.index, r.reason) for r in rejects] == [
        (row, r["index"], r["reason"]) for row, g in enumerate(plain) for r in g["rejects"]
    ]
