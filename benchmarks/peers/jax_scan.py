"""JAX, the whole loop in one ``jit(lax.scan)``, images on the device, Adam written out: the fastest
a person gets.

On recent GPUs JAX multiplies float32 in TF32 unless it is asked not to; there it is asked for
either.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..work import BATCH, EPSILON, HIDDEN, LATENT, LEARNING_RATE, SLOPE, Made, Work, versions

BETAS = (0.9, 0.999)
Tree = Any


def dense(key: Any, inputs: int, outputs: int) -> dict[str, Any]:
    limit = (6 / (inputs + outputs)) ** 0.5
    return {
        "w": jax.random.uniform(key, (inputs, outputs), minval=-limit, maxval=limit),
        "b": jnp.zeros(outputs),
    }


def forward(network: list[dict[str, Any]], x: Any) -> Any:
    h = x @ network[0]["w"] + network[0]["b"]
    h = jnp.where(h > 0, h, SLOPE * h)
    return h @ network[1]["w"] + network[1]["b"]


def generate(generator: Tree, z: Any) -> Any:
    return jnp.tanh(forward(generator, z))


def adam(
    parameters: Tree, gradients: Tree, state: tuple[Tree, Tree, Any]
) -> tuple[Tree, tuple[Tree, Tree, Any]]:
    first, second, count = state
    count = count + 1
    first = jax.tree.map(lambda m, g: BETAS[0] * m + (1 - BETAS[0]) * g, first, gradients)
    second = jax.tree.map(lambda v, g: BETAS[1] * v + (1 - BETAS[1]) * g * g, second, gradients)
    unbias = LEARNING_RATE * jnp.sqrt(1 - BETAS[1] ** count) / (1 - BETAS[0] ** count)
    move = jax.tree.map(
        lambda p, m, v: p - unbias * m / (jnp.sqrt(v) + EPSILON), parameters, first, second
    )
    return move, (first, second, count)


def step(images: Any, carry: tuple[Any, ...], _: Any) -> tuple[tuple[Any, ...], Any]:
    key, g, d, g_state, d_state = carry
    key, index_key, z_key, z_key_2 = jax.random.split(key, 4)
    real = (
        images[jax.random.randint(index_key, (BATCH,), 0, len(images))].astype(jnp.float32) / 127.5
        - 1.0
    )
    fake = generate(g, jax.random.normal(z_key, (BATCH, LATENT)))

    def real_loss_of(d: Tree) -> tuple[Any, Any]:
        logits = forward(d, real)
        return jax.nn.softplus(-logits).mean(), (logits > 0).mean()

    def fake_loss_of(d: Tree) -> tuple[Any, Any]:
        logits = forward(d, fake)
        return jax.nn.softplus(logits).mean(), (logits <= 0).mean()

    (real_loss, real_right), gradients = jax.value_and_grad(real_loss_of, has_aux=True)(d)
    d, d_state = adam(d, gradients, d_state)
    (fake_loss, fake_right), gradients = jax.value_and_grad(fake_loss_of, has_aux=True)(d)
    d, d_state = adam(d, gradients, d_state)
    z = jax.random.normal(z_key_2, (BATCH, LATENT))
    g_loss, gradients = jax.value_and_grad(
        lambda g: jax.nn.softplus(-forward(d, generate(g, z))).mean()
    )(g)
    g, g_state = adam(g, gradients, g_state)
    losses = jnp.stack([0.5 * (real_loss + fake_loss), 0.5 * (real_right + fake_right), g_loss])
    return (key, g, d, g_state, d_state), losses


class Loop:
    def __init__(self, work: Work) -> None:
        images = jnp.asarray(work.images.reshape(len(work.images), 784))
        keys = jax.random.split(jax.random.key(0), 5)
        g = [dense(keys[0], LATENT, HIDDEN), dense(keys[1], HIDDEN, 784)]
        d = [dense(keys[2], 784, HIDDEN), dense(keys[3], HIDDEN, 1)]
        zeros = [jax.tree.map(jnp.zeros_like, network) for network in (g, g, d, d)]
        counts = [jnp.zeros((), jnp.float32) for _ in range(2)]  # two, since each is given away
        self.carry = (
            keys[4],
            g,
            d,
            (zeros[0], zeros[1], counts[0]),
            (zeros[2], zeros[3], counts[1]),
        )

        @partial(jax.jit, static_argnums=1, donate_argnums=0)
        def many(carry: tuple[Any, ...], steps: int, images: Any) -> tuple[tuple[Any, ...], Any]:
            return jax.lax.scan(partial(step, images), carry, None, length=steps)

        self.many = lambda carry, steps: many(carry, steps, images)

    def run(self, steps: int) -> dict[str, float]:
        self.carry, losses = self.many(self.carry, steps)
        d_loss, accuracy, g_loss = np.asarray(losses.mean(0)).tolist()
        return {"discriminator_loss": d_loss, "accuracy": accuracy, "generator_loss": g_loss}


PRECISIONS = {"fp32": "highest", "tf32": "tensorfloat32"}
"""Values of ``jax_default_matmul_precision``, by the arithmetic."""


def make(work: Work, arithmetic: str = "fp32") -> Made:
    """Matrix products in ``fp32``, as genkit's, or on CUDA in ``tf32``."""
    if work.device.startswith("cuda"):
        jax.config.update("jax_default_matmul_precision", PRECISIONS[arithmetic])
    elif arithmetic == "tf32":
        raise RuntimeError("TF32 needs a CUDA device")
    return Loop(work), versions("jax", "jaxlib")
