"""Checkpoints of a run: weights, state of the optimizer, place in the data, curve."""

from __future__ import annotations

import os
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

import jax
import numpy as np
import orbax.checkpoint as ocp

from ..errors import UsageError
from .batches import Tree

KEPT: Final = 2
"""The newest checkpoints, of which one may be half deleted when a run is killed."""


class Checkpoints:
    """A folder of them, by step: each is there whole, or not at all.

    ``run`` describes the run; a folder that holds another one is refused.
    """

    def __init__(self, folder: str | os.PathLike[str], run: dict[str, Any]) -> None:
        self.folder = Path(folder).absolute()
        self.run = run
        self.manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=KEPT, enable_async_checkpointing=False
            ),
        )

    def save(self, step: int, held: Tree, curve: dict[str, Any]) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if step in self.manager.all_steps():
            return
        about = {"run": self.run, "held": _described(held), "curve": curve}
        self.manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(_numbered(held)),
                run=ocp.args.JsonSave(about),
            ),
        )

    def newest(self, held: Tree) -> tuple[int, Tree, dict[str, Any]] | None:
        """Step, arrays in place of those that are held, curve; None in an empty folder.

        Raises UsageError where the folder holds another run.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        kept = self.manager.restore(
            step, args=ocp.args.Composite(run=ocp.args.JsonRestore())
        )["run"]
        for what, wanted in self.run.items():
            if (had := kept["run"].get(what)) != wanted:
                self._refuse(_difference(what, had, wanted))
        if kept.get("held") != _described(held):
            self._refuse("it was made with another optimizer")
        like = _numbered(held)
        found = self.manager.restore(
            step, args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like))
        )["arrays"]
        arrays = [np.asarray(found[name]) for name in like]
        held = jax.tree.unflatten(jax.tree.structure(held), arrays)
        return step, held, kept["curve"]

    def _refuse(self, why: str) -> Any:
        raise UsageError(
            f"{self.folder} holds a checkpoint of another run: {why}; take another"
            " folder, or remove it"
        )

    def close(self) -> None:
        self.manager.close()


def _numbered(held: Tree) -> dict[str, np.ndarray[Any, Any]]:
    """Leaves by their places: a name of a weight is no name of a file."""
    leaves = jax.tree.leaves(held)
    return {f"{i:06}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def _described(held: Tree) -> dict[str, str]:
    """What each leaf is, by its path in the tree; steps without a state, too."""
    nodes, _ = jax.tree.flatten_with_path(held, is_leaf=_is_empty)
    return {
        jax.tree_util.keystr(path): type(node).__name__
        if _is_empty(node)
        else f"{np.asarray(node).dtype}{list(np.shape(node))}"
        for path, node in nodes
    }


def _is_empty(node: Tree) -> bool:
    return isinstance(node, tuple) and not node


def _difference(what: str, had: Any, wanted: Any) -> str:
    if what == "weights":
        return "it began with other weights"
    if what == "graph":
        for theirs, ours in zip_longest(had or [], wanted, fillvalue="nothing more"):
            if theirs != ours:
                return f"its model has {theirs!r} where this one has {ours!r}"
    if what == "trained" and (odd := sorted({*(had or ())} ^ {*wanted})):
        one, other = ("it", "this run") if odd[0] in had else ("this run", "it")
        return f"{one} trains {odd[0]!r}, {other} does not"
    if isinstance(had, list) and isinstance(wanted, list):
        odd = sorted({*had} ^ {*wanted})
        if odd:
            which = "only there" if odd[0] in had else "not there"
            return f"{odd[0]!r} of {what} is {which}"
    return f"it was made with {what}={had!r}, this run has {what}={wanted!r}"
