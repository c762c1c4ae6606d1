"""The Helm chart, rendered for real and judged by the schemas of three versions of Kubernetes. No cluster runs it."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from batchmill.settings import CoordinatorSettings, ServiceSettings, WorkerSettings

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy" / "helm" / "batchmill"
HELM = shutil.which("helm") or str(ROOT / ".venv" / "helm" / "helm")
VERSIONS = ("1.30", "1.33", "1.36")

NEEDED: dict[str, Any] = {"blobRoot": "s3://bucket/mill", "secrets": {"ledger": "mill-ledger", "api": "mill-api"}}
WATCHED: dict[str, Any] = {"secrets": {**NEEDED["secrets"], "metrics": "mill-metrics"}}
VALUES: dict[str, dict[str, Any]] = {
    "least": NEEDED,
    "keda": {**NEEDED, **WATCHED, "scaler": "keda", "pools": {"default": {"min": 1, "max": 20}}},
    "gpus": {
        **NEEDED,
        "pools": {
            "default": None,
            "gpu": {
                "gpus": 2,
                "replicas": 3,
                "nodeSelector": {"cloud.google.com/gke-accelerator": "nvidia-l4"},
                "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
                "resources": {"requests": {"cpu": "4"}, "limits": {"memory": "32Gi"}},
            },
        },
    },
    "spot": {**NEEDED, "pools": {"spot": {"spot": "gke", "drainSeconds": 10, "settings": {"PRICE_PER_HOUR": 0.3}}}},
    "monitored": {**NEEDED, **WATCHED, "podMonitor": True, "scaler": "keda"},
    "folders": {
        **NEEDED,
        "blobRoot": "/mnt/blobs",
        "roots": ["/mnt/results", "s3://corpus/2026"],
        "volumes": [{"name": "mnt", "mountPath": "/mnt", "persistentVolumeClaim": {"claimName": "shared"}}],
    },
    "identity": {
        **NEEDED,
        "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/mill"}},
        "storeSecret": "mill-store",
        "image": {"tag": "1.2.3", "pullSecrets": ["registry"]},
        "networkPolicy": False,
        "coordinators": {"replicas": 1},
    },
    "everything": {
        **NEEDED,
        "secrets": {
            **WATCHED["secrets"],
            "others": [{"name": "hooks", "services": ["coordinator"]}, {"name": "keys", "services": ["worker"]}],
        },
        "settings": {"REDIS_PREFIX": "{batchmill}:", "LOG_LEVEL": "DEBUG", "LEASE_TTL_S": 15},
        "scaler": "keda",
        "coordinators": {
            "replicas": 3,
            "settings": {"WEBHOOKS": "/secrets/hooks/webhooks.toml"},
            "clients": [{"namespaceSelector": {"matchLabels": {"team": "search"}}}],
        },
        "pools": {"cpu-large": {"queue": "batch", "operators": ["mine.ops", "other"], "image": "registry/mine:7"}},
    },
}
KEDA_KEYS: dict[str, Any] = {
    "ScaledObject": {
        "scaleTargetRef": {"name": str},
        "pollingInterval": int,
        "cooldownPeriod": int,
        "minReplicaCount": int,
        "maxReplicaCount": int,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": {"scaleUp": dict, "scaleDown": dict}}},
        "triggers": [
            {
                "type": str,
                "metricType": str,
                "metadata": {
                    **dict.fromkeys(("url", "valueLocation", "targetValue", "activationTargetValue"), str),
                    **dict.fromkeys(("authMode", "timeout"), str),
                },
                "authenticationRef": {"name": str},
            }
        ],
    },
    "TriggerAuthentication": {"secretTargetRef": [{"parameter": str, "name": str, "key": str}]},
    "PodMonitor": {
        "selector": {"matchLabels": dict},
        "podMetricsEndpoints": [
            {
                "port": str,
                "path": str,
                "authorization": {"type": str, "credentials": {"name": str, "key": str}},
            }
        ],
    },
}
"""Fields of kinds that no schema of Kubernetes has; KEDA accepts an unknown field and ignores it."""


def helm(*arguments: str, values: dict[str, Any] | None = None) -> subprocess.CompletedProcess[str]:
    assert Path(HELM).exists(), "this test needs helm: tests/system/helm.sh"
    given = json.dumps({} if values is None else values)
    return subprocess.run([HELM, *arguments, "-f", "-"], input=given, capture_output=True, text=True, check=False)


def render(values: dict[str, Any], release: str = "mill") -> list[dict[str, Any]]:
    done = helm("template", release, str(CHART), "--namespace", "ml", values=values)
    assert done.returncode == 0, done.stderr
    return [one for one in yaml.safe_load_all(done.stdout) if one is not None]


@pytest.fixture(scope="module", params=list(VALUES))
def manifests(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return render(VALUES[request.param])


def of_kind(manifests: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [one for one in manifests if one["kind"] == kind]


def test_helm_finds_nothing_wrong_with_the_chart() -> None:
    done = helm("lint", str(CHART), "--strict", values=VALUES["everything"])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_as_kubernetes_has_it(manifests: list[dict[str, Any]], version: str) -> None:
    known = [one for one in manifests if one["kind"] not in KEDA_KEYS]
    assert len(known) >= 4
    for one in known:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_misspelled_field_is_found_so_that_the_check_means_something() -> None:
    deployment = of_kind(render(NEEDED), "Deployment")[0]
    deployment["spec"]["replicaz"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[0], strict=True)


def test_every_field_of_other_kinds_is_known(manifests: list[dict[str, Any]]) -> None:
    for one in manifests:
        if one["kind"] in KEDA_KEYS:
            require_known(one["spec"], KEDA_KEYS[one["kind"]], one["kind"])


def require_known(found: Any, known: Any, where: str) -> None:
    if isinstance(known, type):
        assert isinstance(found, known), where
    elif isinstance(known, list):
        assert found, where
        for item in found:
            require_known(item, known[0], where)
    else:
        for name, value in found.items():
            assert name in known, f"{where}.{name}"
            require_known(value, known[name], f"{where}.{name}")


def test_a_service_has_time_to_drain_and_only_the_scaler_counts_its_pods(manifests: list[dict[str, Any]]) -> None:
    scaled = {one["spec"]["scaleTargetRef"]["name"] for one in of_kind(manifests, "ScaledObject")}
    for deployment in of_kind(manifests, "Deployment"):
        name, spec = deployment["metadata"]["name"], deployment["spec"]["template"]["spec"]
        assert ("replicas" not in deployment["spec"]) == (name in scaled)
        if "worker" in name:
            drain_s = int(env_of(spec)["BATCHMILL_DRAIN_S"])
            assert spec["terminationGracePeriodSeconds"] >= drain_s + 5
            assert spec["terminationGracePeriodSeconds"] <= 15 or drain_s >= 30
    assert scaled <= {one["metadata"]["name"] for one in of_kind(manifests, "Deployment")}
    for one in of_kind(manifests, "ScaledObject"):
        assert "fallback" not in one["spec"]
        (trigger,) = one["spec"]["triggers"]
        pool = one["metadata"]["name"].removeprefix("mill-worker-")
        assert trigger["metadata"]["url"] == f"http://mill-coordinator.ml:8642/v1/pools/{pool}/scale"
        (login,) = of_kind(manifests, "TriggerAuthentication")
        assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]


def test_no_service_has_rights_that_it_does_not_need(manifests: list[dict[str, Any]]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 10001
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = spec["containers"]
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"])  # noqa: S108  # an emptyDir
        assert not any(volume.get("hostPath") for volume in spec["volumes"])
    assert not [one for one in manifests if one["kind"] in ("Role", "ClusterRole", "RoleBinding", "Secret")]


def test_secrets_are_names_and_only_who_needs_one_has_it(manifests: list[dict[str, Any]]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        spec = deployment["spec"]["template"]["spec"]
        held = {volume["secret"]["secretName"] for volume in spec["volumes"] if "secret" in volume}
        assert "mill-ledger" in held
        assert ("mill-api" in held) == ("coordinator" in deployment["metadata"]["name"])
        assert "mill-metrics" not in held or "coordinator" in deployment["metadata"]["name"]
        secret = {"BATCHMILL_TOKENS", "BATCHMILL_REDIS_URL", "BATCHMILL_METRICS_TOKEN"}
        assert not secret & env_of(spec).keys()
        folders = env_of(spec)["BATCHMILL_SECRETS_DIR"].split(",")
        assert set(folders) <= {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}


def test_selectors_find_the_pods_and_no_others(manifests: list[dict[str, Any]]) -> None:
    deployments = of_kind(manifests, "Deployment")
    labels = {one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"] for one in deployments}
    for one in deployments:
        found = [name for name, own in labels.items() if one["spec"]["selector"]["matchLabels"].items() <= own.items()]
        assert found == [one["metadata"]["name"]]
    for service in of_kind(manifests, "Service"):
        found = [name for name, own in labels.items() if service["spec"]["selector"].items() <= own.items()]
        assert found == ["mill-coordinator"]
    for budget in of_kind(manifests, "PodDisruptionBudget"):
        selected = budget["spec"]["selector"]["matchLabels"].items()
        found = [name for name, own in labels.items() if selected <= own.items()]
        assert found == ["mill-coordinator"]


def test_settings_are_those_that_services_know(manifests: list[dict[str, Any]]) -> None:
    kinds: dict[str, type[ServiceSettings]] = {"coordinator": CoordinatorSettings, "worker": WorkerSettings}
    for deployment in of_kind(manifests, "Deployment"):
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        known = {f"BATCHMILL_{name.upper()}" for name in kinds[container["name"]].model_fields}
        assert env_of(deployment["spec"]["template"]["spec"]).keys() <= known


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"blobRoot": ""}, "blobRoot"),
        ({"secrets": {"ledger": "l"}}, "api"),
        ({"scaler": "keda"}, "metrics"),
        ({"scaler": "hpa"}, "scaler"),
        ({"replicaz": 1}, "replicaz"),
        ({"pools": {"gpu": {"drainSeconds": 20}}}, "drainSeconds"),
        ({"pools": {"gpu": {"spot": "gke", "drainSeconds": 60}}}, "drainSeconds"),
        ({"pools": {"GPU": {}}}, "GPU"),
        ({"settings": {"TOKENS": "secret"}}, "TOKENS"),
        ({"pools": {"gpu": {"settings": {"REDIS_URL": "redis://:secret@h"}}}}, "REDIS_URL"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], named: str) -> None:
    done = helm("template", "mill", str(CHART), values={**NEEDED, **changes})
    assert done.returncode != 0
    assert named in done.stderr


def test_names_are_short_enough_whatever_the_release_is_called() -> None:
    values = {**NEEDED, **WATCHED, "scaler": "keda", "pools": {"a" * 22: {}}}
    for one in render(values, "r" * 53):
        assert len(one["metadata"]["name"]) <= 63, one["metadata"]["name"]


def env_of(spec: dict[str, Any]) -> dict[str, str]:
    return {one["name"]: one["value"] for one in spec["containers"][0]["env"]}
