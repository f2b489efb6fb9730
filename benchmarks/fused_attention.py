"""Attention as exporters write it, and as the ops that are there for it."""

from collections.abc import Iterator

from fused_cases import Build, Case, Model

SIZES = (
    *((512, 8, 64), (1024, 8, 64), (2048, 8, 64), (4096, 8, 64)),
    *((1024, 12, 64), (2048, 12, 64), (1024, 8, 128), (2048, 8, 128)),
)
"""Positions, heads, and their width."""


def attentions() -> Iterator[Case]:
    """MultiHeadAttention beside parts, and beside ONNX's own op."""
    for length, heads, width in SIZES:
        size = f"{length}, {heads} x {width}"
        for name, build in (
            ("MultiHeadAttention", exported(heads)),
            ("MultiHeadAttention, of Attention", one_op(heads, contrib=False)),
        ):
            fused = one_op(heads, contrib=True)
            yield Case(
                name,
                size,
                given(fused, length, heads * width),
                given(build, length, heads * width),
            )


def given(build: Build, length: int, width: int) -> Build:
    """The same, with queries, keys and values."""

    def whole(m: Model) -> str:
        for _ in range(3):
            m.input(1, length, width)
        return build(m)

    return whole


def exported(heads: int) -> Build:
    """softmax(c q k') v, with heads moved before positions."""

    def build(m: Model) -> str:
        q, k, v = split_heads(m, heads)
        scores = m.add("Softmax", m.add("MatMul", q, k), axis=-1)
        return joined(m, m.add("MatMul", scores, v))

    return build


def one_op(heads: int, contrib: bool) -> Build:
    """The runtime's own op, or ONNX's."""

    def build(m: Model) -> str:
        if contrib:
            return m.fuse("MultiHeadAttention", *m.inputs, num_heads=heads)
        return m.add("Attention", *m.inputs, q_num_heads=heads, kv_num_heads=heads)

    return build


def by_tiles(heads: int, tile: int) -> Build:
    """Each head and each tile of its queries by itself."""

    def build(m: Model) -> str:
        sides = split_heads(m, heads)
        results = []
        for q, k, v in zip(*(cut(m, x, heads, 1) for x in sides), strict=True):
            parts = []
            for piece in cut(m, q, m.inputs["x0"].shape[1] // tile, 2):
                scores = m.add("Softmax", m.add("MatMul", piece, k), axis=-1)
                parts.append(m.add("MatMul", scores, v))
            results.append(m.add("Concat", *parts, axis=2))
        return joined(m, m.add("Concat", *results, axis=1))

    return build


def split_heads(m: Model, heads: int) -> list[str]:
    """Queries, scaled, keys, transposed, and values by heads."""
    _, length, width = m.inputs["x0"].shape
    q, k, v = m.inputs
    q = m.add("Mul", q, m.constant((width // heads) ** -0.5))
    found = []
    for x, perm in ((q, (0, 2, 1, 3)), (k, (0, 2, 3, 1)), (v, (0, 2, 1, 3))):
        shape = m.whole(1, length, heads, width // heads)
        found.append(m.add("Transpose", m.add("Reshape", x, shape), perm=perm))
    return found


def joined(m: Model, x: str) -> str:
    """Heads beside each other again."""
    turned = m.add("Transpose", x, perm=(0, 2, 1, 3))
    return m.add("Reshape", turned, m.whole(*m.inputs["x0"].shape))


def cut(m: Model, x: str, count: int, axis: int) -> list[str]:
    """Equal pieces along an axis."""
    first = m.add("Split", x, outs=count, axis=axis, num_outputs=count)
    return [first, *(f"{first}_{i}" for i in range(1, count))]
