"""The line that says what was read and what was done to it: every file is accounted for."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .reading import Header, Target

LISTED_SIZES = 3
"""Sizes that a message lists; the others are counted."""
NAMES = {1: "grey", 3: "RGB", 4: "RGBA"}
"""Channels → what images with so many are called."""


class Tally:
    """Counts what is read.

    Args:
        left_out: files that are not tried, each with a reason in a few words.
        remarks: what else is to be said.
    """

    def __init__(
        self, left_out: Sequence[tuple[str, str]] = (), remarks: Sequence[str] = ()
    ) -> None:
        self._remarks = list(remarks)
        self._skipped = Counter(kind for _, kind in left_out)
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.modes: Counter[str] = Counter()
        self.training = 0
        self.held_out = 0
        self._transparent = 0
        self._deep = 0
        self._turned = 0
        self._animated = 0
        self._masks = 0

    def of_skipped(self) -> "Tally":
        """A tally that knows of this one only what was skipped."""
        other = Tally(remarks=self._remarks)
        other._skipped.update(self._skipped)
        return other

    @property
    def skipped_kinds(self) -> set[str]:
        """The reasons why files are not used."""
        return set(self._skipped)

    def skip(self, kind: str) -> None:
        """A file is not used."""
        self._skipped[kind] += 1

    def count(self, header: Header, held_out: bool, brightest: int) -> None:
        """An image is used, whose largest value is ``brightest``."""
        self.training += not held_out
        self.held_out += held_out
        self.sizes[header.height, header.width] += 1
        self.modes[header.mode] += 1
        self._transparent += header.channels == 4
        self._deep += header.bits > 8
        self._turned += header.orientation != 1
        self._animated += header.frames > 1
        self._masks += brightest == 1

    def why_none(self) -> str:
        """Behind the message that there are no images: what there is instead."""
        found = self._skipped_part()
        return f": {found}" if found else ""

    def line(self, target: Target, class_names: Sequence[str] | None) -> str:
        """The summary."""
        parts = [self._counts(class_names), self._resized(target), *self._conversions(target)]
        parts += [*self._remarks, self._skipped_part()]
        return "; ".join(part for part in parts if part)

    def _counts(self, class_names: Sequence[str] | None) -> str:
        total = count(self.training + self.held_out, "image")
        classes = f" in {count(len(class_names), 'class', 'classes')}" if class_names else ""
        return f"{total}{classes}, {self.training:,} to train and {self.held_out:,} held out"

    def _resized(self, target: Target) -> str:
        wanted = target.height, target.width
        if set(self.sizes) <= {wanted}:
            return ""
        ordered = sorted(self.sizes, key=lambda size: (size[0] * size[1], size))
        origin = describe_size(ordered[0])
        if len(ordered) > 1:
            origin = f"{len(ordered):,} sizes ({origin} to {describe_size(ordered[-1])})"
        return f"resized from {origin} to {describe_size(wanted)} ({target.fit})"

    def _conversions(self, target: Target) -> list[str]:
        name = NAMES[target.channels]
        others = [f"{n:,} {mode}" for mode, n in sorted(self.modes.items()) if mode != name]
        converted = sum(n for mode, n in self.modes.items() if mode != name)
        parts = []
        if others:
            noun = "image" if converted == 1 else "images"
            parts.append(f"{enumerate_words(others)} {noun} converted to {name}")
        if self._transparent and target.channels != 4:
            parts.append(f"transparency laid over {target.background}")
        if self._deep:
            parts.append(f"{count(self._deep, 'image')} of 16 bits scaled to 8")
        if self._turned:
            parts.append(f"{self._turned:,} turned upright by EXIF")
        if self._animated:
            parts.append(f"{count(self._animated, 'animation')}, of each the first frame")
        if self._masks:
            parts.append(
                f"{count(self._masks, 'image')} with no value above 1, as in masks: almost black"
            )
        return parts

    def _skipped_part(self) -> str:
        if not self._skipped:
            return ""
        kinds = ", ".join(f"{n:,} {kind}" for kind, n in self._skipped.most_common())
        return f"skipped {self._skipped.total():,} ({kinds})"


def describe_size(size: Sequence[int]) -> str:
    """A size or shape as text, such as (height, width)."""
    return "x".join(map(str, size))


def list_sizes(sizes: Mapping[Any, int]) -> str:
    """Sizes that differ, the most frequent first, and how many images have each."""
    ordered = Counter(sizes).most_common()
    parts = [f"{count:,} of {describe_size(size)}" for size, count in ordered[:LISTED_SIZES]]
    if rest := ordered[LISTED_SIZES:]:
        parts.append(f"{sum(count for _, count in rest):,} of {len(rest):,} other sizes")
    return ", ".join(parts)


def usual_channels(channels: Mapping[int, int]) -> int:
    """The most channels that more than half of the images have; of each number, how many do."""
    total = sum(channels.values())
    return next(
        number
        for number in (4, 3, 1)
        if number == 1 or 2 * sum(n for has, n in channels.items() if has >= number) > total
    )


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 image``, ``2,456 images``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def enumerate_words(words: Sequence[str]) -> str:
    """``a, b and c``."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
