"""The form of a model file: one layer, or several kinds of layers, each with the keys that its queries see.

    mask: causal | none     which keys a query sees; causal where it is left out, as in every decoder
    window: 4096            of these, at most so many, its own among them (sliding window)
    chunk: 8192             of these, those in the same stretch of so many tokens (chunked attention)

stand beside `attention`: at the top of the file where all layers are alike, else in each entry of `layer_kinds`, and
then `layer` names the kind that is simulated.
"""

from typing import Any, cast

from stream_mla.frontends.schema import FAILED, Failed, Reader, join, unstructure
from stream_mla.workload.spec import (
    Attention,
    GroupedQueryAttention,
    LatentAttention,
    LayerKind,
    Mask,
    Model,
    Precision,
)

KINDS = {"latent": LatentAttention, "grouped_query": GroupedQueryAttention}
"""The value of `attention.kind` in a model file."""

_SEEN: dict[str, Any] = {"mask": str, "window": int, "chunk": int}
"""Keys that say which keys a query sees, with what they hold; all may be left out."""
_COMMON: dict[str, Any] = {"name": str, "source": str}
_LAYER: dict[str, Any] = {"layers": int, "attention": Attention}


class ModelReader(Reader):
    """Reads models, whose masks and kinds of layers have a form of their own."""

    def __init__(self, file: str = "") -> None:
        """`file` starts each path."""
        super().__init__(KINDS, file)

    def dataclass(self, cls: Any, value: object, path: str) -> Any:
        """Read a model or a kind of layers in its own form, and all else as the base class does."""
        if cls is LayerKind:
            return self._with_mask(LayerKind, {"name": str, **_LAYER}, value, path)
        if cls is not Model:
            return super().dataclass(cls, value, path)
        own: dict[str, Any] = {"precision": Precision, "notes": tuple[str, ...]}
        if not (isinstance(value, dict) and "layer_kinds" in cast(dict[object, object], value)):
            return self._with_mask(Model, {**_COMMON, **_LAYER, **own}, cast(object, value), path)
        kinds: dict[str, Any] = {"layer_kinds": tuple[LayerKind, ...], "layer": str}
        values = self._fields({**_COMMON, **kinds, **own}, cast(object, value), path, ("notes", "layer"))
        return FAILED if isinstance(values, Failed) else self._of_kinds(values, path)

    def _with_mask(self, cls: Any, hints: dict[str, Any], value: object, path: str) -> Any:
        """Read a class that has a mask, whose keys stand beside its own."""
        values = self._fields({**hints, **_SEEN}, value, path, ("notes", *_SEEN))
        if isinstance(values, Failed):
            return FAILED
        mask = self._mask({key: values.pop(key) for key in _SEEN if key in values}, path)
        return FAILED if isinstance(mask, Failed) else self.construct(cls, {**values, "mask": mask}, path)

    def _mask(self, seen: dict[str, object], path: str) -> Mask | Failed:
        """Return the mask that the keys of a file describe."""
        causal = seen.pop("mask", "causal")
        if causal not in ("causal", "none"):
            return self.add(f"{causal!r} is not a mask: use causal or none", join(path, "mask"))
        return self.construct(Mask, {"causal": causal == "causal", **seen}, path)

    def _of_kinds(self, values: dict[str, object], path: str) -> Any:
        """Return the model of several kinds of layers, the first of them simulated unless `layer` names another."""
        kinds = cast(tuple[LayerKind, ...], values["layer_kinds"])
        if not kinds:
            return self.add("expected at least one kind of layers: add one", join(path, "layer_kinds"))
        layer = values.setdefault("layer", kinds[0].name)
        shown = next((kind for kind in kinds if kind.name == layer), None)
        if shown is None:
            known = ", ".join(kind.name for kind in kinds)
            return self.add(f"{layer!r} is no name of layer_kinds: use one of {known}", join(path, "layer"))
        of_all = {"layers": sum(kind.layers for kind in kinds), "attention": shown.attention, "mask": shown.mask}
        return self.construct(Model, {**values, **of_all}, path)


def unstructure_model(model: Model) -> dict[str, Any]:
    """Return the mapping that reads as `model`."""
    data: dict[str, Any] = {"name": model.name, "source": model.source}
    if model.layer_kinds:
        data["layer"] = model.layer
        data["layer_kinds"] = [{"name": kind.name, **_unstructured(kind)} for kind in model.layer_kinds]
    else:
        data |= _unstructured(model)
    data["precision"] = unstructure(model.precision, Precision, KINDS)
    if model.notes:
        data["notes"] = list(model.notes)
    return data


def _unstructured(layers: Model | LayerKind) -> dict[str, Any]:
    """Return what a file says of layers that are alike."""
    mask = layers.mask
    seen: dict[str, Any] = {"mask": "causal" if mask.causal else "none"}
    seen |= {key: value for key, value in (("window", mask.window), ("chunk", mask.chunk)) if value is not None}
    attention = unstructure(layers.attention, type(layers.attention), KINDS)
    return {"layers": layers.layers, "attention": attention, **seen}
