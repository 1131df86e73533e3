"""Kernels of oneDNN, which torch brings along, where torch would use slower ones of its own or
MKL's.

On a CPU small networks spend their time in float32 matrix products. torch leaves those to MKL,
which on processors that are not Intel's uses vectors of 256 bits. oneDNN uses 512 where there are
units for them. Its ``tanh`` is as accurate as torch's (eight in 10^8), takes less than half the
time, and hardly any where it ends a product.

What is replaced depends on how tensors look and never on timing, so it is the same whoever runs a
step. Rounding differs from torch's kernels. Handing operations over from Python costs more than
oneDNN saves, so by default only captured steps have its kernels.
"""

import functools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple, final

import torch
from torch import Tensor

from ..errors import DeviceError
from ._torch_internals import TorchDispatchMode, onednn_linear
from .recording import Operation, storage

FEWEST_MULTIPLICATIONS = 2**22
"""Of a matrix product that oneDNN computes; at a smaller one it is no faster."""
FEWEST_TANHS = 2**14
FASTER_ON = {("AuthenticAMD", 26)}
"""Vendor and family of processors on which captured steps of every model of the article were at
least 10 % faster: the table in docs/benchmarks.md, "Kernels by processor".
"""

Called = tuple[Callable[..., Tensor], tuple[Any, ...]]
"""A function, and what it is called with."""


class Choice(NamedTuple):
    """``torch`` or ``onednn``, for each way to run a step."""

    python: str
    """Of steps that Python runs."""
    captured: str


TORCH = Choice("torch", "torch")


def choose(option: str, device: torch.device, engine: str = "auto") -> Choice:
    """Which kernels ``--kernels`` asks for.

    ``auto`` takes oneDNN's in captured steps, on the processors of :data:`FASTER_ON`.

    Raises:
        DeviceError: oneDNN's are asked for where there are none.
    """
    usable = _usable(device)
    if option == "onednn" and not usable:
        lacking = "this build of torch lacks oneDNN"
        why = lacking if device.type == "cpu" else f"it is for a CPU, and this is {device.type}"
        raise DeviceError(f"--kernels onednn: {why}")
    faster = option == "auto" and engine != "eager" and usable and processor() in FASTER_ON
    return Choice(
        python="onednn" if option == "onednn" else "torch",
        captured="onednn" if option == "onednn" or faster else "torch",
    )


def resolve_for_resume(option: str, before: str, device: torch.device, *, undecided: bool) -> str:
    """The option for a training that goes on: what it had ``before``, if none was given and that is
    there.

    Args:
        option: of the run.
        before: recorded in ``run.json``.
        device: where it goes on.
        undecided: nothing was captured yet at the checkpoint, so ``auto`` still stands.
    """
    if option == "auto" and device.type == "cpu" and not undecided:
        option = before
    return "torch" if option == "onednn" and not _usable(device) else option


@functools.cache
def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, int] | None:
    """Vendor and family of the processor, ``("AuthenticAMD", 26)``; None where the system does not
    say.
    """
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    fields = [line.partition(":")[::2] for line in lines]
    values = {name.strip(): value.strip() for name, value in reversed(fields)}
    family = values.get("cpu family", "")
    return (values.get("vendor_id", ""), int(family)) if family.isdecimal() else None


def _usable(device: torch.device) -> bool:
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        _linear()
    except AttributeError:
        return False
    return True


def kernel(
    function: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> Called | None:
    """What is called in place of an operation; None: the operation itself."""
    replacement = _REPLACED.get(function) if not kwargs else None
    return replacement(*args) if replacement else None


@final
class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is active, the operations of the thread are computed by :func:`kernel`."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if replaced := kernel(func, args, kwargs or {}):
            function, given = replaced
            return function(*given)
        return func(*args, **(kwargs or {}))


def kernel_mode(chosen: str) -> AbstractContextManager[object]:
    """What to enter around operations that are to be computed by the kernels of :func:`choose`."""
    return Kernels() if chosen == "onednn" else nullcontext()  # type: ignore[no-untyped-call]


def replace(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, computed by :func:`kernel`; a ``tanh`` of a product becomes part of it, with
    the same bits.
    """
    uses: dict[int, list[int]] = {}  # by storage: where its numbers are read or written
    for number, operation in enumerate(operations):
        for held in (
            {storage(t) for t in (*operation.inputs(), *operation.outputs())}
            if not operation.views()
            else ()
        ):
            uses.setdefault(held, []).append(number)
    replaced: list[Operation | None] = []
    for number, operation in enumerate(operations):
        with torch.no_grad():
            function, args = kernel(operation.function, operation.args, operation.kwargs) or (
                None,
                operation.args,
            )
        made_at, *read_at = uses.get(storage(args[0]), [0]) if function is _tanh else [0]
        product = replaced[made_at] if read_at == [number] else None
        alone = product and product.function is _linear() and product.args[3:4] == ("none",)
        if product and alone and product.results[0] is args[0]:
            fused = (*product.args[:3], "tanh", *product.args[4:])
            replaced[made_at] = Operation(product.function, fused, {}, operation.results)
            replaced.append(None)
        elif function:
            replaced.append(Operation(function, args, {}, operation.results))
        else:
            replaced.append(operation)
    return [operation for operation in replaced if operation is not None]


def _of_mm(x: Tensor, w: Tensor) -> Called | None:
    fits = len(x) * w.numel() >= FEWEST_MULTIPLICATIONS and all(
        _is_dense_float32(t) and _has_blas_layout(t) for t in (x, w)
    )
    return (_linear(), (x, w.t(), None, "none", [], "")) if fits else None


def _of_addmm(bias: Tensor, x: Tensor, w: Tensor) -> Called | None:
    fits = (
        _is_dense_float32(bias)
        and bias.shape == w.shape[1:]
        and bias.is_contiguous()
        and _of_mm(x, w)
    )
    return (_linear(), (x, w.t(), bias, "none", [], "")) if fits else None


def _of_tanh(x: Tensor) -> Called | None:
    fits = x.numel() >= FEWEST_TANHS and _is_dense_float32(x) and x.dim() <= 5 and x.is_contiguous()
    return (_tanh, (x,)) if fits else None


@functools.cache
def _linear() -> Callable[..., Tensor]:
    """Looked up when it is first needed: a build of torch may lack it."""
    return onednn_linear()


def _tanh(x: Tensor) -> Tensor:
    return x.to_mkldnn().tanh().to_dense()


def _is_dense_float32(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.is_cpu and tensor.layout == torch.strided


def _has_blas_layout(matrix: Tensor) -> bool:
    """Whether its rows, or its columns, lie behind one another without a number between theirs or
    shared.
    """
    (rows, columns), (down, right) = matrix.shape, matrix.stride()
    return (right == 1 and down >= columns) or (down == 1 and right >= rows)


_REPLACED: dict[Any, Callable[..., Called | None]] = {
    torch.ops.aten.mm.default: _of_mm,
    torch.ops.aten.addmm.default: _of_addmm,
    torch.ops.aten.tanh.default: _of_tanh,
}
