"""Text made safe to keep, show and compare: no control characters, no escape sequences, nothing without end.

Most lines need nothing. One pass over the bytes of the whole column finds those that do.
"""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

CUT_MARK: Final = "…<cut at {} of {} bytes>"
# A text longer than the limit is first cut with this much to spare, redacted, and then cut at the limit: so a secret
# that lies across the limit is still seen whole.
SPARE: Final = 8_192

# ECMA-48: CSI with parameters and final byte, OSC up to BEL or ST, and the escapes of two and three characters.
_ANSI: Final = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]{0,64}[ -/]{0,8}[@-~]?|\x1b\][^\x07\x1b]{0,1024}(?:\x07|\x1b\\)?|\x1b[ -/]{1,3}[0-~]|\x1b[@-_a-z]?"
)
# C0 and C1 but tab and newline; DEL; the byte order mark; halves of surrogate pairs.
_CONTROL: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufeff]")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
# Characters that turn the direction of what follows (CVE-2021-42574): shown as an escape, never obeyed.
_BIDI: Final = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SPACES: Final = re.compile(r"\s+")


def clean(text: str) -> str:
    r"""Gives a text without escape sequences and control characters; bidirectional controls become `\u202e`.

    Tabs and newlines stay; blanks and newlines at the end go.

    >>> clean("\x1b[31mdisk\x00 full\x1b[0m\r\n")
    'disk full'
    """
    text = text.replace("\r\n", "\n")
    if "\x1b" in text or "\x9b" in text:
        text = _ANSI.sub("", text)
    if "\r" in text:  # a progress bar: each state is a line of its own
        text = text.rstrip("\r").replace("\r", "\n")
    text = _SURROGATE.sub("\ufffd", _CONTROL.sub("", text))
    text = _BIDI.sub(lambda m: f"\\u{ord(m[0]):04x}", text)
    return text.rstrip()


def clean_name(text: str, limit: int) -> str:
    r"""Gives a service, host or session as one short line.

    >>> clean_name(" api\x00\n v2 ", 128)
    'api v2'
    """
    text = _SPACES.sub(" ", clean(text[: limit * 4])).strip()
    return text if len(text) <= limit else text[: limit - 1] + "…"


def cut(text: str, limit: int, length: int = 0) -> str:
    """Gives at most `limit` bytes of a text before a visible mark that says where and of how much it was cut.

    Args:
        text: the text.
        limit: bytes in UTF-8; a character that lies across the limit goes too.
        length: the text's length before anything was taken from it, where that is known.

    >>> cut("abcdef", 4), cut("abcdef", 6)
    ('abcd…<cut at 4 of 6 bytes>', 'abcdef')
    """
    data = text.encode("utf-8", "replace")
    if len(data) <= limit and not length:
        return text
    kept = data[:limit].decode("utf-8", "ignore")
    return kept + CUT_MARK.format(len(kept.encode()), max(length, len(data)))


def dirty_rows(texts: list[str]) -> tuple[list[int], list[int], npt.NDArray[np.int64]]:
    r"""Gives the rows whose text needs `clean`, those that need only `rstrip`, and every text's length in bytes.

    Shapes: lengths int64[N].

    >>> dirty_rows(["fine", "tail\n", "a\x00b"])[:2]
    ([2], [1])
    """
    joined = "\n".join(texts)
    try:
        data = joined.encode()
    except UnicodeEncodeError:  # half a surrogate pair: cannot be encoded, so row by row
        rows = [row for row, text in enumerate(texts) if clean(text) != text]
        return rows, [], np.fromiter((len(text.encode("utf-8", "replace")) for text in texts), np.int64, len(texts))
    if joined.isascii():
        lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    else:
        lengths = np.fromiter((len(text.encode()) for text in texts), np.int64, len(texts))
    buffer = np.frombuffer(data, np.uint8)
    ends = np.cumsum(lengths + 1) - 1  # the position of the separator (or the end) behind each text
    bad = (buffer < 32) | (buffer == 127)
    bad &= (buffer != 9) & (buffer != 10)
    if not joined.isascii():
        bad |= _bad_multibyte(buffer)
    places = np.flatnonzero(bad)
    # Texts that end in a blank or a newline.
    filled = np.flatnonzero(lengths > 0)
    last = buffer[ends[filled] - 1]
    trailing = filled[(last == 32) | (last == 10) | (last == 9)]
    dirty = np.unique(np.searchsorted(ends, places))
    return dirty.tolist(), np.setdiff1d(trailing, dirty, assume_unique=True).tolist(), lengths


def _bad_multibyte(buffer: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """Marks the first byte of each C1 control, bidirectional control, byte order mark and blank in UTF-8.

    ```
    C2 80…9F, C2 A0       C1, no-break space
    D8 9C                 Arabic letter mark
    E2 80 80…8F, A8…AF    blanks, LRM, RLM, line separators, embeddings and overrides
    E2 81 9F, A6…A9       blank, isolates
    E3 80 80              blank
    EF BB BF              byte order mark
    ```
    """
    second = np.append(buffer[1:], np.uint8(0))
    lead: npt.NDArray[np.bool_] = (buffer == 0xC2) & (second >= 0x80) & (second <= 0xA0)
    lead |= (buffer == 0xD8) & (second == 0x9C)
    three = (buffer == 0xE2) & ((second == 0x80) | (second == 0x81))
    if three.any():
        third = np.append(buffer[2:], np.zeros(2, np.uint8))
        lead |= three & ((third <= 0x8F) | (third == 0x9F) | ((third >= 0xA6) & (third <= 0xAF)))
    lead |= (buffer == 0xE3) & (second == 0x80)
    lead |= (buffer == 0xEF) & (second == 0xBB)
    return lead
