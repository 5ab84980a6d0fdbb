"""Drain3 behind one narrow door: place the tokens of one text in a prefix tree and say what changed.

This is the only module that touches drain3. Everything is passed explicitly: no drain3.ini, no TemplateMiner,
no clock, no persistence, and no LRU cache of clusters (the caller caps their number).
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq
from typing import Any, Final, NamedTuple

from drain3.drain import Drain, LogCluster, Node

PARAMETER: Final = "<*>"


class Placement(NamedTuple):
    """Where one text landed.

    Attributes:
        cluster: number of the cluster in its tree, from 0 in order of creation; None when a new one was refused.
        leaf: the leaf that a search for this text reaches; None where there is none yet.
        is_new: the text created the cluster.
        is_changed: the text turned tokens of the cluster into parameters.
        disturbed: leaves whose earlier answers may no longer hold.
    """

    cluster: int | None
    leaf: object | None
    is_new: bool
    is_changed: bool
    disturbed: tuple[object, ...]


class Tree:
    """One Drain prefix tree, whose answers are exactly those of `drain3.drain.Drain` fed line by line.

    A text that was placed once is placed the same way again, without any change, until its leaf is disturbed: that
    is what makes a memo of texts exact. It needs tokens that never equal `<*>`; `models.masking` sees to that.

    Args:
        depth: Drain's depth: length, then depth - 3 leading tokens, then the leaf.
        sim_th: the least share of equal tokens for a match.
        max_children: children of one inner node before the rest share `<*>`.
        parametrize_numeric_tokens: leading tokens with a digit share `<*>`.
    """

    def __init__(self, depth: int, sim_th: float, max_children: int, *, parametrize_numeric_tokens: bool) -> None:
        self._drain: Any = _FastDrain(
            depth=depth,
            sim_th=sim_th,
            max_children=max_children,
            max_clusters=None,
            extra_delimiters=(),
            param_str=PARAMETER,
            parametrize_numeric_tokens=parametrize_numeric_tokens,
        )

    def __len__(self) -> int:
        return int(self._drain.clusters_counter)

    def tokens(self, cluster: int) -> tuple[str, ...]:
        """The present tokens of a cluster."""
        found: tuple[str, ...] = self._drain.id_to_cluster[cluster + 1].log_template_tokens
        return found

    def match(self, tokens: Sequence[str]) -> int | None:
        """The cluster that a text would join, by number; changes nothing."""
        found = self._drain.tree_search(self._drain.root_node, tokens, self._drain.sim_th, False)
        return None if found is None else int(found.cluster_id) - 1

    def place(self, tokens: Sequence[str], *, may_grow: bool) -> Placement:
        """Match one text, or make a cluster of it where nothing matches and `may_grow`."""
        drain = self._drain
        found = drain.tree_search(drain.root_node, tokens, drain.sim_th, False)
        if found is None:
            return self.insert(tokens) if may_grow else Placement(None, None, False, False, ())
        leaf = self._leaf(tokens)
        merged = tuple(drain.create_template(tokens, found.log_template_tokens))
        is_changed = merged != found.log_template_tokens
        if is_changed:
            found.log_template_tokens = merged
        return Placement(found.cluster_id - 1, leaf, False, is_changed, (leaf,) if is_changed else ())

    def insert(self, created: Sequence[str], tokens: Sequence[str] | None = None) -> Placement:
        """Make a cluster: its place in the tree follows the tokens it was created with, its answers the present ones."""
        drain = self._drain
        shadows = self._shadows(created)
        drain.clusters_counter += 1
        cluster = LogCluster(created, drain.clusters_counter)
        drain.id_to_cluster[cluster.cluster_id] = cluster
        drain.add_seq_to_prefix_tree(drain.root_node, cluster)
        if tokens is not None:
            cluster.log_template_tokens = tuple(tokens)
        leaf = self._leaf(created)
        disturbed = [leaf]
        for children, token in shadows:
            if token in children:  # texts that fell to <*> here now have a node of their own
                disturbed += _leaves(children[PARAMETER])
        return Placement(cluster.cluster_id - 1, leaf, True, False, tuple(disturbed))

    def _steps(self, tokens: Sequence[str]) -> Sequence[str]:
        """The leading tokens that choose the path."""
        return tokens[: max(0, min(self._drain.max_node_depth, len(tokens)) - 1)]

    def _leaf(self, tokens: Sequence[str]) -> Any:
        node = self._drain.root_node.key_to_child_node[str(len(tokens))]
        for token in self._steps(tokens):
            children = node.key_to_child_node
            node = children[token] if token in children else children[PARAMETER]
        return node

    def _shadows(self, tokens: Sequence[str]) -> list[tuple[Any, str]]:
        """The nodes' children among which these tokens have no child of their own but fall to `<*>`."""
        node = self._drain.root_node.key_to_child_node.get(str(len(tokens)))
        found = []
        for token in self._steps(tokens):
            if node is None:
                break
            children = node.key_to_child_node
            if token in children:
                node = children[token]
            else:
                if PARAMETER in children:
                    found.append((children, token))
                node = children.get(PARAMETER)
        return found


class _FastDrain(Drain):  # type: ignore[misc]
    """Drain with the same answers and a quicker comparison."""

    def fast_match(self, cluster_ids: Sequence[int], tokens: Sequence[str], sim_th: float, include_params: bool) -> Any:
        """The most similar cluster of a leaf, as drain3 chooses it: similarity, then parameters, then age."""
        best: LogCluster | None = None
        best_rank = (-1, -1)
        clusters = self.id_to_cluster
        for cluster_id in cluster_ids:
            cluster = clusters[cluster_id]
            template = cluster.log_template_tokens
            equal = sum(map(eq, template, tokens))  # tokens hold no <*>: a parameter is never equal
            if equal >= best_rank[0]:
                rank = (equal, template.count(PARAMETER))
                if rank > best_rank:
                    best, best_rank = cluster, rank
        if best is None or (tokens and best_rank[0] / len(tokens) < sim_th):
            return None
        return best


def _leaves(node: Node) -> list[object]:
    """Every leaf below a node, itself included."""
    below = (leaf for child in node.key_to_child_node.values() for leaf in _leaves(child))
    return [node, *below]
