"""What the clouds say about the end of a machine, asked from a service that speaks their protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from batchmill.errors import InvalidSettings
from batchmill_worker.supervisor.notice_watch import NoticeWatch
from batchmill_worker.supervisor.notices import (
    AWS_ACTION,
    AZURE_EVENTS,
    GCP_MAINTENANCE,
    SHORT_NOTICE_S,
    NoticeUnknown,
    lifecycle_of,
    open_notices,
)
from batchmill_worker.supervisor.slot_files import LeavingFile
from support.metadata_service import MetadataService, metadata_service

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from batchmill_worker.supervisor.notices import NoticeSource

NOW_S = 1_700_000_000.0
END_S = NOW_S + 120


@pytest.fixture(scope="module")
def served() -> Iterator[MetadataService]:
    with metadata_service() as service:
        yield service


@pytest.fixture
def service(served: MetadataService) -> MetadataService:
    served.says.clear()
    return served


def source_of(cloud: str, service: MetadataService) -> NoticeSource:
    source = open_notices(cloud, service.url)
    assert source is not None
    return source


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_nothing_is_announced_and_then_the_end_of_the_machine(cloud: str, service: MetadataService) -> None:
    source = source_of(cloud, service)
    assert source.ends_at(NOW_S) is None
    service.announce(cloud, END_S)
    assert source.ends_at(NOW_S) == (NOW_S + SHORT_NOTICE_S if cloud == "gcp" else END_S)


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_spot_machine_is_known_as_one(cloud: str, service: MetadataService) -> None:
    assert lifecycle_of(source_of(cloud, service)) == "on_demand"
    service.become_spot()
    assert lifecycle_of(source_of(cloud, service)) == "spot"


@pytest.mark.parametrize("cloud", ["aws", "gcp", "azure"])
def test_a_machine_whose_cloud_cannot_be_asked_has_the_price_of_others(cloud: str) -> None:
    with metadata_service() as away:
        source = source_of(cloud, away)
    assert lifecycle_of(source) == "on_demand"


def test_the_end_of_another_machine_of_the_scale_set_is_not_ours(service: MetadataService) -> None:
    service.announce("azure", END_S, machine="vm-2")
    assert source_of("azure", service).ends_at(NOW_S) is None


def test_an_azure_event_that_has_started_has_no_time(service: MetadataService) -> None:
    service.announce("azure", END_S)
    at = service.says[AZURE_EVENTS].partition(b'"NotBefore": "')[2].partition(b'"')[0]
    service.says[AZURE_EVENTS] = service.says[AZURE_EVENTS].replace(at, b"")
    assert source_of("azure", service).ends_at(NOW_S) == NOW_S + SHORT_NOTICE_S


def test_maintenance_that_ends_a_machine_with_gpus_is_its_end(service: MetadataService) -> None:
    service.says[GCP_MAINTENANCE] = b"TERMINATE_ON_HOST_MAINTENANCE"
    assert source_of("gcp", service).ends_at(NOW_S) == NOW_S + SHORT_NOTICE_S


def test_a_token_that_is_no_longer_accepted_is_replaced_at_once(service: MetadataService) -> None:
    source = source_of("aws", service)
    assert source.ends_at(NOW_S) is None
    service.tokens.clear()
    service.announce("aws", END_S)
    assert source.ends_at(NOW_S) == END_S


@pytest.mark.parametrize("said", [b"{", b"[]", b"7", b'{"action": "terminate"}', b"[" * 200_000, b"x" * 2_000_000])
def test_an_answer_that_cannot_be_read_announces_nothing(said: bytes, service: MetadataService) -> None:
    service.says[AWS_ACTION] = said
    with pytest.raises(NoticeUnknown):
        source_of("aws", service).ends_at(NOW_S)


def test_a_service_that_is_away_is_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with metadata_service() as gone:
        source = source_of("aws", gone)
    watch = NoticeWatch(source, 30, lambda _: None)
    watch.look(NOW_S)
    watch.look(NOW_S)
    assert watch.ends_at is None
    assert caplog.text.count("cannot be asked") == 1


def test_the_drain_begins_as_late_as_it_can(service: MetadataService) -> None:
    told: list[float] = []
    watch = NoticeWatch(source_of("aws", service), 30, told.append)
    watch.look(NOW_S)
    assert not watch.should_drain(NOW_S)
    service.announce("aws", END_S)
    watch.look(NOW_S)
    assert told == [END_S]
    assert not watch.should_drain(END_S - 31)
    assert watch.should_drain(END_S - 30)


def test_device_processes_read_when_their_machine_ends(tmp_path: Path) -> None:
    assert LeavingFile(tmp_path).read() is None
    LeavingFile(tmp_path).write(END_S)
    assert LeavingFile(tmp_path).read() == END_S


@pytest.mark.parametrize("url", ["https://127.0.0.1", "127.0.0.1:80", "http://", "http://[", "http://a:b"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidSettings, match="BATCHMILL_NOTICES_URL"):
        open_notices("aws", url)


def test_nobody_is_asked_unless_a_cloud_is_named() -> None:
    assert open_notices("off", "") is None
