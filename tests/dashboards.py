"""What the Grafana dashboards ask Prometheus for."""

import json
import re
from pathlib import Path

MONITORING = Path(__file__).parents[1] / "k8s" / "components" / "monitoring"
ENDPOINT = MONITORING / "raystill-endpoint.json"


def expressions(board: Path) -> list[str]:
    """Every expression of a dashboard, with each variable as anything."""
    panels = json.loads(board.read_text())["panels"]
    return [re.sub(r"\$\w+", ".*", target["expr"]) for panel in panels for target in panel["targets"]]


def names(expression: str) -> set[str]:
    """The metrics in an expression."""
    return set(re.findall(r"\bray_\w+", expression))
