"""The services of one shard: their lives, what people have said of each, and the model that judges it.

```
command ─→ obey ─┬─ mode, model, budget ─→ life, judge, threshold
                 └─ feedback, undo ──────→ patterns not told, lines wanted
lines ─→ meet ─→ by_model ─→ (judge, its lines)          status ─→ what the job says of a service
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

from models.artefact import DEFAULT, Artefact
from models.control import (
    EVERY,
    Command,
    EditTemplate,
    Feedback,
    Release,
    SetBudget,
    SetMode,
    SetModel,
    SetShares,
    Undo,
    read_command,
)
from models.detectors.rows import Places
from models.errors import ArtefactError
from models.fusion import FusionParams
from models.judge import Judge
from models.life import LifeParams
from models.said import Answer, Known, NothingKnown, Said
from models.template_edits import Edits
from models.templates import TemplateParams, template_hex
from models.windows import service_key

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]

#: (service, version) → its model, from the store. Raises ArtefactError where there is none that can be used.
Load = Callable[[str, str], Artefact]

_VERSION: Final = 1
_FOR_EVERY: Final = 200  # commands for every service that are kept for those not met yet


def no_store(service: str, version: str) -> Artefact:
    """Loads nothing: the job was started without a store."""
    raise ArtefactError(
        f"the model {version} of {service} is asked for, and the job has no model store; start it with --store"
    )


class Services:
    """All services of a shard.

    State: lives (rows), what was said (JSON a service that was spoken of), and the detectors' state by model version.

    Args:
        life, templates, fusion: as the shard's.
        artefacts: the models that the job was started with, by service, and `default`.
        load: for models that are announced while it runs.
    """

    def __init__(
        self,
        life: LifeParams,
        templates: TemplateParams,
        fusion: FusionParams,
        artefacts: Mapping[str, Artefact],
        load: Load = no_store,
    ) -> None:
        self.lives = life.build()
        self._templates, self._fusion = templates, fusion
        self._artefacts = artefacts
        self._load = load
        self._said: dict[str, Said] = {}
        self._for_every: list[Command] = []
        self._spoken: set[str] = set()  # whose `said` changed since the last state write
        self._news: set[str] = set()  # of whom there is something to say since the last status
        self._judge_of: dict[str, Judge | None] = {}
        self._judges: dict[str, Judge] = {}  # by version
        self._row: dict[str, int] = {}

    # ---- lines

    def meet(self, names: Sequence[str], keys: UInt64, lines: Int64, now: Int64) -> Places:
        """Count the lines of a batch and give their services a model at their first line; gives the rows of their lives. All by service."""
        for name in names:
            if name not in self._judge_of:
                self._begin(name)
        has_model = np.array([self._judge_of[name] is not None for name in names], np.bool_)
        rows = self.lives.meet(keys, has_model)
        for name, row in zip(names, rows.tolist(), strict=True):
            self._row[name] = row
        self.lives.count(rows, lines, now)
        return rows

    def _begin(self, name: str) -> None:
        """What holds for a service that is met: what was said to all, and its model."""
        if name not in self._said and self._for_every:
            self._judge_of[name] = None
            for command in self._for_every:
                self._act(name, command, NothingKnown())
        said = self._said.get(name)
        if said is not None and said.model:
            self._judge_of[name] = self._judge(self._load(name, said.model))
            return
        artefact = self._artefacts.get(name) or self._artefacts.get(DEFAULT)
        self._judge_of[name] = None if artefact is None else self._judge(artefact)

    def _judge(self, artefact: Artefact) -> Judge:
        if artefact.version not in self._judges:
            fusion = replace(self._fusion, shares=max(1, len(self._artefacts)))
            self._judges[artefact.version] = Judge(artefact, self._templates, fusion)
        return self._judges[artefact.version]

    @property
    def judges(self) -> Mapping[str, Judge]:
        """Those at work, by model version."""
        return self._judges

    def judge_of(self, name: str) -> Judge | None:
        """The judge of a service, whether it judges now or not; None without model."""
        return self._judge_of.get(name)

    def by_model(self, names: Sequence[str], rows: Places, service: Int32) -> Iterator[tuple[Judge, Int64]]:
        """The lines of each model that are to be judged; `service` is the index into `names` of each line."""
        is_judged = self.lives.is_judged(rows)
        judges = [self._judge_of[name] if judged else None for name, judged in zip(names, is_judged, strict=True)]
        for judge in {id(judge): judge for judge in judges if judge is not None}.values():
            uses = np.array([candidate is judge for candidate in judges])
            yield judge, np.flatnonzero(uses[service])

    def said_of(self, name: str) -> Said | None:
        """What is in force for a service; None if nobody spoke of it."""
        return self._said.get(name)

    def is_live(self, name: str) -> bool:
        """Whether anomalies of a service wake people now."""
        return name in self._row and self.lives.mode(self._row[name]) == "live"

    def threshold_of(self, name: str, judge: Judge) -> float:
        """The strength from which on incidents of a service are told."""
        said = self._said.get(name)
        if said is None or not (said.budget or said.shares):
            return judge.fusion.threshold
        return judge.fusion.threshold_at(self._budget(said))

    def _budget(self, said: Said | None) -> float:
        """False alerts a day of a service."""
        if said is not None and said.budget:
            return said.budget
        shares = said.shares if said is not None and said.shares else max(1, len(self._artefacts))
        return self._fusion.budget_per_day / shares

    # ---- commands

    def obey(self, command: Command, names: Iterable[str], known: Callable[[str], Known]) -> list[str]:
        """Let a command act.

        Args:
            command: any.
            names: the services with state.
            known: the templates of a service.

        Returns:
            The services that it concerned.
        """
        if command.service != EVERY:
            self._act(command.service, command, known(command.service))
            return [command.service]
        if isinstance(command, SetShares):  # only the newest counts, and it comes with every new model
            self._for_every = [one for one in self._for_every if not isinstance(one, SetShares)]
        self._for_every = [*self._for_every, command][-_FOR_EVERY:]
        self._spoken.add(EVERY)
        concerned = sorted({*names, *self._said, *self._judge_of})
        for name in concerned:
            self._act(name, command, known(name))
        return concerned

    def edits(self) -> dict[str, Edits]:
        """The changes of templates by hand, of the services that have some."""
        return {name: said.template_edits for name, said in self._said.items() if said.edits}

    def _act(self, name: str, command: Command, known: Known) -> None:
        if name not in self._judge_of:
            self._begin(name)
        said = self._said.setdefault(name, Said())
        row = int(self.lives.meet(_keys([name]), np.array([self._judge_of[name] is not None]))[0])
        self._row[name] = row
        answer = self._answer(name, row, said, command, known)
        if not (command.command_id in said.answers and not answer.is_obeyed):  # read twice
            said.answer(command.command_id, answer)
        self._spoken.add(name)
        self._news.add(name)

    def _answer(self, name: str, row: int, said: Said, command: Command, known: Known) -> Answer:
        if isinstance(command, Feedback):
            return said.take_feedback(command, known)
        if isinstance(command, Undo):
            return said.take_back(command)
        if isinstance(command, Release):
            return said.take_release(command)
        if isinstance(command, EditTemplate):
            return said.take_edit(command, known)
        if isinstance(command, SetModel):
            return self._take_model(name, row, said, command)
        if not said.is_newer(command.kind, command.version):
            return Answer(False, f"a newer command about the {command.kind} is in force")
        if isinstance(command, SetMode):
            said.mode_by = "" if command.mode == "auto" else command.by
            self.lives.set_mode(row, command.mode, has_model=self._judge_of[name] is not None)
            return Answer(True, f"it is {self.lives.mode(row)}")
        if isinstance(command, SetShares):
            said.shares = command.shares
            return Answer(True, f"{self._budget(said):g} false alerts a day")
        assert isinstance(command, SetBudget)
        said.budget = command.per_day
        return Answer(True, f"{self._budget(said):g} false alerts a day")

    def _take_model(self, name: str, row: int, said: Said, command: SetModel) -> Answer:
        if command.service == EVERY:
            return Answer(False, "a model is of one service; name it")
        if command.version <= said.versions.get(command.kind, -1):
            return Answer(False, "a newer command about the model is in force")
        try:
            judge = self._judge(self._load(name, command.model_version))
        except ArtefactError as error:
            return Answer(False, str(error))
        said.is_newer(command.kind, command.version)
        before = self._judge_of.get(name)
        said.model = command.model_version
        self._judge_of[name] = judge
        if before is not None and before is not judge:
            before.drop(service_key(name))
        self._forget_judges()
        self.lives.has_model(row)
        return Answer(True, f"it is judged by {command.model_version}")

    def _forget_judges(self) -> None:
        """Judges that no service has any more, and the job was not started with."""
        used = {judge.version for judge in self._judge_of.values() if judge is not None}
        used |= {artefact.version for artefact in self._artefacts.values()}
        used |= {said.model for said in self._said.values()}
        self._judges = {version: judge for version, judge in self._judges.items() if version in used}

    # ---- status

    @property
    def has_news(self) -> bool:
        """Whether a mode changed, or a command was answered, since the last status."""
        return bool(self._news or self.lives.moved)

    def statuses(
        self, names: Iterable[str] | None, templates: Callable[[str], int], at_ms: int
    ) -> list[tuple[str, bytes]]:
        """What is said of services, as (service, JSON): of these, or of those with news since the last call if None."""
        news = self._news | {name for name, row in self._row.items() if row in self.lives.moved}
        chosen = sorted(news if names is None else set(names) | news)
        self._news, self.lives.moved = set(), set()
        return [(name, self._status(name, templates(name), at_ms)) for name in chosen if name in self._row]

    def _status(self, name: str, templates: int, at_ms: int) -> bytes:
        said, judge = self._said.get(name) or Said(), self._judge_of.get(name)
        return orjson.dumps(
            {
                "service": name,
                **self.lives.figures(self._row[name]),
                "mode_by": said.mode_by or None,
                "model_version": None if judge is None else judge.version,
                "templates": templates,
                "muted": [
                    {
                        "pattern": pattern,
                        "level": one.level,
                        "until_ms": one.until_ms,
                        "command_id": one.command_id,
                        "by": one.by,
                        "label": "normal" if one.is_normal else "suppressed",
                    }
                    for pattern, one in said.muted.items()
                ],
                "wanted": [
                    {
                        "template_id": template_hex(one.template),
                        "after": None if one.before is None else template_hex(one.before),
                        "command_id": one.command_id,
                        "by": one.by,
                    }
                    for one in said.wanted
                ],
                "edits": [asdict(one) for one in said.edits],
                "releases": [
                    {"label": one.label, "from_ms": one.from_ms, "until_ms": one.until_ms} for one in said.deploys
                ],
                "budget_per_day": self._budget(said),
                "commands": {name: {"is_obeyed": one.is_obeyed, "why": one.why} for name, one in said.answers.items()},
                "at_ms": at_ms,
            }
        )

    # ---- state

    def drop(self, name: str) -> None:
        """Forget a service that is long silent; what people said of it stays."""
        judge, said = self._judge_of.pop(name, None), self._said.get(name)
        if judge is not None:
            judge.drop(service_key(name))
        if said is None or not said.mode_by:
            self.lives.drop(_keys([name]))
        self._row.pop(name, None)

    def sections(self, *, is_snapshot: bool) -> list[tuple[str, bytes]]:
        """The pieces of a journal entry: all, or what changed since the last call."""
        spoken = {*self._said, EVERY} if is_snapshot else self._spoken
        found = [
            ("lives", self.lives.to_bytes() if is_snapshot else self.lives.touched()),
            ("said", self._encode(sorted(spoken))),
        ]
        self._spoken = set()
        for version, judge in self._judges.items():
            state = judge.to_bytes() if is_snapshot else judge.touched()
            found += [(f"{name}@{version}", data) for name, data in state.items()]
        return found

    def _encode(self, names: Sequence[str]) -> bytes:
        """`u8 version ‖ JSON {service: what is said of it, "*": [commands for all]}`; empty for nobody."""
        if not names:
            return b""
        rows: dict[str, Any] = {name: self._said[name].to_row() for name in names if name != EVERY}
        if EVERY in names:
            rows[EVERY] = [command.model_dump(mode="json") for command in self._for_every]
        return bytes([_VERSION]) + orjson.dumps(rows)

    def restore(self, entries: Sequence[Sequence[tuple[str, bytes]]]) -> None:
        """Put in the sections of journal entries, oldest first; a detector's of a model that is gone mean nothing to another one.

        Raises: ValueError for bytes of another version; ArtefactError if a model in force is not in the store.
        """
        for sections in entries:
            for name, data in sections:
                if name == "lives":
                    self.lives.apply(data)
                elif name == "said":
                    self._apply_said(data)
        artefacts = {artefact.version: artefact for artefact in self._artefacts.values()}
        for service, said in self._said.items():
            if said.model and said.model not in artefacts:
                artefacts[said.model] = self._load(service, said.model)
        for sections in entries:
            for name, data in sections:
                detector, mark, version = name.partition("@")
                if mark and version in artefacts:
                    self._judge(artefacts[version]).apply({detector: data})

    def _apply_said(self, data: bytes) -> None:
        if data[0] != _VERSION:
            raise ValueError(f"what was said has version {data[0]}, this release reads {_VERSION}: see CHANGELOG.md")
        for name, row in orjson.loads(data[1:]).items():
            if name == EVERY:
                self._for_every = [read_command(orjson.dumps(command)) for command in row]
            else:
                self._said[name] = Said.from_row(row)

    def check(self) -> None:
        """Raise AssertionError unless the bounds hold."""
        self.lives.check()
        assert len(self._for_every) <= _FOR_EVERY
        for said in self._said.values():
            said.check()


def _keys(names: Sequence[str]) -> UInt64:
    return np.array([service_key(name) for name in names], np.uint64)
