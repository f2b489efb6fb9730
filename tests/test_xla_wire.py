"""Bytes that devices send each other, read from the text of compiled programs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from graphopt import Graph
from graphopt.index import Replicated
from graphopt.ir import Parameter, Value
from graphopt.ops import Add, Constant, If, Loop, ReduceSum
from graphopt.ops.mesh import AllGather, AllReduce, Shift
from graphopt.passes.sharding import Mesh, Program
from graphopt.types import DType, tensor

pytest.importorskip("jax")
pytestmark = pytest.mark.xla

from graphopt.lowering.xla.wire import Traffic, compiled, predicted  # noqa: E402

ROW = "f32[4,32]{1,0:T(4,128)S(1)}"
"""512 bytes, as a TPU lays them out."""


def program(*lines: str, blocks: str = "") -> str:
    """A program for 8 devices."""
    body = "\n".join(f"  {line}" for line in lines)
    head = "HloModule jit_f, is_scheduled=true, num_partitions=8\n\n"
    return f"{head}{blocks}\nENTRY %main (p: f32[4,32]) -> f32[4,32] {{\n{body}\n}}\n"


GROUPS = "replica_groups={{0,1,2,3},{4,5,6,7}}"


@pytest.mark.parametrize(
    ("line", "kind", "sent"),
    [
        (f"{ROW} all-reduce(%a), {GROUPS}, to_apply=%add", "all-reduce", 768),
        (f"{ROW} all-gather(%a), {GROUPS}, dimensions={{0}}", "all-gather", 384),
        (f"{ROW} reduce-scatter(%a), {GROUPS}", "reduce-scatter", 1536),
        (f"{ROW} all-to-all(%a), {GROUPS}", "all-to-all", 384),
        (
            f"{ROW} collective-permute(%a), source_target_pairs={{{{0,1}}}}",
            "collective-permute",
            512,
        ),
        # several arrays in one
        (f"({ROW}, {ROW}) all-to-all(%a, %b), {GROUPS}", "all-to-all", 768),
        (f"({ROW}, /*index=1*/s8[]) all-reduce(%a, %b), {GROUPS}", "all-reduce", 769.5),
        # other ways to say who takes part
        (f"{ROW} all-gather(%a), replica_groups=[2,4]<=[8]", "all-gather", 384),
        (
            f"{ROW} all-gather(%a), replica_groups=[4,2]<=[2,2,2]T(2,1,0)",
            "all-gather",
            256,
        ),
        (f"{ROW} all-gather(%a), replica_groups={{}}", "all-gather", 448),
        # what begins here, and ends elsewhere
        (
            f"(f32[1,32]{{1,0}}, {ROW}, u32[]{{:S(2)}}) all-gather-start(%a), {GROUPS}",
            "all-gather",
            384,
        ),
        (
            f"((f32[1,32], f32[1,8]), ({ROW}, f32[4,8])) all-gather-start(%a, %b),"
            f" {GROUPS}",
            "all-gather",
            480,
        ),
        (f"({ROW}, {ROW}) all-reduce-start(%a, %b), {GROUPS}", "all-reduce", 1536),
        (
            f"({ROW}, bf16[4,32], u32[], u32[]) collective-permute-start(%a)",
            "collective-permute",
            256,
        ),
        # elements of fewer bits
        (f"s4[3,5] all-gather(%a), {GROUPS}", "all-gather", 6),
        (f"pred[8] all-gather(%a), {GROUPS}", "all-gather", 6),
        (f"f8e4m3fn[8] all-gather(%a), {GROUPS}", "all-gather", 6),
    ],
)
def test_collectives(line: str, kind: str, sent: float) -> None:
    assert compiled(program(f"%x = {line}")) == Traffic({kind: sent})
    assert compiled(program(f"ROOT %x = {line}")) == Traffic({kind: sent})


def test_what_is_no_collective() -> None:
    found = compiled(
        program(
            f"%all-reduce.1 = {ROW} all-reduce-done(%all-reduce-start)",
            f"%add = {ROW} add(%all-gather, %all-reduce.1)",
            f'%y = {ROW} copy(%a), metadata={{op_name="x = all-gather(y)"}}',
        )
    )
    assert found == Traffic({})


BLOCKS = f"""
%sum (a: f32[], b: f32[]) -> f32[] {{
  ROOT %c = f32[] add(%a, %b)
}}

