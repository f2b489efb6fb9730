"""The house: who may import whom, how large modules are, what a wheel holds."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "graphopt"

ORDER = [
    *("errors", "debug", "byte_sizes"),
    *("polynomial", "dims", "unnamed", "types"),
    *("encoding", "external", "files", "weights", "sparse"),
    *("ir", "literal"),
    *("index", "xp", "ops", "text"),
    *("proto", "versions", "functions", "interface", "importer", "exporter"),
    *("feeds", "roles", "inputs", "verify", "cost", "provenance", "reference"),
    "hardware",
    *("check", "substitution", "rewrite", "pipeline", "plan"),
    *("specialize", "dim_names", "fitting"),
    "passes",
    "lowering",
    *(
        "extract",
        "freed",
        "bisect",
        "explain",
        "report",
        "memory_words",
        "timeline",
        "memory_page",
        "fitted",
        "opened",
        "savings",
        "refusal",
        "limits",
        "tuning",
        "page",
    ),
    *(
        "artifact",
        "bench",
        "profile",
        "doctor",
        "narrowed",
        "output",
        "rivals",
        "programs",
        "plugins",
    ),
    *("levels", "driver", "sharded"),
    *("mesh_flow", "mesh_regimes", "mesh_view", "mesh_ribbons", "mesh_page"),
    "api",
    "training",
    "testing",
    "cli",
]
"""Modules and packages in the order in which the data visits them (docs/design.md)."""

DATA = sorted(
    [*PACKAGE.glob("data/*.csv"), *(PACKAGE / "lowering").rglob("data/*.json")]
)
"""Files that are no code, and go into a wheel all the same."""

UPWARD = {
    ("ir", "text"),  # printing a graph
}
"""Imports inside of functions that go up all the same."""


def modules() -> Iterator[tuple[str, Path]]:
    """Each module's place in the order, and its file; the two links are followed."""
    for name in ORDER:
        path = PACKAGE / name
        if path.is_dir():
            for file in sorted(path.rglob("*.py")):
                yield name, file
        else:
            yield name, path.with_suffix(".py")


def imports(file: Path) -> Iterator[str]:
    """The modules of graphopt that a file imports, but for types alone."""
    package = ("graphopt", *file.relative_to(PACKAGE).parts[:-1])
    pending: list[ast.AST] = [ast.parse(file.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = (
                [] if not node.level else list(package[: 1 + len(package) - node.level])
            )
            base += node.module.split(".") if node.module else []
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] == "graphopt" and len(name) > 1 and name[1] in ORDER:
                yield name[1]


def test_every_module_has_a_place() -> None:
    found = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py"}
    found |= {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert found - {"__init__"} == set(ORDER)


def test_nobody_imports_upward() -> None:
    place = {name: i for i, name in enumerate(ORDER)}
    upward = {
        f"{file.relative_to(PACKAGE)} imports {other}"
        for name, file in modules()
        for other in imports(file)
        if place[other] > place[name] and (name, other) not in UPWARD
    }
    assert not upward


def test_passes_and_lowering_are_links() -> None:
    for name in ("passes", "lowering"):
        link = PACKAGE / name
        assert link.is_symlink(), "clone with symbolic links (see CONTRIBUTING.md)"
        assert link.resolve() == ROOT / name


def test_siblings_in_passes_and_lowering_are_relative() -> None:
    """So that the folders can be moved, and no import finds a stranger's `passes`."""
    for name in ("passes", "lowering"):
        for file in (ROOT / name).rglob("*.py"):
            text = file.read_text()
            assert f"from graphopt.{name}" not in text, file


def test_no_module_is_called_like_a_dependency() -> None:
    taken = {
        *("numpy", "scipy", "onnx", "ml_dtypes", "onnxruntime"),
        *("jax", "optax", "orbax"),
    }
    assert not {file.stem for _, file in modules()} & taken


def test_modules_are_short() -> None:
    long = {
        str(file.relative_to(PACKAGE)): lines
        for _, file in modules()
        if (lines := len(file.read_text().splitlines())) > 500
    }
    assert not long


def test_tests_are_short() -> None:
    long = {
        str(file.relative_to(ROOT)): lines
        for file in (ROOT / "tests").rglob("*.py")
        if (lines := len(file.read_text().splitlines())) > 500
    }
    assert not long


def test_no_folder_lacks_its_init() -> None:
    """setuptools would leave it out."""
    for folder in {file.parent for _, file in modules()}:
        assert (folder / "__init__.py").exists(), folder


@pytest.mark.slow
def test_a_wheel_holds_the_tree(tmp_path: Path) -> None:
    copy = tmp_path / "copy"  # what an earlier build left here would get into it
    copy.mkdir()
    for name in ("graphopt", "passes", "lowering"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, copy],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {f"graphopt/{file.relative_to(PACKAGE)}" for _, file in modules()}
    expected |= {f"graphopt/{f.relative_to(PACKAGE)}" for f in DATA}
    assert found == expected | {"graphopt/__init__.py", "graphopt/py.typed"}


def test_the_design_shows_the_house_as_it_is() -> None:
    """Every module stands in docs/design.md, in the order that is held here."""
    text = (ROOT / "docs" / "design.md").read_text()
    house = text.partition("```\ngraphopt/\n")[2].partition("```")[0]
    shown = re.findall(r"(?<!\S)([a-z_]+)(?:\.py|/)(?!\S)", house)
    assert [name for name in shown if name in ORDER] == ORDER
