"""Datasets of Hugging Face, registered with genkit. Torch-free: they are imported when used."""

from genkit import DatasetEntry, hookimpl

genkit_api_version = 2


@hookimpl
def genkit_datasets() -> list[DatasetEntry]:
    return [
        DatasetEntry(
            "hf",
            "images of the Hugging Face Hub, or of a Parquet file or folder: hf:NAME, hf:PATH",
            "genkit_huggingface.dataset:load",
            config="genkit_huggingface.options:HuggingFaceOptions",
            argument="NAME",
        )
    ]
