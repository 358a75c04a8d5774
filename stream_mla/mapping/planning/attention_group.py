"""An attention group of a graph, by the roles of its operators, and the sizes of what it reads."""

from collections.abc import Mapping
from dataclasses import dataclass

from stream_mla.workload.fusion_group import GroupRole
from stream_mla.workload.key_mask import KeyMask
from stream_mla.workload.operator_graph import Operator, OperatorGraph, Tensor


@dataclass(frozen=True, kw_only=True)
class AttentionGroup:
    """The operators of one fusion group that has a softmax."""

    heads: tuple[str, ...]
    """The indices that number heads, the outer one first."""
    scores: Operator
    softmax: Operator
    attend: Operator
    merge: Operator
    score_addend: Operator | None
    """It makes what is added to the scores; None where nothing is."""
    keys: Operator | None
    """It expands cached rows to keys; None where the keys are cached."""
    values: Operator | None
    """It expands cached rows to values, likewise."""

    @property
    def core(self) -> tuple[Operator, ...]:
        """The operators that are cut alike."""
        addend = () if self.score_addend is None else (self.score_addend,)
        return (self.scores, self.softmax, self.attend, *addend)

    @property
    def score_tensors(self) -> frozenset[str]:
        """The tensors that pass between array and vector unit for each chunk of keys."""
        operands = (*self.scores.outputs, *self.softmax.outputs)
        return frozenset(operand.tensor for operand in operands)

    @property
    def split_tensors(self) -> frozenset[str]:
        """The tensors that a split of the keys leaves for the merge."""
        return frozenset(operand.tensor for operand in self.attend.outputs)

    @property
    def expansions(self) -> tuple[Operator, ...]:
        """The operators that expand cached rows to keys and values; empty where it is not both."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    @property
    def expanded(self) -> frozenset[str]:
        """The tensors that cached rows are expanded to."""
        return frozenset(operator.outputs[0].tensor for operator in self.expansions)


def attention_groups(graph: OperatorGraph) -> dict[str, AttentionGroup]:
    """Return the attention groups of a graph by name, in its order."""
    found: dict[str, AttentionGroup] = {}
    for name in graph.attention_groups:
        by_role = {operator.role: operator for operator in graph.operators if operator.group == name}
        if missing := [role for role in (GroupRole.SCORES, GroupRole.ATTEND, GroupRole.MERGE) if role not in by_role]:
            raise ValueError(f"fusion group {name} has a softmax, but no operator in the role {' or '.join(missing)}")
        if not graph.groups[name].heads:
            raise ValueError(f"fusion group {name} has a softmax, but no index that numbers its heads")
        found[name] = AttentionGroup(
            heads=graph.groups[name].heads,
            scores=by_role[GroupRole.SCORES],
            softmax=by_role[GroupRole.SOFTMAX],
            attend=by_role[GroupRole.ATTEND],
            merge=by_role[GroupRole.MERGE],
            score_addend=by_role.get(GroupRole.SCORE_ADDEND),
            keys=by_role.get(GroupRole.KEYS),
            values=by_role.get(GroupRole.VALUES),
        )
    return found


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """The sizes of what attention reads, per query row (one token of one head) and per key."""

    heads: tuple[str, ...]
    query: Tensor
    keys: Tensor
    values: Tensor
    scores: Tensor
    probs: Tensor
    """The numerators of softmax."""
    context: Tensor
    depth: int
    """Elements of a query row, and of a key."""
    width: int
    """Elements of a value, and of a row of the context."""
    per_head: bool
    """Whether heads, or groups of them, have keys and values of their own."""
    row_bits: int
    """Bits of a cached row that is read beside keys and values: its rotary part, or all of it where it is expanded."""
    resident_row_bits: int
    """Bits of such a row that each piece of the query tokens reads, where keys and values are expanded inline."""
    weight_bits: int
    """Bits of the weights of all heads that expand the rows, where that is inline."""
    rank: int
    """Elements of a row that are expanded; 0 where they are not."""
    mask: KeyMask | None
    """The keys that are hidden; None where all queries see all keys."""

    @property
    def shared_cache(self) -> bool:
        """Whether the values lie in the rows of the keys."""
        return self.keys is self.values

    @property
    def key_bits(self) -> int:
        """Bits of a key and its value."""
        return self.depth * self.keys.element_bits + (0 if self.shared_cache else self.width * self.values.element_bits)


def attention_shape(graph: OperatorGraph, group: AttentionGroup, inline: frozenset[str]) -> AttentionShape:
    """Return the sizes of a group; `inline` are tensors that are made just before they are used."""
    query, keys = (graph.tensors[operand.tensor] for operand in group.scores.inputs[:2])
    row_bits, resident_row_bits, weight_bits, rank = _row_sizes(graph, group, inline)
    return AttentionShape(
        heads=group.heads,
        query=query,
        keys=keys,
        values=graph.tensors[group.attend.inputs[1].tensor],
        scores=graph.tensors[group.scores.outputs[0].tensor],
        probs=graph.tensors[group.softmax.outputs[0].tensor],
        context=graph.tensors[group.merge.outputs[0].tensor],
        depth=graph.extents[group.scores.inputs[0].indices[-1]],
        width=graph.extents[group.attend.outputs[0].indices[-1]],
        per_head=any(index in group.scores.inputs[1].indices for index in group.heads),
        row_bits=row_bits,
        resident_row_bits=resident_row_bits,
        weight_bits=weight_bits,
        rank=rank,
        mask=group.attend.mask,
    )


def _row_sizes(graph: OperatorGraph, group: AttentionGroup, inline: frozenset[str]) -> tuple[int, int, int, int]:
    """Return `row_bits`, `resident_row_bits`, `weight_bits` and `rank` of a group, see `AttentionShape`."""
    rotary_bits = 0
    if group.score_addend is not None:
        rotary = group.score_addend.inputs[1]
        rotary_bits = graph.extents[rotary.indices[-1]] * graph.tensors[rotary.tensor].element_bits
    if not group.expanded or not group.expanded <= inline:
        return rotary_bits, 0, 0, 0
    cached = group.expansions[0].inputs[0]
    row_bits = graph.tensors[cached.tensor].bits // (graph.extents["b"] * graph.extents["k"])
    weight_bits = sum(graph.tensors[operator.inputs[1].tensor].bits for operator in group.expansions)
    resident_row_bits = 0
    if group.score_addend is not None:
        made = any(operand.tensor == cached.tensor for operator in graph.operators for operand in operator.outputs)
        # what makes the rows cuts them in two; rows that are given stay whole
        resident_row_bits = rotary_bits if made else row_bits
    return row_bits, resident_row_bits, weight_bits, graph.extents[cached.indices[-1]]


def expanded_tensors(groups: Mapping[str, AttentionGroup]) -> frozenset[str]:
    """Return the keys and values of all groups that expand them from cached rows."""
    return frozenset(tensor for group in groups.values() for tensor in group.expanded)
