"""What reads a tensor on the host while a step is recorded, and who does it.

A replay runs no Python, so what was read once would stay frozen.
"""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_METHODS = {
    getattr(Tensor, name): name
    for name in (
        "numpy",
        "tolist",
        "item",
        "apply_",
        "map_",
        "__array__",
        "__dlpack__",
        "__repr__",
        "__format__",
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "__complex__",
    )
}
"""What reads a tensor on the host, some of them without an operation."""
_NAMES = set(_METHODS.values())
_CODES = {m.__code__: n for m, n in _METHODS.items() if isinstance(m, FunctionType)}
"""Of those that torch wrote in Python."""
_FACTORIES = (torch.tensor, torch.as_tensor, torch.asarray)
"""What copies numbers to a device without an operation."""

_TORCH = Path(torch.__file__).parent
_GENKIT = Path(__file__).parent.parent


class HostReads(TorchFunctionMode):
    """Notes the methods of a tensor that give its numbers to Python, in this thread.

    torch switches a mode off while a function that it handed over runs, and ``autograd.grad`` is
    one of them: what hooks of gradients and backward passes in Python read is seen by a profiler of
    the thread.

    Args:
        note: called with what reads, while it does.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        super().__init__()
        self._note = note

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if name := _METHODS.get(func):
            self._note(f"Tensor.{name}")
        inside = isinstance(func, FunctionType) and not name
        with self._profiled() if inside else nullcontext():
            result = func(*args, **(kwargs or {}))
        if func in _FACTORIES and result.device.type != "cpu":
            self._note(f"torch.{func.__name__} of numbers of Python")
        return result

    @contextmanager
    def _profiled(self) -> Iterator[None]:
        before = sys.getprofile()
        sys.setprofile(self._note_call)
        try:
            yield
        finally:
            sys.setprofile(before)

    def _note_call(self, frame: FrameType, event: str, called: Any) -> None:
        if event == "call":
            name = _CODES.get(frame.f_code)
        elif event == "c_call" and isinstance(getattr(called, "__self__", None), Tensor):
            name = called.__name__ if called.__name__ in _NAMES else None
        else:
            return
        if name:
            self._note(f"Tensor.{name}")


def innermost_place() -> str | None:
    """File and line of the innermost frame that is neither torch's nor genkit's; None where that is
    inside the step of an optimizer of torch.
    """
    for frame, line in traceback.walk_stack(None):
        path = Path(frame.f_code.co_filename)
        if _TORCH in path.parents:
            stepped = frame.f_locals.get("self") if frame.f_code.co_name == "step" else None
            if isinstance(stepped, torch.optim.Optimizer):
                return None
        elif _GENKIT not in path.parents:
            return f"{path.name}:{line}"
    return "unknown"
