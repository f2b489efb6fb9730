"""What a model is fed with while it learns: batches of one size, in a seeded order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from ..errors import UsageError

Array: TypeAlias = Any
Tree: TypeAlias = Any
"""An array, or dicts, lists and tuples of arrays."""

Data: TypeAlias = "tuple[Any, Tree] | Iterable[tuple[Any, Tree]] | Callable[[int], Any]"
"""``(inputs, targets)`` as whole arrays; batches of that kind; or what gives the
batches of an epoch by its number. Inputs are a dict by name, or the array of the only
one."""


class Batch(NamedTuple):
    """Examples; ``weights`` is 1 for each, and 0 for what only fills a batch up."""

    inputs: dict[str, Array]
    targets: Tree
    weights: Array


@dataclass(frozen=True)
class Batches:
    """The batches of every epoch.

    Whole arrays are cut into batches of ``size``, in an order that ``seed`` and the
    number of the epoch decide (None: as they come). The last batch of an epoch is
    filled up, so that one program serves all; ``drop_last`` leaves it out. ``what`` is
    their name in errors.
    """

    data: Any
    names: Sequence[str]
    size: int
    seed: int | None
    drop_last: bool = False
    what: str = "data"

    def refuse_no_pair(self) -> None:
        """Raises UsageError for data that cannot be inputs with their targets."""
        given = self.data
        if isinstance(given, tuple):
            if len(given) != 2:
                raise UsageError(
                    f"{self.what} as a tuple is (inputs, targets), not {len(given)} of"
                    " them; give batches as a list"
                )
        elif isinstance(given, Mapping | str) or hasattr(given, "shape"):
            raise UsageError(
                f"{self.what} is (inputs, targets), not {_kind(given)} alone"
            )
        elif not callable(given) and not isinstance(given, Iterable):
            raise UsageError(f"{self.what} is (inputs, targets), not {given!r}")

    @property
    def examples(self) -> int | None:
        """How many there are in whole arrays; None for batches from elsewhere."""
        return _length(self._whole) if isinstance(self.data, tuple) else None

    @property
    def steps(self) -> int | None:
        """Batches in an epoch, where that is known beforehand."""
        count = self.examples
        if count is None:
            return len(self.data) if hasattr(self.data, "__len__") else None
        return count // self.size if self.drop_last else -(-count // self.size)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, without the first ``skip``. Raises UsageError."""
        if isinstance(self.data, tuple):
            yield from self._cut(number, skip)
            return
        source = self.data
        if callable(source):
            source = source(number)
        elif number and source is iter(source):
            raise UsageError(
                "the data can be gone through only once: give a list of batches, or a"
                " function from the number of an epoch to its batches"
            )
        size = None
        for i, pair in enumerate(source):
            if not isinstance(pair, tuple | list) or len(pair) != 2:
                raise UsageError(
                    f"batch {i} of the {self.what} is (inputs, targets), not"
                    f" {_kind(pair)}"
                )
            given = self._taken(*pair)
            count = _length(given)
            size = size or count
            if count > size:
                raise UsageError(f"batch {i} has {count} examples, the first {size}")
            if i >= skip and not (self.drop_last and count < size):
                yield _filled(given, size)

    def _cut(self, number: int, skip: int) -> Iterator[Batch]:
        whole = self._whole
        count = _length(whole)
        order = np.arange(count)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, number]).permutation(count)
        for step in range(skip, self.steps or 0):
            rows = order[step * self.size : (step + 1) * self.size]
            part = jax.tree.map(lambda a, rows=rows: a[rows], whole)
            yield _filled(part, self.size)

    @cached_property
    def _whole(self) -> tuple[dict[str, Array], Tree]:
        return self._taken(*self.data)

    def _taken(self, inputs: Any, targets: Tree) -> tuple[dict[str, Array], Tree]:
        """Both as arrays. Raises UsageError for what is none."""
        named = {
            name: _arrays(array, f"input {name!r}")
            for name, array in self._named(inputs).items()
        }
        return named, _arrays(targets, "the targets")

    def _named(self, inputs: Any) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if len(self.names) != 1:
            names = ", ".join(map(repr, self.names))
            raise UsageError(f"the model has the inputs {names}: give a dict by name")
        return {self.names[0]: inputs}


def _arrays(given: Tree, what: str) -> Tree:
    """Lists of numbers made arrays. Raises UsageError for what has no numbers."""

    def array(leaf: Any) -> Array:
        try:
            made = leaf if hasattr(leaf, "dtype") else np.asarray(leaf)
        except ValueError as error:
            raise UsageError(f"{what} are lists of different lengths") from error
        if made.dtype.kind in "OSTUMm":
            hint = "; labels are numbers of classes" if what == "the targets" else ""
            raise UsageError(f"the elements of {what} are {_odd(made)}{hint}")
        return made

    return jax.tree.map(array, given, is_leaf=_is_numbers)


def _odd(array: Array) -> str:
    strings = array.dtype.kind in "STU" or isinstance(array.flat[0], str)
    return "strings, not numbers" if strings else f"of type {array.dtype}, not numbers"


def _is_numbers(node: Tree) -> bool:
    """True for a list, perhaps of lists, that begins with a number or a word."""
    while isinstance(node, list) and node:
        node = node[0]
        if isinstance(node, str | int | float | np.number):
            return True
    return False


def _kind(given: Any) -> str:
    if hasattr(given, "shape"):
        return f"an array of shape {list(given.shape)}"
    return f"a {type(given).__name__}"


def _length(given: Tree) -> int:
    """How many examples arrays hold. Raises UsageError where they disagree."""
    lengths = {np.shape(a)[0] if np.ndim(a) else None for a in jax.tree.leaves(given)}
    if len(lengths) != 1 or not (length := lengths.pop()):
        shapes = ", ".join(str(np.shape(a)) for a in jax.tree.leaves(given))
        raise UsageError(
            "the first axis of inputs and targets counts the examples, at least one;"
            f" the shapes are {shapes}"
        )
    return int(length)


def _filled(given: tuple[dict[str, Array], Tree], size: int) -> Batch:
    """A batch of a size; rows that are missing repeat others, and weigh nothing."""
    count = _length(given)
    weights = np.zeros(size, np.float32)
    weights[:count] = 1
    rows = np.arange(size) % count
    inputs, targets = jax.tree.map(
        lambda a: np.asarray(a) if count == size else np.asarray(a)[rows], given
    )
    return Batch(inputs, targets, weights)
