"""The dashboards, as code: `python docker/grafana/dashboards.py` writes dashboards/<group>/<uid>.json beside this file.

A folder for each group of people, as they come with different questions: operators (does it run?), developers (what is wrong
with my service, and what should be tuned?), managers (how is it going?). docs/dashboards.md explains every panel.
The JSON is committed; tests/unit/test_deploy_dashboards.py writes it anew and compares.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    # The package calls its older schema so; it is the one that every Grafana from 11 on takes from files.
    warnings.simplefilter("ignore", DeprecationWarning)
    from grafana_foundation_sdk.builders import (
        bargauge,
        dashboard,
        logs,
        loki,
        piechart,
        prometheus,
        stat,
        table,
        timeseries,
    )
from grafana_foundation_sdk.builders import common as build_common
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common
from grafana_foundation_sdk.models import dashboard as models

FOLDER = Path(__file__).with_name("dashboards")

#: Provisioned under these identifiers (provisioning/datasources/driftwood.yaml).
PROMETHEUS = common.DataSourceRef(type_val="prometheus", uid="driftwood-prometheus")
LOKI = common.DataSourceRef(type_val="loki", uid="driftwood-loki")

#: Counters of the job's operators, as Flink's Prometheus reporter names them.
OWN = "flink_taskmanager_job_task_operator_driftwood_"
#: What the developers' variables choose; everything by default.
CHOSEN = '{job="driftwood", mode=~"$mode", service_name=~"$service"}'
#: Numbers with a unit in the lines of the services themselves, which the collectors send to Loki.
DURATIONS = '{service_name=~"$service", job!="driftwood"} |~ `[0-9] ?ms` | regexp `(?P<value>[0-9]+(?:\\.[0-9]+)?) ?ms` | value!="" | unwrap value'
SIZES = (
    '{service_name=~"$service", job!="driftwood"} |~ `(?i)[0-9] ?(?:bytes|kB|kiB|MB|MiB)` '
    '| regexp `(?i)(?P<value>[0-9]+(?:\\.[0-9]+)?) ?(?P<unit>bytes|kB|kiB|MB|MiB)` | value!="" | unwrap value'
)
#: The first parameter of the line that was flagged.
FIRST_PARAMETER = f'{CHOSEN} | json name="parameters[0].name", unit="parameters[0].unit", value="parameters[0].value" | value=~`[0-9]+(\\.[0-9]+)?` | unwrap value'


def by_step(expression: str, of: str = "max") -> str:
    """A metric of tasks by the first operator in each, because Flink names a task by all of its operators."""
    return f'{of} by (step) (label_replace({expression}, "step", "$1", "task_name", "(Source:_[a-z]+|[A-Za-z]+).*"))'


Panel = timeseries.Panel | stat.Panel | logs.Panel | table.Panel | bargauge.Panel | piechart.Panel


def metric(expression: str, legend: str = "", *, is_instant: bool = False) -> prometheus.Dataquery:
    """A query of Prometheus."""
    query = prometheus.Dataquery().expr(expression).legend_format(legend or "__auto").datasource(PROMETHEUS)
    return query.instant() if is_instant else query.range()


def log_query(expression: str, legend: str = "", *, is_instant: bool = False) -> loki.Dataquery:
    """A query of Loki."""
    query = loki.Dataquery().expr(expression).datasource(LOKI)
    if legend:
        query = query.legend_format(legend)
    return query.query_type("instant" if is_instant else "range")


def _with(panel: Panel, title: str, about: str, queries: tuple[Any, ...]) -> Any:
    made: Any = panel.title(title).description(about).datasource(queries[0].build().datasource)
    for number, query in enumerate(queries):
        made = made.with_target(query.ref_id(chr(ord("A") + number)))
    return made


def lines(title: str, about: str, *queries: Any, unit: str = "short", width: int = 12, is_stacked: bool = False) -> Any:
    """Curves over time."""
    panel = _with(timeseries.Panel(), title, about, queries).unit(unit).height(8).span(width).line_width(1).min(0)
    panel = panel.fill_opacity(40 if is_stacked else 8).show_points(common.VisibilityMode.AUTO)
    if is_stacked:
        panel = panel.draw_style(common.GraphDrawStyle.BARS).stacking(
            build_common.StackingConfig().mode(common.StackingMode.NORMAL)
        )
    legend = (
        build_common.VizLegendOptions()
        .display_mode(common.LegendDisplayMode.LIST)
        .placement(common.LegendPlacement.BOTTOM)
    )
    return panel.legend(legend.show_legend(True))


def number(
    title: str,
    about: str,
    *queries: Any,
    unit: str = "short",
    width: int = 4,
    steps: tuple[tuple[float | None, str], ...] = (),
) -> Any:
    """One number, and its colour."""
    colours = [models.Threshold(value, colour) for value, colour in steps or ((None, "green"),)]
    panel = (
        _with(stat.Panel(), title, about, queries)
        .unit(unit)
        .height(4)
        .span(width)
        .color_mode(common.BigValueColorMode.VALUE)
    )
    return panel.thresholds(dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(colours))


def entries(title: str, about: str, query: Any, *, height: int = 12) -> Any:
    """Lines as they are in Loki."""
    panel = _with(logs.Panel(), title, about, (query,)).height(height).span(24).show_time(True).wrap_log_message(True)
    return panel.enable_log_details(True).prettify_log_message(False).sort_order(common.LogsSortOrder.DESCENDING)


def ranking(title: str, about: str, query: Any, *, width: int = 12) -> Any:
    """Bars, the longest first."""
    panel = (
        _with(bargauge.Panel(), title, about, (query,))
        .height(8)
        .span(width)
        .orientation(common.VizOrientation.HORIZONTAL)
    )
    return panel.display_mode(common.BarGaugeDisplayMode.BASIC).min(0)


def shares(title: str, about: str, query: Any, *, width: int = 6) -> Any:
    """Parts of a whole."""
    return (
        _with(piechart.Panel(), title, about, (query,))
        .height(8)
        .span(width)
        .pie_type(piechart.piechart.PieChartType.DONUT)
    )


def variable(name: str, label: str, of: str) -> Any:
    """A choice among the values of a label that anomalies carry; all of them at first."""
    query = dashboard.QueryVariable(name).label(label).datasource(LOKI)
    query = query.query({"type": 1, "label": of, "stream": '{job="driftwood"}', "refId": name})
    return (
        query.multi(True)
        .include_all(True)
        .all_value(".+")
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .current(models.VariableOption(selected=True, text="All", value="$__all"))
    )


def _page(uid: str, title: str, about: str, group: str, since: str, refresh: str) -> Any:
    page = dashboard.Dashboard(title).uid(uid).description(about).tags(["driftwood", group]).editable()
    return page.time(since, "now").refresh(refresh).timezone("browser").tooltip(models.DashboardCursorSync.CROSSHAIR)


def operation() -> Any:
    """Does it run, does it keep up, does what it finds arrive?"""
    good_above = ((None, "red"), (1.0, "green"))
    bad_above = ((None, "green"), (1.0, "red"))
    page = _page(
        "driftwood-operation",
        "Driftwood: operation",
        "Does it run, does it keep up, does what it finds arrive?",
        "operators",
        "now-3h",
        "30s",
    )
    panels = [
        number(
            "Jobs running",
            "The JobManager's own count.",
            metric("sum(flink_jobmanager_numRunningJobs)"),
            steps=good_above,
        ),
        number(
            "Task slots free",
            "Below zero there is none; a second opinion or a rescale needs one.",
            metric("sum(flink_jobmanager_taskSlotsAvailable)"),
        ),
        number(
            "Lines waiting in Kafka",
            "Not yet read, over all partitions.",
            metric("sum(flink_taskmanager_job_task_operator_pendingRecords)"),
            steps=((None, "green"), (100_000.0, "orange"), (1_000_000.0, "red")),
        ),
        number(
            "Restarts in a day",
            "Each is a fault that was survived; the job's log names it.",
            metric("sum(increase(flink_jobmanager_job_numRestarts[24h]))"),
            steps=((None, "green"), (1.0, "orange"), (10.0, "red")),
        ),
        number(
            "Checkpoints failed in a day",
            "Three in a row fail the job.",
            metric("sum(increase(flink_jobmanager_job_numberOfFailedCheckpoints[24h]))"),
            steps=bad_above,
        ),
        number(
            "Rejected",
            "Records that are no log record, of all in the last hour. Above reject_ratio the job stops.",
            metric(
                f"sum(increase({OWN}rejects_total[1h])) / clamp_min(sum(increase({OWN}lines_total[1h])) + sum(increase({OWN}rejects_total[1h])), 1)"
            ),
            unit="percentunit",
            steps=((None, "green"), (0.01, "orange"), (0.1, "red")),
        ),
        lines(
            "Lines",
            "Judged a second; a line of a service without a model is mined and not judged.",
            metric(f"sum(rate({OWN}lines_total[5m]))", "read"),
            metric(f"sum(rate({OWN}scored_total[5m]))", "judged"),
            metric(f"sum(rate({OWN}unmodelled_total[5m]))", "of services without a model"),
            metric(f"sum(rate({OWN}late_total[5m]))", "late"),
            unit="cps",
        ),
        lines(
            "Waiting in Kafka",
            "Rises when lines come faster than they are judged, and falls after.",
            metric(by_step("flink_taskmanager_job_task_operator_pendingRecords", "sum"), "{{step}}"),
        ),
        lines(
            "Busy",
            "Of each second, over the busiest subtask. Near 1 s the step is the bottleneck: give the job another slot.",
            metric(by_step("flink_taskmanager_job_task_busyTimeMsPerSecond"), "{{step}}"),
            unit="ms",
        ),
        lines(
            "Held up",
            "Of each second, waiting for the next step. The step after the last one that waits is the bottleneck.",
            metric(by_step("flink_taskmanager_job_task_backPressuredTimeMsPerSecond"), "{{step}}"),
            unit="ms",
        ),
        lines(
            "Checkpoint duration",
            "Committed results appear at checkpoints: this and the interval are the latency of the topic.",
            metric("max(flink_jobmanager_job_lastCheckpointDuration)", "last"),
            unit="ms",
            width=8,
        ),
        lines(
            "Checkpoint size",
            "All state. It levels off; if it does not, look at templates and services.",
            metric("max(flink_jobmanager_job_lastCheckpointFullSize)", "full"),
            metric("max(flink_jobmanager_job_lastCheckpointSize)", "written"),
            unit="bytes",
            width=8,
        ),
        lines(
            "Checkpoints",
            "Completed and failed in ten minutes.",
            metric("sum(increase(flink_jobmanager_job_numberOfCompletedCheckpoints[10m]))", "completed"),
            metric("sum(increase(flink_jobmanager_job_numberOfFailedCheckpoints[10m]))", "failed"),
            width=8,
        ),
        lines(
            "Deliveries",
            "To Loki and Redis. Refused entries are in the topic logs-rejected, with the reason.",
            metric("sum(rate(flink_taskmanager_job_task_operator_loki_sent[5m]))", "Loki"),
            metric("sum(rate(flink_taskmanager_job_task_operator_redis_sent[5m]))", "Redis"),
            metric("sum(rate(flink_taskmanager_job_task_operator_loki_refused[5m]))", "refused by Loki"),
            metric("sum(rate(flink_taskmanager_job_task_operator_loki_retried[5m]))", "sent again to Loki"),
            unit="cps",
        ),
        lines(
            "Templates",
            "New ones in ten minutes. A service that floods it logs without a fixed wording; docs/templates.md helps.",
            metric(f"sum(increase({OWN}templates_total[10m]))", "new"),
        ),
        lines(
            "Memory of the TaskManagers",
            "The JVM's heap and what it reserves; the Python workers come on top.",
            metric("sum by (tm_id) (flink_taskmanager_Status_JVM_Memory_Heap_Used)", "heap {{tm_id}}"),
            metric("sum by (tm_id) (flink_taskmanager_Status_Flink_Memory_Managed_Used)", "managed {{tm_id}}"),
            unit="bytes",
        ),
        lines(
            "Garbage collection",
            "Of each second. Above a tenth the heap is too small.",
            metric("sum by (tm_id) (rate(flink_taskmanager_Status_JVM_GarbageCollector_All_Time[5m]))", "{{tm_id}}"),
            unit="ms",
        ),
    ]
    return _filled(page, panels)


def anomalies() -> Any:
    """What does not belong, in which service, and why."""
    page = _page(
        "driftwood-anomalies",
        "Driftwood: anomalies",
        "What does not belong, in which service, and why.",
        "developers",
        "now-6h",
        "1m",
    )
    panels = [
        lines(
            "Anomalies",
            "By service. Shadow anomalies are those of services that are still on trial.",
            log_query(f"sum by (service_name) (count_over_time({CHOSEN}[$__auto]))", "{{service_name}}"),
            is_stacked=True,
        ),
        lines(
            "By detector",
            "The one with the most evidence; the line's JSON has the evidence of all.",
            log_query(f"sum by (detector) (count_over_time({CHOSEN}[$__auto]))", "{{detector}}"),
            is_stacked=True,
        ),
        lines(
            "Score",
            "The threshold lies at 0.5, whatever the service; the highest in each step.",
            log_query(f"max by (service_name) (max_over_time({CHOSEN} | unwrap score [$__auto]))", "{{service_name}}"),
        ),
        ranking(
            "Templates",
            "What kinds of line were flagged most.",
            log_query(
                f"topk(10, sum by (service_name, template_id) (count_over_time({CHOSEN}[$__range])))",
                "{{service_name}} {{template_id}}",
                is_instant=True,
            ),
        ),
        entries(
            "Anomalies",
            "Open one for its explanation, what was expected instead, and the lines before it.",
            log_query(
                f'{CHOSEN} | json message="message", explanation="explanation" | line_format `{{{{.service_name}}}}  {{{{.message}}}}  — {{{{.explanation}}}}`'
            ),
        ),
        entries(
            "The services' own lines",
            "From the collectors, errors and warnings of the same services: what else went on.",
            log_query('{service_name=~"$service", job!="driftwood"} |~ `(?i)error|warn|fatal|exception`'),
            height=10,
        ),
    ]
    return _filled(_chosen(page), panels)


def tuning() -> Any:
    """Values over time: which timeouts, sizes and thresholds to set."""
    page = _page(
        "driftwood-tuning",
        "Driftwood: values to tune by",
        "Values over time: which timeouts, sizes and thresholds to set.",
        "developers",
        "now-7d",
        "5m",
    )
    panels = [
        lines(
            "Durations in the lines: the 99th percentile",
            "What services say of themselves (… 132 ms …). A timeout belongs well above its curve; one that the curve touches makes errors of its own.",
            log_query(f"quantile_over_time(0.99, {DURATIONS} [$__auto]) by (service_name)", "{{service_name}}"),
            unit="ms",
        ),
        lines(
            "Durations in the lines: the median",
            "The middle of the same: when it rises, everything is slower, and not only the worst.",
            log_query(f"quantile_over_time(0.5, {DURATIONS} [$__auto]) by (service_name)", "{{service_name}}"),
            unit="ms",
        ),
        lines(
            "Sizes in the lines: the 99th percentile",
            "In the unit that the line names. Limits of pools, bodies and batches belong above it.",
            log_query(
                f"quantile_over_time(0.99, {SIZES} [$__auto]) by (service_name, unit)", "{{service_name}} {{unit}}"
            ),
        ),
        lines(
            "Values of flagged lines",
            "The first parameter of lines that were found odd, by its learned name.",
            log_query(
                f"max by (service_name, name, unit) (max_over_time({FIRST_PARAMETER} [$__auto]))",
                "{{service_name}} {{name}} {{unit}}",
            ),
        ),
        lines(
            "Strength and threshold",
            "How strong incidents were, and from which strength on they are told. Many just above the line: the budget is generous; ask for a smaller one.",
            log_query(
                f'max by (service_name) (max_over_time({CHOSEN} | json strength="strength" | unwrap strength [$__auto]))',
                "strength {{service_name}}",
            ),
            log_query(
                f'min by (service_name) (min_over_time({CHOSEN} | json threshold="threshold" | unwrap threshold [$__auto]))',
                "threshold {{service_name}}",
            ),
        ),
        lines(
            "Model versions",
            "Anomalies by the version that found them: did the newest model change the rate?",
            log_query(
                f'sum by (service_name, model_version) (count_over_time({CHOSEN} | json model_version="model_version" [$__auto]))',
                "{{service_name}} {{model_version}}",
            ),
            is_stacked=True,
        ),
    ]
    return _filled(_chosen(page), panels)


def overview() -> Any:
    """How much is watched, how much is found, and whether it can be relied on."""
    live = '{job="driftwood", mode="live"}'
    page = _page(
        "driftwood-overview",
        "Driftwood: overview",
        "How much is watched, how much is found, and whether it can be relied on.",
        "managers",
        "now-30d",
        "15m",
    )
    panels = [
        number(
            "Lines watched",
            "In the chosen time.",
            metric(f"sum(increase({OWN}lines_total[$__range]))", is_instant=True),
            width=6,
        ),
        number(
            "Anomalies",
            "Told to people in the chosen time.",
            log_query(f"sum(count_over_time({live}[$__range]))", is_instant=True),
            width=6,
        ),
        number(
            "Services with an anomaly",
            "In the chosen time.",
            log_query(f"count(sum by (service_name) (count_over_time({live}[$__range])))", is_instant=True),
            width=6,
        ),
        number(
            "Time that it watched",
            "Share of the chosen time in which the job ran.",
            metric("avg_over_time((sum(flink_jobmanager_numRunningJobs) > bool 0)[$__range:5m])", is_instant=True),
            unit="percentunit",
            width=6,
            steps=((None, "red"), (0.99, "orange"), (0.999, "green")),
        ),
        lines(
            "Anomalies a day",
            "By service, live ones only.",
            log_query(f"sum by (service_name) (count_over_time({live}[1d]))", "{{service_name}}"),
            is_stacked=True,
            width=16,
        ),
        ranking(
            "Services",
            "Where most was found.",
            log_query(
                f"topk(10, sum by (service_name) (count_over_time({live}[$__range])))",
                "{{service_name}}",
                is_instant=True,
            ),
            width=8,
        ),
        shares(
            "Levels",
            "What the services themselves called these lines: many are found at INFO, where no rule looks.",
            log_query(f'sum by (level) (count_over_time({live} | level!="" [$__range]))', "{{level}}", is_instant=True),
            width=8,
        ),
        shares(
            "On trial",
            "Services whose anomalies are only shown until they have earned trust.",
            log_query('sum by (mode) (count_over_time({job="driftwood"}[$__range]))', "{{mode}}", is_instant=True),
            width=8,
        ),
        lines("Lines a day", "How much is watched.", metric(f"sum(increase({OWN}lines_total[1d]))", "lines"), width=8),
    ]
    return _filled(page, panels)


def _chosen(page: Any) -> Any:
    return page.with_variable(variable("service", "Service", "service_name")).with_variable(
        variable("mode", "Mode", "mode")
    )


def _filled(page: Any, panels: list[Any]) -> Any:
    for panel in panels:
        page = page.with_panel(panel)
    return page


GROUPS = {"operators": (operation,), "developers": (anomalies, tuning), "managers": (overview,)}


def files() -> Iterator[tuple[str, str]]:
    """Each dashboard: its path below dashboards/, and its JSON."""
    for group, pages in GROUPS.items():
        for page in pages:
            made = page().build()
            yield (
                f"{group}/{made.uid}.json",
                json.dumps(made, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n",
            )


def main() -> None:
    """Writes all of them, and removes what is no more."""
    wanted = dict(files())
    for path in FOLDER.rglob("*.json"):
        if path.relative_to(FOLDER).as_posix() not in wanted:
            path.unlink()
    for name, text in wanted.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")
    print(f"{len(wanted)} dashboards are written to {FOLDER}", file=sys.stderr)


if __name__ == "__main__":
    main()
