"""Mutants of rules: a slip in the source of a pass must fail some test.

Sixty changes of one expression each are drawn over the modules of
``passes/`` (`mutation`) and tried one by one: the tests of the module, then those of
all passes, then random graphs (`mutation_properties`). What none of them notices must
stand in a table of `mutation_survivors` with its reason, or be given a test.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from mutation import PASSES, Mutant, chosen, mutants_of
from mutation_survivors import EQUIVALENT, MISSED

HERE = Path(__file__).parent
MODULES = sorted({p.stem for p in PASSES.glob("*.py")} - {"__init__"})
TESTS = {
    "branches": "raise_rectifiers",
    "chunks": "chunked_attention",
    "moments": "raise_norms",
    "norm_weights": "raise_norms",
}
"""Whose tests come first, for modules that have none of their own."""

COUNT, SEED, WORKERS = 60, 0, 2


class Worker:
    """A process that tries mutants, one at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "mutation_worker.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=HERE.parent,
            text=True,
        )

    def attempt(self, module: str, source: str) -> str | None:
        """What fails with this source of a module; None where nothing does."""
        order = {"module": module, "source": source, "rounds": rounds(module)}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        assert "error" not in said, f"{module} could not be tried: {said['error']}"
        failed: str | None = said["failed"]
        return failed

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()


@contextmanager
def workers(count: int) -> Iterator[queue.Queue[Worker]]:
    free: queue.Queue[Worker] = queue.Queue()
    made = [Worker() for _ in range(count)]
    for worker in made:
        free.put(worker)
    try:
        yield free
    finally:
        for worker in made:
            worker.close()


def subject_of(path: Path) -> str:
    """The module that a file tests: test_MODULE.py, test_MODULE_PART.py."""
    name = path.stem.removeprefix("test_")
    starts = [m for m in MODULES if f"{name}_".startswith(f"{m}_")]
    return max(starts, key=len, default=name)


def rounds(module: str) -> list[list[str]]:
    """Test files: the module's own, all the others, and random graphs."""
    subject = TESTS.get(module, module)
    files = sorted((HERE / "passes").glob("test_*.py"))
    own = [path for path in files if subject_of(path) == subject]
    others = [path for path in files if path not in own]
    others.append(HERE / "test_bug_classes.py")
    groups = [own, others, [HERE / "mutation_properties.py"]]
    return [[str(p.relative_to(HERE.parent)) for p in g] for g in groups if g]


def verdicts(mutants: Sequence[Mutant]) -> dict[str, str | None]:
    """What fails for each mutant, by its key."""
    with workers(WORKERS) as free, ThreadPoolExecutor(WORKERS) as pool:

        def one(module: str, source: str) -> str | None:
            worker = free.get()
            try:
                return worker.attempt(module, source)
            finally:
                free.put(worker)

        modules, sources = [m.module for m in mutants], [m.source() for m in mutants]
        keys = [m.key for m in mutants]
        return dict(zip(keys, pool.map(one, modules, sources), strict=True))


def lines(keys: Sequence[str]) -> str:
    return "".join(f"\n  {key!r}" for key in keys)


def every_mutant() -> list[Mutant]:
    return [
        mutant
        for module in MODULES
        for mutant in mutants_of(module, (PASSES / f"{module}.py").read_text())
    ]


def test_survivors_are_mutants_of_the_code_as_it_is() -> None:
    stale = sorted((EQUIVALENT | MISSED).keys() - {m.key for m in every_mutant()})
    assert not stale, f"mutation_survivors speaks of code that is gone:{lines(stale)}"


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants are tried in forks")
def test_mutants_of_rules_are_caught() -> None:
    known = EQUIVALENT | MISSED
    sample = chosen(every_mutant(), COUNT, SEED)
    found = verdicts(sample)
    survivors = [key for key, failed in found.items() if failed is None]
    real = [m for m in sample if m.key not in EQUIVALENT]
    caught = [m for m in real if found[m.key] is not None]
    print(f"{len(sample)} mutants of rules, {len(sample) - len(real)} of them equal")
    print(f"{len(caught)} of {len(real)} caught; by kind:")
    print(", ".join(f"{k} {n}" for k, n in Counter(m.kind for m in real).items()))
    for key in survivors:
        print(f"survived: {key} ({known.get(key, 'no reason known')})")

    unknown = [key for key in survivors if key not in known]
    assert not unknown, (
        "nothing notices these mutants; write a test,"
        f" or say in mutation_survivors why there can be none:{lines(unknown)}"
    )
    late = "the time limit"  # of which a busy machine is guilty, not the mutant
    noticed = [
        f"{key} ({found[key]})" for key in known if found.get(key) not in (None, late)
    ]
    assert not noticed, f"mutation_survivors is out of date, caught:{lines(noticed)}"
    assert len(real) >= 45
    assert len(caught) >= 0.98 * len(real)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="mutants are tried in forks")
def test_an_unchanged_rule_survives() -> None:
    """Else every mutant would be caught, by whatever is wrong with the trial."""
    source = (PASSES / "gemm.py").read_text()
    with workers(1) as free:
        assert free.get().attempt("gemm", source) is None


def test_all_files_of_a_subject_come_first() -> None:
    parts = ("affine", "affine_before", "affine_constants")
    assert rounds("affine")[0] == [f"tests/passes/test_{p}.py" for p in parts]
    assert rounds("causal")[0] == ["tests/passes/test_causal.py"]
    for module in MODULES:
        tried = [file for group in rounds(module)[:-1] for file in group]
        assert len(tried) == len({*tried})
        assert {HERE.parent / file for file in tried} >= {
            *(HERE / "passes").glob("test_*.py")
        }


def test_the_draw_is_stable_under_edits() -> None:
    before = (PASSES / "gemm.py").read_text()
    after = before.replace("@rule(exact=False)\ndef", "\n\n@rule(exact=False)\ndef", 1)
    assert before != after
    old, new = (mutants_of("gemm", text) for text in (before, after))
    assert [m.key for m in old] == [m.key for m in new]
    assert len({m.key for m in old}) == len(old)
    shorter = [m for m in old if "bias_of_gemm" not in m.key]
    kept = {m.key for m in chosen(shorter, 20, SEED)}
    assert len(kept & {m.key for m in chosen(old, 20, SEED)}) >= 10
