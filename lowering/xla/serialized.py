"""Programs that are about to be written: a serialized export, and its weights."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from graphopt.interface import Interface

from .platforms import PLATFORMS
from .weights import save_weights

Array = Any

EVERY: Final = tuple(PLATFORMS.values())
"""The platforms of a program that all can run."""


@dataclass(frozen=True)
class Program:
    """What is to be written: a serialized export, and the weights that go beside it."""

    blob: bytes
    weights: Mapping[str, Array]
    interface: Interface

    def save(self, path: Path) -> None:
        """Write the program, and the weights beside it; see `graphopt.interface`."""
        path.write_bytes(self.blob)
        self.interface.append_to(path)
        if self.interface.weights is not None:
            beside = path.with_name(self.interface.weights)
            save_weights(beside, self.weights)
            shutil.copymode(path, beside)  # safetensors writes for its owner alone

    def notes(self) -> Iterator[str]:
        """What whoever uses the program should know."""
        made = self.interface
        if made.platforms != EVERY:
            yield f"the program runs on {', '.join(made.platforms)} only"
        if made.precision == "default":
            yield (
                "products of float32 round operands where the chip does, on TPUs to"
                " bfloat16 (see --precision)"
            )
        if made.symbols:
            yield f"open dims: {', '.join(made.symbols)}"
        yield from (f"holds for {constraint}" for constraint in made.constraints)
        for name in made.fixed:
            yield f"the input {name!r} decides shapes, and is fixed in the program"
        if made.weights is not None and made.baked:
            some = ", ".join(map(repr, made.baked[:3]))
            yield (
                f"{len(made.baked)} weights that JAX cannot load from safetensors, for"
                f" their types or names, are in the program: {some}"
            )
        if held := set(made.overridable).intersection(made.baked):
            yield (
                f"{len(held)} initializers can no longer be overridden by callers: they"
                " are part of the program"
            )
        if made.no_derivative is not None:
            yield f"the program has no derivative: {made.no_derivative}"
