"""The same work in what a user would pick instead: each a module with ``make(work) -> (loop,
versions)``.

They do the same arithmetic on the same images: batch 128, three Adam updates an iteration for the
article's GAN, sample numbers drawn with replacement (pythae: its own shuffled loader). None is
handicapped, none is tuned beyond what its own documentation recommends.
"""

ALSO = {
    "genkit, torch's kernels": "benchmarks.peers.genkit_engine:torch",
    "genkit, torch's kernels, steps run by Python": "benchmarks.peers.genkit_engine:eager",
    "genkit, oneDNN's kernels": "benchmarks.peers.genkit_engine:onednn",
    "genkit, oneDNN's kernels, steps run by Python": "benchmarks.peers.genkit_engine:onednn-eager",
}
"""``--kernels`` and ``--engine eager``: what each of the two brings."""

CONTENDERS: dict[str, dict[str, str]] = {
    "simple-gan": {
        "genkit": "benchmarks.peers.genkit_engine",
        **ALSO,
        "PyTorch, hand-written": "benchmarks.peers.pytorch_careful",
        "PyTorch, plain loop": "benchmarks.peers.pytorch_plain",
        "Lightning, whole batches from memory": "benchmarks.peers.lightning_module:memory",
        "Lightning, DataLoader over a TensorDataset": "benchmarks.peers.lightning_module:loader",
        "Lightning, the loader of its tutorial": "benchmarks.peers.lightning_module:tutorial",
        "Keras, the article's code, torch": "benchmarks.peers.keras_article:torch",
        "Keras, the article's code, TensorFlow": "benchmarks.peers.keras_article:tensorflow",
        "Keras, the article's code, JAX": "benchmarks.peers.keras_article:jax",
        "JAX, jit(lax.scan)": "benchmarks.peers.jax_scan",
        "matrix products alone": "benchmarks.peers.matrix_products",
        "matrix products alone, oneDNN's": "benchmarks.peers.matrix_products:onednn",
        "as many empty kernels in a CUDA graph": "benchmarks.peers.empty_graph",
    },
    "ae": {
        "genkit": "benchmarks.peers.genkit_engine",
        **ALSO,
        "pythae": "benchmarks.peers.pythae_trainer",
    },
    "vae": {
        "genkit": "benchmarks.peers.genkit_engine",
        **ALSO,
        "pythae": "benchmarks.peers.pythae_trainer",
    },
    "dcgan": {
        "genkit": "benchmarks.peers.genkit_engine",
        **ALSO,
        "PyTorch, hand-written": "benchmarks.peers.pytorch_dcgan",
    },
}
"""Model → contender → module, and the backend behind a colon."""

CUDA_CONTENDERS: dict[str, dict[str, str]] = {
    "simple-gan": {
        "genkit, TF32": "benchmarks.peers.genkit_engine:tf32",
        "PyTorch, hand-written, CUDA graph": "benchmarks.peers.pytorch_careful:graph",
        "PyTorch, torch.compile(mode='reduce-overhead')": "benchmarks.peers.pytorch_compiled",
        "JAX, jit(lax.scan), TF32": "benchmarks.peers.jax_scan:tf32",
    }
}
"""Those that only a CUDA device can run: on a CPU they are not started, and ``make`` says why."""


def contenders(model: str, device: str) -> dict[str, str]:
    """Those of a model on a device, as in :data:`CONTENDERS`."""
    only_there = CUDA_CONTENDERS.get(model, {}) if device.startswith("cuda") else {}
    return CONTENDERS[model] | only_there
