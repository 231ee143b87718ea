"""Checks of model adapters, on a tiny model of the family and a batch for it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tokenreduce.adapter import ModelAdapter, claimed_by
from tokenreduce.errors import AdapterError, LayoutError
from tokenreduce.guards import check_model
from tokenreduce.layout import Layout, Role
from tokenreduce.plan import Plan
from tokenreduce.reducer import Reducer
from tokenreduce.testing.check import Check, require
from tokenreduce.testing.model_checks import state_of
from tokenreduce.testing.oracle import attach, check_against_oracle
from tokenreduce.view import View

NEW_TOKENS = 4


@dataclass(frozen=True, slots=True)
class AdapterCase:
    """An adapter with what it takes to try it.

    Attributes
    ----------
    adapter
        It need not be installed.
    model
        Makes a tiny random model of the family, in ``eval()`` mode and float32.
    inputs
        Makes a batch for it: ``input_ids`` and ``attention_mask``, padded on the left, and the
        pixels. Best of several rows, of which some have no video and some have two.
    save
        Writes the model to a folder, as a checkpoint that the adapter loads; by default what
        ``save_pretrained`` writes.
    """

    adapter: ModelAdapter
    model: Callable[[], Any]
    inputs: Callable[[], Mapping[str, Any]]
    save: Callable[[Any, Path], None] | None = None

    @property
    def name(self) -> str:
        """Name of the adapter."""
        return self.adapter.name

    def layout(self, inputs: Mapping[str, Any] | None = None, model: Any = None) -> Layout:
        """Return the layout of ``inputs``, by default its own."""
        return self.adapter.layout(model or self.model(), inputs or self.inputs())

    def decoder(self, model: Any) -> Any:
        """Return the decoder of a model."""
        return self.adapter.decoder(model)


class EverySecond(Reducer):
    """Drops every second token after each of a few layers."""

    name: ClassVar[str] = "every_second"
    layers: tuple[int, ...] = ()

    def acts_after(self, num_layers: int) -> tuple[int, ...]:
        """Return the layers that there are."""
        return tuple(layer for layer in self.layers if layer < num_layers)

    def plan(self, view: View) -> Plan | None:
        """Keep the first, the third, and so on."""
        return Plan.where(torch.arange(len(view)) % 2 == 0)


class Pairs(EverySecond):
    """Merges every two tokens of an item."""

    name: ClassVar[str] = "pairs"

    def plan(self, view: View) -> Plan | None:
        """Average neighbours in the sequence."""
        return Plan.windows(view.item, 2)


def claims_its_model(case: AdapterCase) -> None:
    """The adapter claims the model, and its decoder has layers that can be reduced between."""
    kinds: Any = case.adapter.model_types
    require(
        kinds and isinstance(kinds, tuple) and all(isinstance(kind, str) for kind in kinds),
        f"model_types is {kinds!r}: list the model_type of each configuration it is for",
    )
    model = case.model()
    found = getattr(model.config, "model_type", None)
    require(claimed_by(case.adapter, model), f"model_type '{found}' is not one of {kinds}")
    check_model(model, case.decoder(model))
    first, depth = case.adapter.first_layer(model), len(case.decoder(model).layers)
    require(-1 <= first < depth, f"first_layer() is {first} of {depth} layers")


def every_position_has_its_role(case: AdapterCase) -> None:
    """Padding is padding; grid tokens have a cell each, of their own; text has none."""
    inputs = case.inputs()
    layout = case.layout(inputs)
    ids, mask = inputs["input_ids"], inputs["attention_mask"].bool()
    require(layout.role.shape == ids.shape, f"the layout is {tuple(layout.role.shape)} in size")
    require(torch.equal(layout.role == int(Role.PAD), ~mask), "padding is not where the mask is 0")
    require(layout.has_grid, "no position is a grid token: do the inputs hold a video?")
    cells = torch.stack([layout.item, layout.frame, layout.row, layout.column], dim=-1)
    for sample, role in enumerate(layout.role):
        own = cells[sample][role == int(Role.GRID)]
        require(bool((own >= 0).all()), f"sample {sample}: a grid token has no item or no cell")
        single = len(set(map(tuple, own.tolist()))) == len(own)
        require(single, f"sample {sample}: two tokens share a cell")
        text = cells[sample][role <= int(Role.TEXT)]
        require(bool((text == -1).all()), f"sample {sample}: text or padding has an item or a cell")


def grid_tokens_are_where_the_pixels_go(case: AdapterCase) -> None:
    """With other pixels, the embeddings of exactly the grid (and CLS) tokens are others."""
    model, inputs = case.model(), case.inputs()
    layout = case.layout(inputs, model)
    changed = _changed(case, model, inputs, _noise(inputs))
    visual = (layout.role == int(Role.GRID)) | (layout.role == int(Role.CLS))
    for sample, (found, said) in enumerate(zip(changed, visual, strict=True)):
        require(
            torch.equal(found, said),
            f"sample {sample}: pixels reach positions {_listed(found & ~said)} that are not marked "
            f"as grid tokens, and do not reach {_listed(said & ~found)} that are",
        )


def frames_are_in_order(case: AdapterCase) -> None:
    """What changes with frame f of a video are the tokens of frame f, or of one group of frames."""
    model, inputs = case.model(), case.inputs()
    layout = case.layout(inputs, model)
    pixels = inputs["pixel_values_videos"]
    seen = -1
    for frame in range(pixels.shape[1]):
        other = pixels.clone()
        other[:, frame] += 1
        changed = _changed(case, model, inputs, {"pixel_values_videos": other})
        # A class token belongs to a frame and has no cell that says to which.
        numbers = sorted(set(layout.frame[changed & (layout.role != int(Role.CLS))].tolist()))
        require(
            len(numbers) == 1 and numbers[0] in (seen, seen + 1),
            f"frame {frame} of the pixels reaches tokens of the frames {numbers}",
        )
        seen = numbers[0]


def padding_shifts_the_layout(case: AdapterCase) -> None:
    """More padding in front moves every position, and changes nothing else."""
    inputs = dict(case.inputs())
    layout = case.layout(inputs)
    for name in ("input_ids", "attention_mask"):
        inputs[name] = torch.nn.functional.pad(inputs[name], (3, 0))
    shifted = case.layout(inputs)
    for name in ("role", "item", "frame", "row", "column"):
        before, after = getattr(layout, name), getattr(shifted, name)[:, 3:]
        require(torch.equal(before, after), f"3 tokens of padding change the {name} of tokens")


def cut_videos_are_refused(case: AdapterCase) -> None:
    """A video whose tokens are not whole frames is an error, not a shifted grid."""
    inputs = dict(case.inputs())
    grid = (case.layout(inputs).role == int(Role.GRID)).nonzero()
    ids = inputs["input_ids"].clone()
    row, column = grid[0].tolist()
    text = next(token for token in range(1, 1000) if not (ids == token).any())
    ids[row, column] = text
    try:
        case.layout({**inputs, "input_ids": ids})
    except (AdapterError, LayoutError):
        return
    require(
        False, "a video that lacks its first token is laid out: check that runs are whole grids"
    )


def encoding_once_gives_the_same_answer(case: AdapterCase) -> None:
    """Inputs from ``encode_video`` give the logits that the pixels give, and are encoded once."""
    model, inputs = case.model(), case.inputs()
    encoded = case.adapter.encode_video(model, inputs)
    with torch.no_grad():
        ours, theirs = model(**encoded).logits, model(**inputs).logits
    require(torch.allclose(ours, theirs, atol=1e-5), "encoded inputs give other logits")
    again = case.adapter.encode_video(model, encoded)
    require(again.keys() == encoded.keys(), "encode_video() changes inputs that are encoded")


def decoder_shape_is_the_models(case: AdapterCase) -> None:
    """The sizes that costs are computed from are those of the tensors."""
    model = case.model()
    shape = case.adapter.decoder_shape(model)
    with torch.no_grad():
        output = model(**case.inputs(), use_cache=True)
    keys = output.past_key_values.layers[0].keys
    found = (len(case.decoder(model).layers), keys.shape[1], keys.shape[3], output.logits.shape[-1])
    said = (shape.layers, shape.key_heads, shape.head_dim, shape.vocabulary)
    require(
        said == found,
        f"decoder_shape() says {said} layers, key heads, head_dim and vocabulary: it is {found}",
    )
    for number, layer in enumerate(case.decoder(model).layers):
        there = sum(weight.numel() for weight in layer.parameters() if weight.dim() > 1)
        counted = sum(m.inputs * m.outputs * m.stored for m in shape.matrices(number))
        require(
            abs(counted - there) <= 0.01 * there,
            f"decoder_shape() makes {counted} weights of layer {number}: there are {there}",
        )


def dropping_and_merging_are_exact(case: AdapterCase) -> None:
    """Through ``generate``, dropping equals masking and merging equals a dense average."""
    first = case.adapter.first_layer(case.model())
    layers = (first, first + 2)
    for reducer in (EverySecond(layers=layers), Pairs(layers=layers)):
        inputs = dict(case.inputs())
        check_against_oracle(case.model(), [reducer], inputs, new=NEW_TOKENS, adapter=case.adapter)


def keeping_all_changes_nothing(case: AdapterCase) -> None:
    """A session that removes nothing gives the model's own logits, and leaves nothing behind."""
    model, inputs = case.model(), case.inputs()
    with torch.no_grad():
        bare = model(**inputs).logits
        before = state_of(model)
        with attach(model, [EverySecond(layers=())], case.adapter):
            attached = model(**inputs).logits
    require(torch.equal(bare, attached), "logits differ under a reducer that removes nothing")
    require(state_of(model) == before, "hooks, attributes or settings stay on the model")


