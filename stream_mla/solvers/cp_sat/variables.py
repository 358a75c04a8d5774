"""The variables of the CP-SAT model: each is made with its value in the hint."""

from collections import defaultdict
from collections.abc import Iterable, Sequence

from ortools.sat.python.cp_model import BoundedLinearExpression, CpModel, IntervalVar, IntVar, LinearExprT, LiteralT

from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.schedule.problem import Problem


class Variables:
    """Times, choices, and intervals on units, bandwidths and memories."""

    def __init__(self, problem: Problem, *, horizon: int, hint_cycles: int) -> None:
        self.problem, self.tile_graph = problem, problem.tile_graph
        self.model = CpModel()
        self.horizon = horizon
        self.on: list[dict[int, IntVar]] = []
        """It holds, for each cluster: core -> whether it is there."""
        self.unit: dict[int, list[IntervalVar]] = defaultdict(list)
        self.flow: dict[int, list[tuple[IntervalVar, int]]] = defaultdict(list)
        self.kept: dict[int, list[tuple[IntervalVar, int]]] = defaultdict(list)
        self.single_buffered: dict[int, list[IntervalVar]] = defaultdict(list)
        """It holds, for each core: loads into it that its array waits for."""
        self.makespan = self._time("makespan", hint_cycles)
        self.true = self.model.new_constant(1)

    def _when(self, conditions: Sequence[LiteralT], constraint: BoundedLinearExpression | bool) -> None:
        """Ask for a constraint where all conditions are true."""
        self.model.add(constraint).only_enforce_if(list(conditions))  # pyright: ignore[reportUnknownMemberType]

    def _time(self, name: str, hint: int) -> IntVar:
        variable = self.model.new_int_var(0, self.horizon, name)
        self.model.add_hint(variable, hint)
        return variable

    def _bool(self, name: str, *, hint: bool) -> IntVar:
        variable = self.model.new_bool_var(name)
        self.model.add_hint(variable, hint)
        return variable

    def _any(self, literals: Iterable[IntVar], name: str, *, hint: bool) -> IntVar:
        """Literal that is true where one of the others is."""
        literals = list(dict.fromkeys(literals))
        if any(literal is self.true for literal in literals):
            return self.true
        if len(literals) == 1:
            return literals[0]
        found = self._bool(name, hint=hint)
        self.model.add_max_equality(found, literals)
        return found

    def _both(self, a: IntVar, b: IntVar, name: str, *, hint: bool) -> IntVar:
        """Literal that is true where both are."""
        if a is self.true or b is self.true:
            return b if a is self.true else a
        found = self._bool(name, hint=hint)
        self.model.add_min_equality(found, [a, b])
        return found

    def _move(
        self, name: str, hint: int, block: int, routes: Sequence[tuple[IntVar, Route]]
    ) -> tuple[IntVar, LinearExprT]:
        """A transfer that takes one of the routes, or none; return its start and, where it is made, its end."""
        start = self._time(name, hint)
        bits = self.tile_graph.blocks[block].bits
        cycles = [route.cycles(bits) for _, route in routes]
        shared: dict[tuple[int, int, int], list[IntVar]] = defaultdict(list)
        for (literal, route), length in zip(routes, cycles, strict=True):
            for resource in route.resources:
                shared[resource, length, route.demand].append(literal)
        for (resource, length, demand), literals in shared.items():
            # the routes exclude each other, so that their intervals on one resource are one interval
            whole = self.true if len(literals) == len(routes) and self._covers(literals) else None
            for number, literal in enumerate([whole] if whole is not None else literals):
                interval = self.model.new_optional_fixed_size_interval_var(
                    start, length, literal, f"{name}_{resource}_{number}"
                )
                self.flow[resource].append((interval, demand))
        if len(set(cycles)) == 1:
            return start, start + cycles[0]
        return start, start + sum(literal * length for (literal, _), length in zip(routes, cycles, strict=True))

    def _move_energy(self, source: int, target: int, bits: int) -> float:
        """Return the energy in pJ of a transfer into the memory of a core, both ends included."""
        route = self.problem.routes[source, target]
        ends = route.energy_pj_per_bit + self.problem.cores[target].type.sram.write_energy
        if source == OFF_CHIP:
            return bits * (ends + self.problem.accelerator.dram.read_energy)
        return bits * (ends + self.problem.cores[source].type.sram.read_energy)

    def _covers(self, literals: Sequence[IntVar]) -> bool:
        """Whether exactly one of the literals is sure to be true: they are all cores of one cluster."""
        chosen = {literal.index for literal in literals}
        return any(chosen == {literal.index for literal in on.values()} for on in self.on)

    def _keep(
        self, name: str, core: int, bits: int, start: LinearExprT, literal: IntVar, hints: tuple[int, int]
    ) -> IntVar:
        """Hold bits in a memory from `start` until the time that is returned."""
        until = self._time(f"{name}_until", hints[1])
        length = self._time(f"{name}_for", max(0, hints[1] - hints[0]))
        interval = self.model.new_optional_interval_var(start, length, until, literal, name)
        self.kept[core].append((interval, bits))
        return until
