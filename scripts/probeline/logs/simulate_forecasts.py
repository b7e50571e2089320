"""Seeded forecasting cases in the format of real ones, about companies and countries that do not exist.

What followed and what did not are drawn from the same sentences, so that nothing but the irregularities of
real logs tells them apart: the answer first, paths and research that give it away, events of several cases,
false candidates used again and again, parents in other words, dates before the seed's, old forms.
"""

import hashlib
from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson

from probeline.files import atomic_directory, write_manifest
from probeline.progress import progress

COPIED_EVENT = 0.29
"""Share of cases whose seed event is that of an earlier case: 53 of 91 real ones share theirs then."""
CLOSING_TELLS = 0.985
PARENT_REWORDED = 0.24
GENERIC_CANDIDATE = 0.044
DATED_BEFORE = 0.022

_FIRST = (
    "Alder",
    "Brisk",
    "Calder",
    "Dorun",
    "Elmar",
    "Fenwick",
    "Galto",
    "Harrow",
    "Ibex",
    "Jorvik",
    "Kestrel",
    "Lumen",
    "Marden",
    "Norvel",
    "Ostra",
    "Pellan",
    "Quarry",
    "Rowan",
    "Selka",
    "Tarn",
    "Umbra",
    "Veldt",
    "Wexley",
    "Yarrow",
    "Zephyr",
    "Corvane",
    "Drayle",
    "Ardent",
    "Mistral",
    "Solene",
)
_LAST = {
    "Technology": ["Systems", "Robotics", "Semiconductors", "Cloud", "Networks", "Labs", "Devices"],
    "Finance": ["Bank", "Capital", "Insurance", "Exchange", "Holdings", "Trust", "Payments", "Credit"],
    "Politics": ["Republic", "Federation", "Islands", "Province", "Union", "Coast", "Highlands"],
    "Energy": ["Power", "Oil", "Grid", "Solar", "Pipelines", "Hydro", "Mining", "Fuels"],
    "Transport": ["Airlines", "Rail", "Shipping", "Motors", "Logistics", "Ferries", "Harbour", "Freight"],
    "Health": ["Pharma", "Hospitals", "Biotech", "Diagnostics", "Vaccines", "Clinics", "Genetics", "Care"],
}
_SEEDS = {
    "Technology": (
        "{name} recalls {count} devices after a fault in its charging circuit",
        "{name} opens its largest model to the public without a licence fee",
        "{name} loses customer records of {count} people in a break-in",
        "{name} cuts {percent} percent of its workforce in one morning",
    ),
    "Finance": (
        "{name} stops withdrawals after losses on government bonds",
        "{name} offers {count} million for its oldest rival",
        "{name} admits errors in three years of accounts",
        "{name} lowers its forecast for the year by {percent} percent",
    ),
    "Politics": (
        "Voters in {name} reject the new constitution by {percent} points",
        "The governing coalition of {name} breaks apart over the budget",
        "{name} closes its northern border after a dispute on fishing rights",
        "The parliament of {name} calls an early election",
    ),
    "Energy": (
        "{name} shuts its main plant after cracks are found in a turbine",
        "{name} raises household tariffs by {percent} percent",
        "{name} wins the right to drill in a protected bay",
        "A storm leaves {count} thousand customers of {name} without supply",
    ),
    "Transport": (
        "{name} grounds its fleet after an engine failure over the sea",
        "Crews of {name} begin a strike without an end date",
        "{name} orders {count} electric vessels in a single contract",
        "A bridge on the main line of {name} is closed as unsafe",
    ),
    "Health": (
        "{name} halts a trial after {count} patients fall ill",
        "{name} receives approval for a vaccine taken by mouth",
        "{name} is accused of hiding side effects of its best seller",
        "{name} runs out of a common antibiotic in {count} districts",
    ),
}
_ACTORS = (
    "the regulator",
    "a group of investors",
    "the ministry",
    "the largest union",
    "a rival",
    "the audit court",
    "the neighbouring states",
    "a consumer association",
    "the central bank",
    "the founder",
)
_OUTCOMES = (
    "{name} settles with {actor} and pays {count} million",
    "{actor} opens an inquiry into {name} that is to last {months} months",
    "{name} replaces its leadership after pressure from {actor}",
    "{actor} takes {name} to court over the handling of the affair",
    "{name} announces a plan in {months} steps and asks for patience",
    "Demand recovers and {name} reports {percent} percent more than expected",
    "{name} sells a part of itself to {actor} for {count} million",
    "{actor} withdraws its support for {name} without giving a reason",
    "{name} delays its decision by {months} months after talks with {actor}",
    "A leaked memo shows that {name} knew of the trouble {months} months ahead",
    "{actor} demands that {name} repay {percent} percent of its subsidies",
    "Confidence in {name} falls to a low of {percent} percent in a survey",
    "{name} and {actor} agree on a joint fund of {count} million",
    "{name} reverses course and apologises in public to {actor}",
    "Protests outside the offices of {name} grow to {count} thousand people",
    "{actor} clears {name} of wrongdoing after {months} months",
)
_GENERIC = (
    "Nothing changes and the matter is forgotten",
    "All of those involved resign on the same day",
    "The decision is taken back within a week",
)
_CONTEXTS = (
    "It is the {ordinal} such case within {months} months, and observers expect {actor} to react.",
    "The step had been rumoured for {months} months; {actor} had warned of it.",
    "About {count} thousand people are affected, and {actor} asks for details.",
    "Analysts are divided: some see {percent} percent at stake, others a passing matter.",
)
_BACKGROUND = (
    "Several papers carried the story on their front pages.",
    "Officials declined to give further figures.",
    "Local stations had reported first hints days before.",
    "Figures are those of the institutions concerned.",
)
_ORDINALS = ("first", "second", "third", "fourth", "fifth")
_ENDINGS = (" after ", " and ", " over ", " for ", " without ", " in ", " to ", " by ", " from ", " of ")


