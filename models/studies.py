"""Studies: the figures of docs/measurements.md that a plain evaluation does not give, one function each.

`loggpt`          LogGPT before and after its refinement
`texts`           RAPID by token and by sentence, and semantic, with each sentence model
`contamination`   training data in which a share of the units is anomalous
`planted`         faults of eleven kinds, and which detectors see each (needs no data set)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import chain, islice
from typing import Any, Final

import numpy as np

from models.datasets import DataSet, to_batches
from models.detectors.contract import Params
from models.detectors.loggpt import LogGPT, LogGPTParams
from models.detectors.rapid import RapidParams
from models.detectors.semantic import SemanticParams
from models.detectors.texts import TextParams, normal_texts
from models.embedding import AUTO, HASHED, Encoder, load
from models.errors import DataSetError
from models.evaluate import Anomaly, log_lines, score_through_core
from models.figures import f1_difference, precision_recall_f1
from models.sample.planted import FAULTS, PlantedParams, learning_lines, watched_lines
from models.shard import ShardParams
from models.train import TrainParams, batching_of, train
from models.trial import Say, Stage, hear, learn, overhear, units_of
from models.unit_figures import Yardstick

Row = dict[str, Any]

SEEDS: Final = 3
_POLLUTED_RATIO: Final = 0.05
_TIMED: Final = 100  # texts that the cost of embedding one is measured on
SURE: Final = 2.5  # evidence that one normal session of three hundred has: who has it has seen a planted fault


@dataclass(frozen=True)
class Subject:
    """What is studied, and how.

    Attributes:
        dataset: None for a study that makes its own lines.
        params, shards: how the job and its training are set.
        is_level_hidden: levels are blanked first.
        say: takes one line of progress.
    """

    dataset: DataSet | None
    params: TrainParams
    shards: ShardParams
    is_level_hidden: bool = False
    say: Say = lambda line: None

    @property
    def labelled(self) -> DataSet:
        """The data set.

        Raises: DataSetError if there is none, or no labels and training part.
        """
        if self.dataset is None or not self.dataset.units or not self.dataset.has_training_part:
            raise DataSetError("this study needs a data set with labels and a training part: driftwood evaluate DIR …")
        return self.dataset

    def stage(self) -> Stage:
        """The data set, ready for single detectors."""
        return Stage.of(self.labelled, self.params, self.shards, is_level_hidden=self.is_level_hidden, say=self.say)


# -- LogGPT ------------------------------------------------------------------------------------------------------------


def loggpt(subject: Subject) -> list[Row]:
    """LogGPT before and after refinement, by seed.

    `held_out_outside`: share of the training part's held-out lines outside the top k; `normal_outside`: share of the normal test units
    with such a line.
    """
    stage = subject.stage()
    rows = []
    for seed in range(subject.params.seed, subject.params.seed + SEEDS):
        for name, kind in (("before", LogGPTParams(refine_steps=0)), ("after", LogGPTParams())):
            learned, _ = learn(stage, kind, seed, subject.say)
            if not learned:
                raise DataSetError(f"{stage.dataset.folder}: no service has enough lines for loggpt to learn from.")
            outside = np.zeros(len(stage.dataset.units), np.bool_)
            for service, taught in learned.items():
                detector = kind.build(taught, stage.lessons[service].corpus.names)
                assert isinstance(detector, LogGPT)
                for seen in stage.seen[service]:
                    unit = units_of(stage.dataset, seen, service)[0]
                    outside[unit[(unit >= 0) & detector.outside(seen)]] = True
            heard = hear(stage, kind, learned, seed)
            held = [taught.facts["refined"] for taught in learned.values() if taught.facts["refined"] is not None]
            rows.append(
                {
                    "refinement": name,
                    "seed": seed,
                    "held_out_outside": round(float(np.mean([one["outside_ratio"] for one in held])), 5)
                    if held
                    else None,
                    "normal_outside": round(float(outside[~heard.is_anomalous].mean()), 5),
                    "anomalous_outside": round(float(outside[heard.is_anomalous].mean()), 5),
                    **heard.figures(),
                }
            )
    return rows


# -- texts -------------------------------------------------------------------------------------------------------------


def texts(subject: Subject) -> list[Row]:
    """The detectors of texts with each sentence model; `texts` are those learned, `ms_a_text` is the processor time that embedding one takes."""
    stage = subject.stage()
    rows = []
    for embedding in dict.fromkeys(load(name).name for name in (AUTO, HASHED)):
        kinds: list[tuple[str, Params]] = [
            ("rapid by token", RapidParams(embedding=embedding)),
            ("rapid by sentence", RapidParams(embedding=embedding, level="sentence")),
            ("semantic", SemanticParams(embedding=embedding)),
        ]
        encoder = load(embedding)
        cost = _ms_a_text(encoder, stage, TextParams(embedding=embedding))
        for name, kind in kinds:
            learned, _ = learn(stage, kind, subject.params.seed, subject.say)
            heard = hear(stage, kind, learned, subject.params.seed)
            rows.append(
                {
                    "detector": name,
                    "embedding": encoder.name,
                    "texts": sum(int(taught.facts["texts"]) for taught in learned.values()),
                    "ms_a_text": cost,
                    **heard.figures(),
                }
            )
    return rows


def _ms_a_text(encoder: Encoder, stage: Stage, params: TextParams) -> float:
    """What a text costs that the encoder has not met: normal ones, each made new by a number."""
    known = chain.from_iterable(normal_texts(own.corpus, params).texts for own in stage.lessons.values())
    new = [f"{text} {number}" for number, text in enumerate(islice(known, _TIMED))]
    encoder.encode("warm up")
    started = time.process_time()  # and not that of the clock: other programs may be busy
    encoder.sentences(new)
    return round((time.process_time() - started) / len(new) * 1e3, 3)


# -- contamination -----------------------------------------------------------------------------------------------------


def contamination(subject: Subject) -> list[Row]:
    """The fused verdict after training on clean data, and on data of which a share of the units is anomalous; by draw.

    Anomalous test units take the place of normal training units; they leave the test, also for the clean training.
    """
    dataset = subject.labelled
    if dataset.unit != "session" or dataset.train_sessions is None:
        raise DataSetError(
            f"{dataset.folder}: units are moved between training and test by session, so the data set needs unit session and "
            "train_sessions."
        )
    normal = sorted(dataset.train_sessions)
    count = round(len(normal) * _POLLUTED_RATIO)
    anomalous = [unit for unit in dataset.units if unit.is_anomalous]
    if count < 1 or count > len(anomalous) * 0.8:
        raise DataSetError(
            f"{dataset.folder}: {_POLLUTED_RATIO:.0%} of its {len(normal)} training sessions are {count}, and of its {len(anomalous)} "
            "anomalous ones at most four fifths may leave the test."
        )
    clean = _told(subject, dataset)
    rows = []
    for draw in range(subject.params.seed, subject.params.seed + SEEDS):
        chance = np.random.default_rng(draw)
        moved = {anomalous[at].key for at in chance.permutation(len(anomalous))[:count].tolist()}
        replaced = {normal[at] for at in chance.permutation(len(normal))[:count].tolist()}
        subject.say(f"draw {draw}: {count} anomalous sessions among {len(normal)}")
        polluted = replace(
            dataset,
            train_sessions=(dataset.train_sessions - replaced) | moved,
            units=tuple(unit for unit in dataset.units if unit.key not in moved),
        )
        yardstick = Yardstick.of(polluted, None)
        before, after = (yardstick.verdicts(told) for told in (clean, _told(subject, polluted)))
        change = f1_difference(before.is_anomalous, after.is_flagged, before.is_flagged, seed=draw)
        assert change is not None
        _, recall, f1 = precision_recall_f1(after.is_anomalous, after.is_flagged)
        rows.append(
            {
                "draw": draw,
                "polluted": count,
                "anomalous_left": int(after.is_anomalous.sum()),
                "f1_clean": round(float(precision_recall_f1(before.is_anomalous, before.is_flagged)[2] or 0.0), 5),
                "f1_polluted": round(float(f1 or 0.0), 5),
                "recall_polluted": round(float(recall or 0.0), 5),
                "change": round(change.value, 5),
                "low": round(change.low, 5),
                "high": round(change.high, 5),
            }
        )
    return rows


def _told(subject: Subject, dataset: DataSet) -> list[Anomaly]:
    """The anomalies of the core after training on the data set's training part."""
    params = replace(subject.params, batching=batching_of(dataset, subject.params.batching))

    def lines() -> Iterator[bytes]:
        return log_lines(dataset, is_level_hidden=subject.is_level_hidden)

    subject.say("training")
    models = train(to_batches(lines()), None, params, is_training=dataset.is_training).artefacts
    subject.say("scoring")
    return list(score_through_core(lines(), models, params.batching, subject.shards))


