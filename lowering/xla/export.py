"""A graph as a program for several platforms at once, by `jax.export`.

Symbolic dims stay open where XLA can follow them, and weights are arguments: the
program holds neither, but for weights that no file of arrays can have.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import flatbuffers  # noqa: F401  with which JAX serializes
import jax
import numpy as np

from graphopt import __version__, dims
from graphopt.dims import Dim, Expr
from graphopt.errors import GraphoptError, UnsupportedModel, UsageError
from graphopt.interface import Interface, Port, fixed_value
from graphopt.ir import Graph, Parameter
from graphopt.ops import Opaque
from graphopt.polynomial import Polynomial
from graphopt.provenance import place
from graphopt.specialize import specialize
from graphopt.types import DType, TensorType

from .function import Function
from .platforms import PLATFORMS
from .symbols import sized
from .trace import DataDependent, Open
from .weights import can_store, save_weights

Array = Any

EVERY: Final = tuple(PLATFORMS.values())
"""The platforms of a program that all can run."""

LARGEST: Final = (1 << 31) - 1
"""What a dim may be: an index beyond it stands for the end of an axis."""

MOST_BAKED: Final = 900 << 20
"""Bytes of weights that a program can hold: once, and once more in its derivative."""

_Spec: Final[Any] = jax.ShapeDtypeStruct  # which JAX has not typed


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
        if made.no_derivative is not None:
            yield f"the program has no derivative: {made.no_derivative}"


def export(
    graph: Graph,
    platform: str,
    *,
    fixed: Mapping[str, Array] | None = None,
    beside: str | None = None,
    precision: str,
) -> Program:
    """The graph as ``call(weights, inputs) -> outputs``, all dicts by name.

    It runs on all platforms if JAX can say it for all, else on ``platform``.
    ``fixed`` are values for inputs that steer shapes, others are ignored; those with a
    default need none. ``beside`` names the file of weights, without which they are part
    of the program. Raises UsageError, UnsupportedModel for what XLA does not have, and
    where a dim cannot stay open: that names the op.
    ``precision`` of float32 products is "highest", or "default", each chip's own.
    """
    for home, op in graph.walk():
        if not op.deterministic and not isinstance(op, Opaque):
            raise UnsupportedModel(
                "a program for XLA would draw the same random numbers each time",
                where=place(home, op),
            )
    graph = _named(graph)
    function = Function(graph, precision=precision)
    params = function.params
    known = _fixed(graph, function.steering, params.keys(), fixed or {})
    stored = {
        name: array
        for name, array in params.items()
        if beside is not None and can_store(name, array)
    }
    baked = {name: array for name, array in params.items() if name not in stored}
    if sum(array.nbytes for array in baked.values()) > MOST_BAKED:
        raise UsageError(
            "the weights are too large to be part of a program, which ends at 2 GB;"
            " without --bake-weights they go into a file beside it"
        )

    def call(weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> Any:
        return function({**baked, **weights}, {**known, **inputs})

    free = [p for p in graph.inputs if p.default is None and p.name not in known]
    making = _Making(graph, free, call, stored)
    made, blob, no_derivative = making.made(platform)
    shapes = jax.tree.unflatten(made.out_tree, made.out_avals)
    for name, aval in shapes.items():
        if not hasattr(aval, "shape"):
            raise UnsupportedModel(
                f"the output {name!r} is no tensor; a program for XLA gives tensors"
            )
    interface = Interface(
        graphopt=__version__,
        jax=jax.__version__,
        platforms=tuple(made.platforms),
        inputs=tuple(map(Port.of, free)),
        outputs=tuple(
            Port(name, shapes[name].dtype.name, making.shown(shapes[name].shape))
            for name in graph.output_names
        ),
        symbols=tuple(making.names),
        constraints=tuple(f"{name} <= {most}" for name, most in making.caps),
        weights=beside if stored else None,
        baked=tuple(baked),
        fixed={name: fixed_value(array) for name, array in known.items()},
        no_derivative=no_derivative,
        precision=precision,
    )
    return Program(blob, stored, interface)


class _Making:
    """The attempts to export one function, until one succeeds."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Parameter],
        call: Any,
        weights: Mapping[str, Array],
    ) -> None:
        self.graph = graph
        self.inputs = inputs
        self.call = call
        self.weights = weights
        self.names = _identifiers(d for p in inputs for d in p.shape or ())
        self.caps: list[tuple[str, int]] = []

    def made(self, platform: str) -> tuple[Any, bytes, str | None]:
        """The export, its bytes, and why they hold no derivative."""
        with jax.enable_x64(True), _without_source():
            made = self._within_caps(platform)
            try:
                return made, bytes(made.serialize(vjp_order=1)), None
            except Exception as error:  # one of many that JAX has for it
                return made, _serialized(made), _first_line(error)

    def _within_caps(self, platform: str) -> Any:
        """The export; where dims cannot stay open, the one for dims within `_caps`."""
        try:
            return self._for_most(platform)
        except (Open, DataDependent):
            self.caps = _caps(self.graph, self.names)
            if not self.caps:
                raise
            return self._for_most(platform)

    def _for_most(self, platform: str) -> Any:
        """The export for all platforms, or where one lacks something, for this one."""
        for platforms in (EVERY, (platform,)):
            try:
                return self._exported(platforms)
            except GraphoptError:
                raise
            except (NotImplementedError, ValueError) as error:  # of JAX
                reason = error
        raise UnsupportedModel(
            f"JAX cannot export this for {platform}: {_first_line(reason)}"
        ) from reason

    def _exported(self, platforms: Sequence[str]) -> Any:
        most = {**dict.fromkeys(self.names, LARGEST), **dict(self.caps)}
        within = [f"{ours} <= {most[name]}" for name, ours in self.names.items()]
        scope = jax.export.SymbolicScope(within)
        symbols = {
            name: jax.export.symbolic_shape(ours, scope=scope)[0]
            for name, ours in self.names.items()
        }
        inputs = {
            p.name: _Spec([sized(dim, symbols) for dim in p.shape or ()], dtype.numpy)
            for p in self.inputs
            if (dtype := p.dtype) is not None
        }
        weights = {
            name: _Spec(array.shape, array.dtype)
            for name, array in self.weights.items()
        }
        exporting = jax.export.export(jax.jit(self.call), platforms=platforms)
        try:
            return exporting(weights, inputs)
        except Open as error:
            raise Open(
                f"{self._dims(error)} cannot stay symbolic: {error.reason}",
                where=place(self.graph, error.op),
            ) from error
        except DataDependent as error:
            if not self.names:
                raise
            raise DataDependent(
                f"{error.message}. It may be known for fixed sizes:"
                f" {_advice(self.names)}",
                where=error.where,
            ) from error

    def _dims(self, error: Open) -> str:
        """The dims that the reason names, or the shapes do, and how to fix them."""
        found: list[str] = []
        for text in (error.reason, error.shapes):
            words = set(re.findall(r"\w+", text))
            found = found or [n for n, ours in self.names.items() if ours in words]
        found = found or list(self.names)
        what = "the dim" if len(found) == 1 else "one of the dims"
        listed = ", ".join(map(repr, found))
        return f"{what} {listed} (fix it, as by {_advice(found)})"

    def shown(self, shape: Sequence[Any]) -> tuple[int | str, ...]:
        """A shape of JAX in the words of the model."""
        named = {ours: name for name, ours in self.names.items()}
        return tuple(
            d
            if isinstance(d, int)
            else re.sub(r"\w+", lambda found: named.get(found[0], found[0]), str(d))
            for d in shape
        )


