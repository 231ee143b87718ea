"""The context manager: attaches reducers to a model's prefill, and leaves nothing behind."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from tokenreduce.adapter import ModelAdapter
from tokenreduce.apply import Tokens
from tokenreduce.attention import Probe, require_supported, wrapped_attention
from tokenreduce.branch import Branch, passed_through
from tokenreduce.cache import ReducedCache
from tokenreduce.course import Course, Variant, stages
from tokenreduce.errors import AdapterError, UnsupportedError
from tokenreduce.forwards import embedding_bytes, fitted, seed_bytes
from tokenreduce.guards import (
    check_blocks,
    check_forward,
    check_generate,
    check_model,
    check_output,
    check_training,
    new_cache_allowed,
)
from tokenreduce.layout import Layout
from tokenreduce.masks import layer_windows, sequence_mask
from tokenreduce.positions import check_policy, rotary_of
from tokenreduce.reducer import Reducer
from tokenreduce.scheduler import Prefill, Surroundings
from tokenreduce.step import MakePrefill, Step
from tokenreduce.trace import Trace
from tokenreduce.trace_builder import Finished, build_trace


class Run:
    """What a ``with tokenreduce.reduce(...)`` block yields: the handle on what happened inside."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def traces(self) -> list[Trace]:
        """Traces of all prefills with visual tokens in this block, oldest first."""
        return self._session.traces()

    @property
    def trace(self) -> Trace:
        """The trace of the latest prefill that had visual tokens.

        Raises
        ------
        UnsupportedError
            If there was none.
        """
        traces = self.traces
        if not traces:
            raise UnsupportedError(
                "there is no trace: no prefill with visual tokens has run inside this block."
            )
        return traces[-1]

    @property
    def logit_positions(self) -> list[list[int]]:
        """Per sample, the original position of each row of the latest prefill's logits.

        -1 marks padding. Applies to a bare ``forward``, whose logits are those of the positions
        that are left.
        """
        finished = self._session.finished
        return finished[-1].logit_positions() if finished else []


