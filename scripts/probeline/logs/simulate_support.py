"""Seeded support dialogues in the format of Schema-Guided Dialogue: all names and places are made up.

A customer wants something of one service, or of two in turn; the assistant asks for what is missing, offers,
confirms, reports what the service answered, and says goodbye. As in the real files a `dialogue_id` repeats
across the splits.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from random import Random
from typing import Any

import orjson

from probeline.files import atomic_directory, write_manifest
from probeline.progress import progress

# Of ten dialogues seven are in train, one in dev, two in test.
_SPLITS = ("train",) * 7 + ("dev",) + ("test",) * 2
_PLACES = ("Ostrava Bay", "Little Harrow", "Port Selka", "Tarnwick", "Veldmouth", "North Quarry", "Elmstead")
_DAYS = ("Monday", "next Tuesday", "the 4th", "the 17th", "Friday", "this weekend", "tomorrow")
_TIMES = ("half past nine", "noon", "3 pm", "a quarter to six", "7 in the evening")
_NAMES = (
    "the Copper Kettle",
    "Blue Heron",
    "Lindenhof",
    "the Old Mill",
    "Three Lanterns",
    "Seagate",
    "Marigold",
)

_SERVICES: dict[str, dict[str, Any]] = {
    "Restaurants_1": {
        "intent": "ReserveTable",
        "wish": (
            "I would like to eat out.",
            "Can you get me a table somewhere?",
            "We need a place for dinner.",
        ),
        "slots": {
            "city": ("Which town should it be in?", _PLACES),
            "time": ("What time suits you?", _TIMES),
            "party_size": ("For how many people?", ("two", "four", "five", "seven")),
        },
        "offer": "How about {name} in {city}? It is well reviewed.",
        "question": ("Is it expensive?", "It is in the middle range, about 30 a head."),
    },
    "Hotels_2": {
        "intent": "BookRoom",
        "wish": ("I need somewhere to sleep.", "Please find me a hotel.", "I am looking for a room."),
        "slots": {
            "city": ("Where will you be staying?", _PLACES),
            "check_in": ("When do you arrive?", _DAYS),
            "nights": ("For how many nights?", ("one", "two", "three", "six")),
        },
        "offer": "{name} in {city} has a room free from {check_in}.",
        "question": ("Do they have breakfast?", "Yes, breakfast is included until ten."),
    },
    "RentalCars_1": {
        "intent": "ReserveCar",
        "wish": ("I want to rent a car.", "Is there a car I could hire?", "I will need a car for a trip."),
        "slots": {
            "pickup_city": ("Where would you like to pick it up?", _PLACES),
            "pickup_date": ("From which day?", _DAYS),
            "car_type": ("What size do you need?", ("small", "family", "hybrid")),
        },
        "offer": "There is a {car_type} car waiting in {pickup_city} from {pickup_date}.",
        "question": (
            "Is insurance part of that?",
            "Basic insurance is part of it; full cover costs 12 a day more.",
        ),
    },
    "Events_1": {
        "intent": "BuyTickets",
        "wish": ("What is on these days?", "I feel like a concert.", "Get me tickets for something fun."),
        "slots": {
            "city": ("In which town?", _PLACES),
            "date": ("For which day?", _DAYS),
            "tickets": ("How many tickets?", ("one", "two", "three", "six")),
        },
        "offer": "{name} play in {city} on {date}, and seats are left.",
        "question": ("How long does it last?", "About two hours with a break."),
    },
    "Banks_1": {
        "intent": "TransferMoney",
        "wish": ("I have to send somebody money.", "Please make a transfer.", "Can I pay a bill from here?"),
        "slots": {
            "account": ("From which account?", ("checking", "savings")),
            "recipient": ("Who is to receive it?", ("Ms Yarrow", "Mr Tilden", "the Rowan family")),
            "amount": ("How much?", ("40", "125", "310", "999")),
        },
        "offer": "I would send {amount} from your {account} account to {recipient}.",
        "question": ("What do I have left then?", "Your balance would be 1,204 after it."),
    },
    "Doctors_3": {
        "intent": "BookAppointment",
        "wish": ("I have to see a doctor.", "My back hurts, whom can I see?", "I need an appointment."),
        "slots": {
            "city": ("Which town is convenient?", _PLACES),
            "date": ("Which day do you prefer?", _DAYS),
            "time": ("And at what time?", _TIMES),
        },
        "offer": "A doctor at {name} in {city} can see you on {date} at {time}.",
        "question": ("Do I bring anything?", "Your insurance card is enough."),
    },
}
_ANSWERS = (
    "{value}, please.",
    "{value} would be best.",
    "Let us say {value}.",
    "{value}.",
    "I think {value}.",
)
_ACCEPT = ("Sounds good.", "Yes, that one.", "Perfect, take it.", "That will do.")
_DECLINE = ("Is there anything else?", "Not quite, what else do you have?", "I would rather not.")
_CHECK = ("To be sure: {facts}. Shall I go ahead?", "Please confirm: {facts}.", "So it is {facts}. Correct?")
_CHANGE = ("Wait, make the {slot} {value}.", "Could it be {value} for the {slot} instead?")
_DONE = (
    "It is done. Your number is {number}.",
    "All set, the reference is {number}.",
    "That worked: {number}.",
)
_FAILED = ("I am sorry, that did not go through.", "Unfortunately the service refused it.")
_MORE = ("Anything else?", "Can I do anything else for you?", "Is there more I can help with?")
_BYE = ("No, thank you.", "That is all, thanks.", "Nothing more, goodbye.")
_CLOSE = ("Have a good day!", "You are welcome, goodbye.", "Take care!")


def simulate_dialogue(seed: int, index: int) -> tuple[str, dict[str, Any]]:
    """Split and content of dialogue `index`; they depend on the seed and the index alone."""
    digest = hashlib.sha256(f"support:{seed}:{index}".encode()).digest()
    rng = Random(int.from_bytes(digest[:8], "big"))
    rounds, place = divmod(index, len(_SPLITS))
    split = _SPLITS[place]
    number = rounds * _SPLITS.count(split) + _SPLITS[:place].count(split)
    services = rng.sample(sorted(_SERVICES), 1 + (rng.random() < 0.4))
    turns: list[dict[str, Any]] = []
    for position, service in enumerate(services):
        _serve(rng, turns, service, last=position == len(services) - 1)
    dialogue = {"dialogue_id": f"1_{number:05d}", "services": services, "turns": turns}
    return split, dialogue


def simulate_support(seed: int, indices: Iterable[int], output: Path) -> None:
    """Write `<output>/{train,dev,test}/dialogues_001.json`, as far as they hold a dialogue, and a manifest.

    Args:
        seed: of the whole corpus.
        indices: numbers of the dialogues.
        output: the folder to make; replaced as a whole.
    """
    chosen = sorted(set(indices))
    files: dict[str, list[dict[str, Any]]] = {}
    for index in progress(chosen, "Simulating support dialogues", total=len(chosen), unit="dialogue"):
        split, dialogue = simulate_dialogue(seed, index)
        files.setdefault(split, []).append(dialogue)
    with atomic_directory(output) as draft:
        for split, dialogues in files.items():
            (draft / split).mkdir()
            content = orjson.dumps(dialogues, option=orjson.OPT_INDENT_2)
            (draft / split / "dialogues_001.json").write_bytes(content)
        facts = {"corpus": "support", "seed": seed, "dialogues": len(chosen), "indices": chosen}
        write_manifest(draft, "simulated-logs", facts)


def _serve(rng: Random, turns: list[dict[str, Any]], service: str, *, last: bool) -> None:
    """One wish from its first mention to its end."""
    plan = _SERVICES[service]
    known: dict[str, str] = {}
    frame = _Frames(service, plan["intent"], known)
    slots = list(plan["slots"])
    rng.shuffle(slots)
    opening = rng.choice(plan["wish"])
    if rng.random() < 0.5:
        opening += " " + _tell(rng, known, plan, slots.pop())
    turns.append(frame.user(opening, "INFORM_INTENT"))
    for slot in slots:
        turns.append(frame.system(plan["slots"][slot][0], "REQUEST", slot))
        turns.append(frame.user(_tell(rng, known, plan, slot), "INFORM", slot))
    offers = rng.sample(_NAMES, 2)
    turns.append(frame.system(_sentence(plan["offer"].format(name=offers[0], **known)), "OFFER"))
    if rng.random() < 0.3:
        turns.append(frame.user(rng.choice(_DECLINE), "REQUEST_ALTS"))
        turns.append(frame.system(_sentence(plan["offer"].format(name=offers[1], **known)), "OFFER"))
    if rng.random() < 0.4:
        turns.append(frame.user(plan["question"][0], "REQUEST"))
        turns.append(frame.system(plan["question"][1], "INFORM"))
    turns.append(frame.user(rng.choice(_ACCEPT), "SELECT"))
    turns.append(frame.system(rng.choice(_CHECK).format(facts=_facts(known)), "CONFIRM"))
    if rng.random() < 0.25:
        slot = rng.choice(sorted(known))
        known[slot] = rng.choice([value for value in plan["slots"][slot][1] if value != known[slot]])
        change = rng.choice(_CHANGE).format(slot=_words(slot), value=known[slot])
        turns.append(frame.user(change, "INFORM", slot))
        turns.append(frame.system(rng.choice(_CHECK).format(facts=_facts(known)), "CONFIRM"))
    turns.append(frame.user(rng.choice(_ACCEPT), "AFFIRM"))
    worked = rng.random() < 0.9
    done = rng.choice(_DONE).format(number=rng.randrange(10_000, 99_999)) if worked else rng.choice(_FAILED)
    turns.append(
        frame.system(f"{done} {rng.choice(_MORE)}", "NOTIFY_SUCCESS" if worked else "NOTIFY_FAILURE")
    )
    if last:
        turns.append(frame.user(rng.choice(_BYE), "GOODBYE"))
        turns.append(frame.system(rng.choice(_CLOSE), "GOODBYE"))


def _tell(rng: Random, known: dict[str, str], plan: dict[str, Any], slot: str) -> str:
    known[slot] = rng.choice(plan["slots"][slot][1])
    return _sentence(rng.choice(_ANSWERS).format(value=known[slot]))


def _facts(known: dict[str, str]) -> str:
    return ", ".join(f"{_words(slot)} {value}" for slot, value in sorted(known.items()))


def _words(slot: str) -> str:
    return slot.replace("_", " ")


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


class _Frames:
    """Turns of one service, with the frames that the format has beside the words."""

    def __init__(self, service: str, intent: str, known: dict[str, str]) -> None:
        self._service, self._intent, self._known = service, intent, known

    def user(self, text: str, act: str, slot: str = "") -> dict[str, Any]:
        values = {name: [value] for name, value in sorted(self._known.items())}
        state = {"active_intent": self._intent, "requested_slots": [], "slot_values": values}
        return self._turn("USER", text, act, slot, {"state": state})

    def system(self, text: str, act: str, slot: str = "") -> dict[str, Any]:
        more: dict[str, Any] = {}
        if act in ("NOTIFY_SUCCESS", "OFFER"):
            more["service_call"] = {"method": self._intent, "parameters": dict(sorted(self._known.items()))}
            more["service_results"] = [dict(sorted(self._known.items()))]
        return self._turn("SYSTEM", text, act, slot, more)

    def _turn(self, speaker: str, text: str, act: str, slot: str, more: dict[str, Any]) -> dict[str, Any]:
        value = self._known.get(slot) if speaker == "USER" else None
        values = [value] if value else []
        actions = [{"act": act, "slot": slot, "values": values, "canonical_values": values}]
        start = text.lower().find(value.lower()) if value else -1
        spans = []
        if value and start >= 0:
            spans.append({"slot": slot, "start": start, "exclusive_end": start + len(value)})
        frame = {"service": self._service, "slots": spans, "actions": actions, **more}
        return {"speaker": speaker, "utterance": text, "frames": [frame]}
