"""The saved view of a sweep in MLflow's UI, and the links to it.

The format is MLflow's own and undocumented (checked in the UI of 3.17): where it is not understood any more, the view
opens as a plain list of the sweep's runs.
"""

import json
import time
from typing import Any
from urllib.parse import quote
from uuid import uuid4


def saved_view(view: dict[str, Any]) -> str:
    """The value of the experiment tag `mlflow.sharedViewState.<key>`: all loss curves overlaid, then values and differences.

    `view` names the `sweep`, its `params` and `metrics`, how many `runs` it has, and whether others' are among them: `mixed`.
    """
    sweep, params, metrics, runs = view["sweep"], view["params"], view["metrics"], view["runs"]
    curves, values = uuid4().hex, uuid4().hex
    curve_metrics = ["train/loss"] + ["valid/loss"] * any(metric.startswith("final/valid_") for metric in metrics)
    section = {"display": True, "isReordered": True, "deleted": False, "isGenerated": False}

    def chart(kind: str, where: str, **fields: Any) -> dict[str, Any]:
        shown = {"runsCountToCompare": max(runs, 10), "deleted": False, "isGenerated": False}
        return {"uuid": uuid4().hex, "type": kind, "metricSectionId": where, **shown, **fields}

    def line(metric: str) -> dict[str, Any]:
        axes = {"xAxisKey": "step", "xAxisScaleType": "linear", "selectedXAxisMetricKey": "", "yAxisKey": "metric"}
        names = {"metricKey": metric, "selectedMetricKeys": [metric], "displayName": metric, "scaleType": "log"}
        return chart(
            "LINE", curves, lineSmoothness=0, useGlobalXaxisKey=True, useGlobalLineSmoothing=True, range={}, **axes, **names
        )

    state = {
        "searchFilter": sweep_filter(view),
        "orderByKey": f"metrics.`{metrics[0]}`",
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [f"params.`{param}`" for param in params] + [f"metrics.`{metric}`" for metric in metrics],
        "columnOrder": [],
        "columnWidths": {},
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "SHOW_ALL",
        "viewMaximized": False,
        "runListHidden": False,
        "isAccordionReordered": True,
        "useGroupedValuesInCharts": True,
        "hideEmptyCharts": True,
        "groupBy": None,
        "groupsExpanded": {},
        "autoRefreshEnabled": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
        "compareRunSections": [
            {"uuid": curves, "name": "Loss curves", "columns": 1, "cardHeight": 520, **section},
            {"uuid": values, "name": "Final values", "columns": 2, "cardHeight": 360, **section},
        ],
        "compareRunCharts": [
            *[line(metric) for metric in curve_metrics],
            chart("PARALLEL", values, selectedParams=params, selectedMetrics=metrics, showAllRuns=True),
            *[chart("BAR", values, metricKey=metric) for metric in metrics],
            chart(
                "DIFFERENCE",
                values,
                compareGroups=["Parameters", "Model metrics"],
                chartName="What differs",
                showChangeFromBaseline=True,
                showDifferencesOnly=True,
                baselineColumnUuid="",
            ),
        ],
    }
    return json.dumps({"name": f"sweep {sweep}", "createdAt": int(time.time() * 1000), "state": json.dumps(state)})


def sweep_filter(view: dict[str, Any]) -> str:
    """MLflow's search expression for the runs of a sweep: those it has done, or with those it reuses of other sweeps."""
    return f"tags.`sweep.{view['sweep']}` = 'member'" if view["mixed"] else f"tags.sweep = '{view['sweep']}'"


def sweep_link(address: str, experiment: str, runs: str, key: str | None) -> str:
    """The page of a sweep: its saved view, or without one (`key` None) the charts of its `runs`, a search expression."""
    chosen = f"viewStateShareKey={key}" if key else f"searchFilter={quote(runs)}"
    return f"{address}/#/experiments/{experiment}/runs?{chosen}&compareRunsMode=CHART&workflowType=machine_learning"


def run_link(address: str, experiment: str, run: str, curves: list[str]) -> str:
    """The page with the loss curves of one run, in log scale."""

    def encoded(value: object) -> str:
        return quote(json.dumps(value, separators=(",", ":")), safe="")

    names = {"runs": [run], "metric": curves[0], "experiments": [experiment], "plot_metric_keys": curves}
    query = "&".join(f"{key}={encoded(value)}" for key, value in names.items())
    return f"{address}/#/metric?{query}&x_axis=step&y_axis_scale=log&workflowType=machine_learning"


def experiment_link(address: str, experiment: str | None) -> str:
    """The charts of an experiment's runs; without an experiment the list of experiments."""
    if experiment is None:
        return f"{address}/#/experiments?workflowType=machine_learning"
    return f"{address}/#/experiments/{experiment}/runs?compareRunsMode=CHART&workflowType=machine_learning"
