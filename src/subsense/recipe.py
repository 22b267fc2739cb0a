"""A recipe: one YAML file that says which network, which data, how it is adapted, trained and evaluated.

There is one syntax: no includes, no interpolation, no second place for defaults. A file is checked as a whole, and all
its faults are reported together, each with its line and key, what was expected, what was found, and the near miss.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import torch
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from torch.nn import CrossEntropyLoss

from subsense.adapters import METHODS
from subsense.calling import FORMS
from subsense.data import DATASETS
from subsense.errors import RecipeError, SubsenseError, closest
from subsense.factories import import_factory
from subsense.layers import DECLARATIONS
from subsense.metrics import METRICS
from subsense.modalities import Modalities
from subsense.zoo import NETWORKS

Options = dict[str, Any]
CheckedOptions = Annotated[Options, Field(validate_default=True)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
Key = tuple[int | str, ...]


# ---- single values


def _fault(text: str) -> PydanticCustomError:
    return PydanticCustomError("fault", "{text}", {"text": text})


def _unknown(kind: str, name: object, known: Iterable[str]) -> str:
    names = sorted(known)
    return f"unknown {kind} {name!r}; known: {', '.join(names) or 'none'}.{closest(str(name), names)}"


def _known(kind: str, table: Collection[str]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise _fault(_unknown(kind, name, table))
        return name

    return AfterValidator(check)


def _place(kind: str, table: Mapping[str, str]) -> AfterValidator:
    """Accept a name of `table`, or the `package.module:factory` of something that can be imported."""

    def check(name: str) -> str:
        if name not in table and ":" not in name:
            raise _fault(f"{_unknown(kind, name, table)} Your own is written package.module:factory")
        _import(table.get(name, name))
        return name

    return AfterValidator(check)


def _import(place: str) -> Callable[..., Any]:
    try:
        return import_factory(place)
    except (SubsenseError, ImportError) as error:
        raise _fault(f"cannot import {place!r}: {error}") from error


def _check_options(factory: Callable[..., Any], options: Options, passed: Iterable[str] = ()) -> None:
    """Refuse options that `factory` doesn't take, and the lack of one it needs; `passed` are given by subsense."""
    try:
        parameters = inspect.signature(factory).parameters.values()
    except ValueError:
        return  # written in C, without a signature
    named = [one for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters)
    known = [one.name for one in named if one.name not in passed]
    needed = [one.name for one in named if one.default is one.empty and one.name in known]
    faults = [_unknown("option", name, known) for name in options if name not in known and not takes_any]
    faults += [f"lacks the option {name!r}" for name in needed if name not in options]
    if faults:
        raise _fault("; ".join(faults))


def _check_values(factory: Callable[..., Any], options: Options) -> None:
    """Refuse values that `factory` refuses."""
    try:
        factory(**options)
    except (SubsenseError, TypeError, ValueError) as error:
        raise _fault(str(error)) from None


