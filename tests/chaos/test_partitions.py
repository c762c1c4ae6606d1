"""Machines whose packets are lost one way or both ways: every row is there once."""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

from batchmill.processes.parent_death import die_with_parent
from chaos.partition_faults import KINDS
from chaos.run import chaos, summary
from support.cluster import LEASE_S
from support.networks import BOTH_WAYS, Router, Way, networks_are_permitted
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.networks import Network

SECONDS = 60.0
PORT = 7777
MAX_WAIT_S = 0.3
ECHO = f"""
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", {PORT}))
print("ready", flush=True)
while True:
    message, sender = server.recvfrom(100)
    print(message.decode(), flush=True)
    server.sendto(message, sender)
"""
"""Prints what it gets, and sends it back."""

pytestmark = pytest.mark.skipif(
    not networks_are_permitted(), reason="networks of their own need Linux, root, ip, unshare and nsenter"
)


@contextmanager
def echo_in(network: Network, log: Path) -> Iterator[None]:
    """Run `ECHO` in a network."""
    with log.open("wb") as out:
        process = subprocess.Popen(die_with_parent(network.inside([sys.executable, "-c", ECHO])), stdout=out)
    try:
        until(lambda: "ready" in log.read_text(), "the start of the other side")
        yield
    finally:
        process.kill()
        process.wait()


def is_answered(network: Network, text: str) -> bool:
    """Send a packet, and say whether it comes back."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.settimeout(MAX_WAIT_S)
        sender.sendto(text.encode(), (network.address, PORT))
        try:
            return sender.recv(100).decode() == text
        except TimeoutError:
            return False


def test_packets_are_lost_the_way_that_is_asked_for_and_no_link_is_left_behind(tmp_path: Path) -> None:
    router, log = Router(), tmp_path / "log"
    network = router.network()
    try:
        with echo_in(network, log):
            assert is_answered(network, "whole")
            network.lose(Way.TO)
            assert not is_answered(network, "deaf")
            network.lose(*BOTH_WAYS)
            assert not is_answered(network, "off")
            network.heal()
            assert is_answered(network, "again")
            network.lose(Way.FROM)
            assert not is_answered(network, "mute")
            until(lambda: "mute" in log.read_text(), "the packet that is not answered")
            assert log.read_text().split() == ["ready", "whole", "again", "mute"]
    finally:
        network.close()
        router.close()
    until(lambda: not Path(f"/sys/class/net/{router.link}").exists(), "the end of the link")


def test_no_row_is_lost_doubled_or_wrong_when_whole_machines_are_cut_off(tmp_path: Path) -> None:
    seed = int(os.environ.get("SEED") or random.SystemRandom().randrange(10**6))
    click.echo(f"seed {seed}: run it again with SEED={seed} make partition")
    report = chaos(seed, SECONDS, tmp_path, only_partitions=True)
    (tmp_path / "report.json").write_text(json.dumps(report, indent=1))
    click.echo(summary(report))
    assert report["holds"], summary(report)
    assert report["jobs"] >= 3
    struck = [fault["kind"] for fault in report["faults"]]
    assert set(struck) <= set(KINDS)
    assert len(struck) >= 8
    assert any(fault["away_s"] > LEASE_S for fault in report["faults"])
