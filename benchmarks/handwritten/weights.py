"""What an exported model's weights are, found by the ops that use them."""

from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

Array = np.ndarray[Any, Any]


class Weights:
    """The initializers of a model by name, and who makes and who uses each value."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self._consumers.setdefault(name, []).append(node)

    def __getitem__(self, name: str) -> Array:
        """The initializer `name`."""
        return numpy_helper.to_array(self._tensors[name])

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def consumer(self, name: str) -> onnx.NodeProto:
        """The first node that uses the value."""
        return self._consumers[name][0]

    def linear(self, name: str) -> dict[str, Array]:
        """`{"w": (in, out), "b": (out,)}` of the linear layer with that bias.

        It is a Gemm, or a MatMul and an Add; its weight may be transposed by a node.
        """
        bias = f"{name}.bias"
        node = self.consumer(bias)
        if node.op_type == "Gemm":
            weight, turned = self[node.input[1]], _attribute(node, "transB")
        else:
            assert node.op_type == "Add"
            product = next(
                self._producers[other] for other in node.input if other != bias
            )
            operand = product.input[1]
            turned = operand not in self
            weight = self[self._producers[operand].input[0] if turned else operand]
        return {"w": weight.T.copy() if turned else weight, "b": self[bias]}

    def norm(self, name: str) -> dict[str, Array]:
        """The scale and the bias of a layer norm."""
        return {"scale": self[f"{name}.weight"], "bias": self[f"{name}.bias"]}

    def convolutions(self) -> list[dict[str, Array]]:
        """Each convolution in order: `{"w": (h, w, in, out), "b": (out,)}`.

        A batch normalization that follows is folded into it.
        """
        return [
            self._convolution(node) for node in self.nodes if node.op_type == "Conv"
        ]

    def _convolution(self, node: onnx.NodeProto) -> dict[str, Array]:
        weight = self[node.input[1]].astype(np.float64)
        follower = self.consumer(node.output[0])
        if follower.op_type == "BatchNormalization":
            scale, bias, mean, variance = (
                self[name].astype(np.float64) for name in follower.input[1:]
            )
            scale = scale / np.sqrt(variance + _attribute(follower, "epsilon"))
            weight, bias = weight * scale[:, None, None, None], bias - mean * scale
        else:
            bias = self[node.input[2]]
        return {
            "w": weight.transpose(2, 3, 1, 0).astype(np.float32),
            "b": bias.astype(np.float32),
        }


def _attribute(node: onnx.NodeProto, name: str) -> Any:
    found = (a for a in node.attribute if a.name == name)
    return next(map(onnx.helper.get_attribute_value, found), 0)
