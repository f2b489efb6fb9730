"""Inputs and outputs at fixed addresses of a device, as CUDA graphs want them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from graphopt.errors import UsageError

from .. import Array


class Binding:
    """The buffers of a session whose shapes are fixed; a run updates them in place.

    ``device`` is what ONNX Runtime calls it, "cuda" or "cpu". Raises UsageError where
    an output has no fixed shape.
    """

    def __init__(self, session: Any, device: str, index: int = 0) -> None:
        from onnxruntime import OrtValue

        self._session = session
        self._device = device, index
        self._binding = session.io_binding()
        self._inputs: dict[str, Any] = {}
        self._outputs = []
        for output in session.get_outputs():
            if not all(isinstance(dim, int) for dim in output.shape):
                raise UsageError(f"output {output.name!r} has no fixed shape to bind")
            dtype = _DTYPES.get(output.type)
            if dtype is None:
                raise UsageError(
                    f"output {output.name!r} cannot be bound: {output.type}"
                )
            buffer = OrtValue.ortvalue_from_shape_and_type(
                output.shape, dtype, device, index
            )
            self._binding.bind_ortvalue_output(output.name, buffer)
            self._outputs.append(buffer)

    def __call__(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs, in order. Raises UsageError where a shape is not that of before.

        What else can go wrong in the runtime is raised as it comes.
        """
        from onnxruntime import OrtValue

        for name, array in inputs.items():
            array = np.ascontiguousarray(array)
            buffer = self._inputs.get(name)
            if buffer is None:
                buffer = OrtValue.ortvalue_from_numpy(array, *self._device)
                self._binding.bind_ortvalue_input(name, buffer)
                self._inputs[name] = buffer
                continue
            if tuple(buffer.shape()) != array.shape:
                raise UsageError(f"input {name!r} is bound as {tuple(buffer.shape())}")
            buffer.update_inplace(array)
        self._session.run_with_iobinding(self._binding)
        return [np.array(buffer.numpy()) for buffer in self._outputs]


_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(float16)": np.float16,
    "tensor(bool)": np.bool_,
} | {
    f"tensor({sign}int{bits})": np.dtype(f"{sign}int{bits}").type
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