class _Part(BaseModel):
    """Hold one part of a recipe: strict types, no unknown key, never changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class Choice(_Part):
    """Hold a name with options, written ``ssf`` or ``{lora: {rank: 4}}``."""

    name: str
    options: CheckedOptions = {}


def _as_choice(value: object) -> object:
    if isinstance(value, str):
        return {"name": value}
    if isinstance(value, dict) and len(value) == 1:
        [(name, options)] = value.items()
        if options is None or isinstance(options, dict):
            return {"name": name, "options": options or {}}
    raise _fault(f"expected a name, or one `name: {{option: value}}`, but found {value!r}")


def _as_list(value: object) -> object:
    return tuple(value) if isinstance(value, list) and value else (value,)


def _combinations(value: object) -> object:
    if value == "all":
        return value
    if isinstance(value, list) and value and all(isinstance(one, str) for one in value):
        return tuple(value)
    raise _fault(f"expected 'all', or a list of combinations such as [rgb, rgb+depth], but found {value!r}")


Combinations = Annotated[Literal["all"] | tuple[str, ...], BeforeValidator(_combinations)]


def _call(value: object) -> object:
    if isinstance(value, dict) and all(isinstance(names, str | list) for names in value.values()):
        return value
    if isinstance(value, str) and ":" in value:
        _import(value)
        return value
    if value in FORMS:
        return value
    raise _fault(f"expected one of {', '.join(FORMS)}, a mapping of modality to argument names, or "
                 f"package.module:function, but found {_short(value)}.{closest(str(value), FORMS)}")  # fmt: skip


def _readable(spec: dict[str, Any]) -> dict[str, Any]:
    try:
        Modalities(spec)
    except SubsenseError as error:
        raise _fault(str(error)) from None
    return spec


def cross_entropy(
    weight: list[float] | None = None, ignore_index: int = -100, label_smoothing: float = 0.0
) -> CrossEntropyLoss:
    """Make the cross-entropy loss; `weight` holds one number for each class."""
    weights = None if weight is None else torch.tensor(weight, dtype=torch.float32)
    return CrossEntropyLoss(weights, ignore_index=ignore_index, label_smoothing=label_smoothing)


LOSSES = {
    "cross_entropy": "subsense.recipe:cross_entropy",
    "mse": "torch.nn:MSELoss",
    "l1": "torch.nn:L1Loss",
    "distill": "subsense.training:Distill",
}


# ---- the parts of a recipe


class NetworkPart(_Part):
    """Say which network: a zoo name or `package.module:factory`, and the checkpoint of its weights."""

    name: Annotated[str, _place("network", NETWORKS)]
    checkpoint: str | None = None
    options: CheckedOptions = {}

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            _check_options(_import(NETWORKS.get(name, name)), options)
        return options


class DataPart(_Part):
    """Say which data: a data set's name or `package.module:factory`, and the folder that holds it.

    Attributes:
        workers: processes that read samples while the network computes; what comes out doesn't depend on it.
    """

    name: Annotated[str, _place("data set", DATASETS)]
    root: str | None = None
    workers: NonNegativeInt = 0
    options: CheckedOptions = {}

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            _check_options(_import(DATASETS.get(name, name)), options, passed=["root"])
        return options


class Method(Choice):
    """Name an adapter method, with options."""

    name: Annotated[str, _known("method", METHODS)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            _check_options(METHODS[name], options)
            _check_values(METHODS[name], options)
        return options


class DeclaredClass(Choice):
    """Name a way to declare a layer class, with options as in Python, but ``cls`` as `package.module:Class`."""

    name: Annotated[str, _known("declaration", DECLARATIONS)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            _check_options(DECLARATIONS[name], options)
            if not isinstance(_import(str(options["cls"])), type):
                raise _fault(f"cls: expected package.module:Class of a layer class, but found {options['cls']!r}")
        return options


class Loss(Choice):
    """Name a loss, or the `package.module:factory` of one, with options."""

    name: Annotated[str, _place("loss", LOSSES)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if not (name := info.data.get("name")):
            return options
        factory = _import(LOSSES.get(name, name))
        _check_options(factory, options)
        if name == "distill" and "task" in options:
            options = {**options, "task": cls.model_validate(_as_choice(options["task"]))}
        _check_values(factory, options)
        return options


FILLS = ("zeros", "mean", "learned")


def _fill(value: object) -> object:
    """Accept one of `FILLS`, or modality -> one of these, a name that the data set knows, or a constant."""
    if value in FILLS:
        return value
    if isinstance(value, dict) and value and all(map(_is_fill, value.values())):
        return value
    raise _fault(f"expected one of {', '.join(FILLS)}, or modality: fill, which may also be one that the data set "
                 "names, a number, or argument: number or list, "
                 f"but found {_short(value)}.{closest(str(value), FILLS)}")  # fmt: skip


def _is_fill(value: object) -> bool:
    if isinstance(value, dict):
        return bool(value) and all(_is_number(one) or isinstance(one, list) for one in value.values())
    return isinstance(value, str) or _is_number(value)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class AdaptPart(_Part):
    """Say how the network is adapted; the arguments of `subsense.adapt`.

    Attributes:
        method: one or several, acting in turn.
        modalities: those of the data set, where None.
        call: also the `package.module:function` of a callable ``(network, inputs) -> output``.
        layers: layer classes of the network's own: ``- LayerClass: {cls: package.module:Class, kind: norm, axis: 1}``.
        fill: one for all modalities, or modality -> fill; see `subsense.cli.fills.make_fill`.
    """

    method: Annotated[tuple[Annotated[Method, BeforeValidator(_as_choice)], ...], BeforeValidator(_as_list)]
    modalities: Annotated[dict[str, str | dict[str, str]], AfterValidator(_readable)] | None = None
    call: Annotated[str | dict[str, str | list[str]], PlainValidator(_call)] = "kwargs"
    sharing: Literal["independent", "additive"] = "independent"
    combinations: Combinations = "all"
    fill: Annotated[str | dict[str, Any], PlainValidator(_fill)] = "zeros"
    include: Names = ("*",)
    exclude: Names = ()
    layers: Annotated[tuple[Annotated[DeclaredClass, BeforeValidator(_as_choice)], ...], Field(strict=False)] = ()
    untrained: Literal["error", "nearest", "pretrained"] = "error"


class Fit(_Part):
    """Say how something is trained: options of `subsense.training.TrainOptions`, the size of a batch, the loss."""

    epochs: PositiveInt
    lr: PositiveFloat
    batch_size: PositiveInt
    weight_decay: NonNegativeFloat = 0.0
    warmup: NonNegativeFloat = 0.1
    schedule: Literal["cosine", "poly", "constant"] = "cosine"
    clip: PositiveFloat | None = None
    accumulate: PositiveInt = 1
    precision: Literal["no", "bf16"] = "no"
    dropout: bool = False
    loss: Annotated[Loss, BeforeValidator(_as_choice)] = Loss(name="cross_entropy")

    @property
    def options(self) -> Options:
        """Give the keywords of every function that trains."""
        return {name: getattr(self, name) for name in Fit.model_fields if name not in ("batch_size", "loss")}


class TrainPart(Fit):
    """Say how the adapter sets are trained; the arguments of `subsense.train`."""

    strategy: Literal["joint", "separate"] = "joint"


class EvaluatePart(_Part):
    """Say what is measured; the arguments of `subsense.evaluate`.

    Attributes:
        metric: the data set's own, where None.
        dedicated: combinations for which a network is trained alone, from scratch, as `pretrain` says; None: none.
        finetuned: how the whole network is fine-tuned with modality dropout; None: not at all.
    """

    metric: Annotated[str, _known("metric", METRICS)] | None = None
    combinations: Combinations = "all"
    dedicated: Combinations | None = None
    finetuned: Fit | None = None
    batch_size: PositiveInt = 64


class Recipe(_Part):
    """Hold a whole recipe.

    Attributes:
        seed: of every random draw.
        threads: that the CPU computes in; None: as torch chooses. Small networks are faster in one.
        output: the folder that everything is written to.
    """

    seed: NonNegativeInt = 0
    threads: PositiveInt | None = None
    network: NetworkPart
    data: DataPart
    adapt: AdaptPart
    pretrain: Annotated[Fit | None, Field(validate_default=True)] = None
    train: TrainPart
    evaluate: EvaluatePart = EvaluatePart()
    output: str

    @field_validator("pretrain")
    @classmethod
    def _is_needed(cls, pretrain: Fit | None, info: ValidationInfo) -> Fit | None:
        network = info.data.get("network")
        if pretrain is None and network is not None and network.checkpoint is None:
            raise _fault("missing; network.checkpoint is not given, so say here how the network is trained")
        return pretrain

    @field_validator("evaluate")
    @classmethod
    def _can_be_dedicated(cls, evaluate: EvaluatePart, info: ValidationInfo) -> EvaluatePart:
        if evaluate.dedicated is not None and "pretrain" in info.data and info.data["pretrain"] is None:
            raise _fault("dedicated networks are trained as `pretrain` says, but the recipe has no pretrain")
        return evaluate


# ---- reading a file


class _Loader(yaml.SafeLoader):
    """Read YAML with the number format of YAML 1.2 (``1e-2`` is a number), and refuse a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, (key, _) in enumerate(node.value):
            if key.value in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} stands twice", key.start_mark
                )
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+|[-+]?\.\d+[eE][-+]?\d+"), list("-+.0123456789")
)


