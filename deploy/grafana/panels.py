"""What a dashboard and its panels look like in Grafana, and how queries are written.

Owns the form; `generate` has the content.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
HEIGHTS = {"stat": 4, "timeseries": 8, "heatmap": 8}

HERE = 'job="$job",instance=~"$instance"'
"""What the variables at the top of a dashboard choose."""
INTERVAL = "$__rate_interval"


def select(metric: str, where: str = "") -> str:
    """A metric of the chosen services, `where` more labels are as given."""
    return f"{metric}{{{HERE}{',' if where else ''}{where}}}"


def rate(counter: str, where: str = "", by: str = "") -> str:
    """Events per second."""
    return total(f"rate({select(counter, where)}[{INTERVAL}])", by)


def increase(counter: str, by: str, within: str = INTERVAL) -> str:
    """Events within a time."""
    return total(f"increase({select(counter)}[{within}])", by)


def mean(histogram: str, where: str = "", by: str = "") -> str:
    """Of what a histogram has observed."""
    return f"{rate(histogram + '_sum', where, by)} / {rate(histogram + '_count', where, by)}"


def quantile(part: float, histogram: str, where: str = "", by: str = "") -> str:
    """Of what a histogram has observed."""
    return f"histogram_quantile({part}, {rate(histogram + '_bucket', where, f'le, {by}' if by else 'le')})"


def total(expression: str, by: str = "") -> str:
    """The sum of an expression."""
    return f"sum by ({by}) ({expression})" if by else f"sum({expression})"


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel: `queries` are expressions with their legends. `width` is of 24; `limits` are colours and from which
    value on they hold.
    """

    title: str
    description: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False
    limits: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """Panels side by side, under a title."""

    title: str
    panels: tuple[Panel, ...]


def stat(title: str, description: str, query: str, unit: str = "short", *limits: tuple[str, float]) -> Panel:
    """One number."""
    return Panel(title, description, ((query, ""),), unit, kind="stat", width=4, limits=limits)


def dashboard(uid: str, title: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    """A dashboard as Grafana keeps it."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["asr-service"],
        "schemaVersion": 41,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "links": [
            {
                "title": "ASR dashboards",
                "type": "dashboards",
                "tags": ["asr-service"],
                "asDropdown": False,
                "includeVars": True,
                "keepTime": True,
            }
        ],
        "templating": {"list": list(_variables())},
        "panels": list(_panels(rows)),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"}
    for name, label, query, several in (
        ("job", "Job", "label_values(asr_ready, job)", False),
        ("instance", "Instance", 'label_values(asr_ready{job="$job"}, instance)', True),
    ):
        yield {
            "name": name,
            "label": label,
            "type": "query",
            "datasource": SOURCE,
            "query": {"query": query, "refId": name},
            "refresh": 2,
            "sort": 1,
            "multi": several,
            "includeAll": several,
        }


def _panels(rows: tuple[Row, ...]) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for row in rows:
        number += 1
        place = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        yield {"id": number, "type": "row", "title": row.title, "collapsed": False, "gridPos": place, "panels": []}
        x, y = 0, y + 1
        for panel in row.panels:
            number += 1
            height = HEIGHTS[panel.kind]
            if x + panel.width > WIDTH:
                x, y = 0, y + height
            place = {"x": x, "y": y, "w": panel.width, "h": height}
            yield {"id": number, "gridPos": place, **_panel(panel)}
            x += panel.width
        y += HEIGHTS[row.panels[-1].kind]


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + position),
            "datasource": SOURCE,
            "expr": expression,
            "legendFormat": legend or "__auto",
            "range": panel.kind != "stat",
            "instant": panel.kind == "stat",
            "format": "heatmap" if panel.kind == "heatmap" else "time_series",
        }
        for position, (expression, legend) in enumerate(panel.queries)
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": _look(panel), "overrides": []},
        "options": _options(panel),
    }


def _look(panel: Panel) -> dict[str, Any]:
    steps = [{"color": colour, "value": value} for colour, value in panel.limits]
    if steps:
        # The first colour holds for whatever lies below the second.
        steps[0]["value"] = None
    look: dict[str, Any] = {
        "unit": panel.unit,
        "min": 0,
        "thresholds": {"mode": "absolute", "steps": steps or [{"color": "blue", "value": None}]},
    }
    if panel.kind == "stat":
        look["color"] = {"mode": "thresholds"}
    if panel.kind == "timeseries":
        look["custom"] = {
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 0,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none", "group": "A"},
        }
    return look


def _options(panel: Panel) -> dict[str, Any]:
    if panel.kind == "stat":
        # A panel with names for its values shows the names.
        text = "name" if panel.queries[0][1] else "value"
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "textMode": text,
            "graphMode": "none",
            "colorMode": "value",
        }
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": "short"}, "color": {"mode": "scheme", "scheme": "Blues"}}
    return {
        "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True},
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
