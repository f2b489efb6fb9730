"""Run a model on arrays: in the NumPy reference, in ONNX Runtime or in XLA.

Arrays go in and come out by name, in .npz files. Without --inputs, random arrays are
made that fit the model; where it does not run on them, of sizes on which it does.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..errors import UsageError
from ..files import atomic_write
from ..interface import is_program
from ..ir import Graph
from ..lowering import Executable
from ..lowering.xla.platforms import refuse_described
from ..output import check_destination, files_of
from ..report import on_host
from ..specialize import symbols_of
from ..unnamed import by_place
from .arguments import (
    add_inputs,
    add_output,
    add_sizes,
    add_target,
    heed_strict,
    read_arrays,
    say,
    sizes_in,
    sizes_of,
    target_of,
)
from .feeding import feeding, on_sizes, say_random, told
from .meshes import (
    FROM_FILE,
    add_bound,
    add_mesh,
    bounds,
    check_mesh,
    links_of,
    refuse_stages,
)
from .progress import Slow


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of this command."""
    parser.add_argument(
        "model",
        type=Path,
        metavar="MODEL",
        help="a model, a program for XLA, or a folder of stages",
    )
    add_output(parser, "write the outputs to this .npz file")
    add_target(parser, None, "reference; of a program, xla-cpu")
    add_sizes(parser, "size of a symbolic dim in random inputs")
    add_inputs(parser)
    add_mesh(parser, "share the work out over devices of a target of XLA", True)
    add_bound(parser)


def run(options: argparse.Namespace) -> int:
    """Feed the model, run it, write or print what comes out."""
    check_mesh(options)
    heed_strict(options)
    if options.output is not None:
        check_destination(
            options.output,
            options.model,
            overwrite=options.force,
            data=False,
            inputs=files_of(options.model, options.inputs),
        )
    if is_staged(options.model):
        return run_stages(options)
    on_mesh = options.mesh is not None
    choose_target(options, [options.model], "xla-cpu" if on_mesh else "reference")
    check_runs(options.model, options.target)
    if on_mesh:
        return run_on_mesh(options)
    target = target_of(options)
    executable = target.open(options.model)
    outputs, fed, sizes = feeding(options, options.model, executable)
    if options.inputs is None:
        say_random(options, fed)
    _say(options, outputs, executable, told(sizes))
    return 0


def is_staged(model: Path) -> bool:
    """True for a folder of stages, as optimize --mesh stage=… writes one."""
    return model.is_dir() and (model / "stages.json").is_file()


def run_stages(options: argparse.Namespace) -> int:
    """Run the stages of a folder in ONNX Runtime. Raises UsageError, InvalidModel."""
    from ..inputs import random_inputs
    from ..lowering.ort.stages import Pipelined, read

    given = (options.target or "ort-cpu").startswith("ort-")
    if not given or options.mesh is not None or options.precision:
        raise UsageError(
            f"{options.model} holds stages for ONNX Runtime, which know their devices:"
            " leave out --mesh, --precision and targets of others"
        )
    inputs = read_arrays(options.inputs, options.model)
    graph = read(options.model).whole
    sizes = sizes_of(options, graph, inputs)
    executable = Pipelined.open(options.model)

    def outputs(sizes: Mapping[str, int]) -> dict[str, Any]:
        if inputs is not None:
            return executable(inputs)
        fed = random_inputs(graph, options.seed, sizes)
        made = executable(fed)
        say_random(options, fed)
        return made

    made, found = (
        (outputs({}), {}) if inputs is not None else on_sizes(graph, sizes, outputs)
    )
    _say(options, made, executable, told(found))
    return 0


def run_on_mesh(options: argparse.Namespace) -> int:
    """Plan the model for a mesh, or take the plan of its file, and run it there.

    Of many processes the first says what came out. Raises UsageError, BackendMissing.
    """
    from ..importer import load
    from ..inputs import random_inputs
    from ..passes.sharding.caches import replaced
    from ..sharded import resumed, shard

    if is_program(options.model):
        raise UsageError(f"{options.model} is a program for one device, not a model")
    refuse_stages(options)
    refuse_described(options.target)
    graph = load(options.model)
    inputs = read_arrays(options.inputs, options.model)
    if options.mesh == FROM_FILE:
        made = resumed(graph, options.target, links_of(options))
    else:
        sizes = sizes_of(options, graph, inputs)
        if inputs is not None:
            sizes = {**sizes_in(graph, inputs), **sizes}
        with Slow(options, "looking for the best plan"):
            made = shard(
                graph, options.mesh, options.target, dims=sizes, **bounds(options)
            )
    executable = made.compile(options.target, options.precision)
    random = inputs is None
    if inputs is None:  # those that the model gets without a mesh
        inputs = random_inputs(graph, options.seed, fixed_in(made.graph, graph))
    outputs = executable(inputs)
    from ..lowering.xla.distributed import is_first  # known when all have met

    if is_first():
        if random:
            say_random(options, inputs)
        _say(options, outputs, executable, [*replaced(made.caches)])
    return 0


