"""Cut operators into tiles and tensors into blocks. Geometry only: nothing here knows hardware.

- A **tile** is one operator over a box of its indices: the unit that runs on one core.
- A **block** is one cell of a tensor's grid: the unit that is loaded, kept, sent and stored. The grid is the
  common refinement of all cuts of the operators that touch the tensor, so every byte is in just one block.
- A **chain** is the tiles that add to the same blocks, in a fixed order, in place, on one core. A reduction
  cut into n steps is a chain of n tiles; its blocks are complete after the last.
- A **cluster** is the chains that must share a core, because a local tensor (scores, composite) joins them. Where
  such a tensor must travel between an array and a vector unit on different cores, the chains that one kind of unit
  runs for it still share a core, and so their loads.

Keys are cut twice: into `parts`, whose contexts are merged at the end and which may therefore lie on different
cores, and each part into chunks, over which the context is accumulated in place (online softmax). Rows of other
contractions may be in parts too, which are added up at the end: see `row_parts`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from math import prod

from stream_mla.errors import InfeasibleError
from stream_mla.graph import CONTRACTIONS, COUNTERS, PART, Kind, Operator, OperatorGraph, Role, gemm_indices
from stream_mla.grid import Grid, Interval, key_pieces, pieces
from stream_mla.ordering import demand_order
from stream_mla.row_parts import in_parts, parts_of, spread_cut
from stream_mla.tile_work import Box, gemm_work, region, vector_work
from stream_mla.uncollected import uncollected
from stream_mla.work import Gemm, VectorWork


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """How to cut a graph and where its tensors live."""

    sizes: Mapping[str, Mapping[str, int]]
    """Operator -> index -> largest size of a piece; an index that is missing is not cut."""
    parts: int
    """Parts of the keys that may lie on different cores."""
    spilled: frozenset[str]
    """Activations that are written to DRAM and read back; the others stay on chip."""
    shared: frozenset[str]
    """Tensors of which a core loads a block once for all its clusters; of the others, each cluster loads its own."""
    local: frozenset[str]
    """Tensors that never leave the core that makes them."""
    early: frozenset[str] = frozenset()
    """Operators whose chains start before all their inputs are there: their unfinished sums are small."""
    late: frozenset[str] = frozenset()
    """Tensors whose loads may not overlap with a tile on the array of the core they go to."""
    phases: Mapping[str, int] = field(default_factory=dict[str, int])
    """Operator -> phase: nothing of a phase starts before all tiles of the earlier ones have ended; 0 if missing."""
    inline: frozenset[str] = frozenset()
    """Local tensors made just before they are used; what makes and what uses them follow without a break."""
    row_parts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Contraction -> parts of its rows that may lie on different cores, no more than row pieces; 1 if missing."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One cell of a tensor's grid."""

    name: str
    tensor: str
    box: tuple[Interval, ...]
    bits: int
    """As stored in DRAM and moved."""
    held_bits: int
    """In the memory of the core that makes it: wider than `bits` while sums are unfinished."""
    born_in_dram: bool
    via_dram: bool
    """Consumers read it from DRAM (weights, inputs, cache, spilled activations)."""
    stored: bool
    """It must be written to DRAM."""
    shared: bool
    late: bool = False
    """Its loads do not overlap with tiles on the array of the core they go to."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One operator over a box of its indices."""

    name: str
    operator: str
    kind: Kind
    box: Box = field(hash=False)
    chain: int
    step: int
    last: bool
    """Whether it completes the blocks it writes."""
    reads: tuple[int, ...]
    """Blocks read, besides its own unfinished ones."""
    writes: tuple[int, ...]
    cluster: int
    work: Gemm | VectorWork
    phase: int = 0
    """0, 1, ...: it starts when all tiles of smaller phases have ended, and so do loads that none of these needs."""


@dataclass(frozen=True, kw_only=True)
class TileGraph:
    """A cut graph. Tiles stand in an order in which a single core could run them, consumers close to producers."""

    graph: OperatorGraph
    tiling: Tiling
    tiles: tuple[Tile, ...]
    blocks: tuple[Block, ...]
    shapes: Mapping[str, tuple[int, ...]]
    """Tensor shapes with the counters at their true size."""
    predecessors: tuple[tuple[int, ...], ...]
    """Of each tile: makers of what it reads, and the step before it in its chain."""
    maker: tuple[int, ...]
    """Of each block: the tile that completes it, or -1 for those born in DRAM."""
    users: tuple[tuple[int, ...], ...]
    """Of each block: the tiles that read it."""


