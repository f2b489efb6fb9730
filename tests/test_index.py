"""Index maps: notation, extents, volumes, tiles, placements."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from graphopt.dims import Dim, symbol
from graphopt.index import (
    UNIT,
    Affine,
    Combiner,
    Compound,
    Domain,
    Kind,
    Lookup,
    Maps,
    Partial,
    Replicated,
    Split,
    State,
    Whole,
    Window,
    axis,
    build,
    bytes_moved,
    domain,
    extents,
    flops,
    parse,
    reshard,
    result_shapes,
    shardy_rule,
    strategies,
    tile_slice,
    tiling,
)

n, m = symbol("n"), symbol("m")
SUM = Combiner.SUM


# --- notation -----------------------------------------------------------------------


def test_a_matmul_of_different_ranks() -> None:
    maps = parse("... m k, ... k n -> ... m n", (4, 3))
    assert str(maps) == ("...1 ...0 m k, ...0 k n -> ...1 ...0 m n")
    assert maps.broadcast == {"...0"}
    assert maps.reduced == {"k"}
    assert maps.combiner("k") is SUM
    assert maps is parse("... m k, ... k n -> ... m n", (4, 3))


def test_every_kind_of_term() -> None:
    maps = parse("@1 _v 1 (h d), - , 2*y+3*r-1, c-5:3 _ -> 4-i h? y c _v", None)
    assert maps.operands == (
        (Lookup(1), Whole("v"), UNIT, Compound(("h", "d"))),
        None,
        (Affine((("y", 2), ("r", 3)), -1),),
        (Affine((("c", 1),), -5, 3), Whole("_1")),
    )
    assert maps.results[0][:2] == (Affine((("i", -1),), 4), axis("h"))
    assert str(parse(str(maps).replace("__1", "_"))) == str(maps)


def test_absent_operands() -> None:
    text = "n c, k c, k -> n k"
    assert parse(text, (2, 2)).operands == parse(text).operands[:2]
    assert parse(text, (2, 2, None)).operands[2] is None
    assert parse(" -> n").operands == ()
    assert parse("n,  -> n", (1, 0)).operands[1] == ()


@pytest.mark.parametrize(
    ("text", "ranks", "message"),
    [
        ("a b", None, "one '->'"),
        ("... -> ...", None, "need the ranks"),
        ("a b -> a", (3,), "operand 0 is of rank 3, not 2"),
        ("... a b -> a", (1,), "rank 1, not at least 2"),
        ("a -> a", (1, 1), "for 1 operands, not 2"),
        ("2*+y -> y", (1,), r"cannot read '2\*\+y'"),
        ("2y -> y", (1,), "cannot read '2y'"),
        ("y:x -> y", (1,), "cannot read 'y:x'"),
    ],
)
def test_notation_that_says_nothing(
    text: str, ranks: tuple[int, ...] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        parse(text, ranks)


# --- extents and volumes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shapes", "declared", "expected"),
    [
        ("m k, k n -> m n", [(2, 3), (3, 4)], {}, [(2, 4)]),
        ("... m k, ... k n -> ... m n", [(n, 2, 3), (1, 3, m)], {}, [(n, 2, m)]),
        ("... m k, ... k n -> ... m n", [(2, 3), (7, n, 3, 4)], {}, [(7, n, 2, 4)]),
        ("..., ... -> ...", [(n, 1), (1, 5)], {}, [(n, 5)]),
        ("..., ... -> ...", [(n, 4), (m, 4)], {}, [(None, 4)]),
        ("..., ... -> ...", [(None, 4), (3, 1)], {}, [(3, 4)]),
        ("a b, a b -> a b", [(n, None), (3, m)], {}, [(3, m)]),
        ("a r -> a 1", [(n, 4)], {}, [(n, 1)]),
        ("b s (h d) -> b h s d", [(n, m, 768)], {"h": 12}, [(n, 12, m, 64)]),
        ("a (h d) -> (a h) d", [(2, n * 6)], {"d": n}, [(12, n)]),
        ("(a b), (b c), c -> a b c", [(6,), (12,), (4,)], {}, [(2, 3, 4)]),
        ("@1 k, i j -> i j k", [(100, 16), (n, 3)], {}, [(n, 3, 16)]),
        (
            "n c 2*y+3*r-1, k c r -> n k y",
            [(n, 3, 20), (8, 3, 3)],
            {"y": 8},
            [(n, 8, 8)],
        ),
        ("n c:5, n c-5:3 -> n c", [(n, 5), (n, 3)], {"c": 8}, [(n, 8)]),
        ("a -> a:4, a-4:6", [(10,)], {}, [(4,), (6,)]),
        ("_v -> _v, _v", [(n,)], {}, [(n,), (n,)]),
        ("i? j? -> i j", [(1, 4)], {"i": 3, "j": 4}, [(3, 4)]),
    ],
)
def test_result_shapes(
    text: str,
    shapes: list[tuple[Dim, ...]],
    declared: Mapping[str, Dim],
    expected: list[tuple[Dim, ...]],
) -> None:
    maps = parse(text, [len(s) for s in shapes])
    assert list(result_shapes(maps, extents(maps, shapes, declared))) == expected


@pytest.mark.parametrize(
    ("text", "shapes", "message"),
    [
        ("m k, k n -> m n", [(2, 3), (4, 5)], "axis k is both 3 and 4"),
        ("..., ... -> ...", [(2, 3), (4, 3)], r"axis \.\.\.1: 2 and 4 do not"),
        ("a 1 -> a", [(2, 3)], "operand 0 has dim 3 where 1 belongs"),
        ("c:5 -> c", [(4,)], "dim 4 where 5 belongs"),
        ("a -> a b", [(2,)], "no operand has axis b"),
        ("(h d), d -> h d", [(10,), (3,)], r"compound \(h d\) of h=\?, d=3 is no 10"),
        ("(h d), d, h -> h d", [(10,), (5,), (4,)], "h=4, d=5 is no 10"),
        ("a b -> a b", [(2, 3, 4)], "of rank 3, not 2"),
        ("(h 4) -> h", [(10,)], r"\(h 4\) names no axis '4'"),
    ],
)
def test_clashes(text: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):  # noqa: PT012
        maps = parse(text, [len(s) for s in shapes])
        extents(maps, shapes)


def test_unknown_compound_factors() -> None:
    maps = parse("(h d) -> h d")
    assert extents(maps, [(12,)]) == {"h": None, "d": None}
    assert extents(maps, [(n,)], {"d": 4}) == {"h": n // 4, "d": 4}


def test_volumes() -> None:
    maps = parse("... m k, ... k n -> ... m n", (3, 2), cost=2)
    at = domain(maps, [(n, 8, 16), (16, 4)])
    assert flops(at) == n * (8 * 16 * 4 * 2)
    assert bytes_moved(at, [4, 2, 4]) == n * (8 * 16 * 4 + 8 * 4 * 4) + 16 * 4 * 2


def test_a_broadcast_operand_counts_once() -> None:
    at = domain(parse("..., ... -> ...", (2, 2)), [(100, 1), (1, 50)])
    assert at.size == 5000
    assert bytes_moved(at, [4, 4, 4]) == 400 + 200 + 20000


def test_bytes_of_what_is_read() -> None:
    gather = domain(parse("@1 k, i j -> i j k"), [(30000, 16), (2, 3)])
    assert bytes_moved(gather, [2, 8, 2]) == 6 * 16 * 2 + 6 * 8 + 6 * 16 * 2
    part = domain(parse("2*i+1:100 -> i"), [(100,)], {"i": 10})
    assert bytes_moved(part, [4, 4]) == 80
    padded = domain(parse("c y+r-1, c r -> c y"), [(4, 9), (4, 3)], {"y": 9})
    assert bytes_moved(padded, [1, 1, 1]) == 4 * 9 + 12 + 36
    packed = domain(parse("a, - -> a"), [(3,), None])
    assert bytes_moved(packed, [0.5, 8, 4]) == 2 + 12


# --- tiles --------------------------------------------------------------------------


def conv(pad: int = 1, extent: int = 9) -> Domain:
    maps = parse(f"b c 2*y+r-{pad}, k c r -> b k y")
    return domain(
        maps, [(2, 3, extent), (4, 3, 3)], {"y": (extent + 2 * pad - 3) // 2 + 1}
    )


def test_kinds_of_tiling() -> None:
    at = conv()
    kinds = {a: tiling(at, a).kind for a in at.maps.axes}
    assert kinds == {
        "b": Kind.PARALLEL,
        "c": Kind.REDUCED,
        "y": Kind.WINDOWED,
        "r": Kind.REDUCED,
        "k": Kind.PARALLEL,
    }
    assert (tiling(at, "y").stride, tiling(at, "y").halo) == (2, (1, 1))
    assert tiling(at, "c").combiner is SUM


@pytest.mark.parametrize(
    ("maps", "axis_name", "kind", "reason"),
    [
        (parse("b _v -> b _v"), "v", Kind.WHOLE, "any position"),
        (parse("b (h d) -> b h d"), "h", Kind.PARALLEL, "own part"),
        (parse("b (h d) -> b h d"), "d", Kind.WHOLE, "not the major axis"),
        (parse("b r -> b", combiner=None), "r", Kind.WHOLE, "cannot be combined"),
        (parse("b r -> b", combiner=Combiner.MAX), "r", Kind.REDUCED, "combined"),
        (parse("b t -> b t", carried="t"), "t", Kind.CARRIED, "one before"),
        (parse("a b -> a b", positional="b"), "b", Kind.POSITIONAL, "position"),
        (parse("a -> a e"), "e", Kind.POSITIONAL, "tell the op its extent"),
        (parse("c y, c r -> 2*y+r:9"), "y", Kind.WHOLE, "overlap in the result"),
        (parse("a -> a:1, a-1:3"), "a", Kind.WINDOWED, "windows"),
    ],
)
def test_reasons(maps: Maps, axis_name: str, kind: Kind, reason: str) -> None:
    at = Domain(maps, (None,) * len(maps.operands), dict.fromkeys(maps.axes, 4))
    plan = tiling(at, axis_name)
    assert plan.kind is kind
    assert reason in plan.reason
    if kind is Kind.WHOLE:
        with pytest.raises(ValueError, match="cannot be tiled"):
            tile_slice(at, axis_name, 0, 1)


def test_windows_are_clipped_at_borders() -> None:
    at = conv()
    assert [tile_slice(at, "y", i, i + 2).operands[0] for i in (0, 3)] == [
        (None, None, Window(0, 4, before=1)),
        (None, None, Window(5, 9, after=1)),
    ]
    whole = tile_slice(at, "y", 0, 5)
    assert whole.operands == ((None, None, Window(0, 9, 1, 1)), (None, None, None))
    assert whole.results == ((None, None, Window(0, 5)),)


def test_segments_of_a_concat() -> None:
    at = domain(parse("c:5, c-5:3 -> c"), [(5,), (3,)], {"c": 8})
    tile = tile_slice(at, "c", 4, 7)
    assert tile.operands == ((Window(4, 5, after=2),), (Window(0, 2, before=1),))
    past = tile_slice(at, "c", 6, 8)
    assert past.operands[0] == (Window(5, 5, after=2),)


def test_symbolic_tiles() -> None:
    at = domain(parse("b (h d) -> b h d"), [(n, n * 4)], {"h": n})
    tile = tile_slice(at, "h", m, m + 2)
    assert tile.operands == ((None, Window(m * 4, m * 4 + 8)),)
    reverse = domain(
        build([(Affine((("i", -1),), n - 1),)], [(axis("i"),)]), [(n,)], {"i": n}
    )
    assert tile_slice(reverse, "i", 0, 2).operands[0] is not None
    assert tiling(reverse, "i").stride == -1


def test_undecided_broadcasting_keeps_an_axis_whole() -> None:
    maps = parse("..., ... -> ...", (2, 2))
    at = domain(maps, [(n, 4), (m, 4)])
    assert tiling(at, "...1").kind is Kind.WHOLE
    assert tiling(at, "...0").kind is Kind.PARALLEL
    assert [s.axis for s in strategies(at)] == [None, "...0"]


# --- placements ---------------------------------------------------------------------


def test_strategies_of_a_matmul() -> None:
    maps = parse("... m k, ... k n -> ... m n", (3, 2), linear=[[0], [1]])
    found = [str(s) for s in strategies(domain(maps, [(4, 2, 6), (6, 8)]))]
    assert found == [
        "R, R -> R",
        "S(0), R -> S(0)",
        "S(1), R -> S(1)",
        "S(2), S(0) -> P(sum)",
        "R, S(1) -> S(2)",
        "P(sum), R -> P(sum)",
        "R, P(sum) -> P(sum)",
    ]


def test_an_added_bias_is_partial_where_the_sum_is_split() -> None:
    maps = parse("m k, k n, m? n? -> m n", linear=[[0, 2], [1, 2]])
    found = [str(s) for s in strategies(domain(maps, [(2, 4), (4, 6), (1, 6)]))]
    assert "S(1), S(0), P(sum) -> P(sum)" in found
    assert "S(0), R, R -> S(0)" in found


@pytest.mark.parametrize(
    ("source", "target", "collective"),
    [
        (Replicated(), Replicated(), "none"),
        (Replicated(), Split(1), "slice"),
        (Replicated(), Partial(), "mask"),
        (Split(0), Split(0), "none"),
        (Split(0), Split(1), "all-to-all"),
        (Split(0), Replicated(), "all-gather"),
        (Split(0), Partial(), "pad"),
        (Partial(), Replicated(), "all-reduce"),
        (Partial(), Split(0), "reduce-scatter"),
        (Partial(), Partial(Combiner.MAX), "all-reduce"),
    ],
)
def test_reshard(source: State, target: State, collective: str) -> None:
    assert reshard(source, target) == collective


def test_shardy_rules_are_read_by_jax() -> None:
    sharding_rule = pytest.importorskip("jax._src.custom_partitioning_sharding_rule")
    at = conv()
    rule = shardy_rule(at)
    assert str(rule) == "b c y, k c r -> b k y"
    assert rule.reduction_factors == ("c",)
    assert rule.need_replication_factors == ("r",)
    assert rule.permutation_factors == ("y",)
    attention = parse("... _q (h d), @0 1 -> ... _q h d", (4, 2))
    for each in (at, domain(attention, [(2, 3, 5, 8), (7, 1)], {"h": 2})):
        rule = shardy_rule(each)
        sharding_rule.str_to_sdy_sharding_rule(
            rule.sharding_rule,
            reduction_factors=rule.reduction_factors,
            need_replication_factors=rule.need_replication_factors,
            permutation_factors=rule.permutation_factors,
        )
