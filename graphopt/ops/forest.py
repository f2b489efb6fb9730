"""Decision trees as arrays: all trees of all rows go down one level at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from ..types import DType
from .structured import Array

if TYPE_CHECKING:
    from ..xp import Namespace

Numbers = np.ndarray[Any, Any]

MODES: Final = (
    "BRANCH_LEQ",
    "BRANCH_LT",
    "BRANCH_GTE",
    "BRANCH_GT",
    "BRANCH_EQ",
    "BRANCH_NEQ",
    "BRANCH_MEMBER",
    "LEAF",
)
"""What nodes ask of a feature; leaves ask nothing."""

MEMBER: Final = MODES.index("BRANCH_MEMBER")
LEAF: Final = MODES.index("LEAF")

_BLOCK: Final = 1 << 20  # places in trees that are followed at a time
_UNROLLED: Final = 16  # levels; beyond, a traced program is a loop and stays small


@dataclass(frozen=True, eq=False)
class Forest:
    """Nodes of all trees, and the votes of the leaves among them.

    ``yes`` and ``no`` are the nodes to go on to; a leaf goes on to itself. ``members``
    holds a set in each row, filled up with NaN, for the nodes that ask for membership.
    Vote ``j`` of node ``i`` gives ``weights[i, j]`` to target ``targets[i, j]``; a
    place without a vote has the target behind the last.
    """

    modes: Numbers
    features: Numbers
    thresholds: Numbers
    yes: Numbers
    no: Numbers
    missing_is_yes: Numbers
    members: Numbers | None
    roots: Numbers
    depth: int
    targets: Numbers
    weights: Numbers

    def aggregated(self, xp: Namespace, x: Array, count: int, how: str) -> Totals:
        """What the trees give to each of ``count`` targets, for rows of features.

        ``how`` is add, min or max; a target without a vote has 0.
        """
        rows = x.shape[0]
        step = rows
        if xp.name == "host":
            step = max(1, _BLOCK // max(1, len(self.roots)))
        parts = [
            self._block(xp, x[i : i + step], count, how)
            for i in range(0, max(rows, 1), max(step, 1))
        ]
        if len(parts) == 1:
            return parts[0]
        columns = zip(*parts, strict=True)
        return Totals(*[xp.concat(column, 0) for column in columns])

    def _block(self, xp: Namespace, x: Array, count: int, how: str) -> Totals:
        rows, dtype = x.shape[0], DType.of(x.dtype)
        leaves = self.leaves(xp, x)
        targets = xp.take(xp.asarray(self.targets), leaves)
        weights = xp.take(xp.cast(xp.asarray(self.weights), dtype), leaves)
        first = xp.asarray(np.arange(rows).reshape(-1, 1, 1) * (count + 1))
        places = xp.reshape(xp.add(targets, first), (-1,))
        weights = xp.reshape(weights, (-1,))
        size = rows * (count + 1)
        votes = xp.put(
            xp.zeros((size,), DType.I64),
            (places,),
            xp.ones(places.shape, DType.I64),
            "add",
        )
        start = {"add": 0.0, "min": np.inf, "max": -np.inf}[how]
        totals = xp.put(xp.full((size,), start, dtype), (places,), weights, how)
        voted = xp.greater(votes, 0)
        totals = xp.where(voted, totals, xp.zeros((size,), dtype))
        shape = (rows, count + 1)
        return Totals(
            xp.reshape(totals, shape)[:, :count], xp.reshape(voted, shape)[:, :count]
        )

    def leaves(self, xp: Namespace, x: Array) -> Array:
        """The leaf of each row in each tree."""
        at = xp.expand(xp.asarray(self.roots), (x.shape[0], len(self.roots)))
        if self.depth > _UNROLLED:
            (at,), _ = xp.scan(
                lambda carried, _: ((self._below(xp, x, carried[0]),), ()),
                (at,),
                (),
                self.depth,
            )
            return at
        for _ in range(self.depth):
            at = self._below(xp, x, at)
        return at

    def _below(self, xp: Namespace, x: Array, at: Array) -> Array:
        """The nodes that rows go on to, one level down."""
        features, yes, no = map(xp.asarray, (self.features, self.yes, self.no))
        values = xp.take_along_axis(x, xp.take(features, at), 1)
        holds = self._holds(xp, values, at)
        if self.missing_is_yes.any():
            missing = xp.take(xp.asarray(self.missing_is_yes), at)
            holds = xp.logical_or(holds, xp.logical_and(xp.isnan(values), missing))
        return xp.where(holds, xp.take(yes, at), xp.take(no, at))

    def _holds(self, xp: Namespace, values: Array, at: Array) -> Array:
        """Whether what each node asks is so."""
        dtype = DType.of(values.dtype)
        modes = [int(m) for m in np.unique(self.modes) if m != LEAF]
        answer: Array | None = None
        bounds = xp.take(xp.cast(xp.asarray(self.thresholds), dtype), at)
        kinds = xp.take(xp.asarray(self.modes), at) if len(modes) > 1 else None
        for mode in modes:
            if mode == MEMBER:
                sets = xp.take(xp.cast(xp.asarray(self.members), dtype), at)
                found = xp.equal(sets, xp.unsqueeze(values, (2,)))
                holds = xp.any(found, 2)
            else:
                holds = _asked(xp, mode)(values, bounds)
            if answer is None or kinds is None:
                answer = holds
            else:
                answer = xp.where(xp.equal(kinds, mode), holds, answer)
        return xp.zeros(at.shape, DType.BOOL) if answer is None else answer


class Totals(NamedTuple):
    """What rows got for each target, and whether any tree voted for it."""

    scores: Array
    voted: Array


def _asked(xp: Namespace, mode: int) -> Callable[[Array, Array], Array]:
    return (
        xp.less_equal,
        xp.less,
        xp.greater_equal,
        xp.greater,
        xp.equal,
        xp.not_equal,
    )[mode]


def depth_of(yes: Numbers, no: Numbers) -> int:
    """The most steps from a root to a leaf. Raises ValueError for a circle.

    Each node is left behind once, after all that lead to it: Kahn's topological order.
    """
    here = np.arange(len(yes))
    inner = (yes != here) | (no != here)
    waiting = np.bincount(yes[inner], minlength=len(yes))
    waiting += np.bincount(no[inner], minlength=len(yes))
    level, left, depth = here[waiting == 0], len(yes), -1
    while level.size:
        left -= level.size
        depth += 1
        level = level[inner[level]]
        following, steps = np.unique(
            np.concatenate([yes[level], no[level]]), return_counts=True
        )
        waiting[following] -= steps
        level = following[waiting[following] == 0]
    if left:
        raise ValueError("nodes of a tree go round in a circle")
    return max(depth, 0)


def votes_of(
    leaves: Numbers, targets: Numbers, weights: Numbers, nodes: int, count: int
) -> tuple[Numbers, Numbers]:
    """Targets and weights of each node, from lists of votes."""
    if targets.size and not 0 <= targets.min() <= targets.max() < count:
        raise ValueError(f"a vote is for none of {count} targets")
    order = np.argsort(leaves, kind="stable")
    leaves, targets, weights = leaves[order], targets[order], weights[order]
    starts = np.searchsorted(leaves, leaves)
    place = np.arange(len(leaves)) - starts
    most = int(place.max(initial=0)) + 1
    to = np.full((nodes, most), count, np.int64)
    by = np.zeros((nodes, most), weights.dtype)
    to[leaves, place], by[leaves, place] = targets, weights
    return to, by


def sets_of(values: Numbers, nodes: Sequence[int], count: int) -> Numbers:
    """A row for each of ``count`` nodes, from sets with NaN after each."""
    rows: list[list[float]] = [[]]
    for value in values.tolist():
        if np.isnan(value):
            rows.append([])
        else:
            rows[-1].append(value)
    if len(rows) < len(nodes):
        raise ValueError(f"{len(rows)} sets of members for {len(nodes)} nodes")
    width = max(map(len, rows))
    found = np.full((count, max(width, 1)), np.nan, values.dtype)
    for node, row in zip(nodes, rows, strict=False):
        found[node, : len(row)] = row
    return found
