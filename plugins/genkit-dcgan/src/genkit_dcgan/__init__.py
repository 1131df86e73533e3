"""DCGAN, registered with genkit. Torch-free: the model is imported when it is used."""

from genkit import ModelEntry, hookimpl

genkit_api_version = 2


@hookimpl
def genkit_models() -> list[ModelEntry]:
    return [ModelEntry("dcgan", "deep convolutional GAN", "genkit_dcgan.model:DCGAN")]
