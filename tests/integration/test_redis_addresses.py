"""Each spelling of the address reaches a real server, for ledger and broker alike; a wrong one says what to do."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from celery import Celery
from kombu.exceptions import OperationalError

from batchmill.broker import celery_settings
from batchmill.embedded.valkey import valkey_command
from batchmill.errors import BatchmillError, LedgerRefused, ServiceUnavailable
from batchmill.jobs.completion import Completion
from batchmill.jobs.job import JobState
from batchmill.ledger import Ledger
from batchmill.processes.parent_death import die_with_parent
from batchmill.redis_access.connections import ServerUnavailable
from batchmill.settings import ServiceSettings
from support.ledger_steps import claim, plan, queue_one, submit
from support.waiting import GRACE_S, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "p@ss/w#rd%:?&ü"  # noqa: S105  # of a server of the test
CHUNK = 65536


@contextmanager
def server(folder: Path, *options: str) -> Iterator[tuple[int, Path]]:
    """A Valkey with a port and a socket of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    port, path = free_port(), folder / "s"
    command = [*valkey_command(folder, path), "--port", str(port), "--bind", "127.0.0.1", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(die_with_parent(command), stdout=log, stderr=log)
    try:
        await_port(port)
        yield port, path
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def await_port(port: int) -> None:
    until(lambda: listens(port), f"a server on port {port}")


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def ledger_error(url: str, **settings: str) -> BatchmillError | None:
    """What the ledger says of an address; None: it works."""
    ledger = Ledger.open(ServiceSettings(redis_url=url, **settings))  # type: ignore[arg-type]  # text, all of them
    try:
        ledger.require_access()
        ledger.require_schema()
        ledger.lead("me", 1)
        ledger.probe()
    except BatchmillError as error:
        return error
    finally:
        ledger.close()
    return None


def broker_error(url: str, **settings: str) -> Exception | None:
    """What Celery says of an address; None: a message passes through it."""
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_settings(ServiceSettings(redis_url=url, **settings)))  # type: ignore[arg-type]  # as above
    with app.connection_for_write() as connection:
        try:
            connection.ensure_connection(max_retries=1, timeout=GRACE_S)
            queue = connection.SimpleQueue("address")
            queue.put({"passes": True})
            assert queue.get(timeout=GRACE_S).payload == {"passes": True}
        except OperationalError as error:
            refused: Exception = error
            return refused
        queue.close()
    return None


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
@pytest.mark.parametrize("database", ["/3", "?db=3", "", "/3?db=3"])
def test_ledger_and_broker_use_the_database_that_is_named(tmp_path: Path, scheme: str, database: str) -> None:
    with server(tmp_path / "server") as (port, _):
        url = f"{scheme}://127.0.0.1:{port}{database}"
        assert (ledger_error(url), broker_error(url)) == (None, None)
        where = Ledger.open(ServiceSettings(redis_url=url))._store.redis.info("keyspace")
        assert list(where) == ["db3" if database else "db0"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["", "mill"])
def test_a_user_and_a_password_with_special_characters_open_port_and_socket(tmp_path: Path, name: str) -> None:
    user = f"{name or 'default'} on >{SECRET} ~batchmill:* &* +@all"
    (tmp_path / "acl").write_text(f"user {user}\n" + ("user default off\n" if name else ""))
    with server(tmp_path / "server", "--aclfile", str(tmp_path / "acl")) as (port, path):
        login = f"{name}:{quote(SECRET, safe='')}@"
        for url in (f"redis://{login}127.0.0.1:{port}/0", f"unix://{login}{path}?db=2"):
            assert (ledger_error(url), broker_error(url)) == (None, None)
        for url in (f"redis://127.0.0.1:{port}/0", f"unix://{path}", f"redis://{name}:wrong@127.0.0.1:{port}/0"):
            assert isinstance(ledger_error(url), LedgerRefused)
            assert broker_error(url) is not None


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        ("~batchmill:* &batchmill:* +@all", "&*"),
        ("~batchmill:* resetchannels +@all", "channel"),
        ("~other:* &* +@all", "~PREFIX*"),
        ("~batchmill:* &* +@all -evalsha", "evalsha"),
        ("~batchmill:* &* +@all -@scripting", "evalsha"),
        ("~batchmill:* &* +@all -brpop", "brpop"),
        ("~batchmill:* &* +@all -watch", "watch"),
        ("~batchmill:* &* +@all -xadd", "xadd"),
        ("~batchmill:* &* +@all -@admin -@dangerous +client", "info"),
    ],
)
def test_a_missing_permission_is_named(tmp_path: Path, rules: str, named: str) -> None:
    (tmp_path / "acl").write_text(f"user default on nopass {rules}\n")
    with server(tmp_path / "server", "--aclfile", str(tmp_path / "acl")) as (port, _):
        error = ledger_error(f"redis://127.0.0.1:{port}/0")
    assert isinstance(error, LedgerRefused)
    assert named in str(error)


