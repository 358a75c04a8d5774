"""Cut operators into tiles and tensors into blocks. Geometry only: nothing here knows hardware.

- A **tile** is one operator over a box of its indices: the unit that runs on one core.
- A **block** is one cell of a tensor's grid: the unit that is loaded, kept, sent and stored. The grid is the
  common refinement of all cuts of the operators that touch the tensor, so every byte is in just one block.
- A **chain** is the tiles that add to the same blocks, in a fixed order, in place, on one core. A reduction
  cut into n steps is a chain of n tiles; its blocks are complete after the last.
- A **cluster** is the chains that must share a core, because a local tensor (scores, composite) joins them. Where
  such a tensor must travel between an array and a vector unit on different cores, the chains that one kind of unit
  runs for it still share a core, and so their loads.

Keys are cut twice: into `kv_splits`, whose contexts are merged at the end and which may therefore lie on different
cores, and each split into chunks, over which the context is accumulated in place (online softmax). The reduced indices
of other contractions may be split too, and their partial sums are added up at the end: see `k_splits`.

A tile whose queries attend to none of its keys is not made, nor are blocks that only such tiles would make: chains
over chunks of keys are shorter for queries that see fewer keys, and merges have fewer splits.
"""

from collections.abc import Mapping, Sequence
from math import prod

from stream_mla.errors import InfeasibleError
from stream_mla.gc_pause import gc_paused
from stream_mla.hardware.work import VectorWork
from stream_mla.mapping.tiling.grid import Grid
from stream_mla.mapping.tiling.operator_tiles import Boxes, TileDraft, operator_tiles
from stream_mla.mapping.tiling.tile_graph import Block, Tile, TileGraph, Tiling
from stream_mla.mapping.tiling.tile_order import demand_order
from stream_mla.workload.operator_graph import COUNTERS, Kind, OperatorGraph, Role
from stream_mla.workload.split_k import spread_cut


def _tensor_shapes(graph: OperatorGraph, boxes: Mapping[str, Boxes]) -> dict[str, tuple[int, ...]]:
    """Return shapes in which the counters have their true sizes."""
    shapes = {name: tensor.shape for name, tensor in graph.tensors.items()}
    for operator in graph.operators:
        for operand in operator.outputs:
            if any(index in COUNTERS for index in operand.indices):
                shapes[operand.tensor] = tuple(
                    max(high for _, high in boxes[operator.name].column(index)) if index in COUNTERS else size
                    for index, size in zip(operand.indices, shapes[operand.tensor], strict=True)
                )
    return shapes


def _grids(graph: OperatorGraph, boxes: Mapping[str, Boxes], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Grid]:
    cuts: dict[str, list[set[int]]] = {name: [set() for _ in shape] for name, shape in shapes.items()}
    for operator in graph.operators:
        seen = {index: boxes[operator.name].column(index) for index in operator.indices}
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


def _make_blocks(
    graph: OperatorGraph, tiling: Tiling, grids: Mapping[str, Grid], tiles: Sequence[TileDraft]
) -> list[Block]:
    made: dict[int, int] = {}
    for tile in tiles:
        for number in tile.writes:
            made[number] = max(made.get(number, 0), tile.step + 1)
    blocks: list[Block] = []
    for name, grid in grids.items():
        tensor = graph.tensors[name]
        in_dram = tensor.role in (Role.INPUT, Role.WEIGHT, Role.CACHE)
        via_dram = in_dram or name in tiling.spilled
        kept = via_dram or tensor.role is Role.OUTPUT
        shared, single_buffered, wide = (
            name in tiling.shared,
            name in tiling.single_buffered,
            max(tensor.element_bits, graph.partial_bits),
        )
        for number, (box, where) in enumerate(zip(grid.cells(), grid.labels(), strict=True), start=grid.first):
            elements = prod([high - low for low, high in box])
            steps = made.get(number, 0)
            blocks.append(
                Block(
                    name=f"{name}[{where}]" if where else name,
                    tensor=name,
                    box=box,
                    bits=elements * tensor.element_bits,
                    held_bits=elements * (wide if steps > 1 else tensor.element_bits),
                    born_in_dram=in_dram and not steps,
                    via_dram=via_dram,
                    stored=kept and steps > 0,
                    shared=shared,
                    single_buffered=single_buffered,
                )
            )
    return blocks


