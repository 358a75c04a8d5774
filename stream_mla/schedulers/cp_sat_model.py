"""The CP-SAT model of a problem: its variables, its constraints, and the schedule of a solution.

Every constraint is a method; each has its twin in `stream_mla.schedule.violations`.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ortools.sat.python.cp_model import (
    BoundedLinearExpression,
    CpModel,
    CpSolver,
    IntervalVar,
    IntVar,
    LinearExprT,
)

from stream_mla.cost import Objective
from stream_mla.problem import Problem, activities
from stream_mla.routes import OFF_CHIP, Route
from stream_mla.schedule import Schedule
from stream_mla.schedulers.timing import timed

ENERGY_STEPS = 100_000
"""Resolution of energy in the objective: energies are rounded to 1/ENERGY_STEPS of the hint's."""


@dataclass(frozen=True, kw_only=True)
class _Hint:
    """Values of a known schedule, by what they are values of."""

    core: Sequence[int]
    run: dict[int, int]
    load: dict[tuple[int, int, int], int]
    """(block, core, owning cluster or -1) -> start."""
    send: dict[tuple[int, int], int]
    store: dict[int, int]


def _hint(problem: Problem, schedule: Schedule) -> _Hint:
    run = {entry.tile: entry.start for entry in schedule.runs}
    core = [-1] * len(problem.cluster_tiles)
    for entry in schedule.runs:
        core[problem.cut.tiles[entry.tile].cluster] = entry.core
    users: dict[int, int] = {}
    for entry in schedule.runs:
        for copy in entry.reads:
            users[copy] = problem.cut.tiles[entry.tile].cluster
    hint = _Hint(core=core, run=run, load={}, send={}, store={})
    for move in schedule.moves:
        if move.target == OFF_CHIP:
            hint.store[move.block] = move.start
        elif move.source == OFF_CHIP:
            owner = -1 if problem.cut.blocks[move.block].shared else users[move.target]
            hint.load[move.block, schedule.held[move.target].core, owner] = move.start
        else:
            hint.send[move.block, schedule.held[move.target].core] = move.start
    return hint