def fixed_in(sized: Graph, graph: Graph) -> dict[str, int]:
    """The sizes that a graph's dims have in another whose dims are all known."""
    found: dict[str, int] = {}
    symbols = symbols_of(graph)
    for old, new in zip(graph.inputs, sized.inputs, strict=True):
        for axis, (dim, size) in enumerate(zip(old.shape or (), new.shape or ())):  # noqa: B905
            if isinstance(size, int) and not isinstance(dim, int):
                name = by_place(old.name, axis) if dim is None else str(dim)
                if dim is None or name in symbols:
                    found[name] = size
    return found


def _say(
    options: argparse.Namespace,
    outputs: Mapping[str, Any],
    executable: Executable,
    lines: list[str],
) -> None:
    """Write and print what came out."""
    if options.output is not None:
        _write(options.output, outputs)
    lines += [f"{name}: {_line(value)}" for name, value in outputs.items()]
    written = None if options.output is None else str(options.output)
    rows = {name: described(value) for name, value in outputs.items()}
    used = dict(executable.used())
    if "host" in used:
        lines.append(on_host(used["host"]))
    say(options, lines, output=written, outputs=rows, used=used)


def choose_target(
    options: argparse.Namespace, models: Sequence[Path], default: str
) -> None:
    """The target where none is named: the default, or for programs XLA's CPU."""
    if options.target is None:
        programs = all(map(is_program, models))
        options.target = "xla-cpu" if programs else default


def check_runs(model: Path, target: str) -> None:
    """Raises UsageError for a program and a target that is not XLA's."""
    if is_program(model) and not target.startswith("xla-"):
        raise UsageError(
            f"{model} is a program for XLA, which {target} does not run; name an XLA"
            " target, as --target xla-cpu"
        )


def _write(path: Path, outputs: Mapping[str, Any]) -> None:
    for name, value in outputs.items():
        if not isinstance(value, np.ndarray):
            raise UsageError(f"the output {name!r} is no array; .npz cannot hold it")
    plain = {
        name: value.astype(str) if value.dtype == object else value
        for name, value in outputs.items()
    }
    atomic_write(path, lambda file: np.savez(file, **plain))


WHOLE: Final = 256
"""Elements of an output that JSON holds; larger ones are for --output."""


def _line(value: Any) -> str:
    """An output for people, cut where it is long."""
    if not isinstance(value, np.ndarray):
        return f"{type(value).__name__}  {value!r:.60}"
    text = np.array2string(value, threshold=8, edgeitems=3, precision=5)
    return f"{value.dtype}{list(value.shape)}  {' '.join(text.split())[:80]}"


def described(value: Any) -> dict[str, Any]:
    """An output as JSON: what it is, its range, and all of it where it is small.

    ``min``, ``max`` and ``mean`` are those of finite numbers; what is not finite is
    null in ``values``, and counted.
    """
    if isinstance(value, list):
        return {"type": "list", "elements": [described(each) for each in value]}
    if not isinstance(value, np.ndarray):
        return {"type": type(value).__name__}
    row: dict[str, Any] = {
        "type": f"{value.dtype}{list(value.shape)}",
        "dtype": str(value.dtype),
        "shape": list(value.shape),
    }
    if value.dtype.kind == "c":  # pairs of numbers
        value = np.stack([value.real, value.imag], -1)
    if value.dtype != object:
        if value.dtype.kind not in "biu":  # bfloat16 and its like are of none
            value = value.astype(np.float64)
        finite = value[np.isfinite(value)]
        for name in ("min", "max", "mean"):
            row[name] = getattr(finite, name)().item() if finite.size else None
        row["nonfinite"] = value.size - finite.size
    whole = value.size <= WHOLE
    row["values"] = _plain(value.tolist()) if whole else None
    return row


def _plain(value: Any) -> Any:
    """Nested lists of numbers as JSON has them: without what is not finite."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