@cache
def shipped_recipes() -> dict[str, Path]:
    """Give the recipes that come with subsense, by name.

    >>> "digits" in shipped_recipes()
    True
    """
    folder = Path(str(resources.files("subsense") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_recipe(source: str | Path) -> Path:
    """Find a recipe: a shipped one's name, or else a file.

    Raises:
        RecipeError: neither; names the nearest shipped one.
    """
    shipped = shipped_recipes()
    if str(source) in shipped:
        return shipped[str(source)]
    if Path(source).is_file():
        return Path(source)
    raise RecipeError(str(source), [f"no such file, and {_unknown('shipped recipe', str(source), shipped)}"])


def load_recipe(source: str | Path, changes: Iterable[str] = ()) -> Recipe:
    """Read and check a recipe file, or a shipped recipe by name.

    Args:
        source: a path, or a name of `shipped_recipes`.
        changes: ``key.path=value`` each, with the value as it would stand in the file: ``"train.epochs=2"``.

    Raises:
        RecipeError: with all the faults of the file in `.faults`.

    >>> load_recipe("digits").network.name
    'digits-transformer'
    """
    path = find_recipe(source)
    return parse_recipe(_read(path), str(source), changes)


def parse_recipe(text: str, source: str = "recipe", changes: Iterable[str] = ()) -> Recipe:
    """Read and check the text of a recipe; `source` is what messages call it. Raise as `load_recipe` does."""
    try:
        content = yaml.load(text, _Loader)
        lines = dict(_lines(yaml.compose(text, _Loader)))
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"not YAML: {error}"]) from None
    if not isinstance(content, dict):
        raise RecipeError(source, [f"expected `key: value` lines, but found {_short(content)}"])
    for change in changes:
        _change(content, change, source)
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        faults = sorted(error.errors(include_url=False), key=lambda fault: _line(fault["loc"], lines) or 0)
        raise RecipeError(source, [_explain(fault, lines) for fault in faults]) from None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(str(path), [f"cannot be read: {error}"]) from None


