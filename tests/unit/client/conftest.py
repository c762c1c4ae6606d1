"""The client's tests talk to a stand-in for the coordinator, and find no other service."""

import pytest

from batchmill import Client
from support.stand_in_coordinator import TOKEN, StandIn


@pytest.fixture
def service():
    stand_in = StandIn().start()
    yield stand_in
    stand_in.stop()


@pytest.fixture
def restarted(service):
    """Stops the service and gives one that listens on the same port, with the same jobs."""
    started = []

    def restart():
        service.stop()
        successor = StandIn()
        successor.jobs, successor.by_key, successor.uploads = service.jobs, service.by_key, service.uploads
        successor.holds_jobs = service.holds_jobs
        started.append(successor)
        return successor.start(service.port)

    yield restart
    for successor in started:
        successor.stop()


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch, tmp_path):
    """No service of this machine is found by chance."""
    for variable in ("BATCHMILL_URL", "BATCHMILL_TOKEN"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("BATCHMILL_DATA_DIR", str(tmp_path / "no-service-here"))


@pytest.fixture
def client(service):
    with Client(service.url, TOKEN) as blocking:
        yield blocking
