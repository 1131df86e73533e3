"""The built-in plugin: genkit's models, datasets, metrics, classifier and callbacks."""

from genkit import (
    Bounds,
    CallbackEntry,
    ClassifierEntry,
    DatasetEntry,
    MetricEntry,
    ModelEntry,
    Posteriors,
    Reconstructions,
    Samples,
    hookimpl,
)

genkit_api_version = 2

MAX_PIXEL_IMAGES = 10_000
"""Of metrics that keep the pixels of all images."""
MAX_FID_IMAGES = 50_000
"""As many as publications use."""


@hookimpl
def genkit_models() -> list[ModelEntry]:
    return [
        ModelEntry(
            "simple-gan",
            "GAN of two small MLPs, the simplest that draws digits",
            "genkit_plugins.simple_gan:SimpleGAN",
        ),
        ModelEntry(
            "ae",
            "MLP autoencoder, sampled from a Gaussian fitted to its codes",
            "genkit_plugins.autoencoder:Autoencoder",
        ),
        ModelEntry(
            "vae",
            "MLP variational autoencoder with a Bernoulli likelihood",
            "genkit_plugins.vae:VAE",
        ),
    ]


@hookimpl
def genkit_datasets() -> list[DatasetEntry]:
    return [
        DatasetEntry(
            "mnist",
            "60,000 handwritten digits, 28x28 grey",
            "genkit_plugins.datasets:mnist",
            extractor="genkit_plugins.extractors:mnist",
        ),
        DatasetEntry(
            "fashion-mnist",
            "60,000 pictures of clothing, 28x28 grey",
            "genkit_plugins.datasets:fashion_mnist",
        ),
        DatasetEntry(
            "kmnist",
            "60,000 cursive Japanese characters, 28x28 grey",
            "genkit_plugins.datasets:kmnist",
        ),
        DatasetEntry(
            "cifar10",
            "50,000 photographs of ten things, 32x32 colour",
            "genkit_plugins.datasets:cifar10",
        ),
        DatasetEntry(
            "digits",
            "1,797 handwritten digits, enlarged to 28x28 grey; needs no network",
            "genkit_plugins.datasets:digits",
        ),
        DatasetEntry(
            "folder",
            "your own images: folder:PATH",
            "genkit_plugins.folder_dataset:folder",
            config="genkit:ImageOptions",
            argument="PATH",
        ),
        DatasetEntry(
            "torchvision",
            "any dataset of torchvision that gives images: torchvision:NAME",
            "genkit_plugins.torchvision_dataset:torchvision_dataset",
            config="genkit_plugins.torchvision_options:TorchvisionOptions",
            argument="NAME",
        ),
        DatasetEntry(
            "packed",
            "a dataset in one file, written by `genkit data pack`: packed:FILE",
            "genkit_plugins.packed_dataset:packed",
            argument="FILE",
        ),
    ]


@hookimpl
def genkit_classifiers() -> list[ClassifierEntry]:
    return [
        ClassifierEntry(
            "lenet",
            "a small CNN after LeNet-5, for images of 8x8 or more",
            "genkit_plugins.classifier:LeNet",
        )
    ]


@hookimpl
def genkit_metrics() -> list[MetricEntry]:
    return [*_metrics_of_samples(), *_metrics_of_codes(), *_metrics_on_request()]


def _metrics_of_samples() -> list[MetricEntry]:
    return [
        MetricEntry(
            "fid-lenet",
            "Frechet distance between samples and held-out images, in the features of a small CNN",
            "genkit_plugins.metrics.distances:fid_lenet",
            inputs=Samples("features"),
        ),
        MetricEntry(
            "kid-lenet",
            "kernel distance (MMD) in the same features; unbiased, so it suits fewer images",
            "genkit_plugins.metrics.distances:kid_lenet",
            inputs=Samples("features"),
        ),
        MetricEntry(
            "precision-recall",
            "improved precision and recall: are samples like real images, and do they cover them",
            "genkit_plugins.metrics.neighbours:precision_recall",
            inputs=Samples("features"),
            limit=5000,
        ),
        MetricEntry(
            "class-coverage",
            "how many classes the samples cover, how evenly, and how sure a classifier is of them",
            "genkit_plugins.metrics.classes:class_coverage",
            inputs=Samples("probabilities"),
        ),
        MetricEntry(
            "memorisation",
            "how near samples lie to their nearest training image, and how many are copies",
            "genkit_plugins.metrics.neighbours:memorisation",
            inputs=Samples(reference="training"),
            limit=1000,
        ),
        MetricEntry(
            "diversity",
            "how far samples lie apart, beside held-out images",
            "genkit_plugins.metrics.pixels:diversity",
            limit=MAX_PIXEL_IMAGES,
        ),
    ]


def _metrics_of_codes() -> list[MetricEntry]:
    return [
        MetricEntry(
            "reconstruction-error",
            "mean absolute and squared error of reconstructions, pixels in [0, 1], and SSIM",
            "genkit_plugins.metrics.pixels:reconstruction_error",
            inputs=Reconstructions(),
            limit=MAX_PIXEL_IMAGES,
        ),
        MetricEntry(
            "elbo",
            "evidence lower bound of held-out images, nats per image",
            "genkit_plugins.metrics.bounds:elbo",
            inputs=Bounds(),
        ),
        MetricEntry(
            "log-likelihood",
            "importance-weighted bounds on the log-likelihood, by 1, 10 and 100 codes per image",
            "genkit_plugins.metrics.bounds:log_likelihood",
            inputs=Bounds(importance_samples=100),
            limit=2000,
        ),
        MetricEntry(
            "kl-per-dimension",
            "nats in each latent dimension, on average",
            "genkit_plugins.metrics.posterior:kl_per_dimension",
            inputs=Posteriors(),
        ),
        MetricEntry(
            "active-units",
            "latent dimensions whose mean varies with the image",
            "genkit_plugins.metrics.posterior:active_units",
            inputs=Posteriors(),
        ),
    ]


def _metrics_on_request() -> list[MetricEntry]:
    return [
        MetricEntry(
            "fid",
            "the published FID, with Inception's weights: pip install 'genkit-torch[fid]'",
            "genkit_plugins.metrics.distances:fid",
            limit=MAX_FID_IMAGES,
            default=False,
        ),
    ]


@hookimpl
def genkit_callbacks() -> list[CallbackEntry]:
    return [
        CallbackEntry(
            "tensorboard",
            "curves, samples and the alarm's readings for TensorBoard; needs the extra tensorboard",
            "genkit_plugins.tensorboard:TensorBoard",
        )
    ]
