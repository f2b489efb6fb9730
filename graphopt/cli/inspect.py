"""What a model consists of and costs: interface, ops, parameters, FLOPs, bytes, memory.

Costs of symbolic dims are expressions; --dim gives sizes. --text prints the graph.
--memory plans the memory of a run: what lies where in one arena, and when, and asks
XLA's compiler for its targets; --mesh plans
which device of a mesh holds and does what. -o draws either plan.
--target compiles the model instead, and says what the program needs. TPUs need not be
here: xla-tpu:v5e:2x2 (v4, v5e, v5p, v6e, tpu7x). Exit code 6 where it does not fit.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ..cost import cost
from ..dim_names import shown
from ..driver import said_of_equals
from ..errors import GraphoptError, UsageError, nearest
from ..files import atomic_write, file_named
from ..fitting import fitting
from ..importer import load
from ..ir import Graph
from ..lowering import Compiler, temporaries
from ..lowering.xla.platforms import PLATFORMS, is_described
from ..output import check_destination
from ..passes.sharding import Mesh
from ..report import kinds_of, on_host, table
from .arguments import (
    add_inputs,
    add_precision,
    add_sizes,
    read_arrays,
    say,
    sizes_of,
    target_of,
)
from .feeding import on_sizes, told
from .meshes import (
    FROM_FILE,
    add_bound,
    add_mesh,
    bounds,
    check_mesh,
    devices_of,
    links_of,
)
from .progress import Slow
from .run import fixed_in

if TYPE_CHECKING:
    from ..lowering.xla.report import Examined
    from ..passes.memory import MemoryPlan
    from ..sharded import Sharded


LIKE_COPIES: Final = (
    "  (so do copies that optimize made to keep to a limit: the file takes less in its"
    " runtime, as --measure shows)"
)
"""What is said where equal nodes are one in a plan."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--text", action="store_true", help="print the graph as text")
    parser.add_argument(
        "--target",
        metavar="T",
        help="compile for this target of XLA: xla-cpu, xla-cuda, xla-tpu:CHIP[:GRID]",
    )
    parser.add_argument(
        "--memory",
        action="store_true",
        help="live bytes over the steps, and what is live at the peak; with --target, "
        "aligned as there (symbolic dims without --dim take usual sizes)",
    )
    parser.add_argument(
        "--order",
        choices=("file", "best"),
        default="file",
        help="with --memory: ops as in the file, or in the best order that is found",
    )
    parser.add_argument(
        "--measure",
        action="store_true",
        help="with --memory: also run the file in the target (ort-cpu, xla-cpu), and"
        " find what it really takes",
    )
    parser.add_argument(
        "-o",
        dest="output",
        type=file_named,
        metavar="FILE",
        help="with --memory or --mesh: draw the plan (.svg or .html)",
    )
    add_precision(parser)
    add_sizes(parser, "size of a symbolic dim, for the costs or the program")
    add_inputs(parser)
    add_mesh(parser, "plan the model for these devices", True)
    add_bound(parser)


def run(options: argparse.Namespace) -> int:
    """Load, read the costs, print."""
    check_mesh(options)
    graph = load(options.model)
    if options.text:
        say(options, str(graph).splitlines(), text=str(graph))
        return 0
    if options.mesh is not None:
        return mesh(options, graph)
    if options.memory:
        return memory(options, graph)
    if options.output is not None:
        raise UsageError("-o draws a plan: add --memory or --mesh")
    if options.order != "file" or options.measure:
        raise UsageError("--order and --measure are about memory: add --memory")
    if options.target is not None:
        return compile_only(options, graph)
    if options.precision or options.inputs:
        raise UsageError("--precision and --inputs are of programs: name a --target")
    found = facts(graph, sizes_of(options, graph))
    say(options, _lines(found), **found)
    return 0


def facts(graph: Graph, binding: Mapping[str, int]) -> dict[str, Any]:
    """What there is to say of a graph, as plain data."""
    total = cost(graph, binding)
    kinds = kinds_of(graph)
    return {
        "name": graph.name,
        "opsets": dict(graph.header.opsets),
        "producer": " ".join(filter(None, graph.header.producer)),
        "inputs": {p.name: str(p.type) for p in graph.inputs},
        "outputs": {
            name: str(value.type)
            for name, value in zip(graph.output_names, graph.outputs, strict=True)
        },
        "ops": {"total": sum(kinds.values()), "by_kind": dict(kinds.most_common())},
        "parameters": total.parameters,
        "parameter_bytes": total.parameter_bytes,
        "flops": _plain(total.flops),
        "bytes": _plain(total.bytes),
        "peak_bytes": _plain(total.peak),
        "unknown": dict(total.unknown),
    }