def _advice(names: Iterable[str]) -> str:
    """How to fix dims on the command line."""
    return " ".join(f"--dim {name.removeprefix('?')}=8" for name in names)


def _named(graph: Graph) -> Graph:
    """The graph with a name for each dim of its inputs. Raises UsageError."""
    new: dict[str, int | str] = {}
    for p in graph.inputs:
        if p.default is not None:
            if p.dtype is DType.STRING:
                raise UnsupportedModel(
                    f"the input {p.name!r}: XLA has no strings; --freeze"
                    " (freeze=True in Python) makes a constant of its default"
                )
            continue
        if not isinstance(p.type, TensorType) or p.type.dtype is None:
            raise UnsupportedModel(
                f"the input {p.name!r} is {p.type}; a program for XLA takes tensors"
            )
        if p.type.dtype is DType.STRING:
            raise UnsupportedModel(f"the input {p.name!r}: XLA has no strings")
        if p.type.shape is None:
            raise UsageError(
                f"the input {p.name!r} has no known rank; give it one, as by"
                f" --input-shape {p.name}=N,3"
            )
        for axis, dim in enumerate(p.type.shape):
            if dim is None:
                new[f"{p.name}:{axis}"] = f"{p.name}:{axis}"
    return specialize(graph, new).graph if new else graph


