"""Drain3 behind one narrow door: place the tokens of one text in a prefix tree and say what changed.

Its rules with three differences, all of them about values: a leading token that looks like one does not choose the path; one
value counts as like another although the masks named them differently; and of the words alone half must agree as well.

This is the only module that touches drain3. Everything is passed explicitly: no drain3.ini, no TemplateMiner,
no clock, no persistence, and no LRU cache of clusters (the caller caps their number).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from operator import eq
from typing import Any, Final, NamedTuple

from drain3.drain import Drain, LogCluster, Node

PARAMETER: Final = "<*>"

_VALUE_LIKE: Final = re.compile(r"[0-9]|<[a-z]+>|\w[.:=@]\w|^[/\\]")


def is_value_like(token: str) -> bool:
    """Whether a token may be a value by its looks, so that a text's place in the tree must not hang on it.

    A digit, a placeholder, a name of several parts (`a.b`, `a:b`, `a@b`), a path, or context in brackets.

    >>> [is_value_like(token) for token in ("Receiving", "main:", "load/store", "<ip>", "org.acme.Job:", "(root)", "ok:true")]
    [False, False, False, True, True, True, True]
    """
    is_context = token.startswith(("(", "[")) and token.rstrip(".,:;!?").endswith((")", "]"))
    return is_context or _VALUE_LIKE.search(token) is not None


#: Least share of the words that must be equal: what a text has in values is no likeness. Half of them, as in Spell.
WORDS_TH: Final = 0.5
_ALIKE: Final = re.compile("<(?:num|amount)>")


@lru_cache(maxsize=1 << 15)
def form(token: str) -> str:
    """A token as it is compared: numbers, amounts and identifiers alike, since one hexadecimal value is folded as any of them.

    >>> form("lr:<num>"), form("<amount>,"), form("<ip>")
    ('lr:<id>', '<id>,', '<ip>')
    """
    return _ALIKE.sub("<id>", token) if "<" in token else token


@lru_cache(maxsize=1 << 15)
def is_word(token: str) -> bool:
    """Whether a token has letters and is not value-like.

    >>> [is_word(token) for token in ("user", "pid=", "load/store", "ok:true", "<num>ms", "<*>", "-")]
    [True, True, True, False, False, False, False]
    """
    return token != PARAMETER and not is_value_like(token) and any(map(str.isalpha, token))


def merged(template: Sequence[str], tokens: Sequence[str]) -> tuple[str, ...]:
    """What a template and a text have in common.

    >>> merged(("at", "<num>", "of", "a"), ("at", "<id>", "of", "b"))
    ('at', '<id>', 'of', '<*>')
    """
    return tuple(
        one if one == other else form(one) if form(one) == form(other) else PARAMETER
        for one, other in zip(template, tokens, strict=True)
    )


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
    """One Drain prefix tree, whose answers are those of a `drain3.drain.Drain` with these differences, fed line by line.

    A text that was placed once is placed the same way again, without any change, until its leaf is disturbed: that
    is what makes a memo of texts exact. It needs tokens that never equal `<*>`; `models.masking` sees to that.

    Args:
        depth: Drain's depth: length, then depth - 3 leading tokens, then the leaf.
        sim_th: the least share of equal tokens for a match.
        max_children: children of one inner node before the rest share `<*>`.
        parametrize_numeric_tokens: leading tokens that are value-like share `<*>`.
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
        self._pinned: set[int] = set()

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

    def pin(self, cluster: int, *, is_pinned: bool) -> None:
        """Let a cluster's tokens stay as they are, whatever joins it; or no more."""
        if is_pinned:
            self._pinned.add(cluster + 1)
        else:
            self._pinned.discard(cluster + 1)

    def place(self, tokens: Sequence[str], *, may_grow: bool) -> Placement:
        """Match one text, or make a cluster of it where nothing matches and `may_grow`."""
        drain = self._drain
        found = drain.tree_search(drain.root_node, tokens, drain.sim_th, False)
        if found is None:
            return self.insert(tokens) if may_grow else Placement(None, None, False, False, ())
        leaf = self._leaf(tokens)
        common = (
            found.log_template_tokens if found.cluster_id in self._pinned else merged(found.log_template_tokens, tokens)
        )
        is_changed = common != found.log_template_tokens
        if is_changed:
            drain.set_tokens(found, common)
        return Placement(found.cluster_id - 1, leaf, False, is_changed, (leaf,) if is_changed else ())

    def insert(self, created: Sequence[str], tokens: Sequence[str] | None = None) -> Placement:
        """Make a cluster: its place in the tree follows the tokens it was created with, its answers the present ones."""
        drain = self._drain
        shadows = self._shadows(created)
        drain.clusters_counter += 1
        cluster = LogCluster(created, drain.clusters_counter)
        drain.id_to_cluster[cluster.cluster_id] = cluster
        drain.add_seq_to_prefix_tree(drain.root_node, cluster)
        drain.set_tokens(cluster, created if tokens is None else tokens)
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
    """Drain with a quicker comparison, of forms, and with what it asks of digits asked of everything value-like."""

    has_numbers = staticmethod(is_value_like)

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._forms: dict[int, tuple[str, ...]] = {}

    def set_tokens(self, cluster: LogCluster, tokens: Sequence[str]) -> None:
        """Give a cluster its present tokens."""
        cluster.log_template_tokens = tuple(tokens)
        self._forms[cluster.cluster_id] = tuple(map(form, tokens))

    def fast_match(self, cluster_ids: Sequence[int], tokens: Sequence[str], sim_th: float, include_params: bool) -> Any:
        """The most similar cluster of a leaf, as drain3 chooses it: similarity, then parameters, then age.

        Of several with the same forms, the one with the same tokens comes before the oldest.
        """
        best = 0
        best_rank = (-1, -1, -1)
        forms, clusters = tuple(map(form, tokens)), self.id_to_cluster
        for cluster_id in cluster_ids:
            other = self._forms[cluster_id]
            equal = sum(map(eq, other, forms))  # tokens hold no <*>: a parameter is never equal
            if equal >= best_rank[0] and _share_words(other, forms):
                same = sum(map(eq, clusters[cluster_id].log_template_tokens, tokens))
                rank = (equal, other.count(PARAMETER), same)
                if rank > best_rank:
                    best, best_rank = cluster_id, rank
        if not best or (tokens and best_rank[0] / len(tokens) < sim_th):
            return None
        return clusters[best]


def _share_words(template: Sequence[str], forms: Sequence[str]) -> bool:
    """Whether enough of the words are equal, where the template has no parameter."""
    words = equal = 0
    for one, other in zip(template, forms, strict=True):
        if one != PARAMETER and (is_word(one) or is_word(other)):
            words += 1
            equal += one == other
    return equal >= WORDS_TH * words


def drain3_groups(lines: Iterable[Sequence[str]]) -> tuple[list[int], list[tuple[str, ...]]]:
    """The number of each line's template, and the templates, by drain3 with its own defaults; to compare with.

    >>> drain3_groups([("user", "ann", "came", "in"), ("user", "bob", "came", "in"), ("bye",)])
    ([0, 0, 1], [('user', '<*>', 'came', 'in'), ('bye',)])
    """
    drain = Drain()
    groups = [drain.add_log_message(" ".join(tokens))[0].cluster_id - 1 for tokens in lines]
    return groups, [
        tuple(drain.id_to_cluster[number + 1].log_template_tokens) for number in range(max(groups, default=-1) + 1)
    ]


def _leaves(node: Node) -> list[object]:
    """Every leaf below a node, itself included."""
    below = (leaf for child in node.key_to_child_node.values() for leaf in _leaves(child))
    return [node, *below]