def compile_only(options: argparse.Namespace, graph: Graph) -> int:
    """Compile for the target, print what its compiler says. Raises UsageError."""
    target = target_of(options, runs=False)
    if not isinstance(target, Compiler):
        raise UsageError(f"{target.name} compiles no programs; the targets of XLA do")
    inputs = read_arrays(options.inputs, options.model)
    sizes = sizes_of(options, graph, inputs)
    waiting = f"compiling for {target.name}"
    if options.precision is not None and options.target.startswith("xla-tpu"):
        waiting += "; products of float32 in full take minutes on large models, without"
        waiting += f" --precision {options.precision} it is faster"
    with Slow(options, waiting):

        def examined(sizes: Mapping[str, int]) -> Examined:
            return target.examine(graph, inputs, seed=options.seed, sizes=sizes)

        made, chosen = (
            on_sizes(graph, sizes, examined)
            if inputs is None
            else (examined(sizes), {})
        )
    found = made.to_json()
    lines = [*told(chosen), *_lines_of_program(graph.name, found)]
    say(options, lines, name=graph.name, **found)
    return 0


def memory(options: argparse.Namespace, graph: Graph) -> int:
    """Plan the memory of one run, print it, draw it. Raises UsageError."""
    from ..memory_page import memory_page, memory_picture
    from ..passes.memory import SPACES, plan_memory
    from ..timeline import memory_facts, memory_lines

    name = (options.target or "onnx").partition(":")[0]
    if name not in SPACES:
        raise UsageError(f"no target is called {name!r}{nearest(name, SPACES)}")
    draw = drawing(options, memory_picture, memory_page)
    chosen, graph = fitting(graph, sizes_of(options, graph))
    sizes = {shown(name): size for name, size in chosen.items()}
    space = SPACES[name]
    plan = plan_memory(graph, sizes, space=space)
    with Slow(options, "looking for the order that holds the least"):
        best = plan_memory(graph, sizes, space=space, reorder=True)
    shown_plan = best if options.order == "best" else plan
    found = memory_facts(shown_plan, graph) | {
        "sizes": sizes,
        "order": options.order,
        "orders": {"file": plan.peak, "best": best.peak},
    }
    if name == "ort-cpu":
        with Slow(options, f"running once in {name}"):
            found["arena"] = arena(shown_plan, graph, options.model)
    if name in PLATFORMS:
        with Slow(options, f"compiling for {options.target}"):
            found["compiler"] = counted(options, graph, chosen)
    if options.measure:
        with Slow(options, f"measuring in {name}"):
            found["realised"] = realised(options, name, chosen)
    written = []
    if draw is not None:
        draw(found, f"memory of {options.model.name}")
        written = [f"written to {options.output}"]
    merged = said_of_equals(graph)
    merged += [LIKE_COPIES] * bool(merged)
    lines = [*merged, *memory_lines(found), *written]
    say(options, lines, target=name, **found)
    return 0


def arena(plan: MemoryPlan, graph: Graph, model: Path) -> dict[str, Any]:
    """What ONNX Runtime's arena takes, outputs apart: what limits are held against.

    Opened as the recipe beside the model says; else in the order of the plan, but with
    convolutions in the runtime's own, as it lays these out: then the model runs once,
    in a child, and what it takes without layouts is said beside.
    """
    from ..fitted import Fitted, Limits
    from ..limits import counting
    from ..lowering.ort.advice import has_convolutions
    from ..lowering.ort.recipe import Recipe
    from ..opened import opened, opened_so

    anything = Limits(activations=1 << 62)
    planned = Fitted(graph, plan, anything, target="ort-cpu")
    recipe = Recipe.beside(model)
    plain = None
    with counting("ort-cpu") as counter:
        assert counter is not None
        if recipe is not None and recipe.ordered:
            way = {"layouts": recipe.layouts, "reuse": recipe.reuse}
            taken = opened_so(planned, counter, **way)
        else:
            taken = opened(planned, counter)
        layouts = taken.layouts and has_convolutions(graph)
        if taken.executed is not None and layouts:
            plain = opened_so(taken, counter, layouts=False, reuse=taken.reuse)
    known = taken.arena is not None
    reason = taken.uncounted or ("" if known else "values have no size before a run")
    return {
        "activation_bytes": taken.activations if known else None,
        "resident_bytes": taken.resident if known else None,
        "arena_bytes": taken.arena,
        "executed": taken.executed is not None,
        "layouts": layouts,
        "without_layouts_bytes": None if plain is None else plain.activations,
        "reason": reason or None,
    }