class Session:
    """Everything that is attached to one model while its block is open.

    Parameters
    ----------
    model, adapter
        The model, and what knows its family.
    reducers, seed
        Composed in order, and the seed of their random choices.
    layout, positions
        See :func:`tokenreduce.reduce`.
    others
        More lists of reducers for the same prompts. A prefill serves the first list and all those
        that make equal plans; the others are left in :attr:`branches`, and :meth:`resume` has the
        next prefill go on with one of these instead of starting anew.

    Attributes
    ----------
    branches
        Prefills that have parted from others and are still to be run.
    finished
        What ran, one for each variant that a prefill served.
    errors
        What the reducers of a variant raised, by its number, where the prefill went on for others.
    """

    def __init__(
        self,
        model: nn.Module,
        adapter: ModelAdapter,
        reducers: Sequence[Reducer],
        *,
        seed: int = 0,
        layout: Layout | None = None,
        positions: str = "keep",
        others: Sequence[Variant] = (),
    ) -> None:
        self.model, self.adapter, self.layout = model, adapter, layout
        decoder: Any = adapter.decoder(model)
        self.decoder = decoder
        check_model(model, decoder)
        self.layers: Sequence[nn.Module] = decoder.layers
        # The part without the language head may be called by itself.
        inner = getattr(model, "base_model", model)
        self._outer = [model] if inner in (model, decoder) else [model, inner]
        self.config: Any = decoder.config
        self.rotary = rotary_of(decoder)
        self.windows = layer_windows(self.config, len(self.layers))
        self._check_not_nested()
        require_supported(self.config._attn_implementation)
        first = adapter.first_layer(model)
        self.variants = [
            (stages(variant.reducers, len(self.layers), first), variant.seed)
            for variant in (Variant(reducers, seed), *others)
        ]
        self.positions = check_policy(positions, self.config)
        self.shape = adapter.decoder_shape(model)
        self.probe = Probe()
        self.open = False
        self.step: Step | None = None
        self.finished: list[Finished] = []
        self.branches: list[Branch] = []
        self._next: Branch | None = None
        self.errors: dict[int, Exception] = {}
        self._skipping = ExitStack()
        self._traces: list[Trace] = []
        self._forward: dict[str, Any] = {}
        self._logits = 0
        self._thread = get_ident()
        self._generate: dict[str, Any] = {}

    @contextmanager
    def attached(self) -> Iterator[Run]:
        """Attach to the model; detach when the block ends, however it ends."""
        with ExitStack() as stack:
            needs = [stage.needs for chosen, _ in self.variants for stage in chosen]
            if any(need.attention or need.keys or need.next_layer for need in needs):
                stack.enter_context(wrapped_attention(self.config, self.probe))
            self._wrap_generate(stack)
            for module, before in (
                *((outer, self._before_model) for outer in self._outer),
                (self.decoder, self._before_decoder),
                *((layer, LayerHook(self, k)) for k, layer in enumerate(self.layers)),
            ):
                hook = module.register_forward_pre_hook(before, with_kwargs=True)
                stack.callback(hook.remove)
            # Called after a failure as well, so that nothing of a broken forward is kept.
            after = self.decoder.register_forward_hook(self._after_decoder, always_call=True)
            stack.callback(after.remove)
            for outer in self._outer:
                done = outer.register_forward_hook(self._after_model, always_call=True)
                stack.callback(done.remove)
            stack.callback(self.layers[0].register_forward_hook(check_output).remove)
            self.open = True
            try:
                yield Run(self)
            finally:
                self.open = False
                self._forget()

    def traces(self) -> list[Trace]:
        """Return the traces of all finished prefills; each is built once, when first asked for."""
        while len(self._traces) < len(self.finished):
            self._traces.append(build_trace(self.finished[len(self._traces)]))
        return list(self._traces)

    def resume(self, branch: Branch) -> None:
        """Have the next prefill, of the same inputs, go on at ``branch``."""
        self._next = branch

    def _check_not_nested(self) -> None:
        hooks = self.layers[0]._forward_pre_hooks.values()
        if any(isinstance(hook, LayerHook) for hook in hooks):
            raise UnsupportedError(
                f"{type(self.model).__name__} is inside another tokenreduce.reduce(...) block: "
                "give one block a list of reducers instead, they act in its order."
            )

    def _wrap_generate(self, stack: ExitStack) -> None:
        """Put a check in front of ``generate``, so that refusals come before any compute."""
        original = getattr(self.model, "generate", None)
        if original is None:
            return
        own = self.model.__dict__
        shadowed = own.get("generate")
        names = list(inspect.signature(original).parameters)

        def generate(*args: Any, **kwargs: Any) -> Any:
            named = {**dict(zip(names, args, strict=False)), **kwargs}
            check_generate(self.model, named)
            self._generate = named
            try:
                return original(*args, **kwargs)
            finally:
                self._generate = {}

        def restore() -> None:
            if shadowed is None:
                own.pop("generate", None)
            else:
                own["generate"] = shadowed

        own["generate"] = generate
        stack.callback(restore)

    def _before_model(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        check_training(self.model)
        names = inspect.signature(module.forward).parameters if args else ()
        if module is self.model:
            self._forward = {}
        self._forward |= {**dict(zip(names, args, strict=False)), **kwargs}

    def _after_model(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forward = {}

    def _before_decoder(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        # An interrupted forward leaves its step behind: only one of another thread is in the way.
        if self.step is not None and self._thread != get_ident():
            raise UnsupportedError(
                f"{type(self.model).__name__} is running another forward in this block: reduction "
                "keeps one prefill at a time, so let threads take turns."
            )
        self._thread = get_ident()
        self._forget()
        forward, self._forward = self._forward, {}
        mask = sequence_mask(kwargs.get("attention_mask"), forward)
        embeds = kwargs.get("inputs_embeds")
        tokens = (
            embeds if embeds is not None else kwargs.get("input_ids", args[0] if args else None)
        )
        if tokens is None:
            return args, kwargs
        if embeds is None:
            forward = {"input_ids": tokens, **forward}
        cache = self._cache(kwargs)
        past = cache.length if cache else 0
        count = tokens.shape[1]
        check_forward(forward, mask, past, count)
        if mask is None:
            valid = torch.ones(
                tokens.shape[0], past + count, dtype=torch.bool, device=tokens.device
            )
        else:
            valid = mask.to(tokens.device).bool()
        make, blocks, branch = None, None, self._next
        if branch is not None:
            self._next = None
            branch.check(valid, past)
            blocks, make = branch.blocks, self._going_on(branch, cache)
        else:
            layout = self._layout(forward, valid[:, past:], past)
            if layout is not None and layout.has_grid:
                blocks = self._blocks(forward, layout)
                ids = seed_bytes(forward.get("input_ids"), layout)
                layout = layout.to(tokens.device).with_last_kept(valid[:, past:])
                make = self._prefill_maker(layout, valid[:, past:], past, ids)
        self.step = Step(
            cache,
            valid,
            past,
            self.config._attn_implementation,
            make,
            self.positions,
            self.rotary,
            self.windows,
            blocks,
            branch,
        )
        keep = forward.get("logits_to_keep")
        self._logits = keep if isinstance(keep, int) else 0
        return args, {**kwargs, "past_key_values": cache}

    def _cache(self, kwargs: dict[str, Any]) -> ReducedCache | None:
        given: Any = kwargs.get("past_key_values")
        if not new_cache_allowed(given):
            cache: ReducedCache = given
            return cache
        use = kwargs.get("use_cache")
        if use is None:
            use = getattr(self.config, "use_cache", True)
        if not use:
            return None
        empty = DynamicCache(config=self.config) if given is None else given
        return ReducedCache.adopt(empty, len(self.layers), lambda: self.open)

    def _layout(self, forward: dict[str, Any], valid: Tensor, past: int) -> Layout | None:
        """Return where the visual tokens of this forward sit; None for a decode step."""
        batch, count = valid.shape
        if past and count == 1:
            return None
        if self.layout is not None and not past:
            return fitted(self.layout, valid, bool(self._generate))
        ids = forward.get("input_ids")
        if ids is None:
            raise AdapterError(
                "this forward was given no input_ids, so where its visual tokens sit is unknown: "
                "pass tokenreduce.reduce(..., layout=Layout.video(...)) with inputs_embeds."
            )
        # generate repeats its rows for beams and returned sequences after encoding the videos.
        prompts = (self._generate.get(name) for name in _PROMPTS)
        asked = next((prompt for prompt in prompts if prompt is not None), ids)
        repeats = max(1, batch // asked.shape[0])
        inputs = {**self._generate, **{k: v for k, v in forward.items() if v is not None}}
        inputs |= {"input_ids": ids[::repeats], "attention_mask": valid[::repeats].long()}
        return fitted(self.adapter.layout(self.model, inputs), valid, repeats > 1)

    def _blocks(self, forward: dict[str, Any], layout: Layout) -> Tensor | None:
        """Return which of this forward's tokens see each other, ``[batch, tokens]``, or None."""
        inputs = {k: v for k, v in forward.items() if v is not None}
        blocks = self.adapter.blocks(self.model, {**self._generate, **inputs}, layout)
        if blocks is None:
            return None
        check_blocks(blocks, layout.role, self.config._attn_implementation, self.adapter)
        return blocks

    def _prefill_maker(
        self, layout: Layout, valid: Tensor, past: int, ids: list[bytes] | None
    ) -> MakePrefill:
        def make(hidden: Tensor, rope: tuple[Tensor, Tensor], step: Surroundings) -> Prefill:
            tokens = Tokens.all_of(valid)
            seeds = ids if ids is not None else embedding_bytes(hidden, layout)
            chosen = [Course(n, *variant) for n, variant in enumerate(self.variants)]
            return Prefill(
                chosen,
                self.layers,
                layout,
                tokens,
                seeds,
                hidden,
                rope,
                self.probe,
                step,
                past,
            )

        return make

    def _going_on(self, branch: Branch, cache: ReducedCache | None) -> MakePrefill:
        """Pass through the layers before a branch, and return what goes on with its prefill."""
        if cache is not None:
            branch.fill(cache)
        self._skipping.enter_context(passed_through(self.layers[: branch.fork.layer]))

        def make(hidden: Tensor, rope: tuple[Tensor, Tensor], step: Surroundings) -> Prefill:
            self.probe.captures = dict(branch.fork.captures)
            prefill = branch.fork.prefill
            prefill.rope, prefill.surroundings = rope, step
            return prefill

        return make

    def _after_decoder(self, module: nn.Module, args: Any, output: Any) -> None:
        step = self.step
        self._forget()
        if step is not None and step.prefill is not None:
            self.branches += step.branches
            self.errors |= {c.number: c.error for c in step.prefill.failed if c.error}
        if step is None or output is None:
            return
        if step.prefill is not None:
            served = [self._finish(step, step.prefill, c) for c in step.prefill.courses]
            self.finished += served
        if step.cache is not None:
            step.cache.commit(step.past + step.count, step.held)

    def _forget(self) -> None:
        """Let go of everything that belongs to one forward."""
        self.step = None
        self._skipping.close()
        self.probe.captures = {}
        self.probe.want = None

    def _finish(self, step: Step, prefill: Prefill, course: Course) -> Finished:
        return Finished(
            variant=course.number,
            names=tuple(stage.reducer.name for stage in course.stages),
            shape=self.shape,
            element_bytes=prefill.embeddings.element_size(),
            layout=prefill.layout.to("cpu"),
            records=tuple(course.records),
            grid_counts=tuple(prefill.grid_counts),
            held=tuple(step.held),
            full=step.full,
            last=prefill.tokens.index,
            past=step.past,
            logits=self._logits,
        )


class LayerHook:
    """Runs before one decoder layer."""

    def __init__(self, session: Session, layer: int) -> None:
        self.session, self.layer = session, layer

    def __call__(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Replace the layer's input, mask and positions where tokens are missing."""
        step = self.session.step
        if step is None:
            return None
        hidden = args[0] if args else kwargs["hidden_states"]
        changed = step.before_layer(self.layer, hidden, kwargs)
        if changed is None:
            return None
        if args:
            return (changed[0], *args[1:]), changed[1]
        return args, {**changed[1], "hidden_states": changed[0]}


_PROMPTS = ("inputs", "input_ids", "inputs_embeds")
