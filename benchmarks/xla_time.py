"""Time of graphopt's lowering to XLA, on CPUs, against JAX written by hand and a peer.

Steady state: graphopt's target `xla-cpu`, its function `to_jax`, and the handwritten
one of the same architecture; the latter two under `jax.jit` with their weights on the
device, all with inputs from the host, interleaved in random order. Ratios are taken
within a round, as in ort_time.py, of CPU time of the process (all threads; run under
`taskset -c 0` to have one) and of wall time. `control` is the handwritten function,
jitted again.

Compilation: the model taken in, traced and lowered, and compiled by XLA, each time from
nothing (the target compiles in its first run, which counts too), against jaxonnxruntime
where it is installed and runs the model. It evaluates the model as it takes it in,
which is therefore part of the sum `all`. Ratios there are to the peer's, in steady
state to the handwritten's. `!`: other results than ONNX Runtime's.
"""

import argparse
import functools
import importlib
import json
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handwritten
import intervals
import jax
import models
import numpy as np
import onnx
import tools

import graphopt
from graphopt.lowering import Executable, find

GRAPHOPT = "graphopt"
FUNCTION = "to_jax"
BY_HAND = "handwritten"
CONTROL = "control"
PEER = "jaxonnxruntime"
TOLERANCE = 1e-4
CLOCKS: dict[str, Callable[[], float]] = {
    "cpu": time.process_time,
    "wall": time.perf_counter,
}

SUMS = {"trace+compile": ("trace", "compile"), "all": ("load", "trace+compile")}

Samples = dict[str, list[float]]
"""Seconds by clock, one for each round."""


@dataclass(frozen=True)
class Loaded:
    """A model as a JAX function of arguments; which outputs its result holds."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: models.Arrays
    outputs: Callable[[Any], Sequence[Any]]
    wide: bool = False  # needs 64-bit types

    def scope(self) -> Any:
        """The mode of JAX in which it is traced and called."""
        return jax.enable_x64(True) if self.wide else nullcontext()

    def jitted(self) -> Callable[[], Any]:
        """Calls the compiled function, and gives its results when they are there."""
        function = jax.jit(self.function)

        def call() -> Any:
            with self.scope():
                return jax.block_until_ready(function(*self.arguments, **self.named))

        return call

    def lower(self) -> Any:
        """The function traced and lowered to StableHLO, for these arguments."""
        with self.scope():
            return jax.jit(self.function).lower(*self.arguments, **self.named)


@dataclass(frozen=True)
class Opened:
    """A model in a target of graphopt."""

    executable: Executable
    named: models.Arrays
    names: list[str]

    def jitted(self) -> Callable[[], Any]:
        """Calls it; results are arrays of the host."""
        return functools.partial(self.executable, self.named)

    def outputs(self, made: Mapping[str, Any]) -> Sequence[Any]:
        """The outputs in order."""
        return [made[name] for name in self.names]

    def lower(self) -> "Opened":
        """Nothing to do: its first run traces."""
        return self

    def compile(self) -> Any:
        """Trace, compile, and run once."""
        return self.jitted()()


def load_target(source: Path, inputs: models.Arrays, names: list[str]) -> Opened:
    """The file in graphopt's target."""
    return Opened(find("xla-cpu").open(source), inputs, names)


def load_function(source: Path, inputs: models.Arrays, names: list[str]) -> Loaded:
    """What `graphopt.to_jax` makes of the file; inputs that decide shapes are bound."""
    function, params = graphopt.to_jax(source)
    with jax.enable_x64(True):
        params = jax.device_put(params)
    steering = {name: inputs[name] for name in function.steering}
    named = {name: array for name, array in inputs.items() if name not in steering}
    bound = functools.partial(function, **steering)
    return Loaded(bound, (params,), named, lambda made: [made[n] for n in names])


def load_by_hand(source: Path, inputs: models.Arrays, names: list[str]) -> Loaded:
    """The program of the model's name, with the weights that the file holds."""
    program = handwritten.PROGRAMS[source.stem]
    params = jax.device_put(program.params(onnx.load(source)))
    # A function of its own, because jit keeps what it compiled by function.
    function = functools.partial(program.apply)
    return Loaded(function, (params, inputs), {}, lambda made: [made[n] for n in names])


def load_peer(source: Path, inputs: models.Arrays, names: list[str]) -> Loaded:
    """What jaxonnxruntime makes of the file, shapes being computed as it is traced."""
    config: Any = importlib.import_module("jaxonnxruntime.config_class").config
    peer: Any = importlib.import_module("jaxonnxruntime.call_onnx")
    config.update("jaxort_only_allow_initializers_as_static_args", False)
    with jax.enable_x64(True):
        function, params = peer.call_onnx_model(onnx.load(source), inputs)
    return Loaded(function, (params, inputs), {}, list, wide=True)


LOADERS = {
    GRAPHOPT: load_target,
    FUNCTION: load_function,
    BY_HAND: load_by_hand,
    PEER: load_peer,
}