def tile_count(graph: OperatorGraph, tiling: Tiling) -> int:
    """Tiles that `tile` would make, without making them."""
    graph = spread_cut(graph, tiling.row_parts, tiling.sizes)
    count = 0
    for operator in graph.operators:
        sizes = tiling.sizes.get(operator.name, {})
        pieces_of = (
            -(-graph.extents[index] // sizes.get(index, graph.extents[index]))
            for index in operator.indices
            if index not in (*COUNTERS, "w")
        )
        count += prod(pieces_of)
    return count


def _index_choices(graph: OperatorGraph, tiling: Tiling, operator: Operator) -> list[list[dict[str, Interval]]]:
    """For each index of an operator, the list of its pieces, each as a partial box (keys bring their counters).

    Rows that are in parts are one entry, the last, which brings the counter of the parts.
    """
    sizes = tiling.sizes.get(operator.name, {})
    choices: list[list[dict[str, Interval]]] = []
    parts = parts_of(graph, operator)
    rows = gemm_indices(operator).k if parts > 1 and operator.kind in CONTRACTIONS else ()
    for index in operator.indices:
        extent = graph.extents[index]
        if index in rows or (rows and index == PART):
            continue
        if index == PART:
            choices.append([{PART: (0, parts)}])
        elif index == "k":
            cut = key_pieces(extent, tiling.parts, sizes.get("k", extent))
            choices.append([{"k": chunk, "t": (t, t + 1), "s": (s, s + 1)} for t, (chunk, s) in enumerate(cut)])
        elif index in COUNTERS:
            if "k" not in operator.indices:
                choices.append([{index: (0, tiling.parts)}])
        elif index == "w":
            choices.append([{"w": (0, 2)}])
        else:
            choices.append([{index: piece} for piece in pieces(extent, sizes.get(index, extent))])
    if rows:
        cut = product(*(pieces(graph.extents[index], sizes.get(index, graph.extents[index])) for index in rows))
        choices.append(in_parts([dict(zip(rows, piece, strict=True)) for piece in cut], parts))
    return choices


def _tensor_shapes(graph: OperatorGraph, boxes: Mapping[str, list[dict[str, Interval]]]) -> dict[str, tuple[int, ...]]:
    """Return shapes in which the counters have their true sizes."""
    shapes = {name: tensor.shape for name, tensor in graph.tensors.items()}
    for operator in graph.operators:
        for operand in operator.outputs:
            if any(index in COUNTERS for index in operand.indices):
                shapes[operand.tensor] = tuple(
                    max(box[index][1] for box in boxes[operator.name]) if index in COUNTERS else size
                    for index, size in zip(operand.indices, shapes[operand.tensor], strict=True)
                )
    return shapes


def _grids(
    graph: OperatorGraph, boxes: Mapping[str, list[dict[str, Interval]]], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Grid]:
    cuts: dict[str, list[set[int]]] = {name: [set() for _ in shape] for name, shape in shapes.items()}
    for operator in graph.operators:
        seen: dict[str, set[Interval]] = {i: {box[i] for box in boxes[operator.name]} for i in operator.indices}
        for operand in (*operator.reads, *operator.outputs):
            made = operand in operator.outputs
            for axis, (index, offset) in enumerate(zip(operand.indices, operand.offsets, strict=True)):
                whole = len(seen[index]) == 1
                if whole and not made and index not in COUNTERS:
                    continue  # a reader that takes a slice as a whole does not cut it out
                ends = {end + offset for piece in seen[index] for end in piece}
                if not made:
                    ends -= {min(ends), max(ends)}
                if index in COUNTERS:
                    ends = set(range(shapes[operand.tensor][axis] + 1))
                cuts[operand.tensor][axis] |= ends
    grids: dict[str, Grid] = {}
    first = 0
    for name, shape in shapes.items():
        grids[name] = Grid(shape, cuts[name], first)
        first += grids[name].count
    return grids


def _label(operator: Operator, box: Box, extents: Mapping[str, int]) -> str:
    cut = [
        f"{index}={low}:{high}"
        for index, (low, high) in box.items()
        if index not in (*COUNTERS, "w") and index in operator.indices and (low, high) != (0, extents[index])
    ]
    return f"{operator.name}[{','.join(cut)}]" if cut else operator.name


def _operator_tiles(
    graph: OperatorGraph,
    operator: Operator,
    boxes: list[dict[str, Interval]],
    grids: Mapping[str, Grid],
    *,
    chain0: int,
    phase: int,
) -> list[Tile]:
    """Make the tiles of one operator; chains are numbered from `chain0`."""
    chains: dict[tuple[int, ...], list[Tile]] = {}
    part_starts = {box["s"]: box["k"][0] for box in reversed(boxes) if "k" in box}
    for box in boxes:
        writes = tuple(n for o in operator.outputs for n in grids[o.tensor].overlapping(region(o, box)))
        reads = tuple(dict.fromkeys(n for o in operator.reads for n in grids[o.tensor].overlapping(region(o, box))))
        chain = chains.setdefault(writes, [])
        if operator.kind in CONTRACTIONS:
            work: Gemm | VectorWork = gemm_work(graph, operator, box, len(chain))
        else:
            work = vector_work(graph, operator, box, rescales="k" in box and box["k"][0] != part_starts[box["s"]])
        chain.append(
            Tile(
                name=_label(operator, box, graph.extents),
                operator=operator.name,
                kind=operator.kind,
                box=box,
                chain=chain0 + len(chains) - 1 if not chain else chain[0].chain,
                step=len(chain),
                last=False,
                reads=reads,
                writes=writes,
                cluster=0,
                work=work,
                phase=phase,
            )
        )
    return [t for *others, last in chains.values() for t in (*others, replace(last, last=True))]


def _make_blocks(graph: OperatorGraph, tiling: Tiling, grids: Mapping[str, Grid], tiles: Sequence[Tile]) -> list[Block]:
    made: dict[int, int] = {}
    for tile in tiles:
        for number in tile.writes:
            made[number] = max(made.get(number, 0), tile.step + 1)
    blocks: list[Block] = []
    for name, grid in grids.items():
        tensor = graph.tensors[name]
        in_dram = tensor.role in (Role.INPUT, Role.WEIGHT, Role.CACHE)
        for number, box in enumerate(grid.cells(), start=grid.first):
            elements = prod(high - low for low, high in box)
            is_made = number in made
            held = max(tensor.element_bits, graph.partial_bits) if made.get(number, 0) > 1 else tensor.element_bits
            where = ",".join(
                f"{low}:{high}" for (low, high), size in zip(box, grid.shape, strict=True) if high - low < size
            )
            blocks.append(
                Block(
                    name=f"{name}[{where}]" if where else name,
                    tensor=name,
                    box=box,
                    bits=elements * tensor.element_bits,
                    held_bits=elements * held,
                    born_in_dram=in_dram and not is_made,
                    via_dram=in_dram or name in tiling.spilled,
                    stored=is_made and (in_dram or tensor.role is Role.OUTPUT or name in tiling.spilled),
                    shared=name in tiling.shared,
                    late=name in tiling.late,
                )
            )
    return blocks


def _joined(
    tiles: Sequence[Tile], blocks: Sequence[Block], local: frozenset[str], fused: Sequence[int] | None = None
) -> list[int]:
    """Number the unions of chains that a local tensor joins, or that one unit runs for the same fused group."""
    parent: dict[int, int] = {tile.chain: tile.chain for tile in tiles}

    def root(chain: int) -> int:
        while parent[chain] != chain:
            parent[chain] = parent[parent[chain]]
            chain = parent[chain]
        return chain

    holder: dict[object, int] = {}
    for position, tile in enumerate(tiles):
        joints: list[object] = [n for n in (*tile.reads, *tile.writes) if blocks[n].tensor in local]
        if fused is not None:
            joints.append((fused[position], type(tile.work)))
        for joint in joints:
            first, second = root(holder.setdefault(joint, tile.chain)), root(tile.chain)
            parent[max(first, second)] = min(first, second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(tile.chain), len(numbers)) for tile in tiles]


