"""One experiment."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import Policy
from stream_mla.workload.spec import Workload


@dataclass(frozen=True, kw_only=True)
class Point:
    """Everything that determines a result, and nothing else."""

    workload: Workload
    accelerator: Accelerator
    scheme: str
    objective: Objective
    policy: Policy
    latency_cap_cycles: int | None = None
    """With the objective energy: no schedule that takes longer."""
    time_limit_s: float
    """Of the solver; 0 leaves it out."""
    gap_limit: float
    """The solver stops, or is not started, within this share of the proven bound."""
    seed: int
    workers: int
    tile_sizes: Mapping[str, int] = field(hash=False)
    """Sizes set by hand, per index; `parts` is the number of parts of the keys, `k_splits` that of the rows of all
    contractions, `k_splits.out` that of one.
    """

    def __post_init__(self) -> None:
        if self.latency_cap_cycles is not None and self.objective is not Objective.ENERGY:
            raise ValueError(f"a latency cap needs the objective energy, got {self.objective}")

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of all inputs; equal points have equal fingerprints."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
