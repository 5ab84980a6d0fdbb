"""Named pieces of bytes in one, as a journal entry holds them."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final

VERSION: Final = 2
_HEAD: Final = struct.Struct("<BH")  # version, sections
_SECTION: Final = struct.Struct("<HI")  # length of the name, of the data


def join(sections: Iterable[tuple[str, bytes]]) -> bytes:
    """`u8 version · u16 sections · (u16 name length · u32 data length · name · data)…`, little endian; empty pieces are left out.

    >>> split(join([("windows", b"12"), ("none", b""), ("count@a1", b"3")]))
    [('windows', b'12'), ('count@a1', b'3')]
    """
    parts = [b""]
    for name, data in sections:
        if data:
            encoded = name.encode()
            parts += [_SECTION.pack(len(encoded), len(data)), encoded, data]
    parts[0] = _HEAD.pack(VERSION, len(parts) // 3)
    return b"".join(parts)


def split(data: bytes) -> list[tuple[str, bytes]]:
    """The inverse of `join`.

    Raises: ValueError for bytes of another version.
    """
    version, count = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ValueError(
            f"state of version {version}, this program reads {VERSION}: see CHANGELOG.md for the migration"
        )
    at = _HEAD.size
    found = []
    for _ in range(count):
        name_size, size = _SECTION.unpack_from(data, at)
        at += _SECTION.size
        name = data[at : at + name_size].decode()
        found.append((name, data[at + name_size : at + name_size + size]))
        at += name_size + size
    return found
