"""Which model judges a service, and scoring with it. The models' libraries take seconds to load, so nothing of them is imported before it is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from console.board import Board
from models.errors import ArtefactError

if TYPE_CHECKING:
    from console.store import Store
    from models.artefact import Artefact


class Scorer:
    """Finds the model of a service and scores with it. Blocking: call it in a thread.

    Args:
        board: knows which version a service is judged by.
        store: the trainer's models, or None.
        model: a folder of models for what the store has not, or None.
    """

    def __init__(self, board: Board, store: Store | None, model: Path | None) -> None:
        self._board = board
        self._store = store
        self._models: Mapping[str, Artefact] = {}
        if model is not None:
            from models.artefact import load_all

            self._models = load_all(model)

    def artefact(self, service: str) -> Artefact:
        """The model that judges a service.

        Raises:
            ArtefactError: there is none; with how to get one.
        """
        version = str(self._board.statuses.get(service, {}).get("model_version") or "")
        if self._store is not None:
            if not version:
                version = next((found.version for found in self._store.versions(service)), "")
            if version:
                return self._store.model(service, version)
        found = self._models.get(service) or self._models.get("default")
        if found is None:
            known = ", ".join(sorted(self._models)) or "none"
            raise ArtefactError(
                f"There is no model of {service!r} here (the folder of `model` has: {known}; the store is "
                f"{self._store.url if self._store else 'not set'}). Set store or model to where the job's models are."
            )
        return found

    def score(self, service: str, lines: Sequence[bytes]) -> tuple[str, list[dict[str, Any]]]:
        """The version that judged, and an answer for each line."""
        artefact = self.artefact(service)
        from console.scoring import score

        budget = self._board.statuses.get(service, {}).get("budget_per_day")
        return artefact.version, score(
            artefact, service, lines, budget if isinstance(budget, int | float) and budget > 0 else None
        )
