"""The dashboards that ship, as far as they can be judged without Prometheus; tests/system asks their queries."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.dashboards import FOLDER, NAMES, dashboard, panels_of, queries, variables_of

PROVISIONING = FOLDER.parent / "provisioning"
COMPOSE = FOLDER.parents[2] / "docker-compose.yml"


@pytest.fixture(params=NAMES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dashboard(request.param)


def test_the_dashboards_are_those_that_are_told_of() -> None:
    assert set(NAMES) >= {"fleet", "jobs", "devices", "failures", "cost"}
    assert [dashboard(name)["uid"] for name in NAMES] == [f"batchmill-{name}" for name in NAMES]


def test_a_dashboard_says_what_it_is_for_and_leads_to_the_others(board: dict[str, Any]) -> None:
    assert board["title"].startswith("Batchmill: ")
    assert board["description"]
    assert board["tags"] == board["links"][0]["tags"] == ["batchmill"]


def test_every_panel_has_a_description_a_unit_and_a_legend_and_asks_the_provisioned_source(
    board: dict[str, Any],
) -> None:
    source = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    for panel in panels_of(board):
        assert re.fullmatch(r"[A-Z].+[^.]", panel["title"])
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        asked = [panel["datasource"], *(target["datasource"] for target in panel["targets"])]
        assert {place["uid"] for place in asked} == {source["uid"]}


def test_panels_have_names_of_their_own_and_do_not_lie_on_each_other(board: dict[str, Any]) -> None:
    ids = [panel["id"] for panel in board["panels"]]
    places = [panel["gridPos"] for panel in board["panels"]]
    titles = [(panel["type"], panel["title"]) for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart


def test_every_variable_of_a_dashboard_is_used_and_every_one_in_use_is_there(board: dict[str, Any]) -> None:
    asked = " ".join(target["expr"] for panel in panels_of(board) for target in panel["targets"])
    assert set(re.findall(r"\$(\w+)", asked)) - {"__rate_interval"} == set(variables_of(board))


def test_a_rate_is_taken_over_the_interval_that_grafana_chooses_or_a_stated_hour() -> None:
    windows = {window for query in queries() for window in re.findall(r"\[([^\]]+)\]", query.expr)}
    assert windows <= {"$__rate_interval", "1h"}


def test_grafana_finds_the_dashboards_where_compose_mounts_them() -> None:
    provider = yaml.safe_load((PROVISIONING / "dashboards" / "batchmill.yml").read_text())["providers"][0]
    mounts = yaml.safe_load(COMPOSE.read_text())["services"]["grafana"]["volumes"]
    assert f"./{Path(FOLDER).relative_to(COMPOSE.parent)}:{provider['options']['path']}:ro" in mounts
