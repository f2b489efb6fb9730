"""What lies between joined products, beside what kernels were seen to ask for."""

from __future__ import annotations

import pytest

from graphopt.lowering.xla.instructions import computations
from graphopt.lowering.xla.kernels import taken
from graphopt.lowering.xla.loops import Product, between

LIBRARY = '{"fusion_config":{"kind":"__ynn_fusion"}}'


def attention(heads: int, rows: int, keys: int, side: int, *, product: bool) -> str:
    """exp(s - max(s)) of a product s, in one kernel; with what is made of it, if so."""
    whole, row = f"f32[{heads},{rows},{keys}]{{2,1,0}}", f"f32[{heads},{rows}]{{1,0}}"
    asked, given = (f"f32[{heads},{n},{side}]{{2,1,0}}" for n in (rows, keys))
    batch = "lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}"
    lines = [
        f"  %p = {asked} parameter(0)",
        f"  %q = {given} parameter(1)",
        f"  %s = {whole} dot(%p, %q), {batch}, rhs_contracting_dims={{2}}",
        "  %i = f32[] constant(-inf)",
        f"  %m = {row} reduce(%s, %i), dimensions={{2}}, to_apply=%max",
        f"  %b = {whole} broadcast(%m), dimensions={{0,1}}",
        f"  %d = {whole} subtract(%s, %b)",
        f"  %e = {whole} exponential(%d)",
        f"  %y = {asked} dot(%e, %q), {batch}, rhs_contracting_dims={{1}}",
    ]
    lines = lines if product else lines[:-1]
    lines[-1] = lines[-1].replace("  %", "  ROOT %", 1)
    made = asked if product else whole
    call = f"  ROOT %f = {made} fusion(%p, %q), kind=kCustom, calls=%c, metadata={{}}"
    first = "\n".join(lines[:2])
    return (
        "HloModule m\n\n%c (p: x, q: x) -> x {\n" + "\n".join(lines) + "\n}\n"
        f"ENTRY %main (p: x, q: x) -> x {{\n{first}\n{call},"
        f" backend_config={LIBRARY}\n}}\n"
    )


def lies(heads: int, rows: int, keys: int, side: int, *, product: bool = True) -> int:
    text = attention(heads, rows, keys, side, product=product)
    return between(computations(text)[1]["c"], threads=2)


@pytest.mark.parametrize(
    ("heads", "rows", "keys", "side", "threads", "megabytes"),
    [
        # all in one loop over rows
        (4, 1024, 1024, 16, 1, 2.49),
        (4, 1024, 1024, 16, 2, 4.59),
        (4, 2032, 2032, 16, 2, 9.75),
        (6, 1500, 512, 8, 2, 6.36),
        # scores are whole
        (4, 2064, 2064, 16, 2, 77.0),
        (4, 1024, 1024, 64, 1, 19.8),
        (4, 2048, 2048, 64, 2, 77.5),
        (16, 384, 384, 80, 2, 23.9),
        (8, 640, 640, 48, 2, 19.2),
        (32, 1024, 1024, 64, 1, 159.3),
        # what is made of them, too, by a loop over columns of the values
        (8, 704, 704, 48, 2, 33.6),
        (4, 2048, 2048, 48, 2, 135.1),
        (8, 1500, 1024, 72, 2, 101.3),
        # or as the positions of all heads are more than a piece
        (33, 1024, 1024, 64, 1, 281.1),
        # nothing is in a loop
        (64, 256, 256, 32, 2, 18.7),
    ],
)
def test_a_kernel_asks_for_what_is_foreseen(
    heads: int, rows: int, keys: int, side: int, threads: int, megabytes: float
) -> None:
    """Seen of jaxlib 0.10.2, without what it keeps and what it gives out."""
    text = attention(heads, rows, keys, side, product=True)
    found = taken(text, 0, 0, threads)[0]
    assert found / 1e6 == pytest.approx(megabytes, rel=0.06)


def test_scores_of_one_head_are_cut_as_columns_of_their_product() -> None:
    """As many keys as positions: 12.6 MB each, of which four were there."""
    tiles = 4 * 1024 * 3072 * 4
    assert lies(1, 3072, 3072, 32, product=False) == tiles
    assert lies(1, 3072, 3100, 32, product=False) == 3072 * 3100 * 4
    assert lies(1, 4096, 4096, 48) == 4096 * 4096 * 4 + 4 * 640 * 4096 * 4


def test_scores_that_are_given_out_changed() -> None:
    """Whole beside that, but in its place where there is no loop."""
    assert lies(2, 1024, 1024, 32, product=False) == 2 * 1024 * 1024 * 4
    assert lies(16, 196, 196, 32, product=False) == 0


@pytest.mark.parametrize(
    ("k", "n", "columns"),
    [
        (512, 2048, 64),
        (128, 128, 128),
        (64, 64, 64),
        (2048, 48, 16),
        (640, 48, 48),
        (704, 48, 32),
        (2048, 80, 16),
        (384, 96, 64),
        (2048, 24, 32),
        (32, 4096, 1024),
        (0, 1, 16),
    ],
)
def test_columns(k: int, n: int, columns: int) -> None:
    """They fit in the cache, and pad little; a kernel of one step is the least."""
    assert Product(1, 512, k, n, 4).columns == columns


@pytest.mark.parametrize("m", [0, 1, 15, 64, 1000])
@pytest.mark.parametrize("n", [0, 1, 40, 64, 5000])
@pytest.mark.parametrize("k", [0, 1, 64, 4096])
def test_tiles_end(m: int, n: int, k: int) -> None:
    """Less than twice what there is of rows and columns."""
    rows, columns = Product(2, m, k, n, 4).tile
    assert min(m, 1) <= rows < 2 * max(m, 1)
    assert min(n, 1) <= columns < 2 * max(n, 64)


def test_scores_that_are_the_second_operand_of_a_product_are_whole() -> None:
    """v softmax(s)^T: kernels of 256 heads of 196 positions took 1.1 of that."""
    text = attention(16, 196, 196, 32, product=True)
    turned = text.replace("dot(%e, %q)", "dot(%q, %e)")
    assert turned != text
    found = between(computations(turned)[1]["c"], threads=2)
    assert found == 16 * 196 * 196 * 4
