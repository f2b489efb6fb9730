"""Checkpoints of a run: weights, state of the optimizer, place in the data, curve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import orbax.checkpoint as ocp

from ..errors import UsageError

Array = np.ndarray[Any, Any]

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

    def save(self, step: int, leaves: Sequence[Array], curve: dict[str, Any]) -> None:
        """Write a checkpoint, unless there is one of this step."""
        if step in self.manager.all_steps():
            return
        named = {f"{i:06}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        self.manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(named),
                run=ocp.args.JsonSave({"run": self.run, "curve": curve}),
            ),
        )

    def newest(
        self, leaves: Sequence[Array]
    ) -> tuple[int, list[Array], dict[str, Any]] | None:
        """Step, arrays like the given ones, and curve; None in an empty folder.

        Raises UsageError where the folder holds another run.
        """
        step = self.manager.latest_step()
        if step is None:
            return None
        kept = self.manager.restore(
            step, args=ocp.args.Composite(run=ocp.args.JsonRestore())
        )["run"]
        for what, wanted in self.run.items():
            if kept["run"].get(what) != wanted:
                self._refuse(f"{what} is {kept['run'].get(what)!r}, not {wanted!r}")
        like = {f"{i:06}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
        try:
            found = self.manager.restore(
                step,
                args=ocp.args.Composite(arrays=ocp.args.StandardRestore(like)),
            )["arrays"]
        except ValueError as error:
            self._refuse(f"it was made with another optimizer ({error})")
        made = [np.asarray(found[name]) for name in like]
        for leaf, old in zip(made, like.values(), strict=True):
            if leaf.shape != old.shape or leaf.dtype != old.dtype:
                self._refuse("it was made with another optimizer")
        return step, made, kept["curve"]

    def _refuse(self, why: str) -> Any:
        raise UsageError(
            f"{self.folder} holds a checkpoint of another run: {why}; take another"
            " folder, or remove it"
        )

    def close(self) -> None:
        self.manager.close()
