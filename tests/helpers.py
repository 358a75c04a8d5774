"""Builders that several test files share: small machines, small layers, and problems written out by hand.

The clock is 1 Hz unless a test says otherwise, so a bandwidth in bit/s is the same number in bit per cycle. Energies
are exact in binary.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from hypothesis import strategies as st

from stream_mla.frontends import catalog
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
from stream_mla.hardware.interconnect import find_routes
from stream_mla.hardware.work import Gemm, VectorWork
from stream_mla.mapping.policy import POLICIES, Policy
from stream_mla.mapping.tiling.tile_graph import Block, Tile, TileGraph, Tiling
from stream_mla.mapping.tiling.tiler import tile
from stream_mla.point import Point
from stream_mla.schedule.activities import activities
from stream_mla.schedule.problem import Problem, price
from stream_mla.schedule.schedule import Residency, Schedule, Transfer
from stream_mla.solvers.list_scheduling.list_scheduler import ListScheduler
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.operator_graph import CONTRACTIONS, Kind, Operand, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload.spec import (
    CAUSAL,
    NO_MASK,
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    Mask,
    Model,
    Precision,
    Workload,
)
from stream_mla.workload.split_k import can_spread, spread

LARGE = 1 << 30
"""Bits of SRAM that no small problem fills."""
BYTES = Precision(weights=8, cache=8, activations=8, partials=32)
LATENT_SCHEMES = ("mla_naive", "mla_absorbed", "mla_rc", "mla_ru")


def core_type(
    name: str = "core", *, array: bool = True, vector: bool = True, sram_bits: int = LARGE, operand_bits: int = 8
) -> CoreType:
    """A 2 x 2 broadcast array of 1 MAC per element and cycle, 4 vector lanes, an SRAM that never limits the rate."""
    return CoreType(
        name=name,
        source="test",
        array=Array(
            rows=2,
            columns=2,
            delivery=Delivery.BROADCAST,
            dataflows=tuple(Dataflow),
            precisions=(OperandPrecision(operand=operand_bits, macs_per_element=1, mac_energy=0.5),),
        )
        if array
        else None,
        vector=VectorUnit(operations_per_cycle=4, operation_energy=0.5) if vector else None,
        registers=Registers(capacity=64, read_energy=0.0625, write_energy=0.03125) if array else None,
        sram=Sram(capacity=sram_bits, read_bandwidth=1e9, write_bandwidth=1e9, read_energy=1.0, write_energy=2.0),
    )


def bus(
    *ends: str,
    name: str = "bus",
    bandwidth: float = 16,
    port: float | None = None,
    latency: float = 0,
    multicast: bool = False,
) -> Link:
    """A bus; each port has all of it unless `port` says less."""
    return Link(
        name=name,
        kind=LinkKind.MULTICAST_BUS if multicast else LinkKind.BUS,
        ends=ends,
        bandwidth=bandwidth,
        port_bandwidth=bandwidth if port is None else port,
        latency=latency,
        energy=0.125,
    )


def wire(a: str, b: str, *, name: str = "wire", bandwidth: float = 8, latency: float = 0) -> Link:
    """A link with two ends."""
    return Link(
        name=name,
        kind=LinkKind.LINK,
        ends=(a, b),
        bandwidth=bandwidth,
        port_bandwidth=bandwidth,
        latency=latency,
        energy=0.25,
    )


def machine(
    *types: CoreType, links: Sequence[Link] | None = None, bandwidth: float = 16, latency: float = 0
) -> Accelerator:
    """Cores named core0, core1, ... and DRAM; joined by one bus as fast as the DRAM unless `links` are given."""
    cores = tuple(Core(name=f"core{number}", type=kind) for number, kind in enumerate(types))
    if links is None:
        links = [bus("dram", *(core.name for core in cores), bandwidth=bandwidth)]
    dram = Dram(capacity=1 << 40, bandwidth=bandwidth, latency=latency, read_energy=8.0, write_energy=4.0)
    return Accelerator(name="small", source="test", clock=1.0, cores=cores, dram=dram, links=tuple(links))


def block(
    name: str,
    bits: int,
    *,
    weight: bool = False,
    spilled: bool = False,
    stored: bool = False,
    shared: bool = False,
    single_buffered: bool = False,
    held_bits: int | None = None,
) -> Block:
    """A weight (born in DRAM), a spilled or stored result, or, with no flag, a block that stays on chip."""
    return Block(
        name=name,
        tensor=name,
        box=((0, 1),),
        bits=bits,
        held_bits=bits if held_bits is None else held_bits,
        born_in_dram=weight,
        via_dram=weight or spilled,
        stored=spilled or stored,
        shared=shared,
        single_buffered=single_buffered,
    )


@dataclass(frozen=True, kw_only=True)
class Step:
    """A tile by the names of its blocks; several that write the same block are a chain."""

    name: str
    reads: tuple[str, ...] = ()
    writes: str
    cycles: int
    vector: bool = False
    group: int | None = None
    """As given, else the chain."""
    phase: int = 0


def hand_problem(accelerator: Accelerator, blocks: Sequence[Block], steps: Sequence[Step]) -> Problem:
    """Return the problem of these blocks and steps; a step costs 1 pJ of MACs (or vector work) per cycle."""
    numbers = {entry.name: number for number, entry in enumerate(blocks)}
    chains = {name: number for number, name in enumerate(dict.fromkeys(step.writes for step in steps))}
    tiles: list[Tile] = []
    costs: list[Mapping[str, Cost]] = []
    predecessors: list[tuple[int, ...]] = []
    maker = [-1] * len(blocks)
    for number, step in enumerate(steps):
        earlier = [n for n in range(number) if steps[n].writes == step.writes]
        tiles.append(
            Tile(
                name=step.name,
                operator=step.name,
                kind=Kind.NORM if step.vector else Kind.EINSUM,
                box={},
                chain=chains[step.writes],
                step=len(earlier),
                last=step.writes not in [other.writes for other in steps[number + 1 :]],
                reads=tuple(numbers[name] for name in step.reads),
                writes=(numbers[step.writes],),
                group=chains[step.writes] if step.group is None else step.group,
                work=_ONE_OPERATION if step.vector else _ONE_MAC,
                phase=step.phase,
            )
        )
        able = [c.type for c in accelerator.cores if (c.type.vector if step.vector else c.type.array) is not None]
        costs.append({kind.name: _cost(step) for kind in able})
        predecessors.append(tuple(sorted({maker[numbers[name]] for name in step.reads} - {-1} | set(earlier[-1:]))))
        if tiles[-1].last:
            maker[numbers[step.writes]] = number
    tile_graph = TileGraph(
        graph=OperatorGraph(scheme="hand", extents={}, tensors={}, operators=(), partial_bits=32, local=frozenset()),
        tiling=uncut(),
        tiles=tuple(tiles),
        blocks=tuple(blocks),
        shapes={},
        predecessors=tuple(predecessors),
        maker=tuple(maker),
        users=tuple(tuple(n for n, entry in enumerate(tiles) if b in entry.reads) for b in range(len(blocks))),
    )
    resources, routes = find_routes(accelerator)
    return Problem(
        tile_graph=tile_graph,
        accelerator=accelerator,
        objective=Objective.LATENCY,
        costs=tuple(costs),
        resources=resources,
        routes=routes,
    )


def with_last(problem: Problem, *names: str) -> Problem:
    """Make these steps the last operators of a layer, and `mid` the one before; all have small sums."""
    tensors = [
        Tensor(name=name, shape=(2, 2), role=role, element_bits=8)
        for name, role in (("in", Role.INPUT), ("mid", Role.ACTIVATION), *((name, Role.OUTPUT) for name in names))
    ]

    def product(name: str, source: str) -> Operator:
        inputs = Operand(source, ("q", "d"), (0, 0)), Operand("in", ("d", "e"), (0, 0))
        return Operator(name=name, kind=Kind.EINSUM, inputs=inputs, outputs=(Operand(name, ("q", "e"), (0, 0)),))

    graph = replace(
        problem.tile_graph.graph,
        extents={"q": 2, "d": 2, "e": 2},
        tensors={tensor.name: tensor for tensor in tensors},
        operators=(product("mid", "in"), *(product(name, "mid") for name in names)),
    )
    tiling = replace(problem.tile_graph.tiling, eager=frozenset({"mid", *names}))
    return replace(problem, tile_graph=replace(problem.tile_graph, graph=graph, tiling=tiling))


def forward(problem: Problem, *cores: int) -> Schedule:
    """Run the tiles in their order, with the clusters on these cores; all on the first where none is given."""
    return ListScheduler(problem, activities(problem, cores or [0] * len(problem.group_tiles))).run()


def transfer(number: int, source: int, target: int, start: int, end: int) -> Transfer:
    """A move of a block over a route without latency."""
    return Transfer(block=number, source=source, target=target, start=start, end=end, arrival=end)


def held(number: int, core: int, bits: int, start: int, end: int) -> Residency:
    """A block in the memory of a core."""
    return Residency(block=number, core=core, bits=bits, start=start, end=end)


_ONE_MAC = Gemm(batch=1, m=1, n=1, k=1, a_bits=8, b_bits=8, out_bits=8, accumulates=False)
_ONE_OPERATION = VectorWork(operations=1, read_bits=1, write_bits=1)


def _cost(step: Step) -> Cost:
    return Cost(
        cycles=step.cycles,
        sram_read_bits=0,
        sram_write_bits=0,
        mac_pj=0.0 if step.vector else float(step.cycles),
        register_pj=0.0,
        sram_pj=0.0,
        vector_pj=float(step.cycles) if step.vector else 0.0,
        mapping="by hand",
    )


def latent(*, heads: int = 2, query_rank: int | None = 4, rope_dim: int = 2, norms: bool = True) -> LatentAttention:
    """MLA whose dimensions all differ."""
    return LatentAttention(
        model_dim=7,
        heads=heads,
        query_rank=query_rank,
        kv_rank=5,
        nope_dim=3,
        rope_dim=rope_dim,
        value_dim=6,
        latent_norms=norms,
    )


def grouped(*, kv_heads: int = 2, heads: int = 4, rotate: bool = True) -> GroupedQueryAttention:
    """GQA with heads of 4."""
    return GroupedQueryAttention(model_dim=7, heads=heads, kv_heads=kv_heads, head_dim=4, rope_dim=4 if rotate else 0)


def workload(
    attention: Attention, *, batch: int = 1, query_tokens: int = 1, cached_tokens: int = 5, mask: Mask = NO_MASK
) -> Workload:
    """One step of a layer in bytes."""
    model = Model(name="small", source="test", layers=1, attention=attention, precision=BYTES, mask=mask)
    return Workload(
        model=model,
        batch=batch,
        query_tokens=query_tokens,
        cached_tokens=cached_tokens,
        precision=BYTES,
        mask=mask,
    )


def point_of(
    work: Workload,
    accelerator: Accelerator,
    scheme: str,
    *,
    objective: Objective = Objective.LATENCY,
    policy: Policy = POLICIES["free"],
    time_limit_s: float = 0.0,
    gap_limit: float = 0.0,
    tile_sizes: Mapping[str, int] | None = None,
) -> Point:
    """A point without the solver, on one worker."""
    return Point(
        workload=work,
        accelerator=accelerator,
        scheme=scheme,
        objective=objective,
        policy=policy,
        time_limit_s=time_limit_s,
        gap_limit=gap_limit,
        seed=1,
        workers=1,
        tile_sizes=tile_sizes or {},
    )


def decode_point(model: str, scheme: str, accelerator: str, cached: int, time_limit_s: float = 0.0) -> Point:
    """One token against `cached` of a shipped model on a shipped machine, with the precision of the model."""
    layer = catalog.load_model(model)
    work = Workload(model=layer, batch=1, query_tokens=1, cached_tokens=cached, precision=layer.precision)
    return point_of(work, catalog.load_accelerator(accelerator), scheme, time_limit_s=time_limit_s)


def uncut(local: frozenset[str] = frozenset()) -> Tiling:
    """One tile per operator; everything on chip."""
    return Tiling(sizes={}, spilled=frozenset(), shared=frozenset(), local=local)


def small_problem(
    graph: OperatorGraph, tiling: Tiling, accelerator: Accelerator, objective: Objective = Objective.LATENCY
) -> Problem:
    """Cut and price."""
    return price(tile(graph, tiling), accelerator, objective)


masks = st.sampled_from(
    (NO_MASK, NO_MASK, CAUSAL, *(Mask(causal=True, window=w, chunk=c) for w, c in ((2, None), (None, 3), (3, 4))))
)
"""No mask, or any kind of mask that hides something of a few tokens."""


@st.composite
def graphs(draw: st.DrawFn) -> OperatorGraph:
    """Any scheme of a small layer, with any mask; decode, prefill or between; a batch of 1 or 2."""
    batch, cached_tokens, mask = draw(st.integers(1, 2)), draw(st.integers(0, 6)), draw(masks)
    query_tokens = draw(st.integers(1, 3 if mask is NO_MASK else 5))
    scheme = draw(st.sampled_from(("mha", *LATENT_SCHEMES)))
    if scheme == "mha":
        attention: Attention = grouped(kv_heads=draw(st.sampled_from((1, 2, 4))), heads=4, rotate=draw(st.booleans()))
    else:
        attention = latent(
            heads=draw(st.integers(1, 3)),
            query_rank=draw(st.sampled_from((None, 4))),
            rope_dim=draw(st.sampled_from((0, 2))),
            norms=draw(st.booleans()),
        )
    step = workload(attention, batch=batch, query_tokens=query_tokens, cached_tokens=cached_tokens, mask=mask)
    return lower(step, scheme)


@st.composite
def tilings(draw: st.DrawFn, graph: OperatorGraph, *, split: bool = False, spill_all: bool = False) -> Tiling:
    """Random piece sizes, up to three indices per operator; random spilled and shared tensors.

    `split` lets scores and numerators leave their core (for machines whose arrays have no vector unit), `spill_all`
    sends every activation through DRAM (for machines whose cores are not joined).
    """
    products = [operator.name for operator in graph.operators if can_spread(graph, operator)]
    k_splits = {name: draw(st.integers(2, 3)) for name in draw(st.sets(st.sampled_from(products), max_size=3))}
    parted = spread(graph, k_splits)
    sizes: dict[str, dict[str, int]] = {}
    for operator in parted.operators:
        chosen = draw(st.lists(st.sampled_from(operator.cuttable), max_size=3, unique=True))
        sizes[operator.name] = {index: draw(st.integers(-(-graph.extents[index] // 3), graph.extents[index]))
                                for index in chosen}  # fmt: skip
    # softmax and attend count the same chunks of keys
    sizes["attend"] = {i: s for i, s in sizes["attend"].items() if i != "k"} | {
        i: s for i, s in sizes["softmax"].items() if i == "k"
    }
    local = graph.local - {"scores", "probs", "probs_stats"} if split else graph.local
    inner = sorted(
        name
        for name, tensor in parted.tensors.items()
        if tensor.role in (Role.ACTIVATION, Role.PARTIAL) and name not in local
    )
    spilled = frozenset(inner if spill_all else draw(st.sets(st.sampled_from(inner))))
    return Tiling(
        sizes=sizes,
        kv_splits={name: draw(st.integers(1, min(3, graph.extents["k"]))) for name in graph.attention_groups},
        spilled=spilled,
        shared=frozenset(draw(st.sets(st.sampled_from(sorted(graph.tensors))))),
        local=local,
        eager=frozenset(draw(st.sets(st.sampled_from([o.name for o in graph.operators if o.kind in CONTRACTIONS])))),
        single_buffered=frozenset(draw(st.sets(st.sampled_from(sorted(graph.tensors)))))
        if draw(st.booleans())
        else frozenset(),
        phases=draw(_phases(graph)) if draw(st.booleans()) else {},
        k_splits=k_splits,
    )


@st.composite
def _phases(draw: st.DrawFn, graph: OperatorGraph) -> dict[str, int]:
    """Each operator in the last phase of what it reads, or in a later one."""
    phases: dict[str, int] = {}
    made: dict[str, int] = {}
    for operator in graph.operators:
        first = max((made.get(operand.tensor, 0) for operand in operator.reads), default=0)
        phases[operator.name] = first + draw(st.sampled_from((0, 0, 1, 3)))
        for operand in operator.outputs:
            made[operand.tensor] = max(made.get(operand.tensor, 0), phases[operator.name])
    return phases


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """A small layer, cut at random, on 1 to 4 cores with more memory than it needs."""
    graph = draw(graphs())
    latency = draw(st.integers(0, 5))
    bandwidth = draw(st.sampled_from((7.0, 16.0, 333.25)))
    kind = draw(st.sampled_from(("one", "two", "four", "split", "wired", "apart")))
    match kind:
        case "split":  # arrays without vector units
            types = [core_type("array", vector=False), core_type("vector", array=False)]
        case "one":
            types = [core_type()]
        case "four":
            types = [core_type()] * 4
        case _:
            types = [core_type()] * 2
    names = [f"core{number}" for number in range(len(types))]
    port, multicast = draw(st.sampled_from((5.0, bandwidth))), draw(st.booleans())
    links = [bus("dram", *names, bandwidth=bandwidth, port=port, latency=latency, multicast=multicast)]
    if kind == "wired":
        links.append(wire(*names, bandwidth=draw(st.sampled_from((2.0, 64.0))), latency=draw(st.integers(0, 3))))
    if kind == "apart":  # each core reaches the DRAM and no other core
        links = [wire("dram", name, name=f"wire {name}", bandwidth=bandwidth, latency=latency) for name in names]
    accelerator = machine(*types, links=links, bandwidth=bandwidth, latency=draw(st.integers(0, 3)))
    tiling = draw(tilings(graph, split=kind == "split", spill_all=kind == "apart"))
    return small_problem(graph, tiling, accelerator, draw(st.sampled_from(Objective)))


def without_progress(said: str) -> str:
    """Return what is said on stderr without the line that tells how each row ended."""
    return re.sub(r"^\S+ \S+: \d+\.\d+ [mun]?s, gap \d+\.\d\d %, \d+\.\d s\n", "", said, flags=re.MULTILINE)
