"""One experiment."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from os import PathLike
from typing import Never, Self

from stream_mla.hardware.accelerator import Accelerator
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import Fusion, Policy, Prefetch
from stream_mla.settings import DEFAULTS, NAMES, Settings, point_fields
from stream_mla.workload.spec import Mask, Model, Workload


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
    """Seconds of local search and solver; 0 leaves both out."""
    gap_limit: float
    """The search ends, and the solver stops or is not started, within this share of the proven bound."""
    seed: int
    """Start of the random numbers of solver and local search."""
    workers: int
    """Threads of the solver; with one, equal points have equal results."""
    tile_sizes: Mapping[str, int] = field(hash=False)
    """Sizes set by hand, per index; `parts` is the number of splits of the keys, `row_parts` that of all contractions,
    `row_parts.out` that of one.
    """

    @classmethod
    def of(
        cls,
        model: "str | PathLike[str] | Model",
        accelerator: "str | PathLike[str] | Accelerator",
        *,
        scheme: str | None = DEFAULTS.scheme,
        layer: str | None = DEFAULTS.layer,
        context: int = DEFAULTS.context,
        query: int = DEFAULTS.query,
        prefill: bool = DEFAULTS.prefill,
        batch: int = DEFAULTS.batch,
        bits: int | Mapping[str, int] | None = DEFAULTS.bits,
        mask: str | Mask | None = DEFAULTS.mask,
        window: int | None = DEFAULTS.window,
        objective: str | Objective = DEFAULTS.objective,
        latency_cap: float | str | None = DEFAULTS.latency_cap,
        policy: str | Policy = DEFAULTS.policy,
        fusion: str | Fusion | None = DEFAULTS.fusion,
        prefetch: str | Prefetch | None = DEFAULTS.prefetch,
        sharing: bool | str | None = DEFAULTS.sharing,
        time_limit: float | str = DEFAULTS.time_limit,
        gap_limit: float = DEFAULTS.gap_limit,
        seed: int = DEFAULTS.seed,
        workers: int = DEFAULTS.workers,
        tile: Mapping[str, int] = DEFAULTS.tile,
        **unknown: Never,
    ) -> Self:
        """Return the point that `stream-mla run` computes with the options of these names, and with its defaults.

        Model and accelerator are shipped names, paths or objects; times may be texts with a unit. SettingsError has
        all that is wrong, with the nearest name of an option that does not exist.

        >>> from stream_mla import Point
        >>> point = Point.of("deepseek_v3", "flat_cloud", context=1024, scheme="mla_rc", time_limit="500 ms")
        >>> point.workload.cached_tokens, point.workload.precision.weights, point.time_limit_s
        (1024, 8, 0.5)
        >>> Point.of("deepseek_v3", "flat_cloud", contxt=1024)
        Traceback (most recent call last):
        stream_mla.settings.SettingsError: Point.of: 2 problems
          - contxt: no such option: did you mean context?
          - scheme: deepseek_v3 can run in 4 schemes: choose mla_naive or mla_absorbed or mla_rc or mla_ru
        """
        given = {name: value for name, value in locals().items() if name in NAMES}
        return cls(**point_fields(model, accelerator, Settings(**given), unknown))

    def __post_init__(self) -> None:
        if self.latency_cap_cycles is not None and self.objective is not Objective.ENERGY:
            raise ValueError(f"a latency cap needs the objective energy, got {self.objective}")

    @cached_property
    def sha256(self) -> str:
        """Fingerprint of all inputs; equal points have equal fingerprints."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
