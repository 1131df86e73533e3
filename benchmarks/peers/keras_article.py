"""The article's script on Keras 3: Sequential models, train_on_batch, generator.predict.

With Keras 3, ``trainable = False`` set once freezes the discriminator's own training too; it is
switched before each of the two, so that the discriminator really learns (its loss is among the
figures).
"""

import os
from typing import Any

import numpy as np

from ..work import BATCH, EPSILON, HIDDEN, LATENT, LEARNING_RATE, SLOPE, Made, Work, versions


class Loop:
    def __init__(self, work: Work) -> None:
        import keras

        self.images = (work.images / 127.5 - 1.0).astype(np.float32)[..., None]
        layers: Any = keras.layers
        self.generator = keras.Sequential(
            [
                keras.Input((LATENT,)),
                layers.Dense(HIDDEN),
                layers.LeakyReLU(negative_slope=SLOPE),
                layers.Dense(784, activation="tanh"),
                layers.Reshape((28, 28, 1)),
            ]
        )
        self.discriminator = keras.Sequential(
            [
                keras.Input((28, 28, 1)),
                layers.Flatten(),
                layers.Dense(HIDDEN),
                layers.LeakyReLU(negative_slope=SLOPE),
                layers.Dense(1, activation="sigmoid"),
            ]
        )

        def adam() -> Any:
            return keras.optimizers.Adam(learning_rate=LEARNING_RATE, epsilon=EPSILON)

        self.discriminator.compile(
            loss="binary_crossentropy", optimizer=adam(), metrics=["accuracy"]
        )
        self.gan = keras.Sequential([keras.Input((LATENT,)), self.generator, self.discriminator])
        self.discriminator.trainable = False
        self.gan.compile(loss="binary_crossentropy", optimizer=adam())
        self.rng = np.random.default_rng(0)

    def run(self, steps: int) -> dict[str, float]:
        ones, zeros = np.ones((BATCH, 1), np.float32), np.zeros((BATCH, 1), np.float32)
        for _ in range(steps):
            real = self.images[self.rng.integers(0, len(self.images), BATCH)]
            fake = self.generator.predict(self.latent(), verbose=0)
            self.discriminator.trainable = True
            real_loss = self.discriminator.train_on_batch(real, ones)
            fake_loss = self.discriminator.train_on_batch(fake, zeros)
            z = self.latent()
            self.generator.predict(z, verbose=0)
            self.discriminator.trainable = False
            g_loss = self.gan.train_on_batch(z, ones)
        d_loss, accuracy = 0.5 * np.add(real_loss, fake_loss)
        return {
            "discriminator_loss": float(d_loss),
            "accuracy": float(accuracy),
            "generator_loss": float(np.mean(g_loss)),
        }

    def latent(self) -> np.ndarray:
        return self.rng.normal(0, 1, (BATCH, LATENT)).astype(np.float32)


def make(work: Work, backend: str) -> Made:
    os.environ["KERAS_BACKEND"] = backend
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    if backend == "torch":
        import torch

        torch.set_num_threads(work.threads)
    elif backend == "tensorflow":
        import tensorflow

        tensorflow.config.threading.set_intra_op_parallelism_threads(work.threads)
        tensorflow.config.threading.set_inter_op_parallelism_threads(work.threads)
        if work.device != "cpu" and not tensorflow.config.list_physical_devices("GPU"):
            raise RuntimeError("this TensorFlow sees no GPU, and would train on the CPU")
    name = {"torch": "torch", "tensorflow": tensorflow_name, "jax": "jax"}[backend]
    return Loop(work), versions("keras", name() if callable(name) else name)


def tensorflow_name() -> str:
    """The distribution that brings TensorFlow: there are several."""
    import importlib.metadata

    return importlib.metadata.packages_distributions()["tensorflow"][0]
