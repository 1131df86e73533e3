"""How steps are executed; never what they compute."""

import warnings
from collections.abc import Callable, Mapping
from typing import final

import torch
from torch import Tensor, nn

from ..config import TrainOptions
from ..data.datasets import ImageData, Split
from ..data.loader import Loader, Order, Streamed, make_loader
from ..errors import (
    CheckpointError,
    ContractError,
    DeviceError,
    GenkitWarning,
    attribute_errors,
    first_line,
)
from ..interfaces import Batch, Metrics, Trainer
from ..rng import Rng
from ..storage import state
from ..training.interrupt import Interrupt
from . import kernels
from .cuda_graph import Capture, CudaCapture, GraphSteps
from .plan import PlanCapture

PROVED = 3
"""Steps, at the least, that replays are compared over with the same steps run by Python."""


def choose_device(name: str) -> torch.device:
    """``auto``: cuda, then mps, then cpu.

    Raises:
        DeviceError: a device that this machine or this build of torch does not have.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return torch.device("cuda" if cuda else "mps" if mps else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (not cuda or (device.index or 0) >= torch.cuda.device_count()):
        raise DeviceError(
            f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here"
        )
    if device.type == "mps" and not mps:
        raise DeviceError(f"--device {name}: torch {torch.__version__} sees no Apple GPU here")
    return device


@final
class Engine:
    """A trainer on its way through the steps: its random stream, its data order and its losses
    since the last log row.

    The metrics of each step stay on the device, in a ring of ``log_interval`` rows, so nothing
    waits for the device until the means are read.

    Args:
        trainer: on the device it is trained on.
        data: what it is trained on.
        options: batch size, log interval, seed, engine, precision and memory format.
        owner: the plugin's name of the model, to be named when a step fails; None for a user's own
        class.
        capture: what captures steps for the engine ``graph``; None: CUDA graphs, or plans on a CPU.
        loader_factory: makes what brings the images to the device.
    """

    def __init__(
        self,
        trainer: Trainer,
        data: ImageData,
        options: TrainOptions,
        owner: str | None = None,
        capture: Capture | None = None,
        loader_factory: Callable[[Split, Order, torch.device], Loader] = make_loader,
    ) -> None:
        self.trainer = trainer
        self.owner = owner
        self.device = trainer.iteration.device
        self.step = 0
        """Updates finished."""
        self.log_interval = options.log_interval
        self._seed = options.seed
        self.rng = Rng(options.seed, "training", self.device)
        self._per_step = trainer.batches_per_step * options.batch_size
        self._loader = loader_factory(
            data.train, Order(len(data.train), self._per_step, options.seed), self.device
        )
        self._names: tuple[str, ...] | None = None
        self._ring = torch.empty(0)
        self._shared = False
        """Whether a metric is a buffer or parameter itself, which the next step changes."""
        self._rows_kept = min(options.log_interval, options.iterations)
        self._restored: dict[str, Tensor] = {}
        self._proved = True
        self._precision = options.precision
        self._memory_format = (
            torch.channels_last if options.channels_last else torch.contiguous_format
        )
        if options.channels_last:
            nn.Module.to(trainer, memory_format=torch.channels_last)
        self.kernels = kernels.choose(options.kernels, self.device)
        """``onednn``, or ``torch`` for its own; they differ in rounding."""
        self._kernels = kernels.entered(self.kernels)
        self._capture, self.eager_because = _choose_capture(
            options.engine, self.rng, self.kernels, capture
        )
        self._graph: GraphSteps | None = None
        self._settling = True
        """Whether a first step may change what is no tensor, and a first step alone is not worth a
        graph.
        """
        _prefer_fused(trainer)
        self._scalars = state.scalars(trainer)
        self.may_be_infinite = {
            name for name, tensor in self._tensors().items() if not torch.isfinite(tensor).all()
        }
        """Tensors that were infinite when they were made, the mask of an attention for one, and may
        stay so.
        """

    @property
    def name(self) -> str:
        """``graph`` or ``eager``, the latter with the reason where a graph was asked for."""
        if self._capture is not None:
            return "graph"
        return f"eager ({self.eager_because})" if self.eager_because else "eager"

    @property
    def streamed(self) -> bool:
        """Whether the images do not fit on the device, and are brought there as they are needed."""
        return isinstance(self._loader, Streamed)

    @property
    def replays(self) -> int:
        """Graphs launched so far."""
        return self._graph.replays if self._graph else 0

    def run(self, steps: int, stop: Interrupt | None = None) -> None:
        """Make ``steps`` updates, at most to the end of the log interval; fewer, but one, if
        ``stop`` is asked for.
        """
        goal = self.step + steps
        for indices in self._loader.windows(self.step, steps):
            with attribute_errors(self.owner, f"in a step after {self.step}"):
                rows = self._rows(indices, stop)
            start = self.step % self.log_interval
            self._ring[start : start + len(rows)] = rows
            self.step += len(rows)
            if stop and self.step < goal:
                return

    def _rows(self, indices: Tensor, stop: Interrupt | None) -> Tensor:
        """Make a step for each row of ``indices``; the metrics, ``(steps made, M)``."""
        if self._graph is not None:
            return self._graph.run(indices, stop)
        if self._capture is None:
            return self._eager(indices, stop)
        # The first step is made by Python: from then on there is optimizer state, and it can be
        # captured.
        plain = state.plain(self.trainer)
        first = self._eager(indices[:1], stop)
        changed = state.changed(plain, state.plain(self.trainer))
        if changed and self._settling:
            self._settling = False  # some models keep what they computed in their first step
        elif changed:
            self._capture, self.eager_because = (
                None,
                f"the step cannot be captured: {_changes(changed)}",
            )
        elif not (stop or (len(indices) == 1 and self._settling and self._loader.chunk > 1)):
            with torch.random.fork_rng(devices=[]):  # which no step should use, but some do
                self._build_graph(self._capture, indices)
        else:
            self._settling = False
        if stop:
            return first
        return torch.cat([first, self._rows(indices[1:], stop)]) if len(indices) > 1 else first

    def _build_graph(self, capture: Capture, indices: Tensor) -> None:
        """Capture steps, hold replays against Python's steps bit for bit, and undo all that was
        done for it.
        """
        before, plain = self._snapshot(), state.plain(self.trainer)
        try:
            graph = GraphSteps(
                self._one_step,
                self._per_step,
                len(self._names or ()),
                self.device,
                capture,
                most=self._loader.chunk,
            )
            order = indices[
                torch.arange(max(PROVED, graph.steps), device=self.device) % len(indices)
            ]
            results = []
            runs: tuple[Callable[[Tensor, None], Tensor], ...] = (self._eager, graph.run)
            for run in runs:
                if late := self._put_back(before):
                    raise ContractError(f"{min(late)} appears after the first step")
                results.append({"metrics": run(order, None), **self._snapshot()})
            for name, tensor in results[0].items():
                if not _same(tensor, results[1][name]):
                    raise ContractError(
                        f"{name} differs between replayed steps and the same steps run by Python"
                    )
            if changed := state.changed(plain, state.plain(self.trainer)):
                raise ContractError(_changes(changed))
            graph.replays = 0
            self._graph = graph
        except Exception as error:  # noqa: BLE001 (whatever it is: the step runs without a graph, and why is said)
            why = str(error) if isinstance(error, ContractError) else first_line(error)
            self._capture, self.eager_because = None, f"the step cannot be captured: {why}"
        finally:
            self._put_back(before)

    def _snapshot(self) -> dict[str, Tensor]:
        tensors = {**self._tensors(), "rng/training": self.rng.state()}
        return {name: tensor.detach().clone() for name, tensor in tensors.items()}

    def _tensors(self) -> dict[str, Tensor]:
        """All that a step may change but the random stream."""
        return {**state.networks(self.trainer), **state.training(self.trainer)}

    def _put_back(self, before: dict[str, Tensor]) -> set[str]:
        """All as it was; the names of tensors that optimizers have made since, and that are gone
        again.
        """
        late = self._tensors().keys() - before.keys()
        if late:
            state.forget(self.trainer, before.keys())
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                if name in before:
                    tensor.copy_(before[name])
        self.rng.set_state(before["rng/training"])
        return late

    def _one_step(self, index: Tensor) -> Tensor:
        """One update from the sample numbers ``(per_step,)``; its metrics, ``(M,)``."""
        metrics = self._update(self._loader.batch(index, self._memory_format))
        self.trainer.iteration.add_(1)
        return torch.stack([*metrics.values()]).float()

    def _update(self, batch: Batch) -> Metrics:
        if self._precision == "fp32":
            return self.trainer.step(batch, self.rng)
        # Without the cache: it would hand a second forward pass the weights from before the update
        # between them.
        with torch.autocast(self.device.type, torch.bfloat16, cache_enabled=False):
            return self.trainer.step(batch, self.rng)

    def _eager(self, indices: Tensor, stop: Interrupt | None) -> Tensor:
        """Steps as Python runs them; their metrics, ``(steps made, M)``."""
        iteration = self.trainer.iteration
        values: list[Tensor] = []
        with self._kernels:
            for index in indices.unbind():
                batch = self._loader.batch(index, self._memory_format)
                metrics = self._update(batch) if self._proved else self._prove(batch)
                iteration.add_(1)
                if not isinstance(metrics, Mapping) or tuple(metrics) != self._names:
                    self._name_ring(metrics)
                values.extend(
                    metrics.values()
                    if not self._shared
                    else [value.clone() for value in metrics.values()]
                )
                if stop:
                    break
        # Stacked once a window: per step it would cost more than the update of a small network's
        # biases.
        return torch.stack(values).view(-1, len(self._names or ())).float()

    def _prove(self, batch: Batch) -> Metrics:
        """The first step after a restore: optimizer state that no rule could judge shows here
        whether it works.
        """
        try:
            metrics = self._update(batch)
        except (
            RuntimeError,
            KeyError,
            TypeError,
            AttributeError,
            IndexError,
            AssertionError,
        ) as error:
            message = f"the first step after loading the checkpoint of step {self.step} failed: {first_line(error)}"
            raise CheckpointError(
                f"{message}; it was written by another version, or tampered with"
            ) from error
        self._proved = True
        return metrics

    def _name_ring(self, metrics: Metrics) -> None:
        """Check what the first step gave, and make room for it."""
        if not isinstance(metrics, Mapping) or not metrics or "step" in metrics:
            given = tuple(metrics) if isinstance(metrics, Mapping) else type(metrics).__name__
            raise ContractError(
                f"step gave the metrics {given}: there must be some by name, and none called 'step'"
            )
        for name, value in metrics.items():
            if not isinstance(value, Tensor):
                raise ContractError(f"step gave {name} as {type(value).__name__}, not a tensor")
            if value.dim():
                raise ContractError(f"step gave {name} with the shape {tuple(value.shape)}, not ()")
            if value.requires_grad:
                raise ContractError(f"step gave {name} with its graph: say {name}.detach()")
        if self._names is not None:
            raise ContractError(
                f"step gave the metrics {tuple(metrics)}, and {self._names} the time before"
            )
        self._names = tuple(metrics)
        held = {tensor.untyped_storage().data_ptr() for tensor in self._tensors().values()}
        self._shared = any(value.untyped_storage().data_ptr() in held for value in metrics.values())
        self._ring = torch.zeros((self._rows_kept, len(metrics)), device=self.device)
        if self._restored and self._restored.keys() != set(self._names):
            raise CheckpointError(
                f"the checkpoint has metrics {sorted(self._restored)}, the model {sorted(self._names)}"
            )
        for name, values in self._restored.items():
            self._ring[: len(values), self._names.index(name)] = values.to(self.device)

    def close(self) -> None:
        """No further step follows: let go of what brings the images."""
        self._loader.close()

    def means(self) -> dict[str, float]:
        """Means of the metrics since the log interval began (the whole interval at its end); empty
        before a step.
        """
        if self._names is None:
            return {name: float(values.double().mean()) for name, values in self._restored.items()}
        rows = self.step % self.log_interval or self.log_interval
        means = (
            self._ring[:rows].double().mean(0)
            if self.device.type != "mps"
            else self._ring[:rows].cpu().double().mean(0)
        )
        return dict(zip(self._names, means.tolist(), strict=True))

    def not_finite(self) -> str | None:
        """The first step since the log interval began at which a metric is NaN or infinite, or a
        tensor that is now.
        """
        rows = self._ring[: self.step % self.log_interval or self.log_interval].cpu()
        for row, number in (~torch.isfinite(rows)).nonzero().tolist():
            name = (self._names or ())[number]
            return f"{name} became {float(rows[row, number])} at step {self.step - len(rows) + row + 1}"
        tensors = {
            name: t
            for name, t in state.networks(self.trainer).items()
            if name not in self.may_be_infinite
        }
        if not tensors:
            return None
        sums = torch.stack([tensor.sum().abs().float() for tensor in tensors.values()])
        if bool(
            torch.isfinite(sums).all()
        ):  # what is not finite makes its sum so; large numbers may, too
            return None
        finite = torch.stack([torch.isfinite(tensor).all() for tensor in tensors.values()])
        if not bool(finite.all()):
            name = list(tensors)[finite.tolist().index(False)]
            return f"{name} has NaN or infinite values at step {self.step}"
        return None

    def state(self) -> dict[str, Tensor]:
        """All that moves outside the networks: what :meth:`restore` needs to go on as if nothing
        had happened.

        Raises:
            ContractError: an optimizer's number was changed, which no checkpoint could hold.
        """
        now = state.scalars(self.trainer)
        for name in (name for name, value in now.items() if value != self._scalars.get(name)):
            message = f"{name} went from {self._scalars.get(name)} to {now[name]}: a schedule has to be a tensor"
            raise ContractError(
                f"{message} (lr=torch.tensor(...), changed in place), or resuming would forget it"
            )
        rows = self.step % self.log_interval
        window = {
            f"window/{name}": self._ring[:rows, i]
            for i, name in enumerate(self._names or ())
            if rows
        }
        if self._names is None:
            window = {f"window/{name}": values for name, values in self._restored.items()}
        return state.training(self.trainer) | {"rng/training": self.rng.state()} | window

    def restore(self, step: int, model: dict[str, Tensor], saved: dict[str, Tensor]) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: it does not fit; the trainer is as it was.
        """
        window = {
            name.removeprefix("window/"): t
            for name, t in saved.items()
            if name.startswith("window/")
        }
        for values in window.values():
            if values.shape != (step % self.log_interval,) or values.dtype != torch.float32:
                raise CheckpointError(
                    "the checkpoint's losses since the last log row do not fit its step"
                )
        iteration = saved.get("trainer/iteration")
        if (
            iteration is None
            or iteration.shape
            or iteration.dtype != torch.int64
            or int(iteration) != step
        ):
            raise CheckpointError("the checkpoint's iteration count is not its step")
        rng = self._restored_rng(step, saved.get("rng/training"))
        rest = {
            name: t
            for name, t in saved.items()
            if name != "rng/training" and not name.startswith("window/")
        }
        state.restore(self.trainer, model, rest)
        self.rng.set_state(rng.state())  # in place: a captured graph draws from this very stream
        self.step = step
        self._restored = window
        self._proved = False

    def _restored_rng(self, step: int, saved: Tensor | None) -> Rng:
        if saved is None or saved.dtype != torch.uint8 or saved.dim() != 1:
            raise CheckpointError("the checkpoint lacks the state of the random stream")
        rng = Rng(self._seed, "training", self.device)
        if saved.shape == rng.state().shape:
            try:
                rng.set_state(saved)
            except RuntimeError as error:
                raise CheckpointError(
                    f"the checkpoint's random stream is damaged ({first_line(error)})"
                ) from None
            return rng
        # Streams of different kinds of device do not translate.
        message = f"the random stream is of another kind of device: a new one begins at step {step}"
        warnings.warn(message, GenkitWarning, stacklevel=3)
        return Rng(self._seed, f"training from step {step}", self.device)


