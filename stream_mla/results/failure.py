"""What is kept of a point that has no schedule."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stream_mla.errors import StreamMlaError
from stream_mla.results.result import Result

if TYPE_CHECKING:
    from stream_mla.point import Point


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
    )
