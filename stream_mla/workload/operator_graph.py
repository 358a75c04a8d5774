"""The operator graph: tensors and operators over named indices.

An operand names a tensor and, for each of its axes, the index that runs along it and the offset at which it
starts; so a slice, a concatenation and an append to the cache are operands, not operators. Edges are derived
from the tensors, never stored. The indices are defined once, here:

    b batch            q query token      k key token          h head
    g key-value group  j head of a group  d model dimension    e model dimension of the output
    r query rank       c kv rank          n no-position dim    p rotary dim     v value dim
    u row of a cache that is rotated in part: latents (c then p), or keys (n then p)
    f hidden dimension of a feed-forward network
    t chunk of keys    s split of keys    w the two softmax statistics (maximum, sum)
    o split of a contraction

`k`, `t`, `s`, `o` and `w` mean the same in every graph; graphs that are joined may give the others new letters.
`t` and `s` number the chunks and splits into which a tiling cuts the keys, and `o` the splits of a contraction's
reduced indices; uncut, all are 1. Which indices number the heads of attention is said by its fusion group.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from math import prod

import networkx as nx

from stream_mla.workload.fusion_group import CORE, FusionGroup, GroupRole
from stream_mla.workload.key_mask import KeyMask

PART = "o"
"""The index that numbers the splits of a contraction's reduced indices (split-K)."""
COUNTERS = ("t", "s", PART)
"""The indices that number chunks and splits instead of elements."""


class Role(StrEnum):
    """Why a tensor exists, which decides where it lives and how wide it is."""

    INPUT = "input"
    """The tensor is an input of the graph: it is read from DRAM."""
    WEIGHT = "weight"
    """The tensor is a weight: it is read from DRAM."""
    CACHE = "cache"
    """The tensor lies in DRAM: new rows are written there, and all rows are read from there."""
    ACTIVATION = "activation"
    """The tensor is made and used inside the graph."""
    PARTIAL = "partial"
    """The tensor is an activation that is not finished: partial sums and softmax statistics."""
    OUTPUT = "output"
    """The tensor is a result of the graph: it is written to DRAM."""


class Kind(StrEnum):
    """It is what an operator computes."""

    EINSUM = "einsum"
    """It contracts the first two inputs, and adds the addend, if there is one."""
    ATTEND = "attend"
    """It contracts softmax numerators and values into a running, rescaled sum (online softmax)."""
    SOFTMAX = "softmax"
    """It makes the numerators of one chunk of keys, with the chunk's maximum and sum."""
    MERGE = "merge"
    """It combines the splits of a context (split-KV), and normalises."""
    SUM = "sum"
    """It adds up the splits of a reduction (split-K)."""
    NORM = "norm"
    """It is RMSNorm over the last axis; its gain is folded into the next weight."""
    ROPE = "rope"
    """It rotates pairs (first half, second half) of the last axis by the token's position."""
    SILU = "silu"
    """It is the activation x sigmoid(x), element by element."""
    PRODUCT = "product"
    """It multiplies two tensors element by element."""
    GATE = "gate"
    """It multiplies the first input by the sigmoid of the second, element by element."""


