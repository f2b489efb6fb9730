"""What an exported program takes and gives: the JSON that travels in its file.

A ``.stablehlo`` file is what `jax.export` serializes, and behind it a small zip archive
with this JSON: JAX reads the first and ignores what follows, `zipfile` finds the second
from the end.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, TypeGuard

import numpy as np

from .dims import format_dim, parse_dim
from .errors import InvalidModel
from .ir import Graph, Parameter
from .types import DType, TensorType

SUFFIX: Final = ".stablehlo"

ENTRY: Final = "graphopt.json"
"""The member of the archive."""

SCHEMA: Final = 1

LONGEST: Final = 64 << 20
"""Bytes of an interface, unpacked: untrusted archives could unpack to anything."""

_LIMIT: Final = re.compile(r"(.+) (<=|>=) (\d{1,18})")

_NAMES: Final = ("platforms", "symbols", "constraints", "baked", "overridable")


PLANNED: Final = ("", "single", "joined")
"""How the memory of a program is: not planned, or planned with single products and
convolutions for XLA's library, or as joined as it likes."""


@dataclass(frozen=True)
class Port:
    """An input or output: element type, and sizes or symbolic dims."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def of(cls, parameter: Parameter) -> Port:
        """An input that is a tensor of known rank and element type."""
        dtype, shape = parameter.dtype, parameter.shape
        assert dtype is not None
        assert shape is not None
        dims = [d if isinstance(d, int) else format_dim(d) for d in shape]
        return cls(parameter.name, dtype.numpy.name, tuple(dims))

    def parameter(self) -> Parameter:
        """The input of a graph that this is. Raises ValueError, TypeError."""
        dims = [d if isinstance(d, int) else parse_dim(d) for d in self.shape]
        return Parameter(TensorType(_dtype(self.dtype), tuple(dims)), self.name)


@dataclass(frozen=True)
class Interface:
    """How a program is called: ``call(weights, inputs) -> outputs``, all by name.

    ``weights`` is the file that holds them, beside the program; None where they are all
    in it. ``baked`` are weights that are part of the program, ``fixed`` are the inputs
    whose values are; ``overridable`` are weights that were inputs too, baked or not.
    ``symbols`` are the open dims, of which ``constraints`` hold;
    ``no_derivative`` says why the program has none, if it has none. ``precision`` of
    float32 products is "highest", float32's own, or "default", that of each chip.
    ``planned``: its memory was, with "single" or "joined" ops for XLA's library.
    """

    graphopt: str
    jax: str
    platforms: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    symbols: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    weights: str | None = None
    baked: tuple[str, ...] = ()
    overridable: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    no_derivative: str | None = None
    precision: str = "highest"
    planned: str = ""

    def to_json(self) -> dict[str, Any]:
        """The members of the JSON object."""
        return {"schema": SCHEMA, **asdict(self)}

    def graph(self) -> Graph:
        """A graph that has these inputs and no outputs: what is to be fed."""
        return Graph([port.parameter() for port in self.inputs], [])

    def refused(self, sizes: Mapping[str, int]) -> tuple[str, str, int] | None:
        """The first limit of an open dim that sizes break, as ``n``, ``<=``, ``64``."""
        limits = [(name, ">=", 1) for name in self.symbols]  # as JAX has them
        limits += [
            (m[1], m[2], int(m[3]))
            for m in map(_LIMIT.fullmatch, self.constraints)
            if m
        ]
        for name, sign, limit in limits:
            size = sizes.get(name, limit)
            if (size < limit) if sign == ">=" else (size > limit):
                return name, sign, limit
        return None

    def fixed_arrays(self) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs that the program knows already."""
        return {
            name: np.array(held["values"], _dtype(held["dtype"]).numpy)
            for name, held in self.fixed.items()
        }

    def append_to(self, path: Path) -> None:
        """Put the JSON behind a program."""
        entry = zipfile.ZipInfo(ENTRY)  # of no date: equal programs are equal files
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(entry, json.dumps(self.to_json(), indent=1) + "\n")


def is_program(model: object) -> TypeGuard[str | os.PathLike[str]]:
    """True for the path of an exported program, by its suffix."""
    return isinstance(model, str | os.PathLike) and Path(model).suffix == SUFFIX


def read_interface(path: Path) -> Interface:
    """The interface of an exported program, which may come from anybody.

    ``weights`` is the name of a file, and no path. Raises InvalidModel.
    """
    try:
        members = json.loads(_entry(path))
        if (schema := members.pop("schema")) != SCHEMA:
            raise InvalidModel(
                f"an interface of schema {schema}; this version reads {SCHEMA}",
                where=str(path),
            )
        ports: dict[str, Any] = {
            side: tuple(Port(p["name"], p["dtype"], tuple(p["shape"])) for p in side_)
            for side in ("inputs", "outputs")
            for side_ in (members.pop(side),)
        }
        for name in members.keys() & set(_NAMES):
            members[name] = tuple(members[name])
        if isinstance(before := members.get("planned"), bool):  # as it was written once
            members["planned"] = "single" if before else ""
        made = Interface(**ports, **members)
        _check(made)
        made.graph()
        made.fixed_arrays()
    except zipfile.BadZipFile:
        raise InvalidModel(
            "no program that graphopt exported: it lacks an interface", where=str(path)
        ) from None
    except _DAMAGED as error:
        raise InvalidModel(f"a damaged interface: {error}", where=str(path)) from None
    return made


_DAMAGED: Final = (
    *(KeyError, TypeError, ValueError, AttributeError, OverflowError),
    *(RuntimeError, EOFError, zlib.error),  # of archives, and of lists too deep
)


def _entry(path: Path) -> bytes:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        if archive.getinfo(ENTRY).file_size > LONGEST:
            raise ValueError(f"it has more than {LONGEST} bytes")
        return archive.read(ENTRY)


def _check(made: Interface) -> None:
    """Raises TypeError, ValueError."""
    _words("versions", (made.graphopt, made.jax))
    for name in _NAMES:
        _words(name, getattr(made, name))
    _words("no_derivative", () if made.no_derivative is None else (made.no_derivative,))
    for port in (*made.inputs, *made.outputs):
        _words("names", (port.name,))
        _dtype(port.dtype)
        if not all(type(dim) in (int, str) for dim in port.shape):
            raise TypeError(f"{port.name!r} has a dim that is no number and no word")
    if made.precision not in ("highest", "default"):
        raise ValueError(f"no precision is called {made.precision!r}")
    if made.planned not in PLANNED:
        raise ValueError(f"no memory is planned {made.planned!r}")
    weights = made.weights
    if weights is None:
        return
    _words("weights", (weights,))
    if weights in ("", ".", "..") or not weights.isprintable() or "/" in weights:
        raise ValueError(f"weights are in a file beside the program, not {weights!r}")


def _words(what: str, found: Iterable[object]) -> None:
    if not all(isinstance(word, str) for word in found):
        raise TypeError(f"{what} that are no words")


def fixed_value(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """A small array as JSON."""
    return {"dtype": array.dtype.name, "values": array.tolist()}


def _dtype(name: str) -> DType:
    """The element type that NumPy calls so. Raises ValueError."""
    for dtype in DType:
        if dtype is not DType.STRING and dtype.bits and dtype.numpy.name == name:
            return dtype
    raise ValueError(f"no element type is called {name!r}")