def _joined(
    tiles: Sequence[TileDraft],
    blocks: Sequence[Block],
    local: frozenset[str],
    together: frozenset[str] = frozenset(),
    fused: Sequence[int] | None = None,
) -> list[int]:
    """Number the unions of chains that a local tensor joins, or that read the same block of a tensor in `together`, or
    that one unit runs for the same fused group.
    """
    parent = list(range(1 + max(tile.chain for tile in tiles)))

    def root(chain: int) -> int:
        while parent[chain] != chain:
            parent[chain] = parent[parent[chain]]
            chain = parent[chain]
        return chain

    def join(holder: int, chain: int) -> None:
        if holder != chain:
            first, second = root(holder), root(chain)
            parent[max(first, second)] = min(first, second)

    joins = [block.tensor in local for block in blocks]
    read_joins = [block.tensor in local | together for block in blocks] if together else joins
    holders: dict[int, int] = {}
    """It holds, for each block that joins: the first chain that touches it."""
    by_unit: tuple[dict[int, int], dict[int, int]] = {}, {}
    """It holds, for each kind of unit and each fused group: its first chain."""
    for position, tile in enumerate(tiles):
        chain = tile.chain
        for number in (*[n for n in tile.reads if read_joins[n]], *[n for n in tile.writes if joins[n]]):
            join(holders.setdefault(number, chain), chain)
        if fused is not None:
            join(by_unit[isinstance(tile.work, VectorWork)].setdefault(fused[position], chain), chain)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(tile.chain), len(numbers)) for tile in tiles]


def _predecessors(tiles: Sequence[TileDraft], block_count: int) -> tuple[list[set[int]], list[int]]:
    """Return the makers of what each tile reads with the step before it, and the tile that completes each block."""
    maker = [-1] * block_count
    before_in_chain: dict[tuple[int, int], int] = {}
    for number, tile in enumerate(tiles):
        before_in_chain[tile.chain, tile.step] = number
        if tile.last:
            for block in tile.writes:
                maker[block] = number
    predecessors: list[set[int]] = []
    for tile in tiles:
        before = {maker[block] for block in tile.reads}
        before.discard(-1)
        if tile.step:
            before.add(before_in_chain[tile.chain, tile.step - 1])
        predecessors.append(before)
    return predecessors, maker


def _phases(graph: OperatorGraph, tiling: Tiling) -> dict[str, int]:
    """Number the phases of the operators 0, 1, ... without gaps; no operator may need what a later phase makes."""
    given: dict[str, int] = {}
    for operator in graph.operators:
        follows = given[graph.operators[len(given) - 1].name] if operator.kind is Kind.SUM else 0  # what it adds up
        given[operator.name] = tiling.phases.get(operator.name, follows)
    makers: dict[str, str] = {}
    """Each tensor has the operator of the last phase that makes some of it."""
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


def _boxes(graph: OperatorGraph, tiling: Tiling) -> dict[str, Boxes]:
    """Return the boxes of each operator; a merge knows how what it merges is cut."""
    makers = {operand.tensor: operator for operator in graph.operators for operand in operator.outputs}
    found: dict[str, Boxes] = {}
    for operator in graph.operators:
        merged = makers[operator.inputs[0].tensor] if operator.kind is Kind.MERGE else operator
        found[operator.name] = Boxes(
            graph,
            operator,
            tiling.sizes.get(operator.name, {}),
            tiling.kv_splits_of(operator),
            tiling.sizes.get(merged.name, {}).get("q"),
        )
    return found


