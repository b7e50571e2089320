"""What a second on Modal costs: the project's table, or the account's own where it was asked for."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

from probeline.errors import ProbelineError, near_misses
from probeline.files import write_bytes

TABLE = Path("config/prices.yaml")
OWN_TABLE = Path(".probeline/prices.yaml")
"""The prices of the account; they go before the table of the project."""
KEYS = ("date", "gpus", "cpu", "memory")
ALIASES = {"A10G": "A10", "A100": "A100-40GB", "H100!": "H100", "B200+": "B200"}
"""Other names by which Modal takes a GPU."""
MOST_GPUS = 8
"""In one container."""
RATE_OF_GPU = "gpu_hour_cost_"
"""Begins the names of the GPUs in an account's rates, such as gpu_hour_cost_a100_80gb; they are per hour."""
RATES = {"cpu": "cpu_hour_cost", "memory": "mem_gib_hour_cost"}


@dataclass(frozen=True)
class Prices:
    """Prices in USD per second.

    Attributes:
        date: when they held, YYYY-MM-DD.
        gpus: name → price of one.
        cpu: of a physical core.
        memory: of a GiB.
        file: where they stand.
    """

    date: str
    gpus: Mapping[str, float]
    cpu: float
    memory: float
    file: Path

    def per_second(self, gpu: str | None, cpu: float, memory: float) -> float:
        """The price of one container.

        Args:
            gpu: `H100`, `h100:4`; None or `none` without one.
            cpu: physical cores.
            memory: GiB.

        Raises:
            ProbelineError: the GPU has no price; with the near misses.
        """
        wanted = parse_gpu(gpu)
        price = cpu * self.cpu + memory * self.memory
        if wanted is None:
            return price
        name, count = wanted
        if name not in self.gpus:
            raise ProbelineError(
                f"{self.file} has no price for the GPU {gpu}. {near_misses(name, self.gpus)} Several: H100:4."
            )
        return price + count * self.gpus[name]


def parse_gpu(gpu: str | None) -> tuple[str, int] | None:
    """Name and number: `h100:4` is (H100, 4); None without a GPU.

    Raises:
        ProbelineError: it is not of that form.
    """
    if gpu is None or gpu.lower() == "none":
        return None
    found = re.fullmatch(r"([A-Z][A-Z0-9-]*[!+]?)(?::([1-9]\d?))?", gpu.upper())
    if found is None or int(found[2] or 1) > MOST_GPUS:
        raise ProbelineError(
            f"{gpu!r} is no GPU: give a name such as H100, or with a number from 1 to {MOST_GPUS}, H100:4; "
            "or none."
        )
    return ALIASES.get(found[1], found[1]), int(found[2] or 1)


def gpu_text(gpu: str | None) -> str | None:
    """A GPU as plans and records say it: `h100:4` is `H100:4`, `A10G:1` is `A10`."""
    wanted = parse_gpu(gpu)
    if wanted is None:
        return None
    name, count = wanted
    return name if count == 1 else f"{name}:{count}"


def read_prices() -> Prices:
    """The prices of the account where they were asked for, else those of the project.

    Raises:
        ProbelineError: the table is missing, or says what a table of prices does not; the text names the key.
    """
    file = OWN_TABLE if OWN_TABLE.is_file() else TABLE
    try:
        table = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise ProbelineError(f"{file} does not exist; run this in the folder of the Snakefile.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ProbelineError(f"{file} is not valid YAML: {error}") from error
    faults = _faults(table)
    if faults:
        remedy = "Delete it, or ask again: probeline cost --refresh." if file == OWN_TABLE else ""
        raise ProbelineError(f"{file} cannot be used: {' '.join([*faults, remedy])}".rstrip())
    gpus = {str(name): float(price) for name, price in table["gpus"].items()}
    return Prices(table["date"].isoformat(), gpus, float(table["cpu"]), float(table["memory"]), file)


def _faults(table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"expected the keys {', '.join(KEYS)}."]
    faults = [f"unknown key {key}. {near_misses(str(key), KEYS)}" for key in table if key not in KEYS]
    faults += [f"it lacks {key}." for key in KEYS if key not in table]
    if faults:
        return faults
    if type(table["date"]) is not date:
        faults.append(f"date is {table['date']!r}; expected a day, such as 2026-01-31.")
    if not isinstance(table["gpus"], dict) or not table["gpus"]:
        return [*faults, f"gpus is {table['gpus']!r}; expected a mapping, `H100: 0.001097`."]
    for name in table["gpus"]:
        if not isinstance(name, str) or parse_name(name) != name:
            faults.append(f"gpus.{name}: no name of a GPU, such as H100 or A100-80GB.")
    prices = {"cpu": table["cpu"], "memory": table["memory"]}
    prices |= {f"gpus.{name}": price for name, price in table["gpus"].items()}
    faults += [
        f"{key} is {price!r}; expected USD per second, a number above 0."
        for key, price in prices.items()
        if not isinstance(price, int | float) or isinstance(price, bool) or not 0 < price < math.inf
    ]
    return faults


def parse_name(name: str) -> str | None:
    """The name of a GPU as the table has it, or None where it is none."""
    found = re.fullmatch(r"[A-Z][A-Z0-9-]*", name.upper())
    return None if found is None else ALIASES.get(found[0], found[0])


def refresh_prices() -> Prices:
    """Ask Modal for the account's prices and keep them; they then go before the table of the project.

    Raises:
        ProbelineError: there is no account, Modal cannot be reached, or its answer lacks a price.
    """
    import modal
    from probeline.compute.remote.connection import in_words, require_connection

    try:
        require_connection()
        with in_words():
            rates = dict(modal.Workspace.from_context().billing.rates())
    except (ProbelineError, modal.exception.Error) as error:
        raise ProbelineError(f"{error or type(error).__name__} The prices of {TABLE} hold.") from error
    table = _table_of(rates)
    faults = _faults(table)
    if faults:
        raise ProbelineError(
            f"Modal's answer is not what this version of Probeline expects: {' '.join(faults)} It has: "
            f"{', '.join(sorted(map(str, rates)))}. The prices of {TABLE} hold."
        )
    write_bytes(OWN_TABLE, yaml.safe_dump(table, sort_keys=False).encode())
    return read_prices()


def _table_of(rates: Mapping[str, Any]) -> dict[str, Any]:
    """Rates per hour as a table per second; what is no rate of a function, such as storage, is left out."""
    gpus = {
        key.removeprefix(RATE_OF_GPU).upper().replace("_", "-"): _per_second(rate)
        for key, rate in rates.items()
        if key.startswith(RATE_OF_GPU)
    }
    table: dict[str, Any] = {"date": datetime.now(UTC).date(), "gpus": gpus}
    return table | {name: _per_second(rates[key]) for name, key in RATES.items() if key in rates}


def _per_second(rate: Any) -> float:
    return float(f"{float(rate) / 3600:.6g}")
