"""The learning page: how each service's model came to be, how good it is in life, and what it has learned."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from nicegui import ui

from console.pages.elements import bar, box, chip, curve, empty, fact, words
from console.pages.layout import page, shown_or, soon
from console.parts import Console, now_ms
from console.safe_text import shortened, span
from console.training import Gate, Training

_STATES: Final = {"published": "ok", "failed": "bad", "refused": "bad", "training": "warn"}
_DRIFT: Final = 0.05  # share of unknown templates from which on a model should be renewed


def register(console: Console) -> None:
    """Put the page at /learning."""

    @ui.page("/learning")
    def _(service: str = "") -> None:
        with page(console, "/learning", "wide"):
            words("Learning", tag="h1")
            names = console.board.services()
            if not names:
                empty("No service is known yet", "When the job tells of one, its trainings appear here.")
                return
            chosen = service if service in names else names[0]
            with box("bar"):
                ui.select({name: shortened(name, 60) for name in names}, value=chosen, on_change=_go).props(
                    "dense borderless options-dense aria-label=Service"
                ).classes("reason")
            LearningView(console, chosen)


def _go(event: object) -> None:
    ui.navigate.to(f"/learning?service={quote(str(getattr(event, 'value', '')), safe='')}")


class LearningView:
    """One service."""

    def __init__(self, console: Console, service: str) -> None:
        self._console, self._service = console, service
        with box("cols"):
            with box("stack"):
                with box("card"):
                    self._life()
                with box("card"):
                    self._precision()
            with box("stack"):
                self._trainer = box("card")
                self._picture = box("card")
        with self._trainer:
            words("Trainings", tag="h2")
            words("Loading …", "dim")
        with self._picture:
            words("Workflow", tag="h2")
            words("Loading …", "dim")
        soon(self._load_trainings)
        soon(self._load_picture)

    def _life(self) -> None:
        board = self._console.board
        status = board.statuses.get(self._service, {})
        words("In life", tag="h2")
        unknown = status.get("unknown_ratio")
        budget, told = status.get("budget_per_day"), board.told_a_day(self._service)
        with box("facts", "dl"):
            fact("Model", status.get("model_version") or "none yet", "mono")
            self._age = box("", "dl")
            if isinstance(unknown, int | float):
                advice = "; above 5 % the model should be renewed" if unknown > _DRIFT else ""
                fact(
                    "Drift",
                    f"{100 * unknown:.1f} % of the newest lines are of templates it does not know{advice}",
                    "warn" if unknown > _DRIFT else "",
                )
            fact(
                "Told",
                f"{told:,} in the last day{f'; the budget for false ones is {budget:g} a day' if isinstance(budget, int | float) else ''}",
            )

    def _precision(self) -> None:
        board = self._console.board
        words("Precision, from feedback", tag="h2")
        days, found = board.precision_by_day(self._service), board.precision(self._service)
        if not found:
            words(
                "Nobody has marked an anomaly of it normal or anomalous yet; with each mark this says more.",
                "dim",
                tag="p",
            )
            return
        with box("days"):
            for day, precision in days[-14:]:
                with box("day") as column:
                    column.props["title"] = f"{precision.right} right, {precision.wrong} wrong"
                    box("right").style(f"flex-grow:{precision.right}")
                    box("wrong").style(f"flex-grow:{precision.wrong}")
                    words(f"{datetime.fromtimestamp(day / 1000, UTC):%d.%m.}", "dim small")
        with box("grid3"):
            for name, precision in sorted(found.items(), key=lambda pair: (pair[0] != "all", pair[0])):
                words(f"{100 * (precision.ratio or 0):.0f} %", "num")
                bar(precision.ratio or 0, "green")
                words(
                    f"{name}: {precision.right} of {precision.right + precision.wrong} rightly told",
                    "" if name == "all" else "dim",
                )

    async def _load_trainings(self) -> None:
        trainings = self._console.trainings
        found = (
            await shown_or(trainings.of, self._service)
            if trainings.is_there
            else "No Redis is set (setting `redis`), so what the trainer says cannot be read."
        )
        self._trainer.clear()
        with self._trainer:
            words("Trainings", tag="h2")
            if isinstance(found, str):
                words(found, "dim", tag="p")
                return
            now, runs = found
            if now is not None:
                self._now(now)
            if not runs:
                words("None yet: the first one starts when the buffer is full.", "dim", tag="p")
            for number, run in enumerate(runs):
                self._run(run, is_newest=number == 0)

    def _now(self, now: Training) -> None:
        """Where the present or next training stands."""
        with box("flow"):
            chip(now.state, _STATES.get(now.state, "quiet"))
            words(f"{_when(now.at)}{f', {now.lines:,} lines in the buffer' if now.lines else ''}", "dim")
        if now.state == "training" and now.done is not None:
            words(now.step, "small")
            bar(now.done, "green")
        if now.state == "failed" and now.why:
            words(now.why, tag="p")
        for gate in now.due if now.state == "waiting" else ():
            _gate(gate)

    def _run(self, run: Training, *, is_newest: bool) -> None:
        with box("training"):
            with box("flow"):
                chip(run.state, _STATES.get(run.state, "quiet"))
                words(_when(run.at), "dim")
                words(f"{run.lines:,} lines" if run.lines else "", "dim")
                words(run.version, "mono")
            if run.why:
                words(run.why, "small", tag="p")
            if is_newest and len(run.loss) > 1:
                words("Loss", "label")
                curve(list(run.loss))
            for gate in run.gates:
                _gate(gate)
            for note in run.notes:
                words(note, "dim small", tag="p")

    async def _load_picture(self) -> None:
        found = await shown_or(self._console.scorer.artefact, self._service)
        self._picture.clear()
        with self._picture:
            words("Workflow", tag="h2")
            if isinstance(found, str):
                words(found, "dim", tag="p")
            elif "workflow" not in found.learned:
                words("The model has learned none: its lines had too few sessions.", "dim", tag="p")
            else:
                # As an image: what it holds of log text can be nothing but drawn.
                with box("picture"):
                    image = ui.element("img")
                    image.props["src"] = f"/api/workflow/{quote(self._service, safe='')}.svg"
                    image.props["alt"] = "Which template follows which, as learned"
            if not isinstance(found, str):
                made = _moment(found.created)
                with self._age:
                    fact(
                        "Trained",
                        f"{span(now_ms() - made)} ago, on {found.training.get('lines', 0):,} lines" if made else "?",
                    )


def _gate(gate: Gate) -> None:
    with box("gate"):
        words("✓" if gate.is_passed else "✗", "ok" if gate.is_passed else "bad")
        words(gate.words or gate.criterion, "grow").props["title"] = gate.criterion
        words("–" if gate.figure is None else f"{gate.figure:,.6g}", "num")
        words("" if gate.bound is None else f"bound {gate.bound:,.6g}", "num dim")


def _moment(text: str) -> int:
    """A time in ms, from ISO 8601 or ms; 0 where it is neither."""
    if text.isascii() and text.isdigit():
        return int(text)
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        return 0
    return int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp() * 1000)


def _when(text: str) -> str:
    made = _moment(text)
    return f"{datetime.fromtimestamp(made / 1000, UTC):%Y-%m-%d %H:%M}" if made else text