def _change(content: dict[str, Any], change: str, source: str) -> None:
    """Set one value in place, as if the file said so."""
    key, equals, text = change.partition("=")
    *parts, last = key.split(".")
    if not equals or not all([*parts, last]):
        raise RecipeError(source, [f"--set {change}: expected key.path=value, such as train.epochs=2"])
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise RecipeError(source, [f"--set {change}: not YAML: {error}"]) from None
    for part in parts:
        group = content.setdefault(part, {})
        if not isinstance(group, dict):
            raise RecipeError(source, [f"--set {change}: {part} is no group of keys, but {_short(group)}"])
        content = group
    content[last] = value


def _lines(node: yaml.Node | None, key: Key = ()) -> Iterator[tuple[Key, int]]:
    """Walk a document and give the line of every key, counted from 1."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield (*key, name.value), name.start_mark.line + 1
            yield from _lines(value, (*key, name.value))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*key, index), value.start_mark.line + 1
            yield from _lines(value, (*key, index))


# ---- explaining faults


def _explain(fault: ErrorDetails, lines: Mapping[Key, int]) -> str:
    """Say one fault in one sentence: line, key, what was expected, what was found, near miss."""
    line = _line(fault["loc"], lines)
    place = "" if line is None else f"line {line}, "
    return f"{place}{'.'.join(map(str, fault['loc']))}: {_complaint(fault)}"


def _line(key: Key, lines: Mapping[Key, int]) -> int | None:
    """Find the line of a key, or of what it should stand in."""
    return next((lines[key[:size]] for size in range(len(key), 0, -1) if key[:size] in lines), None)


def _complaint(fault: ErrorDetails) -> str:
    found = fault["input"]
    match fault["type"]:
        case "fault":
            return fault["msg"]
        case "missing":
            return "missing; this key is needed"
        case "extra_forbidden":
            return _unknown("key", fault["loc"][-1], _keys_beside(fault["loc"]))
        case "literal_error":
            expected = fault["ctx"]["expected"]
            near = closest(str(found), re.findall("'(.*?)'", expected))
            return f"expected {expected}, but found {_short(found)}.{near}"
    expected = fault["msg"].replace("Input should be", "expected it to be")
    return f"{expected}, but found {_short(found)}"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _keys_beside(key: Key) -> list[str]:
    """Give the keys that the schema has at the place of an unknown one."""
    part: type[BaseModel] | None = Recipe
    for name in key[:-1]:
        if part is not None and name in part.model_fields:
            part = _part_in(part.model_fields[str(name)].annotation)
    return list(part.model_fields) if part else []


def _part_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((part for part in map(_part_in, get_args(annotation)) if part), None)
