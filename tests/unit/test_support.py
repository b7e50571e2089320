import json
import re
import shutil
from collections import Counter
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeline.datasets.generic_rubric import GENERIC_RUBRIC, rubric_of
from probeline.datasets.lengths import length_check
from probeline.datasets.prompts import build_prompts
from probeline.errors import ProbelineError
from probeline.files import open_parquet
from probeline.logs import support
from probeline.logs.ingest_support import collect_support, ingest_support
from probeline.logs.listing import game_content
from probeline.logs.reading import parse_json
from probeline.logs.simulate_support import simulate_dialogue, simulate_support
from probeline.logs.support import Unreadable, read_support
from probeline.models.render import load_tokenizer, render_chat
from tests.unit.mutations import damaged, deep, mutated
from tests.unit.tiny import make_model

SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}


def dialogue(*said: str, name="1_00000", services=("Hotels_2",)):
    """A dialogue of turns by the customer and the system in turn; `!` before a text is the system again."""
    turns = []
    for text in said:
        speaker = "SYSTEM" if text.startswith("!") or (turns and turns[-1]["speaker"] == "USER") else "USER"
        frame = {"service": services[0], "slots": [], "actions": [], "state": {"slot_values": {}}}
        turns.append({"speaker": speaker, "utterance": text.removeprefix("!"), "frames": [frame]})
    return {"dialogue_id": name, "services": list(services), "turns": turns}


TALK = ("A room, please.", "Where?", "In Selka.", "For how long?", "Two nights.", "It is booked.")


def ingest(folder: Path, files: dict[str, object], shards: int = 1, retracted=()):
    """Dialogues, rows, quality and quarantine of some files; what is not bytes is written as JSON."""
    for name, content in files.items():
        (folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        data = content if isinstance(content, bytes) else orjson.dumps(content)
        (folder / "raw" / name).write_bytes(data)
    paths = sorted((folder / "raw").rglob("*.json"))
    paths = [path for path in paths if path.name != "manifest.json"]
    made = []
    for shard in range(shards):
        made.append(folder / "out" / "shards" / str(shard))
        reasons = dict.fromkeys(retracted, "asked to")
        ingest_support(paths[shard::shards], folder / "raw", made[-1], reasons)
    collect_support(made, folder / "out")
    quality = json.loads((folder / "out" / "quality.json").read_text())
    adds_up(quality)
    return (
        open_parquet(folder / "out" / "dialogues.parquet").read().to_pylist(),
        open_parquet(folder / "out" / "rows.parquet").read().to_pylist(),
        quality,
        [json.loads(line) for line in (folder / "out" / "quarantine.jsonl").read_text().splitlines()],
    )


def adds_up(quality):
    assert quality["files"] == quality["files_read"] + quality["files_skipped"] + quality["files_quarantined"]
    kept = quality["dialogues"] + quality["duplicates"] + quality["quarantined"] + quality["retracted"]
    assert quality["found"] == kept
    names = ("rows", "first_system_turns", "system_turns_without_words")
    assert quality["system_turns"] == sum(quality[name] for name in names)
    parts = ("train", "dev", "test")
    split = quality["dialogues_without_split"] + sum(quality[f"dialogues_{part}"] for part in parts)
    assert split == quality["dialogues"]


def prompts(folder, files, **given):
    ingest(folder, files)
    build_prompts(folder / "out", folder / "prompts", {"max_tokens": 90}, SPLITS, 0, simulated=True, **given)
    rows = [json.loads(line) for line in (folder / "prompts" / "prompts.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "prompts" / "dataset_statistics.json").read_text())


def test_a_row_per_turn_of_the_system_but_the_first(tmp_path):
    dialogues, rows, quality, _ = ingest(tmp_path, {"dev/dialogues_001.json": [dialogue(*TALK)]})
    assert [(row["id"], row["folder"]) for row in dialogues] == [("dev/1_00000", "dev")]
    assert [(row["turn_index"], row["ground_truth"]) for row in rows] == [
        (3, "For how long?"),
        (5, "It is booked."),
    ]
    assert rows[0]["prompt"] == [
        {"role": "user", "content": "A room, please."},
        {"role": "assistant", "content": "Where?"},
        {"role": "user", "content": "In Selka."},
    ]
    assert (quality["turns"], quality["rows"], quality["first_system_turns"]) == (6, 2, 1)


def test_turns_in_a_row_are_one_message_and_silence_makes_no_row(tmp_path):
    said = ("Hello.", "Good day.", "!How can I help?", "A room.", "", "Well?", "Certainly.")
    _, rows, quality, _ = ingest(tmp_path, {"a.json": [dialogue(*said)]})
    assert [row["ground_truth"] for row in rows] == ["How can I help?", "Certainly."]
    assert [message["content"] for message in rows[1]["prompt"]] == [
        "Hello.",
        "Good day.\nHow can I help?",
        "A room.\nWell?",
    ]
    assert quality["system_turns_without_words"] == 1


def test_ids_are_told_apart_by_split_and_the_held_out_copy_is_kept(tmp_path):
    files = {
        "train/dialogues_001.json": [dialogue(*TALK), dialogue("Copied.", *TALK)],
        "dev/x.json": [dialogue("Other.", *TALK)],
        "deeper/test/y.json": [dialogue("Copied.", *TALK)],
        "train/schema.json": [{"service_name": "Hotels_2"}],
    }
    for shards in (1, 4):
        dialogues, rows, quality, quarantine = ingest(tmp_path / str(shards), files, shards)
        assert sorted(row["id"] for row in dialogues) == ["dev/1_00000", "test/1_00000", "train/1_00000"]
        assert (quality["duplicates"], quality["files_skipped"], quarantine) == (1, 1, [])
        assert len({row["game"] for row in rows}) == 3


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda d: d.pop("dialogue_id"), "dialogue_id is missing"),
        (lambda d: d.update(turns=[]), "turns has 0 entries, expected 1 to 200"),
        (lambda d: d["turns"][1].update(speaker="BOT"), "turns[1].speaker is neither USER nor SYSTEM"),
        (lambda d: d["turns"][2].update(utterance=None), "turns[2].utterance is null, expected a text"),
        (lambda d: d["turns"][0].update(frames=[{"service": 3}]), "turns[0].frames[0].service is an integer"),
        (lambda d: d.update(services=[1]), "services is no list of at most 100 texts"),
    ],
)
def test_a_faulty_dialogue_says_its_field_and_the_others_are_read(change, reason):
    faulty = dialogue(*TALK)
    change(faulty)
    read = list(read_support(orjson.dumps([dialogue("Hi.", *TALK), faulty])))
    assert [isinstance(one, Unreadable) for one in read] == [False, True]
    assert (read[1].position, read[1].reason[: len(reason)]) == (2, reason)


