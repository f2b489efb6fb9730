"""A model on a mesh of devices: planned, made into one program, ready to run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from .dim_names import inside, places, shown
from .driver import optimize
from .errors import UsageError
from .fitted import DoesNotFit
from .fitting import fitting
from .ir import Graph
from .lowering import Executable, graph_of, on_mesh
from .lowering.xla.platforms import devices_described
from .lowering.xla.tail import Split, split
from .passes.sharding import Decisions, Mesh, Program, partition
from .passes.sharding.caches import Cache, caches
from .passes.sharding.captured import captured
from .passes.sharding.kv_heads import repeated_heads
from .passes.sharding.live import local_peak
from .passes.sharding.machine import Link, Machine
from .passes.sharding.packing import padded, unpacked
from .passes.sharding.planner import Planner, Sharding
from .passes.sharding.saved import restored, saved
from .passes.sharding.search import NO_PLAN, clock
from .passes.sharding.solve import SECONDS, NoPlan
from .passes.sharding.uneven import rounded
from .plan import Plan, plan_of
from .provenance import named_values
from .report import sized
from .specialize import specialize, symbols_of
from .types import TensorType

if TYPE_CHECKING:
    from .lowering import Holder, Model


SPARE: Final = 0.5
"""The share of the time that is spent, once more, to find how much would be enough."""

STEP: Final = 1.25
"""By so much more memory is tried each time where no plan keeps to the limit."""

FIRST: Final = 0.7
"""The share of the time for a model as it is; the rest is for it with even dims."""

NO_TIES: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True)
class Sharded:
    """A graph with the plan by which the devices of a mesh run it.

    ``graph`` is the whole model, of known sizes; ``program`` what each device runs.
    ``plan`` is what was found, None for one that a file brought along; ``limit`` what
    each device was to hold at most, None for all it has. ``planner`` is what looked for
    the plan. ``caches`` are inputs that the next step has from an output of this one.
    Where shapes depend on data, ``graph`` is the head of the model, and ``parts`` has
    the tail, which runs on the host.
    """

    graph: Graph
    machine: Machine
    decisions: Decisions
    plan: Sharding | None = None
    limit: int | None = None
    planner: Planner | None = None
    caches: tuple[Cache, ...] = ()
    parts: Split | None = None

    def __str__(self) -> str:
        """``for h100 on data=2,model=4: 0.434 ms a step by the model, …``"""
        if self.plan is None:
            return f"for {self.machine}"
        proof = "" if self.plan.solution.proved else ", not proved best"
        return (
            f"for {self.machine}: {self.plan.seconds * 1e3:.3f} ms a step by the"
            f" model{proof}, {sized(self.plan.memory)} on each device"
        )

    @cached_property
    def program(self) -> Program:
        """The program of all devices."""
        return partition(
            self.graph, self.machine.mesh, self.decisions, self.machine.seconds
        )

    @property
    def kept(self) -> Plan:
        """The plan as a file keeps it, in the metadata of the graph."""
        mesh = self.machine.mesh
        return saved(self.graph, mesh, self.decisions, limit=self.limit)

    def compile(self, target: str, precision: str | None = None) -> Executable:
        """The program on the devices of a target of XLA.

        Raises UsageError where there are too few, BackendMissing, UnsupportedModel.
        """
        return on_mesh(self.program, target, precision, self.parts)

    @property
    def whole(self) -> Graph:
        """The model, its tail included."""
        return self.graph if self.parts is None else self.parts.joined(self.graph)


def shard(
    model: Model | Graph | Holder,
    mesh: str | Mesh | int | Sequence[int] | Mapping[str, int],
    target: str = "xla-cpu",
    *,
    dims: Mapping[str, int] | None = None,
    max_memory: int | None = None,
    links: Mapping[str, Link] | None = None,
    ties: Mapping[str, str] | None = NO_TIES,
    seconds: float = SECONDS,
    level: int = 2,
) -> Sharded:
    """Plan a model for a mesh (``data=2,model=4``); nobody says where what goes.

    ``target`` names the devices, as ``xla-cuda:h100``; ``links`` the delay and the
    bandwidth along axes of the mesh, where not the usual ones. Each device takes at
    most ``max_memory`` bytes, by default all it has. ``dims`` are sizes of symbolic
    dims; others have usual ones. What a step leaves for the next one, a cache, lies as
    the next one finds it: ``ties`` names an output for an input, where the graph does
    not show it; None lets them lie apart. ``level`` is that of the passes that run
    before. All takes ``seconds`` of CPU time at most, but for these passes and a first
    plan, which come in any case; then the best plan so far is it. Raises UsageError,
    and DoesNotFit where no plan was found that keeps to the memory; half as much time
    goes into finding what would be enough.

    >>> sharded = graphopt.shard("model.onnx", "data=2,model=4", "xla-cuda:h100")
    >>> sharded.compile("xla-cuda")(x=x)["y"]
    """
    wanted, end = Mesh.of(mesh), clock() + seconds
    check_devices(target, wanted)
    graph = with_sizes(graph_of(model), dims or {})
    if level:
        graph = optimize(graph, level=level, check="off").graph
    parts = split(graph)
    graph = graph if parts is None else parts.head
    graph = padded(unpacked(captured(graph)), wanted.devices)
    widest = max(wanted.sizes)
    evened = rounded(repeated_heads(graph, widest), widest)
    machine = Machine.of(target, wanted, links)
    forms = [*dict.fromkeys((graph, evened))]
    best: Sharded | None = None
    refusal: NoPlan | None = None
    for form in forms:
        left = (end - clock()) * (FIRST if form is not forms[-1] else 1.0)
        below = math.inf if best is None or best.plan is None else best.plan.seconds
        try:
            best = _planned(form, machine, max_memory, ties, left, below)
        except NoPlan as error:
            refusal = refusal or error
    if best is not None:
        return replace(best, parts=parts)
    limit = machine.device.memory if max_memory is None else max_memory
    enough = _enough(graph, machine, limit, ties, seconds * SPARE)
    what = "" if enough is None else f"; for {enough:,} ({sized(enough)}) there is one"
    why = "" if str(refusal) == NO_PLAN else f": {refusal}"
    raise DoesNotFit(
        f"no plan for {machine} keeps to {limit:,} bytes of each device{why}{what}"
    )


def _enough(
    graph: Graph,
    machine: Machine,
    limit: int,
    ties: Mapping[str, str] | None,
    seconds: float,
) -> int | None:
    """Bytes of each device that a plan takes, about the fewest; more than the limit.

    None where nothing was found in so many seconds.
    """
    end = clock() + seconds
    shared = sum(tensor.nbytes for tensor in graph.tensors()) // machine.mesh.devices
    room = max(limit, shared)
    while room < machine.device.memory and clock() < end:
        room = min(int(room * STEP) + 1, machine.device.memory)
        try:
            made = _planned(graph, machine, room, ties, end - clock(), math.inf)
        except NoPlan:
            continue
        assert made.plan is not None
        return made.plan.stored + local_peak(made.program.graph)
    return None


def _planned(
    graph: Graph,
    machine: Machine,
    max_memory: int | None,
    ties: Mapping[str, str] | None,
    seconds: float,
    below: float,
) -> Sharded:
    """The plan of a graph, building of the problem included in the time for it.

    Raises NoPlan where there is none that costs less than ``below``.
    """
    end = clock() + seconds
    limit = machine.device.memory if max_memory is None else max_memory
    kept = caches(graph, ties or {})
    tied = () if ties is None else [cache.names for cache in kept]
    planner = Planner(graph, machine, ties=tied)

    def made(decisions: Decisions) -> Sharded:
        return Sharded(graph, machine, decisions, None, max_memory, planner, kept)

    def alive(decisions: Decisions) -> int:
        return local_peak(made(decisions).program.graph)

    plan = planner.plan(limit, seconds=end - clock(), copies=alive, below=below)
    return replace(made(plan.decisions), plan=plan)


def check_devices(target: str, mesh: Mesh) -> None:
    """Raises UsageError for ONNX Runtime, and for fewer devices than the mesh has."""
    if target.startswith("ort-"):
        raise UsageError(
            f"{target} has no collectives: programs for a mesh run in XLA, as"
            " xla-cuda:h100; ONNX Runtime runs stages in a row (graphopt optimize"
            " --mesh stage=4)"
        )
    described = devices_described(target)
    if described is not None and described < mesh.devices:
        raise UsageError(
            f"the mesh {mesh} has {mesh.devices} devices, and {target} {described};"
            f" name a larger grid, or none, as {target.rpartition(':')[0]}"
        )


# --- sizes --------------------------------------------------------------------------


def with_sizes(graph: Graph, dims: Mapping[str, int]) -> Graph:
    """The graph with all dims of its inputs known; those not given are `fitting`.

    Raises UsageError for dims that the model does not take, and for inputs whose rank
    is not known.
    """
    check_ranks(graph)
    return fitting(graph, inside(dims, graph))[1]


def all_sizes(
    graph: Graph,
    dims: Mapping[str, int | str],
    shapes: Mapping[str, Sequence[int | str]],
) -> tuple[dict[str, int], dict[str, tuple[int, ...]]]:
    """What `specialize` takes, completed to sizes of all dims.

    A dim that is freed or renamed has the size of its new name. Raises as `with_sizes`.
    """
    renamed = {name: to for name, to in dims.items() if isinstance(to, str)}
    given = {name: size for name, size in dims.items() if isinstance(size, int)}
    named = specialize(graph, renamed, shapes).graph
    baked = {at: size for at, size in given.items() if at not in places(named)}
    named = specialize(named, baked).graph
    check_ranks(named)
    fixed = inside({n: s for n, s in given.items() if n not in baked}, named)
    sizes = fixed | fitting(named, fixed)[0]
    kept = symbols_of(graph)
    found = {
        shown(name): size
        for name, size in sizes.items()
        if name in kept or name not in symbols_of(named)
    }
    found |= baked | {name: sizes[to] for name, to in renamed.items()}
    sides = {
        name: tuple([sizes[d] if isinstance(d, str) else d for d in shape])
        for name, shape in shapes.items()
    }
    return found, sides


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
    parts = split(graph)
    graph = captured(graph if parts is None else parts.head)
    found = restored(graph, plan_of(graph, named_values(graph)))
    if found is None:
        raise UsageError(
            "the file holds no plan for a mesh: name one, as --mesh data=2,model=4, or"
            " write a file with a plan by graphopt optimize --mesh"
        )
    check_devices(target, found.mesh)
    machine = Machine.of(target, found.mesh, links)
    return Sharded(
        graph,
        machine,
        found.decisions,
        limit=found.limit,
        caches=caches(graph),
        parts=parts,
    )
