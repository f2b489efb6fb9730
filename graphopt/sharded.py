"""A model on a mesh of devices: planned, made into one program, ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

from .cost import value_bytes
from .driver import optimize
from .errors import UsageError
from .inputs import usual
from .ir import Graph
from .limits import DoesNotFit
from .lowering import Executable, graph_of, on_mesh
from .passes.sharding import Decisions, Mesh, Program, partition
from .passes.sharding.live import peak
from .passes.sharding.machine import Link, Machine
from .passes.sharding.packing import padded, unpacked
from .passes.sharding.planner import Planner, Sharding
from .passes.sharding.program import stored
from .passes.sharding.saved import restored, saved
from .passes.sharding.solve import SECONDS, NoPlan
from .plan import Plan, plan_of
from .provenance import named_values
from .report import sized as bytes_text
from .specialize import specialize
from .types import TensorType

if TYPE_CHECKING:
    from .lowering import Holder, Model


TRIES: Final = 6
"""How often a model is planned anew because copies took what was left."""


@dataclass(frozen=True)
class Sharded:
    """A graph with the plan by which the devices of a mesh run it.

    ``graph`` is the whole model, of known sizes; ``program`` what each device runs.
    ``plan`` is what was found, None for one that a file brought along; ``limit`` what
    each device was to hold at most, None for all it has. ``planner`` is what looked for
    the plan.
    """

    graph: Graph
    machine: Machine
    decisions: Decisions
    plan: Sharding | None = None
    limit: int | None = None
    planner: Planner | None = None

    def __str__(self) -> str:
        """``for h100 on data=2,model=4: 0.434 ms a step, 27.1 MiB on each device``"""
        if self.plan is None:
            return f"for {self.machine}"
        proof = "" if self.plan.solution.proved else ", not proved best"
        return (
            f"for {self.machine}: {self.plan.seconds * 1e3:.3f} ms a step by the model"
            f"{proof}, {bytes_text(self.plan.memory)} on each device"
        )

    @cached_property
    def program(self) -> Program:
        """The program of all devices."""
        return partition(
            self.graph, self.machine.mesh, self.decisions, self.machine.seconds
        )

    @property
    def held(self) -> int:
        """Bytes of each device at the peak: what is stored, and what the program makes.

        Copies in other layouts count, also of weights that are gathered for a product.
        """
        alive, _ = peak(
            self.program.graph,
            lambda v: 0 if stored(v) is not None else value_bytes(v, {}) or 0,
        )
        return alive + (self.plan.stored if self.plan is not None else 0)

    @property
    def kept(self) -> Plan:
        """The plan as a file keeps it, in the metadata of the graph."""
        return saved(self.graph, self.machine.mesh, self.decisions)

    def compile(self, target: str, precision: str | None = None) -> Executable:
        """The program on the devices of a target of XLA.

        Raises UsageError where there are too few, BackendMissing, UnsupportedModel.
        """
        return on_mesh(self.program, target, precision)


def shard(
    model: Model | Graph | Holder,
    mesh: str | Mesh,
    target: str = "xla-cpu",
    *,
    dims: Mapping[str, int] | None = None,
    max_memory: int | None = None,
    links: Mapping[str, Link] | None = None,
    seconds: float = SECONDS,
    level: int = 2,
) -> Sharded:
    """Plan a model for a mesh (``data=2,model=4``); nobody says where what goes.

    ``target`` names the devices, as ``xla-cuda:h100``; ``links`` the delay and the
    bandwidth along axes of the mesh, where not the usual ones. Each device takes at
    most ``max_memory`` bytes, by default all it has. ``dims`` are sizes of symbolic
    dims; others have usual ones. ``level`` is that of the passes that run before; the
    search goes on for ``seconds`` at most. Raises UsageError, and DoesNotFit where no
    plan was found that keeps to the memory.

    >>> sharded = graphopt.shard("model.onnx", "data=2,model=4", "xla-cuda:h100")
    >>> sharded.compile("xla-cuda")(x=x)["y"]
    """
    wanted = mesh if isinstance(mesh, Mesh) else Mesh.parse(mesh)
    graph = sized(graph_of(model), dims or {})
    if level:
        graph = optimize(graph, level=level, check="off").graph
    graph = padded(unpacked(graph), wanted.devices)
    machine = Machine.of(target, wanted, links)
    limit = machine.device.memory if max_memory is None else max_memory
    planner, room, reason = Planner(graph, machine), limit, ""
    least: int | None = None
    for _ in range(TRIES):
        try:
            plan = planner.plan(room, seconds=seconds)
        except NoPlan as error:
            reason = reason or str(error)
            break
        made = Sharded(graph, machine, plan.decisions, plan, max_memory, planner)
        over = made.held - limit
        if over <= 0:
            return made
        least = made.held if least is None else min(least, made.held)
        reason = f"with copies in other layouts, the least that was found is {least:,}"
        room -= 2 * over  # the next plan may copy more
    raise DoesNotFit(f"no plan for {machine} keeps to {limit:,} bytes: {reason}")


def sized(graph: Graph, dims: Mapping[str, int]) -> Graph:
    """The graph with all dims of its inputs known; those not given are usual ones.

    Raises UsageError for dims that the model does not take, and for inputs whose rank
    is not known.
    """
    check_ranks(graph)
    sizes = usual(graph, dims)
    fixed = {name.removeprefix("?"): size for name, size in sizes.items()}
    return specialize(graph, fixed).graph


def check_ranks(graph: Graph) -> None:
    """Raises UsageError for an input whose rank is not known."""
    for parameter in graph.inputs:
        type_ = parameter.type
        if isinstance(type_, TensorType) and type_.shape is None:
            raise UsageError(
                f"the rank of input {parameter.name!r} is not known, and a plan for a"
                " mesh needs all sizes: give them, as --input-shape"
                f" {parameter.name}=1,128"
            )


def resumed(
    graph: Graph, target: str, links: Mapping[str, Link] | None = None
) -> Sharded:
    """The plan that a file brought along. Raises UsageError where there is none."""
    found = restored(graph, plan_of(graph, named_values(graph)))
    if found is None:
        raise UsageError(
            "the file holds no plan for a mesh: name one, as --mesh data=2,model=4, or"
            " write a file with a plan by graphopt optimize --mesh"
        )
    return Sharded(graph, Machine.of(target, found.mesh, links), found.decisions)