CONTRACTIONS = (Kind.EINSUM, Kind.ATTEND)
"""The kinds that run on the MAC array; the others run on the vector unit."""
ELEMENTWISE = (Kind.SILU, Kind.PRODUCT)
"""The kinds that may be cut along every index: an element of the result needs one of each input."""


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A named array; `element_bits` is its width wherever it is stored or moved."""

    name: str
    shape: tuple[int, ...]
    role: Role
    element_bits: int

    @property
    def bits(self) -> int:
        """Size in bit."""
        return prod(self.shape) * self.element_bits


@dataclass(frozen=True)
class Operand:
    """A view of a tensor: axis i holds index `indices[i]`, shifted by `offsets[i]`."""

    tensor: str
    indices: tuple[str, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One step of the layer; uncut."""

    name: str
    kind: Kind
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    addend: Operand | None = None
    scale: float = 1.0
    """Softmax: the factor on the scores."""
    first_position: int = 0
    """RoPE: the position of query token 0."""
    state_width: int = 0
    """Softmax: elements per row of the running sum that a later chunk rescales."""
    group: str | None = None
    """The name of its fusion group; None where it is planned for itself."""
    role: GroupRole | None = None
    """Its part in that group."""

    @property
    def in_core(self) -> bool:
        """Whether it belongs to the core of its group, whose operators are tiled alike and run as one."""
        return self.role in CORE

    mask: KeyMask | None = None
    """Operators over queries and keys, or parts of them: what is hidden. No tile is made that is hidden as a whole."""

    def __post_init__(self) -> None:
        if self.mask is not None and ("q" not in self.indices or not {"k", "s"} & set(self.indices)):
            raise AssertionError(f"{self.name} has a mask, but not both queries and keys")

    @cached_property
    def indices(self) -> tuple[str, ...]:
        """All indices, outputs' first."""
        operands = (*self.outputs, *self.inputs)
        return tuple(dict.fromkeys(index for operand in operands for index in operand.indices))

    @cached_property
    def cuttable(self) -> tuple[str, ...]:
        """The indices that a tiling may cut: not the axis of a norm, RoPE or softmax statistic, nor attend's values."""
        whole = {*COUNTERS, "w"}
        if self.kind in (Kind.NORM, Kind.ROPE):
            whole.add(self.inputs[0].indices[-1])
        if self.kind is Kind.ATTEND:
            whole.add(self.outputs[0].indices[-1])
        return tuple(index for index in self.indices if index not in whole)

    @property
    def reads(self) -> tuple[Operand, ...]:
        """All operands read, the addend included."""
        return self.inputs if self.addend is None else (*self.inputs, self.addend)


@dataclass(frozen=True, kw_only=True)
class GemmIndices:
    """The indices of a contraction as a batched GEMM C[m,n] = A[m,k] B[k,n]; A is the first input."""

    batch: tuple[str, ...]
    m: tuple[str, ...]
    n: tuple[str, ...]
    k: tuple[str, ...]


def gemm_indices(operator: Operator) -> GemmIndices:
    """Sort the indices of a contraction into batch, m, n and k."""
    first, second = (operand.indices for operand in operator.inputs[:2])
    out = operator.outputs[0].indices
    return GemmIndices(
        batch=tuple(i for i in first if i in second and i in out),
        m=tuple(i for i in first if i not in second),
        n=tuple(i for i in second if i not in first),
        k=tuple(i for i in first if i in second and i not in out),
    )


