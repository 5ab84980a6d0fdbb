"""The templates of one service: what there are, what was changed by hand, and changing them after a look at what it would do."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Final

from nicegui import ui

from console.access import Role
from console.fields import mappings
from console.pages.elements import box, button, chip, field, words
from console.pages.layout import Visitor, attempt
from console.parts import Console
from console.safe_text import shortened
from console.template_preview import Placed, Preview
from models.visible import visible

_SHOWN: Final = 100
_MOVES: Final = 20
_SENT: Final = 5
#: What can be done, and what each needs: (field of the command, what to write there, most characters).
_ACTIONS: Final[Mapping[str, tuple[tuple[str, str, int], ...]]] = {
    "join": (("template_id", "template id", 8), ("into", "counts as this id", 8)),
    "pin": (("template_id", "template id", 8),),
    "keep": (("word", "word", 100),),
    "mask": (("name", "name, such as flag", 20), ("pattern", "regular expression", 300)),
}
_SAID: Final = {
    "join": ("Join", "Lines of one template count as another's from now on; its id stays"),
    "pin": ("Pin", "Its text stays as it is, whatever lines join it"),
    "keep": ("Keep a word", "Texts that differ in this word never share a template"),
    "mask": ("Add a mask", "What matches becomes one token, <name>, before lines are placed"),
}


class TemplatesView:
    """The card on a service's page."""

    def __init__(self, console: Console, visitor: Visitor, service: str) -> None:
        self._console, self._visitor, self._service = console, visitor, service
        self._search = ""
        self._action = "join"
        self._fields: dict[str, ui.input] = {}
        self._sent: dict[str, str] = {}
        self._drawn: dict[str, object] = {}  # what each part shows: it is drawn anew only for something else
        words("Templates", tag="h2")
        if visitor.may(Role.ADMIN):
            with box("actions"), box("seg"):
                self._buttons = {
                    action: button(text, partial(self._choose, action), "", title)
                    for action, (text, title) in _SAID.items()
                }
            self._form = box("actions edit")
            self._preview = box("preview")
            self._choose("join")
        self._answers = box()
        self._edits = box()
        field("search the templates", most=500).on_value_change(self._searched)
        self._list = box()

    # ---- what is shown

    def fill(self) -> None:
        """Show what the board knows now."""
        answers = [(text, self._console.desk.answer(command_id)) for command_id, text in self._sent.items()]
        if self._is_new("answers", answers):
            self._answers.clear()
            with self._answers:
                for text, answer in answers:
                    with box("said"):
                        words(text)
                        words(answer.said, f"ack st-{answer.state}")
        self._fill_edits()
        self._fill_list()

    def _is_new(self, part: str, shown: object) -> bool:
        is_new = part not in self._drawn or self._drawn[part] != shown
        self._drawn[part] = shown
        return is_new

    @property
    def is_waiting(self) -> bool:
        """A change that was sent has no answer yet."""
        return any(self._console.desk.answer(command_id).state in ("sent", "waiting") for command_id in self._sent)

    @property
    def _known(self) -> Mapping[str, str]:
        return self._console.board.templates.get(self._service, {})

    def _fill_edits(self) -> None:
        edits = mappings(self._console.board.statuses.get(self._service, {}).get("edits"))
        shown = [(edit, self._described(edit)) for edit in edits]
        if not self._is_new("edits", shown):
            return
        self._edits.clear()
        with self._edits:
            if edits:
                words("Changed by hand", "label")
            for edit, described in shown:
                with box("item"):
                    chip(str(edit.get("action")))
                    with box("grow"):
                        words(described, "mono wrap")
                        words(f"by {edit.get('by')}", "dim small")
                    if self._visitor.may(Role.ADMIN):
                        button("Undo", self._take_back(str(edit.get("command_id") or "")), "btn small")

    def _described(self, edit: Mapping[str, Any]) -> str:
        def named(name: object) -> str:
            return f"{name} {shortened(self._known.get(str(name), ''), 200)}".strip()

        if edit.get("action") == "join":
            return f"{named(edit.get('template_id'))} → {named(edit.get('into'))}"
        if edit.get("action") == "mask":
            return f"{edit.get('pattern')} → <{edit.get('name')}>"
        return str(edit.get("word")) if edit.get("action") == "keep" else named(edit.get("template_id"))

    def _fill_list(self) -> None:
        known = self._known
        joined = self._console.board.counts_as.get(self._service, {})
        wanted = [
            (name, text)
            for name, text in known.items()
            if all(word in text.lower() or word in (name, joined.get(name)) for word in self._search.split())
        ]
        rows = [(name, text, joined.get(name, "")) for name, text in wanted[:_SHOWN]]
        if not self._is_new("list", (rows, len(wanted), len(known))):
            return
        self._list.clear()
        with self._list:
            words(f"{len(wanted):,} of {len(known):,}" if self._search else f"{len(known):,}", "dim small")
            for name, text, into in rows:
                with box("item"):
                    words(name, "mono dim small")
                    with box("grow"):
                        words(shortened(text, 500), "mono clip").props["title"] = visible(shortened(text, 500))
                        if into:
                            words(f"counts as {into} {shortened(known.get(into, ''), 200)}", "dim small wrap")
                    if self._visitor.may(Role.ADMIN):
                        button("use", partial(self._use, name), "btn small", "Put its id above")
            if len(wanted) > _SHOWN:
                words(f"and {len(wanted) - _SHOWN:,} more; search to see them", "dim small")

    def _searched(self, event: Any) -> None:
        self._search = str(event.value or "").lower()
        self._fill_list()

    # ---- what is done

    def _choose(self, action: str) -> None:
        kept = {name: str(one.value or "") for name, one in self._fields.items()}
        self._action = action
        for name, one in self._buttons.items():
            one.classes(replace="on" if name == action else "")
        self._preview.clear()
        self._form.clear()
        with self._form:
            words(_SAID[action][1], "dim small note")
            self._fields = {
                name: field(text, "short" if most < 30 else "", kept.get(name, ""), most)
                for name, text, most in _ACTIONS[action]
            }
            self._why = field("reason (optional)")
            for changed in self._fields.values():
                changed.on_value_change(self._preview.clear)  # what was looked at is not what would be sent any more
            button("Preview", self._look, "btn primary", "What it would do to recent lines; nothing is sent yet")

    def _use(self, name: str) -> None:
        """Put an id into the first field for ids that is empty, else into the last."""
        if self._action not in ("join", "pin"):
            self._choose("join")
        places = [self._fields[place] for place in ("template_id", "into") if place in self._fields]
        next((place for place in places if not place.value), places[-1]).value = name

    def _given(self) -> dict[str, str]:
        return {"action": self._action} | {name: str(one.value or "") for name, one in self._fields.items()}

    async def _look(self) -> None:
        given = self._given()
        self._preview.clear()
        with self._preview:
            words("Looking at recent lines …", "dim")
        desk, visitor = self._console.desk, self._visitor
        found = await attempt(lambda: self._console.preview(desk.draft_edit(visitor.user(), self._service, given)))
        if given != self._given():
            return
        self._preview.clear()
        if found is not None:
            with self._preview:
                self._show(found, given)

    def _show(self, found: Preview, given: Mapping[str, str]) -> None:
        if found.refusal:
            words(f"The job would refuse this: {found.refusal}.", "bad", tag="p")
            return
        if self._console.lines is None:
            words(
                "No recent lines can be shown: give the console a Loki (loki_url) or the topic of lines (logs).",
                "dim",
                tag="p",
            )
        elif not found.lines:
            words("There are no recent lines of this service to try it on.", "dim", tag="p")
        else:
            words(f"{found.moved:,} of {found.lines:,} recent lines would get another template.", tag="p")
        for move in found.moves[:_MOVES]:
            with box("move"):
                words(f"{move.count:,}×", "num")
                with box("grow"):
                    _template(move.before, "from")
                    _template(move.after, "to")
                    for line in move.examples:
                        words(shortened(line, 300), "mono dim small clip")
        if len(found.moves) > _MOVES:
            words(f"and {len(found.moves) - _MOVES:,} more kinds of line", "dim small", tag="p")
        for before, after in found.reworded[:_MOVES]:
            with box("move"):
                words("reads", "dim small")
                with box("grow"):
                    _template(before, "from")
                    _template(after, "to")
        button("Send", self._send(dict(given)), "btn primary", "The job places lines so from now on; it can be undone")

    def _send(self, given: Mapping[str, str]) -> Callable[[], Awaitable[None]]:
        async def send() -> None:
            desk, why = self._console.desk, str(self._why.value or "")
            command = await attempt(lambda: desk.edit_template(self._visitor.user(), self._service, given, why))
            if command is not None:
                self._note(command.command_id, _SAID[given["action"]][0])
                for one in self._fields.values():
                    one.value = ""
                self._why.value = ""
                self._preview.clear()

        return send

    def _take_back(self, command_id: str) -> Callable[[], Awaitable[None]]:
        async def take_back() -> None:
            desk = self._console.desk
            command = await attempt(lambda: desk.take_back(self._visitor.user(), self._service, command_id))
            if command is not None:
                self._note(command.command_id, "Taken back")

        return take_back

    def _note(self, command_id: str, text: str) -> None:
        self._sent = {**dict(list(self._sent.items())[1 - _SENT :]), command_id: text}
        self.fill()


def _template(placed: Placed, which: str) -> None:
    with box("flow tight"):
        words(which, "dim small")
        words(placed.template_id, "mono dim small")
        if placed.is_new:
            chip("new", "warn")
        words(shortened(placed.text, 300), "mono wrap")
