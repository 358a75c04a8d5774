"""The attention blocks that are run on both tools, of the very same operators.

DeepSeek-V3's sizes, batch 1, bf16. A block is what `lower` gives, without what Stream 2.1.1 has no form for: norms and
RoPE (their input passes for their output) and what appends to the cache. The mask is left out there too; it costs
nothing here. Partial sums and softmax statistics are 32 bit wide here; Stream keeps all in bf16.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from stream_mla.frontends import catalog
from stream_mla.workload.lowering.attention import lower
from stream_mla.workload.lowering.mha_baselines import same_dimensions
from stream_mla.workload.operator_graph import Kind, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload.spec import NO_MASK, Model, Precision, Workload

PRECISION = Precision(weights=16, cache=16, activations=16, partials=32)
CORE = ("scores", "softmax", "attend", "merge")
"""The operators of a block without projections."""


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block at one length."""

    name: str
    """As in `stream_2_1_1.csv`."""
    scheme: str
    tokens: int
    """Keys; in prefill queries too."""
    prefill: bool
    core_only: bool
    """Queries, keys and values are given, the context is the result."""

    @property
    def workload(self) -> Workload:
        """The step whose graph is cut down to this block."""
        model = catalog.load_model("deepseek_v3")
        queries = self.tokens if self.prefill else 1
        return Workload(
            model=_multi_head(model) if self.scheme == "mha" else model,
            batch=1,
            query_tokens=queries,
            cached_tokens=self.tokens - queries,
            precision=PRECISION,
            mask=NO_MASK,
        )

    @property
    def sizes(self) -> dict[str, int]:
        """Extent of each index of the block, in the letters of `stream_mla.graph`; h is the heads in every scheme."""
        extents = lower(self.workload, self.scheme).extents
        return {**extents, "h": extents.get("h", extents.get("g", 0))}


BLOCKS: tuple[Block, ...] = (
    *(
        Block(name=name, scheme=scheme, tokens=tokens, prefill=False, core_only=False)
        for name, scheme in (
            ("mha_decode", "mha"),
            ("mla_decode_naive", "mla_naive"),
            ("mla_decode_absorb", "mla_absorbed"),
        )
        for tokens in (1024, 4096, 16384)
    ),
    Block(name="mha_prefill_core", scheme="mha", tokens=1024, prefill=True, core_only=True),
    Block(name="mha_prefill", scheme="mha", tokens=1024, prefill=True, core_only=False),
    Block(name="mla_prefill_naive", scheme="mla_naive", tokens=1024, prefill=True, core_only=False),
    Block(name="mla_prefill_absorb", scheme="mla_absorbed", tokens=1024, prefill=True, core_only=False),
)


def build(block: Block) -> OperatorGraph:
    """Return the operator graph of a block."""
    graph = _without_vectors(lower(block.workload, block.scheme))
    appended = {name for name, tensor in graph.tensors.items() if tensor.role is Role.CACHE}
    kept = [operator for operator in graph.operators if operator.outputs[0].tensor not in appended]
    if block.core_only:
        kept = [operator for operator in kept if operator.name in CORE]
    return _with(graph, _live(kept, "context" if block.core_only else "y"))


def _multi_head(model: Model) -> Model:
    """Return the MHA of the same sizes, without RoPE."""
    shape = same_dimensions(model)
    return replace(shape, attention=replace(shape.attention, rope_dim=0))


def _without_vectors(graph: OperatorGraph) -> OperatorGraph:
    """Let the producer of each norm's and RoPE's input write its output."""
    operators: list[Operator] = []
    for operator in graph.operators:
        if operator.kind not in (Kind.NORM, Kind.ROPE):
            operators.append(operator)
            continue
        source = operator.inputs[0].tensor
        number = next(n for n, before in enumerate(operators) if before.outputs[0].tensor == source)
        operators[number] = replace(operators[number], outputs=operator.outputs)
    return replace(graph, operators=tuple(operators))


def _live(operators: Iterable[Operator], result: str) -> list[Operator]:
    """Return those that the result needs."""
    needed, live = {result}, list[Operator]()
    for operator in reversed(list(operators)):
        if any(operand.tensor in needed for operand in operator.outputs):
            live.append(operator)
            needed |= {operand.tensor for operand in operator.reads}
    return live[::-1]


def _with(graph: OperatorGraph, operators: list[Operator]) -> OperatorGraph:
    """Return the graph of these operators: what none of them makes is an input, what none of them reads a result."""
    made = {operand.tensor for operator in operators for operand in operator.outputs}
    read = {operand.tensor for operator in operators for operand in operator.reads}
    tensors = {name: _tensor(graph.tensors[name], made, read) for name in graph.tensors if name in made | read}
    indices = {index for operator in operators for index in operator.indices}
    return replace(
        graph,
        extents={index: size for index, size in graph.extents.items() if index in indices or index in "bqkts"},
        tensors=tensors,
        operators=tuple(operators),
        local=graph.local & set(tensors),
    )


def _tensor(tensor: Tensor, made: set[str], read: set[str]) -> Tensor:
    if tensor.role not in (Role.ACTIVATION, Role.PARTIAL):
        return tensor
    if tensor.name not in made:
        return replace(tensor, role=Role.INPUT)
    return tensor if tensor.name in read else replace(tensor, role=Role.OUTPUT)
