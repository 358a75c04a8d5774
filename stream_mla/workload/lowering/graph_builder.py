"""Collects the tensors and operators of a graph: of an attention layer, of products, of a feed-forward network."""

from collections.abc import Mapping
from dataclasses import replace

from stream_mla.workload.fusion_group import FusionGroup, GroupRole
from stream_mla.workload.key_mask import KeyMask, first_key, key_mask_of
from stream_mla.workload.operator_graph import Kind, Operand, Operator, OperatorGraph, Role, Tensor
from stream_mla.workload.spec import Precision, Workload

ATTENTION, FUSED = "attention", "fused"
"""The names of the fusion group of an attention layer, and of one without attention."""


class GraphBuilder:
    """Collects tensors and operators; each method that adds an operator returns a view of its product.

    Where attention is added (`softmax_attend`), all operators belong to one fusion group, as neighbours of its core
    unless they have another role. Otherwise those that are given a role do, and the others are planned one by one.
    """

    def __init__(self, given: Workload | Precision, extents: Mapping[str, int]) -> None:
        """`extents`: index -> its size. A workload brings the indices of its tokens and of the counters of keys."""
        tokens: dict[str, int] = {}
        self.cached_tokens = self.first_key = 0
        """The first key that any query attends to: the rows of the cache before it are no part of the graph."""
        self.mask: KeyMask | None = None
        """It is what operators over queries and keys leave out; None where all queries attend to all keys."""
        if isinstance(given, Workload):
            self.cached_tokens, self.first_key = given.cached_tokens, first_key(given)
            self.mask = key_mask_of(given)
            keys = given.key_tokens - self.first_key
            tokens = {"b": given.batch, "q": given.query_tokens, "k": keys, "t": 1, "s": 1, "w": 2}
        self.precision = given.precision if isinstance(given, Workload) else given
        self.extents = {**tokens, **extents}
        self.heads: tuple[str, ...] = ()
        """The indices that number heads, once attention is added."""
        self.tensors: dict[str, Tensor] = {}
        self.operators: list[Operator] = []
        self.local: set[str] = set()

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
        return self.view(cache, indices, q=self.cached_tokens - self.first_key, **offsets)

    def einsum(
        self,
        name: str,
        first: Operand,
        second: Operand,
        out: Operand,
        addend: Operand | None = None,
        role: GroupRole | None = None,
    ) -> Operand:
        """Contract two operands."""
        return self._add(Kind.EINSUM, name, (first, second), out, role, addend)

    def make(self, name: str, first: Operand, second: Operand, indices: str, role: GroupRole | None = None) -> Operand:
        """Contract two operands into a new activation of the operator's name."""
        return self.einsum(name, first, second, self.whole(name, indices, Role.ACTIVATION), role=role)

    def vector(self, kind: Kind, name: str, source: Operand, out: Operand, *more: Operand) -> Operand:
        """Apply a norm, RoPE, or an operation element by element, with `more` inputs where it takes several."""
        return self._add(kind, name, (source, *more), out, None)

    def _add(
        self,
        kind: Kind,
        name: str,
        inputs: tuple[Operand, ...],
        out: Operand,
        role: GroupRole | None,
        addend: Operand | None = None,
    ) -> Operand:
        """Append an operator with one result, and return that; over queries and keys, it has the mask of the step."""
        indices = {index for operand in (*inputs, out) for index in operand.indices}
        self.operators.append(
            Operator(
                name=name,
                kind=kind,
                inputs=inputs,
                outputs=(out,),
                addend=addend,
                first_position=self.cached_tokens if kind is Kind.ROPE else 0,
                mask=self.mask if {"q", "k"} <= indices else None,
                role=role,
            )
        )
        return out

    def softmax_attend(self, scores: Operand, values: Operand, heads: str, value: str, scale: float) -> Operand:
        """Add softmax, the product with the values, and the merge of context splits; return the context.

        The operator that makes the scores gets that role.
        """
        if self.heads:
            raise ValueError("a builder takes one attention: put others behind it with in_sequence")
        makers = [n for n, o in enumerate(self.operators) if scores.tensor in (made.tensor for made in o.outputs)]
        if not makers or not heads:
            raise ValueError(f"attention needs an operator that makes {scores.tensor}, and an index of its heads")
        self.heads = tuple(heads)
        self.operators[makers[-1]] = replace(self.operators[makers[-1]], role=GroupRole.SCORES)
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
                state_width=self.extents[value],
                mask=self.mask,
                role=GroupRole.SOFTMAX,
            ),
            Operator(
                name="attend",
                kind=Kind.ATTEND,
                inputs=(numerators, values, statistics),
                outputs=(part, part_stats),
                mask=self.mask,
                role=GroupRole.ATTEND,
            ),
            Operator(
                name="merge",
                kind=Kind.MERGE,
                inputs=(part, part_stats),
                outputs=(context,),
                mask=self.mask,
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
        group = ATTENTION if self.heads else FUSED
        rest = GroupRole.NEIGHBOUR if self.heads else None
        operators = tuple(replace(operator, role=operator.role or rest) for operator in self.operators)
        grouped = any(operator.role is not None for operator in operators)
        return OperatorGraph(
            scheme=scheme,
            extents=self.extents,
            tensors=self.tensors,
            operators=tuple(replace(o, group=group) if o.role is not None else o for o in operators),
            partial_bits=self.precision.partials,
            local=frozenset(self.local),
            groups={group: FusionGroup(heads=self.heads)} if grouped else {},
        )