def test_an_entry_that_is_no_dialogue_is_told_of_in_a_whole_sentence():
    assert [one.reason for one in read_support(b"[null]")] == ["the entry is null, expected an object"]


def test_hostile_files_are_accounted_for_and_the_rest_goes_on(tmp_path):
    good = orjson.dumps([dialogue(*TALK)])
    files = {
        "train/good.json": good,
        "train/cut.json": good[:-40],
        "train/latin.json": good.replace(b"Selka", b"Sch\xf6n"),
        "train/object.json": {"dialogues": []},
        "train/none.json": [],
        "train/deep.json": deep(),
        "train/deeper.json": b'[{"a": ' + deep(300) + b"}]",
        "train/other.json": [{"game_id": 1, "players": []}],
        "train/nan.json": b'[{"dialogue_id": NaN}]',
        "train/mixed.json": [dialogue("Hey.", *TALK), 7, None, {"turns": 1}],
        "train/zip.json": bytes(range(256)) * 10,
    }
    dialogues, _, quality, quarantine = ingest(tmp_path, files, shards=2)
    assert len(dialogues) == 2
    assert (quality["files"], quality["files_quarantined"], quality["quarantined"]) == (11, 9, 3)
    assert len(quarantine) == 12
    assert all(row["reason"] and len(row["sha256"]) == 64 for row in quarantine)


def test_a_dialogue_of_endless_prompts_is_a_fault(tmp_path):
    long = [dialogue(*["word " * 200] * 198, name="long"), dialogue(*TALK)]
    _, rows, quality, quarantine = ingest(tmp_path, {"a.json": long})
    assert (quality["dialogues"], len(rows)) == (1, 2)
    assert "prompts of the 198 turns have" in quarantine[0]["reason"]
    turns = dialogue(*["a"] * 201)
    *_, quarantine = ingest(tmp_path, {"a.json": [dialogue(*TALK), turns]})
    assert "turns has 201 entries, expected 1 to 200" in quarantine[0]["reason"]


