"""What refusals and plans say: one name for a dim, what has no size, what is inside."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import onnx
import onnx.parser
import pytest
from conftest import Command

import graphopt
from graphopt.errors import UsageError
from graphopt.fitted import DoesNotFit
from graphopt.importer import load
from graphopt.memory_page import memory_picture
from graphopt.memory_words import first_without_size, most_inside
from graphopt.passes.memory import plan_memory
from graphopt.specialize import Impossible, specialize

NAMED = """
<ir_version: 8, opset_import: ["" : 17]>
named (float[batch, seq] x, float[seq, 4] w, float[?, 8] z)
=> (float[batch, 4] y, float[a, 8] v)
{ y = MatMul(x, w) v = Exp(z) }
"""

NESTED = """
<ir_version: 8, opset_import: ["" : 17]>
nested (float[64, 64] x, bool c, bool d) => (float[64, 64] y)
{
    y = If (c) <
        then_branch = outer () => (float[64, 64] p) {
            p = If (d) <
                then_branch = inner () => (float[64, 64] q) {
                    wide = Concat<axis = 0>(x, x, x, x)
                    soft = Softmax<axis = 0>(wide)
                    q = Slice(soft, first, last)
                },
                else_branch = other () => (float[64, 64] r) { r = Exp(x) }
            >
        },
        else_branch = others () => (float[64, 64] s) { s = Neg(x) }
    >
}
"""

ODD = """
<ir_version: 8, opset_import: ["" : 17, "nowhere" : 1]>
odd (float[64, 64] x) => (float y)
{ a = Exp(x) b = Softmax(a) c = nowhere.Odd(b) y = Exp(c) }
"""


def written(text: str, folder: Path) -> Path:
    model = onnx.parser.parse_model(text)
    if "nested" in text:
        for name, ends in (("first", [0]), ("last", [64])):
            tensor = onnx.helper.make_tensor(name, onnx.TensorProto.INT64, [1], ends)
            model.graph.initializer.append(tensor)
    if "nowhere" in text:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


# --- dims ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("sek", "did you mean 'seq'?"),
        ("x:7", r"'seq' \(x:1\)"),
        ("z:7", "did you mean .*'z:0'"),
        ("nothing alike", "; known: batch, seq, z:0$"),
    ],
)
@pytest.mark.parametrize("asked", ["--dim", "--memory-sizes"])
def test_a_dim_that_has_a_name_is_told_by_it(
    command: Command, tmp_path: Path, name: str, said: str, asked: str
) -> None:
    path = written(NAMED, tmp_path)
    words = ("inspect", path, "--memory")
    if asked != "--dim":
        words = ("optimize", path, "--max-memory", "1MiB")
    code, _, err = command(*words, asked, f"{name}=3")
    assert code == UsageError.exit_code
    assert re.search(said, err.strip())


def test_a_size_of_nothing_names_the_dim(tmp_path: Path) -> None:
    graph = load(written(NAMED, tmp_path))
    with pytest.raises(UsageError, match="batch=0 leaves nothing"):
        specialize(graph, {"x:0": 0, "z:0": 0})


def test_a_dim_that_is_fixed_has_no_size_to_plan_for(tmp_path: Path) -> None:
    path = written(NAMED, tmp_path)
    for dims in ({"seq": 8}, {"x:1": 8}, {"seq": "length"}):
        with pytest.raises(UsageError, match="'seq' was fixed or renamed"):
            graphopt.optimize(
                path, dims=dims, max_memory="1MiB", memory_sizes={"seq": 4}
            )


def test_memory_sizes_may_be_given_one_by_one(command: Command, tmp_path: Path) -> None:
    path = written(NAMED, tmp_path)
    line = ("optimize", path, "--max-memory", "1MiB", "--dry-run", "--memory-sizes")
    code, out, _ = command(*line, "batch=3", "--memory-sizes", "seq=5,z:0=7")
    assert code == 0
    assert "batch = 3, seq = 5, z:0 = 7" in out
    code, _, err = command(*line, "seq=3", "--memory-sizes", "seq=5")
    assert (code, "'seq' is given twice" in err) == (UsageError.exit_code, True)


def test_why_branches_forbid_dims_is_said_once_each(tmp_path: Path) -> None:
    text = NESTED.replace("64, 64", "n, 64")
    for forbidden in ("Softmax<axis = 0>(wide)", "Exp(x)", "Neg(x)"):
        text = text.replace(forbidden, "MatMul(x, x)")
    with pytest.raises(Impossible) as caught:
        specialize(load(written(text, tmp_path)), {"n": 32})
    assert str(caught.value).count("these dims are impossible") == 1
    assert str(caught.value).count("MatMul node") == 3


# --- what lies inside ---------------------------------------------------------------


def test_what_works_in_much_says_the_largest_inside_and_where(tmp_path: Path) -> None:
    graph = load(written(NESTED, tmp_path))
    (outer,) = (op for op in graph.ops if op.bodies)
    said = most_inside(outer, plan_memory(graph))
    size, name, where = re.fullmatch(r"(.*) of it for '(.*)' in (.*)", said).groups()  # type: ignore[union-attr]
    assert size == "64.0 KiB"
    assert name in {"wide", "soft"}
    assert where.startswith("If node")
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_activations=1024, check="off")
    assert "that it works in (" in caught.value.message
    assert not re.search(r"\([^)]*\(", caught.value.message)  # one level alone


# --- what has no size ---------------------------------------------------------------


def test_a_refusal_says_what_its_number_leaves_out(tmp_path: Path) -> None:
    graph = load(written(ODD, tmp_path))
    plan = plan_memory(graph)
    assert first_without_size(plan, graph) == "what nowhere.Odd node 'Odd_2' gives"
    with pytest.raises(DoesNotFit) as caught:
        graphopt.optimize(graph, max_activations=1024, check="off")
    first, second, *_ = caught.value.message.splitlines()
    assert "found takes at least " in first
    assert first.endswith(" would do for all that has a size")
    assert "leaves out 2 values" in second
    assert "nowhere.Odd node 'Odd_2'" in second
    made = graphopt.optimize(graph, max_activations="1MiB", check="off")
    assert made.report.memory is not None
    assert ": at least " in next(made.report.memory.lines())


def test_one_value_is_one(command: Command, tmp_path: Path) -> None:
    text = ODD.replace("c = nowhere.Odd(b) y = Exp(c)", "y = nowhere.Odd(b)")
    code, out, _ = command("inspect", written(text, tmp_path), "--memory")
    assert code == 0
    assert "leaves out 1 value, whose size" in out


# --- the picture --------------------------------------------------------------------


def test_each_colour_of_the_picture_has_a_name(
    command: Command, tmp_path: Path
) -> None:
    target = tmp_path / "plan.svg"
    path = written(NESTED, tmp_path)
    assert command("inspect", path, "--memory", "-o", target)[0] == 0
    picture = ElementTree.fromstring(target.read_text())
    blocks = {e.get("fill") for e in picture.iter() if e.get("class") == "b"}
    boxes = [e for e in picture.iter() if e.tag.endswith("rect") and not e.get("class")]
    words = {e.text for e in picture.iter() if e.tag.endswith("text")}
    assert blocks == {box.get("fill") for box in boxes}
    assert {"workspace", "where blocks lie in the arena, KiB"} <= words


def test_the_legend_names_every_colour_in_as_many_rows_as_it_takes() -> None:
    kinds = [f"ASomewhatLongKindOfOp{i}" for i in range(14)]
    blocks = [
        {"kind": "value", "op": kind, "values": ["v"], "type": "f32[4]", "offset": 0}
        | {"bytes": 64 - i, "first": i, "last": i}
        for i, kind in enumerate(kinds)
    ]
    steps = [{"op": "o", "live_bytes": 64, "output_bytes": 0} for _ in kinds]
    found = {"blocks": blocks, "steps": steps, "peak_step": 0, "peak_bytes": 64}
    found |= {"sizes": {}, "lower_bound_bytes": 64, "proof": "optimal"}
    found |= {"without_size": 0, "constant_bytes": 0, "output_bytes": 0}
    picture = ElementTree.fromstring(memory_picture(found, "m"))
    height = float(picture.get("viewBox", "").split()[3])
    texts = [e for e in picture.iter() if e.tag.endswith("text")]
    assert {*kinds[:10], "others"} <= {e.text for e in texts}
    assert all(float(e.get("y", 0)) < height for e in texts)