def test_the_permissions_that_the_documentation_names_are_enough(tmp_path: Path) -> None:
    rules = "~batchmill:* &* +@all -@admin -@dangerous +info +client"
    (tmp_path / "acl").write_text(f"user default on nopass {rules}\n")
    with server(tmp_path / "server", "--aclfile", str(tmp_path / "acl")) as (port, _):
        url = f"redis://127.0.0.1:{port}/0"
        assert (ledger_error(url), broker_error(url)) == (None, None)


def test_a_renamed_script_command_is_named(tmp_path: Path) -> None:
    with server(tmp_path / "server", "--rename-command", "EVALSHA", "") as (port, _):
        error = ledger_error(f"redis://127.0.0.1:{port}/0")
    assert isinstance(error, LedgerRefused)
    assert "rename-command" in str(error)


def test_a_node_of_a_cluster_needs_a_prefix_that_keeps_all_keys_in_one_slot(tmp_path: Path) -> None:
    with server(tmp_path / "server", "--cluster-enabled", "yes") as (port, _):
        url = f"redis://127.0.0.1:{port}/0"
        with pytest.raises(ServiceUnavailable, match="CLUSTERDOWN"):
            Ledger.open(ServiceSettings(redis_url=url)).probe()
        client = Ledger.open(ServiceSettings(redis_url=url))._store.redis
        client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: b"cluster_state:ok" in client.execute_command("CLUSTER", "INFO"), "a cluster that is up")
        error, tagged = ledger_error(url), {"redis_prefix": "{batchmill}:"}
        assert (ledger_error(url, **tagged), broker_error(url, **tagged)) == (None, None)
        ledger = Ledger(client, tagged["redis_prefix"])
        epoch = ledger.lead("me", 3600)
        submit(ledger)
        assert plan(ledger, epoch, [5, 7]) == "ok"
        claim(ledger, queue_one(ledger, epoch, 0))
    assert isinstance(error, LedgerRefused)
    assert "BATCHMILL_REDIS_PREFIX={batchmill}:" in str(error)


