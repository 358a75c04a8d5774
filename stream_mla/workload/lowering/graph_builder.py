"""Collects the tensors and operators of a layer."""

from collections.abc import Mapping
from dataclasses import replace

from stream_mla.workload.key_mask import first_key, key_mask_of
from stream_mla.workload.operator_graph import Kind, Operand, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload.spec import Workload


class GraphBuilder:
    """Collects tensors and operators; each method adds one operator and returns its product's name."""

    def __init__(self, workload: Workload, extents: Mapping[str, int]) -> None:
        self.workload = workload
        self.first_key = first_key(workload)
        """The rows of the cache before it are no part of the graph: no query attends to them."""
        self.mask = key_mask_of(workload)
        self.extents: dict[str, int] = {
            "b": workload.batch,
            "q": workload.query_tokens,
            "k": workload.key_tokens - self.first_key,
            "t": 1,
            "s": 1,
            "w": 2,
            **extents,
        }
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.local: set[str] = set()

    def tensor(self, name: str, indices: str, role: Role) -> str:
        """Declare a tensor that spans `indices` once each."""
        precision = self.workload.precision
        bits = {
            Role.WEIGHT: precision.weights,
            Role.CACHE: precision.cache,
            Role.PARTIAL: precision.partials,
        }.get(role, precision.activations)
        shape = tuple(self.extents[index] for index in indices)
        self.tensors[name] = Tensor(name=name, shape=shape, role=role, element_bits=bits)
        return name

    def weight(self, name: str, indices: str) -> Operand:
        """Declare a weight and return the whole of it."""
        return self.view(self.tensor(name, indices, Role.WEIGHT), indices)

    def view(self, tensor: str, indices: str, **offsets: int) -> Operand:
        """View a tensor through `indices`, some of them shifted."""
        return Operand(tensor, tuple(indices), tuple(offsets.get(index, 0) for index in indices))

    def new_rows(self, cache: str, indices: str, **offsets: int) -> Operand:
        """View the rows of a cache that this step appends; index q runs along its token axis."""
        return self.view(cache, indices, q=self.workload.cached_tokens - self.first_key, **offsets)

    def over_keys(self, operator: Operator) -> Operator:
        """Return an operator with the mask of the step, if it works on both queries and keys."""
        return replace(operator, mask=self.mask) if {"q", "k"} <= set(operator.indices) else operator

    def einsum(
        self, name: str, first: Operand, second: Operand, out: Operand, addend: Operand | None = None
    ) -> Operand:
        """Contract two operands."""
        operator = Operator(name=name, kind=Kind.EINSUM, inputs=(first, second), outputs=(out,), addend=addend)
        self.operators.append(self.over_keys(operator))
        return out

    def make(self, name: str, first: Operand, second: Operand, indices: str) -> Operand:
        """Contract two operands into a new activation of the operator's name."""
        return self.einsum(name, first, second, self.view(self.tensor(name, indices, Role.ACTIVATION), indices))

    def vector(self, kind: Kind, name: str, source: Operand, out: Operand) -> Operand:
        """Apply a norm or RoPE."""
        position = self.workload.cached_tokens
        self.operators.append(Operator(name=name, kind=kind, inputs=(source,), outputs=(out,), first_position=position))
        return out

    def softmax_attend(self, scores: Operand, values: Operand, heads: str, value: str, scale: float) -> Operand:
        """Add softmax, the product with the values, and the merge of context parts; return the context."""
        rows = f"bq{heads}"
        numerators = self.view(self.tensor("probs", rows + "k", Role.ACTIVATION), rows + "k")
        statistics = self.view(self.tensor("probs_stats", rows + "tw", Role.PARTIAL), rows + "tw")
        part = self.view(self.tensor("context_part", rows + "s" + value, Role.PARTIAL), rows + "s" + value)
        part_stats = self.view(self.tensor("context_stats", rows + "sw", Role.PARTIAL), rows + "sw")
        context = self.view(self.tensor("context", rows + value, Role.ACTIVATION), rows + value)
        self.local |= {"scores", "probs", "probs_stats"}
        self.operators += [
            Operator(
                name="softmax",
                kind=Kind.SOFTMAX,
                inputs=(scores,),
                outputs=(numerators, statistics),
                scale=scale,
                state_width=self.extents[value],
                mask=self.mask,
            ),
            Operator(
                name="attend",
                kind=Kind.ATTEND,
                inputs=(numerators, values, statistics),
                outputs=(part, part_stats),
                mask=self.mask,
            ),
            Operator(name="merge", kind=Kind.MERGE, inputs=(part, part_stats), outputs=(context,), mask=self.mask),
        ]
        return context

    def output(self, context: Operand, inner: str) -> None:
        """Project the context of all heads to the model dimension and write it out."""
        weight = self.weight("w_o", inner + "e")
        self.einsum("out", context, weight, self.view(self.tensor("y", "bqe", Role.OUTPUT), "bqe"))

    def graph(self, scheme: str) -> OperatorGraph:
        """Freeze what was collected."""
        return OperatorGraph(
            scheme=scheme,
            extents=self.extents,
            tensors=self.tensors,
            operators=tuple(self.operators),
            partial_bits=self.workload.precision.partials,
            local=frozenset(self.local),
        )