@dataclass(frozen=True, kw_only=True)
class OperatorGraph:
    """A lowered layer, or several. Operators stand in a topological order."""

    scheme: str
    extents: Mapping[str, int]
    tensors: Mapping[str, Tensor]
    operators: tuple[Operator, ...]
    partial_bits: int
    local: frozenset[str]
    """Tensors that never leave the core that makes them (scores, and the composite of mla_rc)."""
    groups: Mapping[str, FusionGroup] = field(default_factory=dict[str, FusionGroup])
    """The fusion groups by name: none, one or several."""

    def __post_init__(self) -> None:
        self._verify_groups()
        made: set[str] = set()
        for operator in self.operators:
            for operand in operator.reads:
                tensor = self.tensors[operand.tensor]
                if tensor.role in (Role.ACTIVATION, Role.PARTIAL) and tensor.name not in made:
                    raise AssertionError(f"{operator.name} reads {tensor.name} before it is made")
            for operand in (*operator.reads, *operator.outputs):
                self._verify_operand(operator, operand)
            made.update(operand.tensor for operand in operator.outputs)

    def _verify_groups(self) -> None:
        seen: set[tuple[str, GroupRole]] = set()
        for operator in self.operators:
            group, role = operator.group, operator.role
            if (group is None) != (role is None):
                raise ValueError(f"{operator.name}: a fusion group and a role in it are given together")
            if group is None or role is None:
                continue
            if group not in self.groups:
                raise ValueError(f"{operator.name}: the graph has no fusion group {group}")
            if role is not GroupRole.NEIGHBOUR and (group, role) in seen:
                raise ValueError(f"{operator.name}: fusion group {group} has another operator in the role {role}")
            seen.add((group, role))

    @cached_property
    def intermediates(self) -> frozenset[str]:
        """The tensors that are made and read in the graph, a result that is read on among them; not the cache."""
        read = {operand.tensor for operator in self.operators for operand in operator.reads}
        return frozenset(
            name
            for name, tensor in self.tensors.items()
            if tensor.role in (Role.ACTIVATION, Role.PARTIAL) or (tensor.role is Role.OUTPUT and name in read)
        )

    def member(self, group: str | None, role: GroupRole) -> Operator | None:
        """Return the operator of a fusion group that has a role, or None where the graph has none."""
        return next((o for o in self.operators if o.group == group and o.role is role), None)

    def members(self, *roles: GroupRole) -> tuple[Operator, ...]:
        """Return the operators of all fusion groups that have one of some roles."""
        return tuple(operator for operator in self.operators if operator.role in roles)

    @cached_property
    def attention_groups(self) -> tuple[str, ...]:
        """The fusion groups whose softmax is part of the graph, in its order."""
        return tuple(o.group for o in self.members(GroupRole.SOFTMAX) if o.group is not None)

    def _verify_operand(self, operator: Operator, operand: Operand) -> None:
        shape = self.tensors[operand.tensor].shape
        if not len(shape) == len(operand.indices) == len(operand.offsets):
            raise AssertionError(f"{operator.name}: {operand} does not match the shape {shape}")
        for index, offset, size in zip(operand.indices, operand.offsets, shape, strict=True):
            if offset < 0 or offset + self.extents[index] > size:
                raise AssertionError(f"{operator.name}: {index} + {offset} runs past {size} of {operand.tensor}")

    @cached_property
    def edges(self) -> "nx.DiGraph[str]":
        """Who feeds whom: a frozen networkx graph of operator names; each edge carries its tensors."""
        graph: nx.DiGraph[str] = nx.DiGraph()
        graph.add_nodes_from((operator.name, {"operator": operator}) for operator in self.operators)
        for producer in self.operators:
            made = {operand.tensor for operand in producer.outputs}
            for consumer in self.operators:
                used = tuple(o.tensor for o in consumer.reads if o.tensor in made)
                if used and consumer is not producer:
                    graph.add_edge(producer.name, consumer.name, tensors=used)
        nx.freeze(graph)  # pyright: ignore[reportUnknownMemberType]  # untyped in the stubs
        return graph

    def macs(self, operator: Operator) -> int:
        """Multiply-accumulates of one operator, none of them for a hidden key; 0 for vector operators."""
        if operator.kind not in CONTRACTIONS:
            return 0
        first, second = operator.inputs[:2]
        indices = {*first.indices, *second.indices}
        if operator.mask is None:
            return prod(self.extents[index] for index in indices)
        return prod(self.extents[index] for index in indices - {"q", "k"}) * self.pairs(operator)

    def pairs(self, operator: Operator) -> int:
        """Pairs of a query and a key that an operator over both works on at least, for each of its other indices."""
        if operator.mask is None:
            return self.extents["q"] * self.extents["k"]
        return operator.mask.pairs(self.extents["q"])

    @property
    def total_macs(self) -> int:
        """Multiply-accumulates of the layer that no tiling can do without: a tile that is hidden in part has more."""
        return sum(self.macs(operator) for operator in self.operators)

    def bits_by_role(self) -> dict[Role, int]:
        """Bits of all tensors of each role."""
        roles = {tensor.role for tensor in self.tensors.values()}
        return {role: sum(t.bits for t in self.tensors.values() if t.role is role) for role in sorted(roles)}

    @property
    def dram_read_bits(self) -> int:
        """Bits read from DRAM once each: weights, input, all rows of the cache that some query attends to."""
        return sum(t.bits for t in self.tensors.values() if t.role in (Role.WEIGHT, Role.INPUT, Role.CACHE))

    @property
    def dram_write_bits(self) -> int:
        """Bits written to DRAM once each: the output and the new rows of the cache."""
        return sum(self.operand_bits(operand) for operand in self._dram_outputs())

    @property
    def operational_intensity_macs_per_byte(self) -> float:
        """MACs per byte that must cross the DRAM pins, intermediates kept on chip."""
        return self.total_macs / ((self.dram_read_bits + self.dram_write_bits) / 8)

    def operand_bits(self, operand: Operand) -> int:
        """Bits of the part of a tensor that an operand covers."""
        return prod(self.extents[i] for i in operand.indices) * self.tensors[operand.tensor].element_bits

    def _dram_outputs(self) -> Iterable[Operand]:
        return (
            operand
            for operator in self.operators
            for operand in operator.outputs
            if self.tensors[operand.tensor].role in (Role.OUTPUT, Role.CACHE)
        )
