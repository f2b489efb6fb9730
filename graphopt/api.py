"""For people who already hold a model: protobuf in, protobuf or arrays out."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .driver import Checking, optimize
from .exporter import to_proto
from .importer import load
from .lowering import Array, find

if TYPE_CHECKING:
    from onnx import ModelProto


def optimize_model(
    model: ModelProto | str | os.PathLike[str], **options: Any
) -> ModelProto:
    """The model made better, its weights inside; ``options`` are those of `optimize`.

    The protobuf that is returned has been read back and checked. Raises CheckFailed,
    and what `optimize` raises; UsageError where the weights are over 2 GB.
    """
    checking = Checking(
        options.pop("check", "auto"), options.get("inputs"), options.get("seed", 0)
    )
    result = optimize(load(model), check="off", **options)
    made = to_proto(result.graph, opset=result.opset)
    if checking.wanted:
        found = checking.compare(result.original, load(made))
        if not found.passed:
            raise dataclasses.replace(result, checking=checking).blamed(found)
    return made


def run_model(
    model: ModelProto | bytes | str | os.PathLike[str],
    inputs: Mapping[str, Array],
    target: str = "reference",
) -> list[Array]:
    """The outputs of a model in their order; ``inputs`` go by name.

    Raises NotImplementedError, with the name of the op, where the target cannot run
    the model; UsageError for inputs that do not fit; BackendMissing.
    """
    return list(find(target).open(model)(inputs).values())
