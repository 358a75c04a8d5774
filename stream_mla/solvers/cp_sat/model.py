"""The CP-SAT model of a problem: its variables, its constraints, and the schedule of a solution.

Every constraint is a method; each has its twin in `stream_mla.schedule.checker`.
"""

import math
from collections import defaultdict
from collections.abc import Sequence

from ortools.sat.python.cp_model import CpSolver, IntVar, LinearExprT, LiteralT

from stream_mla.hardware.core_cost import Objective
from stream_mla.hardware.interconnect import OFF_CHIP, Route
from stream_mla.schedule.activities import activities
from stream_mla.schedule.problem import Problem
from stream_mla.schedule.schedule import Schedule
from stream_mla.schedule.timing import timed
from stream_mla.solvers.cp_sat.hint import read_hint
from stream_mla.solvers.cp_sat.variables import Variables

ENERGY_STEPS = 100_000
"""Resolution of energy in the objective: energies are rounded to 1/ENERGY_STEPS of the hint's."""


class Model(Variables):
    """The CP-SAT model.

    Of a shared block the cores on a multicast bus that the hint serves at once are served at once.
    """

    def __init__(self, problem: Problem, schedule: Schedule, *, fixed: bool, horizon: int | None = None) -> None:
        """`schedule` is the hint, and the horizon unless one that is at least as late is given."""
        latency = schedule.latency_cycles
        super().__init__(problem, horizon=latency if horizon is None else horizon, hint_cycles=latency)
        self.hint = read_hint(problem, schedule)
        self.candidates = [
            (self.hint.core[group],) if fixed else cores for group, cores in enumerate(problem.candidates)
        ]
        self.load: dict[tuple[int, int, int], IntVar] = {}
        self.send: dict[tuple[int, int], IntVar] = {}
        self.store: dict[int, IntVar] = {}
        self.in_dram: dict[int, list[tuple[LinearExprT, IntVar]]] = {}
        self.energy: list[tuple[IntVar, float]] = []
        self._cores()
        self._phases()
        self._tiles()
        self._made_blocks()
        self._loads()
        self._resources()

    @property
    def splits_multicasts(self) -> bool:
        """Whether the hint loads a shared block several times over one multicast bus: a bound holds for that only."""
        return any(self.hint.apart.values())

    def _phases(self) -> None:
        """A phase begins when the tiles of the phases before have ended."""
        self.phase_start: list[LinearExprT] = [0]
        ends = [0] * (1 + max(tile.phase for tile in self.tile_graph.tiles))
        for number, tile in enumerate(self.tile_graph.tiles):
            ends[tile.phase] = max(ends[tile.phase], self._run_end(number))
        for phase in range(1, len(ends)):
            begin = self._time(f"phase{phase}", max(ends[:phase]))
            self.model.add(begin >= self.phase_start[-1])
            self.phase_start.append(begin)

    def _cores(self) -> None:
        """Each cluster is on one of its cores."""
        for group, cores in enumerate(self.candidates):
            if len(cores) == 1:
                self.on.append({cores[0]: self.true})
                continue
            chosen = self.hint.core[group]
            self.on.append({core: self._bool(f"on{group}_{core}", hint=core == chosen) for core in cores})
            self.model.add_exactly_one(self.on[-1].values())

    def _tiles(self) -> None:
        """A tile takes its unit for as long as it costs on its core; steps of a chain follow each other."""
        self.start: list[IntVar] = []
        self.end: list[LinearExprT] = []
        for number, tile in enumerate(self.tile_graph.tiles):
            start = self._time(f"run{number}", self.hint.run[number])
            on = self.on[tile.group]
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
            if tile.phase:
                self.model.add(start >= self.phase_start[tile.phase])
            if tile.phase + 1 < len(self.phase_start):
                self.model.add(self.phase_start[tile.phase + 1] >= end)
            for before in self.tile_graph.predecessors[number]:
                if self.tile_graph.tiles[before].chain == tile.chain:
                    self.model.add(start >= self.end[before])

    def _made_blocks(self) -> None:
        """Blocks that tiles make: kept where they are made, sent to other cores that use them, stored."""
        first_step = {b: n for n, t in reversed(list(enumerate(self.tile_graph.tiles))) for b in t.writes}
        for block, info in enumerate(self.tile_graph.blocks):
            maker = self.tile_graph.maker[block]
            if maker < 0:
                continue
            group = self.tile_graph.tiles[maker].group
            on, start = self.on[group], self.start[first_step[block]]
            users = () if info.via_dram else self.tile_graph.users[block]
            ends: list[tuple[LinearExprT, int, Sequence[IntVar]]] = [(self.end[maker], self._run_end(maker), ())]
            if info.stored:
                routes = [(literal, self.problem.routes[core, OFF_CHIP]) for core, literal in on.items()]
                begin, end = self._move(f"store{block}", self.hint.store[block], block, routes)
                route = self.problem.routes[self.hint.core[group], OFF_CHIP]
                ends.append((end, self.hint.store[block] + route.cycles(info.bits), ()))
                self.store[block] = begin
                self.model.add(begin >= self.end[maker])
                self.in_dram[block] = [(end + r.latency_cycles, literal) for literal, r in routes]
                for arrival, literal in self.in_dram[block]:
                    self._when([literal], self.makespan >= arrival)
            ends += self._sends(block, maker, users)
            for user in users:
                if self.tile_graph.tiles[user].group == group:
                    ends.append((self.end[user], self._run_end(user), ()))
                    self.model.add(self.start[user] >= self.end[maker])
            hint = max(value for _, value, _ in ends)
            hints = (self.hint.run[first_step[block]], hint)
            for core, literal in on.items():
                here = core == self.hint.core[group]
                until = self._keep(
                    f"made{block}_{core}", core, info.held_bits, start, literal, hints if here else (0, 0)
                )
                for end, _, conditions in ends:
                    self._when([literal, *conditions], until >= end)

    def _run_end(self, tile: int) -> int:
        core = self.hint.core[self.tile_graph.tiles[tile].group]
        return self.hint.run[tile] + self.problem.cost(tile, core).cycles

    def _sends(self, block: int, maker: int, users: Sequence[int]) -> list[tuple[LinearExprT, int, Sequence[IntVar]]]:
        """Send a block to every other core that reads it; return what its maker must keep it for."""
        group = self.tile_graph.tiles[maker].group
        on, home = self.on[group], self.hint.core[group]
        others = [user for user in users if self.tile_graph.tiles[user].group != group]
        ends: list[tuple[LinearExprT, int, Sequence[IntVar]]] = []
        for core in sorted({core for user in others for core in self.on[self.tile_graph.tiles[user].group]}):
            here = [user for user in others if core in self.on[self.tile_graph.tiles[user].group]]
            wanted = any(self.hint.core[self.tile_graph.tiles[user].group] == core for user in here)
            used = self._any(
                (self.on[self.tile_graph.tiles[user].group][core] for user in here), f"used{block}_{core}", hint=wanted
            )
            local = on.get(core)
            if local is not None:
                for user in here:
                    literal = self.on[self.tile_graph.tiles[user].group][core]
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
        info = self.tile_graph.blocks[block]
        home = self.hint.core[self.tile_graph.tiles[maker].group]
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
                + [self._run_end(user) for user in users if self.hint.core[self.tile_graph.tiles[user].group] == core]
            )
        until = self._keep(f"copy{block}_{core}", core, info.bits, begin, sent, (hint, done))
        for literal, route in routes:
            self._when([literal], until >= end + route.latency_cycles)
            for user in users:
                there = self.on[self.tile_graph.tiles[user].group][core]
                self._when([literal, there], self.start[user] >= end + route.latency_cycles)
        for user in users:
            there = self.on[self.tile_graph.tiles[user].group][core]
            self._when([sent, there], until >= self.end[user])
        left = hint + self.problem.routes[home, core].cycles(info.bits) if wanted else 0
        return [(end, left, [literal]) for literal, _ in routes]

    def _loads(self) -> None:
        """Blocks that are read from DRAM: once for each cluster, or once for each core that uses them."""
        for block, info in enumerate(self.tile_graph.blocks):
            if not info.via_dram:
                continue
            groups: dict[int, list[int]] = defaultdict(list)
            for user in self.tile_graph.users[block]:
                groups[-1 if info.shared else self.tile_graph.tiles[user].group].append(user)
            for owner, users in groups.items():
                groups_of_cores: dict[tuple[str, int], list[int]] = defaultdict(list)
                for core in sorted({core for user in users for core in self.on[self.tile_graph.tiles[user].group]}):
                    groups_of_cores[self._served_with(block, core)].append(core)
                for cores in groups_of_cores.values():
                    self._load(block, cores, owner, users)

    def _served_with(self, block: int, core: int) -> tuple[str, int]:
        """Cores of which this is equal are served by one load of a block."""
        route = self.problem.routes[OFF_CHIP, core]
        if self.tile_graph.blocks[block].shared and route.multicast:
            return route.links[0], self.hint.apart.get((block, core), 0)
        return "", core

    def _load(self, block: int, cores: Sequence[int], owner: int, users: Sequence[int]) -> None:
        """Load a block into those of the cores that need it, all at once."""
        info, name = self.tile_graph.blocks[block], f"load{block}_{cores[0]}_{owner}"
        needs = {core: self._need(block, core, users) for core in cores}
        wanted = any((block, core, owner) in self.hint.load for core in cores)
        literal = self._any(needs.values(), f"{name}_made", hint=wanted)
        hint = max(self.hint.load.get((block, core, owner), 0) for core in cores)
        begin = self._time(name, hint)
        # one bus joins its cores with the DRAM at one rate and latency
        route = self.problem.routes[OFF_CHIP, cores[0]]
        cycles, latency = route.cycles(info.bits), route.latency_cycles
        end = begin + cycles
        for resource in sorted({r for core in cores for r in self.problem.routes[OFF_CHIP, core].resources}):
            users_of_it = [n for core, n in needs.items() if resource in self.problem.routes[OFF_CHIP, core].resources]
            taken = literal if len(users_of_it) == len(needs) else users_of_it[0]
            interval = self.model.new_optional_fixed_size_interval_var(begin, cycles, taken, f"{name}_{resource}")
            self.flow[resource].append((interval, route.demand))
        for arrival, stored_from in self.in_dram.get(block, ()):
            self._when([literal, stored_from], begin >= arrival)
        self._load_in_phase(begin, literal, [u for u in users if not needs.keys().isdisjoint(self._cores_of(u))], cores)
        read = info.bits * self.problem.accelerator.dram.read_energy if len(cores) > 1 else 0.0
        if len(cores) > 1:
            self.energy.append((literal, read))
        for core, need in needs.items():
            self.load[block, core, owner] = begin
            self.energy.append((need, self._move_energy(OFF_CHIP, core, info.bits) - read))
            if info.single_buffered:
                self.single_buffered[core].append(
                    self.model.new_optional_fixed_size_interval_var(begin, cycles, need, f"{name}_late{core}")
                )
            here = [u for u in users if core in self._cores_of(u)]
            ends = [self._run_end(u) for u in here if self.hint.core[self.tile_graph.tiles[u].group] == core]
            until_hint = max([hint + cycles + latency, *ends]) if ends else 0
            until = self._keep(f"{name}_{core}", core, info.bits, begin, need, (hint, until_hint))
            self._when([need], until >= end + latency)
            for user in here:
                there = self.on[self.tile_graph.tiles[user].group][core]
                self._when([there], self.start[user] >= end + latency)
                self._when([there], until >= self.end[user])

    def _cores_of(self, tile: int) -> dict[int, IntVar]:
        return self.on[self.tile_graph.tiles[tile].group]

    def _need(self, block: int, core: int, users: Sequence[int]) -> IntVar:
        """Whether a core needs a block for one of these tiles."""
        groups = {self.tile_graph.tiles[user].group for user in users if core in self._cores_of(user)}
        wanted = any(self.hint.core[group] == core for group in groups)
        return self._any((self.on[c][core] for c in sorted(groups)), f"need{block}_{core}", hint=wanted)

    def _load_in_phase(self, begin: IntVar, literal: IntVar, users: Sequence[int], cores: Sequence[int]) -> None:
        """A load waits for the phase of the first tile that needs it, on these cores."""
        conditions: list[LiteralT] = [literal]
        for phase in sorted({self.tile_graph.tiles[user].phase for user in users}):
            if phase:
                self._when(conditions, begin >= self.phase_start[phase])
            there = [
                on
                for group in sorted(
                    {self.tile_graph.tiles[u].group for u in users if self.tile_graph.tiles[u].phase == phase}
                )
                for core, on in self.on[group].items()
                if core in cores
            ]
            if any(on is self.true for on in there):
                return
            conditions += [on.negated() for on in there]

    def _resources(self) -> None:
        """Units run one tile at a time; bandwidths and memories hold no more than they can, at every instant."""
        for intervals in self.unit.values():
            self.model.add_no_overlap(intervals)
        for core, loads in self.single_buffered.items():
            runs, many = self.unit[self.problem.array_of[core]], len(loads)
            self.model.add_cumulative([*runs, *loads], [many] * len(runs) + [1] * many, many)
        for number, flows in self.flow.items():
            capacity = self.problem.resources[number].capacity
            if all(2 * demand > capacity for _, demand in flows):
                self.model.add_no_overlap([interval for interval, _ in flows])
            else:
                self.model.add_cumulative([i for i, _ in flows], [d for _, d in flows], capacity)
        for core, residencies in self.kept.items():
            unit = math.gcd(*(bits for _, bits in residencies))
            capacity = self.problem.cores[core].type.sram.capacity // unit
            self.model.add_cumulative([i for i, _ in residencies], [bits // unit for _, bits in residencies], capacity)

    def minimise(self, objective: Objective, lower_bound_cycles: int, hint_energy_pj: float) -> None:
        """Latency, or energy and then latency."""
        self.model.add(self.makespan >= lower_bound_cycles)
        if objective is not Objective.ENERGY:
            self.model.minimize(self.makespan)
            return
        weights = [round(pj / hint_energy_pj * ENERGY_STEPS) for _, pj in self.energy]
        energy = sum(weight * literal for weight, (literal, _) in zip(weights, self.energy, strict=True))
        self.model.minimize(energy * (self.horizon + 1) + self.makespan)

    def extract(self, solver: CpSolver) -> Schedule:
        """Read the schedule of the solver's solution."""
        value = solver.value
        cores = [next(core for core, literal in on.items() if value(literal)) for on in self.on]
        acts = activities(self.problem, cores, self.hint.apart)
        starts: list[int] = []
        for transfer in acts.transfers:
            if transfer.target == OFF_CHIP:
                starts.append(value(self.store[transfer.block]))
                continue
            target = acts.residencies[transfer.target]
            if transfer.source == OFF_CHIP:
                shared = self.tile_graph.blocks[transfer.block].shared
                owner = -1 if shared else self.tile_graph.tiles[target.users[0]].group
                starts.append(value(self.load[transfer.block, target.core, owner]))
            else:
                starts.append(value(self.send[transfer.block, target.core]))
        return timed(self.problem, acts, [value(start) for start in self.start], starts)
