"""A configuration and its models, resolved to one entry for every tensor of the output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from taskloom.algebra import Chain
from taskloom.errors import CheckpointError, PlanError, nearest
from taskloom.merging.program import Output, Program, Ref
from taskloom.runs.mergekit.anatomy import Layers, is_front, single_stack
from taskloom.runs.mergekit.methods import (
    Method,
    Numbers,
    find_method,
    has_room,
    parameters_of_others,
)
from taskloom.runs.mergekit.models import Model, Widened, promoted
from taskloom.runs.mergekit.schema import (
    MergeConfiguration,
    ModelName,
    OutputSlice,
    Settings,
    SliceSource,
)
from taskloom.runs.mergekit.settings import check_settings, resolve
from taskloom.runs.mergekit.tokens import Vocabulary, is_vocabulary, plan_vocabulary
from taskloom.store.checkpoint import TensorInfo
from taskloom.store.open import source_name
from taskloom.store.pool import kind_class


@dataclass(frozen=True)
class Resolved:
    """What a configuration comes to, before any weight is read.

    Attributes
    ----------
    program
        Every output tensor.
    template
        The model whose configuration and tokenizer the output gets: the base, or the first named.
    patch
        Dotted keys of the configuration -> new values.
    vocabulary
        The output's tokenizer, if the file asks for one.
    notes
        What a reader should know; sentences.
    """

    program: Program
    template: Model
    patch: Mapping[str, Any]
    vocabulary: Vocabulary | None
    notes: tuple[str, ...] = ()


def check_configuration(config: MergeConfiguration, where: str) -> Method:
    """Check all that needs no model: the method, parameters, sections that are not supported.

    Raises
    ------
    PlanError
        Something unknown, impossible or unsupported; names the place.
    """
    method = find_method(config.merge_method)
    if config.modules:
        raise PlanError(
            f"{where}: modules is not supported",
            hint="Use models: (every stack of layers gets its own gradients), or slices:",
        )
    others = parameters_of_others(method)
    for place, settings, single in _all_settings(config):
        check_settings(
            settings,
            method.parameters,
            others,
            where=f"{where}: {place}" if place else where,
            method=method.name,
            of_one_model=single,
        )
    return method


def _all_settings(config: MergeConfiguration) -> Iterator[tuple[str, Settings | None, bool]]:
    yield "", config.parameters, False
    for each in config.models or ():
        yield f"model {each.model}", each.parameters, True
    for number, part in enumerate(config.slices or (), start=1):
        yield f"slice {number}", part.parameters, False
        for source in part.sources:
            yield f"slice {number}, {source.model}", source.parameters, True


def resolve_configuration(
    config: MergeConfiguration,
    open_model: Callable[[ModelName], Model],
    *,
    where: str = "the configuration",
    seed: int = 0,
) -> Resolved:
    """Resolve a configuration to a program; reads headers and configurations only.

    Parameters
    ----------
    config
        One document.
    open_model
        Opens a model by name.
    where
        What the file is called in messages.
    seed
        Of random draws.

    Raises
    ------
    PlanError
        What the file asks for is impossible or not supported.
    CheckpointError
        Models that do not fit each other.
    """
    method = check_configuration(config, where)
    models = {name: open_model(name) for name in config.referenced}
    template = models[config.base_model or config.referenced[0]]
    notes: list[str] = []
    vocabulary = plan_vocabulary(config, list(models.values()), template)
    resolver = _Resolver(config, method, models, template, where, seed, vocabulary, notes)
    outputs = list(resolver.of_slices() if config.slices else resolver.of_models())
    program = Program(tuple(outputs))
    return Resolved(program, template, resolver.patch, vocabulary, tuple(dict.fromkeys(notes)))


@dataclass(frozen=True)
class _Part:
    """One slice: who takes part, with what settings, and which of them is the base."""

    models: tuple[Model, ...]
    settings: tuple[Settings | None, ...]
    base: Model | None
    parameters: Settings | None
    label: str


@dataclass
class _Resolver:
    config: MergeConfiguration
    method: Method
    models: Mapping[ModelName, Model]
    template: Model
    where: str
    seed: int
    vocabulary: Vocabulary | None
    notes: list[str]
    patch: dict[str, Any] = field(default_factory=dict)
    _chains: dict[Any, Chain | None] = field(default_factory=dict)
    _widened: dict[int, Widened] = field(default_factory=dict)

    def of_models(self) -> Iterator[Output]:
        """One entry per tensor of the models, which must have the same."""
        assert self.config.models is not None
        names = [each.model for each in self.config.models]
        settings: list[Settings | None] = [each.parameters for each in self.config.models]
        base = self.config.base_model
        if base and base not in names:
            names.append(base)
            settings.append(None)
        members = tuple(self.models[name] for name in names)
        origin = self.models[base] if base else None
        part = self._part(members, settings, origin, None, "models")
        self._check_layers(members)
        anatomy = self.template.anatomy
        for name in self._names(members, lambda m: m.checkpoint.tensors):
            place = anatomy.place.get(name)
            t = _place_in(place[1], anatomy.stacks[place[0]].count) if place else 0.0
            yield from self._output(name, [name] * len(members), part, t)

    def of_slices(self) -> Iterator[Output]:
        """Layers of the slices one after the other, with what lies before and after them."""
        assert self.config.slices is not None
        parts = [self._slice(n, s) for n, s in enumerate(self.config.slices, start=1)]
        stacks = {
            model.name: single_stack(model.anatomy, str(model.name)) for model in self.models.values()
        }
        own = stacks[self.template.name]
        yield from self._loose(parts[0], front=True)
        number = 0
        kept: list[tuple[Model, int]] = []
        for definition, part in zip(self.config.slices, parts, strict=True):
            self._check_ranges(definition, part, stacks)
            for offset in range(definition.layers):
                t = _place_in(offset, definition.layers)
                yield from self._layer(definition, part, stacks, own.prefix, number, offset, t)
                first = next(m for m in part.models if m.name == definition.sources[0].model)
                kept.append((first, definition.sources[0].layer_range[0] + offset))
                number += 1
        yield from self._loose(parts[-1], front=False)
        self._patch_layers(own, kept)

    def _slice(self, number: int, definition: OutputSlice) -> _Part:
        base = definition.base_model or self.config.base_model
        members = tuple(self.models[source.model] for source in definition.sources)
        settings = [source.parameters for source in definition.sources]
        origin = self.models[base] if base else None
        return self._part(members, settings, origin, definition.parameters, f"slice {number}")

    def _part(
        self,
        members: tuple[Model, ...],
        settings: Sequence[Settings | None],
        base: Model | None,
        parameters: Settings | None,
        label: str,
    ) -> _Part:
        """Check numbers of inputs and the base against the method."""
        method, where = self.method, f"{self.where}: {label}"
        twice = [m for m in members if members.count(m) > 1]
        if twice:
            raise PlanError(f"{where}: {twice[0].name} is given twice", hint="Name each model once")
        if method.base == "ignored":
            base = None
        elif base is not None and base not in members:
            raise PlanError(
                f"{where}: the base {base.name} is not among the sources",
                hint="Add its layers to the slice's sources",
            )
        elif base is None and method.base == "required":
            raise PlanError(f"{where}: {method.name} needs a base_model", hint="Name it")
        count = len(members) - (base is not None)
        low, high = method.inputs
        if count < low or (high is not None and count > high):
            wanted = f"{low}" if low == high else f"at least {low}" if count < low else f"at most {high}"
            besides = " besides the base" if base is not None else ""
            listed = ", ".join(str(m.name) for m in members)
            raise PlanError(
                f"{where}: {method.name} takes {wanted} model{'s' * (wanted != '1')}{besides}, "
                f"found {count} ({listed})",
                hint="Change the models or the method",
            )
        return _Part(members, tuple(settings), base, parameters, label)

    def _check_layers(self, members: Iterable[Model]) -> None:
        for prefix, layers in self.template.anatomy.stacks.items():
            for model in members:
                found = model.anatomy.stacks.get(prefix)
                if found is not None and found.count != layers.count:
                    raise CheckpointError(
                        f"{model.name}: expected {layers.count} layers {prefix}* as in "
                        f"{self.template.name}, found {found.count}",
                        hint="Take slices with layer_range to say which layers belong together",
                    )

    def _check_ranges(
        self, definition: OutputSlice, part: _Part, stacks: Mapping[ModelName, Layers]
    ) -> None:
        for source in definition.sources:
            count = stacks[source.model].count
            if source.layer_range[1] > count:
                raise PlanError(
                    f"{self.where}: {part.label}: layer_range {list(source.layer_range)} of "
                    f"{source.model}, which has {count} layers",
                    hint=f"The last number is at most {count}",
                )

    def _loose(self, part: _Part, *, front: bool) -> Iterator[Output]:
        names = self._names(part.models, lambda m: m.anatomy.loose)
        for name in names:
            if is_front(name) == front:
                yield from self._output(name, [name] * len(part.models), part, 0.0)

    def _layer(
        self,
        definition: OutputSlice,
        part: _Part,
        stacks: Mapping[ModelName, Layers],
        prefix: str,
        number: int,
        offset: int,
        t: float,
    ) -> Iterator[Output]:
        layers = [
            (source, model.anatomy.layer(stacks[source.model].prefix, source.layer_range[0] + offset))
            for source, model in zip(definition.sources, part.models, strict=True)
        ]
        for rest in dict.fromkeys(rest for _, layer in layers for rest in layer):
            names = [_in_layer(layer, rest, source, offset) for source, layer in layers]
            yield from self._output(f"{prefix}{number}.{rest}", names, part, t)

    def _names(
        self, members: Iterable[Model], listed: Callable[[Model], Iterable[str]]
    ) -> dict[str, None]:
        """Names in the order of the template's, then those that only others have."""
        ordered = [m for m in members if m is self.template]
        ordered += [m for m in members if m is not self.template]
        return dict.fromkeys(name for model in ordered for name in listed(model))

    def _output(self, name: str, inputs: Sequence[str], part: _Part, t: float) -> Iterator[Output]:
        refs = [self._ref(part, m, each) for m, each in zip(part.models, inputs, strict=True)]
        known = [ref for ref in refs if ref is not None]
        self._check_kinds(known)
        if not all(ref.info.is_float for ref in known):
            origin = refs[part.models.index(part.base)] if part.base else None
            copied = origin or known[0]
            yield Output(name, copied.info, None, None, (copied,), ("base",))
            return
        if len(known) < len(refs):
            model = part.models[refs.index(None)]
            raise self._missing(model, inputs[refs.index(None)], known[0])
        self._check_shapes(name, part, known)
        numbers = self._numbers(name, inputs, part, t, known[0].info.numel)
        chain = self._chain(numbers)
        info = TensorInfo(known[0].info.shape, self._dtype(ref.info.kind for ref in known))
        named = list(zip(_short_names(part.models), part.models, known, strict=True))
        merged = [(short, ref) for short, model, ref in named if model is not part.base]
        base = next((ref for _, model, ref in named if model is part.base), None)
        if self.method.pair and base is not None:
            merged, base = [("base", base), *merged], None
        experts = tuple(ref for _, ref in merged)
        yield Output(name, info, chain, base, experts, tuple(short for short, _ in merged))

    def _ref(self, part: _Part, model: Model, name: str) -> Ref | None:
        """Find a tensor; the output embedding of a model with tied ones is its input embedding."""
        found: str | None = name
        if name not in model.checkpoint.tensors:
            found = self._tied(model, name)
        if found is None:
            return None
        checkpoint = model.checkpoint
        if self.vocabulary is not None and is_vocabulary(model, found):
            return Ref(self.vocabulary.placed(model, found, part.models), found)
        if self.config.dtype == "float64":
            checkpoint = self._widened.setdefault(id(checkpoint), Widened(checkpoint))
        return Ref(checkpoint, found)

    def _tied(self, model: Model, name: str) -> str | None:
        if not model.tied or is_front(name) or name not in self._heads():
            return None
        fitting = [n for n in model.anatomy.loose if is_front(n) and is_vocabulary(model, n)]
        if len(fitting) != 1:
            return None
        self.notes.append(
            f"{model.name} has tied embeddings: its {name} is its {fitting[0]}; the output's are untied"
        )
        if self.template.tied:
            self.patch["tie_word_embeddings"] = False
        return fitting[0]

    def _heads(self) -> set[str]:
        return {
            name
            for model in self.models.values()
            for name in model.anatomy.loose
            if not is_front(name) and is_vocabulary(model, name)
        }

    def _missing(self, model: Model, name: str, other: Ref) -> CheckpointError:
        guess = nearest(name, model.checkpoint.tensors)
        near = f"; the nearest name it has is {guess!r}" if guess else ""
        hint = "Merge models of one architecture, saved by the same class"
        if name in self._heads():
            says = "false" if model.tied is False else "nothing"
            near = f"; its configuration says {says} of tie_word_embeddings"
            hint = "Set it to true in config.json if its output embedding is its input embedding"
        return CheckpointError(
            f"{model.name}: tensor {name!r}: expected as in {other.checkpoint.label}, found none{near}",
            hint=hint,
        )

    def _check_kinds(self, refs: Sequence[Ref]) -> None:
        """Refuse a tensor that is weights in one model and integers in another, and complex ones."""
        kinds = [
            kind_class(ref.info.kind, where=f"{ref.checkpoint.label}: tensor {ref.name!r}")
            for ref in refs
        ]
        for ref, kind in zip(refs, kinds, strict=True):
            if kind != kinds[0] and "float" in (kind, kinds[0]):
                raise CheckpointError(
                    f"{ref.checkpoint.label}: tensor {ref.name!r}: expected a dtype of the kind "
                    f"{kinds[0]} as in {refs[0].checkpoint.label} ({refs[0].info.kind}), "
                    f"found {ref.info.kind}",
                    hint="Convert the one to the dtype of the other",
                )

    def _check_shapes(self, name: str, part: _Part, refs: Sequence[Ref]) -> None:
        first = refs[0].info.shape
        for model, ref in zip(part.models, refs, strict=True):
            if ref.info.shape != first:
                hint = "Only models of one architecture and size can be merged"
                if ref.info.shape[1:] == first[1:] and is_vocabulary(model, ref.name):
                    hint = "Say which vocabulary the output has: tokenizer: {source: base}"
                raise CheckpointError(
                    f"{model.name}: tensor {ref.name!r} for {name!r}: expected shape {list(first)} "
                    f"as in {part.models[0].name}, found {list(ref.info.shape)}",
                    hint=hint,
                )

    def _numbers(self, name: str, inputs: Sequence[str], part: _Part, t: float, numel: int) -> Numbers:
        below = (part.parameters, self.config.parameters)
        parameters = self.method.parameters.values()
        shared = {
            p.name: resolve(p, below, tensor=name, t=t, where=self.where)
            for p in parameters
            if p.reach == "merge"
        }
        own = []
        for model, each, settings in zip(part.models, inputs, part.settings, strict=True):
            if model is part.base:
                continue
            where = f"{self.where}: {part.label}: {model.name}"
            own.append(
                {
                    p.name: resolve(p, (settings, *below), tensor=each, t=t, where=where)
                    for p in parameters
                    if p.reach != "merge"
                }
            )
        based = part.base is not None
        return Numbers(shared, tuple(own), based, self.seed, has_room(own, numel))

    def _chain(self, numbers: Numbers) -> Chain | None:
        """One chain object for all tensors with the same numbers."""
        key = (
            tuple(numbers.shared.items()),
            tuple(tuple(values.items()) for values in numbers.own),
            numbers.based,
            numbers.roomy,
        )
        if key not in self._chains:
            try:
                composed = self.method.compose(numbers)
            except ValueError as error:
                raise PlanError(f"{self.where}: {self.method.name}: {error}") from None
            named = None if composed is None else replace(composed, method=self.method.name)
            self._chains[key] = named
        return self._chains[key]

    def _dtype(self, kinds: Iterable[str]) -> str:
        return self.config.out_dtype or self.config.dtype or promoted(kinds)

    def _patch_layers(self, own: Layers, kept: Sequence[tuple[Model, int]]) -> None:
        """Say how many layers there are, and what each is, in the output's configuration."""
        if not own.keys and len(kept) != own.count:
            raise PlanError(
                f"{self.where}: the slices make {len(kept)} layers, but no key of the configuration of "
                f"{self.template.name} says that it has {own.count}",
                hint="Check its config.json",
            )
        self.patch |= dict.fromkeys(own.keys, len(kept))
        holder = own.keys[0].rpartition(".")[0] if own.keys else ""
        for key, value in _table(self.template.config, holder).items():
            if isinstance(value, list) and len(value) == own.count and "layer" in key:
                picked = [_kind_of_layer(model, holder, key, number) for model, number in kept]
                self.patch[f"{holder}.{key}" if holder else key] = picked


