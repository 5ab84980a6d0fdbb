"""The templates a model was trained on, to be asked and not changed: which of them is this text?

A job mines its own templates, so that they are the same with any model or none. Most get the id that training gave them, because an id is a
hash of the text that made the template. Where training had seen another text of the kind first, this look-up finds the kin.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from models.drain import Tree
from models.masking import signature
from models.templates import TemplateParams


class TemplateReference:
    """Frozen templates of an artefact.

    Args:
        entries: as `ShardTemplates.export` gave them.
        params: how they were mined.

    >>> entries = [{"id": 7, "created": "sent <num> bytes to <ip>", "tokens": "sent <num> bytes to <ip>"}]
    >>> TemplateReference(entries, TemplateParams()).match(("sent", "<num>", "bytes", "to", "<ip>"))
    7
    """

    def __init__(self, entries: Iterable[Mapping[str, Any]], params: TemplateParams) -> None:
        self._params = params
        self._trees: dict[object, tuple[Tree, list[int]]] = {}
        for entry in entries:
            created = tuple(str(entry["created"]).split())
            tree, ids = self._trees.setdefault(signature(created, params.masking), (self._tree(), []))
            tree.insert(created, str(entry["tokens"]).split())
            ids.append(int(entry["id"]))

    def _tree(self) -> Tree:
        params = self._params
        return Tree(
            params.depth,
            params.sim_th,
            params.max_children,
            parametrize_numeric_tokens=params.parametrize_numeric_tokens,
        )

    def match(self, tokens: Sequence[str]) -> int | None:
        """The id of the template that these tokens would join; None if there is none."""
        found = self._trees.get(signature(tokens, self._params.masking))
        if found is None:
            return None
        tree, ids = found
        cluster = tree.match(tokens)
        return None if cluster is None else ids[cluster]