class Model:
    """The CP-SAT model and its variables; every variable is made with its value in the hint."""

    def __init__(self, problem: Problem, schedule: Schedule, *, fixed: bool) -> None:
        self.problem, self.cut = problem, problem.cut
        self.model = CpModel()
        self.hint = _hint(problem, schedule)
        self.horizon = schedule.latency_cycles
        self.candidates = [
            (self.hint.core[cluster],) if fixed else cores for cluster, cores in enumerate(problem.candidates)
        ]
        self.unit: dict[int, list[IntervalVar]] = defaultdict(list)
        self.flow: dict[int, list[tuple[IntervalVar, int]]] = defaultdict(list)
        self.kept: dict[int, list[tuple[IntervalVar, int]]] = defaultdict(list)
        self.load: dict[tuple[int, int, int], IntVar] = {}
        self.send: dict[tuple[int, int], IntVar] = {}
        self.store: dict[int, IntVar] = {}
        self.in_dram: dict[int, list[tuple[LinearExprT, IntVar]]] = {}
        self.energy: list[tuple[IntVar, float]] = []
        self.makespan = self._time("makespan", self.horizon)
        self.true = self.model.new_constant(1)
        self._cores()
        self._tiles()
        self._made_blocks()
        self._loads()
        self._resources()

    def _when(self, conditions: Sequence[IntVar], constraint: BoundedLinearExpression | bool) -> None:
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

    def _cores(self) -> None:
        """Each cluster is on one of its cores."""
        self.on: list[dict[int, IntVar]] = []
        for cluster, cores in enumerate(self.candidates):
            if len(cores) == 1:
                self.on.append({cores[0]: self.true})
                continue
            chosen = self.hint.core[cluster]
            self.on.append({core: self._bool(f"on{cluster}_{core}", hint=core == chosen) for core in cores})
            self.model.add_exactly_one(self.on[-1].values())

    def _tiles(self) -> None:
        """A tile takes its unit for as long as it costs on its core; steps of a chain follow each other."""
        self.start: list[IntVar] = []
        self.end: list[LinearExprT] = []
        for number, tile in enumerate(self.cut.tiles):
            start = self._time(f"run{number}", self.hint.run[number])
            on = self.on[tile.cluster]
            cycles = {core: self.problem.cost(number, core).cycles for core in on}
            end = start + sum(literal * cycles[core] for core, literal in on.items() if literal is not self.true)
            end = start + next(iter(cycles.values())) if len(set(cycles.values())) == 1 else end
            for core, literal in on.items():
                interval = self.model.new_optional_fixed_size_interval_var(
                    start, cycles[core], literal, f"i{number}_{core}"
                )
                self.unit[self.problem.unit(number, core)].append(interval)
                self.energy.append((literal, self.problem.cost(number, core).energy_pj))
            self.start.append(start)
            self.end.append(end)
            self.model.add(self.makespan >= end)
            for before in self.cut.predecessors[number]:
                if self.cut.tiles[before].chain == tile.chain:
                    self.model.add(start >= self.end[before])

    def _move(
        self, name: str, hint: int, block: int, routes: Sequence[tuple[IntVar, Route]]
    ) -> tuple[IntVar, LinearExprT]:
        """A transfer that takes one of the routes, or none; return its start and, where it is made, its end."""
        start = self._time(name, hint)
        bits = self.cut.blocks[block].bits
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

    def _made_blocks(self) -> None:
        """Blocks that tiles make: kept where they are made, sent to other cores that use them, stored."""
        first_step = {b: n for n, t in reversed(list(enumerate(self.cut.tiles))) for b in t.writes}
        for block, info in enumerate(self.cut.blocks):
            maker = self.cut.maker[block]
            if maker < 0:
                continue
            cluster = self.cut.tiles[maker].cluster
            on, start = self.on[cluster], self.start[first_step[block]]
            users = () if info.via_dram else self.cut.users[block]
            ends: list[tuple[LinearExprT, int, Sequence[IntVar]]] = [(self.end[maker], self._run_end(maker), ())]
            if info.stored:
                routes = [(literal, self.problem.routes[core, OFF_CHIP]) for core, literal in on.items()]
                begin, end = self._move(f"store{block}", self.hint.store[block], block, routes)
                route = self.problem.routes[self.hint.core[cluster], OFF_CHIP]
                ends.append((end, self.hint.store[block] + route.cycles(info.bits), ()))
                self.store[block] = begin
                self.model.add(begin >= self.end[maker])
                self.in_dram[block] = [(end + r.latency_cycles, literal) for literal, r in routes]
                for arrival, literal in self.in_dram[block]:
                    self._when([literal], self.makespan >= arrival)
            ends += self._sends(block, maker, users)
            for user in users:
                if self.cut.tiles[user].cluster == cluster:
                    ends.append((self.end[user], self._run_end(user), ()))
                    self.model.add(self.start[user] >= self.end[maker])
            hint = max(value for _, value, _ in ends)
            hints = (self.hint.run[first_step[block]], hint)
            for core, literal in on.items():
                here = core == self.hint.core[cluster]
                until = self._keep(
                    f"made{block}_{core}", core, info.held_bits, start, literal, hints if here else (0, 0)
                )
                for end, _, conditions in ends:
                    self._when([literal, *conditions], until >= end)

    def _run_end(self, tile: int) -> int:
        core = self.hint.core[self.cut.tiles[tile].cluster]
        return self.hint.run[tile] + self.problem.cost(tile, core).cycles

    def _sends(self, block: int, maker: int, users: Sequence[int]) -> list[tuple[LinearExprT, int, Sequence[IntVar]]]:
        """Send a block to every other core that reads it; return what its maker must keep it for."""
        cluster = self.cut.tiles[maker].cluster
        on, home = self.on[cluster], self.hint.core[cluster]
        others = [user for user in users if self.cut.tiles[user].cluster != cluster]
        ends: list[tuple[LinearExprT, int, Sequence[IntVar]]] = []
        for core in sorted({core for user in others for core in self.on[self.cut.tiles[user].cluster]}):
            here = [user for user in others if core in self.on[self.cut.tiles[user].cluster]]
            wanted = any(self.hint.core[self.cut.tiles[user].cluster] == core for user in here)
            used = self._any(
                (self.on[self.cut.tiles[user].cluster][core] for user in here), f"used{block}_{core}", hint=wanted
            )
            local = on.get(core)
            if local is not None:
                for user in here:
                    literal = self.on[self.cut.tiles[user].cluster][core]
                    self._when([local, literal], self.start[user] >= self.end[maker])
                    ends.append((self.end[user], self._run_end(user) if core == home else 0, [local, literal]))
            if sources := {source: literal for source, literal in on.items() if source != core}:
                ends += self._send(block, core, maker, sources, used, here, wanted=wanted and core != home)
        return ends

    def _send(
        self,
        block: int,
        core: int,
        maker: int,
        sources: dict[int, IntVar],
        used: IntVar,
        users: Sequence[int],
        *,
        wanted: bool,
    ) -> list[tuple[LinearExprT, int, Sequence[IntVar]]]:
        info = self.cut.blocks[block]
        home = self.hint.core[self.cut.tiles[maker].cluster]
        routes: list[tuple[IntVar, Route]] = []
        for source, literal in sources.items():
            made = self._both(literal, used, f"send{block}_{source}_{core}", hint=wanted and source == home)
            if (source, core) not in self.problem.routes:
                self.model.add(made == 0)
                continue
            routes.append((made, self.problem.routes[source, core]))
            self.energy.append((made, self._move_energy(source, core, info.bits)))
        if not routes:
            return []
        hint = self.hint.send.get((block, core), 0)
        begin, end = self._move(f"send{block}_{core}", hint, block, routes)
        self.send[block, core] = begin
        sent = self._any((literal for literal, _ in routes), f"sent{block}_{core}", hint=wanted)
        self._when([sent], begin >= self.end[maker])
        latency = max(route.latency_cycles for _, route in routes)
        done = 0
        if wanted:
            route = self.problem.routes[home, core]
            done = max(
                [hint + route.cycles(info.bits) + latency]
                + [self._run_end(user) for user in users if self.hint.core[self.cut.tiles[user].cluster] == core]
            )
        until = self._keep(f"copy{block}_{core}", core, info.bits, begin, sent, (hint, done))
        for literal, route in routes:
            self._when([literal], until >= end + route.latency_cycles)
            for user in users:
                there = self.on[self.cut.tiles[user].cluster][core]
                self._when([literal, there], self.start[user] >= end + route.latency_cycles)
        for user in users:
            there = self.on[self.cut.tiles[user].cluster][core]
            self._when([sent, there], until >= self.end[user])
        left = hint + self.problem.routes[home, core].cycles(info.bits) if wanted else 0
        return [(end, left, [literal]) for literal, _ in routes]

    def _move_energy(self, source: int, target: int, bits: int) -> float:
        route = self.problem.routes[source, target]
        ends = route.energy_pj_per_bit + self.problem.cores[target].type.sram.write_energy
        if source == OFF_CHIP:
            return bits * (ends + self.problem.accelerator.dram.read_energy)
        return bits * (ends + self.problem.cores[source].type.sram.read_energy)

    def _loads(self) -> None:
        """Blocks that are read from DRAM: once for each cluster, or once for each core that uses them."""
        for block, info in enumerate(self.cut.blocks):
            if not info.via_dram:
                continue
            groups: dict[int, list[int]] = defaultdict(list)
            for user in self.cut.users[block]:
                groups[-1 if info.shared else self.cut.tiles[user].cluster].append(user)
            for owner, users in groups.items():
                for core in sorted({core for user in users for core in self.on[self.cut.tiles[user].cluster]}):
                    self._load(block, core, owner, users)

    def _load(self, block: int, core: int, owner: int, users: Sequence[int]) -> None:
        info, route = self.cut.blocks[block], self.problem.routes[OFF_CHIP, core]
        clusters = {self.cut.tiles[user].cluster for user in users if core in self.on[self.cut.tiles[user].cluster]}
        wanted = any(self.hint.core[cluster] == core for cluster in clusters)
        literal = self._any((self.on[c][core] for c in sorted(clusters)), f"need{block}_{core}", hint=wanted)
        self.energy.append((literal, self._move_energy(OFF_CHIP, core, info.bits)))
        name = f"load{block}_{core}_{owner}"
        hint = self.hint.load.get((block, core, owner), 0)
        begin, end = self._move(name, hint, block, [(literal, route)])
        self.load[block, core, owner] = begin
        for arrival, stored_from in self.in_dram.get(block, ()):
            self._when([literal, stored_from], begin >= arrival)
        arrived = hint + route.cycles(info.bits) + route.latency_cycles
        here = [u for u in users if core in self.on[self.cut.tiles[u].cluster]]
        ends = [self._run_end(u) for u in here if self.hint.core[self.cut.tiles[u].cluster] == core]
        until = self._keep(name, core, info.bits, begin, literal, (hint, max([arrived, *ends]) if wanted else 0))
        self._when([literal], until >= end + route.latency_cycles)
        for user in here:
            there = self.on[self.cut.tiles[user].cluster][core]
            self._when([there], self.start[user] >= end + route.latency_cycles)
            self._when([there], until >= self.end[user])

    def _resources(self) -> None:
        """Units run one tile at a time; bandwidths and memories hold no more than they can, at every instant."""
        for intervals in self.unit.values():
            self.model.add_no_overlap(intervals)
        for number, flows in self.flow.items():
            capacity = self.problem.resources[number].capacity
            if all(2 * demand > capacity for _, demand in flows):
                self.model.add_no_overlap([interval for interval, _ in flows])
            else:
                self.model.add_cumulative([i for i, _ in flows], [d for _, d in flows], capacity)
        for core, copies in self.kept.items():
            unit = math.gcd(*(bits for _, bits in copies))
            capacity = self.problem.cores[core].type.sram.capacity // unit
            self.model.add_cumulative([i for i, _ in copies], [bits // unit for _, bits in copies], capacity)

    def minimise(self, objective: Objective, lower_bound_cycles: int, hint_energy_pj: float) -> None:
        """Latency, or energy and then latency."""
        self.model.add(self.makespan >= lower_bound_cycles)
        if objective is Objective.LATENCY:
            self.model.minimize(self.makespan)
            return
        weights = [round(pj / hint_energy_pj * ENERGY_STEPS) for _, pj in self.energy]
        energy = sum(weight * literal for weight, (literal, _) in zip(weights, self.energy, strict=True))
        self.model.minimize(energy * (self.horizon + 1) + self.makespan)

    def extract(self, solver: CpSolver) -> Schedule:
        """Read the schedule of the solver's solution."""
        value = solver.value
        cores = [next(core for core, literal in on.items() if value(literal)) for on in self.on]
        acts = activities(self.problem, cores)
        starts: list[int] = []
        for move in acts.moves:
            if move.target == OFF_CHIP:
                starts.append(value(self.store[move.block]))
                continue
            target = acts.copies[move.target]
            if move.source == OFF_CHIP:
                shared = self.cut.blocks[move.block].shared
                owner = -1 if shared else self.cut.tiles[target.users[0]].cluster
                starts.append(value(self.load[move.block, target.core, owner]))
            else:
                starts.append(value(self.send[move.block, target.core]))
        return timed(self.problem, acts, [value(start) for start in self.start], starts)
