"""What reads tensors on the host while a step is recorded is seen, and laid to who does it."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from genkit.engines.recording import record

READS: dict[str, Callable[[Tensor], object]] = {
    "numpy": lambda x: x.numpy(),
    "tolist": lambda x: x.tolist(),
    "item": lambda x: x.sum().item(),
    "__array__": lambda x: x.__array__(),
    "__repr__": repr,
    "__format__": lambda x: f"{x.sum():.3f}",
    "__float__": lambda x: float(x.sum()),
    "__int__": lambda x: int(x.sum()),
    "__bool__": lambda x: bool(x.sum()),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_blamed_on_the_line_that_reads(name: str) -> None:
    x = torch.randn(3)
    _, recording = record(lambda: READS[name](x + 1))
    assert recording.host_reads[0].startswith(f"Tensor.{name} (test_recording.py:")
    assert recording.optimizer_reads == []


def test_reads_of_hooks_and_of_dlpack_are_seen_and_a_profiler_stays() -> None:
    x = torch.randn(3, requires_grad=True)

    def step() -> None:
        y = x * 2
        y.register_hook(lambda gradient: gradient.tolist() and None)
        torch.autograd.grad(y.sum(), x)

    def profile(*_: object) -> None:
        """Whatever a user measures."""

    sys.setprofile(profile)
    try:
        _, recording = record(step)
        assert sys.getprofile() is profile
    finally:
        sys.setprofile(None)
    assert "Tensor.tolist (test_recording.py:" in recording.host_reads[0]
    _, recording = record(lambda: np.from_dlpack(torch.ones(2)))
    assert recording.host_reads[0].startswith("Tensor.__dlpack__")


def test_nothing_of_torch_is_replaced_while_recording() -> None:
    before, during = dict(vars(Tensor)), {}
    record(lambda: during.update(vars(Tensor)))
    assert during == before


def test_reads_of_other_threads_are_not_the_step_s() -> None:
    x = torch.randn(3)
    with ThreadPoolExecutor(1) as other:
        _, recording = record(lambda: other.submit(x.tolist).result())
        assert recording.host_reads == []

        def while_another_records() -> Tensor:
            other.submit(record, lambda: x + 1).result()
            return x + 2

        _, recording = record(while_another_records)
    assert len(recording.operations) == 1


def stepped(optimizer: torch.optim.Optimizer, layer: nn.Module) -> None:
    for parameter in layer.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def test_an_optimizer_s_own_read_is_its_own_affair() -> None:
    layer = nn.Linear(2, 2)
    adam = torch.optim.Adam(layer.parameters(), fused=False, foreach=False)
    stepped(adam, layer)
    _, recording = record(lambda: stepped(adam, layer))
    assert recording.host_reads == []
    assert recording.optimizer_reads


def test_a_hook_or_an_average_of_the_user_s_is_not_the_optimizer_s() -> None:
    layer = nn.Linear(2, 2)
    adam = torch.optim.Adam(layer.parameters(), fused=True)
    stepped(adam, layer)
    adam.register_step_post_hook(lambda *_: layer.bias.detach().sum().item())
    _, recording = record(lambda: stepped(adam, layer))
    assert recording.optimizer_reads == []
    assert "test_recording.py" in recording.host_reads[0]
    averaged = AveragedModel(layer)
    averaged.update_parameters(layer)
    _, recording = record(lambda: averaged.update_parameters(layer))
    assert recording.optimizer_reads == []
    assert all("test_recording.py" in read for read in recording.host_reads)
    assert recording.host_reads


def test_copies_from_the_host_to_a_device_are_reads() -> None:
    """They break the capture of a CUDA graph off; ``meta`` stands for the device."""
    works: list[Callable[[], Tensor]] = [
        lambda: torch.ones(2).to("meta"),
        lambda: torch.zeros(2, device="meta").copy_(torch.ones(2)),
        lambda: torch.tensor(0.5, device="meta"),
    ]
    for work in works:
        _, recording = record(work)
        assert len(recording.host_reads) == 1
        assert "test_recording.py" in recording.host_reads[0]
    _, recording = record(lambda: torch.ones(2, device="meta") + torch.tensor(0.5))
    assert recording.host_reads == []


def test_reads_are_noted_where_nothing_is_kept() -> None:
    x = torch.randn(3)
    _, recording = record(lambda: (x + 1).tolist(), keep=False)
    assert recording.operations == []
    assert recording.count >= 1
    assert len(recording.host_reads) == 1
