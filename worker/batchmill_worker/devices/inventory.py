"""The choice of a machine's inventory."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from batchmill.errors import MissingExtra
from batchmill_worker.devices.cpu import CPU, CpuInventory
from batchmill_worker.devices.nvml import NvmlInventory
from batchmill_worker.devices.stand_in import StandInInventory

if TYPE_CHECKING:
    from batchmill_worker.devices.base import Inventory

DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux shows that NVIDIA's driver is loaded."""


def open_inventory(devices: str, stand_in: str = "", *, driver: Path = DRIVER) -> Inventory:
    """Open the inventory of this machine, or of the file `stand_in`; if only the CPU is wanted, the CPU alone.

    Raises `MissingExtra` if there are GPUs and the library that finds them is not installed, `InvalidSettings` if the
    driver is broken or the file is wrong.
    """
    if stand_in:
        return StandInInventory(Path(stand_in))
    if devices == CPU.name:  # then a broken driver does not matter
        return CpuInventory()
    try:
        nvml = importlib.import_module("pynvml")
    except ModuleNotFoundError as error:
        if driver.exists():
            raise MissingExtra(
                "this machine has NVIDIA's driver, but nvidia-ml-py, which finds its GPUs, is not installed.",
                hint="Install it with: pip install 'batchmill[gpu]'; or run on the CPU with --devices cpu.",
            ) from error
        return CpuInventory()
    return NvmlInventory.open(nvml) or CpuInventory()
