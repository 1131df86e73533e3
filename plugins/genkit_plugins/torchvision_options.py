"""Options of ``torchvision:NAME``. Torch-free: help shows them."""

from genkit import Field, ImageOptions


class TorchvisionOptions(ImageOptions):
    """How the images become one shape, and which of them."""

    split: str | None = Field(
        None,
        description="only this of torchvision's splits, such as letters of EMNIST or extra of SVHN;"
        " else its training images, with its test images held out",
    )
