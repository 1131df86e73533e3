"""The public names of genkit, each with the module it comes from; ``as`` marks them as exported."""

from .api import (
    evaluate as evaluate,
    load as load,
    resume as resume,
    train as train,
)
from .callback import (
    Callback as Callback,
)
from .config import (
    Config as Config,
    Field as Field,
)
from .data.datasets import (
    DataRequest as DataRequest,
    ImageData as ImageData,
    Split as Split,
)
from .data.files.collection import (
    ImageSource as ImageSource,
    collect_images as collect_images,
    is_held_out as is_held_out,
)
from .data.files.options import (
    ImageOptions as ImageOptions,
)
from .data.files.reading import (
    open_image as open_image,
)
from .data.packed.reader import (
    open_packed as open_packed,
)
from .data.packed.writer import (
    create_packed as create_packed,
)
from .errors import (
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    ContractError as ContractError,
    DataError as DataError,
    DataUnavailableError as DataUnavailableError,
    DeviceError as DeviceError,
    GenkitError as GenkitError,
    GenkitWarning as GenkitWarning,
    Interrupted as Interrupted,
    PluginError as PluginError,
    RunError as RunError,
    UnknownNameError as UnknownNameError,
    UsageError as UsageError,
)
from .evaluation.classifier import (
    Classifier as Classifier,
)
from .evaluation.measure import (
    Measurement as Measurement,
)
from .hookspecs import (
    Bounds as Bounds,
    CallbackEntry as CallbackEntry,
    ClassifierEntry as ClassifierEntry,
    Dataset as Dataset,
    DatasetEntry as DatasetEntry,
    Metric as Metric,
    MetricEntry as MetricEntry,
    Model as Model,
    ModelEntry as ModelEntry,
    Posteriors as Posteriors,
    Reconstructions as Reconstructions,
    Samples as Samples,
    hookimpl as hookimpl,
)
from .interfaces import (
    Batch as Batch,
    DataSpec as DataSpec,
    Discriminator as Discriminator,
    Encoder as Encoder,
    Evaluates as Evaluates,
    Generator as Generator,
    Metrics as Metrics,
    Posterior as Posterior,
    Reconstructs as Reconstructs,
    Trainer as Trainer,
)
from .plugins.plugin import (
    PluginWarning as PluginWarning,
)
from .plugins.registry import (
    Registry as Registry,
    discover as discover,
)
from .rng import (
    Rng as Rng,
)
from .run import (
    Run as Run,
)

__version__: str
