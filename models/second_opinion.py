"""The second opinion: heavy detectors look again at what was told, and answer by a revision of the same anomaly.

```
anomalies, even revisions ─ by model ─→ Seen ─→ heavy detectors ─→ evidence ──┬─ one finds it unusual ─────────────→ strengthened
                                                                              ├─ those of its family find it ordinary ─→ refuted
                                                                              └─ neither ──────────────────────────→ nothing
```

What was told stays told: the answer to revision r is revision r + 1. It depends on the anomaly and the model alone, so a replay, in any
company and order, gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from models.artefact import DEFAULT, Artefact
from models.control import EVERY, Command, Feedback, Undo
from models.deeplog import FIRST_TEMPLATE, PADDING, UNKNOWN
from models.detectors.contract import Ends, Evidence, Scores, Seen
from models.detectors.rapid import Rapid, RapidParams
from models.detectors.registry import REGISTRY
from models.detectors.words import shortened
from models.fusion import Fusion, FusionParams, voters
from models.masking import mask, tokenise
from models.packing import group_key
from models.parsing import LEVELS
from models.reference import TemplateReference
from models.templates import TemplateParams
from models.verdicts import REVISIONS, score_of

Anomaly = dict[str, Any]
Bools = npt.NDArray[np.bool_]
Int32 = npt.NDArray[np.int32]
Float32 = npt.NDArray[np.float32]

_KINDS: Final = ("line", "end")  # a rate is of many lines, and the heavy detectors judge one
_UNUSUAL: Final = 2.0  # evidence, as one normal session in a hundred has, that strengthens
_ORDINARY: Final = 1.0  # evidence below which a detector has seen the like often enough
_STRONG: Final = 2.0  # thresholds; what is as strong as that is not refuted
_REFUTED: Final = 0.5  # of the score; below two thresholds it was below 2/3, so it falls below the 0.5 of the threshold
_REASONS: Final = 2  # that are told of a refutation
_ACCEPTED: Final = 1_000  # lines that people called normal; the oldest give way
_AT_ONCE: Final = 1_024  # anomalies judged together; bounds memory, changes no answer


def has_voices(artefacts: Iterable[Artefact], fusion: FusionParams) -> bool:
    """Whether any of these models has a heavy detector that votes."""
    return any(voters(artefact.calibration, fusion, is_heavy=True) for artefact in artefacts)


class SecondOpinion:
    """The heavy detectors of some models.

    Args:
        artefacts: by service, and `default`.
        templates: how the job masks lines and mines templates.
        fusion: who votes.

    State: lines that people called normal, at most `_ACCEPTED`; memos of the detectors, whose loss changes no answer.
    """

    def __init__(self, artefacts: Mapping[str, Artefact], templates: TemplateParams, fusion: FusionParams) -> None:
        self._version = {service: artefact.version for service, artefact in artefacts.items()}
        self._voices = {
            artefact.version: _Voices(artefact, templates, fusion)
            for artefact in artefacts.values()
            if has_voices([artefact], fusion)
        }
        self._accepted: dict[str, tuple[str, str]] = {}  # by command: service, message

    def obey(self, command: Command) -> dict[str, bytes | None]:
        """Take note of a command: a line that is called normal is normal from now on to whoever compares texts, and no more when that is undone.

        Returns:
            What to write to state by command id; None to remove it.
        """
        if isinstance(command, Feedback) and command.label == "normal" and command.message:
            self._accepted[command.command_id] = (command.service, command.message)
            gone = [*self._accepted][: max(0, len(self._accepted) - _ACCEPTED)]
            written: dict[str, bytes | None] = {command.command_id: orjson.dumps((command.service, command.message))}
        elif isinstance(command, Undo) and command.target in self._accepted:
            gone, written = [command.target], {}
        else:
            return {}
        for name in gone:
            del self._accepted[name]
            written[name] = None
        self._tell(is_anew=bool(gone))
        return written

    def restore(self, accepted: Mapping[str, bytes]) -> None:
        """Take over what `obey` gave to write."""
        for name in sorted(accepted):
            service, message = orjson.loads(accepted[name])
            self._accepted[name] = (service, message)
        self._tell(is_anew=False)

    def _tell(self, *, is_anew: bool) -> None:
        for version, voices in self._voices.items():
            messages = [
                message
                for service, message in self._accepted.values()
                if service == EVERY or self._version_of(service) == version
            ]
            voices.accept(messages, is_anew=is_anew)

    def _version_of(self, service: str) -> str:
        return self._version.get(service) or self._version.get(DEFAULT) or ""

    def step(self, anomalies: Sequence[bytes]) -> list[bytes]:
        """The revisions of those anomalies, as JSON, on which there is something to say; in order."""
        asked: dict[str, list[tuple[int, Anomaly]]] = {}
        for at, data in enumerate(anomalies):
            anomaly = orjson.loads(data)
            version = self._version_for(anomaly)
            if version is not None:
                asked.setdefault(version, []).append((at, anomaly))
        revisions: list[tuple[int, Anomaly]] = []
        for version, found in asked.items():
            for low in range(0, len(found), _AT_ONCE):
                part = found[low : low + _AT_ONCE]
                revised = self._voices[version].revise([anomaly for _, anomaly in part])
                revisions += [(at, new) for (at, _), new in zip(part, revised, strict=True) if new is not None]
        return [orjson.dumps(revision) for _, revision in sorted(revisions, key=lambda found: found[0])]

    def _version_for(self, anomaly: Anomaly) -> str | None:
        """The model that is asked about an anomaly: the one that told it, if it is still its service's; None where none is asked."""
        if anomaly["kind"] not in _KINDS or anomaly["mode"] != "live" or anomaly["revision"] % REVISIONS:
            return None
        version = self._version_of(anomaly["service"])
        return version if version == anomaly["model_version"] and version in self._voices else None


