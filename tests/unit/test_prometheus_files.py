"""Prometheus' configuration, rules and their tests, as far as they can be judged without it; tests/system runs it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchmill.telemetry.metrics import Metric, MetricKind
from batchmill_coordinator.metering.catalogue import COORDINATOR_METRICS, LEADER_METRICS
from batchmill_worker.metering.catalogue import WORKER_METRICS
from support.dashboards import queries

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deploy" / "prometheus"
METRICS = {metric.name: metric for metric in (*WORKER_METRICS, *COORDINATOR_METRICS, *LEADER_METRICS)}
_NAME = re.compile(r"(?<![\w:])((?:\w+:)?batchmill_\w+(?::\w+)?)")
_SELECTOR = re.compile(r"(?<![\w:])(batchmill_\w+)\{([^}]*)\}")
_GROUPED = re.compile(r"by \(([^)]*)\)")


def rules(name: str) -> list[dict[str, Any]]:
    groups = yaml.safe_load((FOLDER / "rules" / f"{name}.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


RECORDED = {rule["record"] for rule in rules("recording")}
ALERTS = {rule["alert"]: rule for rule in rules("alerts")}
EXPRESSIONS = sorted(
    {rule["expr"] for name in ("recording", "alerts") for rule in rules(name)} | {query.expr for query in queries()}
)


def metric_of(name: str) -> Metric | None:
    """The metric that a series belongs to."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    found = METRICS.get(base)
    return found if found is not None and found.kind is MetricKind.HISTOGRAM else METRICS.get(name)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_asks_only_for_what_there_is(expression: str) -> None:
    unknown = [name for name in _NAME.findall(expression) if name not in RECORDED and metric_of(name) is None]
    assert unknown == []


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_query_chooses_by_labels_that_the_metric_has(expression: str) -> None:
    for name, selector in _SELECTOR.findall(expression):
        metric = metric_of(name)
        assert metric is not None
        assert set(re.findall(r"(\w+)(?:=|!)", selector)) <= {*metric.labels, "instance", "job"}, name
    known = {label for metric in METRICS.values() for label in metric.labels}
    grouped = {label.strip() for labels in _GROUPED.findall(expression) for label in labels.split(",")}
    assert grouped <= known | {"instance", "job", "le", "alertname", "alertstate"}


def test_every_metric_but_an_information_is_shown_somewhere() -> None:
    shown = {metric_of(name) for expression in EXPRESSIONS for name in _NAME.findall(expression)}
    missing = {name for name, metric in METRICS.items() if metric not in shown}
    assert missing == {"batchmill_worker_info"}


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_it_found_and_is_documented(name: str) -> None:
    alert = ALERTS[name]
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"]["description"].endswith(".")
    assert not alert["annotations"]["summary"].endswith(".")
    assert re.search(rf"^\| `{name}` \| .+ \| .+ \|$", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE)


def test_no_alert_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"^\| `(Batchmill\w+)` \|", (ROOT / "docs" / "operations.md").read_text(), re.MULTILINE))
    assert named == set(ALERTS)


def test_every_alert_is_tested_firing_and_silent_and_every_recorded_sum_is_tested() -> None:
    tests = yaml.safe_load((FOLDER / "tests" / "alerts.yml").read_text())["tests"]
    expected = [(case["alertname"], bool(case["exp_alerts"])) for test in tests for case in test["alert_rule_test"]]
    assert sorted(expected) == sorted((name, fires) for name in ALERTS for fires in (True, False))
    sums = yaml.safe_load((FOLDER / "tests" / "recording.yml").read_text())["tests"]
    assert {case["expr"] for test in sums for case in test["promql_expr_test"]} == RECORDED


def test_prometheus_reads_the_token_that_the_secrets_service_draws_where_compose_mounts_it() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    by_job = {job["job_name"]: job for job in config["scrape_configs"]}
    mounts = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["prometheus"]["volumes"]
    assert by_job["coordinator"]["authorization"]["credentials_file"] == "/secrets/metrics/batchmill_metrics_token"
    assert "metrics-secrets:/secrets/metrics:ro" in mounts
    assert "authorization" not in by_job["worker"]
