"""DCGAN, registered with genkit. Torch-free: the model is imported when it is used."""

from genkit import Model, hookimpl

genkit_api_version = 1


@hookimpl
def genkit_models() -> list[Model]:
    return [Model("dcgan", "deep convolutional GAN", "genkit_dcgan.model:DCGAN")]
