"""State and memory over a long run are flat: what is over is forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.artefact import save
from models.datasets import to_batches
from models.fitting import FitParams
from models.sample.bench import bench_lines
from models.templates import TemplateParams
from models.train import TrainParams, train
from models.windows import WindowParams
from tests.engine.memory_run import BATCH, GAP_MS, LINES, MASKING

ROOT = Path(__file__).parents[2]
#: By what share the second half of the run may end above or below where it began. The journal is a saw: it grows to some hundred kB a
#: shard before a snapshot takes its place.
SLOPES = {"sessions": 0.05, "incidents": 0.2, "entries": 0.02, "entry_bytes": 0.02, "journal_bytes": 0.2}
#: A network, and what keeps sessions by itself.
DETECTORS = ("deeplog", "novelty", "ngram", "count", "workflow")
#: Bytes a line, while the memos (bounded) still fill: the interpreter and its libraries take some 900 MB, and a share of those would hide much.
RESIDENT_SLOPE = 200


def _start(model: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.engine.memory_run", str(model), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _samples(process: subprocess.Popen[str]) -> dict[str, list[int]]:
    """What a run printed, by name."""
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    samples = [json.loads(line) for line in printed.splitlines()]
    assert samples[-1]["lines"] == LINES.lines == len(samples) * BATCH
    return {name: [sample[name] for sample in samples] for name in samples[0]}


def _growth(values: Sequence[int]) -> float:
    """How much the second half of some samples grows from its beginning to its end, on the line that fits it best."""
    half = np.array(values[len(values) // 2 :], float)
    return float(np.polyfit(np.linspace(0, 1, len(half)), half, 1)[0])


def _slope(values: Sequence[int]) -> float:
    """The growth of the second half, as a share of its mean."""
    return _growth(values) / float(np.mean(values[len(values) // 2 :]))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Samples of the run, and of the same run with expiry disabled; side by side."""
    model = tmp_path_factory.mktemp("models")
    normal = bench_lines(replace(LINES, lines=10_000, novel_ratio=0.0, random_ratio=0.0))
    fit = FitParams(hidden=16, layers=1, dropout=0, learning_rate=0.02, min_steps=200, max_steps=200, device="cpu")
    windows, templates = WindowParams(session_gap_ms=GAP_MS), TemplateParams(masking=MASKING)
    params = TrainParams(detectors=DETECTORS, fit=fit, windows=windows, templates=templates)
    trained = train(to_batches(line for block in normal for line in block), None, params, default=True)
    artefact = trained.artefacts["default"]
    assert set(artefact.learned) == set(DETECTORS)
    save(replace(artefact, calibration=replace(artefact.calibration, days=1_000.0)), model)  # tells of all that is odd
    processes = [_start(model), _start(model, "--keep-all")]
    try:
        flat, growing = map(_samples, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return flat, growing


def test_state_and_memory_are_flat_while_ids_and_words_keep_changing(runs) -> None:
    run = runs[0]
    assert run["anomalies"][-1] > 1_000
    # 2,500 sessions come and go, and 50,000 words that no line has again.
    assert max(run["sessions"]) < 400
    assert max(run["entries"]) < 2 * LINES.templates
    assert max(run["journal_bytes"]) < 1_200_000
    slopes = {name: _slope(run[name]) for name in SLOPES}
    assert {name: slope for name, slope in slopes.items() if abs(slope) > SLOPES[name]} == {}
    assert _growth(run["resident_bytes"]) < RESIDENT_SLOPE * LINES.lines / 2


def test_with_expiry_disabled_the_same_run_is_seen_to_grow(runs) -> None:
    run = runs[1]
    assert max(run["sessions"]) > 2_000
    assert max(run["incidents"]) > 2_000
    assert _slope(run["sessions"]) > 2 * SLOPES["sessions"]
    assert _slope(run["journal_bytes"]) > 2 * SLOPES["journal_bytes"]
    assert _growth(run["resident_bytes"]) > 1.2 * RESIDENT_SLOPE * LINES.lines / 2
    assert run["anomalies"] == runs[0]["anomalies"]  # what is forgotten is what no verdict could see
