"""A graph as a program for several platforms at once, by `jax.export`.

Symbolic dims stay open where XLA can follow them, and weights are arguments: the
program holds neither, but for weights that no file of arrays can have.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import flatbuffers  # noqa: F401  with which JAX serializes
import jax
import numpy as np

from graphopt import __version__
from graphopt.check.running import running_sizes, tied_dims
from graphopt.debug import timed
from graphopt.errors import GraphoptError, UnsupportedModel, UsageError
from graphopt.interface import Interface, Port, fixed_value
from graphopt.ir import Graph
from graphopt.ops.random import is_random
from graphopt.provenance import place
from graphopt.specialize import specialize
from graphopt.types import DType, TensorType
from graphopt.unnamed import is_unnamed

from . import phases  # noqa: F401  says how long they take
from .compiling import keeps
from .function import Function
from .serialized import EVERY, Program
from .symbols import caps, identifiers, sized
from .trace import DataDependent, Open
from .weights import can_store

Array = Any

LARGEST_DIM: Final = (1 << 31) - 1
"""What a dim may be: an index beyond it stands for the end of an axis."""

MOST_BAKED: Final = 900 << 20
"""Bytes of weights that a program can hold: once, and once more in its derivative."""

_Spec: Final[Any] = jax.ShapeDtypeStruct  # which JAX has not typed


def export(
    graph: Graph,
    platform: str,
    *,
    fixed: Mapping[str, Array] | None = None,
    beside: str | None = None,
    precision: str,
    planned: str = "",
) -> Program:
    """The graph as ``call(weights, inputs) -> outputs``, all dicts by name.

    It runs on all platforms if JAX can say it for all, else on ``platform``.
    ``fixed`` are values for inputs that steer shapes, others are ignored; those with a
    default need none. ``beside`` names the file of weights, without which they are part
    of the program. Raises UsageError, UnsupportedModel for what XLA does not have, and
    where a dim cannot stay open: that names the op. ``precision`` of float32 products
    is "highest", or "default", each chip's own. ``planned``: how its
    memory is (`compiling`).
    """
    making = _making(
        graph, platform, fixed or {}, beside is not None, precision, planned
    )
    graph, known, baked = making.graph, making.known, making.baked
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
        inputs=tuple(map(Port.of, making.inputs)),
        outputs=tuple(
            Port(name, shapes[name].dtype.name, making.shown(shapes[name].shape))
            for name in graph.output_names
        ),
        symbols=tuple(making.names),
        constraints=tuple(f"{name} <= {most}" for name, most in making.caps),
        weights=beside if making.weights else None,
        baked=tuple(baked),
        overridable=tuple(
            p.name for p in graph.inputs if p.name in {*making.weights, *baked}
        ),
        fixed={name: fixed_value(array) for name, array in known.items()},
        no_derivative=no_derivative,
        precision=precision,
        planned=planned,
    )
    return Program(blob, making.weights, interface)


def refuse_open(
    graph: Graph, platform: str, fixed: Mapping[str, Array], precision: str
) -> None:
    """Trace the graph once, for its dims. Raises what `export` would, in less time."""
    making = _making(graph, platform, fixed, True, precision, "")
    if making.names:
        making.traced(platform)


def _making(
    graph: Graph,
    platform: str,
    fixed: Mapping[str, Array],
    apart: bool,
    precision: str,
    planned: str,
) -> _Making:
    """What is to be exported, its weights ``apart`` where they can be."""
    for home, op in graph.walk():
        if is_random(op):
            raise UnsupportedModel(
                "a program for XLA would draw the same random numbers each time",
                where=place(home, op),
            )
    source, graph = graph, _named(graph)
    keep = keeps(platform, planned)
    function = Function(graph, precision=precision, keeps=keep)
    params = function.params
    known = _fixed(graph, function.steering, params.keys(), fixed)
    stored = {
        name: array
        for name, array in params.items()
        if apart and can_store(name, array)
    }
    baked = {name: array for name, array in params.items() if name not in stored}
    if sum(array.nbytes for array in baked.values()) > MOST_BAKED:
        raise UsageError(
            "the weights are too large to be part of a program, which ends at 2 GB;"
            " without --bake-weights they go into a file beside it"
        )
    return _Making(graph, function, stored, baked, known, source, fixed)


class _Making:
    """The attempts to export one function, until one succeeds.

    ``weights`` are arguments, ``baked`` ones are not, nor are inputs that are
    ``known``. ``source`` is the graph before its dims were named, ``given`` arrays for
    its inputs.
    """

    def __init__(
        self,
        graph: Graph,
        function: Function,
        weights: dict[str, Array],
        baked: Mapping[str, Array],
        known: Mapping[str, Array],
        source: Graph,
        given: Mapping[str, Array],
    ) -> None:
        inputs = [p for p in graph.inputs if p.default is None and p.name not in known]
        self.graph = graph
        self.function = function
        self.source = source
        self.given = {**given, **known}
        self.inputs = inputs
        self.weights = weights
        self.baked = baked
        self.known = known
        self.names = identifiers(d for p in inputs for d in p.shape or ())
        self.caps: list[tuple[str, int]] = []

    def call(self, weights: Mapping[str, Array], inputs: Mapping[str, Array]) -> Any:
        return self.function({**self.baked, **weights}, {**self.known, **inputs})

    def traced(self, platform: str) -> Any:
        """The export; where dims cannot stay open, the one for dims within `caps`."""
        with jax.enable_x64(True), _without_source():
            try:
                return self._for_most(platform)
            except (Open, DataDependent):
                self.caps = caps(self.graph, self.names)
                if not self.caps:
                    raise
                return self._for_most(platform)

    def made(self, platform: str) -> tuple[Any, bytes, str | None]:
        """The export, its bytes, and why they hold no derivative."""
        made = self.traced(platform)
        with jax.enable_x64(True), _without_source():
            try:
                with timed("tracing the derivative"):
                    return made, bytes(made.serialize(vjp_order=1)), None
            except Exception as error:  # one of many that JAX has for it
                return made, _serialized(made), _first_line(error)

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
        most = {**dict.fromkeys(self.names, LARGEST_DIM), **dict(self.caps)}
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
            with timed(f"tracing for {', '.join(platforms)}"):
                return exporting(weights, inputs)
        except Open as error:
            raise Open(
                f"{self._dims(error)} cannot stay symbolic:"
                f" {self._in_words(error.reason)}",
                where=place(self.graph, error.op),
            ) from error
        except DataDependent as error:
            if not self.names:
                raise
            raise DataDependent(
                f"{error.message}. It may be known for fixed sizes:"
                f" {self._advice(list(self.names))}",
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
        return f"{what} {listed} (fix it, as by {self._advice(found)})"

    def _advice(self, names: Sequence[str]) -> str:
        """How to fix dims on the command line, to sizes on which the model runs.

        All at once of which that was seen: those that run at one size only, and one
        name for those that run only together. Else the first of ``names``.
        """
        sizes, bound = running_sizes(self.source, self.given)
        found = {name.removeprefix("?"): size for name, size in sizes.items()}
        tight = {name.removeprefix("?") for name in bound}
        tied = {
            name.removeprefix("?") for name in tied_dims(self.source, sizes, self.given)
        }
        wanted = {n: str(found[n]) for n in self.names if n in tight and n in found}
        if len(free := [n for n in self.names if n in tied - tight]) > 1:
            wanted |= dict.fromkeys(free, "N" if "batch" in found else "batch")
        if wanted.keys().isdisjoint(names):
            wanted[names[0]] = f"{found.get(names[0], 'N')}"
        return " ".join(f"--dim {name}={size}" for name, size in wanted.items())

    def _in_words(self, reason: str) -> str:
        """What JAX or an op says of dims, in the words of the model."""
        named = {ours: name for name, ours in self.names.items()}
        return re.sub(r"\w+", lambda found: named.get(found[0], found[0]), reason)

    def shown(self, shape: Sequence[Any]) -> tuple[int | str, ...]:
        """A shape of JAX in the words of the model."""
        return tuple(d if isinstance(d, int) else self._in_words(str(d)) for d in shape)


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
            if dim is None or is_unnamed(dim):
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
