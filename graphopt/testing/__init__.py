"""Property tests for passes: random graphs, equivalence, pass checkers.

For authors of graphopt passes and, as `check_pass` takes any function from ModelProto
to ModelProto, for authors of other optimizers. Needs `hypothesis`
(``pip install graphopt[test]``).

>>> from graphopt.testing import check_pass
>>> check_pass(MyPass())
>>> check_pass(onnx_optimizer_function)
"""

from __future__ import annotations

try:
    from .growth import families, family, weight
    from .passes import (
        assert_equivalent,
        assert_legal_function,
        assert_legal_pass,
        check_pass,
    )
    from .strategies import graphs
except ModuleNotFoundError as missing:
    if missing.name != "hypothesis":
        raise
    raise ModuleNotFoundError(
        "graphopt.testing needs hypothesis: pip install 'graphopt[test]'",
        name=missing.name,
    ) from None

__all__ = [
    "assert_equivalent",
    "assert_legal_function",
    "assert_legal_pass",
    "check_pass",
    "families",
    "family",
    "graphs",
    "weight",
]
