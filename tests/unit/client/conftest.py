"""The client's tests talk to the real API in this process, and find no other service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

from batchmill import Client
from batchmill.cli import main
from support.live_service import TOKEN, LiveService

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def live_service(valkey_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveService]:
    """One service for all of these tests."""
    made = LiveService(valkey_url, "live:", tmp_path_factory.mktemp("live")).start()
    yield made
    made.stop()


@pytest.fixture
def service(live_service: LiveService) -> Iterator[LiveService]:
    """The service, without a trace of other tests."""
    yield live_service
    live_service.reset()


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No service of this machine is found by chance."""
    for variable in ("BATCHMILL_URL", "BATCHMILL_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BATCHMILL_DATA_DIR", str(tmp_path / "no-service-here"))


@pytest.fixture
def client(service: LiveService) -> Iterator[Client]:
    """A client of the service."""
    with Client(service.url, TOKEN) as blocking:
        yield blocking


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page of results has one shard."""
    monkeypatch.setattr("batchmill_coordinator.results.pages.TARGET_PAGE_BYTES", 1)


@pytest.fixture
def run(service: LiveService, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs a command line against the service; the outcome has exit_code, stdout and stderr."""
    monkeypatch.setenv("BATCHMILL_URL", service.url)
    monkeypatch.setenv("BATCHMILL_TOKEN", service.token)

    def run_command(*args: object, **options: Any) -> Result:
        return CliRunner().invoke(main, [str(one) for one in args], catch_exceptions=False, **options)

    return run_command