def seconds(calls: Sequence[Callable[[], object]]) -> dict[str, float]:
    """Seconds by clock that the calls take, one after the other."""
    begin = {clock: read() for clock, read in CLOCKS.items()}
    for call in calls:
        call()
    return {clock: read() - begin[clock] for clock, read in CLOCKS.items()}


def shuffled(names: Sequence[str], rounds: int, seed: int) -> Iterator[str]:
    """Each name once a round, in a new random order each time."""
    order = list(names)
    shuffle = random.Random(seed).shuffle
    for _ in range(rounds):
        shuffle(order)
        yield from order


def running(
    loaded: Mapping[str, Loaded | Opened], options: argparse.Namespace
) -> dict[str, Samples]:
    """Seconds for one call of each function in each round."""
    calls = {name: side.jitted() for name, side in loaded.items()}
    for call in calls.values():
        call()
    once = max(seconds([call])["wall"] for call in calls.values())
    repeats = max(1, round(options.sample / once))
    samples: dict[str, Samples] = {name: {c: [] for c in CLOCKS} for name in calls}
    for name in shuffled(list(calls), options.rounds, options.seed):
        calls[name]()
        for clock, spent in seconds([calls[name]] * repeats).items():
            samples[name][clock].append(spent / repeats)
    return samples


def compile_anew(load: Callable[[], Loaded | Opened]) -> dict[str, dict[str, float]]:
    """Seconds of each stage, and their sums, where nothing was compiled before."""
    jax.clear_caches()
    made: list[Any] = []
    spent = {
        "load": seconds([lambda: made.append(load())]),
        "trace": seconds([lambda: made.append(made[0].lower())]),
        "compile": seconds([lambda: made.append(made[1].compile())]),
    }
    for total, stages in SUMS.items():
        spent[total] = {c: sum(spent[stage][c] for stage in stages) for c in CLOCKS}
    return spent


def compiling(
    load: Mapping[str, Callable[[], Loaded | Opened]], options: argparse.Namespace
) -> dict[str, dict[str, Samples]]:
    """Seconds of each stage of the compilation, for each side, in each round."""
    samples: dict[str, dict[str, Samples]] = {name: {} for name in load}
    for name in shuffled(list(load), options.compile_rounds, options.seed):
        for stage, spent in compile_anew(load[name]).items():
            found = samples[name].setdefault(stage, {clock: [] for clock in CLOCKS})
            for clock in CLOCKS:
                found[clock].append(spent[clock])
    return samples


def measure_model(source: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Both measurements of one model, of those sides that run it."""
    inputs = models.make_inputs(source, models.chosen_dims(options), options.seed)
    session = models.ort_session(source)
    expected = models.ort_run(session, inputs)
    names = [value.name for value in session.get_outputs()]
    load = {
        name: functools.partial(loader, source, inputs, names)
        for name, loader in LOADERS.items()
    }
    loaded, errors = {}, {}
    for name in list(load):
        try:
            side = loaded[name] = load[name]()
            made = side.outputs(side.jitted()())
        except Exception as error:
            print(f"  {name}: {type(error).__name__}: {str(error)[:160]}")
            loaded.pop(name, None)
            del load[name]
            continue
        errors[name] = models.relative_error(expected, list(map(np.asarray, made)))
    if BY_HAND in loaded:
        loaded[CONTROL] = load[BY_HAND]()
        assert errors[BY_HAND] < TOLERANCE, "the handwritten program is another one"
    result: dict[str, Any] = {"relative_error": errors}
    runs = running(loaded, options)
    result["run"] = {
        name: intervals.shown(
            mark(errors.get(name, 0)) + name, samples, runs.get(BY_HAND)
        )
        for name, samples in runs.items()
    }
    compiled = compiling(load, options)
    result["compilation"] = {
        name: {
            stage: intervals.shown(
                f"{name}, {stage}", samples, compiled.get(PEER, {}).get(stage)
            )
            for stage, samples in stages.items()
        }
        for name, stages in compiled.items()
    }
    return result


def mark(error: float) -> str:
    """What stands before the name of a side that computes something else."""
    return "" if error < TOLERANCE else "!"


def main() -> None:
    """Measure each model, print, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    models.add_model_arguments(parser)
    models.add_input_arguments(parser)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--compile-rounds", type=int, default=7)
    parser.add_argument(
        "--sample", type=float, default=0.1, help="least seconds of one sample"
    )
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    report = {}
    for name, source in models.chosen_models(options).items():
        print(name, flush=True)
        report[name] = measure_model(source, options)
    if options.json:
        head = {
            "schema": 1,
            "versions": tools.versions([GRAPHOPT, "jax", PEER, "onnxruntime"]),
            "rounds": options.rounds,
            "compile_rounds": options.compile_rounds,
        }
        options.json.write_text(json.dumps({**head, "models": report}, indent=1))


if __name__ == "__main__":
    main()
