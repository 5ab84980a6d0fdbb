r"""Log text for people: what a terminal, a browser or a reader's eye could obey is written out.

Whoever can make a service log something can write to a terminal or a page. Control characters, escape sequences and characters that turn the
direction of text are shown as escapes (`\x1b`).
"""

from __future__ import annotations

import unicodedata


def visible(text: object, *, keep_newlines: bool = False) -> str:
    r"""The text with control, format (direction marks, zero-width), surrogate, private and line-separating characters as escapes; a tab is a space.

    >>> visible("red \x1b[31m alert\tnow\u202e")
    'red \\x1b[31m alert now\\u202e'
    """
    whole = str(text)
    if whole.isprintable():
        return whole
    return "".join(
        char if char.isprintable() or (keep_newlines and char == "\n") else _written_out(char) for char in whole
    )


def _written_out(char: str) -> str:
    return " " if char == "\t" or unicodedata.category(char) == "Zs" else escaped(char)


def escaped(char: str) -> str:
    r"""One character as an escape.

    >>> escaped("\x1b"), escaped("\u202e")
    ('\\x1b', '\\u202e')
    """
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
