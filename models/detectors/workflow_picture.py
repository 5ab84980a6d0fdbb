"""A picture of a workflow graph: as DOT for Graphviz, and as SVG with a layered layout of its own.

Layout: layers by longest path over the edges that close no cycle, the frequent ones first; long edges get a bend in each layer they cross; each layer
is ordered by the mean place of its neighbours.

Source: Sugiyama, Tagawa, Toda, Methods for Visual Understanding of Hierarchical System Structures (1981).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from math import log10
from typing import Final

import numpy as np

from models.deeplog import PADDING
from models.detectors.contract import Learned
from models.detectors.words import shortened
from models.detectors.workflow_graph import Graph

MAX_EDGES: Final = 60

_LABEL: Final = 44  # characters of a template shown; the whole is in the tooltip
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _MARGIN = 300.0, 42.0, 36.0, 64.0, 24.0
_BEND: Final = 40.0  # width that a bend of a long edge takes in a layer
_SWEEPS: Final = 6

Node = tuple[int, int, int]  # a class as (class, −1, −1); a bend as (from, to, layer)


@dataclass(frozen=True, slots=True)
class Edge:
    """A transition: classes, how often, and its usual and longest normal time in ms, −1 if not known."""

    before: int
    after: int
    count: int
    usual_ms: int
    longest_ms: int


def top_edges(graph: Graph, most: int = MAX_EDGES) -> list[Edge]:
    """The most frequent transitions, the most frequent first."""
    order = np.argsort(-graph.edge_count, kind="stable")[:most]
    columns = (graph.edges[:, 0], graph.edges[:, 1], graph.edge_count, graph.usual_ms, graph.longest_ms)
    return [Edge(*values) for values in zip(*(column[order].tolist() for column in columns), strict=True)]


def label(names: Sequence[str], code: int) -> str:
    """What a class is called: its template on one line, free of control characters."""
    if code == PADDING:
        return "session starts"
    if code == len(names):
        return "session ends"
    return " ".join("".join(c if c.isprintable() else " " for c in names[code]).split())


def duration(ms: int) -> str:
    """A time for people.

    >>> [duration(ms) for ms in (7, 1_500, 90_000, 7_200_000)]
    ['7 ms', '1.5 s', '1.5 min', '2 h']
    """
    for unit, name in ((3_600_000, "h"), (60_000, "min"), (1_000, "s")):
        if ms >= unit:
            return f"{round(ms / unit, 1):g} {name}"
    return f"{ms} ms"


def to_dot(learned: Learned, names: Sequence[str]) -> str:
    """The most frequent transitions in Graphviz' language.

    Raises: ValueError if what was learned does not hold together.
    """
    edges = top_edges(Graph.from_learned(learned, names))
    most = max((edge.count for edge in edges), default=1)
    lines = ["digraph workflow {", '  node [shape=box, style=rounded, fontname="monospace"];']
    lines += [f"  n{code} [label={_dot_quoted(label(names, code))}];" for code in _classes(edges)]
    lines += [
        f"  n{edge.before} -> n{edge.after} [label={_dot_quoted(_said(edge))}, penwidth={_thickness(edge, most):.1f}];"
        for edge in edges
    ]
    return "\n".join([*lines, "}"]) + "\n"


def to_svg(learned: Learned, names: Sequence[str]) -> str:
    """The most frequent transitions as a drawing: time runs downwards, dashed edges go back.

    Raises: ValueError if what was learned does not hold together.
    """
    graph = Graph.from_learned(learned, names)
    edges = top_edges(graph)
    most = max((edge.count for edge in edges), default=1)
    forward = _acyclic(edges)
    layer = _layers(forward, _classes(edges))
    paths, rows = _rows(forward, layer)
    centre, width, height = _places(rows)
    right = width
    lines, said, boxes = [], [], []
    for edge in edges:
        path = paths.get((edge.before, edge.after))
        if path is not None:
            shape, at = _curve([centre[node] for node in path])
        elif edge.before == edge.after:
            at = centre[edge.before, -1, -1]
            shape, at = _loop(at, at, at[0] + _WIDTH / 2 + _GAP_X)
        else:  # it goes back: round the right side
            right += _GAP_X / 2
            shape, at = _loop(centre[edge.before, -1, -1], centre[edge.after, -1, -1], right)
        dash = "" if path is not None else ' stroke-dasharray="5 4"'
        lines.append(f'<path d="{shape}" stroke-width="{_thickness(edge, most):.1f}"{dash} marker-end="url(#tip)"/>')
        said.append(f'<text class="said" x="{at[0]:.0f}" y="{at[1]:.0f}">{escape(_said(edge))}</text>')
    for code in _classes(edges):
        x, y = centre[code, -1, -1]
        text = label(names, code)
        boxes.append(
            f'<g><title>{escape(text)}</title><rect x="{x - _WIDTH / 2:.0f}" y="{y - _HEIGHT / 2:.0f}" width="{_WIDTH:.0f}" '
            f'height="{_HEIGHT:.0f}" rx="6"/><text class="name" x="{x:.0f}" y="{y + 4:.0f}">{escape(shortened(text, _LABEL))}</text></g>'
        )
    width = right + _GAP_X + 90  # a label's width
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" aria-label="Workflow graph">\n'
        "<style>svg{background:#fff}path{fill:none;stroke:#5b6b7f}rect{fill:#f3f6fa;stroke:#5b6b7f}"
        "text{font:11px monospace;fill:#1c2733}.name{text-anchor:middle}"
        ".said{paint-order:stroke;stroke:#fff;stroke-width:3px;fill:#415060}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7" markerUnits="userSpaceOnUse" '
        'orient="auto"><path d="M0 0L8 4L0 8z" style="fill:#5b6b7f;stroke:none"/></marker></defs>\n'
        + "\n".join((*lines, *boxes, *said))
        + "\n</svg>\n"
    )


def _classes(edges: Sequence[Edge]) -> list[int]:
    return sorted({code for edge in edges for code in (edge.before, edge.after)})


def _said(edge: Edge) -> str:
    return f"{edge.count:,}×" + (f" · {duration(edge.usual_ms)}" if edge.usual_ms >= 0 else "")


def _thickness(edge: Edge, most: int) -> float:
    return 0.8 + 3.2 * log10(1 + edge.count) / log10(1 + most)


def _dot_quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# -- layout: layers, the order in each, coordinates ---------------------------------------------------------------------


def _acyclic(edges: Sequence[Edge]) -> list[Edge]:
    """The edges that close no cycle with more frequent ones."""
    after: dict[int, set[int]] = defaultdict(set)
    kept = []
    for edge in edges:
        reached, todo = {edge.after}, [edge.after]
        while todo:
            fresh = after[todo.pop()] - reached
            reached |= fresh
            todo += fresh
        if edge.before not in reached:
            after[edge.before].add(edge.after)
            kept.append(edge)
    return kept


def _layers(forward: Sequence[Edge], classes: Sequence[int]) -> dict[int, int]:
    """The layer of each class: the longest way to it; one that nothing leads to lies right above what it leads to."""
    layer = dict.fromkeys(classes, 0)
    for _ in classes:
        for edge in forward:
            layer[edge.after] = max(layer[edge.after], layer[edge.before] + 1)
    entered = {edge.after for edge in forward} | {PADDING}
    for code in classes:
        following = [layer[edge.after] for edge in forward if edge.before == code]
        if code not in entered and following:
            layer[code] = min(following) - 1
    return layer


def _rows(forward: Sequence[Edge], layer: dict[int, int]) -> tuple[dict[tuple[int, int], list[Node]], list[list[Node]]]:
    """Each edge's way through the layers, and each layer's nodes from left to right."""
    paths: dict[tuple[int, int], list[Node]] = {}
    rows: list[list[Node]] = [[] for _ in range(max(layer.values(), default=0) + 1)]
    for code, at in layer.items():
        rows[at].append((code, -1, -1))
    above: dict[Node, list[Node]] = defaultdict(list)
    below: dict[Node, list[Node]] = defaultdict(list)
    for edge in forward:
        bends = [(edge.before, edge.after, at) for at in range(layer[edge.before] + 1, layer[edge.after])]
        path = [(edge.before, -1, -1), *bends, (edge.after, -1, -1)]
        for bend in bends:
            rows[bend[2]].append(bend)
        for upper, lower in pairwise(path):
            above[lower].append(upper)
            below[upper].append(lower)
        paths[edge.before, edge.after] = path
    for sweep in range(_SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for at in range(len(rows)) if sweep % 2 == 0 else reversed(range(len(rows))):
            beside = at - 1 if sweep % 2 == 0 else at + 1
            if 0 <= beside < len(rows):
                place = {node: number for number, node in enumerate(rows[beside])}
                rows[at] = _by_mean_place(rows[at], neighbours, place)
    return paths, rows


def _by_mean_place(row: list[Node], neighbours: dict[Node, list[Node]], place: dict[Node, int]) -> list[Node]:
    mean = {
        node: sum(place[other] for other in neighbours[node]) / len(neighbours[node]) if neighbours[node] else number
        for number, node in enumerate(row)
    }
    return sorted(row, key=lambda node: mean[node])


def _places(rows: Sequence[Sequence[Node]]) -> tuple[dict[Node, tuple[float, float]], float, float]:
    """The centre of each node, and the size of all."""
    widths = [sum(_width(node) + _GAP_X for node in row) - _GAP_X for row in rows]
    width = max(widths, default=0.0)
    centre: dict[Node, tuple[float, float]] = {}
    for number, row in enumerate(rows):
        x = _MARGIN + (width - widths[number]) / 2
        for node in row:
            centre[node] = (x + _width(node) / 2, _MARGIN + _HEIGHT / 2 + number * (_HEIGHT + _GAP_Y))
            x += _width(node) + _GAP_X
    return centre, width + 2 * _MARGIN, len(rows) * (_HEIGHT + _GAP_Y) - _GAP_Y + 2 * _MARGIN


def _width(node: Node) -> float:
    return _WIDTH if node[2] < 0 else _BEND


def _curve(points: Sequence[tuple[float, float]]) -> tuple[str, tuple[float, float]]:
    """A path through the layers, and where its label goes."""
    half = _HEIGHT / 2
    stops = [(points[0][0], points[0][1] + half), *points[1:-1], (points[-1][0], points[-1][1] - half)]
    shape = f"M{stops[0][0]:.0f} {stops[0][1]:.0f}"
    for (x, y), (to_x, to_y) in pairwise(stops):
        middle = (y + to_y) / 2
        shape += f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
    (x, y), (to_x, to_y) = stops[0], stops[1]
    return shape, (x + (to_x - x) * 0.5 + 6, y + (to_y - y) * 0.5 + 4)


def _loop(start: tuple[float, float], stop: tuple[float, float], right: float) -> tuple[str, tuple[float, float]]:
    """A path round the right side, and where its label goes."""
    (x, y), (to_x, to_y) = start, stop
    x, to_x, y, to_y = x + _WIDTH / 2, to_x + _WIDTH / 2, y + 8, to_y - 8
    shape = f"M{x:.0f} {y:.0f}C{right:.0f} {y:.0f} {right:.0f} {to_y:.0f} {to_x:.0f} {to_y:.0f}"
    return shape, ((x + to_x) / 8 + right * 0.75 + 4, (y + to_y) / 2 + 4)
