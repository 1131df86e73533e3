"""Options of ``hf:NAME`` and ``hf:PATH``. Torch-free: help shows them."""

from genkit import Field, ImageOptions


class HuggingFaceOptions(ImageOptions):
    """How the images become one shape, and which of them."""

    subset: str | None = Field(
        None, description="one of the subsets of a dataset that has several, by the Hub's name"
    )
    split: str | None = Field(
        None,
        description="only this split, one image in ten held out;"
        " else train, with test or validation held out",
    )
    image_column: str | None = Field(
        None, description="column of the images; else image, img or the only one of images"
    )
    label_column: str | None = Field(
        None, description="column of the labels; else label, labels or the only one of classes"
    )