def _table(config: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    for key in path.split(".") if path else ():
        config = config.get(key) or {}
    return config


def _kind_of_layer(model: Model, holder: str, key: str, number: int) -> Any:
    """Entry of a per-layer list of the configuration, such as ``layer_types``."""
    found = _table(model.config, holder).get(key)
    if not isinstance(found, list) or number >= len(found):
        raise CheckpointError(
            f"{model.name}: its configuration has no {key}[{number}], which the other models have",
            hint="Stack models of one architecture",
        )
    return found[number]


def _in_layer(layer: Mapping[str, str], rest: str, source: SliceSource, offset: int) -> str:
    if rest not in layer:
        number = source.layer_range[0] + offset
        raise CheckpointError(
            f"{source.model}: layer {number} has no {rest!r}, which the layers it is merged with have",
            hint="Merge layers of one kind",
        )
    return layer[rest]


def _place_in(number: int, count: int) -> float:
    """Return where a layer lies, from 0 (first) to 1 (last, or only)."""
    return number / (count - 1) if count > 1 else 1.0


def _short_names(models: Sequence[Model]) -> list[str]:
    """Last parts of paths; where two agree, as the file names them."""
    short = [source_name(m.name.lora or m.name.path) or str(m.name) for m in models]
    return [
        name if short.count(name) == 1 else str(model.name)
        for name, model in zip(short, models, strict=True)
    ]
