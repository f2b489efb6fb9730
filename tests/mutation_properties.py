"""What every pass must hold, on random graphs: the last net under a mutant of a rule.

Collected only where it is named, by `test_rule_mutants`.
"""

from __future__ import annotations

import pytest

from graphopt.passes import ALL
from graphopt.pipeline import Pass, Pipeline
from graphopt.testing import check_pass


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: str(kind.name))
def test_each_pass_on_random_graphs(kind: type[Pass]) -> None:
    check_pass(kind(), examples=10)


def test_all_passes_on_random_graphs() -> None:
    check_pass(Pipeline(tuple(kind() for kind in ALL)), examples=25)
