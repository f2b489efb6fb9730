"""One step of training as a program; the batch is split over devices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import UsageError
from ..ir import Graph
from ..lowering.xla.function import Function, tensor_of
from .batches import Array, Batch, Tree
from .forward import Forward, Observed
from .losses import Measure, by_example
from .outcome import MOVING
from .segments import Segmented

Params = dict[str, Array]
Measured = dict[str, Array]
"""What a step measured: means over its examples; ``weight`` is their number."""


def mesh_of(wanted: Mesh | int | None) -> Mesh:
    """A mesh whose axes all split the batch: a number stands for so many devices."""
    if isinstance(wanted, Mesh):
        # XLA is to place what lies between batch and loss, whatever types the axes had.
        return Mesh(wanted.devices, wanted.axis_names)
    count, devices = wanted or 1, jax.devices()
    if len(devices) < count:
        raise UsageError(
            f"JAX has {len(devices)} devices, not {count}; on a CPU set"
            f" XLA_FLAGS=--xla_force_host_platform_device_count={count}"
        )
    return Mesh(np.asarray(devices[:count]), ("data",))


@dataclass(frozen=True, eq=False)
class Steps:
    """The compiled programs of a run: a step of training, and one of evaluation.

    ``measures`` are the loss, first, and the metrics; ``spread`` says of a prediction
    what shows whether the loss takes it. In ``segments``, a step makes once more what
    it does not keep; ``options`` are those of XLA's compiler. Run them under
    `jax.enable_x64`, as `Function` computes.
    """

    graph: Graph
    optimizer: optax.GradientTransformation
    measures: Mapping[str, Measure]
    spread: Callable[[Array], Measured]
    output: str | None
    mesh: Mesh
    precision: str
    segmented: Segmented | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def everywhere(self) -> NamedSharding:
        """Where weights lie: the same on each device."""
        return self._sharding()

    @cached_property
    def split(self) -> NamedSharding:
        """Where batches lie: the first axis over all devices."""
        return self._sharding(self.mesh.axis_names)

    def _sharding(self, *axes: Any) -> NamedSharding:
        spec: Any = PartitionSpec
        return NamedSharding(self.mesh, spec(*axes))

    def place(self, batch: Batch) -> Batch:
        """A batch on the devices. Raises UsageError where it cannot be split."""
        count, size = self.mesh.size, len(batch.weights)
        if size % count:
            raise UsageError(f"batches of {size} do not split over {count} devices")
        return Batch(*jax.device_put(tuple(batch), self.split))

    def done(self, results: Tree) -> Tree:
        """Results of a step, before the next one may be asked for.

        Devices of one CPU share their threads: where the parts of two steps wait for
        others, none may be left to run these.
        """
        shared = self.mesh.size > 1 and self.mesh.devices.flat[0].platform == "cpu"
        wait: Any = jax.block_until_ready
        return wait(results) if shared else results

    @cached_property
    def train(self) -> Any:
        """``(trained, state, kept, batch, key) -> (trained, state, found)``.

        What is found is measured, the spread of the prediction, and whether any
        gradient is not zero.
        """
        function = self.segmented or Function(self.graph, precision=self.precision)

        def loss(
            trained: Params, kept: Params, batch: Batch, key: Array
        ) -> tuple[Array, Tree]:
            seen = self._predicted(function.keyed(key), trained, kept, batch)
            measured = self._measured(seen, batch)
            return measured["loss"], (measured, self.spread(seen))

        def step(
            trained: Params, state: Tree, kept: Params, batch: Batch, key: Array
        ) -> Tree:
            slope = jax.grad(loss, has_aux=True)
            gradient, found = slope(trained, kept, batch, key)
            measured, spread = found
            moving = [jnp.any(g != 0) for g in jax.tree.leaves(gradient)]
            found = measured, {**spread, MOVING: jnp.stack(moving).any()}
            updates, state = self.optimizer.update(gradient, state, trained)
            return optax.apply_updates(trained, updates), state, found

        return jax.jit(
            step,
            in_shardings=(*[self.everywhere] * 3, self.split, self.everywhere),
            out_shardings=self.everywhere,
            donate_argnums=(0, 1),
            compiler_options=dict(self.options) or None,
        )

    def forward(
        self, trained: Params, state: Tree, kept: Params, batch: Batch, key: Array
    ) -> Forward:
        """What a step of training on arguments like these runs before it turns back."""
        function = Observed(self.graph, precision=self.precision)
        function.trained, function.forward = trained.keys(), Forward()

        def run(trained: Params, kept: Params, batch: Batch, key: Array) -> Array:
            made = self._made(function.keyed(key), trained, kept, batch)

            def loss(*outputs: Array) -> Array:
                named = dict(zip(made, outputs, strict=True))
                return self._measured(self._seen(named), batch)["loss"]

            function.forward.finish(loss, self.graph.outputs, [*made.values()])
            return loss(*made.values())

        jax.eval_shape(run, trained, kept, batch, key)
        return function.forward

    @cached_property
    def evaluate(self) -> Any:
        """``(trained, kept, batch, key) -> measured``, in the model's own precision."""
        function = Function(self.graph)

        def step(trained: Params, kept: Params, batch: Batch, key: Array) -> Measured:
            seen = self._predicted(function.keyed(key), trained, kept, batch)
            return self._measured(seen, batch)

        return jax.jit(
            step,
            in_shardings=(*[self.everywhere] * 2, self.split, self.everywhere),
            out_shardings=self.everywhere,
        )

    @cached_property
    def finite(self) -> Any:
        """``trained -> {name: bool}``: which weights are, in the model's own types."""
        weights = Function(self.graph).weights

        def step(trained: Params) -> Measured:
            return {
                name: jnp.isfinite(
                    array.astype(tensor_of(weights[name]).dtype.numpy)
                ).all()
                for name, array in trained.items()
            }

        return jax.jit(step, out_shardings=self.everywhere)

    def _predicted(
        self, function: Function, trained: Params, kept: Params, batch: Batch
    ) -> Tree:
        """The output that losses see, or a dict of all."""
        return self._seen(self._made(function, trained, kept, batch))

    def _made(
        self, function: Function, trained: Params, kept: Params, batch: Batch
    ) -> dict[str, Array]:
        """The outputs by name."""
        params = {**kept, **trained}
        own = {
            name: params[name].astype(tensor_of(value).dtype.numpy)
            for name, value in function.weights.items()
        }
        return function(own, batch.inputs)

    def _seen(self, made: Mapping[str, Array]) -> Tree:
        names = list(made) if self.output is None else [self.output]
        seen: Any = made if len(names) > 1 else made[names[0]]
        return jax.tree.map(_widened, seen)

    def _measured(self, seen: Tree, batch: Batch) -> Measured:
        total = batch.weights.sum()
        measured = {"weight": total}
        for name, measure in self.measures.items():
            made, loss = measure(seen, batch.targets), name == "loss"
            value = by_example(measure, made, len(batch.weights), loss=loss)
            if value.ndim:
                value = (value * batch.weights.astype(value.dtype)).sum() / total
            measured[name] = value
        return measured


def _widened(array: Array) -> Array:
    """A prediction in a type that losses are sums of."""
    narrow = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize < 4
    return array.astype(jnp.float32) if narrow else array
