"""What memory and disks have room for: what cannot fit is refused before it is begun."""

import os
import shutil
from pathlib import Path

from ..errors import UsageError

_MEMINFO = Path("/proc/meminfo")
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
"""Of a container on Linux; it holds ``max`` where there is none."""


def free_memory() -> int | None:
    """Bytes of memory that a process can still get; None where the system does not say."""
    found = [size for size in (_available(), _limit_of_container()) if size is not None]
    return min(found, default=None)


def require_memory(needed: int, what: str, instead: str) -> None:
    """Refuse what needs more memory than there is.

    Args:
        needed: bytes.
        what: what needs them, in the plural: ``20 images``.
        instead: what to do instead.

    Raises:
        UsageError: there is less.
    """
    free = free_memory()
    if free is not None and needed > free:
        raise UsageError(
            f"{what} need {format_bytes(needed)} of memory, and {format_bytes(free)} are free: "
            f"{instead}"
        )


def require_disk(
    folder: Path, needed: int, what: str, instead: str = "ask for fewer, or write elsewhere"
) -> None:
    """Refuse what does not fit on the disk of ``folder``, which need not exist yet.

    Args:
        folder: where it is to be written.
        needed: bytes.
        what: what needs them, in the plural.
        instead: what to do instead.

    Raises:
        UsageError: there is less.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise UsageError(
            f"{what} need {format_bytes(needed)} of disk, and {format_bytes(free)} are free in "
            f"{folder}: {instead}"
        )


def format_bytes(size: int) -> str:
    """``12.3 GiB``; MiB or KiB for less."""
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 2**power:
            whole = size >> power  # of any size: not all of them are floats
            return f"{whole:,} {unit}" if whole >= 100 else f"{size / 2**power:.1f} {unit}"
    return f"{size / 2**10:.1f} KiB"


def _available() -> int | None:
    if _MEMINFO.exists():
        for line in _MEMINFO.read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 2**10
    if hasattr(os, "sysconf") and {"SC_PHYS_PAGES", "SC_PAGE_SIZE"} <= os.sysconf_names.keys():
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _limit_of_container() -> int | None:
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:  # not in a container, or not on Linux
        return None
    return int(limit) if limit.isdigit() else None
