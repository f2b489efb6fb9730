"""Plan a transformer for a mesh of eight devices, with no hints, and run it there.

    pip install 'graphopt[jax]'
    python examples/shard_transformer.py decoder.onnx

A small decoder is written: queries, keys and values come out of one packed product, as
exporters leave them. No device may hold more than a third of the weights, so a plan
must split them. It is found, run on eight virtual devices of this CPU, and compared
with the NumPy reference on one.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import graphopt
from graphopt import ops
from graphopt.cost import cost
from graphopt.exporter import save
from graphopt.ir import Graph, Parameter, Value
from graphopt.mesh_view import mesh_facts, mesh_lines
from graphopt.types import DType, TensorType

BATCH, LENGTH, VOCABULARY, HEAD = 8, 64, 1024, 64


class Decoder:
    """i64[batch, length] tokens --> f32[batch, length, vocabulary] logits."""

    def __init__(self, width: int, layers: int) -> None:
        self.width, self.layers = width, layers
        self.names: dict[Value, str] = {}

    def weight(self, name: str, *shape: int) -> Value:
        random = np.random.default_rng(len(self.names))
        array = shape[0] ** -0.5 * random.normal(size=shape)
        constant = ops.Constant(array.astype(np.float32))
        self.names[constant] = name
        return constant

    def linear(self, x: Value, name: str, size: int) -> Value:
        assert x.shape is not None
        return ops.MatMul(x, self.weight(f"{name}.weight", x.shape[-1], size))

    def norm(self, x: Value) -> Value:
        scale = ops.Constant(np.ones(self.width, np.float32))
        return ops.RMSNormalization(x, scale)

    def attention(self, x: Value, name: str) -> Value:
        packed = self.linear(x, f"{name}.qkv", 3 * self.width)
        query, key, value = ops.Split(packed, axis=-1, num_outputs=3).results
        heads = {"q_num_heads": self.width // HEAD, "kv_num_heads": self.width // HEAD}
        mixed = ops.Attention(query, key, value, is_causal=1, **heads).results[0]
        return self.linear(mixed, f"{name}.out", self.width)

    def mlp(self, x: Value, name: str) -> Value:
        hidden = ops.Gelu(self.linear(x, f"{name}.up", 4 * self.width))
        return self.linear(hidden, f"{name}.down", self.width)

    def graph(self) -> Graph:
        tokens = Parameter(TensorType(DType.I64, (BATCH, LENGTH)), "tokens")
        x: Value = ops.Gather(self.weight("embedding", VOCABULARY, self.width), tokens)
        x = ops.Add(x, self.weight("positions", LENGTH, self.width))
        for i in range(self.layers):
            x = ops.Add(x, self.attention(self.norm(x), f"layers.{i}.attention"))
            x = ops.Add(x, self.mlp(self.norm(x), f"layers.{i}.mlp"))
        logits = self.linear(self.norm(x), "head", VOCABULARY)
        return Graph([tokens], [logits], output_names=["logits"], names=self.names)


def main() -> None:
    """Write the decoder, plan it, run it on virtual devices, compare."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="where to write it")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--mesh", default="model=8")
    options = parser.parse_args()
    save(Decoder(options.width, options.layers).graph(), options.model)
    graph = graphopt.load(options.model)

    limit = cost(graph).parameter_bytes * 2 // 5
    planned = graphopt.shard(graph, options.mesh, "xla-cuda:h100", max_memory=limit)
    print(*mesh_lines(mesh_facts(planned)), sep="\n")

    tokens = np.random.default_rng(0).integers(0, VOCABULARY, (BATCH, LENGTH))
    made = planned.compile("xla-cpu")(tokens=tokens)["logits"]
    expected = graphopt.run_model(options.model, {"tokens": tokens})[0]
    error = np.abs(made - expected).max() / np.abs(expected).max()
    print(f"\non 8 virtual devices: {error:.1e} from the reference")
    if error > 1e-5:
        sys.exit("which is too much")


if __name__ == "__main__":
    main()
