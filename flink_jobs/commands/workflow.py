"""`driftwood workflow`: which step follows which in a service's sessions, as a model has learned it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from models.errors import ArtefactError, DataSetError, SettingsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.artefact import Artefact
    from models.detectors.workflow_picture import Edge


def command(
    model: Annotated[Path, typer.Argument(help="Folder of a model, or of several with --service.")],
    service: Annotated[str | None, typer.Option(help="Whose workflow, if the folder holds several models.")] = None,
    out: Annotated[Path | None, typer.Option(help="Draw it to this file: .svg, or .dot for Graphviz.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows of the table that is printed.")] = 60,
    as_json: Annotated[bool, typer.Option("--json", help="Print all transitions as JSON.")] = False,
) -> None:
    """Prints the transitions between the steps of a session with their counts and times, or draws them."""
    import orjson

    from models.artefact import load_all
    from models.detectors.workflow_graph import Graph
    from models.detectors.workflow_picture import label, to_dot, to_svg, top_edges

    if out is not None and out.suffix not in (".svg", ".dot"):
        raise SettingsError(f"--out is {out}; name a file that ends in .svg or .dot.")
    artefact = _chosen(load_all(model), model, service)
    learned = artefact.learned.get("workflow")
    if learned is None:
        raise ArtefactError(
            f"the model of {artefact.service!r} has learned no workflow: its lines had too few sessions, or it was trained "
            "without that detector; train it again with lines that carry a session."
        )
    names = artefact.names
    if out is not None:
        draw = to_svg if out.suffix == ".svg" else to_dot
        try:
            out.write_text(draw(learned, names), encoding="utf-8")
        except OSError as error:
            raise DataSetError(f"{out} cannot be written: {error.strerror}; choose another --out.") from error
    graph = Graph.from_learned(learned, names)
    edges = top_edges(graph, len(graph.edges))
    if as_json:
        shown = [
            {
                "from": label(names, edge.before),
                "to": label(names, edge.after),
                "count": edge.count,
                "usual_ms": edge.usual_ms if edge.usual_ms >= 0 else None,
                "longest_ms": edge.longest_ms if edge.longest_ms >= 0 else None,
            }
            for edge in edges
        ]
        outcome = {"service": artefact.service, "sessions": learned.facts["sessions"], "transitions": shown}
        typer.echo(orjson.dumps(outcome, option=orjson.OPT_INDENT_2))
        return
    _print_table(edges[:limit], names)
    rest = f", the {limit} most frequent shown" if len(edges) > limit else ""
    typer.echo(f"{artefact.service}: {learned.facts['sessions']:,} sessions, {len(edges):,} transitions{rest}")
    if out is not None:
        typer.echo(f"picture: {out}")


def _chosen(models: dict[str, Artefact], folder: Path, service: str | None) -> Artefact:
    if service is not None and service not in models:
        raise ArtefactError(f"{folder} holds no model of {service!r}; it holds: {', '.join(sorted(models)) or 'none'}.")
    if service is None and len(models) != 1:
        raise ArtefactError(
            f"{folder} holds {len(models)} models; name one with --service: {', '.join(sorted(models)) or 'none'}."
        )
    return models[service] if service is not None else next(iter(models.values()))


def _print_table(edges: Sequence[Edge], names: Sequence[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from models.detectors.workflow_picture import duration, label

    table = Table("count", "from", "to", "usual", "longest", box=None, header_style="bold")
    for number in (0, 3, 4):
        table.columns[number].justify = "right"
    for edge in edges:
        usual, longest = (duration(ms) if ms >= 0 else "–" for ms in (edge.usual_ms, edge.longest_ms))
        table.add_row(
            f"{edge.count:,}", Text(label(names, edge.before)), Text(label(names, edge.after)), usual, longest
        )
    Console().print(table)
