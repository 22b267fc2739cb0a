"""The parts of a recipe: every key, what it may be, and its default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from subsense.adapters import METHODS, Common, parse_method
from subsense.adapters.layers.declare import DECLARATIONS
from subsense.data import DATASETS
from subsense.evaluation.metrics import METRICS
from subsense.recipes.losses import LOSSES
from subsense.recipes.values import (
    CheckedOptions,
    Choice,
    Combinations,
    Group,
    Names,
    Options,
    as_choice,
    as_list,
    call_form,
    check_options,
    check_values,
    degradations,
    fault,
    fill_form,
    import_place,
    name_in,
    place_in,
    readable,
)
from subsense.support.factories import import_factory
from subsense.zoo import NETWORKS


class NetworkPart(Group):
    """Say which network: a zoo name or `package.module:factory`, and the checkpoint of its weights."""

    name: Annotated[str, place_in("network", NETWORKS)]
    checkpoint: str | None = None
    options: CheckedOptions = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            check_options(import_place(NETWORKS.get(name, name)), options)
        return options


class DataPart(Group):
    """Say which data: a data set's name or `package.module:factory`, and the folder that holds it.

    Attributes:
        workers: processes that read samples while the network computes; what comes out doesn't depend on it.
    """

    name: Annotated[str, place_in("data set", DATASETS)]
    root: str | None = None
    workers: NonNegativeInt = 0
    options: CheckedOptions = Field(default_factory=dict)

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            check_options(import_place(DATASETS.get(name, name)), options, passed=["root"])
        return options


METHOD_PLACES = {name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in {**METHODS, "common": Common}.items()}


class Method(Choice):
    """Name an adapter method, or the `package.module:Class` of one, with options."""

    name: Annotated[str, place_in("method", METHOD_PLACES)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            method = import_place(METHOD_PLACES.get(name, name))
            check_options(method, options)
            if name == Common.name:
                options = {**options, "adapter": cls.model_validate(as_choice(options["adapter"]))}
            check_values(lambda **given: parse_method(_made(method, given)), options)
        return options

    def make(self) -> Any:
        """Make the method."""
        return _made(import_factory(METHOD_PLACES.get(self.name, self.name)), self.options)

    @property
    def words(self) -> str:
        """Write the method with its options: ``lora (rank 2)``."""
        if isinstance(inner := self.options.get("adapter"), Method):
            return f"common {inner.words}"
        options = ", ".join(f"{option} {value}" for option, value in self.options.items())
        name = self.name.rpartition(":")[2]
        return f"{name} ({options})" if options else name


def _made(method: Callable[..., Any], options: Options) -> Any:
    return method(**{name: value.make() if isinstance(value, Method) else value for name, value in options.items()})


class DeclaredClass(Choice):
    """Name a way to declare a layer class, with options as in Python, but ``cls`` as `package.module:Class`."""

    name: Annotated[str, name_in("declaration", DECLARATIONS)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if name := info.data.get("name"):
            check_options(DECLARATIONS[name], options)
            if not isinstance(import_place(str(options["cls"])), type):
                raise fault(f"cls: expected package.module:Class of a layer class, but found {options['cls']!r}")
        return options


class Loss(Choice):
    """Name a loss, or the `package.module:factory` of one, with options."""

    name: Annotated[str, place_in("loss", LOSSES)]

    @field_validator("options")
    @classmethod
    def _fit(cls, options: Options, info: ValidationInfo) -> Options:
        if not (name := info.data.get("name")):
            return options
        factory = import_place(LOSSES.get(name, name))
        check_options(factory, options)
        if name == "distill" and "task" in options:
            options = {**options, "task": cls.model_validate(as_choice(options["task"]))}
        check_values(factory, options)
        return options


class AdaptPart(Group):
    """Say how the network is adapted; the arguments of `subsense.adapt`.

    Attributes:
        method: one or several, acting in turn.
        modalities: those of the data set, where None.
        call: also the `package.module:function` of a callable ``(network, inputs) -> output``.
        layers: layer classes of the network's own: ``- LayerClass: {cls: package.module:Class, kind: norm, axis: 1}``.
        fill: one for all modalities, or modality -> fill; see `subsense.recipes.run.fills.make_fill`.
    """

    method: Annotated[tuple[Annotated[Method, BeforeValidator(as_choice)], ...], BeforeValidator(as_list)]
    modalities: Annotated[dict[str, str | dict[str, str]], AfterValidator(readable)] | None = None
    call: Annotated[str | dict[str, str | list[str]], PlainValidator(call_form)] = "kwargs"
    sharing: Literal["independent", "additive"] = "independent"
    combinations: Combinations = "all"
    fill: Annotated[str | dict[str, Any], PlainValidator(fill_form)] = "zeros"
    include: Names = ("*",)
    exclude: Names = ()
    layers: Annotated[tuple[Annotated[DeclaredClass, BeforeValidator(as_choice)], ...], Field(strict=False)] = ()
    untrained: Literal["error", "nearest", "pretrained"] = "error"
    merge: bool = True


class Fit(Group):
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
    loss: Annotated[Loss, BeforeValidator(as_choice)] = Loss(name="cross_entropy")

    @property
    def options(self) -> Options:
        """Give the keywords of every function that trains."""
        return {name: getattr(self, name) for name in Fit.model_fields if name not in ("batch_size", "loss")}


class TrainPart(Fit):
    """Say how the adapter sets are trained; the arguments of `subsense.train`.

    Attributes:
        degrade: names of degradations, ``all``, or modality -> names; None: sensors are there or not.
    """

    strategy: Literal["joint", "separate"] = "joint"
    start: Literal["calibrated"] | None = None
    degrade: Annotated[Any, PlainValidator(degradations)] = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_asked_for(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave these out where they are None, so that what was trained before they existed is still known."""
        fields: dict[str, Any] = handler(self)
        return {name: value for name, value in fields.items() if name not in ("degrade", "start") or value is not None}


