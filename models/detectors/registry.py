"""All detectors, in the order in which they are named to people. Adding one is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from models.detectors.contract import Params
from models.detectors.novelty import NoveltyParams

REGISTRY: Final[Mapping[str, type[Params]]] = {kind.name: kind for kind in (NoveltyParams,)}
