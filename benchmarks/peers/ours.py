"""One block through stream_mla, in a process of its own, so that nothing is cached from the block before."""

import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context

from benchmarks.peers.blocks import PRECISION, Block, build
from stream_mla.errors import StreamMlaError
from stream_mla.evaluation import evaluate_graph
from stream_mla.frontends import catalog
from stream_mla.hardware.accelerator import DRAM, Accelerator, LinkKind
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES
from stream_mla.point import Point
from stream_mla.results.result import Result
from stream_mla.workload.operator_graph import OperatorGraph

GAP = 0.05
"""What each cell must reach; the solver is asked only where the first schedule does not."""


@dataclass(frozen=True, kw_only=True)
class Port:
    """What the DRAM and the links it hangs on let through, in bits per cycle."""

    dram: float
    links: float
    both_ways: bool
    """Each link carries as much in either direction at once."""

    def dram_cycles(self, read_bits: float, write_bits: float) -> float:
        """Least cycles of so much traffic at the DRAM itself."""
        return (read_bits + write_bits) / self.dram

    def link_cycles(self, read_bits: float, write_bits: float) -> float:
        """Least cycles over the links."""
        return (max(read_bits, write_bits) if self.both_ways else read_bits + write_bits) / self.links

    def cycles(self, read_bits: float, write_bits: float) -> float:
        """Least cycles of so much traffic."""
        return max(self.dram_cycles(read_bits, write_bits), self.link_cycles(read_bits, write_bits))


@dataclass(frozen=True, kw_only=True)
class Ours:
    """What stream_mla said of one block."""

    cpu_s: float
    """Of all threads, without imports; loading the machine and building the block included."""
    macs: int
    minimum_dram_bits: int
    port: Port
    floors: dict[str, float]
    """Cycles that no latency may undercut, from the block's and the machine's numbers alone."""
    dram_enlarged: bool
    """The block does not fit the DRAM of the file, whose capacity Stream does not check: it was made large enough."""
    result: Result | None
    error: str = field(default="")

    @property
    def dram_bits(self) -> float:
        """Bits moved at the DRAM."""
        assert self.result is not None
        return 8 * (self.result.dram_read_bytes + self.result.dram_write_bytes)

    @property
    def dram_cycles(self) -> float:
        """Least cycles of that traffic."""
        assert self.result is not None
        return self.port.cycles(8 * self.result.dram_read_bytes, 8 * self.result.dram_write_bytes)


def run(machine: str, block: Block, time_limit_s: float) -> Ours:
    """Schedule a block, in a new process."""
    pool = ProcessPoolExecutor(max_workers=1, mp_context=get_context("spawn"))
    with pool:
        return pool.submit(_schedule, machine, block, time_limit_s).result()


def _schedule(machine: str, block: Block, time_limit_s: float) -> Ours:
    began = time.process_time()
    graph, accelerator = build(block), catalog.load_accelerator(machine)
    need = graph.dram_read_bits + graph.dram_write_bits
    enlarged = need > accelerator.dram.capacity
    if enlarged:
        accelerator = replace(accelerator, dram=replace(accelerator.dram, capacity=need))
    point = Point(
        workload=block.workload,
        accelerator=accelerator,
        scheme=block.scheme,
        objective=Objective.LATENCY,
        policy=POLICIES["free"],
        time_limit_s=time_limit_s,
        gap_limit=GAP,
        seed=0,
        workers=1,
        tile_sizes={},
    )
    result, error = None, ""
    try:
        result = evaluate_graph(point, graph).result
    except StreamMlaError as problem:
        error = f"{type(problem).__name__}: {problem}"
    return Ours(
        cpu_s=time.process_time() - began,
        macs=graph.total_macs,
        minimum_dram_bits=need,
        port=port(accelerator),
        floors=floors(graph, accelerator),
        dram_enlarged=enlarged,
        result=result,
        error=error,
    )


def port(accelerator: Accelerator) -> Port:
    """Return the port of a machine's DRAM."""
    links = [link for link in accelerator.links if DRAM in link.ends]
    return Port(
        dram=accelerator.per_cycle(accelerator.dram.bandwidth),
        links=accelerator.per_cycle(sum(link.bandwidth for link in links)),
        both_ways=all(link.kind is LinkKind.LINK for link in links),
    )


def floors(graph: OperatorGraph, accelerator: Accelerator) -> dict[str, float]:
    """Return least cycles: every DRAM byte once, over the DRAM and over its links, and all MACs at peak.

    Written without the scheduler's own bounds, as a check of them.
    """
    peak = 0.0
    for core in accelerator.array_cores():
        assert core.type.array is not None
        entry = core.type.array.precision(PRECISION.activations)
        if entry is not None:
            peak += core.type.array.elements * entry.macs_per_element
    way = port(accelerator)
    return {
        "DRAM": way.dram_cycles(graph.dram_read_bits, graph.dram_write_bits),
        "link": way.link_cycles(graph.dram_read_bits, graph.dram_write_bits),
        "compute": graph.total_macs / peak,
    }
