"""Lines in; templates, evidence and verdict out: the job's own core on a few lines, with nothing before them.

Each call starts with empty windows, so the order of lines is judged within the call only; a line that a running job would find ordinary after
the ones before it may look odd here as the first of its session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from models.artefact import DEFAULT, Artefact
from models.batch import BatchParams
from models.fusion import Fusion, FusionParams
from models.incidents import Suspects
from models.judge import Judge
from models.packing import unpack
from models.parsing import ParseParams, Raw
from models.shard import ShardParams
from models.templates import TemplateParams, template_hex
from models.training_buffer import Sequence as Templates
from models.verdicts import Place
from models.windows import WindowParams

_TOPIC: Final = "score"


def score(
    artefact: Artefact, service: str, lines: Sequence[bytes], budget_per_day: float | None = None
) -> list[dict[str, Any]]:
    """For each line its template, the evidence of the detectors that find it odd, and whether it is told.

    A line is a record as a shipper sends it (JSON, logfmt, syslog, …) or plain text; whatever service it names, this model judges it.

    Returns:
        One mapping for each line: `template_id`, `template`, `evidence`, `strength`, `threshold`, `is_told`, `explanation`, `severity`;
        `error` instead where it is no record. Strength and evidence are of the line that completes an incident, as in the anomaly.
    """
    count = len(lines)
    raw = Raw(list(lines), _TOPIC, np.zeros(count, np.int32), np.arange(count), np.zeros(count, np.int64))
    parse = ParseParams(default_service=service)
    packed = BatchParams(parse=parse, shards=1, reject_ratio=1.0).build().step(raw)
    fusion = FusionParams() if budget_per_day is None else FusionParams(budget_per_day)
    params = ShardParams(
        templates=_mining(artefact),
        windows=WindowParams(session_gap_ms=artefact.session_gap_ms),
        fusion=fusion,
        has_sequences=True,
    )
    threshold = round(Fusion(artefact.calibration, fusion, is_heavy=False).threshold, 4)
    answers: list[dict[str, Any]] = [{"line": at, "error": "no record; is it blank?"} for at in range(count)]
    for _, blob in packed:
        # Under the name of every service that the lines give: a record may name another one than it is scored as.
        shard = params.build({DEFAULT: artefact})
        evidence: dict[int, dict[str, float]] = {}
        shard.listen = _listener(evidence)
        batch = unpack(blob)
        step = shard.step(batch)
        texts = {
            entry["template_id"]: entry["template"] for entry in map(orjson.loads, (data for _, data in step.catalogue))
        }
        told = [orjson.loads(data) for _, data in step.anomalies]
        for reject in step.rejects:
            found = orjson.loads(reject[1])
            answers[int(found["offset"])] = {
                "line": found["offset"],
                "error": str(found.get("detail") or found.get("reason")),
            }
        # Without a model no line is withheld from the training buffer as a suspect, so every line has its template there.
        for at, number in _templates(params.build({}).step(batch).sequences):
            name = template_hex(number)
            answers[at] = {
                "line": at,
                "template_id": name,
                "template": texts.get(name, ""),
                "evidence": evidence.get(at, {}),
                "strength": 0.0,
                "threshold": threshold,
                "is_told": False,
                "explanation": "",
                "severity": None,
            }
        for anomaly in told:
            at = int(anomaly["source"]["offset"])
            answers[at] |= {name: anomaly[name] for name in ("strength", "threshold", "explanation", "severity")}
            answers[at] |= {"is_told": True, "evidence": answers[at]["evidence"] | anomaly["detectors"]}
    return answers


def _listener(evidence: dict[int, dict[str, float]]) -> Any:
    def listen(judge: Judge, about: Suspects, found: npt.NDArray[np.float32], places: list[Place]) -> None:
        for place, row in zip(places, found.tolist(), strict=True):
            votes = {name: round(value, 3) for name, value in zip(judge.fusion.names, row, strict=True) if value > 0}
            known = evidence.setdefault(place.origin.offset, {})
            known |= {name: max(value, known.get(name, 0.0)) for name, value in votes.items()}

    return listen


def _templates(sequences: Any) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for packed in sequences.sequences if sequences is not None else ():
        lines = Templates.unpack(packed.service, packed.topic, packed.partition, packed.packed)
        found += zip(lines.offsets.tolist(), lines.template_ids.tolist(), strict=True)
    return found


def _mining(artefact: Artefact) -> TemplateParams:
    """Templates are mined as in the model's training."""
    found: Mapping[str, Any] = artefact.mining
    given = {name: found[name] for name in ("sim_th", "depth") if isinstance(found.get(name), int | float)}
    return replace(TemplateParams(), **given)