def test_a_file_is_digested_once_however_many_dialogues_it_has(monkeypatch):
    digested = []
    monkeypatch.setattr(support, "sha256_bytes", lambda data: digested.append(data) or "")
    assert len(list(read_support(orjson.dumps([dialogue(*TALK)] * 50)))) == 50
    assert digested == []


def test_a_byte_order_mark_makes_no_other_content():
    data = orjson.dumps(dialogue(*TALK))
    assert game_content(b"\xef\xbb\xbf" + data) == game_content(data)
    assert parse_json(b"\xef\xbb\xbf" + data, Counter()) == orjson.loads(data)


def test_what_is_mended_is_counted(tmp_path):
    odd = dialogue("\ud800 A room", "Good day.", "!How can I help?", "", "Well?", "A room.", "For how long?")
    odd["turns"][1]["frames"][0]["x"] = float("nan")
    files = {
        "train/a.json": json.dumps([odd, dialogue(*TALK)]).encode(),
        "dev/b.json": b"\xef\xbb\xbf" + orjson.dumps([dialogue("Hi.", *TALK)]),
    }
    dialogues, _, quality, quarantine = ingest(tmp_path, files)
    assert (len(dialogues), quarantine) == (3, [])
    assert quality["dialogues_of_files_nonstandard_json"] == 2
    assert quality["dialogues_of_files_with_byte_order_mark"] == 1
    assert (quality["user_turns_without_words"], quality["turns_merged"]) == (1, 2)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_mutated_file_raises_anything_but_words(data):
    logged = [dialogue(*TALK), dialogue("Hi.", *TALK)]
    if data.draw(st.booleans()):
        changed = json.dumps(data.draw(mutated(logged))).encode()
    else:
        changed = data.draw(damaged(orjson.dumps(logged)))
    try:
        read = list(read_support(changed))
    except ProbelineError:
        return
    assert all(isinstance(one, Unreadable) or one.turns for one in read)


@settings(max_examples=15, deadline=None)
@given(mutated([dialogue(*TALK), dialogue("Hi.", *TALK)]))
def test_mutated_dialogues_become_tables_and_prompts_that_add_up(tmp_path_factory, logged):
    folder = tmp_path_factory.mktemp("mutated")
    files = {"train/a.json": json.dumps(logged).encode()}
    rows, statistics = prompts(folder, files)
    assert statistics["rows"] == len(rows) + sum(statistics["excluded"].values())
    shutil.rmtree(folder)


def test_names_order_and_shards_change_nothing(tmp_path):
    made = [simulate_dialogue(3, index) for index in range(40)]
    ingest(tmp_path / "one", {f"{split}/a.json": [d for s, d in made if s == split] for split, _ in made})
    Random(1).shuffle(made)
    files: dict[str, list] = {}
    for number, (split, one) in enumerate(made):
        files.setdefault(f"{number % 3}/{split}/{number % 5}.json", []).append(one)
    ingest(tmp_path / "many", files, shards=4)
    for name in ("dialogues.parquet", "rows.parquet"):
        assert (tmp_path / "one" / "out" / name).read_bytes() == (
            tmp_path / "many" / "out" / name
        ).read_bytes()


# Datasets ------------------------------------------------------------------------------------------------


def test_prompts_keep_the_split_and_carry_reference_and_rubric(tmp_path):
    files = {"train/a.json": [dialogue(*TALK)], "dev/a.json": [dialogue("Hey.", "Yes?", *TALK)]}
    rows, statistics = prompts(tmp_path, files, rubrics={"train/1_00000#3": "Asks for the dates."})
    by_id = {row["id"]: row for row in rows}
    assert {name for name in by_id if name.startswith("train")} == {"train/1_00000#3", "train/1_00000#5"}
    assert {by_id[name]["split"] for name in by_id if name.startswith("dev/")} == {"validation"}
    first = by_id["train/1_00000#3"]
    assert first["prompt"][0]["content"].startswith("You are the customer-service assistant for hotels.")
    assert first["prompt"][0]["content"].endswith("\n\nA room, please.")
    assert (first["split"], first["ground_truth"]) == ("train", "For how long?")
    assert rubric_of(first) == "Asks for the dates."
    assert by_id["train/1_00000#5"]["rubric"] is None
    assert rubric_of(by_id["train/1_00000#5"]) == GENERIC_RUBRIC
    assert statistics["splits"]["validation"]["dialogues"] == 1
    # By which a dialogue can be retracted.
    keys = {
        row["id"]: row["game"] for row in open_parquet(tmp_path / "out/dialogues.parquet").read().to_pylist()
    }
    assert [row["game"] for row in rows] == [keys[row["dialogue_id"]] for row in rows]