# -- planted faults ----------------------------------------------------------------------------------------------------


def planted(subject: Subject, size: PlantedParams | None = None) -> list[Row]:
    """By kind of fault and detector, the share of the planted faults on which the detector alone has evidence of 2.5 or more.

    The row `normal` is the share of the normal sessions, and of stretches of a service without, on which it has as much.
    """
    size = size or PlantedParams()
    subject.say("training all detectors on the planted world's normal lines")
    models = train(to_batches(learning_lines(size)), None, subject.params, default=True).artefacts
    artefact = models["default"]
    rows = []
    for name in ("normal", *FAULTS):
        subject.say(f"{name}: lines with the fault")
        lines, places = watched_lines(size, name)
        seen = overhear(models, lines, subject.params.batching, subject.shards)["default"]
        row: Row = {"fault": name}
        for detector in artefact.learned:
            found = np.zeros(len(places), np.bool_)
            judge = artefact.build(detector)
            for batch in seen:
                scores = judge.step(batch)
                for key, ts, score, table in (
                    (batch.key, batch.ts, scores.line, artefact.calibration.line[detector]),
                    (batch.ends.key, batch.ends.ts, scores.end, artefact.calibration.end[detector]),
                ):
                    sure = np.flatnonzero(table.evidence(score) >= SURE)
                    for number, place in enumerate(places):
                        found[number] |= bool(place.holds(key[sure], ts[sure]).any())
            row[detector] = round(float(found.mean()), 3)
        rows.append(row)
    return rows


STUDIES: Final[dict[str, Callable[[Subject], list[Row]]]] = {
    "loggpt": loggpt,
    "texts": texts,
    "contamination": contamination,
    "planted": planted,
}


def study(name: str, subject: Subject) -> dict[str, Any]:
    """One study, as the report has it."""
    dataset = subject.dataset
    return {
        "study": name,
        "about": " ".join((STUDIES[name].__doc__ or "").split()),
        "dataset": None if dataset is None else dataset.name,
        "data_sha256": None if dataset is None else dataset.sha256(),
        "hide_levels": subject.is_level_hidden,
        "rows": STUDIES[name](subject),
    }
