"""Fit the weights of a model to data, and write the model back with them.

>>> from graphopt import training
>>> result = training.fit(
...     "model.onnx", (images, labels), optimizer=optax.adam(1e-3),
...     loss="categorical_crossentropy", epochs=5,
... )
>>> result.save("trained.onnx")

The optimizers are optax's, the gradients JAX's, the checkpoints orbax's: this package
only binds them to a `Graph`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import BackendMissing

if TYPE_CHECKING:
    from .fitting import Result as Result, fit as fit
    from .losses import LOSSES as LOSSES, METRICS as METRICS
    from .outcome import NotFinite as NotFinite
    from .progress import Event as Event, line_of as line_of

_HOME = {
    "Event": "progress",
    "LOSSES": "losses",
    "METRICS": "losses",
    "NotFinite": "outcome",
    "Result": "fitting",
    "fit": "fitting",
    "line_of": "progress",
}
_NEEDED = ("jax", "jaxlib", "optax", "orbax")

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            return getattr(import_module(f".{_HOME[name]}", __name__), name)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing not in _NEEDED:
                raise
            raise BackendMissing(
                f"{missing} is not installed; pip install 'graphopt[train]'"
            ) from error

    def __dir__() -> list[str]:
        return sorted({*globals(), *_HOME})
