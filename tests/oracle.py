"""Tiny random problems, and an exhaustive search that knows neither the checker nor the replay."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from stream_mla.hardware.accelerator import (
    Accelerator,
    Array,
    Core,
    CoreType,
    Dataflow,
    Delivery,
    Dram,
    Link,
    LinkKind,
    OperandPrecision,
    Registers,
    Sram,
    VectorUnit,
)
from stream_mla.hardware.core_cost import Cost, Objective
from stream_mla.hardware.interconnect import OFF_CHIP, find_routes
from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.tiling.tile_graph import Block, Tile, TileGraph, Tiling
from stream_mla.schedule.activities import Activities, activities
from stream_mla.schedule.problem import Problem
from stream_mla.workload.operator_graph import Kind, OperatorGraph


def core_type(name: str, sram_bits: int) -> CoreType:
    return CoreType(
        name=name,
        source="test",
        array=Array(
            rows=1,
            columns=1,
            delivery=Delivery.BROADCAST,
            dataflows=(Dataflow.OUTPUT_STATIONARY,),
            precisions=(OperandPrecision(operand=8, macs_per_element=1.0, mac_energy=1.0),),
        ),
        vector=VectorUnit(operations_per_cycle=1, operation_energy=1.0),
        registers=Registers(capacity=64, read_energy=0.0, write_energy=0.0),
        sram=Sram(capacity=sram_bits, read_bandwidth=1e6, write_bandwidth=1e6, read_energy=0.5, write_energy=0.25),
    )


def machine(rng: random.Random, sram_bits: int) -> Accelerator:
    """One or two cores (alike or not), a bus to DRAM, perhaps a link between the cores; 1 Hz, so bit/s = bit/cycle."""
    count = rng.choice([1, 2, 2])
    kinds = [core_type("a", sram_bits), core_type("b", sram_bits)]
    cores = tuple(Core(name=f"core{n}", type=kinds[n * rng.randint(0, 1)]) for n in range(count))
    ends = ("dram", *(core.name for core in cores))
    port = rng.choice([2.0, 4.0])
    links = [
        Link(name="bus", kind=LinkKind.BUS, ends=ends, bandwidth=4.0, port_bandwidth=port, latency=0.0, energy=0.125)
    ]
    if count == 2 and rng.random() < 0.5:
        links.append(
            Link(
                name="link",
                kind=LinkKind.LINK,
                ends=("core0", "core1"),
                bandwidth=2.0,
                port_bandwidth=2.0,
                latency=float(rng.randint(0, 2)),
                energy=0.125,
            )
        )
    dram = Dram(capacity=10**6, bandwidth=4.0, latency=float(rng.randint(0, 3)), read_energy=8.0, write_energy=8.0)
    return Accelerator(name="tiny", source="test", clock=1.0, cores=cores, dram=dram, links=tuple(links))


def block(name: str, bits: int, *, born: bool, via_dram: bool, stored: bool, shared: bool) -> Block:
    return Block(
        name=name,
        tensor=name,
        box=((0, 1),),
        bits=bits,
        held_bits=bits,
        born_in_dram=born,
        via_dram=via_dram,
        stored=stored,
        shared=shared,
    )


def cost(cycles: int) -> Cost:
    return Cost(
        cycles=cycles,
        sram_read_bits=0,
        sram_write_bits=0,
        mac_pj=float(cycles),
        register_pj=0.0,
        sram_pj=0.0,
        vector_pj=0.0,
        mapping="test",
    )


GEMM = Gemm(batch=1, m=1, n=1, k=1, a_bits=8, b_bits=8, out_bits=8, accumulates=False)
VECTOR = VectorWork(operations=1, read_bits=8, write_bits=8)


def tiny_problem(rng: random.Random) -> Problem:
    """Two to four tiles in chains, with weights, intermediates that stay or spill, and tight memory."""
    count = rng.randint(2, 4)
    blocks: list[Block] = []
    tiles: list[Tile] = []
    maker: list[int] = []
    for number in range(count):
        reads = [b for b in range(len(blocks)) if maker[b] != number - 1 or tiles[number - 1].last]
        reads = [b for b in reads if rng.random() < 0.5]
        if rng.random() < 0.6 and len([b for b in maker if b < 0]) < 3:
            bits = rng.randint(1, 3) * 4
            blocks.append(block(f"w{number}", bits, born=True, via_dram=True, stored=False, shared=rng.random() < 0.5))
            maker.append(-1)
            reads.append(len(blocks) - 1)
        extends = bool(tiles) and rng.random() < 0.25
        if extends:
            before = tiles[-1]
            tiles[-1] = replace(before, last=False)
            writes, chain, step, work = before.writes, before.chain, before.step + 1, before.work
            reads = [b for b in reads if b not in writes]
        else:
            spills = rng.random() < 0.25
            blocks.append(
                block(f"y{number}", rng.randint(1, 3) * 4, born=False, via_dram=spills, stored=spills, shared=False)
            )
            maker.append(number)
            writes, chain, step = (len(blocks) - 1,), tiles[-1].chain + 1 if tiles else 0, 0
            work = VECTOR if rng.random() < 0.3 else GEMM
        for b in writes:
            maker[b] = number
        tiles.append(
            Tile(
                name=f"t{number}",
                operator=f"o{number}",
                kind=Kind.EINSUM,
                box={},
                chain=chain,
                step=step,
                last=True,
                reads=tuple(reads),
                writes=writes,
                group=chain,
                work=work,
            )
        )
    final = tiles[-1].writes[0]
    blocks[final] = replace(blocks[final], stored=True)
    return assemble(rng, tiles, blocks, maker)


def assemble(rng: random.Random, tiles: list[Tile], blocks: list[Block], maker: list[int]) -> Problem:
    predecessors: list[tuple[int, ...]] = []
    for number, tile in enumerate(tiles):
        before = {maker[b] for b in tile.reads if maker[b] >= 0}
        predecessors.append(tuple(sorted(before | ({number - 1} if tile.step else set()))))
    users = tuple(tuple(n for n, tile in enumerate(tiles) if b in tile.reads) for b in range(len(blocks)))
    tiling = Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=frozenset())
    graph = OperatorGraph(scheme="test", extents={}, tensors={}, operators=(), partial_bits=32, local=frozenset())
    tile_graph = TileGraph(
        graph=graph,
        tiling=tiling,
        tiles=tuple(tiles),
        blocks=tuple(blocks),
        shapes={},
        predecessors=tuple(predecessors),
        maker=tuple(maker),
        users=users,
    )
    largest = max(sum(blocks[b].bits for b in {*tile.reads, *tile.writes}) for tile in tiles)
    accelerator = machine(rng, largest + rng.choice([0, 4, 8, 64]))
    resources, routes = find_routes(accelerator)
    costs = tuple({"a": cost(rng.randint(1, 6)), "b": cost(rng.randint(1, 6))} for _ in tiles)
    return Problem(
        tile_graph=tile_graph,
        accelerator=accelerator,
        objective=Objective.LATENCY,
        costs=costs,
        resources=resources,
        routes=routes,
    )


@dataclass
class Oracle:
    """Depth-first over the order in which runs and moves start, each as early as that order allows.

    In any valid schedule the activities start in some order; started as early as possible in that same order they end
    no later. So the best over all orders is the optimum. Written without the checker and the replay.
    """

    problem: Problem
    acts: Activities
    best: int = 1 << 60
    start: dict[tuple[str, int], int] = field(default_factory=dict[tuple[str, int], int])

    def search(self) -> int:
        tiles = [("run", n) for n in range(len(self.problem.tile_graph.tiles))]
        transfers = [("move", n) for n in range(len(self.acts.transfers))]
        self.core = [self.acts.core_of_group[tile.group] for tile in self.problem.tile_graph.tiles]
        self.makers = {c: n for n, writes in enumerate(self.acts.writes) for c in writes}
        self.openers: dict[int, tuple[str, int]] = {}
        for n, writes in enumerate(self.acts.writes):
            for c in writes:
                self.openers.setdefault(c, ("run", n))
        for n, transfer in enumerate(self.acts.transfers):
            for residency in (transfer.target, *transfer.also) if transfer.target != OFF_CHIP else ():
                self.openers[residency] = ("move", n)
        self._extend([*tiles, *transfers], 0, 0)
        return self.best

    def _ends(self, step: tuple[str, int]) -> tuple[int, int]:
        """When a started step frees its resources, and when its data are usable."""
        kind, number = step
        if kind == "run":
            end = self.start[step] + self.problem.cost(number, self.core[number]).cycles
            return end, end
        transfer = self.acts.transfers[number]
        end = self.start[step] + transfer.cycles
        return end, end + transfer.route.latency_cycles

    def _phase(self, step: tuple[str, int]) -> int:
        """Of a run its own, of a load that of the first run that needs it; other moves are in the first."""
        tiles = self.problem.tile_graph.tiles
        if step[0] == "run":
            return tiles[step[1]].phase
        transfer = self.acts.transfers[step[1]]
        residencies = (transfer.target, *transfer.also) if transfer.source == OFF_CHIP else ()
        return min(
            (tiles[user].phase for residency in residencies for user in self.acts.residencies[residency].users),
            default=0,
        )

    def _stops(self, step: tuple[str, int]) -> set[int]:
        """Cores whose arrays a late load stops."""
        if step[0] == "run":
            return set()
        transfer = self.acts.transfers[step[1]]
        if transfer.source != OFF_CHIP or not self.problem.tile_graph.blocks[transfer.block].single_buffered:
            return set()
        return {self.acts.residencies[residency].core for residency in (transfer.target, *transfer.also)}

    def _array(self, step: tuple[str, int]) -> set[int]:
        """The core whose array a run takes."""
        takes = step[0] == "run" and self.problem.is_array[self.problem.unit(step[1], self.core[step[1]])]
        return {self.core[step[1]]} if takes else set()

    def _before(self, step: tuple[str, int]) -> list[tuple[str, int]]:
        phase = self._phase(step)
        earlier = [("run", n) for n, tile in enumerate(self.problem.tile_graph.tiles) if tile.phase < phase]
        return [*earlier, *self._data_before(step)]

    def _data_before(self, step: tuple[str, int]) -> list[tuple[str, int]]:
        kind, number = step
        if kind == "move":
            transfer = self.acts.transfers[number]
            if transfer.source != OFF_CHIP:
                return [("run", self.makers[transfer.source])]
            return [("move", transfer.after_store)] if transfer.after_store >= 0 else []
        before = [
            ("move", self.acts.residencies[c].brought_by)
            if self.acts.residencies[c].brought_by >= 0
            else ("run", self.makers[c])
            for c in self.acts.reads[number]
        ]
        tile = self.problem.tile_graph.tiles[number]
        return [*before, *([("run", number - 1)] if tile.step else [])]

    def _released(self, residency: int) -> int:
        """When a copy is given up; far away while some of its uses have not started."""
        info = self.acts.residencies[residency]
        uses = [("run", n) for n in info.users] + [("run", n) for n, w in enumerate(self.acts.writes) if residency in w]
        transfers = [("move", n) for n in info.transfers_out]
        if any(step not in self.start for step in (*uses, *transfers)):
            return 1 << 60
        filled = [self._ends(("move", info.brought_by))[1]] if info.brought_by >= 0 else []
        return (
            max(self._ends(step)[0] for step in (*uses, *transfers))
            if not filled
            else max(*filled, *(self._ends(step)[0] for step in (*uses, *transfers)))
        )

    def _fits(self, step: tuple[str, int], now: int) -> bool:
        kind, number = step
        running = [other for other in self.start if self._ends(other)[0] > now]
        if any(self._array(step) & self._stops(o) or self._stops(step) & self._array(o) for o in running):
            return False
        if kind == "run":
            unit = self.problem.unit(number, self.core[number])
            if any(o[0] == "run" and self.problem.unit(o[1], self.core[o[1]]) == unit for o in running):
                return False
        else:
            for resource in self.acts.transfers[number].route.resources:
                flows = [self.acts.transfers[o[1]].route for o in running if o[0] == "move"]
                used = sum(route.demand for route in flows if resource in route.resources)
                if used + self.acts.transfers[number].route.demand > self.problem.resources[resource].capacity:
                    return False
        for core in range(len(self.problem.cores)):
            held = [c for c, opener in self.openers.items() if opener in self.start and self._released(c) > now]
            new = [c for c, opener in self.openers.items() if opener == step]
            bits = sum(self.acts.residencies[c].bits for c in {*held, *new} if self.acts.residencies[c].core == core)
            if bits > self.problem.cores[core].type.sram.capacity:
                return False
        return True

    def _extend(self, left: list[tuple[str, int]], now: int, end: int) -> None:
        if not left:
            self.best = min(self.best, end)
            return
        for step in left:
            before = self._before(step)
            if any(other in left for other in before):
                continue
            earliest = max([now, *(self._ends(other)[1] for other in before)])
            times = sorted({earliest, *(t for o in self.start for t in self._ends(o) if t > earliest)})
            begin = next((t for t in times if self._fits(step, t)), None)
            if begin is None:
                continue
            self.start[step] = begin
            arrival = self._ends(step)[1]
            if max(end, arrival) < self.best:
                self._extend([other for other in left if other != step], begin, max(end, arrival))
            del self.start[step]


def choices(problem: Problem) -> list[tuple[int, ...]]:
    """All assignments of clusters to cores."""
    found: list[tuple[int, ...]] = [()]
    for cores in problem.candidates:
        found = [(*chosen, core) for chosen in found for core in cores]
    return found


def exhaustive(
    problem: Problem, cores: Sequence[tuple[int, ...]], apart: Mapping[tuple[int, int], int] | None = None
) -> int:
    """Fewest cycles over all choices."""
    best = 1 << 60
    for chosen in cores:
        best = min(best, Oracle(problem, activities(problem, chosen, apart), best=best).search())
    return best


def with_late_loads(problem: Problem, rng: random.Random) -> Problem:
    """Make the loads of about two thirds of the blocks late."""
    blocks = tuple(
        replace(block, single_buffered=block.via_dram and rng.random() < 0.67) for block in problem.tile_graph.blocks
    )
    return replace(problem, tile_graph=replace(problem.tile_graph, blocks=blocks))


def with_phases(problem: Problem, rng: random.Random) -> Problem:
    """Begin a phase with about every other chain."""
    tiles: list[Tile] = []
    for tile in problem.tile_graph.tiles:
        phase = tiles[-1].phase if tiles else 0
        tiles.append(replace(tile, phase=phase + (bool(tiles) and tile.step == 0 and rng.random() < 0.5)))
    return replace(problem, tile_graph=replace(problem.tile_graph, tiles=tuple(tiles)))


def with_multicast(problem: Problem) -> Problem:
    """Let the bus multicast, and share all weights."""
    links = tuple(
        replace(link, kind=LinkKind.MULTICAST_BUS) if link.kind is LinkKind.BUS else link
        for link in problem.accelerator.links
    )
    accelerator = replace(problem.accelerator, links=links)
    blocks = tuple(replace(block, shared=block.via_dram) for block in problem.tile_graph.blocks)
    resources, routes = find_routes(accelerator)
    return replace(
        problem,
        accelerator=accelerator,
        tile_graph=replace(problem.tile_graph, blocks=blocks),
        resources=resources,
        routes=routes,
    )
