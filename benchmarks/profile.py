"""Where an iteration's time goes, and the speed of the matrix products in torch, oneDNN and XLA::

    python -m benchmarks.profile [--models simple-gan,vae] [--threads 2] [--data-root DATA] [--json
    FILE]

Times of operations are torch.profiler's own times of them (``self_cpu_time``), which cost something
to take: the whole iteration is timed without it as well. The products of the article's GAN are
timed one by one; XLA's, where JAX is installed, in a jitted scan, as they are in ``jit(lax.scan)``.
"""

import argparse
import importlib.util
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from genkit.engines import kernels

from .__main__ import load_images
from .peers import genkit_engine
from .peers.matrix_products import products
from .work import Work, versions

KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "mkldnn::_linear_pointwise"),
    "convolutions": (
        "aten::mkldnn_convolution",
        "aten::convolution_backward",
        "aten::slow_conv_transpose2d",
    ),
    "batch normalisation": ("aten::native_batch_norm", "aten::native_batch_norm_backward"),
    "tanh, and back": ("aten::tanh", "aten::tanh_backward"),
    "log of a sigmoid": ("aten::log_sigmoid_forward", "aten::log_sigmoid_backward"),
    "Adam": ("aten::_fused_adam_",),
    "random numbers": ("aten::normal_",),
    "gather and scale images": ("aten::index_select", "aten::sub", "aten::div_"),
}
"""Kind → operations; whatever else there is comes under "all other operations"."""
PRODUCTS_A_SCAN = 500


def operations(work: Work, steps: int) -> dict[str, Any]:
    """Milliseconds of an iteration by kind of operation."""
    loop, _ = genkit_engine.make(work)
    loop.run(200)
    plain = []
    for _ in range(5):
        begin = time.perf_counter()
        loop.run(steps)
        plain.append(1000 * (time.perf_counter() - begin) / steps)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        loop.run(steps)
    own = {event.key: event.self_cpu_time_total / 1000 / steps for event in recorded.key_averages()}
    calls = (
        sum(event.count for event in recorded.key_averages() if event.key.startswith("aten::"))
        / steps
    )
    kinds = {
        kind: round(sum(own.get(name, 0.0) for name in names), 3) for kind, names in KINDS.items()
    }
    kinds["all other operations"] = round(sum(own.values()) - sum(kinds.values()), 3)
    return {
        "an iteration, not profiled (ms)": round(statistics.median(plain), 3),
        "by kind, profiled (ms)": {kind: value for kind, value in kinds.items() if value},
        "calls of operations": round(calls),
    }


def in_torch(shape: tuple[int, int, int], onednn: bool) -> float:
    """Seconds of one product by torch's kernel, or by that which genkit takes where there is
    AVX-512.
    """
    rows, inner, columns = shape
    a, b = torch.randn(rows, inner), torch.randn(columns, inner).t()
    replaced = kernels.kernel(torch.ops.aten.mm.default, (a, b), {}) if onednn else None
    product, given = replaced or (torch.mm, (a, b))
    for _ in range(50):
        product(*given)
    begin = time.perf_counter()
    for _ in range(PRODUCTS_A_SCAN):
        product(*given)
    return (time.perf_counter() - begin) / PRODUCTS_A_SCAN


def in_xla(shape: tuple[int, int, int]) -> float:
    """Seconds of one product; each depends on the one before, so that none is left out."""
    import jax
    import jax.numpy as jnp

    rows, inner, columns = shape
    a, b = (
        jax.random.normal(jax.random.key(0), (rows, inner)),
        jax.random.normal(jax.random.key(1), (inner, columns)),
    )

    @jax.jit
    def many(a: Any, b: Any) -> Any:
        def product(carry: Any, _: Any) -> tuple[Any, None]:
            return (a + 1e-20 * carry[:, :1]) @ b, None

        return jax.lax.scan(product, jnp.zeros((rows, columns)), None, length=PRODUCTS_A_SCAN)[0]

    @jax.jit
    def additions(a: Any) -> Any:
        def addition(carry: Any, _: Any) -> tuple[Any, None]:
            return a + 1e-20 * carry[:, :1], None

        return jax.lax.scan(addition, jnp.zeros((rows, inner)), None, length=PRODUCTS_A_SCAN)[0]

    seconds = []
    for work, arguments in ((many, (a, b)), (additions, (a,))):
        work(*arguments).block_until_ready()
        begin = time.perf_counter()
        work(*arguments).block_until_ready()
        seconds.append(time.perf_counter() - begin)
    return (seconds[0] - seconds[1]) / PRODUCTS_A_SCAN


def product_rates() -> list[dict[str, Any]]:
    """GFLOP/s of each of the distinct products of the article's GAN, median of five."""
    with_jax = importlib.util.find_spec("jax") is not None
    rows = []
    for shape in dict.fromkeys(products()):
        if min(shape) < 32:  # a product with a vector is bound by memory
            continue
        flop = 2 * shape[0] * shape[1] * shape[2]
        times = [
            (in_torch(shape, False), in_torch(shape, True), in_xla(shape) if with_jax else None)
            for _ in range(5)
        ]
        row: dict[str, Any] = {
            "rows, inner, columns": shape,
            "times an iteration": products().count(shape),
            "torch": round(statistics.median(flop / first / 1e9 for first, _, _ in times)),
            "oneDNN": round(statistics.median(flop / second / 1e9 for _, second, _ in times)),
        }
        if with_jax:
            row["XLA"] = round(
                statistics.median(flop / third / 1e9 for _, _, third in times if third)
            )
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--models", default="simple-gan,ae,vae,dcgan", help="which (%(default)s)")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="(%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="profiled (%(default)s)")
    parser.add_argument(
        "--data-root", type=Path, help="where MNIST is; else random images, which cost as much"
    )
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    images, _ = load_images(arguments.data_root)
    installed = [
        name
        for name in ("genkit-torch", "torch", "jax")
        if importlib.util.find_spec(name.split("-")[0])
    ]
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python -m benchmarks.profile", *sys.argv[1:]]),
        "versions": versions(*installed),
        "threads": arguments.threads,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "models": {
            model: operations(Work(model, images, "cpu", arguments.threads), arguments.steps)
            for model in arguments.models.split(",")
        },
    }
    torch.set_num_threads(arguments.threads)
    result["products (GFLOP/s)"] = product_rates()
    print(json.dumps(result, indent=1))
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