def _choose_capture(
    engine: str, rng: Rng, chosen: str, given: Capture | None
) -> tuple[Capture | None, str]:
    """What captures steps, or None and, where a graph was asked for, why there is none."""
    if engine == "eager":
        return None, ""
    if given is not None:
        return given, ""
    if rng.device.type == "cuda":
        return CudaCapture(rng), ""
    if rng.device.type == "cpu":
        return PlanCapture(kernels.replace if chosen == "onednn" else list), ""
    return (
        None,
        ""
        if engine == "auto"
        else f"graphs need a CUDA device or a CPU, and this is {rng.device.type}",
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether all numbers are equal, those that are not a number included."""
    return one.equal(other) or (
        one.is_floating_point() and torch.allclose(one, other, rtol=0, atol=0, equal_nan=True)
    )


def _changes(name: str) -> str:
    return f"it changes {name}, which is no parameter or buffer"


def _is_dense(tensor: Tensor) -> bool:
    """Whether its numbers fill one run of memory, in whatever order: fused kernels read a parameter
    so.
    """
    expected = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


def _prefer_fused(trainer: Trainer) -> None:
    """Let every optimizer that has a fused kernel, and was not told otherwise, use it: the same
    update in one call.
    """
    for optimizer in trainer.optimizers.values():
        for group in optimizer.param_groups:
            undecided = all(group.get(key, True) is None for key in ("fused", "foreach"))
            if undecided and not group.get("differentiable"):
                group["fused"] = all(
                    torch.is_floating_point(p) and _is_dense(p) for p in group["params"]
                )
            if "capturable" in group and all(p.is_cuda for p in group["params"]):
                group["capturable"] = True  # for either engine, so that both compute the same bits