def missing_weights_are_named(case: AdapterCase) -> None:
    """Loading a checkpoint that lacks a tensor is an AdapterError that names it."""
    from safetensors.torch import load_file, save_file

    with tempfile.TemporaryDirectory(prefix="tokenreduce-") as folder:
        model = case.model()
        if case.save is None:
            model.save_pretrained(folder)
        else:
            case.save(model, Path(folder))
        files = {file: load_file(file) for file in sorted(Path(folder).rglob("*.safetensors"))}
        file, gone = next(
            (file, name)
            for file, weights in files.items()
            for name in weights
            if ".layers.1." in name and "mlp" in name
        )
        weights = files[file]
        del weights[gone]
        save_file(weights, file, metadata={"format": "pt"})
        said = ""
        try:
            case.adapter.load(Path(folder), dtype="float32", device="cpu")
        except AdapterError as error:
            said = str(error)
    wanted = gone.rpartition(".layers.")[2]
    require(wanted in said, f"load() does not name the missing '{gone}': {said or 'no error'}")


def _changed(
    case: AdapterCase, model: Any, inputs: Mapping[str, Any], other: Mapping[str, Tensor]
) -> Tensor:
    """Return ``[batch, tokens]``: where the decoder's input embeddings differ."""
    seen: list[Tensor] = []
    layer = case.decoder(model).layers[0]

    def record(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    hook = layer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        with torch.no_grad():
            model(**inputs)
            model(**{**inputs, **other})
    finally:
        hook.remove()
    valid: Tensor = inputs["attention_mask"].bool()
    return (seen[0] != seen[1]).any(dim=-1) & valid


def _noise(inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return other pixels: every floating-point input, disturbed.

    Zeros stay: some processors fill up batches with images of zeros, which models leave out.
    """
    generator = torch.Generator().manual_seed(0)
    return {
        name: value + torch.randn(value.shape, generator=generator) * (value != 0)
        for name, value in inputs.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _listed(flags: Tensor) -> list[int]:
    positions: list[int] = flags.nonzero().flatten().tolist()
    return positions


def _has_frames(case: AdapterCase) -> bool:
    pixels = case.inputs().get("pixel_values_videos")
    return pixels is not None and pixels.dim() == 5


ADAPTER_CHECKS = (
    Check(claims_its_model),
    Check(every_position_has_its_role),
    Check(grid_tokens_are_where_the_pixels_go),
    Check(frames_are_in_order, _has_frames),
    Check(padding_shifts_the_layout),
    Check(cut_videos_are_refused),
    Check(encoding_once_gives_the_same_answer),
    Check(decoder_shape_is_the_models),
    Check(dropping_and_merging_are_exact),
    Check(keeping_all_changes_nothing),
    Check(missing_weights_are_named),
)
