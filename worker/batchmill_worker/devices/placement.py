"""Slots, each with its name, devices, share of the cores, and environment. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchmill.jobs.frozen import Frozen
from batchmill_worker.devices.base import DeviceKind
from batchmill_worker.devices.cores import Cores, CoreShare, divide, usable_count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from batchmill_worker.devices.base import Device
    from batchmill_worker.devices.selection import Group

THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "RAYON_NUM_THREADS",  # the tokenizers'
)
"""The variables from which libraries read their number of threads; torch reads the first."""
MAX_SLOTS = 256
WAIT_POLICY = "OMP_WAIT_POLICY"
"""How idle OpenMP threads wait. By default they spin for a while, and take time from whatever shares their cores:
tokenisation, storage, other slots."""


class SlotIdentity(Frozen):
    """What a slot process knows about itself. The fields are those of `batchmill.fleet.WorkerInfo`."""

    name: str
    slot: int
    device: str
    device_type: str
    device_count: int
    memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Placement:
    """A slot, and where it runs.

    env: what its process must find in its environment before it imports anything.
    cores: the logical cores it is pinned to; None: it runs on any.
    """

    identity: SlotIdentity
    devices: Group
    env: Mapping[str, str]
    cores: tuple[int, ...] | None


def place(
    groups: Sequence[Group],
    slots_per_device: int,
    cores: Cores,
    host: str,
    pid: int,
    *,
    pin: bool = True,
    set_by_user: Mapping[str, str] | None = None,
) -> list[Placement]:
    """Place the slots of one supervisor, `slots_per_device` on each group of devices.

    host, pid: of the supervisor; they are part of the names, because Celery and Flower could not distinguish two
        supervisors of one host otherwise.
    set_by_user: the environment; its thread variables are left as they are.
    """
    users = set_by_user or {}
    shares = divide(cores, len(groups) * slots_per_device, pin=pin)
    placements: list[Placement] = []
    for group in groups:
        for number in range(slots_per_device):
            slot = len(placements)
            name = f"{_short_name(group, number, slots_per_device)}@{host}-{pid}"
            env = {**_visible(group), **thread_settings(shares[slot], users)}
            placements.append(
                Placement(_identity(name, slot, group, slots_per_device), group, env, shares[slot].pinned)
            )
    return placements


def most_slots(groups: Sequence[Group], cores: Cores) -> int:
    """Return the most slots that a device is of use to: one on a GPU, which computes for one at a time, else its cores.

    On a GPU several slots divide its memory, so a number above one is for its user to choose.
    """
    if any(group[0].kind is not DeviceKind.CPU for group in groups):
        return 1
    return min(max(usable_count(cores), 1), MAX_SLOTS)


def thread_settings(share: CoreShare, users: Mapping[str, str]) -> dict[str, str]:
    """Return the environment that a slot with this share computes with; what `users` sets is left out."""
    wanted = dict.fromkeys(THREAD_VARIABLES, str(share.threads)) | {WAIT_POLICY: "passive"}
    return {variable: value for variable, value in wanted.items() if variable not in users}


def _identity(name: str, slot: int, group: Group, slots_per_device: int) -> SlotIdentity:
    first = group[0]
    models = [device.model for device in group]
    memories = [device.memory_bytes for device in group]
    known = [memory for memory in memories if memory is not None]
    return SlotIdentity(
        name=name,
        slot=slot,
        device="cpu" if first.kind is DeviceKind.CPU else "cuda:0",  # as torch counts those the process sees
        device_type=models[0] if len(set(models)) == 1 else " + ".join(models),
        device_count=len(group),
        memory_bytes=sum(known) // slots_per_device if len(known) == len(memories) else None,
    )


def _short_name(group: Group, number: int, slots_per_device: int) -> str:
    """`gpu0`, `gpu0.1`, `gpu0+1`; with several slots on a device `gpu0-0`, `gpu0-1`; on the CPU `cpu0`, `cpu1`."""
    if group[0].kind is DeviceKind.CPU:
        return f"cpu{number}"
    suffix = f"-{number}" if slots_per_device > 1 else ""
    return f"gpu{'+'.join(device.number for device in group)}{suffix}"


def _visible(group: Sequence[Device]) -> dict[str, str]:
    """Make the variables that show a process only its GPUs: by UUID, which is independent of any numbering."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(device.uuid for device in group),
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
