"""genkit: train, sample and share small generative image models; every model, dataset and metric is
a plugin.

The public names stand in ``__init__.pyi``. Each is imported when it is first used, so ``import
genkit`` imports no torch.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
