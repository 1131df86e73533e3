"""The built-in plugin: what genkit brings along, registered like anybody's."""

from genkit import CallbackEntry, Dataset, Metric, Model, hookimpl

genkit_api_version = 1


@hookimpl
def genkit_models() -> list[Model]:
    return [
        Model(
            "simple-gan",
            "GAN of two small MLPs, the simplest that draws digits",
            "genkit_plugins.simple_gan:SimpleGAN",
        ),
        Model(
            "ae",
            "MLP autoencoder, sampled from a Gaussian fitted to its codes",
            "genkit_plugins.autoencoder:Autoencoder",
        ),
        Model(
            "vae",
            "MLP variational autoencoder with a Bernoulli likelihood",
            "genkit_plugins.vae:VAE",
        ),
    ]


@hookimpl
def genkit_datasets() -> list[Dataset]:
    return [
        Dataset(
            "mnist",
            "60,000 handwritten digits, 28x28 grey",
            "genkit_plugins.datasets:mnist",
            extractor="genkit_plugins.extractors:mnist",
        ),
        Dataset(
            "fashion-mnist",
            "60,000 pictures of clothing, 28x28 grey",
            "genkit_plugins.datasets:fashion_mnist",
        ),
        Dataset(
            "kmnist",
            "60,000 cursive Japanese characters, 28x28 grey",
            "genkit_plugins.datasets:kmnist",
        ),
        Dataset(
            "cifar10",
            "50,000 photographs of ten things, 32x32 colour",
            "genkit_plugins.datasets:cifar10",
        ),
        Dataset(
            "digits",
            "1,797 handwritten digits, enlarged to 28x28 grey; needs no network",
            "genkit_plugins.datasets:digits",
        ),
        Dataset("folder", "your own images: folder:PATH", "genkit_plugins.folder_dataset:folder"),
    ]


@hookimpl
def genkit_metrics() -> list[Metric]:
    return [
        Metric(
            "fid-lenet",
            "Frechet distance between samples and held-out images, in the features of a small CNN",
            "genkit_plugins.metrics.distances:fid_lenet",
            of="features",
        ),
        Metric(
            "kid-lenet",
            "kernel distance (MMD) in the same features; unbiased, so it suits fewer images",
            "genkit_plugins.metrics.distances:kid_lenet",
            of="features",
        ),
        Metric(
            "precision-recall",
            "improved precision and recall: are samples like real images, and do they cover them",
            "genkit_plugins.metrics.neighbours:precision_recall",
            of="features",
            limit=5000,
        ),
        Metric(
            "class-coverage",
            "how many classes the samples cover, how evenly, and how sure a classifier is of them",
            "genkit_plugins.metrics.classes:class_coverage",
            of="probabilities",
        ),
        Metric(
            "memorisation",
            "how near samples lie to their nearest training image, and how many are copies",
            "genkit_plugins.metrics.neighbours:memorisation",
            reference="training",
            limit=1000,
        ),
        Metric(
            "diversity",
            "how far samples lie apart, beside held-out images",
            "genkit_plugins.metrics.pixels:diversity",
        ),
        Metric(
            "reconstruction-error",
            "mean absolute and squared error of reconstructions, pixels in [0, 1], and SSIM",
            "genkit_plugins.metrics.pixels:reconstruction_error",
            compares="reconstructions",
        ),
        Metric(
            "elbo",
            "evidence lower bound of held-out images, nats an image",
            "genkit_plugins.metrics.bounds:elbo",
            compares="bounds",
        ),
        Metric(
            "log-likelihood",
            "importance-weighted bounds on the log-likelihood, by 1, 10 and 100 codes an image",
            "genkit_plugins.metrics.bounds:log_likelihood",
            compares="bounds",
            codes=100,
            limit=2000,
        ),
        Metric(
            "kl-per-dimension",
            "nats that each latent dimension holds on average",
            "genkit_plugins.metrics.posterior:kl_per_dimension",
            compares="posterior",
        ),
        Metric(
            "active-units",
            "latent dimensions whose mean varies with the image",
            "genkit_plugins.metrics.posterior:active_units",
            compares="posterior",
        ),
        Metric(
            "fid",
            "the published FID, with Inception's weights: pip install 'genkit-torch[fid]'",
            "genkit_plugins.metrics.distances:fid",
            default=False,
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
