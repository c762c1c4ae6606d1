from __future__ import annotations

from typing import Any

import pytest

from batchmill.errors import InvalidSettings
from batchmill.jobs.cost import NANO
from batchmill.settings import WorkerSettings
from batchmill_worker.devices.placement import SlotIdentity
from batchmill_worker.slot.pricing import hourly_price_nano, parse_prices


def slot(device_type: str = "NVIDIA L4", count: int = 1) -> SlotIdentity:
    return SlotIdentity(
        name="gpu0@host-1", slot=0, device="cuda:0", device_type=device_type, device_count=count, memory_bytes=None
    )


@pytest.mark.parametrize(
    ("identity", "settings", "price"),
    [
        (slot(), {}, 0.0),
        (slot(), {"price_per_hour": 0.8}, 0.8),
        (slot(), {"price_per_hour": 0.8, "prices": "cpu=0.05"}, 0.8),
        (slot("cpu"), {"price_per_hour": 0.8, "prices": "NVIDIA L4=1, cpu = 0.05"}, 0.05),
        (slot("cpu"), {"price_per_hour": 0.8, "slots_per_device": 4}, 0.2),
        (slot(count=2), {"prices": "NVIDIA L4=0.8"}, 1.6),
        (slot("NVIDIA L4 + NVIDIA T4", 2), {"prices": "NVIDIA L4=0.8,NVIDIA T4=0.3"}, 1.1),
        (slot(), {"prices": "NVIDIA L4=0.8,NVIDIA L4 spot=0.3"}, 0.8),
        (slot(), {"prices": "NVIDIA L4=0.8,NVIDIA L4 spot=0.3", "lifecycle": "spot"}, 0.3),
        (slot(), {"prices": "NVIDIA L4=0.8", "lifecycle": "spot"}, 0.8),
        (slot("a=b"), {"prices": "a=b=2"}, 2.0),
    ],
)
def test_a_slot_costs_what_its_devices_do_shared_by_the_slots_on_them(
    identity: SlotIdentity, settings: dict[str, Any], price: float
) -> None:
    assert hourly_price_nano(WorkerSettings(**settings), identity) == round(price * NANO)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("NVIDIA L4", "'NVIDIA L4' is no price"),
        ("=0.8", "'=0.8' is no price"),
        ("cpu=cheap", "'cpu=cheap' is no price"),
        ("cpu=-1", "'cpu=-1' is no price"),
        ("cpu=nan", "'cpu=nan' is no price"),
        ("cpu=inf", "'cpu=inf' is no price"),
    ],
)
def test_an_entry_that_is_no_price_is_named(entry: str, said: str) -> None:
    with pytest.raises(InvalidSettings, match=f"BATCHMILL_PRICES: {said}.*NVIDIA L4=0.8,cpu=0.05"):
        parse_prices(["gpu=1", entry])


def test_a_device_type_with_two_prices_is_refused() -> None:
    with pytest.raises(InvalidSettings, match="'cpu' occurs twice"):
        parse_prices(["cpu=1", "cpu=2"])
