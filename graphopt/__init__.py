"""A compiler for trained models: improve an ONNX model, and prove the result.

>>> result = graphopt.optimize("model.onnx")
>>> print(result.report)
>>> result.save("model.opt.onnx")

Names are imported when they are first used, so that ``import graphopt`` costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from . import training as training
    from .api import (
        optimize_model as optimize_model,
        run_model as run_model,
    )
    from .check import check as check
    from .cost import cost as cost
    from .debug import debug as debug
    from .driver import (
        Result as Result,
        optimize as optimize,
    )
    from .errors import (
        BackendMissing as BackendMissing,
        CheckFailed as CheckFailed,
        GraphoptError as GraphoptError,
        InvalidModel as InvalidModel,
        UnsupportedModel as UnsupportedModel,
        UsageError as UsageError,
    )
    from .importer import load as load
    from .ir import (
        Graph as Graph,
        Op as Op,
        Value as Value,
    )
    from .lowering import (
        session as session,
        to_jax as to_jax,
    )
    from .pipeline import (
        Pass as Pass,
        Pipeline as Pipeline,
        RulePass as RulePass,
    )
    from .rewrite import (
        Miss as Miss,
        Outcome as Outcome,
        Rule as Rule,
        miss as miss,
        rule as rule,
    )
    from .sharded import (
        Sharded as Sharded,
        shard as shard,
    )

_HOME = {
    "api": ("optimize_model", "run_model"),
    "check": ("check",),
    "cost": ("cost",),
    "debug": ("debug",),
    "driver": ("Result", "optimize"),
    "errors": (
        "BackendMissing",
        "CheckFailed",
        "GraphoptError",
        "InvalidModel",
        "UnsupportedModel",
        "UsageError",
    ),
    "importer": ("load",),
    "ir": ("Graph", "Op", "Value"),
    "lowering": ("session", "to_jax"),
    "pipeline": ("Pass", "Pipeline", "RulePass"),
    "rewrite": ("Miss", "Outcome", "Rule", "miss", "rule"),
    "sharded": ("Sharded", "shard"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name == "training":
            return import_module(".training", __name__)
        if name not in _MODULE:
            raise AttributeError(f"module 'graphopt' has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULE[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_MODULE, "training"})


class _Package(ModuleType):
    """``graphopt.check`` is the function, also once the module `check` is loaded."""

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _MODULE.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
