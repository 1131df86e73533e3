"""A new plugin package: the smallest that installs, trains and passes the contract checks."""

import importlib.util
import keyword
import re
from pathlib import Path

from ..errors import UsageError
from ..hookspecs import API_VERSION
from .plugin import OWN_DISTRIBUTION

MAX_NAME_LENGTH = 50
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


def write_plugin(name: str, folder: Path, version: str) -> list[Path]:
    """Write a plugin package; returns the files written.

    Args:
        name: name of the distribution and its model, lower-case words joined by hyphens.
        folder: where to write; it must be empty or not exist.
        version: version of genkit that it is written for, ``MAJOR.MINOR.PATCH``.

    Raises:
        UsageError: the name is malformed or taken, or the folder is not empty.
    """
    if not _NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise UsageError(
            f"{name!r}: use a name of lower-case words joined by hyphens, such as my-gan"
        )
    package = name.replace("-", "_")
    if keyword.iskeyword(package) or importlib.util.find_spec(package) is not None:
        raise UsageError(f"{name}: a Python package {package} exists already; choose another name")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: choose another folder")
    major, minor = (int(part) for part in version.split(".")[:2])
    next_version = f"0.{minor + 1}" if major == 0 else str(major + 1)
    values = {
        "NAME": name,
        "PACKAGE": package,
        "CLASS": "".join(part.capitalize() for part in name.split("-")),
        "REQUIREMENT": f"{OWN_DISTRIBUTION}>={major}.{minor},<{next_version}",
        "GENKIT": OWN_DISTRIBUTION,
        "API": str(API_VERSION),
    }
    written = []
    for template, text in _FILES.items():
        path = folder / template.replace("PACKAGE", package)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(re.sub(r"@([A-Z]+)@", lambda m: values[m[1]], text), encoding="utf-8")
        written.append(path)
    return written


_FILES = {
    "pyproject.toml": """\
[build-system]
requires = ["hatchling>=1.25"]
build-backend = "hatchling.build"

[project]
name = "@NAME@"
version = "0.1.0"
description = "A generative model for genkit."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["@REQUIREMENT@"]

[project.optional-dependencies]
test = ["pytest>=8.2"]

[project.entry-points.genkit]
@NAME@ = "@PACKAGE@"

[tool.hatch.build.targets.wheel]
packages = ["src/@PACKAGE@"]
""",
    "README.md": """\
# @NAME@

A generative model for genkit (the distribution `@GENKIT@`).

```
pip install -e '.[test]'
genkit train @NAME@
genkit check @NAME@ && pytest
```
""",
    "src/PACKAGE/__init__.py": '''\
"""The plugin: the model's name and target. Imports no torch, so that listing models is fast."""

from genkit import ModelEntry, hookimpl

genkit_api_version = @API@


@hookimpl
def genkit_models() -> list[ModelEntry]:
    return [ModelEntry("@NAME@", "one line on what it is", "@PACKAGE@.model:@CLASS@")]
''',
    "src/PACKAGE/model.py": '''\
"""@NAME@: a GAN of two small MLPs, to start from."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import genkit


class Generator(genkit.Generator):
    """z → image."""

    def __init__(self, latent_dim: int, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.shape = spec.shape
        self.layers = nn.Sequential(
            nn.Linear(latent_dim, hidden_dim), nn.ReLU(), nn.Linear(hidden_dim, spec.size)
        )

    def prior(self, n: int, rng: genkit.Rng, labels: Tensor | None = None) -> Tensor:
        return rng.normal(n, self.latent_dim)

    def forward(self, z: Tensor) -> Tensor:
        return torch.tanh(self.layers(z)).view(len(z), *self.shape)  # (B, C, H, W)


class Discriminator(genkit.Discriminator):
    """Image → logit."""

    def __init__(self, hidden_dim: int, spec: genkit.DataSpec) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(spec.size, hidden_dim), nn.LeakyReLU(0.2), nn.Linear(hidden_dim, 1)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images.flatten(1)).flatten()  # (B,)


class @CLASS@(genkit.Trainer):
    """Non-saturating GAN (Goodfellow et al. 2014)."""

    class Config(genkit.Config):
        latent_dim: int = genkit.Field(64, ge=1, description="size of the latent vector z")
        hidden_dim: int = genkit.Field(128, ge=1, description="width of the hidden layers")
        learning_rate: float = genkit.Field(5e-4, gt=0, description="learning rate of Adam")

    preferred_datasets = ("mnist", "digits")
    log_format = "[D loss: {discriminator_loss:.4f}] [G loss: {generator_loss:.4f}]"

    def __init__(self, config: Config, spec: genkit.DataSpec) -> None:
        super().__init__(config, spec)
        self.generator = Generator(config.latent_dim, config.hidden_dim, spec)
        self.discriminator = Discriminator(config.hidden_dim, spec)
        for name, network in (("discriminator", self.discriminator), ("generator", self.generator)):
            self.optimizers[name] = torch.optim.Adam(network.parameters(), lr=config.learning_rate)

    def step(self, batch: genkit.Batch, rng: genkit.Rng) -> genkit.Metrics:
        fake = self.generator(self.generator.prior(len(batch.images), rng))  # (B, C, H, W)
        real_loss = F.softplus(-self.discriminator(batch.images)).mean()
        fake_loss = F.softplus(self.discriminator(fake.detach())).mean()
        self.update(discriminator=real_loss + fake_loss)
        generator_loss = F.softplus(-self.discriminator(fake)).mean()
        self.update(generator=generator_loss)
        return {
            "discriminator_loss": (real_loss + fake_loss).detach(),
            "generator_loss": generator_loss.detach(),
        }
''',
    "tests/test_contract.py": """\
from genkit.testing import parametrize_with_checks


@parametrize_with_checks("@NAME@")
def test_contract(check):
    check()
""",
}