def simulate_case(seed: int, index: int) -> dict[str, Any]:
    """Case `index` as it would be logged; it depends on the seed and the index alone."""
    rng = _random(seed, index, "case")
    domain, event, start, name = _seed_event(seed, _origin(seed, index))
    kind = rng.choices(("curated", "historical", "chain", "single"), (70, 15, 8, 7))[0]
    count = 4 if kind == "chain" else 3
    context = _fill(rng, rng.choice(_CONTEXTS), name)
    if kind == "chain":
        return _chain(rng, index, domain, event, start, name, context, count)
    logged_seed = {"event": event, "date": start.isoformat(), "context": context}
    case: dict[str, Any] = {"case_id": f"simulated_{index:06d}", "seed": logged_seed, "domain": domain}
    if kind == "historical":
        case["knowledge_cutoff"] = start.isoformat()
    else:
        logged_seed["domain"] = domain
    case["levels"] = _levels(rng, kind, event, start, name, count)
    return case


def simulate_forecasts(seed: int, indices: Iterable[int], output: Path) -> None:
    """Write `<output>/cases.jsonl` and a manifest.

    Args:
        seed: of the whole corpus.
        indices: numbers of the cases.
        output: the folder to make; replaced as a whole.
    """
    chosen = sorted(set(indices))
    with atomic_directory(output) as draft, (draft / "cases.jsonl").open("wb") as file:
        for index in progress(chosen, "Simulating forecasting cases", total=len(chosen), unit="case"):
            file.write(orjson.dumps(simulate_case(seed, index)) + b"\n")
        file.flush()
        facts = {"corpus": "forecast", "seed": seed, "cases": len(chosen), "indices": chosen}
        write_manifest(draft, "simulated-logs", facts)


def _random(seed: int, index: int, purpose: str) -> Random:
    digest = hashlib.sha256(f"forecast:{seed}:{index}:{purpose}".encode()).digest()
    return Random(int.from_bytes(digest[:8], "big"))


def _origin(seed: int, index: int) -> int:
    """The case whose seed event this case has: itself, or an earlier one."""
    while index:
        rng = _random(seed, index, "origin")
        if rng.random() >= COPIED_EVENT:
            break
        index = rng.randrange(index)
    return index


