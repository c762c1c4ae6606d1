"""Error replies of Redis, provoked in a real server for as long as a context lasts.

A server that is replaced meanwhile has none of them; what ends a context may then fail with a `RedisError`.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import redis

from support.cluster import free_port
from support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from support.cluster import Cluster

BUSY_S = 4


@contextmanager
def readonly(cluster: Cluster) -> Iterator[None]:
    """A replica of a primary that is not there, as the former primary of a failover."""
    with cluster.redis() as client:
        client.execute_command("REPLICAOF", "127.0.0.1", str(free_port()))
        try:
            yield
        finally:
            client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def masterdown(cluster: Cluster) -> Iterator[None]:
    """The same, and it answers reads with MASTERDOWN: only the write of a probe gets READONLY."""
    with configured(cluster, "replica-serve-stale-data", "no"), readonly(cluster):
        yield


@contextmanager
def configured(cluster: Cluster, name: str, value: str | int) -> Iterator[Any]:
    with cluster.redis() as client:
        before = client.config_get(name)[name]
        client.config_set(name, value)
        try:
            yield client
        finally:
            client.config_set(name, before)


def out_of_memory(cluster: Cluster) -> AbstractContextManager[None]:
    return configured(cluster, "maxmemory", 1)


def too_few_replicas(cluster: Cluster) -> AbstractContextManager[None]:
    return configured(cluster, "min-replicas-to-write", 1)


@contextmanager
def disk_fault(cluster: Cluster) -> Iterator[None]:
    """Its snapshot cannot be written: a folder has the file's name."""
    blocker = cluster.valkey_folder / "dump.rdb"
    blocker.unlink(missing_ok=True)  # of an earlier fault of this kind, which ended with a snapshot
    blocker.mkdir()
    with configured(cluster, "save", "3600 1"), cluster.redis() as client:
        try:
            client.bgsave(schedule=True)
            until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err", "the failure of the snapshot")
            yield
        finally:
            blocker.rmdir()
            client.bgsave(schedule=True)
            until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "ok", "the snapshot")


@contextmanager
def busy_script(cluster: Cluster) -> Iterator[None]:
    """Somebody's script runs for some seconds."""
    script = "local ends = redis.call('TIME')[1] + ARGV[1] while tonumber(redis.call('TIME')[1]) < ends do end"

    def hog() -> None:
        made = redis.Redis(unix_socket_path=str(cluster.socket), socket_timeout=60)
        with made as client, suppress(redis.ConnectionError):  # the server ends meanwhile
            client.eval(script, 0, BUSY_S)

    with configured(cluster, "busy-reply-threshold", 100):
        thread = threading.Thread(target=hog)
        thread.start()
        try:
            yield
        finally:
            thread.join()


@contextmanager
def client_limit(cluster: Cluster) -> Iterator[None]:
    with configured(cluster, "maxclients", 1) as client:
        cut_connections(client)
        yield


@contextmanager
def password_changed(cluster: Cluster) -> Iterator[None]:
    with configured(cluster, "requirepass", "another") as client:
        cut_connections(client)
        yield


def scripts_forbidden(cluster: Cluster) -> AbstractContextManager[None]:
    return permission(cluster, "-@scripting", undone_by="+@all")


def keys_forbidden(cluster: Cluster) -> AbstractContextManager[None]:
    return permission(cluster, "resetkeys", "~elsewhere:*", undone_by="allkeys")


def channels_forbidden(cluster: Cluster) -> AbstractContextManager[None]:
    return permission(cluster, "resetchannels", undone_by="allchannels")


@contextmanager
def permission(cluster: Cluster, *rules: str, undone_by: str) -> Iterator[None]:
    """Rules for the user of the service; `undone_by` is the one that takes them back."""
    with cluster.redis() as client:
        client.execute_command("ACL", "SETUSER", "default", *rules)
        try:
            yield
        finally:
            client.execute_command("ACL", "SETUSER", "default", undone_by)


@contextmanager
def scripts_lost(cluster: Cluster) -> Iterator[None]:
    with cluster.redis() as client:
        client.script_flush()
        try:
            yield
        finally:
            client.script_flush()


@contextmanager
def loading(cluster: Cluster) -> Iterator[None]:
    """The server starts again and takes some seconds to load its data."""
    assert cluster.valkey is not None
    with cluster.redis() as client:
        client.execute_command("DEBUG", "POPULATE", "200", "filler", "1000")
        client.execute_command("BGREWRITEAOF")
        until(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0, "the append-only file")
    cluster.valkey.process.terminate()
    cluster.valkey.process.wait()
    cluster.start_valkey("--key-load-delay", "20000", "--loading-process-events-interval-bytes", "1024", wait=False)
    try:
        yield
    finally:
        until(cluster.answers, "the end of loading")
        with cluster.redis() as client:
            client.config_set("key-load-delay", 0)


def cut_connections(client: Any) -> None:
    for kind in ("normal", "pubsub"):
        client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