%small (p: f32[4,32]) -> f32[4,32] {{
  ROOT %x = f32[4,8] all-gather(%p), {GROUPS}
}}

%large (p: f32[4,32]) -> f32[4,32] {{
  ROOT %x = {ROW} all-reduce(%p), {GROUPS}, to_apply=%sum
}}

%test (p: f32[4,32]) -> pred[] {{
  ROOT %x = pred[] compare(%p, %p), direction=LT
}}
"""


@pytest.mark.parametrize(
    ("line", "found"),
    [
        (
            "while(%a), condition=%test, body=%small,"
            ' backend_config={"known_trip_count":{"n":"5"}}',
            Traffic({"all-gather": 480}),
        ),
        (
            "while(%a), condition=%test, body=%small",
            Traffic({"all-gather": 96}, complete=False),
        ),
        ("while(%a), condition=%test, body=%test", Traffic({})),
        (
            "conditional(%a), branch_computations={%small, %large}",
            Traffic({"all-reduce": 768}),
        ),
        (
            "conditional(%a), true_computation=%large, false_computation=%small",
            Traffic({"all-reduce": 768}),
        ),
        ("call(%a), to_apply=%small", Traffic({"all-gather": 96})),
        ("async-start(%a), calls=%small", Traffic({"all-gather": 96})),
        ("async-done(%a), calls=%small", Traffic({})),
    ],
)
def test_what_runs_inside(line: str, found: Traffic) -> None:
    assert compiled(program(f"%x = {ROW} {line}", blocks=BLOCKS)) == found


# --- programs ------------------------------------------------------------------------

ROWS = tensor(DType.F32, 4, 32)
AXIS: dict[str, Any] = {"axis": "x", "ways": 4}


X = Parameter(ROWS, "x")
FLAG = Parameter(tensor(DType.BOOL), "flag")
COUNT = Parameter(tensor(DType.I64), "count")


def sent(*outputs: Value) -> Traffic:
    """What a program with these outputs says."""
    mesh = Mesh.parse("x=4")
    graph = Graph([X, FLAG, COUNT], outputs)
    given = ((Replicated(),),) * 3
    return predicted(Program(mesh, graph, given, ((Replicated(),),) * len(outputs)))


def turns(limit: Value) -> Value:
    """A loop that adds what all devices have."""
    state = Parameter(ROWS, "state")
    number, keep = Parameter(tensor(DType.I64), "i"), Parameter(FLAG.type, "keep")
    total = AllReduce(state, combiner="sum", **AXIS)
    body = Graph([number, keep, state], [keep, total])
    return Loop(limit, Constant(np.array(True)), X, bodies=(body,)).results[0]


def test_programs_say_what_they_send() -> None:
    gathered = AllGather(X, dim=0, **AXIS)
    assert sent(gathered) == Traffic({"all-gather": 3 / 4 * 4 * 512})
    assert sent(Add(gathered, gathered)) == sent(gathered)
    assert sent(Shift(X, by=1, **AXIS)) == Traffic({"collective-permute": 512})
    assert sent(turns(Constant(np.array(3)))) == Traffic({"all-reduce": 3 * 768})
    assert sent(turns(COUNT)) == Traffic({"all-reduce": 768}, complete=False)


def test_of_branches_the_one_that_sends_most() -> None:
    then, other = Parameter(ROWS, "a"), Parameter(ROWS, "b")
    total = AllReduce(then, combiner="sum", **AXIS)
    one = AllReduce(ReduceSum(other, keepdims=0), combiner="sum", **AXIS)
    bodies = Graph([then], [total]), Graph([other], [Add(other, one)])
    assert sent(If(FLAG, X, bodies=bodies)) == Traffic({"all-reduce": 768})