def _predecessors(tiles: Sequence[Tile], block_count: int) -> tuple[list[tuple[int, ...]], list[int]]:
    maker = [-1] * block_count
    before_in_chain: dict[tuple[int, int], int] = {}
    for number, tile in enumerate(tiles):
        before_in_chain[tile.chain, tile.step] = number
        if tile.last:
            for block in tile.writes:
                maker[block] = number
    predecessors: list[tuple[int, ...]] = []
    for tile in tiles:
        before = {maker[block] for block in tile.reads if maker[block] >= 0}
        if tile.step:
            before.add(before_in_chain[tile.chain, tile.step - 1])
        predecessors.append(tuple(sorted(before)))
    return predecessors, maker


def _phases(graph: OperatorGraph, tiling: Tiling) -> dict[str, int]:
    """Number the phases of the operators 0, 1, ... without gaps; no operator may need what a later phase makes."""
    given: dict[str, int] = {}
    for operator in graph.operators:
        follows = given[graph.operators[len(given) - 1].name] if operator.kind is Kind.SUM else 0  # what it adds up
        given[operator.name] = tiling.phases.get(operator.name, follows)
    makers: dict[str, str] = {}
    """Of each tensor, the operator of the last phase that makes some of it."""
    for operator in graph.operators:
        for operand in operator.outputs:
            makers[operand.tensor] = max(
                makers.get(operand.tensor, operator.name), operator.name, key=given.__getitem__
            )
    for operator in graph.operators:
        for operand in operator.reads:
            maker = makers.get(operand.tensor, operator.name)
            if given[maker] > given[operator.name]:
                raise InfeasibleError(
                    f"{operator.name} in phase {given[operator.name]} reads {operand.tensor}, "
                    f"which {maker} makes in phase {given[maker]}: no earlier phase can wait for a later one"
                )
    numbers = {phase: number for number, phase in enumerate(sorted(set(given.values())))}
    return {name: numbers[phase] for name, phase in given.items()}