def _seed_event(seed: int, index: int) -> tuple[str, str, date, str]:
    rng = _random(seed, index, "event")
    domain = rng.choice(sorted(_LAST))
    name = f"{rng.choice(_FIRST)} {rng.choice(_FIRST)} {rng.choice(_LAST[domain])}"
    event = _fill(rng, rng.choice(_SEEDS[domain]), name)
    return domain, event, date(2021, 1, 4) + timedelta(days=rng.randrange(1400)), name


def _levels(rng: Random, kind: str, event: str, start: date, name: str, count: int) -> list[dict[str, Any]]:
    levels = []
    path, before, day = [event], event, start
    happened: set[str] = set()
    for depth in range(1, count + 1):
        candidates = _candidates(rng, kind, name, happened)
        answer = candidates[0]
        day += timedelta(days=rng.randrange(5, 60))
        logged = start - timedelta(days=30) if rng.random() < DATED_BEFORE else day
        shown = list(path)
        if kind != "historical" and rng.random() < CLOSING_TELLS:
            shown.append(_reworded(rng, answer))
        if kind == "historical":
            rng.shuffle(candidates)
        levels.append(
            {
                "depth": depth,
                "parent_event": _reworded(rng, before) if rng.random() < PARENT_REWORDED else before,
                "path": shown,
                "timeframe_months": depth,
                "date": logged.isoformat(),
                "research_summary": _research(rng, kind, day, depth, answer, name),
                "candidates": [{"event": one, "label": int(one == answer)} for one in candidates],
            }
        )
        path.append(answer)
        before = answer
    return levels


def _chain(
    rng: Random, index: int, domain: str, event: str, start: date, name: str, context: str, count: int
) -> dict[str, Any]:
    """The old flat form: what followed, and nothing beside it."""
    outcomes = []
    day = start
    for depth in range(1, count + 1):
        months = rng.randrange(1, 4)
        day += timedelta(days=30 * months)
        outcome = _fill(rng, rng.choice(_OUTCOMES), name)
        outcomes.append(
            {"depth": depth, "event": outcome, "date": day.isoformat(), "timeframe_months": months}
        )
    return {
        "case_id": f"simulated_{index:06d}",
        "seed_event": event,
        "seed_date": start.isoformat(),
        "context": context,
        "domain": domain,
        "outcome_chain": outcomes,
    }


def _candidates(rng: Random, kind: str, name: str, happened: set[str]) -> list[str]:
    """What happened, then what did not; adds to the sentences that tell what has `happened` already."""
    count = {"single": 1, "historical": rng.choice((3, 4))}.get(kind, 4)
    templates = rng.sample([one for one in _OUTCOMES if one not in happened], count)
    happened.add(templates[0])
    events = [_fill(rng, template, name) for template in templates]
    for index in range(1, count):
        if rng.random() < GENERIC_CANDIDATE and not set(events) & set(_GENERIC):
            events[index] = rng.choice(_GENERIC)
    return events


def _research(rng: Random, kind: str, day: date, depth: int, answer: str, name: str) -> str:
    if kind == "historical":
        return f"Research period: {2 * depth - 2} to {2 * depth} months after the seed event"
    told = f"By {day:%d %B %Y}, {answer}." if rng.random() < CLOSING_TELLS else f"Little is known of {name}."
    return " ".join([told, *rng.sample(_BACKGROUND, 2)])


def _reworded(rng: Random, text: str) -> str:
    """The text without its last clause, as real paths shorten it; always other words."""
    cuts = [place for ending in _ENDINGS if (place := text.find(ending, len(text) // 3)) > 0]
    return text[: rng.choice(cuts)] if cuts else f"{text} as expected"


def _fill(rng: Random, template: str, name: str) -> str:
    text = template.format(
        name=name,
        actor=rng.choice(_ACTORS),
        count=rng.randrange(12, 980),
        percent=rng.randrange(3, 48),
        months=rng.randrange(2, 19),
        ordinal=rng.choice(_ORDINALS),
    )
    return text[:1].upper() + text[1:]
