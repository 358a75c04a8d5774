"""This module is about what the letter runs: its four layers and the two MLA schemes it leaves out, as operator graphs.

One operation is one MAC, every element is one byte, there is no RoPE and nothing is halved for causality; decode
is one new token after L cached ones, prefill is L new tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from stream_mla.frontends.catalog import load_model
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.lowering.mha_baselines import same_dimensions, same_parameters
from stream_mla.workload.operator_graph import OperatorGraph
from stream_mla.workload.spec import NO_MASK, Model, Precision, Workload

MLA = "deepseek_v3_letter"
"""The model of the letter's Table 1."""
LETTER_SERIES = ("mha_large", "mha_scaled", "mla_rc", "mla_ru")
"""The curves of the letter's figures 3 to 6."""
LEFT_OUT = ("mla_naive", "mla_absorbed")
"""Schemes that the letter names (1-3-2 and 1-2-3) but leaves out of figures 3 to 6."""
CONTEXTS = (1024, 2048, 4096)
"""Figures 5 and 6 are drawn for these numbers of cached tokens."""


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of one layer."""

    series: str
    """A scheme, or `mha_large` or `mha_scaled`."""
    context: int
    """Cached tokens; the new tokens where nothing is cached."""
    prefill: bool = False
    batch: int = 1
    model: str = MLA
    bits: int = 8
    """Weights, cache and activations have so many bits per element."""
    fetches_w_uv: bool = True
    """False: W_uv is not there, see `without_w_uv`."""

    @property
    def scheme(self) -> str:
        """The scheme that the series stands for."""
        return "mha" if self.series.startswith("mha") else self.series

    @property
    def workload(self) -> Workload:
        """The step as a workload."""
        model = _model(self.series, self.model)
        return Workload(
            model=model,
            batch=self.batch,
            query_tokens=self.context if self.prefill else 1,
            cached_tokens=0 if self.prefill else self.context,
            precision=Precision(weights=self.bits, cache=self.bits, activations=self.bits, partials=32),
            mask=NO_MASK,
        )

    @property
    def graph(self) -> OperatorGraph:
        """The step as an operator graph."""
        graph = lower(self.workload, self.scheme)
        return graph if self.fetches_w_uv else without_w_uv(graph)


@lru_cache
def _model(series: str, mla: str) -> Model:
    """Return the model of a series: an MLA model, or the MHA that the letter derives from it."""
    derive = {"mha_large": same_dimensions, "mha_scaled": same_parameters}.get(series)
    return load_model(mla) if derive is None else derive(load_model(mla))


def without_w_uv(graph: OperatorGraph) -> OperatorGraph:
    """Return a graph in which nothing reads W_uv: W_o takes the first `v` columns of the context as they are.

    The bytes behind the letter's Fig 6 lack the 8.4 MB of W_uv while its operations contain those of W_uv, so the
    letter's runs did the product with a W_uv that nothing fetched. Here the product goes with its weight: it is
    0.06 % of the MACs of mla_rc and 2.2 % of those of mla_ru; whoever counts operations counts the whole graph.
    Graphs that project values per cached token (mla_naive) or have no W_uv come back as they are.
    """
    by_name = {operator.name: operator for operator in graph.operators}
    if "head_out" not in by_name:
        return graph
    gone, last = by_name["head_out"], by_name["out"]
    context, rest = gone.inputs[0], last.inputs[1:]
    view = replace(context, indices=(*context.indices[:-1], "v"))
    operators = tuple(
        replace(operator, inputs=(view, *rest)) if operator is last else operator
        for operator in graph.operators
        if operator is not gone
    )
    dropped = {gone.inputs[1].tensor, gone.outputs[0].tensor}
    tensors = {name: tensor for name, tensor in graph.tensors.items() if name not in dropped}
    return replace(graph, operators=operators, tensors=tensors)


def dram_bytes(graph: OperatorGraph) -> float:
    """Bytes that must cross the DRAM pins: parameters, cache, layer input and output."""
    return (graph.dram_read_bits + graph.dram_write_bits) / 8


def counts(series: str, context: int, *, prefill: bool) -> Mapping[str, float]:
    """Return operations and bytes of a step, by the name of the panel of Fig 3."""
    graph = Step(series=series, context=context, prefill=prefill).graph
    return {"operations": float(graph.total_macs), "bytes": dram_bytes(graph)}