def _without_hidden(graph: OperatorGraph, grids: Mapping[str, Grid], tiles: Sequence[TileDraft]) -> None:
    """Take from what tiles read the blocks that nothing makes, as a mask hides them."""
    if all(operator.mask is None for operator in graph.operators):
        return
    made = {block for tile in tiles for block in tile.writes}
    for name, grid in grids.items():
        if graph.tensors[name].role in (Role.INPUT, Role.WEIGHT, Role.CACHE):
            made.update(range(grid.first, grid.first + grid.count))
    for entry in tiles:
        if not made.issuperset(entry.reads):
            entry.reads = tuple([block for block in entry.reads if block in made])


@gc_paused
def tile(graph: OperatorGraph, tiling: Tiling) -> TileGraph:
    """Cut a graph as `tiling` says.

    >>> from stream_mla import Point, evaluate, lower
    >>> point = Point.of("llama_3_8b", "flat_cloud", context=64, time_limit=0)
    >>> tiling = evaluate(point).problem.tile_graph.tiling
    >>> tiling.sizes["query"]["d"], tiling.sizes["query"]["g"]
    (64, 4)
    >>> tile_graph = tile(lower(point.workload, point.scheme), tiling)
    >>> sum(entry.operator == "query" for entry in tile_graph.tiles)  # 4096 / 64 along d, 8 / 4 along g
    128
    """
    graph = spread_cut(graph, tiling.k_splits, tiling.sizes)
    boxes = _boxes(graph, tiling)
    shapes = _tensor_shapes(graph, boxes)
    grids = _grids(graph, boxes, shapes)
    phases = _phases(graph, tiling)
    tile_drafts: list[TileDraft] = []
    for operator in graph.operators:
        chain0 = tile_drafts[-1].chain + 1 if tile_drafts else 0
        tile_drafts += operator_tiles(graph, boxes[operator.name], grids, chain0=chain0, phase=phases[operator.name])
    _without_hidden(graph, grids, tile_drafts)
    blocks = _make_blocks(graph, tiling, grids, tile_drafts)
    predecessors, maker = _predecessors(tile_drafts, len(blocks))
    joining = graph.local | tiling.inline
    fused = _joined(tile_drafts, blocks, joining)
    merges = {operator.name for operator in graph.operators if operator.kind in (Kind.MERGE, Kind.SUM)}
    related_group = _joined(tile_drafts, blocks, joining, tiling.together) if tiling.together else fused
    order = demand_order(tile_drafts, predecessors, fused, tiling.eager, merges, related_group)
    order = sorted(order, key=lambda number: tile_drafts[number].phase)  # within a phase the order is kept
    placed = [tile_drafts[number] for number in order]
    groups = _joined(placed, blocks, tiling.local, tiling.together, [fused[number] for number in order])
    place = [0] * len(order)
    for new, old in enumerate(order):
        place[old] = new
    tiles = _numbered(placed, groups)
    users: list[list[int]] = [[] for _ in blocks]
    for number, entry in enumerate(tiles):
        for block in entry.reads:
            users[block].append(number)
    return TileGraph(
        graph=graph,
        tiling=tiling,
        tiles=tiles,
        blocks=tuple(blocks),
        shapes=shapes,
        predecessors=tuple([tuple(sorted([place[before] for before in predecessors[old]])) for old in order]),
        maker=tuple([place[old] if old >= 0 else -1 for old in maker]),
        users=tuple([tuple(entry) for entry in users]),
    )


def _numbered(tile_drafts: Sequence[TileDraft], groups: Sequence[int]) -> tuple[Tile, ...]:
    return tuple(
        [
            Tile(
                name=draft.name,
                operator=draft.operator,
                kind=draft.kind,
                box=draft.box,
                chain=draft.chain,
                step=draft.step,
                last=draft.last,
                reads=draft.reads,
                writes=draft.writes,
                group=group,
                work=draft.work,
                phase=draft.phase,
            )
            for draft, group in zip(tile_drafts, groups, strict=True)
        ]
    )
