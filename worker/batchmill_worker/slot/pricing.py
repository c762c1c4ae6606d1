"""The price of an hour of a slot, from the prices of devices. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from batchmill.errors import InvalidSettings
from batchmill.jobs.cost import NANO

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill.settings import WorkerSettings
    from batchmill_worker.devices.placement import SlotIdentity

MAX_PRICE_PER_HOUR = 1e6
SPOT = " spot"


def hourly_price_nano(settings: WorkerSettings, slot: SlotIdentity) -> int:
    """Return the hourly price of a slot, in billionths of the currency's unit: its share of the price of its devices.

    The table of prices overrides the price for any device; on a spot machine its entry of a device type that ends in
    ` spot` comes first. Raises `InvalidSettings` for an invalid table.
    """
    table = parse_prices(settings.prices)
    models = slot.device_type.split(" + ")  # one for each type of device in it; there may be several devices of a type
    share = slot.device_count / len(models) / settings.slots_per_device
    return round(sum(_price(table, model, settings) for model in models) * share * NANO)


def _price(table: Mapping[str, float], model: str, settings: WorkerSettings) -> float:
    ordinary = table.get(model, settings.price_per_hour)
    return table.get(f"{model}{SPOT}", ordinary) if settings.lifecycle == "spot" else ordinary


def parse_prices(entries: Sequence[str]) -> dict[str, float]:
    """Parse prices by device type. Raises `InvalidSettings` with the entry that is invalid or that occurs twice."""
    prices: dict[str, float] = {}
    for entry in entries:
        model, equals, price = (part.strip() for part in entry.rpartition("="))
        value = _number(price) if equals and model else None
        if value is None:
            raise _unfit(f"{entry!r} is no price, expected a device type and its price per hour")
        if model in prices:
            raise _unfit(f"the device type {model!r} occurs twice")
        prices[model] = value
    return prices


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) and 0 <= value <= MAX_PRICE_PER_HOUR else None


def _unfit(what: str) -> InvalidSettings:
    return InvalidSettings(
        f"BATCHMILL_PRICES: {what}.",
        hint="Separate entries by commas: NVIDIA L4=0.8,cpu=0.05. `batchmill workers` shows the types of devices.",
        name="BATCHMILL_PRICES",
    )
