"""Small pieces of pages. All text goes through `words`, which writes it as text and never as markup."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from nicegui import ui
from nicegui.elements.mixins.text_element import TextElement

from models.visible import visible

#: Colours of labels, by what they say.
TONES: Final = {"normal": "ok", "anomalous": "bad", "suppressed": "quiet", "muted": "quiet", "missed": "bad"}


def box(classes: str = "", tag: str = "div") -> ui.element:
    """An element that holds others."""
    return ui.element(tag).classes(classes)


def words(text: object, classes: str = "", tag: str = "span", *, keep_newlines: bool = False) -> TextElement:
    """Text, with all that a browser could be tricked by written out."""
    return TextElement(tag=tag, text=visible(text, keep_newlines=keep_newlines)).classes(classes)


def button(text: str, do: Callable[[], Any], classes: str = "btn", title: str = "") -> TextElement:
    """A button; `title` says more."""
    found = TextElement(tag="button", text=text).classes(classes)
    found.props["type"] = "button"
    if title:
        found.props["title"] = title
    found.on("click", do)
    return found


def link(text: str, href: str, classes: str = "", *, is_outside: bool = False) -> TextElement:
    """A link; one to the outside opens a tab of its own that knows nothing of this one."""
    found = TextElement(tag="a", text=visible(text)).classes(classes)
    found.props["href"] = href
    if is_outside:
        found.props["target"] = "_blank"
        found.props["rel"] = "noopener noreferrer"
    return found


def chip(text: str, tone: str = "") -> TextElement:
    """A small label."""
    return words(text, f"chip {tone}")


def fact(name: str, value: object, classes: str = "") -> None:
    """A name and its value, inside a `dl`."""
    words(name, tag="dt")
    words(value, classes, tag="dd")


def bar(ratio: float, classes: str = "") -> None:
    """A bar of a length from 0 to 1."""
    with box(f"meter {classes}"):
        box(tag="i").style(f"width:{100 * min(1.0, max(0.0, ratio)):.1f}%")


def empty(title: str, said: str) -> None:
    """What stands where there is nothing to show: why, and what to do."""
    with box("empty"):
        words(title, tag="h2")
        words(said, "dim", tag="p")


def curve(values: list[float], width: int = 320, height: int = 90, bound: float | None = None) -> None:
    """A line through some numbers, with its first, least and last value; `bound` is drawn across."""
    low, high = min(values), max(values)
    if bound is not None:
        low, high = min(low, bound), max(high, bound)
    size = (high - low) or 1.0

    def y(value: float) -> float:
        return 4 + (height - 8) * (1 - (value - low) / size)

    step = width / max(1, len(values) - 1)
    points = " ".join(f"{at * step:.1f},{y(value):.1f}" for at, value in enumerate(values))
    with ui.element("svg").classes("curve") as svg:
        svg.props["viewBox"] = f"0 0 {width} {height}"
        svg.props["preserveAspectRatio"] = "none"
        svg.props["role"] = "img"
        if bound is not None:
            across = ui.element("line").classes("bound")
            across.props.update({"x1": 0, "x2": width, "y1": f"{y(bound):.1f}", "y2": f"{y(bound):.1f}"})
        ui.element("polyline").props["points"] = points
    words(f"{values[0]:.3g} → {values[-1]:.3g}, least {min(values):.3g}", "dim small")


def field(placeholder: str, classes: str = "", value: str = "", most: int = 1_000) -> ui.input:
    """A line to write in; its placeholder is its name."""
    found = ui.input(placeholder=placeholder, value=value).props("dense borderless").classes(f"reason {classes}")
    found.props["maxlength"] = most
    found.props["aria-label"] = placeholder
    return found
