"""docker-compose.yml and what it takes, as far as it can be judged without starting it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from batchmill.settings import PREFIX, SERVICES, WorkerSettings
from batchmill_worker.supervisor.supervisor import KILL_AFTER_DRAIN_S

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docker-compose.yml").read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
CONTAINERS: dict[str, Any] = STACK["services"]
PUBLISHED = {"coordinator", "flower", "grafana"}
_VARIABLE = re.compile(r"\$\{(\w+)")
_SETTING = re.compile(r"^([A-Z_]+)=(.*)$", re.MULTILINE)


def test_only_the_api_flower_and_grafana_publish_ports_and_only_on_this_machine() -> None:
    ports = {name: port for name, container in CONTAINERS.items() for port in container.get("ports", [])}
    assert set(ports) == PUBLISHED
    assert all(port.startswith("${PUBLISH_ON:-127.0.0.1}:") for port in ports.values())


@pytest.mark.parametrize("name", sorted(CONTAINERS))
def test_every_container_is_read_only_and_has_no_capability(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert not container.get("privileged")


def test_every_variable_has_a_default_and_those_of_the_example_are_used() -> None:
    undefended = re.findall(r"\$\{(\w+)\}", TEXT.replace("on ${PUBLISH_ON}", ""))
    named = {name for name, _ in _SETTING.findall((ROOT / ".env.example").read_text())}
    assert undefended == []
    assert named <= set(_VARIABLE.findall(TEXT))


def test_the_example_brings_no_secret() -> None:
    values = dict(_SETTING.findall((ROOT / ".env.example").read_text()))
    secret = {name for name in values if re.search("PASSWORD|TOKEN|USERS", name)}
    assert secret == {"REDIS_PASSWORD", "API_TOKENS", "METRICS_TOKEN", "FLOWER_USERS", "GRAFANA_PASSWORD"}
    assert {values[name] for name in secret} == {""}


def test_a_service_is_only_given_settings_that_exist() -> None:
    known = {PREFIX + name.upper() for kind in SERVICES for name in kind.model_fields}
    given = {name for container in CONTAINERS.values() for name in container.get("environment", {})}
    assert {name for name in given if name.startswith(PREFIX)} <= known


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "worker-vllm"])
def test_workers_are_given_more_time_to_stop_than_they_take_to_drain(name: str) -> None:
    drain_s = float(CONTAINERS[name]["environment"].get("BATCHMILL_DRAIN_S", WorkerSettings().drain_s))
    grace_s = float(CONTAINERS[name]["stop_grace_period"].removesuffix("s"))
    assert grace_s > drain_s + KILL_AFTER_DRAIN_S


def test_what_is_mounted_from_the_checkout_is_there() -> None:
    mounts = [volume for container in CONTAINERS.values() for volume in container.get("volumes", [])]
    folders = {mount.split(":")[0] for mount in mounts if mount.startswith("./deploy")}
    assert folders
    assert all((ROOT / folder).is_dir() for folder in folders)


def test_each_secret_goes_only_to_the_services_that_need_it() -> None:
    seen = {
        secret: {name for name, container in CONTAINERS.items() if f"{secret}:" in str(container.get("volumes"))}
        for secret in STACK["volumes"]
        if secret.endswith("-secrets")
    }
    ledger = {"valkey", "coordinator", "standby", "worker", "worker-gpu", "worker-vllm", "flower"}
    assert seen == {
        "ledger-secrets": {"secrets", *ledger},
        "api-secrets": {"secrets", "coordinator", "standby"},
        "metrics-secrets": {"secrets", "coordinator", "standby", "prometheus"},
        "flower-secrets": {"secrets", "flower"},
        "grafana-secrets": {"secrets", "grafana"},
    }
