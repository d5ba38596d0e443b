"""All expressions that are shipped: of the rules and of the dashboards."""
import json
import pathlib
import re
from typing import NamedTuple

RULES = [pathlib.Path("deploy/prometheus/rules", name) for name in ("recording.yml", "alerts.yml")]
DASHBOARDS = pathlib.Path("deploy/grafana")


class Expression(NamedTuple):
    where: str  # the panel or rule
    text: str


def rules():
    """[(record or alert, its name, its fields)]: the part of YAML that our rule files keep to."""
    found = []
    for path in RULES:
        lines = path.read_text().splitlines()
        for number, line in enumerate(lines):
            begin = re.fullmatch(r" +- (record|alert): (\S+)", line)
            if begin:
                found.append((begin[1], begin[2], {}))
            field = re.fullmatch(r"( +)(expr|summary|runbook): (.*)", line)
            if field and field[3] == ">-":
                deeper = field[1] + "  "
                after = lines[number + 1:]
                end = next((i for i, more in enumerate(after) if not more.startswith(deeper)), len(after))
                found[-1][2][field[2]] = " ".join(more.strip() for more in after[:end])
            elif field:
                found[-1][2][field[2]] = field[3].strip('"')
    return found


def of_rules():
    return [Expression(name, fields["expr"]) for _, name, fields in rules()]


def of_dashboards():
    found = []
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                found.append(Expression(f"{path.stem}: {panel['title']}: {target['legendFormat']}", target["expr"]))
    return found
