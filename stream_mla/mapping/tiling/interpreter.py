"""Run a cut graph in numpy, tile by tile: the proof that a lowering and its tiling compute what they should.

An uncut graph is the same with one tile per operator. Everything is in float64.
"""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from stream_mla.mapping.tiling.tile_graph import Tile, TileGraph
from stream_mla.mapping.tiling.tile_work import region
from stream_mla.workload.operator_graph import COUNTERS, PART, Kind, Operand, Operator

Floats = NDArray[np.float64]

ROPE_BASE = 10_000.0
RMS_EPSILON = 1e-6
LOWEST = -1e300
"""The maximum of no scores: finite, as the difference of two infinities is none."""


def rms_norm(x: Floats) -> Floats:
    """RMSNorm over the last axis, with gain 1."""
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + RMS_EPSILON)


def rope(x: Floats, positions: Floats) -> Floats:
    """Rotate the pairs (first half, second half) of the last axis; `positions` broadcasts over the others."""
    half = x.shape[-1] // 2
    angle: Floats = positions[..., None] * np.power(ROPE_BASE, -np.arange(half, dtype=np.float64) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def silu(x: Floats) -> Floats:
    """Return x sigmoid(x), element by element."""
    return x / (1 + np.exp(-x))


def execute(tile_graph: TileGraph, given: Mapping[str, Floats]) -> dict[str, Floats]:
    """Run all tiles in order over `given` inputs, weights and old cache rows; return all tensors."""
    arrays = {
        name: np.array(given[name], dtype=np.float64) if name in given else np.full(shape, np.nan)
        for name, shape in tile_graph.shapes.items()
    }
    _leave_out_hidden(tile_graph, arrays)
    operators = {operator.name: operator for operator in tile_graph.graph.operators}
    for tile in tile_graph.tiles:
        _RUN[tile.kind](operators[tile.operator], tile, arrays)
    return arrays


def _leave_out_hidden(tile_graph: TileGraph, arrays: Mapping[str, Floats]) -> None:
    """Fill the blocks that no tile makes, as all in them is hidden, with what adds nothing to a softmax."""
    empty = {o.tensor: o for operator in tile_graph.graph.operators if operator.mask for o in operator.outputs}
    for block, maker in zip(tile_graph.blocks, tile_graph.maker, strict=True):
        if maker < 0 and block.tensor in empty:
            cells = arrays[block.tensor][tuple(slice(low, high) for low, high in block.box)]
            cells[...] = 0
            if "w" in empty[block.tensor].indices:
                cells[..., 0] = LOWEST


def _view(operand: Operand, tile: Tile, arrays: Mapping[str, Floats]) -> Floats:
    return arrays[operand.tensor][tuple(slice(low, high) for low, high in region(operand, tile.box))]


def _contract(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> Floats:
    first, second = operator.inputs[:2]
    out = [index for index in operator.outputs[0].indices if index not in COUNTERS]
    equation = f"{''.join(first.indices)},{''.join(second.indices)}->{''.join(out)}"
    return np.einsum(equation, _view(first, tile, arrays), _view(second, tile, arrays))


def _einsum(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    product = _contract(operator, tile, arrays)
    out = _view(operator.outputs[0], tile, arrays)
    if tile.step:
        out += product
    elif operator.addend is not None:
        out[...] = product + _view(operator.addend, tile, arrays)
    else:
        out[...] = product


def _softmax(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    scores = _view(operator.inputs[0], tile, arrays) * operator.scale
    if operator.mask is not None:
        hidden = operator.mask.hides(np.arange(*tile.box["q"]), np.arange(*tile.box["k"]))
        axes = [size if i in "qk" else 1 for i, size in zip(operator.inputs[0].indices, scores.shape, strict=True)]
        scores = np.where(hidden.reshape(axes), -np.inf, scores)
    top = np.maximum(scores.max(axis=-1, keepdims=True), LOWEST)  # a chunk may be masked as a whole
    numerators = np.exp(scores - top)
    _view(operator.outputs[0], tile, arrays)[...] = numerators
    statistics = np.stack([top, numerators.sum(axis=-1, keepdims=True)], axis=-1)
    _view(operator.outputs[1], tile, arrays)[...] = statistics


def _attend(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    product = _contract(operator, tile, arrays)[..., None, :]
    chunk = _view(operator.inputs[2], tile, arrays)
    context = _view(operator.outputs[0], tile, arrays)
    state = _view(operator.outputs[1], tile, arrays)
    if not tile.step:
        context[...] = 0
        state[..., 0] = LOWEST
        state[..., 1] = 0
    top = np.maximum(state[..., 0], chunk[..., 0])
    old, new = np.exp(state[..., 0] - top), np.exp(chunk[..., 0] - top)
    context[...] = context * old[..., None] + product * new[..., None]
    state[..., 1] = state[..., 1] * old + chunk[..., 1] * new
    state[..., 0] = top


def _merge(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    parts = _view(operator.inputs[0], tile, arrays)
    state = _view(operator.inputs[1], tile, arrays)
    weight = np.exp(state[..., 0] - state[..., 0].max(axis=-1, keepdims=True))
    total = (weight * state[..., 1]).sum(axis=-1)
    _view(operator.outputs[0], tile, arrays)[...] = (parts * weight[..., None]).sum(axis=-2) / total[..., None]


def _sum(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    source = operator.inputs[0]
    parts = _view(source, tile, arrays)
    _view(operator.outputs[0], tile, arrays)[...] = parts.sum(axis=source.indices.index(PART))


def _norm(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    _view(operator.outputs[0], tile, arrays)[...] = rms_norm(_view(operator.inputs[0], tile, arrays))


def _rope(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    indices = operator.inputs[0].indices[:-1]
    shape = [-1 if index == "q" else 1 for index in indices]
    positions = (np.arange(*tile.box["q"]) + operator.first_position).reshape(shape).astype(np.float64)
    _view(operator.outputs[0], tile, arrays)[...] = rope(_view(operator.inputs[0], tile, arrays), positions)


def _silu(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    _view(operator.outputs[0], tile, arrays)[...] = silu(_view(operator.inputs[0], tile, arrays))


def _product(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    first, second = (_view(operand, tile, arrays) for operand in operator.inputs)
    _view(operator.outputs[0], tile, arrays)[...] = first * second


def _gate(operator: Operator, tile: Tile, arrays: Mapping[str, Floats]) -> None:
    source, gate = (_view(operand, tile, arrays) for operand in operator.inputs)
    _view(operator.outputs[0], tile, arrays)[...] = source / (1 + np.exp(-gate))


_RUN: Mapping[Kind, Callable[[Operator, Tile, Mapping[str, Floats]], None]] = {
    Kind.EINSUM: _einsum,
    Kind.ATTEND: _attend,
    Kind.SOFTMAX: _softmax,
    Kind.MERGE: _merge,
    Kind.SUM: _sum,
    Kind.NORM: _norm,
    Kind.ROPE: _rope,
    Kind.SILU: _silu,
    Kind.PRODUCT: _product,
    Kind.GATE: _gate,
}