def counted(
    options: argparse.Namespace, graph: Graph, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """What the target's compiler takes for activations, or why it does not say."""
    try:
        size = temporaries(graph, options.target, sizes, options.precision)
    except GraphoptError as error:
        return {"activation_bytes": None, "reason": error.message}
    return {"activation_bytes": size, "reason": None}


def mesh(options: argparse.Namespace, graph: Graph) -> int:
    """Plan the model for a mesh, print it, draw it. Raises UsageError, DoesNotFit."""
    from ..mesh_page import mesh_page, mesh_picture
    from ..mesh_regimes import dims_of_regimes, other_regimes
    from ..mesh_view import hand_facts, mesh_facts, mesh_lines
    from ..sharded import resumed, shard

    draw = drawing(options, mesh_picture, mesh_page)
    if options.memory or options.text:
        raise UsageError("--mesh shows a plan alone: leave out --memory and --text")
    target, links = devices_of(options, "xla-cpu"), links_of(options)
    if options.mesh == FROM_FILE:
        made = resumed(graph, target, links)
        target = described(options, target, made.machine.mesh)
    else:
        target = described(options, target, Mesh.of(options.mesh))
        sizes = sizes_of(options, graph)
        with Slow(options, "looking for the best plan"):
            made = shard(graph, options.mesh, target, dims=sizes, **bounds(options))
    with Slow(options, "making plans by hand, to compare"):
        found = {**mesh_facts(made), "hand": hand_facts(made)}
    found["regimes"] = dims_of_regimes(graph)
    found["sizes"] = fixed_in(made.graph, graph)
    lines = [*told(found["sizes"], "planned for"), *mesh_lines(found)]
    now = found["regime"]["name"]
    lines += other_regimes(found["regimes"], now)
    if is_described(target):
        with Slow(options, f"compiling for {target}"):
            compiled = examined_on_mesh(options, made)
        found["compiled"] = compiled
        lines += ["", *_lines_of_mesh(compiled)]
    if draw is not None:
        draw(found, f"{options.model.name} on a mesh")
        lines += ["", f"written to {options.output}"]
    say(options, lines, name=graph.name, target=target, **found)
    return 0


def described(options: argparse.Namespace, target: str, mesh: Mesh) -> str:
    """A target that is no device here, with a grid that holds the mesh.

    Raises UsageError, and BackendMissing where nothing compiles for it.
    """
    if not is_described(target):
        return target
    from ..lowering.xla.topology import holding
    from ..sharded import check_devices

    platform, _, chips = target.partition(":")
    options.target = f"{platform}:{holding(chips, mesh.devices)}"
    check_devices(options.target, mesh)
    target_of(options, runs=False)  # says now what is missing
    return str(options.target)


def examined_on_mesh(options: argparse.Namespace, made: Sharded) -> dict[str, Any]:
    """What the compiler of TPUs that are not here says of the program."""
    target: Any = target_of(options, runs=False)
    examined: dict[str, Any] = target.examine_on_mesh(made.program).to_json()
    return examined


def _lines_of_mesh(found: Mapping[str, Any]) -> Iterator[str]:
    """What was compiled, for people."""
    memory, sent = found["memory"], found["sent"]
    yield f"{found['target']}: {found['status']}"
    rows = [
        ("HBM that a device takes", f"{memory['hbm_bytes']:,}"),
        ("HBM of the device", f"{memory['hbm_limit_bytes']:,}"),
        ("weights on a device", f"{found['weight_bytes']:,}"),
        ("bytes that it sends", f"{sent['bytes']:,}"),
        ("as the plan says", f"{sent['foreseen_bytes']:,}"),
    ]
    yield from table(rows)


Draw: TypeAlias = Callable[[Mapping[str, Any], str], str]
"""Makes a picture of facts with a title."""


def drawing(
    options: argparse.Namespace, picture: Draw, page: Draw
) -> Callable[[Mapping[str, Any], str], None] | None:
    """What draws facts into the file that was named. Raises UsageError for its name."""
    path: Path | None = options.output
    if path is None:
        return None
    drawn = {".svg": picture, ".html": page}.get(path.suffix)
    if drawn is None:
        raise UsageError(f"cannot draw into {path}: write .svg or .html")
    check_destination(path, options.model, overwrite=True, data=False)
    return lambda found, title: atomic_write(path, drawn(found, title).encode())


def realised(
    options: argparse.Namespace, target: str, sizes: Mapping[str, int]
) -> dict[str, Any]:
    """What a run of the file takes in its runtime. Raises UsageError, MeterFailed."""
    from ..inputs import random_inputs

    inputs = random_inputs(load(options.model), options.seed, sizes)
    if target == "ort-cpu":
        from ..lowering.ort import meter as runtime
        from ..lowering.ort.recipe import Recipe

        recipe = Recipe.beside(options.model)
        taken = runtime.realised_peak(options.model, inputs, recipe=recipe)
        return {**vars(taken), "recipe": recipe is not None}
    if target == "xla-cpu":
        from ..lowering.xla import meter as compiler

        found = compiler.realised_peak(options.model, inputs, planned="single")
        return vars(found)
    raise UsageError(
        f"nothing is measured in {target}: add --target ort-cpu or --target xla-cpu"
    )


def _plain(dim: Any) -> int | str | None:
    return dim if dim is None or isinstance(dim, int) else str(dim)


def _lines(found: Mapping[str, Any]) -> Iterator[str]:
    opsets = ", ".join(f"{d or 'onnx'} {v}" for d, v in found["opsets"].items())
    yield f"{found['name'] or 'graph'}: {opsets}  {found['producer']}".rstrip()
    yield from (f"  input {n}: {t}" for n, t in found["inputs"].items())
    yield from (f"  output {n}: {t}" for n, t in found["outputs"].items())
    yield ""
    yield from table(
        [
            ("ops", f"{found['ops']['total']:,}"),
            *((f"  {k}", f"{n:,}") for k, n in found["ops"]["by_kind"].items()),
        ]
    )
    yield ""
    yield from table(
        [
            ("parameters", _number(found["parameters"])),
            ("bytes of parameters", _number(found["parameter_bytes"])),
            ("floating-point operations", _counted(found, "flops")),
            ("bytes read and written", _counted(found, "bytes")),
            ("peak bytes of activations", _number(found["peak_bytes"])),
        ]
    )
    if found["peak_bytes"] is None:
        yield "the peak needs the size of every value, and of some it is not known"
    for kind, count in found["unknown"].items():
        yield f"not counted: {count} {kind}"


def _lines_of_program(name: str, found: Mapping[str, Any]) -> Iterator[str]:
    memory = found["memory"]
    where = f"{found['target']} ({found['device']})"
    yield f"{name or 'graph'} for {where}: {found['status']}"
    yield from (f"  input {n}: {t}" for n, t in found["inputs"].items())
    if chips := found.get("chips"):
        devices = found["devices"]
        one = "chip" if chips["topology"] == devices["topology"] else "core"
        yield f"takes 1 {one} of {devices['topology']}"
    if found["precision"] == "default":
        yield "products of float32 round operands to bfloat16 (see --precision)"
    if "host" in found:
        yield f"{on_host(found['host'])}, not compiled"
    yield ""
    rows = [
        ("bytes of arguments", memory["argument_bytes"]),
        ("bytes of outputs", memory["output_bytes"]),
        ("  that share with arguments", memory["alias_bytes"]),
        ("bytes of temporaries", memory["temp_bytes"]),
        ("bytes of code", memory["code_bytes"]),
        ("bytes in all", memory["total_bytes"]),
    ]
    if memory.get("scratch_bytes") or memory.get("kept_bytes"):
        rows.append(("bytes that kernels take beside", memory["scratch_bytes"]))
        rows.append(("bytes that kernels keep", memory["kept_bytes"]))
    if "hbm_bytes" in memory:
        rows.append(("HBM of the device", memory["hbm_limit_bytes"]))
        rows.append(("most bytes of VMEM by one op", memory["vmem_bytes"]))
    rows += [
        ("floating-point operations", found["flops"]),
        ("bytes read and written", found["bytes"]),
        *((f"{kind}s", count) for kind, count in found["collectives"].items()),
    ]
    yield from table([(what, _number(value)) for what, value in rows])
    for form, count in found.get("attention", {}).items():
        yield f"{count} x attention, {form}"
    seconds = found["seconds"]
    yield ""
    yield f"traced in {seconds['lower']:.1f} s, compiled in {seconds['compile']:.1f} s"


def _counted(found: Mapping[str, Any], what: str) -> str:
    """A sum; unknown where nothing could be counted, at least so much where not all."""
    missing = sum(found["unknown"].values())
    if missing and missing == found["ops"]["total"]:
        return "?"
    return _number(found[what]) + (" and more" if missing else "")


def _number(value: int | str | None) -> str:
    if value is None:
        return "?"
    return f"{value:,}" if isinstance(value, int) else value
