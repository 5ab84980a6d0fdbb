from __future__ import annotations

import functools
import json
from pathlib import Path

import jsonschema
import numpy as np
import orjson
import pytest
import torch

from models.artefact import Artefact
from models.batch import BatchParams
from models.deeplog import DeepLog, DeepLogRule
from models.packing import unpack
from models.parsing import Raw
from models.shard import Shard, ShardParams
from models.templates import TemplateParams
from models.windows import WindowParams

ROOT = Path(__file__).parents[2]
GAP_MS = 60_000
PARAMS = ShardParams(cluster="test", windows=WindowParams(length=4, session_gap_ms=GAP_MS, max_sessions=50))
STEPS = ("opened cart for user {}", "added item {} to cart", "priced cart at {} cents", "closed cart of user {}")


def _values(count: int = 120) -> list[bytes]:
    """Lines of two services: walks through four steps in sessions, with jumps, a new template and sessions that just stop."""
    rng = np.random.default_rng(3)
    lines = []
    for number in range(count):
        session, step = number // 4 % 9, int(rng.integers(0, 4)) if rng.random() < 0.2 else number % 4
        text = STEPS[step].format(int(rng.integers(1, 9_999)))
        if number in (50, 90):
            text = "segmentation fault in worker"
        record = {
            "@timestamp": 1_700_000_000_000 + number * 700,
            "service": "cart" if session % 2 else "mail",
            "level": "INFO",
            "message": text,
        }
        if session:
            record["session"] = f"s-{session}"
        lines.append(orjson.dumps(record))
    lines[30] = b"[1, 2"
    lines[31] = b""
    return lines


def _raw(values: list[bytes], first: int) -> Raw:
    count = len(values)
    return Raw(
        values=values,
        topic="logs",
        partition=np.zeros(count, np.int32),
        offset=np.arange(first, first + count, dtype=np.int64),
        timestamp_ms=np.full(count, 1_700_000_000_000, np.int64),
    )


@functools.cache
def _artefact() -> Artefact:
    """A model of the four steps whose weights are random but fixed: what it says does not matter, only that it stays the same."""
    templates = TemplateParams().build()
    batcher = BatchParams(shards=1).build()
    normal = [orjson.dumps({"service": "cart", "message": step.format(7)}) for step in STEPS]
    for _, blob in batcher.step(_raw(normal, 0)):
        lines = unpack(blob)
        templates.step(lines.texts, lines.text, lines.ts, lines.level)
    entries = templates.export("cart")
    vocabulary = (0, 0, *sorted(int(entry["id"]) for entry in entries))
    torch.manual_seed(5)
    network = DeepLog(len(vocabulary) + 1, hidden=8, layers=1)
    return Artefact(
        service="default",
        vocabulary=vocabulary,
        templates=entries,
        rule=DeepLogRule(top_g=2, min_end_probability=0.9),
        length=4,
        session_gap_ms=GAP_MS,
        wait_ms=tuple(5_000 for _ in vocabulary),
        hidden=8,
        layers=1,
        weights=network.state_dict(),
    )


def _run(size: int, *, restore_every: int = 0, drop_memos: bool = False) -> tuple[list[bytes], list[bytes], Shard]:
    """Anomalies and rejects of all lines in batches of `size`, with restores from the written state on the way."""
    batcher = BatchParams(shards=1).build()
    shard = PARAMS.build({"default": _artefact()})
    entries: dict[str, bytes] = {}
    journal: list[bytes] = []
    anomalies: list[bytes] = []
    rejects: list[bytes] = []
    values = _values()
    for number, first in enumerate(range(0, len(values), size)):
        if restore_every and number and number % restore_every == 0:
            shard = PARAMS.build({"default": _artefact()}, entries.values(), journal)
        if drop_memos:
            shard.templates.drop_memo()
        for _, blob in batcher.step(_raw(values[first : first + size], first)):
            step = shard.step(unpack(blob))
            anomalies += [anomaly for _, anomaly in step.anomalies]
            rejects += [reject for _, reject in step.rejects]
            entries.update(step.writes.entries)
            journal = [step.writes.journal] if step.writes.is_snapshot else [*journal, step.writes.journal]
    return anomalies, rejects, shard


