"""The order in which one core could run all tiles: each when it is first needed.

Depth-first from the results backwards, so that an input is made just before its first use, with two exceptions:

- the tiles of a fused group (joined by a tensor that never leaves its core) and the steps of a chain follow
  each other without a break, after everything they need from outside; so do fused groups that are `related_group`;
- chains named `eager`, whose unfinished sums are small, add each input as soon as it is there; and operators named
  `merging` run as soon as they can, because what they make is smaller than what they free (merges).
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Protocol


class Step(Protocol):
    """It is what the order needs to know of a tile."""

    @property
    def operator(self) -> str:
        """Name of its operator."""
        ...

    @property
    def chain(self) -> int:
        """Its chain."""
        ...


def successors(predecessors: Sequence[Iterable[int]]) -> tuple[tuple[int, ...], ...]:
    """Return what waits for each of these, in their order."""
    found: list[list[int]] = [[] for _ in predecessors]
    for number, before in enumerate(predecessors):
        for other in before:
            found[other].append(number)
    return tuple([tuple(waiting) for waiting in found])


class _Order:
    def __init__(
        self, predecessors: Sequence[Sequence[int]], is_eager: Sequence[bool], in_fused: Sequence[bool]
    ) -> None:
        self.predecessors, self.is_eager, self.in_fused = predecessors, is_eager, in_fused
        self.waiting = [len(before) for before in predecessors]
        self.successors = successors(predecessors)
        self.done = [False] * len(predecessors)
        self.order: list[int] = []
        self.later: list[int] = []
        """Eager tiles that a fused group made ready; they follow the group."""

    def emit(self, first: int, within: AbstractSet[int] | None) -> None:
        """Append a tile, and the eager tiles that it makes ready."""
        stack = [first]
        while stack:
            number = stack.pop()
            if self.done[number]:
                continue
            self.done[number] = True
            self.order.append(number)
            for other in reversed(self.successors[number]):
                self.waiting[other] -= 1
                if self.waiting[other] or not self.is_eager[other]:
                    continue
                if within is not None and other in within:
                    stack.append(other)
                elif not self.in_fused[other]:  # a tile of another fused group waits for its group
                    (stack if within is None else self.later).append(other)

    def demand(self, target: int, within: AbstractSet[int]) -> None:
        """Emit what a tile needs from `within`, depth first, then the tile itself."""
        stack = [(target, iter(self.predecessors[target]))]
        entered = {target}
        while stack:
            number, rest = stack[-1]
            other = next((o for o in rest if o in within and not self.done[o] and o not in entered), None)
            if other is None:
                self.emit(number, within)
                stack.pop()
            else:
                entered.add(other)
                stack.append((other, iter(self.predecessors[other])))


def demand_order(
    tiles: Sequence[Step],
    predecessors: Sequence[Collection[int]],
    groups: Sequence[int],
    eager: AbstractSet[str],
    merging: AbstractSet[str],
    related_group: Sequence[int] | None = None,
) -> list[int]:
    """Return tile numbers in the order of the module docstring; `groups` numbers the fused group of each tile.

    `related_group` numbers what fused groups have in common: those of one number follow each other.
    """
    members: dict[int, list[int]] = defaultdict(list)
    for number, group in enumerate(groups):
        members[group].append(number)
    length: dict[int, int] = defaultdict(int)
    for tile in tiles:
        length[tile.chain] += 1
    is_eager = [length[tile.chain] > 1 for tile in tiles]
    # the step before comes first, so that the inputs of a chain are asked for in the order of its steps
    ordered = [
        sorted(before, key=lambda other, chain=tile.chain: (tiles[other].chain != chain, other))
        for tile, before in zip(tiles, predecessors, strict=True)
    ]
    in_fused = [False] * len(tiles)
    nodes: list[list[int]] = []
    for group in members.values():
        fused = len({tiles[number].chain for number in group}) > 1
        loose = not fused and tiles[group[0]].operator in eager
        nodes += [[number] for number in group] if loose else [group]
        for number in group:
            in_fused[number] = fused
            is_eager[number] = (is_eager[number] and (fused or loose)) or tiles[number].operator in merging
    node_of = {number: node for node, group in enumerate(nodes) for number in group}
    related: dict[int, list[int]] = defaultdict(list)
    if related_group is not None:
        for node, group in enumerate(nodes):
            if in_fused[group[0]]:
                related[related_group[group[0]]].append(node)
    after = {node: group for group in related.values() for node in group if len(group) > 1}
    return _walk(nodes, node_of, _Order(ordered, is_eager, in_fused), after)


def _walk(
    nodes: Sequence[list[int]], node_of: dict[int, int], order: _Order, related_group: Mapping[int, Sequence[int]]
) -> list[int]:
    """Visit the nodes depth first from those that feed nothing, and after each one its kin."""
    needs = [
        list(dict.fromkeys(node_of[b] for n in group for b in order.predecessors[n] if node_of[b] != node))
        for node, group in enumerate(nodes)
    ]
    used = {other for before in needs for other in before}
    entered = [False] * len(nodes)
    for root in (node for node in range(len(nodes)) if node not in used):
        stack = [(root, iter(needs[root]))]
        entered[root] = True
        while stack:
            node, rest = stack[-1]
            other = next((o for o in rest if not entered[o]), None)
            if other is not None:
                entered[other] = True
                stack.append((other, iter(needs[other])))
                continue
            stack.pop()
            group = nodes[node]
            if len(group) == 1:
                order.emit(group[0], None)
            else:
                within = frozenset(group)
                for number in group:
                    if not order.done[number] and not any(o in within for o in order.successors[number]):
                        order.demand(number, within)
                for number in order.later:
                    order.emit(number, None)
                order.later.clear()
            following = next((o for o in related_group.get(node, ()) if not entered[o]), None)
            if following is not None:
                entered[following] = True
                stack.append((following, iter(needs[following])))
    if len(order.order) != len(node_of):
        raise AssertionError("the tiles depend on each other in a circle")
    return order.order
