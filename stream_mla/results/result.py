"""This module is about what a run leaves behind: everything that is needed to read it and to repeat it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from stream_mla.errors import StreamMlaError
from stream_mla.results.short import Facts, ShortTable, step
from stream_mla.units import digits, with_prefix

if TYPE_CHECKING:
    from stream_mla.point import Point


class Status(StrEnum):
    """How much is proven of a schedule."""

    OPTIMAL = "optimal"
    """No schedule of this tiling is better."""
    FEASIBLE = "feasible"
    """Valid; the gap says how far from optimal it can be at most."""
    INTERRUPTED = "interrupted"
    """Valid; the best of a search that was ended by hand."""


@dataclass(frozen=True, kw_only=True)
class SegmentResult:
    """A pass of a layer that runs in passes: all that run so often are alike."""

    operators: tuple[str, ...]
    sizes: Mapping[str, int]
    """Index -> how much of it one such pass works on, where that is not all."""
    times: int
    latency_cycles: int
    """One segment takes so many cycles; the next three are of one segment as well."""
    lower_bound_cycles: int
    tiles: int
    bottleneck: str


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(ShortTable):
    """Latency, energy and their proof for one point. The names carry the units. It prints as a short table."""

    model: str
    scheme: str
    accelerator: str
    batch: int
    query_tokens: int
    context_tokens: int
    cached_tokens: int
    mask: str = "none"
    """`causal`, or `none`: what was stored before masks were known has none."""
    window: int | None = None
    """Keys that a query attends to at most; None where there is no window."""
    chunk: int | None = None
    """Tokens of a chunk, where queries attend to keys of their own only; None where there are no chunks."""
    weight_bits: int
    cache_bits: int
    activation_bits: int
    partial_bits: int
    objective: str
    latency_cap_cycles: int | None
    """Given, or what latency-then-energy found, with its tolerance."""
    fusion: str
    prefetch: str
    sharing: bool
    latency_cycles: int
    latency_s: float
    energy_pj: float
    energy_breakdown_pj: Mapping[str, float]
    macs: int
    """All tiles together do so many MACs; a tile that the mask hides in part does all of its MACs."""
    dram_read_bytes: float
    dram_write_bytes: float
    dram_minimum_read_bytes: float
    """Read once each: weights, input and cache. What is above it is read again because of the tiling, or spilled."""
    dram_minimum_write_bytes: float
    operational_intensity_macs_per_byte: float
    """MACs per byte that this schedule moves over the DRAM's pins."""
    mac_utilization: float
    """MACs over what the arrays could do in the time, 0 to 1."""
    peak_sram_bytes: Mapping[str, float]
    busy_cycles: Mapping[str, float]
    """It holds, for each kind of resource: cycles it is busy, averaged over the machine's units; of bandwidths, at
    full rate."""
    bottleneck: str
    """The resource that is busy for the largest share of the latency."""
    bottleneck_share: float
    cache_reads: float
    """Bytes read from the cache over the size of the cache: how often it is read."""
    lower_bound_cycles: int
    """No schedule of this tiling is faster."""
    ideal_cycles: int
    """No tiling and no schedule is faster: minimum DRAM bytes at full bandwidth, or at peak all MACs not hidden.
    """
    bounds_cycles: Mapping[str, int]
    """Reason -> cycles; of passes, their sum."""
    binding_bound: str
    gap: float
    """(value - lower bound) / value of the objective: the most by which a schedule of this tiling could be better."""
    latency_gap: float
    energy_lower_bound_pj: float
    energy_gap: float
    status: Status
    scheduler: str
    """Which scheduler found it: the solver's schedule is taken only if it is better; `start` if it was given."""
    start_sha256: str
    """Fingerprint of the stored result that the search started from; empty if none."""
    greedy_latency_cycles: int
    """Before the solver."""
    solver_status: str
    solver_bound_cycles: int | None
    tiles: int
    moves: int
    cores_used: int
    tiling: Mapping[str, Mapping[str, int]]
    context_parts: int
    row_parts: Mapping[str, int] = field(default_factory=dict[str, int])
    """Contraction -> parts of its rows that were summed up at the end."""
    frugal_tiles: int
    """Products that use the mapping of least energy; the others use the fastest."""
    spilled: tuple[str, ...]
    solve_s: float
    """Wall-clock seconds of the solver; this and `versions` are all that may differ between equal runs."""
    time_limit_s: float
    gap_limit: float
    seed: int
    workers: int
    tile_sizes: Mapping[str, int]
    """It is what was set by hand."""
    point_sha256: str
    """Fingerprint of all inputs, the model's and the machine's numbers included."""
    versions: Mapping[str, str]
    layer: str = ""
    """The kind of the layer, where the model has several; empty where all its layers are alike."""
    source: str = ""
    """Where the numbers of the model come from."""
    notes: tuple[str, ...] = ()
    """Sentences on what the result leaves out or assumes of the published model."""
    passes: tuple[SegmentResult, ...] = ()
    """Where the layer is too large to be scheduled as a whole: its parts, one after the other. Then `tiling`, `spilled`
    and the like are of all of them, and the bounds hold for schedules in these passes.
    """

    def title(self) -> str:
        """Return what ran where."""
        return f"{self.model} {self.scheme} on {self.accelerator}"

    def headline(self) -> str:
        """Return value, bound and proof in a few words."""
        return (
            f"{self.latency_cycles:,} cycles, {digits(self.energy_pj / 1e9)} mJ, gap {100 * self.gap:.2f} %, "
            f"{self.status}"
        )

    def facts(self) -> Facts:
        """Return what is asked for first, each with its unit."""
        moved = self.dram_read_bytes + self.dram_write_bytes
        minimum = self.dram_minimum_read_bytes + self.dram_minimum_write_bytes
        value, bound = "latency", f"{self.lower_bound_cycles:,} cycles, by {self.binding_bound}"
        if self.objective == "energy":
            value, bound = "energy", f"{digits(self.energy_lower_bound_pj / 1e9)} mJ"
        passes = f" in {len(self.passes)} passes" if self.passes else ""
        return (
            ("step", step(self.query_tokens, self.cached_tokens, self.batch)),
            ("latency", f"{self.latency_cycles:,} cycles, {with_prefix(self.latency_s, 's')}"),
            ("energy", f"{digits(self.energy_pj / 1e9)} mJ"),
            ("DRAM", f"{with_prefix(moved, 'B')}, {moved / minimum:.2f} x the least"),
            ("MACs", f"{with_prefix(self.macs, '')}, {100 * self.mac_utilization:.1f} % of what the arrays could do"),
            ("binds", f"{self.bottleneck}, busy {100 * self.bottleneck_share:.1f} % of the time"),
            ("bound", bound),
            ("gap", f"{100 * self.gap:.2f} % of the {value}, to the best of this tiling"),
            ("status", f"{self.status}, found by {self.scheduler}, {self.tiles:,} tiles{passes}"),
        )


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A point that has no schedule, with the reason."""

    model: str
    scheme: str
    accelerator: str
    context_tokens: int
    query_tokens: int
    batch: int
    status: Literal["infeasible", "no_schedule"]
    error: str
    fits_with: tuple[str, ...]
    """Changes that make it fit, each shown by a schedule."""
    point_sha256: str
    notes: tuple[str, ...] = ()
    """Sentences on what is left out or assumed of the published model."""


Row = Result | Failure


def failure(
    point: "Point",
    status: Literal["infeasible", "no_schedule"],
    error: StreamMlaError,
    changes: tuple[str, ...] = (),
) -> Failure:
    """Describe a point without a schedule."""
    return Failure(
        model=point.workload.model.name,
        scheme=point.scheme,
        accelerator=point.accelerator.name,
        context_tokens=point.workload.context_tokens,
        query_tokens=point.workload.query_tokens,
        batch=point.workload.batch,
        status=status,
        error=str(error),
        fits_with=changes,
        point_sha256=point.sha256,
        notes=point.workload.model.notes,
    )