@pytest.fixture(scope="module")
def whole() -> tuple[list[bytes], list[bytes], Shard]:
    return _run(1_000)


def _by_id(anomalies: list[bytes]) -> dict[str, dict[str, object]]:
    found = {anomaly["anomaly_id"]: anomaly for anomaly in map(orjson.loads, anomalies)}
    assert len(found) == len(anomalies)
    return found


@pytest.mark.parametrize(("size", "restore_every"), [(1, 0), (7, 0), (7, 1), (23, 2)])
def test_the_cut_into_batches_and_restores_change_no_anomaly(whole, size: int, restore_every: int) -> None:
    anomalies, rejects, _ = _run(size, restore_every=restore_every)
    assert _by_id(anomalies) == _by_id(whole[0])
    assert sorted(rejects) == sorted(whole[1])


def test_dropping_every_memo_changes_no_anomaly(whole) -> None:
    assert _by_id(_run(7, drop_memos=True)[0]) == _by_id(whole[0])


def test_lines_ends_and_new_templates_are_found_and_explained(whole) -> None:
    anomalies = _by_id(whole[0]).values()
    assert {anomaly["kind"] for anomaly in anomalies} == {"line", "end"}
    new = [anomaly for anomaly in anomalies if "segmentation" in str(anomaly["message"])]
    assert len(new) == 2
    assert all(anomaly["score"] == 1.0 for anomaly in new)
    assert "No line like «segmentation fault in worker» was seen while learning." in {a["explanation"] for a in new}
    assert len({anomaly["fingerprint"] for anomaly in new if anomaly["service"] == "cart"}) <= 1


def test_every_anomaly_keeps_the_schema(whole) -> None:
    schema = json.loads((ROOT / "docs" / "anomaly.schema.json").read_text())
    validator = jsonschema.Draft202012Validator(schema)
    for anomaly in whole[0]:
        validator.validate(orjson.loads(anomaly))


def test_rejects_carry_their_origin_and_every_offset_is_accounted_for(whole) -> None:
    rejects = [orjson.loads(reject) for reject in whole[1]]
    assert [(reject["offset"], reject["reason"]) for reject in rejects] == [(31, "empty")]
    batcher = BatchParams(shards=1).build()
    ((_, blob),) = batcher.step(_raw(_values(), 0))
    account = orjson.loads(PARAMS.build({}).step(unpack(blob)).ranges)
    scored = {at for first, last in account["accounts"][0]["scored"] for at in range(first, last + 1)}
    rejected = {offset for _, _, offset, _ in account["rejected"]}
    assert scored | rejected == set(range(120))
    assert not scored & rejected


def test_without_a_model_templates_are_learned_and_nothing_is_reported() -> None:
    ((_, blob),) = BatchParams(shards=1).build().step(_raw(_values(), 0))
    step = PARAMS.build({}).step(unpack(blob))
    assert not step.anomalies
    assert step.unmodelled == 119
    assert {orjson.loads(entry)["template"] for _, entry in step.catalogue} > {"opened cart for user <num>"}


def test_quiet_services_leave_no_state_behind() -> None:
    shard = ShardParams(idle_ticks=2).build({})
    ((_, blob),) = BatchParams(shards=1).build().step(_raw(_values(), 0))
    entries = {key for key, _ in shard.step(unpack(blob)).writes.entries}
    dropped: set[str] = set()
    for _ in range(3):
        writes = shard.tick()
        dropped |= set(writes.dropped)
    assert dropped == entries
    assert len(shard.windows) == 0
    assert writes.is_snapshot
    assert len(writes.journal) < 200
