"""``python -m benchmarks.folder [--images 20000]``: a folder of pictures at the first and at the
second start, packed and not, beside torchvision's ImageFolder and DataLoader; peak memory.

Every figure is of a process of its own. The pictures are made on the spot: colour PNGs of 160x120,
smooth and noisy, in ten classes. Nothing else should run meanwhile.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 64
TASKS = ("imagefolder", "first", "second", "pack", "packed")


def make_pictures(folder: Path, count: int) -> None:
    """PNGs of 160x120, as compressible as photographs are not and drawings are."""
    for number in range(count):
        rng = np.random.default_rng(number)
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(small).resize((160, 120), Image.Resampling.BICUBIC)
        noise = rng.integers(-4, 5, (120, 160, 3))
        pixels = (np.asarray(image).astype(int) + noise).clip(0, 255).astype(np.uint8)
        path = folder / f"class {number % 10}" / f"{number:06d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path, compress_level=1)


def run_task(task: str, folder: Path, packed: Path) -> int:
    """Read all images once; how many there are."""
    if task == "imagefolder":
        return _read_by_torchvision(folder)
    from genkit import DataRequest, ImageOptions
    from genkit.data.datasets import load_dataset
    from genkit.plugins.registry import discover

    options = ImageOptions(image_size=(SIZE, SIZE), channels="3")
    name = f"packed:{packed}" if task == "packed" else f"folder:{folder}"
    request = DataRequest(folder, options=None if task == "packed" else options)
    data = load_dataset(discover(), name, request)
    if task == "pack":
        from genkit.data.packed.writer import pack

        pack(data, packed)
    return len(data.train) + len(data.test)


def _read_by_torchvision(folder: Path) -> int:
    import torch
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    from genkit.data.files.workers import count_cpus

    steps = [v2.Resize(SIZE), v2.CenterCrop(SIZE), v2.PILToTensor()]
    dataset = ImageFolder(str(folder), v2.Compose(steps))
    loader = torch.utils.data.DataLoader(dataset, batch_size=32, num_workers=count_cpus())
    return sum(len(images) for images, _ in loader)


def measure(task: str, folder: Path, packed: Path, cache: Path) -> dict[str, float]:
    """Run one task in a process of its own: seconds, and MiB without its workers."""
    command = [sys.executable, "-m", "benchmarks.folder", "--task", task]
    command += ["--folder", str(folder), "--packed", str(packed)]
    environment = {"XDG_CACHE_HOME": str(cache), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def child(task: str, folder: Path, packed: Path) -> None:
    """Print what one task took."""
    import genkit.data.datasets  # noqa: F401 (importing torch is no part of the time)

    start = time.perf_counter()
    images = run_task(task, folder, packed)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"images": images, "seconds": seconds, "peak": peak}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--packed", type=Path)
    arguments = parser.parse_args()
    if arguments.task:
        child(arguments.task, arguments.folder, arguments.packed)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as scratch:
        folder, cache = Path(scratch, "pictures"), Path(scratch, "cache")
        packed = Path(scratch, "pictures.packed")
        make_pictures(folder, arguments.images)
        print("task         images/s   seconds   peak MiB")
        for _ in range(arguments.rounds):
            shutil.rmtree(cache, ignore_errors=True)
            packed.unlink(missing_ok=True)
            for task in TASKS:
                found = measure(task, folder, packed, cache)
                rate = found["images"] / found["seconds"]
                shown = f"{found['seconds']:9.2f}  {found['peak']:9.0f}"
                print(f"{task:12} {rate:8.0f} {shown}", flush=True)


if __name__ == "__main__":
    main()
