#!/usr/bin/env python3
"""Writes deploy/grafana/*.json from the table in panels.py; with --check, only compares.

Usage: make_dashboards.py [--check], from the root of the repository.
"""
import json
import pathlib
import sys

sys.dont_write_bytecode = True
import panels  # noqa: E402

FOLDER = pathlib.Path("deploy/grafana")
SOURCE = {"type": "prometheus", "uid": "${source}"}
WIDTH, HEIGHT, COLUMNS = 8, 8, 24  # Grafana's grid


def for_grafana(expression):
    return expression.replace("RUN", 'run=~"$run"').replace("WINDOW", "$__rate_interval")


def panel(identity, place, content):
    title, unit, description, queries = content
    return {
        "id": identity, "type": "timeseries", "title": title, "description": description, "datasource": SOURCE,
        "gridPos": {"x": place % COLUMNS, "y": place // COLUMNS * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "custom": {"lineWidth": 1, "showPoints": "never"}}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [{"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": for_grafana(expression),
                     "legendFormat": legend} for number, (legend, expression) in enumerate(queries)],
    }


def laid_out(rows):
    """Panels from left to right, a heading above each row's."""
    made, y = [], 0
    for heading, contents in rows:
        made.append({"id": len(made) + 1, "type": "row", "title": heading, "collapsed": False, "panels": [],
                     "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}})
        for number, content in enumerate(contents):
            made.append(panel(len(made) + 1, number * WIDTH, content))
            made[-1]["gridPos"]["y"] += y + 1
        y = made[-1]["gridPos"]["y"] + HEIGHT
    return made


def dashboard(name, title, rows):
    chosen = {"name": "run", "label": "run", "type": "query", "datasource": SOURCE, "refresh": 2, "includeAll": True,
              "multi": True, "query": {"query": "label_values(palimpsest_build_info, run)", "refId": "run"},
              "sort": 1}
    source = {"name": "source", "label": "Prometheus", "type": "datasource", "query": "prometheus", "refresh": 1}
    return {"uid": f"palimpsest-{name}", "title": title, "tags": ["palimpsest"], "schemaVersion": 38, "editable": True,
            "time": {"from": "now-3h", "to": "now"}, "refresh": "10s", "templating": {"list": [source, chosen]},
            "panels": laid_out(rows)}


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    for name, (title, rows) in panels.DASHBOARDS.items():
        path = FOLDER / f"{name}.json"
        made = json.dumps(dashboard(name, title, rows), indent=1) + "\n"
        if not arguments:
            path.write_text(made)
        elif not path.exists() or path.read_text() != made:
            sys.exit(f"make_dashboards: {path} is not what panels.py says; run deploy/grafana/make_dashboards.py")


if __name__ == "__main__":
    main(sys.argv[1:])
