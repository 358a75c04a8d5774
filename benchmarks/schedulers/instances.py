"""The instances: one step of one layer of a published model, in one scheme, on one shipped machine.

Chosen for spread, not for results: every machine, every scheme, decode with 4,096 cached tokens at batch 1 and 32,
prefill of 1,024 or 2,048 tokens, and chunked prefill. Precisions are the models' own.
"""

from dataclasses import dataclass

from stream_mla.frontends import catalog
from stream_mla.hardware.core_cost import Objective
from stream_mla.mapping.policy import POLICIES
from stream_mla.point import Point
from stream_mla.workload.spec import NO_MASK, Workload


@dataclass(frozen=True, kw_only=True)
class Instance:
    """What is scheduled; the name says all of it."""

    model: str
    scheme: str
    machine: str
    batch: int
    query_tokens: int
    cached_tokens: int

    @property
    def name(self) -> str:
        """The columns of a row, in one word."""
        step = f"prefill {self.query_tokens}"
        if self.cached_tokens:
            step = f"decode {self.cached_tokens}"
            if self.query_tokens > 1:
                step = f"chunk {self.query_tokens} on {self.cached_tokens}"
        return f"{self.model} {self.scheme} {step} x{self.batch} {self.machine}"

    def point(self, *, time_limit_s: float, workers: int) -> Point:
        """Everything at its default but the time; no gap ends the search, as none ends that of the others."""
        model = catalog.load_model(self.model)
        return Point(
            workload=Workload(
                model=model,
                batch=self.batch,
                query_tokens=self.query_tokens,
                cached_tokens=self.cached_tokens,
                precision=model.precision,
                mask=NO_MASK,  # as all records are
            ),
            accelerator=catalog.load_accelerator(self.machine),
            scheme=self.scheme,
            objective=Objective.LATENCY,
            policy=POLICIES["free"],
            time_limit_s=time_limit_s,
            gap_limit=0.0,
            seed=0,
            workers=workers,
            tile_sizes={},
        )


def _decode(model: str, scheme: str, machine: str, batch: int) -> Instance:
    return Instance(model=model, scheme=scheme, machine=machine, batch=batch, query_tokens=1, cached_tokens=4096)


def _prefill(model: str, scheme: str, machine: str, tokens: int) -> Instance:
    return Instance(model=model, scheme=scheme, machine=machine, batch=1, query_tokens=tokens, cached_tokens=0)


def _chunk(model: str, scheme: str, machine: str, tokens: int, cached: int) -> Instance:
    return Instance(model=model, scheme=scheme, machine=machine, batch=1, query_tokens=tokens, cached_tokens=cached)


INSTANCES = (
    _decode("deepseek_v3_letter", "mla_rc", "flat_cloud", 1),
    _decode("deepseek_v3_letter", "mla_ru", "flat_cloud", 1),
    _decode("deepseek_v3", "mla_absorbed", "flat_cloud", 32),
    _decode("llama_3_405b", "mha", "flat_cloud", 32),
    _prefill("deepseek_v3", "mla_naive", "flat_cloud", 1024),
    _decode("deepseek_v2_lite", "mla_absorbed", "flat_edge", 1),
    _decode("llama_3_8b", "mha", "flat_edge", 1),
    _prefill("deepseek_v2_lite", "mla_naive", "flat_edge", 1024),
    _decode("kimi_k2", "mla_absorbed", "fusemax", 1),
    _decode("deepseek_v3", "mla_ru", "fusemax", 32),
    _prefill("llama_3_70b", "mha", "fusemax", 1024),
    _decode("deepseek_v3", "mla_absorbed", "tpu_like_quad_core", 1),
    _decode("deepseek_v3", "mla_naive", "tpu_like_quad_core", 1),
    _decode("deepseek_v3", "mla_absorbed", "tpu_like_quad_core", 32),
    _decode("llama_3_8b", "mha", "tpu_like_quad_core", 32),
    _prefill("llama_3_8b", "mha", "tpu_like_quad_core", 1024),
    _prefill("deepseek_v2_lite", "mla_absorbed", "tpu_like_quad_core", 2048),
    _chunk("deepseek_v2_lite", "mla_absorbed", "tpu_like_quad_core", 256, 2048),
    _decode("deepseek_v2_lite", "mla_absorbed", "eyeriss_like_quad_core", 1),
    _decode("deepseek_v2_lite", "mla_absorbed", "eyeriss_like_quad_core", 32),
    _decode("llama_3_8b", "mha", "eyeriss_like_quad_core", 1),
    _prefill("deepseek_v2_lite", "mla_naive", "eyeriss_like_quad_core", 1024),
    _decode("deepseek_v3", "mla_rc", "tpu_v7_ironwood", 1),
    _decode("kimi_k2", "mla_absorbed", "tpu_v7_ironwood", 32),
    _decode("llama_3_405b", "mha", "tpu_v7_ironwood", 1),
    _prefill("deepseek_v3", "mla_naive", "tpu_v7_ironwood", 2048),
    _chunk("llama_3_70b", "mha", "tpu_v7_ironwood", 512, 4096),
    _decode("deepseek_v3", "mla_absorbed", "a100", 1),
    _decode("deepseek_v3", "mla_ru", "a100", 1),
    _decode("llama_3_8b", "mha", "a100", 1),
    _decode("llama_3_70b", "mha", "a100", 32),
    _decode("deepseek_v3", "mla_absorbed", "h100", 1),
    _decode("kimi_k2", "mla_absorbed", "h100", 32),
    _decode("llama_3_405b", "mha", "h100", 1),
    _prefill("deepseek_v2_lite", "mla_naive", "h100", 2048),
    _prefill("llama_3_70b", "mha", "h100", 1024),
    _decode("deepseek_v3_letter", "mla_absorbed", "simba_mesh", 1),
    _decode("deepseek_v3_letter", "mla_ru", "simba_mesh", 32),
    _decode("mha_scaled", "mha", "simba_mesh", 1),
)

QUICK = (INSTANCES[0], INSTANCES[5], INSTANCES[11], INSTANCES[18])
"""A few that take seconds."""
