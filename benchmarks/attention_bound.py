"""How fast long attention can be in ONNX Runtime: its parts by tiles, and as a whole.

Attention without a mask, one thread, CPU time, interleaved. A part is one of some
queries of a head beside all keys, called as often as the whole needs it. Each call has
the same operands: they are as near as the caches allow, and nothing is moved, so that
no model made of such parts is faster. `whole` are models of all: as exporters write
attention, as the ops that are there for it, and by heads and tiles of queries. Ratios
are to the first, medians within a round with their bootstrap 95 % interval; 10^9
elements, or operations of a product, per second are of the fastest round.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import intervals
import numpy as np
import tools
from fused_attention import by_tiles, exported, given, one_op
from fused_cases import Model
from fused_kernels import TOLERANCE, session
from ort_time import interleaved

TILES = (64, 128, 256, 512, 1024, 2048)
WRITTEN = (128, 512)
"""Tiles of which a whole is written."""
PLAIN = "as exported"
KINDS = ("scores", "scores, keys as they are", "values", "Softmax", "Exp")

Calls = dict[str, Callable[[], object]]


def wholes(
    length: int, heads: int, width: int
) -> Iterator[tuple[str, Callable[[], object]]]:
    """Attention as a whole, all with the same result."""
    builds = {
        PLAIN: exported(heads),
        "Attention": one_op(heads, contrib=False),
        "MultiHeadAttention": one_op(heads, contrib=True),
    }
    builds |= {f"tiles of {n}": by_tiles(heads, n) for n in WRITTEN if n < length}
    expected: Any = None
    for name, build in builds.items():
        m = Model()
        result = given(build, length, heads * width)(m)
        made, _ = session(m.proto(result), apart=False)
        (found,) = made.run(None, m.inputs)
        expected = found if expected is None else expected
        if np.abs(found - expected).max() > TOLERANCE * np.abs(expected).max():
            raise SystemExit(f"{name} gives something else")
        yield name, lambda made=made, feeds=m.inputs: made.run(None, feeds)


def part(kind: str, tile: int, length: int, width: int) -> Callable[[], object]:
    """One part of one tile, which reads and writes the same memory at each call."""
    m = Model()
    if kind in ("Softmax", "Exp"):
        result = m.add(kind, m.input(tile, length))
    elif kind == "scores":
        result = m.add("MatMul", m.input(tile, width), m.input(width, length))
    elif kind == "scores, keys as they are":
        sides = m.input(tile, width), m.input(length, width)
        result = m.fuse("FusedMatMul", *sides, transB=1)
    else:
        result = m.add("MatMul", m.input(tile, length), m.input(length, width))
    made, _ = session(m.proto(result), apart=False)
    bound = made.io_binding()
    for name, value in m.inputs.items():
        bound.bind_cpu_input(name, value)
    bound.bind_output(result, "cpu")
    return lambda: made.run_with_iobinding(bound)


def repeated(call: Callable[[], object], times: int) -> Callable[[], object]:
    """What calls so often."""

    def calls() -> None:
        for _ in range(times):
            call()

    return calls


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of one head")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything measured here")
    options = parser.parse_args()
    length, heads, width = options.length, options.heads, options.width
    calls: Calls = {f"whole, {n}": c for n, c in wholes(length, heads, width)}
    work: dict[str, float] = {}
    for tile in (n for n in TILES if n <= length):
        for kind in KINDS:
            name = f"{kind}, {tile} queries"
            once = part(kind, tile, length, width)
            calls[name] = repeated(once, heads * length // tile)
            each = 1 if kind in ("Softmax", "Exp") else 2 * width
            work[name] = heads * length * length * each
    samples = interleaved(calls, options.rounds, 0.0, options.seed)
    plain = samples[f"whole, {PLAIN}"]
    print("| part | ms | to the whole as exported | 10^9 per second |")
    print("|---|---|---|---|")
    report: dict[str, Any] = {}
    for name, seconds in samples.items():
        ratio = intervals.median_of_ratios(seconds, plain)
        rate = work[name] / min(seconds) / 1e9 if name in work else None
        report[name] = {"seconds": seconds, "ratio": asdict(ratio), "rate": rate}
        shown = f"{1000 * np.median(seconds):.1f} | {ratio}"
        print(f"| {name} | {shown} | {'' if rate is None else f'{rate:.1f}'} |")
    least = [
        min(
            (name for name in work if name.startswith(kind)),
            key=lambda name: report[name]["ratio"]["value"],
        )
        for kind in ("scores", "values", "Softmax")
    ]
    sums = np.sum([samples[name] for name in least], axis=0).tolist()
    bound = intervals.median_of_ratios(sums, plain)
    print(f"\nNothing made of these takes less than {bound}: {'; '.join(least)}")
    if options.json:
        head = {"schema": 1, "versions": tools.versions(["onnxruntime"])}
        found = {**head, "parts": report, "bound": asdict(bound)}
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
