"""Which recipe suits a graph on a provider: read from the graph, nothing is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from graphopt import dims
from graphopt.cost import op_cost
from graphopt.errors import UsageError
from graphopt.exporter.spelled import choose_opset, used_results
from graphopt.ir import Graph, Op
from graphopt.ops.constant import Constant
from graphopt.ops.random import is_random
from graphopt.provenance import place
from graphopt.types import DType, TensorType
from graphopt.versions.spelling import type_name

from .arena import one_block
from .kernels import Kernels
from .recipe import Recipe

SHOWN: Final = 5
"""Reasons of one sort that are named; the rest is counted."""

SYMBOL: Final = 8
"""The size of a symbolic dim where shares of work are compared."""

BINDABLE: Final = frozenset(
    DType[name]
    for name in (
        *("F16", "F32", "F64", "BOOL", "I8", "I16", "I32", "I64"),
        *("U8", "U16", "U32", "U64"),
    )
)
"""Element types whose buffers `binding` makes."""

_NO_PATTERN: Final = (
    "the pattern of the first run would take a block of its own in the second"
)

_CONVS: Final = frozenset(("Conv", "ConvTranspose", "FusedConv", "NhwcConv"))


def recipe(
    graph: Graph,
    provider: str,
    *,
    precision: str | None = None,
    memory: int | None = None,
    device: int = 0,
    ordered: bool = False,
    layouts: bool = True,
    reuse: bool = False,
) -> Recipe:
    """What suits a graph on a provider, "cpu" or "cuda".

    ``precision`` "fp32" keeps float32 products from being rounded to TF32. ``memory``
    are bytes that the arena of a GPU may hold, weights, inputs and outputs among them;
    it then grows by what is asked for (`Predicted.grown`). ``ordered`` tells that the
    order of the file was planned; without ``layouts`` it is kept where convolutions
    would be laid out anew, too, and ``reuse`` gives buffers to values of their own
    shape. Raises UsageError.
    """
    kernels = Kernels.of(provider)
    fallbacks = {place(graph, op): why for op, why in _fallbacks(graph, kernels)}
    if kernels.provider == "cpu":
        plain = Recipe("cpu", fallbacks=fallbacks)
        return _in_order(plain, graph, layouts, reuse) if ordered else plain
    chosen = _Choices()
    chosen.take("device_id", str(device), "the GPU that was asked for, or the first")
    if _has(graph, DType.F32):
        _choose_precision(chosen, precision)
    open_dims = list(_open_dims(graph))
    _choose_memory(chosen, memory, bool(open_dims))
    _choose_for_convs(chosen, graph, kernels, bool(open_dims), memory, ordered)
    if failed := list(_no_cuda_graph(graph, open_dims, fallbacks)):
        chosen.decline("enable_cuda_graph", failed)
    else:
        why = "shapes are fixed, no control flow, a kernel of CUDA for each op"
        chosen.take("enable_cuda_graph", "1", why)
    chosen.reasons["io_binding"] = "else each run copies to the device and back"
    made = Recipe(
        kernels.provider,
        chosen.options,
        bound=True,
        reasons=chosen.reasons,
        declined=chosen.declined,
        fallbacks=fallbacks,
    )
    return _in_order(made, graph, False, reuse) if ordered else made


def has_convolutions(graph: Graph) -> bool:
    """Whether there are any: on a CPU the runtime optimizes these all the same."""
    return any(op.kind in _CONVS for _, op in graph.walk())


_REUSE: Final = {
    False: "buffers would wait for values of their own shape, tiles of another layer",
    True: "less is lost between the pieces of the arena, as was foreseen",
}

_DISABLED: Final = "optimization.disable_specified_optimizers"


def _in_order(recipe: Recipe, graph: Graph, layouts: bool, reuse: bool) -> Recipe:
    """The recipe under which nodes run in the order of the file, or nearly so."""
    session: dict[str, Any] = {
        "execution_order": "PRIORITY_BASED",
        "enable_mem_pattern": False,
        "enable_mem_reuse": reuse,
    }
    reasons = {
        "execution_order": "nodes run in the order of the file: it was planned",
        "enable_mem_pattern": _NO_PATTERN,
        "enable_mem_reuse": _REUSE[reuse],
    }
    reasons = {**recipe.reasons, **reasons}
    declined = dict(recipe.declined)
    config = dict(recipe.config)
    level = "graph_optimization_level"
    if layouts and has_convolutions(graph):
        why = (
            "convolutions want the runtime's blocked layouts, so the order is not kept;"
            " `ordered.honoured` keeps it"
        )
        session["execution_order"] = "DEFAULT"
        reasons["execution_order"] = (
            "nodes made for layouts would run after all others that can: depth first,"
            " tiles run one after the other"
        )
        declined[f"{level} ORT_DISABLE_ALL"] = (why,)
        config[_DISABLED] = "CommonSubexpressionElimination"
        reasons[_DISABLED] = "values that are planned to be made again stay apart"
    else:
        session[level] = "ORT_DISABLE_ALL"
        reasons[level] = "nodes that the runtime makes would run out of order"
        if recipe.provider == "cpu" and has_convolutions(graph):
            why = "with copies between layouts the limit of memory is not kept"
            declined["blocked layouts of convolutions"] = (why,)
    return replace(
        recipe, session=session, config=config, reasons=reasons, declined=declined
    )


def bounded(recipe: Recipe, activations: int, resident: int) -> Recipe:
    """A recipe for the CPU under which a run takes so many bytes, and never more.

    These are what `meter.realised_peak` finds for ``recipe`` (``peak``, ``resident``)
    with as many threads as the session will have. Raises UsageError for other
    providers.
    """
    if recipe.provider != "cpu":
        raise UsageError(
            "only sessions on the CPU have an arena that they can be given"
        )
    block = "one block that was measured: nothing is lost between blocks"
    why = {
        "arena_extend_strategy": block,
        "initial_chunk_size_bytes": block,
        "max_dead_bytes_per_chunk": "pieces are split, however little is left",
        "max_mem": "the block, and weights that are copied; more is an error",
    }
    return replace(
        recipe,
        session={**recipe.session, "enable_mem_pattern": False},
        arena=one_block(activations, resident),
        reasons={
            **recipe.reasons,
            "enable_mem_pattern": _NO_PATTERN,
            **{f"arena {name}": said for name, said in why.items()},
        },
    )


@dataclass
class _Choices:
    """Options of a provider with their reasons, while they are being chosen."""

    options: dict[str, str] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    declined: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def take(self, name: str, value: str, why: str) -> None:
        self.options[name], self.reasons[name] = value, why

    def decline(self, name: str, why: Sequence[str]) -> None:
        self.declined[name] = tuple(why)


def _choose_precision(chosen: _Choices, precision: str | None) -> None:
    if precision == "fp32":
        chosen.take("use_tf32", "0", "float32 products in float32 were asked for")
    else:
        why = (
            "as ONNX Runtime does by itself: operands of float32 products are rounded"
            " to TF32, 10 bits of mantissa; --precision fp32 forbids it"
        )
        chosen.take("use_tf32", "1", why)


def _choose_memory(chosen: _Choices, memory: int | None, varies: bool) -> None:
    if memory is not None:
        why = "what a run may take, weights, inputs and outputs among it; more fails"
        why += ", as of dims larger than those that were planned" if varies else ""
        chosen.take("gpu_mem_limit", str(memory), why)
    if memory is not None or not varies:
        planned = "the plan fits the limit so"
        why = "all shapes are fixed" if memory is None else planned
        chosen.take("arena_extend_strategy", "kSameAsRequested", f"{why}: no doubling")
    else:
        why = "shapes vary: an arena that doubles is extended seldom"
        chosen.take("arena_extend_strategy", "kNextPowerOfTwo", why)


def _choose_for_convs(
    chosen: _Choices,
    graph: Graph,
    kernels: Kernels,
    varies: bool,
    memory: int | None,
    ordered: bool,
) -> None:
    convs = [op for _, op in graph.walk() if op.kind in _CONVS]
    if not convs:
        return
    if memory is not None:
        why = "a search would try algorithms in memory that no plan knows of"
        chosen.take("cudnn_conv_algo_search", "HEURISTIC", why)
    elif varies:
        why = "shapes vary: EXHAUSTIVE would search anew for each"
        chosen.take("cudnn_conv_algo_search", "HEURISTIC", why)
    else:
        why = "shapes are fixed: the first run searches once for all"
        chosen.take("cudnn_conv_algo_search", "EXHAUSTIVE", why)
    if any(op.results[0].rank == 3 for op in convs):
        why = "convolutions over one axis: cuDNN has more for images of one row"
        chosen.take("cudnn_conv1d_pad_to_nc1d", "1", why)
    share = _share_of(graph, convs)
    against = []
    if any(op.results[0].dtype is not DType.F16 for op in convs):
        against.append("not all convolutions are in float16")
    if share < 0.5:
        against.append(f"convolutions are {share:.0%} of the work, less than half")
    if not kernels.has("com.ms.internal.nhwc", "Conv"):
        against.append("this runtime has no convolution with channels last")
    if ordered:
        against.append("the order was planned, without copies between layouts")
    if against:
        chosen.decline("prefer_nhwc", against)
        return
    why = (
        f"convolutions in float16 are {share:.0%} of the work, and tensor cores want"
        " channels last; measure it: transposes may cost more than they gain"
    )
    chosen.take("prefer_nhwc", "1", why)


def _share_of(graph: Graph, some: Sequence[Op]) -> float:
    """The share that some ops have of all operations that can be counted."""
    among, part, whole = set(some), 0, 0
    for _, op in graph.walk():
        flops = op_cost(op).flops
        if flops is not None:
            count = dims.evaluate(flops, dict.fromkeys(dims.symbols(flops), SYMBOL))
            whole += count
            part += count if op in among else 0
    return part / whole if whole else 0.0


def _fallbacks(graph: Graph, kernels: Kernels) -> Iterator[tuple[Op, str]]:
    """The ops of known types that the provider has no kernel for, and why."""
    opset = min(choose_opset(graph).version or 13, kernels.opset)
    for inner, op in graph.walk():
        types = [*op.types, *(v.type for v in op.operands if v is not None)]
        if isinstance(op, Constant) or not all(map(type_name, types)):
            continue
        said = kernels.why_not(op, opset=opset, used=used_results(inner, op))
        if said is not None:
            yield op, said


def _has(graph: Graph, dtype: DType) -> bool:
    return any(
        isinstance(type_, TensorType) and type_.dtype is dtype
        for _, op in graph.walk()
        for type_ in op.types
    )


def _open_dims(graph: Graph) -> Iterator[str]:
    """What has no fixed shape, in words: the inputs, or what depends on data."""
    varying = [p for p in graph.inputs if not _is_fixed(p.type)]
    for parameter in varying:
        yield f"the shape of input {parameter.name!r} is not fixed"
    if varying:
        return
    for op in graph.ops:
        if not all(map(_is_fixed, op.types)):
            yield f"the shape of what {place(graph, op)} gives is not fixed"


def _is_fixed(type_: object) -> bool:
    if not isinstance(type_, TensorType) or type_.shape is None:
        return False
    return all(isinstance(dim, int) for dim in type_.shape)


def _no_cuda_graph(
    graph: Graph, open_dims: Sequence[str], fallbacks: Mapping[str, str]
) -> Iterator[str]:
    """Each precondition of a CUDA graph that does not hold."""
    yield from _some(open_dims)
    flow = [op for op in graph.ops if op.bodies]
    yield from _some([f"{place(graph, op)} is control flow" for op in flow])
    drawn = [op for op in graph.ops if is_random(op)]
    yield from _some([f"{place(graph, op)} draws anew in each run" for op in drawn])
    yield from _some([f"{op} has no kernel of CUDA" for op in fallbacks])
    interface = [*graph.inputs, *graph.outputs]
    dtypes = dict.fromkeys(v.dtype for v in interface if v.dtype not in BINDABLE)
    yield from _some(
        [f"inputs or outputs of {dtype} are not bound" for dtype in dtypes]
    )


def _some(reasons: Sequence[str]) -> Iterator[str]:
    yield from reasons[:SHOWN]
    if len(reasons) > SHOWN:
        yield f"and {len(reasons) - SHOWN} more like the last"