class CalibratePart(Group):
    """Say how adapter sets are solved in closed form, without labels; the arguments of `subsense.calibrate`.

    Attributes:
        method, sharing: as in `adapt`, where None.
    """

    method: Annotated[tuple[Annotated[Method, BeforeValidator(as_choice)], ...], BeforeValidator(as_list)] | None = None
    sharing: Literal["independent", "additive"] | None = None
    rows: PositiveInt | None = 1024
    rank: PositiveInt | None = None
    ridge: NonNegativeFloat = 0.03
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.2
    positions: PositiveInt | None = 4096
    chunk: PositiveInt | None = None

    @property
    def options(self) -> Options:
        """Give the keywords of `subsense.calibrate`."""
        return {name: getattr(self, name) for name in CalibratePart.model_fields if name not in ("method", "sharing")}


def _as_contender(value: object) -> object:
    return value if isinstance(value, dict) and "method" in value else {"method": value}


class Contender(Group):
    """Say what is compared: a method, or several acting in turn, and what of `adapt` and `train` is other for it.

    Written as the method alone, ``ssf`` or ``{lora: {rank: 4}}``, or ``{method: ssf, sharing: additive, lr: 3e-3}``.

    Attributes:
        method: as in `adapt`.
        name: the heading of its column; made of the method and the sharing, where None.
        sharing, lr, epochs: as in `adapt` and `train`, where None.
        calibrated: solved in closed form, as `calibrate` says, instead of trained.
    """

    method: Annotated[tuple[Annotated[Method, BeforeValidator(as_choice)], ...], BeforeValidator(as_list)]
    name: str | None = None
    sharing: Literal["independent", "additive"] | None = None
    lr: PositiveFloat | None = None
    epochs: PositiveInt | None = None
    calibrated: bool = False

    @property
    def heading(self) -> str:
        """Give the heading of its column.

        >>> Contender(method=[{"lora": {"rank": 2}}], sharing="additive").heading
        'lora (rank 2), additive'
        """
        methods = " + ".join(method.words for method in self.method)
        return self.name or ", ".join(filter(None, [methods, self.sharing, "calibrated" * self.calibrated]))


METHODS_OF_THE_PAPER = ("scale", "shift", "bitfit", "norm", "lora", "ssf")
"""Compared where a recipe doesn't say what to compare."""


class EvaluatePart(Group):
    """Say what is measured; the arguments of `subsense.evaluate`.

    Attributes:
        metric: the data set's own, where None.
        dedicated: combinations for which a network is trained alone, from scratch, as `pretrain` says; None: none.
        finetuned: how the whole network is fine-tuned with modality dropout; None: not at all.
    """

    metric: Annotated[str, name_in("metric", METRICS)] | None = None
    combinations: Combinations = "all"
    dedicated: Combinations | None = None
    finetuned: Fit | None = None
    batch_size: PositiveInt = 64


def _differ(contenders: tuple[Contender, ...]) -> tuple[Contender, ...]:
    headings = [one.heading for one in contenders]
    if doubled := sorted({heading for heading in headings if headings.count(heading) > 1}):
        raise fault(
            f"several columns would be called {', '.join(doubled)}; give them names: {{method: ..., name: ...}}"
        )
    return contenders


class Recipe(Group):
    """Hold a whole recipe.

    Attributes:
        seed: of every random draw.
        threads: that the CPU computes in; None: as torch chooses. Small networks are faster in one.
        calibrate: how `subsense calibrate` solves adapter sets, and those of `compare` that are calibrated.
        compare: the methods that `subsense compare` puts side by side, each trained as `adapt` and `train` say.
        output: the folder that everything is written to.
    """

    seed: NonNegativeInt = 0
    threads: PositiveInt | None = None
    network: NetworkPart
    data: DataPart
    adapt: AdaptPart
    pretrain: Annotated[Fit | None, Field(validate_default=True)] = None
    train: TrainPart
    calibrate: CalibratePart = CalibratePart()
    evaluate: EvaluatePart = EvaluatePart()
    compare: Annotated[
        tuple[Annotated[Contender, BeforeValidator(_as_contender)], ...],
        BeforeValidator(as_list),
        AfterValidator(_differ),
    ] = tuple(Contender(method=(Method(name=name),)) for name in METHODS_OF_THE_PAPER)
    output: str

    @field_validator("pretrain")
    @classmethod
    def _is_needed(cls, pretrain: Fit | None, info: ValidationInfo) -> Fit | None:
        network = info.data.get("network")
        if pretrain is None and network is not None and network.checkpoint is None:
            raise fault("missing; network.checkpoint is not given, so say here how the network is trained")
        return pretrain

    @field_validator("evaluate")
    @classmethod
    def _can_be_dedicated(cls, evaluate: EvaluatePart, info: ValidationInfo) -> EvaluatePart:
        if evaluate.dedicated is not None and "pretrain" in info.data and info.data["pretrain"] is None:
            raise fault("dedicated networks are trained as `pretrain` says, but the recipe has no pretrain")
        return evaluate
