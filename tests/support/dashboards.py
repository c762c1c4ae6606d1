"""The dashboards that ship, and the queries of their panels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "grafana" / "dashboards"
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


class PanelQuery(NamedTuple):
    """One query of one panel, as it is written there."""

    dashboard: str
    panel: str
    expr: str

    def filled(self, interval: str) -> str:
        """The query as Grafana sends it: for everything, over this interval."""
        filled = self.expr.replace("$__rate_interval", interval)
        for variable in variables_of(dashboard(self.dashboard)):
            filled = filled.replace(f"${variable}", ".*")
        return filled


def dashboard(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return found


def panels_of(board: dict[str, Any]) -> list[dict[str, Any]]:
    """Its panels, without the headings between them."""
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def variables_of(board: dict[str, Any]) -> list[str]:
    return [variable["name"] for variable in board["templating"]["list"]]


def queries() -> Iterator[PanelQuery]:
    """All queries of all dashboards."""
    for name in NAMES:
        for panel in panels_of(dashboard(name)):
            for target in panel["targets"]:
                yield PanelQuery(name, panel["title"], target["expr"])
