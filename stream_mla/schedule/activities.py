"""Copies and transfers that a choice of cores implies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from stream_mla.errors import InfeasibleError
from stream_mla.hardware.accelerator import DRAM
from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.schedule.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PlannedResidency:
    """A block in the memory of one core, from the move or tile that makes it to its last use."""

    block: int
    core: int
    bits: int
    brought_by: int
    """The move that fills it, or -1."""
    users: tuple[int, ...]
    """Tiles that read it."""
    transfers_out: tuple[int, ...]
    """Sends and stores that read it."""


@dataclass(frozen=True, kw_only=True)
class PlannedTransfer:
    """One transfer that a placement implies."""

    block: int
    source: int
    """A copy, or OFF_CHIP."""
    target: int
    """A copy, or OFF_CHIP."""
    route: Route
    cycles: int
    after_store: int
    """The move that must have written the block to DRAM before, or -1."""
    also: tuple[int, ...] = ()
    """Further copies, on other cores, that it fills at the same time."""

    @property
    def filled(self) -> tuple[int, ...]:
        """All copies that it fills."""
        return () if self.target == OFF_CHIP else (self.target, *self.also)


@dataclass(frozen=True, kw_only=True)
class Activities:
    """All copies, moves and runs that a choice of cores implies."""

    core_of_group: tuple[int, ...]
    residencies: tuple[PlannedResidency, ...]
    transfers: tuple[PlannedTransfer, ...]
    reads: tuple[tuple[int, ...], ...]
    """It holds, for each tile: the copies it reads."""
    writes: tuple[tuple[int, ...], ...]
    """It holds, for each tile: the copies it makes or adds to."""


def fan_out(
    problem: Problem, transfer: PlannedTransfer, filled: Sequence[int], cores: Sequence[int]
) -> PlannedTransfer:
    """Let a load fill these copies, on these cores, at once."""
    route = problem.multicast(OFF_CHIP, cores) if len(cores) > 1 else problem.routes[OFF_CHIP, cores[0]]
    assert route is not None, "a load of several copies needs a multicast bus"
    cycles = route.cycles(problem.tile_graph.blocks[transfer.block].bits)
    return replace(transfer, target=filled[0], also=tuple(filled[1:]), route=route, cycles=cycles)


class _Planner:
    """Collects copies and moves for one choice of cores."""

    def __init__(self, problem: Problem, core_of_group: Sequence[int], apart: Mapping[tuple[int, int], int]) -> None:
        self.problem, self.apart = problem, apart
        self.core_of = [core_of_group[tile.group] for tile in problem.tile_graph.tiles]
        self.residencies: list[tuple[int, int, int, int]] = []
        """Block, core, bits, and the move that brings it."""
        self.users: list[list[int]] = []
        self.transfers_out: list[list[int]] = []
        self.transfers: list[PlannedTransfer] = []
        self.made: dict[int, int] = {}
        self.stored: dict[int, int] = {}
        self.brought: dict[tuple[int, int, int], int] = {}
        self.joint: dict[tuple[int, str, int], list[int]] = {}
        """Block, multicast bus and number of the load -> the copies that it fills."""

    def _copy(self, block: int, core: int, bits: int, brought_by: int) -> int:
        self.residencies.append((block, core, bits, brought_by))
        self.users.append([])
        self.transfers_out.append([])
        return len(self.residencies) - 1

    def core_of_residency(self, residency: int) -> int:
        """The core in whose memory a copy is."""
        return self.residencies[residency][1]

    def _move(self, block: int, source: int, target: int, places: tuple[int, int], after_store: int) -> int:
        route = self.problem.routes.get(places)
        if route is None:
            a, b = (self.problem.cores[place].name if place >= 0 else DRAM for place in places)
            name = self.problem.tile_graph.blocks[block].name
            raise InfeasibleError(
                f"{name} must go from {a} to {b}, and no link joins them: add one, or spill the tensor"
            )
        cycles = route.cycles(self.problem.tile_graph.blocks[block].bits)
        self.transfers.append(
            PlannedTransfer(
                block=block, source=source, target=target, route=route, cycles=cycles, after_store=after_store
            )
        )
        if source != OFF_CHIP:
            self.transfers_out[source].append(len(self.transfers) - 1)
        return len(self.transfers) - 1

    def make(self, block: int, core: int) -> int:
        """Copy of a block on the core whose tiles make it; stored from there if it must be."""
        if block not in self.made:
            info = self.problem.tile_graph.blocks[block]
            self.made[block] = self._copy(block, core, info.held_bits, -1)
            if info.stored:
                self.stored[block] = self._move(block, self.made[block], OFF_CHIP, (core, OFF_CHIP), -1)
        return self.made[block]

    def bring(self, block: int, core: int, group: int) -> int:
        """Copy of a block that tiles of a cluster on a core read."""
        info = self.problem.tile_graph.blocks[block]
        if not info.via_dram:
            made = self.made[block]
            if self.residencies[made][1] == core:
                return made
        key = block, core, group if info.via_dram and not info.shared else -1
        residency = self.brought.get(key)
        if residency is None:
            filled = self._joint_load(block, core) if info.via_dram and info.shared else []
            brought_by = self.residencies[filled[0]][3] if filled else len(self.transfers)
            residency = self.brought[key] = self._copy(block, core, info.bits, brought_by)
            filled.append(residency)
            if not info.via_dram:
                source = self.made[block]
                self._move(block, source, residency, (self.core_of_residency(source), core), -1)
            elif len(filled) == 1:
                self._move(block, OFF_CHIP, residency, (OFF_CHIP, core), self.stored.get(block, -1))
        return residency

    def _joint_load(self, block: int, core: int) -> list[int]:
        """Return the copies that one load fills together with the copy for this core, which is to be added."""
        route = self.problem.routes.get((OFF_CHIP, core))
        if route is None or not route.multicast:
            return []
        return self.joint.setdefault((block, route.links[0], self.apart.get((block, core), 0)), [])

    def all_moves(self) -> list[PlannedTransfer]:
        """The moves, each with all the copies that it fills."""
        transfers = list(self.transfers)
        for filled in self.joint.values():
            number = self.residencies[filled[0]][3]
            if len(filled) > 1:
                cores = [self.core_of_residency(residency) for residency in filled]
                transfers[number] = fan_out(self.problem, transfers[number], filled, cores)
        return transfers


def activities(
    problem: Problem, core_of_group: Sequence[int], apart: Mapping[tuple[int, int], int] | None = None
) -> Activities:
    """List the copies and moves implied by running each cluster on a core.

    `apart` numbers the loads where a multicast bus brings a shared block more than once: (block, core) -> which load.
    """
    planner = _Planner(problem, core_of_group, apart or {})
    reads: list[tuple[int, ...]] = []
    writes: list[tuple[int, ...]] = []
    for number, tile in enumerate(problem.tile_graph.tiles):
        core = planner.core_of[number]
        reads.append(tuple([planner.bring(block, core, tile.group) for block in tile.reads]))
        writes.append(tuple([planner.make(block, core) for block in tile.writes]))
        for residency in reads[-1]:
            planner.users[residency].append(number)
    return Activities(
        core_of_group=tuple(core_of_group),
        residencies=tuple(
            [
                PlannedResidency(
                    block=block,
                    core=core,
                    bits=bits,
                    brought_by=transfer,
                    users=tuple(users),
                    transfers_out=tuple(transfers),
                )
                for (block, core, bits, transfer), users, transfers in zip(
                    planner.residencies, planner.users, planner.transfers_out, strict=True
                )
            ]
        ),
        transfers=tuple(planner.all_moves()),
        reads=tuple(reads),
        writes=tuple(writes),
    )
