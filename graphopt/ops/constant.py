"""Constants: tensors that are known before any run."""

from __future__ import annotations

from typing import Any

from ..ir import Contents, Op
from ..types import TensorType, Type
from ..weights import Tensor
from .registry import kinds
from .structured import constant_contents


class Constant(Op):
    """A tensor of the model: a weight, or a value that was folded.

    Small ones are interned by their bits, large ones by identity; a large one is read
    from its file only when somebody asks for its array.
    """

    __slots__ = ()
    kind = "Constant"

    def __new__(cls, value: Tensor | Any, *, instance: int = 0) -> Constant:
        tensor = value if isinstance(value, Tensor) else Tensor.of(value)
        return super().__new__(cls, value=tensor, instance=instance)

    @property
    def tensor(self) -> Tensor:
        return self.attrs["value"]  # type: ignore[return-value]

    @property
    def constant(self) -> Tensor:
        return self.tensor

    def infer(self) -> tuple[Type]:
        return (TensorType(self.tensor.dtype, self.tensor.shape),)

    def infer_contents(self) -> tuple[Contents | None]:
        tensor = self.tensor
        if not (tensor.dtype.is_integer or tensor.dtype.name == "BOOL"):
            return (None,)
        if tensor.size > 1024:
            return (None,)
        return (constant_contents(tensor.array()),)

    def copy(self, **_: Any) -> Constant:
        return self


kinds["", "Constant"] = Constant  # type: ignore[assignment]