@uncollected
def tile(graph: OperatorGraph, tiling: Tiling) -> TileGraph:
    """Cut a graph as `tiling` says."""
    graph = spread_cut(graph, tiling.row_parts, tiling.sizes)
    boxes = {
        operator.name: [
            {index: piece for part in combination for index, piece in part.items()}
            for combination in product(*_index_choices(graph, tiling, operator))
        ]
        for operator in graph.operators
    }
    shapes = _tensor_shapes(graph, boxes)
    grids = _grids(graph, boxes, shapes)
    phases = _phases(graph, tiling)
    tiles: list[Tile] = []
    for operator in graph.operators:
        chain0 = tiles[-1].chain + 1 if tiles else 0
        tiles += _operator_tiles(
            graph, operator, boxes[operator.name], grids, chain0=chain0, phase=phases[operator.name]
        )
    blocks = _make_blocks(graph, tiling, grids, tiles)
    predecessors, _ = _predecessors(tiles, len(blocks))
    fused = _joined(tiles, blocks, graph.local | tiling.inline)
    merges = {operator.name for operator in graph.operators if operator.kind in (Kind.MERGE, Kind.SUM)}
    order = demand_order(tiles, predecessors, fused, tiling.early, merges)
    order = sorted(order, key=lambda number: tiles[number].phase)  # within a phase the order is kept
    tiles = [tiles[number] for number in order]
    clusters = _joined(tiles, blocks, tiling.local, [fused[number] for number in order])
    tiles = [replace(tile, cluster=cluster) for tile, cluster in zip(tiles, clusters, strict=True)]
    predecessors, maker = _predecessors(tiles, len(blocks))
    users: list[list[int]] = [[] for _ in blocks]
    for number, entry in enumerate(tiles):
        for block in entry.reads:
            users[block].append(number)
    return TileGraph(
        graph=graph,
        tiling=tiling,
        tiles=tuple(tiles),
        blocks=tuple(blocks),
        shapes=shapes,
        predecessors=tuple(predecessors),
        maker=tuple(maker),
        users=tuple(tuple(entry) for entry in users),
    )