def test_a_prompt_of_a_held_out_split_is_not_trained_on(tmp_path):
    files = {
        "train/a.json": [dialogue(*TALK)],
        "test/a.json": [dialogue(*TALK[:-1], "Done!", name="1_00009")],
    }
    rows, statistics = prompts(tmp_path, files)
    assert {row["split"] for row in rows} == {"test"}
    assert statistics["excluded"] == {"prompt_in_test_too": 2}


def test_a_prompt_without_a_word_of_the_user_is_left_out(tmp_path):
    rows, statistics = prompts(tmp_path, {"train/a.json": [dialogue("!", "!Hello there.", "Hi.", "Yes?")]})
    assert [row["ground_truth"] for row in rows] == ["Yes?"]
    assert statistics["excluded"] == {"user_did_not_speak_last": 1}


def test_prompts_of_other_tasks_are_others(tmp_path):
    files = {
        "train/a.json": [dialogue(*TALK)],
        "test/a.json": [dialogue(*TALK, services=("Banks_1",))],
    }
    rows, statistics = prompts(tmp_path, files)
    assert (len(rows), statistics["excluded"]) == (4, {})


def test_a_prompt_is_measured_with_what_asks_for_an_answer(tmp_path):
    model = make_model(tmp_path / "model")
    tokenizer = load_tokenizer(model)
    chat = [{"role": "user", "content": "A room, please."}]
    asked = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"]
    answered = [*chat, {"role": "assistant", "content": "Where?"}]
    for length, fits in ((len(asked), True), (len(asked) - 1, False)):
        counts = Counter()
        assert length_check(model, length, counts)([chat]) is fits
        assert counts.total() == (not fits)
    whole = len(render_chat(tokenizer, answered).input_ids)
    assert length_check(model, whole, Counter())([answered])


def test_too_long_prompts_are_left_out_and_counted(tmp_path):
    model = make_model(tmp_path / "model")
    long = dialogue("Hello", "Yes?", "word " * 300, "Well.", name="1_00001")
    rows, statistics = prompts(
        tmp_path, {"train/a.json": [dialogue("Hi", "Hm?", "A", "B"), long]}, model=model
    )
    assert statistics["rows"] == 2
    assert statistics["excluded"]["more_than_90_tokens"] == 2 - len(rows) >= 1


def test_dialogues_of_one_id_have_rows_of_their_own_names(tmp_path):
    rows, _ = prompts(tmp_path, {"train/a.json": [dialogue(*TALK), dialogue(*TALK[:-1], "Done!")]})
    assert len({row["id"] for row in rows}) == len(rows) == 4


# Simulated dialogues -------------------------------------------------------------------------------------


def test_a_simulated_dialogue_depends_on_seed_and_index_alone(tmp_path):
    simulate_support(5, [7, 2, 8], tmp_path / "some")
    (found,) = json.loads((tmp_path / "some" / "dev" / "dialogues_001.json").read_text())
    assert ("dev", found) == simulate_dialogue(5, 7)
    assert simulate_dialogue(6, 7)[1]["turns"] != found["turns"]
    assert json.loads((tmp_path / "some" / "manifest.json").read_text())["kind"] == "simulated-logs"


def test_simulated_dialogues_have_their_articles_right():
    said = [turn["utterance"] for index in range(200) for turn in simulate_dialogue(0, index)[1]["turns"]]
    assert [text for text in said if re.search(r"\b[Aa] [aeio]", text)] == []


def test_simulated_dialogues_repeat_ids_across_splits_and_are_all_read(tmp_path):
    simulate_support(0, range(60), tmp_path / "raw")
    dialogues, _, quality, quarantine = ingest(tmp_path, {})
    assert (quality["dialogues"], quality["ids_repeated"], quarantine) == (60, 0, [])
    assert len({row["dialogue_id"] for row in dialogues}) < len({row["id"] for row in dialogues}) == 60
    spans = [
        (turn["utterance"][slot["start"] : slot["exclusive_end"]], next(iter(frame["actions"]))["values"][0])
        for index in range(20)
        for turn in simulate_dialogue(0, index)[1]["turns"]
        for frame in turn["frames"]
        for slot in frame["slots"]
    ]
    assert spans
    assert all(shown.lower() == value.lower() for shown, value in spans)
