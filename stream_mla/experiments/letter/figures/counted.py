"""Figures 2, 3 and 4: what the operator graphs count, without a machine.

Fig 2 counts the operations that lead from the query latent to the scores, Z = Q_l (1) W_uq (2) W_uk^T (3) C^T, in the
three orders. Two of the letter's curves are not what such a graph counts, and are drawn both ways:

- **1-2-3** as drawn is B n_h D_Ql D_QK + D_QK n_h (D_QK D_KVl + D_KVl (L+1)): its second and third product have D_QK
  = 128 rows where the query has one per request. It is too high by a factor of up to 128.
- **2-1-3** as drawn counts the product of query and composite for one request, whatever the batch.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor

from stream_mla.experiments.letter.rows import Row, published
from stream_mla.experiments.letter.setup import LEFT_OUT, LETTER_SERIES, MLA, Step, counts
from stream_mla.frontends.catalog import load_model
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import LatentAttention

BATCHES = (1, 4, 16)
ORDERS: Mapping[str, str] = {"1-3-2": "mla_naive", "1-2-3": "mla_absorbed", "2-1-3": "mla_rc"}
"""Each order of Fig 2 -> the scheme that executes it."""
TO_THE_SCORES = ("composite", "query", "query_absorbed", "keys", "scores")
"""The operators that Fig 2 counts."""
COUNTED = " counted"
"""Marks the curves of Fig 2 that the graph counts and the letter draws differently."""
CORNERS = "platform corner"
"""The panel of Fig 4 with the platforms."""
AS_DRAWN, IN_MACS = "as drawn", "in MACs"
"""The two readings of a corner: 2 operations per MAC as vendors count, 1 as the letter counts its workload."""


@dataclass(frozen=True, kw_only=True)
class Platform:
    """A machine whose corner the letter draws in Fig 4."""

    name: str
    operations_per_byte: float
    """As drawn: vendor peak over DRAM bandwidth, 2 operations per MAC."""

    @property
    def macs_per_byte(self) -> float:
        """The same corner in the unit in which the letter counts its workload."""
        return self.operations_per_byte / 2


PLATFORMS = (
    Platform(name="Edge TPU", operations_per_byte=100.0),
    Platform(name="A100", operations_per_byte=156.0),
    Platform(name="H800", operations_per_byte=295.22),
    Platform(name="A17 Pro", operations_per_byte=583.33),
)
"""The letter's Fig 4, as drawn."""


def figure2() -> list[Row]:
    """Operations of the three orders over the cached tokens, as the letter draws them and as the graph counts them."""
    rows: list[Row] = []
    for order, scheme in ORDERS.items():
        for batch in BATCHES:
            for context in contexts("2", range(1, 4000, 50)):
                counted = _to_the_scores(Step(series=scheme, context=context, batch=batch).graph)
                drawn = _as_drawn(order, counted, context, batch)
                rows.append(_order_row(order, batch, context, drawn))
                if order != "1-3-2":
                    rows.append(_order_row(order + COUNTED, batch, context, sum(counted.values())))
    return rows


def _order_row(series: str, batch: int, context: int, operations: float) -> Row:
    return Row(figure="2", panel="operations", series=series, variant=f"B{batch}", x=context, y=operations)


def _to_the_scores(graph: OperatorGraph) -> dict[str, int]:
    return {operator.name: graph.macs(operator) for operator in graph.operators if operator.name in TO_THE_SCORES}


def _as_drawn(order: str, counted: Mapping[str, int], context: int, batch: int) -> int:
    """Return what the letter draws, from what the graph counts."""
    if order == "2-1-3":
        return sum(counted.values()) - counted["query_absorbed"] + counted["query_absorbed"] // batch
    if order == "1-2-3":
        shape = load_model(MLA).attention
        assert isinstance(shape, LatentAttention)
        per_row = (counted["query_absorbed"] + counted["scores"]) // batch
        return counted["query"] + shape.nope_dim * per_row
    return sum(counted.values())


def figure3() -> list[Row]:
    """Operations and DRAM accesses of a step over the tokens: prefill and decode, as the letter counts them."""
    return [
        Row(figure="3", panel=f"{phase} {what}", series=series, variant="", x=context, y=count)
        for phase in ("prefill", "decode")
        for series in LETTER_SERIES
        for context in contexts("3", [1, *range(128, 8193, 128)])
        for what, count in counts(series, context, prefill=phase == "prefill").items()
    ]


def figure4() -> list[Row]:
    """Operational intensity over the tokens, with the corners of the platforms in both readings."""
    grid = contexts("4", range(1, 4000, 50))
    rows = [*_intensities("4", LETTER_SERIES, grid)]
    readings = {AS_DRAWN: "operations_per_byte", IN_MACS: "macs_per_byte"}
    for platform in PLATFORMS:
        for variant, field in readings.items():
            for context in (grid[0], grid[-1]):
                rows.append(
                    Row(
                        figure="4",
                        panel=CORNERS,
                        series=platform.name,
                        variant=variant,
                        x=context,
                        y=getattr(platform, field),
                    )
                )
    return rows


def left_out_intensities() -> list[Row]:
    """Fig 4 of the two schemes that the letter leaves out."""
    return list(_intensities("extra_fig4", LEFT_OUT, list(range(1, 4000, 50))))


def _intensities(figure: str, series: tuple[str, ...], grid: list[int]) -> Iterator[Row]:
    for phase in ("prefill", "decode"):
        for name in series:
            for context in grid:
                count = counts(name, context, prefill=phase == "prefill")
                yield Row(
                    figure=figure,
                    panel="operational intensity",
                    series=name,
                    variant=phase,
                    x=context,
                    y=count["operations"] / count["bytes"],
                )


def contexts(figure: str, grid: Iterable[int]) -> list[int]:
    """Return the tokens to count: a grid, and the whole numbers around each published x, between which ours is read."""
    around = {edge(row.x) for row in published(figure) for edge in (floor, ceil)}
    return sorted({*grid, *around} - {0})
