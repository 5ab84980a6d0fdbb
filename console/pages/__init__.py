"""The pages, one file each; `register` puts them at their addresses."""

from __future__ import annotations

from console.pages import learning, lines, live, services
from console.parts import Console


def register(console: Console) -> None:
    """Put every page at its address."""
    for room in (live, services, lines, learning):
        room.register(console)
