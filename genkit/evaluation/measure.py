"""Measuring a run: metric → its inputs → its values, beside those of real images."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ..data.datasets import ImageData, Notify
from ..errors import (
    ContractError,
    DataError,
    GenkitError,
    PluginError,
    UsageError,
    attribute_errors,
)
from ..hookspecs import MetricEntry
from ..plugins.registry import Registered
from ..run import Run
from .extractor import ExtractorInfo
from .inputs import get_maker
from .run_images import RunImages


@dataclass(frozen=True)
class Measurement:
    """The values of one metric, and what they rest on."""

    figures: dict[str, float]
    """The values, by name."""
    floor: dict[str, float] | None
    """Those of real images in place of samples; None where there are too few, or the metric is not
    of samples.
    """
    step: int
    """Updates behind the weights."""
    images: int
    """Images of the model."""
    held_out: int
    """Held-out images that were compared with; in the floor, where samples are compared with
    training images.
    """
    floor_images: int | None
    """Real images in place of samples."""
    seed: int
    """Of the samples."""
    extractor: ExtractorInfo | None
    """The extractor in whose features the images were compared, if in any's."""

    def content(self) -> dict[str, Any]:
        """For JSON; fields that are None are left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def evaluate(
    run: Run, data: ImageData, metrics: Sequence[str], count: int, seed: int, notify: Notify
) -> dict[str, Measurement]:
    """Measure a run by metrics, and write nothing; see :func:`genkit.evaluate`.

    Raises:
        UsageError: ``count`` is below 1, or a metric in ``metrics`` does not apply to the model.
        DataError: the dataset holds out no images.
        PluginError: the model, or a metric in ``metrics``, fails.
    """
    if count < 1:
        raise UsageError(f"count is {count}: measure one image or more")
    if not len(data.test):
        raise DataError(f"{run.info.dataset.name} holds out no images to compare with")
    images = RunImages(run, data, count, seed, notify)
    chosen = [run.registry.find(MetricEntry, name) for name in metrics] or _find_applicable(images)
    measured: dict[str, Measurement] = {}
    first_error: GenkitError | None = None
    for metric in chosen:
        try:
            measured[metric.entry.name] = _measure(metric, images)
        except (UsageError, ContractError, PluginError) as error:
            if metrics:
                raise
            first_error = first_error or error  # one bad metric does not stop the others
            notify(f"{metric.entry.name} is left out: {error}")
    if not measured and first_error is not None:
        raise first_error
    return measured


def _find_applicable(images: RunImages) -> list[Registered[MetricEntry]]:
    """genkit's own metrics that the model can be measured by."""
    builtin = images.run.registry.builtin(MetricEntry)
    return [m for m in builtin if m.entry.default and get_maker(m.entry).applies_to(images)]


def _measure(metric: Registered[MetricEntry], images: RunImages) -> Measurement:
    """The values of one metric and, of samples, their floor."""
    name, notify = metric.entry.name, images.notify
    inputs = get_maker(metric.entry).make(images)
    values = _call(metric, inputs.first, inputs.second)
    floor = None
    if inputs.floor is not None:
        try:
            floor = _call(metric, inputs.floor, inputs.second)
        except UsageError as error:
            notify(f"{name} has no floor: {error}")
        if min(len(inputs.floor), inputs.held_out) < len(inputs.first):
            notify(
                f"{name}: {len(inputs.first)} samples, {inputs.held_out} held-out images, "
                f"{len(inputs.floor)} real images for the floor"
            )
    return Measurement(
        figures=values,
        floor=floor,
        step=images.run.step,
        images=len(inputs.first),
        held_out=inputs.held_out,
        floor_images=len(inputs.floor) if floor is not None and inputs.floor is not None else None,
        seed=images.seed,
        extractor=inputs.extractor,
    )


def _call(metric: Registered[MetricEntry], first: Tensor, second: Tensor) -> dict[str, float]:
    """The values that a metric's target returns, checked."""
    name, target = f"metric {metric.qualified_name}", metric.target()
    with torch.no_grad(), attribute_errors(name, "to measure"):
        values = target(first, second)
    if not isinstance(values, Mapping):
        raise ContractError(f"{name} gave {type(values).__name__}, not 0-d tensors by name")
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.dim():
            given = (
                f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            )
            raise ContractError(f"{name} gave {key} as {given}, not as a 0-d tensor")
        if not bool(torch.isfinite(value)):
            raise ContractError(f"{name} gave {key} as {float(value)}")
    return {key: float(value) for key, value in values.items()}