def test_a_password_that_changes_is_read_from_its_file_at_the_next_connection(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{SECRET}\n")
    with server(tmp_path / "server", "--requirepass", SECRET) as (port, path):
        for url in (f"redis://127.0.0.1:{port}/0?password_file={file}", f"unix://{path}?password_file={file}"):
            assert (ledger_error(url), broker_error(url)) == (None, None)
        ledger = Ledger.open(ServiceSettings(redis_url=url))
        ledger.ping()
        ledger._store.redis.config_set("requirepass", "another")
        assert isinstance(ledger_error(url), LedgerRefused)
        file.write_text("another")
        assert (ledger_error(url), broker_error(url)) == (None, None)
        file.unlink()
        error = ledger_error(url)
    assert isinstance(error, LedgerRefused)
    assert str(file) in str(error)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two certificates that sign themselves: `good` for this machine, `evil` for another name."""
    folder = tmp_path_factory.mktemp("certificates")
    for name, alternative in (("good", "DNS:localhost,IP:127.0.0.1"), ("evil", "DNS:evil.example")):
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-addext", f"subjectAltName={alternative}"]
        subprocess.run([*command, *files], cwd=folder, check=True, capture_output=True)
    return folder


@contextmanager
def tls_server(folder: Path, certificates: Path, name: str) -> Iterator[int]:
    """Redis over TLS: Debian's server where it is installed, else a TLS end in front of the bundled one."""
    binary = shutil.which("redis-server")
    if binary is None:
        with server(folder) as (port, _), tls_end(port, certificates, name) as tls_port:
            yield tls_port
        return
    port = free_port()
    files = {"cert": f"{name}.pem", "key": f"{name}.key", "ca-cert": f"{name}.pem"}
    options = [part for option, file in files.items() for part in (f"--tls-{option}-file", str(certificates / file))]
    command = [binary, "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--save", "", *options]
    process = subprocess.Popen(die_with_parent(command), stdout=subprocess.DEVNULL, cwd=folder.parent)
    try:
        await_port(port)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def tls_end(port: int, certificates: Path, name: str) -> Iterator[int]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates / f"{name}.pem", certificates / f"{name}.key")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    accepted, _ = listener.accept()
                except OSError:  # it is closed
                    return
                threading.Thread(target=relay, args=(context, accepted, port), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield int(listener.getsockname()[1])
        listener.shutdown(socket.SHUT_RDWR)


def relay(context: ssl.SSLContext, accepted: socket.socket, port: int) -> None:
    """Pass on what the two ends of a connection send until one closes."""
    try:
        with (
            context.wrap_socket(accepted, server_side=True) as outer,
            socket.create_connection(("127.0.0.1", port)) as inner,
        ):
            back = threading.Thread(target=pump, args=(inner, outer), daemon=True)
            back.start()
            pump(outer, inner)
            inner.shutdown(socket.SHUT_RDWR)
            back.join()
    except OSError:  # the client did not accept the certificate
        return


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(CHUNK):
            target.sendall(data)
    except OSError:  # the other end closed
        return


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@pytest.mark.parametrize(
    ("certificate", "options", "is_accepted"),
    [
        ("good", "", False),
        ("good", "?ssl_ca_certs={folder}/good.pem", True),
        ("good", "?ssl_ca_certs={folder}/good.pem&ssl_cert_reqs=required", True),
        ("good", "?ssl_ca_certs={folder}/evil.pem", False),
        ("good", "?ssl_cert_reqs=none", True),
        ("evil", "?ssl_ca_certs={folder}/evil.pem", False),
        ("evil", "?ssl_ca_certs={folder}/evil.pem&ssl_check_hostname=false", True),
        ("evil", "?ssl_cert_reqs=CERT_NONE", True),
    ],
)
def test_ledger_and_broker_verify_the_same_certificates(
    tmp_path: Path, certificates: Path, scheme: str, certificate: str, options: str, *, is_accepted: bool
) -> None:
    with tls_server(tmp_path / "server", certificates, certificate) as port:
        url = f"{scheme}://127.0.0.1:{port}/0{options.format(folder=certificates)}"
        error = ledger_error(url)
        assert (error is None, broker_error(url) is None) == (is_accepted, is_accepted)
    assert is_accepted or (isinstance(error, LedgerRefused) and "ssl_ca_certs" in str(error))


def test_events_that_a_server_comes_to_refuse_leave_no_script_half_done(tmp_path: Path) -> None:
    with server(tmp_path / "server") as (port, _):
        ledger = Ledger.open(ServiceSettings(redis_url=f"redis://127.0.0.1:{port}/0"))
        client = ledger._store.redis
        client.execute_command("ACL", "SETUSER", "default", "resetchannels")
        with pytest.raises(ServerUnavailable, match="NOPERM"):
            client.publish("any", "event")
        epoch = ledger.lead("me", 3600)
        submit(ledger)
        assert plan(ledger, epoch, [5, 7]) == "ok"
        for number in range(2):
            ref = queue_one(ledger, epoch, number)
            claim(ledger, ref)
            assert ledger.shards.commit(ref, Completion(rows=5, rows_dead=0, nbytes=10, busy_s=0.5))
        assert ledger.jobs.finish(ledger.jobs.read("job-1"), JobState.COMPLETED, epoch)
        record = ledger.jobs.read("job-1")
        assert (record.state, record.first.shards_done, record.first.shards_live) == (JobState.COMPLETED, 2, 0)
        assert ledger.jobs.live() == []
