"""Graphs one after the other: the result of each is the input of the next.

A stack of attention layers, an attention layer and its feed-forward network, or products in a row are made of their
parts. Residual sums and the norms between layers are not modelled.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from string import ascii_letters

from stream_mla.workload.fusion_group import FusionGroup
from stream_mla.workload.operator_graph import COUNTERS, Operand, Operator, OperatorGraph, Role, Tensor

FIXED = frozenset({"b", "q", "k", "w", *COUNTERS})
"""The indices that mean the same in every graph, so that all parts of a sequence must have as much of them."""

_Change = Callable[[Operand], Operand]


def in_sequence(**graphs: OperatorGraph) -> OperatorGraph:
    """Return the graph of all of these, in their order.

    Operators, tensors and fusion groups are called PART.NAME, as in `in_sequence(first=gemm(...), second=gemm(...))`.
    An index of which a later graph has another extent gets a letter that is free. ValueError where the tokens, or the
    shapes of a result and the next input, do not fit.
    """
    if not graphs:
        raise ValueError("a sequence needs at least one graph")
    parts: dict[str, OperatorGraph] = {}
    extents: dict[str, int] = {}
    taken = {index for graph in graphs.values() for index in graph.extents}
    for name, graph in graphs.items():
        parts[name] = _named(name, _relettered(name, graph, extents, taken))
        extents |= parts[name].extents
    tensors, operators = _linked(parts)
    if len({graph.partial_bits for graph in graphs.values()}) > 1:
        raise ValueError(f"{' and '.join(graphs)} differ in the bits of partial sums")
    groups = {name: group for graph in parts.values() for name, group in graph.groups.items()}
    return OperatorGraph(
        scheme=" then ".join(dict.fromkeys(graph.scheme for graph in graphs.values())),
        extents=extents,
        tensors=tensors,
        operators=operators,
        partial_bits=next(iter(graphs.values())).partial_bits,
        local=frozenset(tensor for graph in parts.values() for tensor in graph.local),
        groups=groups,
    )


def _relettered(name: str, graph: OperatorGraph, extents: Mapping[str, int], taken: set[str]) -> OperatorGraph:
    """Return a graph whose indices agree with the extents of those before it; `taken` are letters that are in use."""
    letters: dict[str, str] = {}
    free = (letter for letter in reversed(ascii_letters) if letter not in taken | set(extents))
    for index, extent in graph.extents.items():
        letters[index] = index
        if extents.get(index, extent) == extent:
            continue
        if index in FIXED:
            raise ValueError(f"{name} has {extent} of index {index}, what comes before it has {extents[index]}")
        known = (i for i, e in extents.items() if e == extent and i not in {*graph.extents, *letters.values(), *FIXED})
        letter = next(known, None) or next(free, None)
        if letter is None:
            raise ValueError(f"{name}: all letters for indices are taken")
        letters[index] = letter

    def operand(old: Operand) -> Operand:
        return replace(old, indices=tuple(letters[index] for index in old.indices))

    return replace(
        graph,
        extents={letters[index]: extent for index, extent in graph.extents.items()},
        operators=tuple(_mapped(operator, operand) for operator in graph.operators),
        groups={key: FusionGroup(heads=tuple(letters[i] for i in group.heads)) for key, group in graph.groups.items()},
    )


def _named(name: str, graph: OperatorGraph) -> OperatorGraph:
    """Return a graph whose operators, tensors and groups are named after the part of the sequence."""

    def operand(old: Operand) -> Operand:
        return replace(old, tensor=f"{name}.{old.tensor}")

    return replace(
        graph,
        tensors={f"{name}.{key}": replace(tensor, name=f"{name}.{key}") for key, tensor in graph.tensors.items()},
        operators=tuple(
            replace(
                _mapped(operator, operand),
                name=f"{name}.{operator.name}",
                group=None if operator.group is None else f"{name}.{operator.group}",
            )
            for operator in graph.operators
        ),
        local=frozenset(f"{name}.{tensor}" for tensor in graph.local),
        groups={f"{name}.{key}": group for key, group in graph.groups.items()},
    )


def _mapped(operator: Operator, operand: _Change) -> Operator:
    """Return an operator with every operand changed."""
    return replace(
        operator,
        inputs=tuple(operand(entry) for entry in operator.inputs),
        outputs=tuple(operand(entry) for entry in operator.outputs),
        addend=None if operator.addend is None else operand(operator.addend),
    )


def _linked(parts: Mapping[str, OperatorGraph]) -> tuple[dict[str, Tensor], tuple[Operator, ...]]:
    """Return the tensors and operators of all parts; each part but the first reads what the one before makes."""
    tensors: dict[str, Tensor] = {}
    operators: list[Operator] = []
    before: Tensor | None = None
    for name, graph in parts.items():
        given = {} if before is None else {_only(name, graph, Role.INPUT).name: before}
        for old, new in given.items():
            if graph.tensors[old].shape != new.shape:
                raise ValueError(f"{old} is {graph.tensors[old].shape}, and {new.name} before it is {new.shape}")
            tensors[new.name] = replace(new, role=Role.ACTIVATION)

        def operand(old: Operand, given: Mapping[str, Tensor] = given) -> Operand:
            return replace(old, tensor=given[old.tensor].name) if old.tensor in given else old

        tensors |= {key: tensor for key, tensor in graph.tensors.items() if key not in given}
        operators += [_mapped(operator, operand) for operator in graph.operators]
        before = _only(name, graph, Role.OUTPUT)
    return tensors, tuple(operators)


def _only(name: str, graph: OperatorGraph, role: Role) -> Tensor:
    """Return the one tensor of a role."""
    found = [tensor for tensor in graph.tensors.values() if tensor.role is role]
    if len(found) != 1:
        raise ValueError(f"{name} has {len(found)} tensors of the role {role}, a part of a sequence has one")
    return found[0]