def _fixed(
    graph: Graph,
    steering: Collection[str],
    weights: Collection[str],
    given: Mapping[str, Array],
) -> dict[str, Array]:
    """The values of inputs that steer shapes. Raises UsageError where one lacks.

    A default that is no weight steers, also where the input could be too large to.
    """
    known = {}
    for p in graph.inputs:
        if p.name in weights or (p.default is None and p.name not in steering):
            continue
        if p.name in given:
            known[p.name] = np.asarray(given[p.name])
        elif p.default is not None:
            known[p.name] = p.default.array()
        else:
            raise UsageError(
                f"the input {p.name!r} decides shapes, and is part of a program for"
                " XLA: give its value with --inputs (inputs=… in Python)"
            )
    return known


def _identifiers(found: Iterable[Dim]) -> dict[str, str]:
    """The symbols of some dims, with names that JAX can read; in order."""
    names: dict[str, str] = {}
    for dim in found:
        for name in sorted(dims.symbols(dim) - names.keys()):
            ours = re.sub(r"\W", "_", name, flags=re.ASCII)
            if not ours[:1].isalpha() or ours in _RESERVED:
                ours = f"d_{ours}"
            while ours in names.values():
                ours += "_"
            names[name] = ours
    return names


_RESERVED: Final = ("max", "min", "mod", "floordiv", "non_negative")
"""What means something else where JAX reads dims."""


def _caps(graph: Graph, names: Iterable[str]) -> list[tuple[str, int]]:
    """What symbols are held against in the graph: min(n, 512) says that n <= 512.

    Tables of positions are sliced to a length, and then added to what is as long.
    """
    found: dict[str, int] = {}
    todo: list[Polynomial] = []
    for _, op in graph.walk():
        for value in op.results:
            known = () if value.contents is None else value.contents.flat
            followed = (*(value.shape or ()), *known)
            todo += [d.polynomial for d in followed if isinstance(d, Expr)]
    seen: set[Polynomial] = set()
    while todo:
        polynomial = todo.pop()
        if polynomial in seen:
            continue
        seen.add(polynomial)
        for monomial, _ in polynomial.terms:
            for atom in monomial:
                todo += atom.operands
                if atom.operation != "min":
                    continue
                ends = [x.constant for x in atom.operands if not x.degree]
                alone = [x.single for x in atom.operands if x.single is not None]
                for symbol in alone:
                    if ends and symbol.operation == "symbol":
                        name = symbol.key[0]
                        found[name] = min(ends[0], found.get(name, ends[0]))
    return [(name, found[name]) for name in names if found.get(name, 0) > 0]


def _serialized(made: Any) -> bytes:
    """An export without its derivative. Raises UnsupportedModel."""
    try:
        return bytes(made.serialize())
    except Exception as error:  # an element type that the format lacks
        raise UnsupportedModel(
            f"JAX cannot serialize the program: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@contextmanager
def _without_source() -> Iterator[None]:
    """Programs that say nothing of the files that made them."""
    config: Any = jax.config
    option = "jax_traceback_in_locations_limit"
    before = getattr(config, option)
    config.update(option, 0)
    try:
        yield
    finally:
        config.update(option, before)
