"""What a model computes in, on every kind of device, and the way of tensors where there is no other device."""

from __future__ import annotations

import pytest
import torch

from batchmill.errors import InvalidParams
from batchmill_worker.runtime.torch_runtime import TorchRuntime, memory_bytes, resolve_dtype


@pytest.mark.parametrize(
    ("name", "kind", "capability", "expected"),
    [
        ("auto", "cpu", None, torch.float32),
        ("auto", "mps", None, torch.float32),
        ("auto", "cuda", (9, 0), torch.bfloat16),
        ("auto", "cuda", (8, 0), torch.bfloat16),
        ("auto", "cuda", (7, 5), torch.float16),
        ("auto", "cuda", (6, 1), torch.float32),
        ("float32", "cuda", (9, 0), torch.float32),
        ("float16", "cuda", (7, 0), torch.float16),
        ("bfloat16", "cuda", (8, 6), torch.bfloat16),
        ("bfloat16", "cpu", None, torch.bfloat16),
    ],
)
def test_the_type_fits_the_device(
    name: str, kind: str, capability: tuple[int, int] | None, expected: torch.dtype
) -> None:
    assert resolve_dtype(name, kind, capability) is expected


def test_a_type_that_the_device_does_not_compute_in_is_refused() -> None:
    with pytest.raises(InvalidParams, match=r"only from compute capability 8\.0 on; it has 7\.5\. Use 'auto'"):
        resolve_dtype("bfloat16", "cuda", (7, 5))


def test_on_the_cpu_nothing_is_copied_and_half_precision_comes_back_as_float32() -> None:
    runtime = TorchRuntime("cpu", "bfloat16")
    tensor = runtime.host_tensor((2, 3))
    tensor.numpy().fill(1)
    moved = runtime.to_device({"input_ids": tensor, "modality": "text"})
    assert moved["input_ids"].data_ptr() == tensor.data_ptr()
    assert moved["modality"] == "text"
    assert runtime.to_host(torch.ones(2, dtype=runtime.dtype)).dtype is torch.float32


def test_weights_that_are_shared_count_once() -> None:
    layer = torch.nn.Linear(10, 10, bias=False)
    tied = torch.nn.Linear(10, 10, bias=False)
    tied.weight = layer.weight
    assert memory_bytes(torch.nn.Sequential(layer, tied)) == 400
    assert memory_bytes(layer.to(torch.float16)) == 200
