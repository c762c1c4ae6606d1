"""A real Prometheus with the configuration that ships, but for where services are and how often it asks them."""

from __future__ import annotations

import json
import math
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from batchmill.processes.parent_death import die_with_parent
from support.cluster import free_port
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SHIPPED = Path(__file__).resolve().parents[2] / "deploy" / "prometheus"
EVERY = "1s"


class Prometheus:
    """Where it answers, and since when it has asked."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.since = time.time()

    def targets(self) -> dict[str, str]:
        """Each target's health, by its address."""
        found = self._get("targets", state="active")["activeTargets"]
        return {target["scrapeUrl"]: target["health"] for target in found}

    def ranges(self, query: str) -> list[list[float]]:
        """The values of each series that a query gives, second by second from the start to now."""
        found = self._get("query_range", query=query, start=str(self.since), end=str(time.time()), step="1")
        return [[float(value) for _, value in series["values"]] for series in found["result"]]

    def has_values(self, query: str) -> bool:
        """Whether a query gives any number."""
        return any(math.isfinite(value) for values in self.ranges(query) for value in values)

    def now(self, query: str) -> float:
        """The only value that a query gives now; 0 for none."""
        result = self._get("query", query=query)["result"]
        return float(result[0]["value"][1]) if result else 0.0

    def rules(self) -> dict[str, str]:
        """How each rule is, by its name."""
        return {rule["name"]: rule["health"] for group in self._get("rules")["groups"] for rule in group["rules"]}

    def _get(self, path: str, **query: str) -> Any:
        asked = urllib.parse.urlencode(query)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{asked}", timeout=GRACE_S) as answer:  # noqa: S310  # its own server
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise AssertionError(f"{query}: {error.read().decode()}") from error


@contextmanager
def prometheus(folder: Path, targets: Mapping[str, Sequence[str]], token: str) -> Iterator[Prometheus]:
    """Started over `folder`; targets: the addresses of each job of the shipped configuration."""
    port = free_port()
    config = write_config(folder, targets, token)
    command = [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'samples'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(die_with_parent(command), stdout=log, stderr=log)
    try:
        started = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: _answers(started.url), "the start of Prometheus")
        yield started
    finally:
        process.terminate()
        process.wait(GRACE_S)


def write_config(folder: Path, targets: Mapping[str, Sequence[str]], token: str) -> Path:
    """The shipped configuration with these targets and this token."""
    secret = folder / "token"
    secret.write_text(token)
    config = yaml.safe_load((SHIPPED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": EVERY, "evaluation_interval": EVERY}
    config["rule_files"] = [str(SHIPPED / pattern) for pattern in config["rule_files"]]
    for job in config["scrape_configs"]:
        del job["dns_sd_configs"]
        job["static_configs"] = [{"targets": list(targets[job["job_name"]])}]
        if "authorization" in job:
            job["authorization"]["credentials_file"] = str(secret)
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/-/ready", timeout=GRACE_S):  # noqa: S310  # its own server
            return True
    except OSError:
        return False
