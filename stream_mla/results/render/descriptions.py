"""It says what people read of models and machines: how they were understood, and what follows from them."""

from collections.abc import Iterator, Sequence

from stream_mla.hardware.accelerator import Accelerator, CoreType
from stream_mla.units import digits, with_prefix
from stream_mla.workload.key_mask import first_key, key_mask_of
from stream_mla.workload.spec import LatentAttention, Mask, Model, Workload


def model_line(model: Model) -> str:
    """Describe a model in one line."""
    shape, precision = model.attention, model.precision
    bits = f"{precision.weights}/{precision.cache}/{precision.activations} bit weights/cache/activations"
    if isinstance(shape, LatentAttention):
        ranks = f"query rank {shape.query_rank or 'none'}, kv rank {shape.kv_rank}"
        heads = f"{shape.heads} heads of {shape.nope_dim} + {shape.rope_dim}, {ranks}"
        return f"MLA, {model.layers} layers, model dim {shape.model_dim}, {heads}, {_seen(model.mask)}{bits}"
    kind = "MHA" if shape.kv_heads == shape.heads else "MQA" if shape.kv_heads == 1 else "GQA"
    size = f"{shape.head_dim}" if shape.value_dim == shape.head_dim else f"{shape.head_dim} / {shape.value_dim}"
    heads = f"{shape.heads} heads of {size}, {shape.kv_heads} kv heads"
    return f"{kind}, {model.layers} layers, model dim {shape.model_dim}, {heads}, {_seen(model.mask)}{bits}"


def _seen(mask: Mask) -> str:
    """Say which keys a query sees, where that is not all up to its own, with a comma after it."""
    window = f"window {mask.window:,}, " if mask.window is not None else ""
    chunk = f"chunks of {mask.chunk:,}, " if mask.chunk is not None else ""
    return f"{'' if mask.causal else 'no mask, '}{window}{chunk}"


def mask_words(workload: Workload) -> str:
    """Name the mask of a step, with a comma before it; nothing where it changes nothing."""
    mask = workload.mask
    if key_mask_of(workload) is None and first_key(workload) == 0:
        return "" if workload.query_tokens == 1 else ", no mask"
    limits = (("window of", mask.window, "keys"), ("chunks of", mask.chunk, "tokens"))
    named = [f"{words} {size:,} {unit}" for words, size, unit in limits if size is not None]
    return f", causal mask{''.join(', ' + name for name in named)}"


def accelerator_line(accelerator: Accelerator) -> str:
    """Describe an accelerator in one line."""
    cores = len(accelerator.cores)
    peaks = ", ".join(f"{with_prefix(peak, 'MAC/s')} at {bits} bit" for bits, peak in peak_macs(accelerator).items())
    dram = (
        f"DRAM {with_prefix(accelerator.dram.bandwidth / 8, 'B/s')}, {with_prefix(accelerator.dram.capacity / 8, 'B')}"
    )
    return f"{cores} core{'s' * (cores > 1)}, {peaks}, {dram}"


def peak_macs(accelerator: Accelerator) -> dict[int, float]:
    """Return operand width in bit -> MAC/s of all arrays that have this width or, failing that, a wider one."""
    arrays = [core.type.array for core in accelerator.array_cores() if core.type.array is not None]
    widths = sorted({entry.operand for array in arrays for entry in array.precisions})
    peaks = dict.fromkeys(widths, 0.0)
    for array in arrays:
        for width in widths:
            if entry := array.precision(width):
                peaks[width] += array.elements * entry.macs_per_element * accelerator.clock
    return peaks


def model_facts(model: Model, parameters: Sequence[int]) -> Iterator[str]:
    """Yield what follows from a model, `parameters` being those of one layer of each of its kinds."""
    precision, kinds = model.precision, model.kinds
    weights = [number * precision.weights / 8 for number in parameters]
    caches = [kind.attention.cache_elements * precision.cache / 8 for kind in kinds]
    shown = next(number for number, kind in enumerate(kinds) if kind.name == model.layer)
    entries = kinds[shown].attention.cache_elements
    of = f"{model.layer} layer" if model.layer else "layer"
    yield f"parameters: {parameters[shown]:,} in one attention layer, {with_prefix(weights[shown], 'B')}"
    yield f"cache: {entries:,} elements per token and {of}, {caches[shown]:,.0f} B"
    layers = [kind.layers for kind in kinds]
    all_weights = sum(number * size for number, size in zip(layers, weights, strict=True))
    all_cache = sum(number * size for number, size in zip(layers, caches, strict=True))
    yield f"all {model.layers} layers: {with_prefix(all_weights, 'B')} of weights, " + (
        f"{with_prefix(all_cache, 'B')} of cache per token"
    )
    for kind in kinds:
        if kind.mask.window is not None:
            name = f"{kind.name} layers" if kind.name else "all layers"
            yield f"{name} read at most {kind.mask.window:,} tokens of their cache per query"


def accelerator_facts(accelerator: Accelerator) -> Iterator[str]:
    """Yield what follows from an accelerator."""
    arrays, vectors = len(list(accelerator.array_cores())), len(list(accelerator.vector_cores()))
    yield f"cores: {len(accelerator.cores)}, of which {arrays} with an array and {vectors} with a vector unit"
    for bits, peak in peak_macs(accelerator).items():
        ridge = peak / (accelerator.dram.bandwidth / 8)
        yield f"peak at {bits} bit: {with_prefix(peak, 'MAC/s')}; ridge: {digits(ridge)} MAC/B of DRAM traffic"
    lanes = sum(core.type.vector.operations_per_cycle for core in accelerator.vector_cores() if core.type.vector)
    yield f"vector units: {with_prefix(lanes * accelerator.clock, 'op/s')}"
    yield f"SRAM: {with_prefix(sum(core.type.sram.capacity for core in accelerator.cores) / 8, 'B')} in all cores"
    yield f"DRAM: {digits(accelerator.per_cycle(accelerator.dram.bandwidth) / 8)} B/cycle"


def core_facts(core: CoreType) -> Iterator[str]:
    """Yield what follows from a core type."""
    for entry in core.array.precisions if core.array else ():
        assert core.array is not None
        macs = core.array.elements * entry.macs_per_element
        yield f"peak at {entry.operand} bit: {macs:,.10g} MAC/cycle"
    if core.vector:
        yield f"vector unit: {core.vector.operations_per_cycle:,} op/cycle"
    yield f"SRAM: {core.sram.capacity // 8:,} B, {core.sram.read_bandwidth / 8:,.10g} B/cycle read"


def described(text: str, facts: Iterator[str]) -> str:
    """Return YAML `text` with what follows from it as comments, so that the whole still loads."""
    return "\n".join([text.rstrip("\n"), *(f"# {fact}" for fact in facts)])