@dataclass(frozen=True, slots=True)
class _Judged:
    """What the heavy detectors made of some anomalies.

    Shapes: `evidence float32[A, D]`, `has_spoken bool[A, D]`, `weight float32[A]`.

    Attributes:
        seen: the lines, and the ends.
        place: of each anomaly among the lines, or among the ends; `[A]`.
    """

    seen: Seen
    place: Sequence[int]
    evidence: Float32
    has_spoken: Bools
    weight: Float32


class _Voices:
    """The heavy detectors of one model."""

    def __init__(self, artefact: Artefact, templates: TemplateParams, fusion: FusionParams) -> None:
        self._fusion = Fusion(artefact.calibration, fusion, is_heavy=True)
        self._detectors = {name: artefact.build(name) for name in self._fusion.names}
        self._length = artefact.length
        self._code = {number: code for code, number in enumerate(artefact.vocabulary) if code >= FIRST_TEMPLATE}
        self._reference = TemplateReference(artefact.templates, templates)
        self._masking = templates.masking
        self._artefact = artefact

    def accept(self, messages: Sequence[str], *, is_anew: bool) -> None:
        """These lines are normal: they join the core set of whoever compares texts; `is_anew` forgets those that joined before."""
        name = RapidParams.name
        if name not in self._detectors:
            return
        if is_anew:
            self._detectors[name] = self._artefact.build(name)
        rapid = self._detectors[name]
        assert isinstance(rapid, Rapid)
        for text in mask(list(messages), self._masking).to_list() if messages else ():
            rapid.add(text)

    def revise(self, anomalies: Sequence[Anomaly]) -> list[Anomaly | None]:
        """The next revision of each anomaly; None where there is nothing to say. What the detectors keep is forgotten at the end."""
        judged = self._judge(anomalies)
        found = [self._revision(anomaly, judged, at) for at, anomaly in enumerate(anomalies)]
        for detector in self._detectors.values():
            for service in judged.seen.service.tolist():
                detector.drop(service)
        return found

    # ---- anomalies as lines again

    def _judge(self, anomalies: Sequence[Anomaly]) -> _Judged:
        is_end = np.array([anomaly["kind"] == "end" for anomaly in anomalies], np.bool_)
        seen = self._seen(
            [anomaly for anomaly in anomalies if anomaly["kind"] != "end"],
            [anomaly for anomaly in anomalies if anomaly["kind"] == "end"],
        )
        scores = {name: detector.step(seen) for name, detector in self._detectors.items()}
        place = np.where(is_end, np.cumsum(is_end), np.cumsum(~is_end)) - 1
        shape = (len(anomalies), len(self._detectors))
        evidence, has_spoken = np.zeros(shape, np.float32), np.zeros(shape, np.bool_)
        line, end = self._fusion.evidence(scores)
        evidence[~is_end], evidence[is_end] = line, end
        has_spoken[~is_end], has_spoken[is_end] = self._spoken(scores)
        weight = self._fusion.weight(evidence)[0]  # none of them speaks for a whole service
        return _Judged(seen, place.tolist(), evidence, has_spoken, weight)

    def _spoken(self, scores: Mapping[str, Scores]) -> tuple[Bools, Bools]:
        """Where each detector has a score, and normal ones to compare it with; `bool[N, D]`, `bool[E, D]`."""
        tables = self._fusion.calibration
        line = [~np.isnan(scores[name].line) & (tables.line[name].count > 0) for name in self._fusion.names]
        end = [~np.isnan(scores[name].end) & (tables.end[name].count > 0) for name in self._fusion.names]
        return np.column_stack(line), np.column_stack(end)

    def _seen(self, lines: Sequence[Anomaly], ends: Sequence[Anomaly]) -> Seen:
        """The lines and ends that anomalies are about; each is a service of its own, so that none is the past of another."""
        masked = mask([anomaly["message"] for anomaly in lines], self._masking).to_list()
        texts = {text: at for at, text in enumerate(dict.fromkeys(masked))}
        ts = np.array([anomaly["ts"] for anomaly in lines], np.int64)
        return Seen(
            code=self._codes(lines, masked),
            windows=self._windows(lines),
            seq=np.array([texts[text] for text in masked], np.int32),
            ts=ts,
            now=ts,
            level=np.array([LEVELS.index(anomaly["level"] or "") for anomaly in lines], np.uint8),
            key=_keys(lines),
            service=np.arange(len(lines), dtype=np.uint64),
            has_session=np.array([anomaly["session"] is not None for anomaly in lines], np.bool_),
            is_late=np.array([anomaly["is_late"] for anomaly in lines], np.bool_),
            text=np.array([texts[text] for text in masked], np.int32),
            texts=list(texts),
            message=pa.array([anomaly["message"] for anomaly in lines], pa.large_string()),
            ends=Ends(self._windows(ends), _keys(ends), np.array([anomaly["ts"] for anomaly in ends], np.int64)),
        )

    def _codes(self, lines: Sequence[Anomaly], masked: Sequence[str]) -> Int32:
        """The class of each line's template; where the model has not its id, of the template that its text would join."""
        codes = np.empty(len(lines), np.int32)
        for at, (anomaly, text) in enumerate(zip(lines, masked, strict=True)):
            number: int | None = int(anomaly["template_id"], 16)
            if number not in self._code:
                number = self._reference.match(tokenise([text], self._masking)[0])
            codes[at] = UNKNOWN if number is None else self._code.get(number, UNKNOWN)
        return codes

    def _windows(self, anomalies: Sequence[Anomaly]) -> Int32:
        """The classes of the lines before each, the newest last; `int32[A, h]`."""
        windows = np.full((len(anomalies), self._length), PADDING, np.int32)
        for row, anomaly in zip(windows, anomalies, strict=True):
            before = [
                self._code.get(int(line["template_id"], 16), UNKNOWN) for line in anomaly["context"][-self._length :]
            ]
            row[self._length - len(before) :] = before
        return windows

    # ---- the verdict

    def _revision(self, anomaly: Anomaly, judged: _Judged, at: int) -> Anomaly | None:
        evidence = {
            name: float(judged.evidence[at, one])
            for one, name in enumerate(self._fusion.names)
            if judged.has_spoken[at, one]
        }
        if not evidence:
            return None
        strongest = max(evidence, key=lambda name: evidence[name])
        is_unusual = evidence[strongest] >= _UNUSUAL
        is_refutable = anomaly["strength"] < _STRONG * anomaly["threshold"] and _family(anomaly["detectors"]) in {
            REGISTRY[name].family for name in evidence
        }  # who looks at texts can't say that an order is usual
        if not is_unusual and not (evidence[strongest] < _ORDINARY and is_refutable):
            return None
        reasons = self._reasons(judged, judged.place[at], list(evidence), is_end=anomaly["kind"] == "end")
        nearest = next((reason for reason in reasons.values() if reason.nearest is not None), None)
        revision = {
            **anomaly,
            "revision": anomaly["revision"] + 1,
            "detectors": anomaly["detectors"] | {name: round(vote, 3) for name, vote in evidence.items()},
        }
        if nearest is not None:
            revision["nearest"] = {"text": nearest.nearest, "differing": list(nearest.differing)}
        if is_unusual:
            strength = round(anomaly["strength"] + float(judged.weight[at]), 4)
            said = f"A second look by {strongest} agrees: {reasons[strongest].sentence}"
            score = score_of(strength, anomaly["threshold"])
            verdict = {"status": "strengthened", "strength": strength}
        else:
            said = f"A second look by {_listed(list(evidence))} finds it ordinary: {_why_ordinary(reasons, nearest)}"
            score = _REFUTED * anomaly["score"]
            verdict = {"status": "refuted"}
        return revision | verdict | {"score": round(score, 5), "explanation": f"{anomaly['explanation']} {said}"}

    def _reasons(self, judged: _Judged, place: int, names: Sequence[str], *, is_end: bool) -> dict[str, Evidence]:
        """What these detectors have to say of a line or an end; first the one that knows the nearest normal text best."""
        order = sorted(names, key=lambda name: name != RapidParams.name)
        return {name: self._detectors[name].explain(judged.seen, place, is_end=is_end) for name in order}


def _family(votes: Mapping[str, float]) -> str:
    """What the strongest of some votes looked at; that of a detector unknown here is nobody's."""
    strongest = max(votes, key=lambda name: votes[name])
    return REGISTRY[strongest].family if strongest in REGISTRY else ""


def _why_ordinary(reasons: Mapping[str, Evidence], nearest: Evidence | None) -> str:
    """The first reasons, and the nearest normal line where its finder does not name it."""
    said = " ".join(reason.sentence for reason in list(reasons.values())[:_REASONS])
    if nearest is None or nearest.nearest is None or nearest.nearest in nearest.sentence:
        return said
    return f"{said} The nearest normal line is “{shortened(nearest.nearest)}”."


def _listed(names: Sequence[str]) -> str:
    """Names inside a sentence.

    >>> _listed(["rapid"]), _listed(["loggpt", "rapid", "semantic"])
    ('rapid', 'loggpt, rapid and semantic')
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _keys(anomalies: Sequence[Anomaly]) -> npt.NDArray[np.uint64]:
    """The key of each one's session, or of its service's own sequence."""
    return np.array([group_key(anomaly["service"], anomaly["session"]) for anomaly in anomalies], np.uint64)
