"""The built-in plugin: what genkit brings along, registered like anybody's."""

from genkit import CallbackEntry, Dataset, Metric, Model, hookimpl

genkit_api_version = 1


@hookimpl
def genkit_models() -> list[Model]:
    return [
        Model(
            "simple-gan", "GAN of two small MLPs, the simplest that draws digits", "genkit_plugins.simple_gan:SimpleGAN"
        ),
        Model(
            "ae",
            "MLP autoencoder, sampled from a Gaussian fitted to its codes",
            "genkit_plugins.autoencoder:Autoencoder",
        ),
        Model("vae", "MLP variational autoencoder with a Bernoulli likelihood", "genkit_plugins.vae:VAE"),
    ]


@hookimpl
def genkit_datasets() -> list[Dataset]:
    return [
        Dataset("mnist", "60,000 handwritten digits, 28x28 grey", "genkit_plugins.datasets:mnist"),
        Dataset("fashion-mnist", "60,000 pictures of clothing, 28x28 grey", "genkit_plugins.datasets:fashion_mnist"),
        Dataset("kmnist", "60,000 cursive Japanese characters, 28x28 grey", "genkit_plugins.datasets:kmnist"),
        Dataset("cifar10", "50,000 photographs of ten things, 32x32 colour", "genkit_plugins.datasets:cifar10"),
        Dataset(
            "digits",
            "1,797 handwritten digits, enlarged to 28x28 grey; needs no network",
            "genkit_plugins.datasets:digits",
        ),
        Dataset("folder", "your own images: folder:PATH", "genkit_plugins.datasets:folder"),
    ]


@hookimpl
def genkit_metrics() -> list[Metric]:
    return [
        Metric(
            "reconstruction-error",
            "mean absolute and squared error of reconstructions, pixels in [0, 1]",
            "genkit_plugins.metrics:reconstruction_error",
            compares="reconstructions",
        ),
        Metric(
            "diversity",
            "how far samples lie apart, beside held-out images",
            "genkit_plugins.metrics:diversity",
        ),
    ]


@hookimpl
def genkit_callbacks() -> list[CallbackEntry]:
    return [
        CallbackEntry(
            "tensorboard",
            "curves, samples and the alarm's figures for TensorBoard; needs the extra tensorboard",
            "genkit_plugins.tensorboard:TensorBoard",
        )
    ]
