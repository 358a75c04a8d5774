"""How much a schedule in the making still has to do: when it ends at the earliest, whatever comes."""

from collections.abc import Iterable, Sequence

from stream_mla.schedule.activities import PlannedTransfer
from stream_mla.schedule.problem import Problem


class CutoffError(Exception):
    """The schedule would take more cycles than it may."""


class RemainingWork:
    """It is what has not started yet, of each unit and each resource."""

    def __init__(
        self, problem: Problem, unit_of: Sequence[int], cycles: Sequence[int], transfers: Iterable[PlannedTransfer]
    ) -> None:
        """`unit_of` and `cycles`: of each tile."""
        self.on_unit = [0] * len(problem.units)
        """Cycles of tiles."""
        for unit, count in zip(unit_of, cycles, strict=True):
            self.on_unit[unit] += count
        self.capacities = [resource.capacity for resource in problem.resources]
        self.to_carry = [0] * len(problem.resources)
        """Cycles of moves, times the share of the resource that each takes."""
        for transfer in transfers:
            self.add(transfer)

    def add(self, transfer: PlannedTransfer) -> None:
        """Count a move."""
        for resource in transfer.route.resources:
            self.to_carry[resource] += transfer.cycles * transfer.route.demand

    def remove(self, transfer: PlannedTransfer) -> None:
        """Count a move no longer."""
        taken = transfer.cycles * transfer.route.demand
        for resource in transfer.route.resources:
            self.to_carry[resource] -= taken

    @property
    def cycles(self) -> float:
        """Cycles that the busiest unit or resource needs for it."""
        carrying = zip(self.to_carry, self.capacities, strict=True)
        return max(*self.on_unit, *[carried / capacity for carried, capacity in carrying])
