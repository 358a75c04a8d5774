"""A fixed mapping, layer by layer: nothing is searched.

Every operator is cut into one equal piece per core, along its largest output index (heads, tokens or columns; keys only
where all others are too few), and further only until a tile and the one after it fit the memory. Piece n of N goes to
core n * cores / N. Operators run one after the other; everything between them goes through DRAM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

from benchmarks.schedulers.placed import scheduled
from stream_mla.errors import InfeasibleError, NoScheduleError
from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.tiling.tile_graph import TileGraph, Tiling, tile_count
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.schedule.problem import Problem, price
from stream_mla.schedule.schedule import Schedule
from stream_mla.workload.operator_graph import CONTRACTIONS, Kind, Operator, OperatorGraph, Role

ATTENTION = (Kind.SOFTMAX, Kind.ATTEND)
MOST_TILES = 100_000
"""Finer tilings are not tried: as all goes through DRAM, a tile has up to 50 moves, and takes up to 4 ms to schedule
and check. No shipped instance takes much more than two minutes so; with four times as many, some took over ten."""


def _bits(graph: OperatorGraph, operator: Operator, sizes: Mapping[str, int]) -> int:
    """What a tile holds."""
    total = 0
    for operand in (*operator.reads, *operator.outputs):
        width = graph.tensors[operand.tensor].element_bits
        width = max(width, graph.partial_bits) if operand in operator.outputs else width
        shape = graph.tensors[operand.tensor].shape
        inside = zip(operand.indices, shape, strict=True)
        total += width * prod(min(sizes.get(index, size), size) for index, size in inside)
    return total


def _cut(graph: OperatorGraph, operator: Operator, units: int, room: float) -> dict[str, int]:
    made = {index for operand in operator.outputs for index in operand.indices}
    sizes = {index: graph.extents[index] for index in operator.cuttable}
    for index in sorted((i for i in operator.cuttable if i in made and i != "k"), key=lambda i: -graph.extents[i]):
        pieces = min(units, graph.extents[index])
        sizes[index] = -(-graph.extents[index] // pieces)
        units = -(-units // pieces)
    while _bits(graph, operator, sizes) > room and max(sizes.values(), default=1) > 1:
        largest = max(sizes, key=lambda index: sizes[index])
        sizes[largest] = -(-sizes[largest] // 2)
    return sizes


def fixed_tiling(graph: OperatorGraph, machine: Accelerator, share: float) -> Tiling:
    """Cut all operators for a share of the memories."""
    arrays, vectors = list(machine.array_cores()), list(machine.vector_cores())
    sizes: dict[str, dict[str, int]] = {}
    for operator in graph.operators:
        cores = arrays if operator.kind in CONTRACTIONS else vectors
        room = share * min(core.type.sram.capacity for core in cores)
        sizes[operator.name] = _cut(graph, operator, len(cores), room)
    attention = [operator.name for operator in graph.operators if operator.kind in ATTENTION]
    chunk = min(sizes[name]["k"] for name in attention)
    attend = next(operator for operator in graph.operators if operator.kind is Kind.ATTEND)
    rows = prod(graph.extents[index] for index in attend.cuttable if index != "k")
    parts = max(1, min(len(arrays) // rows, graph.extents["k"]))
    for name in attention:
        sizes[name]["k"] = min(chunk, -(-graph.extents["k"] // parts))
    return Tiling(
        sizes=sizes,
        kv_splits=dict.fromkeys(graph.attention_groups, parts),
        spilled=frozenset(n for n, t in graph.tensors.items() if t.role in (Role.ACTIVATION, Role.PARTIAL)),
        shared=frozenset(),
        local=frozenset(),
        phases={operator.name: number for number, operator in enumerate(graph.operators)},
    )


def _apart(tile_graph: TileGraph) -> TileGraph:
    """Let every chain have a core, and loads, of its own: no operator hands anything to the next but through DRAM."""
    numbers: dict[int, int] = {}
    tiles = tuple(replace(entry, group=numbers.setdefault(entry.chain, len(numbers))) for entry in tile_graph.tiles)
    return replace(tile_graph, tiles=tiles)


def fixed_cores(problem: Problem) -> tuple[int, ...]:
    """Spread the clusters of each operator evenly, in order."""
    first: dict[int, str] = {}
    for entry in problem.tile_graph.tiles:
        first.setdefault(entry.group, entry.operator)
    of_operator: dict[str, list[int]] = {}
    for group, operator in first.items():
        of_operator.setdefault(operator, []).append(group)
    cores = [0] * len(problem.group_tiles)
    for groups in of_operator.values():
        for position, group in enumerate(groups):
            able: Sequence[int] = problem.candidates[group]
            cores[group] = able[position * len(able) // len(groups)]
    return tuple(cores)


def layer_by_layer(graph: OperatorGraph, machine: Accelerator) -> tuple[Problem, Schedule]:
    """Return the mapping of the largest tiles that fit; NoScheduleError where none does."""
    share, why = 0.5, "its tiles are too many"
    while tile_count(graph, tiling := fixed_tiling(graph, machine, share)) <= MOST_TILES and share > 1 / 256:
        problem = price(_apart(tile(graph, tiling)), machine, Objective.LATENCY)
        try:
            return problem, scheduled(problem, fixed_cores(problem), range(len(problem.tile_graph.tiles)))
        except (InfeasibleError, NoScheduleError) as error:
            share, why = share / 2, str(error)
    raise NoScheduleError(f"layer by layer: {why}")
