"""Collects the tensors and operators of a graph: of an attention layer, of products, of a feed-forward network."""

from collections.abc import Mapping

from stream_mla.workload.fusion_group import FusionGroup, GroupRole
from stream_mla.workload.operator_graph import Kind, Operand, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload.spec import Precision, Workload

ATTENTION = "attention"
"""The name of the fusion group of an attention layer."""


class GraphBuilder:
    """Collects tensors and operators; each method that adds an operator returns a view of its product.

    With `heads`, everything that is added belongs to one fusion group, as a neighbour of attention's core unless a
    role is given. Without, operators are planned one by one.
    """

    def __init__(
        self,
        precision: Precision,
        extents: Mapping[str, int],
        *,
        cached_tokens: int = 0,
        heads: tuple[str, ...] | None = None,
    ) -> None:
        """`extents`: index -> its size; `cached_tokens`: position of the first query token."""
        self.precision, self.cached_tokens = precision, cached_tokens
        self.extents: dict[str, int] = dict(extents)
        self.group = None if heads is None else ATTENTION
        self.groups = {} if heads is None else {ATTENTION: FusionGroup(heads=heads)}
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.local: set[str] = set()

    @classmethod
    def of_layer(cls, workload: Workload, extents: Mapping[str, int], heads: tuple[str, ...]) -> "GraphBuilder":
        """Return the builder of an attention layer: with the tokens of a step, and the counters of keys."""
        tokens = {"b": workload.batch, "q": workload.query_tokens, "k": workload.key_tokens, "t": 1, "s": 1, "w": 2}
        extents = {**tokens, **extents}
        return cls(workload.precision, extents, cached_tokens=workload.cached_tokens, heads=heads)

    def tensor(self, name: str, indices: str, role: Role) -> str:
        """Declare a tensor that spans `indices` once each, and return its name."""
        if name in self.tensors:
            raise ValueError(f"there is a tensor {name} already")
        if unknown := [index for index in indices if index not in self.extents]:
            raise ValueError(f"tensor {name} has an index {' or '.join(unknown)} without extent")
        bits = {
            Role.WEIGHT: self.precision.weights,
            Role.CACHE: self.precision.cache,
            Role.PARTIAL: self.precision.partials,
        }.get(role, self.precision.activations)
        shape = tuple(self.extents[index] for index in indices)
        self.tensors[name] = Tensor(name=name, shape=shape, role=role, element_bits=bits)
        return name

    def whole(self, name: str, indices: str, role: Role) -> Operand:
        """Declare a tensor and return the whole of it."""
        return self.view(self.tensor(name, indices, role), indices)

    def weight(self, name: str, indices: str) -> Operand:
        """Declare a weight and return the whole of it."""
        return self.whole(name, indices, Role.WEIGHT)

    def view(self, tensor: str, indices: str, **offsets: int) -> Operand:
        """View a tensor through `indices`, some of them shifted."""
        return Operand(tensor, tuple(indices), tuple(offsets.get(index, 0) for index in indices))

    def new_rows(self, cache: str, indices: str, **offsets: int) -> Operand:
        """View the rows of a cache that this step appends; index q runs along its token axis."""
        return self.view(cache, indices, q=self.cached_tokens, **offsets)

    def einsum(
        self,
        name: str,
        first: Operand,
        second: Operand,
        out: Operand,
        addend: Operand | None = None,
        role: GroupRole = GroupRole.NEIGHBOUR,
    ) -> Operand:
        """Contract two operands."""
        return self._add(Kind.EINSUM, name, (first, second), out, role, addend)

    def make(
        self, name: str, first: Operand, second: Operand, indices: str, role: GroupRole = GroupRole.NEIGHBOUR
    ) -> Operand:
        """Contract two operands into a new activation of the operator's name."""
        return self.einsum(name, first, second, self.whole(name, indices, Role.ACTIVATION), role=role)

    def vector(self, kind: Kind, name: str, source: Operand, out: Operand, *more: Operand) -> Operand:
        """Apply a norm, RoPE, or an operation element by element, with `more` inputs where it takes several."""
        return self._add(kind, name, (source, *more), out, GroupRole.NEIGHBOUR)

    def _add(
        self,
        kind: Kind,
        name: str,
        inputs: tuple[Operand, ...],
        out: Operand,
        role: GroupRole,
        addend: Operand | None = None,
    ) -> Operand:
        """Append an operator with one result, and return that."""
        self.operators.append(
            Operator(
                name=name,
                kind=kind,
                inputs=inputs,
                outputs=(out,),
                addend=addend,
                first_position=self.cached_tokens if kind is Kind.ROPE else 0,
                group=self.group,
                role=None if self.group is None else role,
            )
        )
        return out

    def softmax_attend(self, scores: Operand, values: Operand, heads: str, value: str, scale: float) -> Operand:
        """Add softmax, the product with the values, and the merge of context splits; return the context."""
        if self.group is None:
            raise ValueError("attention needs a builder that was given the indices of its heads")
        rows = f"bq{heads}"
        numerators = self.whole("probs", rows + "k", Role.ACTIVATION)
        statistics = self.whole("probs_stats", rows + "tw", Role.PARTIAL)
        part = self.whole("context_part", rows + "s" + value, Role.PARTIAL)
        part_stats = self.whole("context_stats", rows + "sw", Role.PARTIAL)
        context = self.whole("context", rows + value, Role.ACTIVATION)
        self.local |= {scores.tensor, numerators.tensor, statistics.tensor}
        self.operators += [
            Operator(
                name="softmax",
                kind=Kind.SOFTMAX,
                inputs=(scores,),
                outputs=(numerators, statistics),
                scale=scale,
                first_position=self.cached_tokens,
                state_width=self.extents[value],
                group=self.group,
                role=GroupRole.SOFTMAX,
            ),
            Operator(
                name="attend",
                kind=Kind.ATTEND,
                inputs=(numerators, values, statistics),
                outputs=(part, part_stats),
                group=self.group,
                role=GroupRole.ATTEND,
            ),
            Operator(
                name="merge",
                kind=Kind.MERGE,
                inputs=(part, part_stats),
                outputs=(context,),
                group=self.group,
                role=GroupRole.MERGE,
            ),
        ]
        return context

    def output(self, context: Operand, inner: str) -> None:
        """Project the context of all heads to the model dimension and write it out."""
        weight = self.weight("w_o", inner + "e")
        self.einsum("out", context, weight, self.whole("y", "bqe", Role.OUTPUT))

    def graph(self, scheme: str) -> OperatorGraph:
        """Freeze what was collected."""
        return OperatorGraph(
            scheme=scheme,
            extents=self.extents,
            tensors=self.tensors,
            operators=tuple(self.operators),
            partial_bits=self.precision.partials,
            local=frozenset(self.local),
            groups=self.groups,
        )
