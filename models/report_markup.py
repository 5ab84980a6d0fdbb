r"""HTML and SVG as trees of elements, so that no text can become markup: the one way from a report to a page.

Log text is hostile. What is text stays text because the serializer escapes it; what no reader can see, or what turns
the direction of text, is written out (`\u202e`) in one pass over the finished tree; a foreign picture loses all that
is not a known part of a drawing.
"""

from __future__ import annotations

import re
from typing import Final
from xml.etree import ElementTree

from models.visible import escaped

Element = ElementTree.Element
Child = Element | str | None

# The parts of a picture that can neither run, load nor link. `use` is left out: nested, it grows without bound.
_PICTURE_TAG: Final = re.compile(
    "svg|g|defs|marker|clipPath|linearGradient|radialGradient|stop|style|title|desc|"
    "path|rect|circle|ellipse|line|polyline|polygon|text|tspan"
)
_PICTURE_ATTRIBUTE: Final = re.compile(r"(?!on|href$|src$)[a-zA-Z][a-zA-Z0-9-]*", re.IGNORECASE)
_LOADS: Final = re.compile(r"url\s*\(\s*(?!#)|expression|javascript:|@import|[\\<]", re.IGNORECASE)
_DECLARATION: Final = re.compile(r"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_CSS_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
_QUOTED_BRACE: Final = re.compile(r"""["'][^"'{}]*[{}]""")
_SVG: Final = "{http://www.w3.org/2000/svg}"


def element(tag: str, *children: Child, **attributes: str | float | None) -> Element:
    """An element with its children; None is left out. `class_` gives `class`, other underscores become hyphens.

    >>> to_html(element("p", "a < b", element("b", "c"), class_="note"))
    '<p class="note">a &lt; b<b>c</b></p>'
    """
    made = Element(
        tag,
        {
            name.rstrip("_").replace("_", "-"): _attribute(value)
            for name, value in attributes.items()
            if value is not None
        },
    )
    last: Element | None = None
    for child in children:
        if isinstance(child, str):
            if last is None:
                made.text = (made.text or "") + child
            else:
                last.tail = (last.tail or "") + child
        elif child is not None:
            made.append(child)
            last = child
    return made


def _attribute(value: str | float) -> str:
    return value if isinstance(value, str) else f"{round(value, 1):g}"


def shown(text: str) -> str:
    r"""The text on one line, with everything written out that has no shape of its own or turns the direction of text.

    >>> shown("red\x1b[31m\talert\u202e\n")
    'red\\x1b[31m alert\\u202e '
    """
    return text if text.isprintable() else "".join(map(_shown, text))


def _shown(char: str) -> str:
    if char.isprintable():
        return char
    if char.isspace() and char not in "\x1c\x1d\x1e\x1f\x85\u2028\u2029":
        return " "
    return escaped(char)


def to_html(root: Element) -> str:
    """The tree as HTML. All texts and attributes go through `shown`; a style sheet must be the page's or `adopted`."""
    for part in root.iter():
        if part.tag != "style":
            part.text = None if part.text is None else shown(part.text)
        part.tail = None if part.tail is None else shown(part.tail)
        for name, value in part.attrib.items():
            part.set(name, shown(value))
    return ElementTree.tostring(root, encoding="unicode", method="html")


def adopted(svg: str, scope: str) -> Element:
    """A foreign picture as an element, with only what draws: no script, link, image or animation; nothing is loaded.

    Its style sheets, if they load nothing, hold within elements of class `scope` only.

    Raises: ValueError if it is no well-formed SVG, or declares a document type or entities.
    """
    if _DECLARATION.search(svg):
        raise ValueError("the picture declares a document type or entities")
    visible = "".join(char if char in "\n\t" else _shown(char) for char in svg)
    try:
        root = ElementTree.fromstring(visible)
    except ElementTree.ParseError as error:
        raise ValueError(f"the picture is no well-formed SVG: {error}") from error
    kept = _kept(root, scope)
    if kept is None or kept.tag != "svg":
        raise ValueError("the picture is no SVG")
    return kept


def _kept(part: Element, scope: str) -> Element | None:
    tag = part.tag.removeprefix(_SVG) if isinstance(part.tag, str) else ""
    if not _PICTURE_TAG.fullmatch(tag):
        return None
    if tag == "style":
        style = _scoped(part.text or "", scope)
        return None if style is None else element("style", style)
    kept = Element(
        tag,
        {
            name: value
            for name, value in part.attrib.items()
            if _PICTURE_ATTRIBUTE.fullmatch(name) and not _LOADS.search(value)
        },
    )
    kept.text = part.text
    for child in part:
        made = _kept(child, scope)
        if made is not None:
            made.tail = child.tail
            kept.append(made)
    return kept


def _scoped(style: str, scope: str) -> str | None:
    """The style sheet within a class; None if it loads something or its braces do not match."""
    plain = _CSS_COMMENT.sub("", style)
    if _LOADS.search(plain) or _QUOTED_BRACE.search(plain):
        return None
    depth = 0
    for char in plain:
        depth += (char == "{") - (char == "}")
        if depth < 0:
            return None
    return f".{scope} {{{plain}}}" if depth == 0 else None
