"""What the reference systems say their runs cost, worked out from their settings, and what it is today."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from probeline.compute.prices import Prices, gpu_text, parse_gpu
from probeline.errors import ProbelineError, near_misses
from probeline.forecasting.expected import perplexities_of

FOLDER = Path("config/costs")
KEYS = ("title", "stages", "reserve", "cpu", "memory", "perplexities")
STAGE_KEYS = ("name", "gpu", "hours", "price", "states", "recipe")
CPU, MEMORY = 2.0, 16.0
"""Cores and GiB of a container, where a table does not say."""

Span = tuple[float, float]
"""From, to; twice the same where there is one value."""


@dataclass(frozen=True)
class Stage:
    """One stage, or one run of several.

    Attributes:
        name: of it.
        gpu: as Modal is asked for it; None without one.
        count: GPUs, or 1 without one.
        hours: from, to.
        price: the reference's, USD per hour of one GPU, or of the container without one.
        states: USD that the reference itself says, from, to; None where it does not.
        usd: at the reference's price.
        today: at the present prices.
        recipe: name and settings of the recipe that is this stage; None where none is.
    """

    name: str
    gpu: str | None
    count: int
    hours: Span
    price: float
    states: Span | None
    usd: Span
    today: Span
    recipe: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class CostTable:
    """The stages of a reference system.

    Attributes:
        title: what they make.
        stages: in their order.
        reserve: share that is added to their sum; None where they are no parts of one run.
        perplexities: stage → what the reference expects of its forecasts, from, to.
    """

    title: str
    stages: list[Stage]
    reserve: float | None
    perplexities: dict[str, Span]

    @property
    def sum_usd(self) -> Span:
        """All stages, at the reference's prices."""
        return add([stage.usd for stage in self.stages])

    @property
    def sum_today(self) -> Span:
        """All stages, at the present prices."""
        return add([stage.today for stage in self.stages])

    @property
    def usd(self) -> Span:
        """All stages and the reserve, at the reference's prices."""
        return times(self.sum_usd, 1 + (self.reserve or 0))

    @property
    def today(self) -> Span:
        """All stages and the reserve, at the present prices."""
        return times(self.sum_today, 1 + (self.reserve or 0))


def read_cost_table(name: str, prices: Prices) -> CostTable:
    """Read a table of settings and work it out.

    Args:
        name: of a file in config/costs, or a file.
        prices: the present ones.

    Raises:
        ProbelineError: it is not there, or no such table; the text names the key.
    """
    file = Path(name)
    if not file.suffix:
        file = FOLDER / f"{name}.yaml"
    if not file.is_file():
        there = [known.stem for known in FOLDER.glob("*.yaml")]
        raise ProbelineError(f"There is no table {name}. {near_misses(name, there)} Or give a file, x.yaml.")
    try:
        given = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProbelineError(f"{file} is not valid YAML: {error}") from error
    try:
        return _table(given, prices)
    except ProbelineError as error:
        raise ProbelineError(f"{file} cannot be used: {error}") from error


def reference_hours(name: str, settings: Mapping[str, Any], prices: Prices) -> tuple[float, str] | None:
    """The most hours that a reference system expects of a recipe, and on what; None where none does.

    Args:
        name: of the recipe.
        settings: all of its settings; where one is another than the reference's, its hours say nothing.
        prices: the present ones.
    """
    for file in sorted(FOLDER.glob("*.yaml")):
        for stage in read_cost_table(str(file), prices).stages:
            if stage.recipe is not None and {**settings, "name": name}.items() >= stage.recipe.items():
                return stage.hours[1], f"{stage.gpu or 'no GPU'} ({file})"
    return None


def _table(given: Any, prices: Prices) -> CostTable:
    _require_keys(given, "the table", KEYS, ("title", "stages"))
    if not isinstance(given["stages"], list) or not given["stages"]:
        raise ProbelineError("stages: expected a list of stages.")
    cpu, memory = (
        _number(given.get(key, default), key) for key, default in (("cpu", CPU), ("memory", MEMORY))
    )
    stages = [
        _stage(stage, f"stages.{index}", cpu, memory, prices) for index, stage in enumerate(given["stages"])
    ]
    reserve = _number(given["reserve"], "reserve") if "reserve" in given else None
    return CostTable(str(given["title"]), stages, reserve, perplexities_of(given))


def _stage(given: Any, where: str, cpu: float, memory: float, prices: Prices) -> Stage:
    _require_keys(given, where, STAGE_KEYS, ("name", "gpu", "hours", "price"))
    if not isinstance(given["gpu"], str):
        raise ProbelineError(f"{where}.gpu is {given['gpu']!r}; expected a GPU such as H100:4, or none.")
    price, hours = _number(given["price"], f"{where}.price"), _span(given["hours"], f"{where}.hours")
    if not isinstance(given.get("recipe", {}), Mapping):
        raise ProbelineError(f"{where}.recipe: expected a mapping, the name of a recipe and its settings.")
    _, count = parse_gpu(given["gpu"]) or ("", 1)
    now = prices.per_second(given["gpu"], cpu, memory) * 3600
    return Stage(
        str(given["name"]),
        gpu_text(given["gpu"]),
        count,
        hours,
        price,
        _span(given["states"], f"{where}.states") if "states" in given else None,
        times(hours, count * price),
        times(hours, now),
        given.get("recipe"),
    )


def times(span: Span, factor: float) -> Span:
    """Both ends, to a hundredth of a cent."""
    return round(span[0] * factor, 4), round(span[1] * factor, 4)


def add(spans: list[Span]) -> Span:
    """The sums of both ends."""
    return round(sum(one[0] for one in spans), 4), round(sum(one[1] for one in spans), 4)


def _require_keys(given: Any, where: str, allowed: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if not isinstance(given, Mapping):
        raise ProbelineError(f"{where}: expected a mapping with the keys {', '.join(allowed)}.")
    for key in given:
        if key not in allowed:
            raise ProbelineError(f"{where}: unknown key {key}. {near_misses(str(key), allowed)}")
    missing = [key for key in needed if key not in given]
    if missing:
        raise ProbelineError(f"{where} lacks {', '.join(missing)}.")


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ProbelineError(f"{where} is {value!r}; expected a number, 0 or more.")
    return float(value)


def _span(value: Any, where: str) -> Span:
    ends = value if isinstance(value, list) else [value, value]
    if len(ends) != 2:
        raise ProbelineError(f"{where} is {value!r}; expected a number, or two: [from, to].")
    return _number(ends[0], where), _number(ends[1], where)
