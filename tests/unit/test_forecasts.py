import json
import shutil
from copy import deepcopy
from decimal import Decimal
from math import fsum
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from probeline.datasets.forecasts import build_forecasts, events_in_two_splits, soft_target
from probeline.datasets.leaks import Question, leak_report
from probeline.digests import sha256_bytes
from probeline.errors import ProbelineError
from probeline.files import open_parquet
from probeline.logs import units
from probeline.logs.forecasts import MAX_CASE_BYTES, findings, read_forecast
from probeline.logs.ingest_forecasts import collect_forecasts, ingest_forecasts
from probeline.logs.simulate_forecasts import simulate_case, simulate_forecasts
from tests.unit.mutations import damaged, deep, lines, mutated

SPLITS = {"by": "game", "train": 0.6, "validation": 0.2, "test": 0.2}


def level(depth, answer, *others, parent, path=(), **changes):
    candidates = [{"event": answer, "label": 1}, *({"event": other, "label": 0} for other in others)]
    return {
        "depth": depth,
        "parent_event": parent,
        "path": list(path),
        "timeframe_months": depth,
        "date": f"2024-0{depth + 1}-01",
        "research_summary": f"It is reported that {answer} as some had thought",
        "candidates": candidates,
    } | changes


def case(event="A dam breaks in Selka", **changes):
    first, second = "Rescue boats reach three villages", "The builder is charged with fraud"
    return {
        "case_id": "mine_1",
        "seed": {
            "event": event,
            "date": "2024-01-05",
            "context": "It had rained for days.",
            "domain": "Weather",
        },
        "domain": "Weather",
        "levels": [
            level(
                1,
                first,
                "The dam holds after all",
                "Snow begins to fall",
                parent=event,
                path=[event, "Rescue boats reach villages"],
            ),
            level(
                2,
                second,
                "Nobody is ever asked",
                "A new dam opens",
                parent="Boats came",
                path=[event, first, "Builder charged with fraud"],
            ),
        ],
    } | changes


FLAT = {
    "case_id": "old_1",
    "seed_event": "A bank closes its counters",
    "seed_date": "2023-01-15",
    "context": "Rates had risen.",
    "domain": "Finance",
    "outcome_chain": [
        {"depth": 1, "event": "Customers queue in the rain", "date": "2023-02-01", "timeframe_months": 1},
        {"depth": 2, "event": "The state takes over", "date": "2023-03-01", "timeframe_months": 1},
    ],
}


def ingest(folder: Path, files: dict[str, bytes], shards: int = 1, retracted=()):
    """Cases, levels, quality and quarantine of some files."""
    for name, data in files.items():
        (folder / "raw" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "raw" / name).write_bytes(data)
    paths = sorted((folder / "raw").rglob("*.jsonl"))
    made = []
    for shard in range(shards):
        made.append(folder / "out" / "shards" / str(shard))
        reasons = dict.fromkeys(retracted, "asked to")
        ingest_forecasts(paths[shard::shards], folder / "raw", made[-1], reasons)
    collect_forecasts(made, folder / "out")
    quality = json.loads((folder / "out" / "quality.json").read_text())
    adds_up(quality)
    return (
        open_parquet(folder / "out" / "cases.parquet").read().to_pylist(),
        open_parquet(folder / "out" / "levels.parquet").read().to_pylist(),
        quality,
        [json.loads(line) for line in (folder / "out" / "quarantine.jsonl").read_text().splitlines()],
    )


def adds_up(quality):
    assert quality["files"] == quality["files_read"] + quality["files_skipped"] + quality["files_quarantined"]
    kept = quality["cases"] + quality["duplicates"] + quality["quarantined"] + quality["retracted"]
    assert quality["found"] == kept
    assert quality["cases"] == quality["cases_as_levels"] + quality["cases_as_chain"]


def test_every_form_of_a_case_is_read(tmp_path):
    without_domain = case("A comet is seen", knowledge_cutoff="2024-01-05")
    del without_domain["seed"]["domain"]
    single = case("A river changes its course")
    for one in single["levels"]:
        del one["candidates"][1:]
    cases, levels, quality, quarantine = ingest(
        tmp_path,
        {"a.jsonl": lines(case(), FLAT), "b/c.jsonl": b"\xef\xbb\xbf" + lines(without_domain, single)},
    )
    assert quarantine == []
    by_event = {row["event"]: row for row in cases}
    assert by_event["A comet is seen"]["knowledge_cutoff"] == "2024-01-05"
    assert by_event["A comet is seen"]["domain"] == "Weather"
    assert by_event["A bank closes its counters"]["form"] == "chain"
    assert (quality["levels"], quality["candidates"], quality["levels_with_one_candidate"]) == (8, 16, 4)
    chain = [row for row in levels if row["game"] == by_event["A bank closes its counters"]["game"]]
    assert [(row["depth"], row["candidates"]) for row in chain] == [
        (1, [{"event": "Customers queue in the rain", "label": True}]),
        (2, [{"event": "The state takes over", "label": True}]),
    ]


def test_what_is_wrong_with_a_level_is_found_and_counted(tmp_path):
    faulty = case()
    faulty["levels"][1]["date"] = "2024-01-01"
    _, levels, quality, _ = ingest(tmp_path, {"a.jsonl": lines(faulty)})
    assert levels[0]["findings"] == [
        "paths_beyond_parent",
        "answers_first",
        "path_ends_giving_answer",
        "research_giving_answer",
    ]
    assert set(levels[1]["findings"]) - set(levels[0]["findings"]) == {
        "parents_unlike_answer",
        "dates_before_seed",
        "dates_before_parent",
    }
    assert (quality["answers_first"], quality["parents_unlike_answer"], quality["dates_before_seed"]) == (
        2,
        1,
        1,
    )


def test_a_clean_level_has_no_findings():
    clean = case(levels=[level(1, "B", "C", parent="A dam breaks in selka!", path=["A dam breaks in Selka"])])
    clean["levels"][0]["research_summary"] = "Period: one month"
    clean["levels"][0]["candidates"].reverse()
    assert findings(read_forecast(orjson.dumps(clean)), 0) == []


def test_several_answers_or_none_are_no_reason_to_lose_a_case(tmp_path):
    odd = case()
    odd["levels"][0]["candidates"][1]["label"] = 1
    odd["levels"][1]["candidates"][0]["label"] = 0
    _, levels, quality, _ = ingest(tmp_path, {"a.jsonl": lines(odd)})
    assert [row["answer"] for row in levels] == [None, None]
    assert quality["levels_without_one_answer"] == 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.pop("seed"), "seed is missing"),
        (lambda c: c["seed"].pop("event"), "seed.event is missing"),
        (lambda c: c.update(levels={}), "levels is an object, expected a list"),
        (lambda c: c.update(levels=[]), "levels has 0 entries, expected 1 to 20"),
        (
            lambda c: c["levels"][1]["candidates"][0].update(label="1"),
            "levels[1].candidates[0].label is neither",
        ),
        (
            lambda c: c["levels"][0]["candidates"][2].update(event=7),
            "levels[0].candidates[2].event is an integer",
        ),
        (
            lambda c: c["levels"][0]["candidates"][1].update(event="x" * 2001),
            "levels[0].candidates[1].event has 2001 characters, more than 2000",
        ),
        (lambda c: c["seed"].update(context="x" * 20_001), "seed.context has 20001 characters"),
        (lambda c: c["levels"][0].update(path=["a", 1]), "levels[0].path is no list"),
        (lambda c: c["levels"][1].update(depth=1), "levels has the depths [1, 1]"),
        (lambda c: c["levels"][0].update(timeframe_months=float("inf")), "timeframe_months"),
        (lambda c: c["seed"].update(date=20240105), "seed.date is an integer, expected a text"),
    ],
)
def test_a_faulty_case_says_its_field(change, reason):
    faulty = case()
    change(faulty)
    with pytest.raises(ProbelineError) as error:
        read_forecast(json.dumps(faulty).encode())
    assert reason in str(error.value)


def test_hostile_files_are_accounted_for_and_the_rest_goes_on(tmp_path):
    huge = b'{"case_id": "' + b"x" * MAX_CASE_BYTES + b'"}'
    files = {
        "good.jsonl": lines(case(), FLAT),
        "copies.jsonl": json.dumps(case(), indent=None, sort_keys=True).encode(),
        "mixed.jsonl": lines(case("A fair opens")) + b'{"case_id": \n' + huge + b"\n\n" + lines({"a": 1}, []),
        "pretty.jsonl": json.dumps(case("A mill burns"), indent=2).encode(),
        "deep.jsonl": deep(),
        "latin.jsonl": json.dumps(case("Ü"), ensure_ascii=False).encode("latin-1"),
        "empty.jsonl": b"",
        "zip.jsonl": b"PK\x03\x04" + bytes(range(256)) * 20,
        "huge.jsonl": huge,
    }
    (tmp_path / "raw" / "folder.jsonl").mkdir(parents=True)
    cases, _, quality, quarantine = ingest(tmp_path, files, shards=3)
    assert {row["event"] for row in cases} == {
        "A dam breaks in Selka",
        "A bank closes its counters",
        "A fair opens",
    }
    assert (quality["files"], quality["files_quarantined"], quality["duplicates"]) == (10, 7, 1)
    mixed = [(row["entry"], row["reason"]) for row in quarantine if row["path"] == "mixed.jsonl"]
    assert [entry for entry, _ in mixed] == [2, 3, 5, 6]
    assert "more than 4194304 bytes" in mixed[1][1]
    reasons = {row["path"]: row["reason"] for row in quarantine if row["entry"] is None}
    assert "nested too deeply" in reasons["deep.jsonl"] or "not JSON" in reasons["deep.jsonl"]
    assert "not UTF-8" in reasons["latin.jsonl"]
    assert reasons["empty.jsonl"] == "the file holds none of the cases"
    assert "could not be read" in reasons["folder.jsonl"]
    one = next(row for row in quarantine if row["path"] == "zip.jsonl")
    assert one["sha256"] == sha256_bytes(files["zip.jsonl"])


def test_faults_beyond_those_listed_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "MOST_FAULTS", 20)
    cases, _, quality, quarantine = ingest(tmp_path, {"a.jsonl": lines(case()) + b"x\n" * 50 + lines(FLAT)})
    assert (len(cases), quality["found"], quality["quarantined"]) == (2, 52, 50)
    assert len(quarantine) + sum(row.get("more", 0) for row in quarantine) == 50
    assert quarantine[-1]["reason"].endswith("; 30 more of the file are not listed")
    assert quarantine[0]["reason"].startswith("the line is not JSON")


def test_faults_of_a_file_are_one_warning(tmp_path, caplog):
    ingest(tmp_path, {"a.jsonl": lines(case()) + b"x\n" * 50})
    warnings = [one.getMessage() for one in caplog.records if one.name == units.__name__]
    assert [text for text in warnings if "a.jsonl" in text] == [
        next(text for text in warnings if text.startswith("Quarantined 50 of the cases in a.jsonl"))
    ]


def test_the_digest_of_a_fault_is_that_of_its_line(tmp_path):
    huge = b'{"case_id": "' + b"x" * (2 * MAX_CASE_BYTES) + b'"}'
    *_, quarantine = ingest(tmp_path, {"a.jsonl": b"nothing\n" + huge + b"\n" + lines(case()) + huge})
    assert [row["sha256"] for row in quarantine] == [sha256_bytes(line) for line in (b"nothing", huge, huge)]


def test_a_byte_order_mark_in_front_of_any_line_is_left_out(tmp_path):
    mark = b"\xef\xbb\xbf"
    data = mark + b"\r\n" + lines(case()) + mark + lines(FLAT)
    cases, _, quality, quarantine = ingest(tmp_path, {"a.jsonl": data})
    assert (len(cases), quarantine, quality["files_with_byte_order_mark"]) == (2, [], 1)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_mutated_case_raises_anything_but_words(data):
    logged = data.draw(st.sampled_from([case(), FLAT]))
    if data.draw(st.booleans()):
        changed = json.dumps(data.draw(mutated(logged))).encode()
    else:
        changed = data.draw(damaged(orjson.dumps(logged)))
    try:
        read = read_forecast(changed)
    except ProbelineError:
        return
    assert [findings(read, number) for number in range(len(read.levels))]


@settings(max_examples=15, deadline=None)
@given(st.lists(st.one_of(mutated(case()), mutated(FLAT)), min_size=1, max_size=4))
def test_mutated_cases_become_tables_and_datasets_that_add_up(tmp_path_factory, cases):
    folder = tmp_path_factory.mktemp("mutated")
    ingest(folder, {"a.jsonl": b"\n".join(json.dumps(one).encode() for one in cases)})
    build_forecasts(folder / "out", folder / "dataset", {}, SPLITS, 0, simulated=True)
    statistics = json.loads((folder / "dataset" / "dataset_statistics.json").read_text())
    for kind, made in (("sft", "sft_examples"), ("grpo", "grpo_prompts")):
        assert statistics["levels"] == statistics[made] + sum(statistics["excluded"][kind].values())
    shutil.rmtree(folder)


def tables(folder):
    return [(folder / "out" / name).read_bytes() for name in ("cases.parquet", "levels.parquet")]


def test_names_order_and_shards_change_nothing(tmp_path):
    logged = [orjson.dumps(simulate_case(3, index)) for index in range(40)]
    ingest(tmp_path / "one", {"a.jsonl": b"\n".join(logged)})
    Random(1).shuffle(logged)
    files = {f"{name}/{name}.jsonl": b"\n".join(logged[start::3]) for start, name in enumerate("zya")}
    files["copy.jsonl"] = logged[0]
    _, _, quality, _ = ingest(tmp_path / "many", files, shards=4)
    assert quality["duplicates"] == 1
    assert tables(tmp_path / "one") == tables(tmp_path / "many")


def test_a_retracted_case_is_counted_and_gone(tmp_path):
    key = read_forecast(orjson.dumps(case())).content[:16]
    cases, levels, quality, _ = ingest(tmp_path, {"a.jsonl": lines(case(), FLAT)}, retracted=[key])
    assert [row["event"] for row in cases] == ["A bank closes its counters"]
    assert {row["game"] for row in levels} == {cases[0]["game"]}
    assert quality["retracted"] == 1


# Datasets ------------------------------------------------------------------------------------------------


def build(folder, files, seed=0, **dataset):
    ingest(folder, files)
    build_forecasts(folder / "out", folder / "dataset", dataset, SPLITS, seed, simulated=True)
    return read_dataset(folder / "dataset")


def read_dataset(folder):
    rows = {
        kind: [json.loads(line) for line in (folder / f"{kind}.jsonl").read_text().splitlines()]
        for kind in ("sft", "grpo")
    }
    return rows, *(
        json.loads((folder / f"{name}.json").read_text())
        for name in ("leaks", "dataset_statistics", "manifest")
    )


@pytest.mark.parametrize("count", range(2, 13))
def test_a_soft_target_sums_to_one(count):
    events = [f"event {number}" for number in range(count)]
    target = json.loads(soft_target(events, "event 1"))
    shares = {one["event"]: one["probability"] for one in target}
    assert list(shares) == events
    exact = json.loads(soft_target(events, "event 1"), parse_float=Decimal)
    assert sum(one["probability"] for one in exact) == 1
    assert fsum(shares.values()) == pytest.approx(1, abs=1e-15)
    assert shares.pop("event 1") == 0.7
    assert max(shares.values()) - min(shares.values()) <= 0.00011
    if count == 4:
        assert set(shares.values()) == {0.1}


def test_an_example_shows_what_came_before_and_never_the_answer(tmp_path):
    rows, *_ = build(tmp_path, {"a.jsonl": lines(case())})
    first, second = rows["sft"]
    shown = first["prompt"][1]["content"]
    for hidden in ("Rescue boats", "reported", "The dam holds"):
        assert hidden not in shown
    for told in (
        "Seed event: A dam breaks in Selka",
        "2024-01-05",
        "It had rained",
        "Depth: 1",
        "1 month\n",
        "Name 3 ",
    ):
        assert told in shown
    shown = second["prompt"][1]["content"]
    assert "1. Rescue boats reach three villages\nCurrent event: Rescue boats reach three villages" in shown
    assert "Boats came" not in shown
    assert "fraud" not in shown
    target = json.loads(second["completion"][0]["content"])
    assert {one["event"]: one["probability"] for one in target} == {
        "The builder is charged with fraud": 0.7,
        "Nobody is ever asked": 0.15,
        "A new dam opens": 0.15,
    }
    assert [row["actual"] for row in rows["grpo"]] == [
        "Rescue boats reach three villages",
        "The builder is charged with fraud",
    ]


def test_levels_that_cannot_be_asked_are_left_out_by_reason(tmp_path):
    early = case("An early one")
    early["levels"][1]["date"] = "2023-12-01"
    told = case("Rescue boats reach three villages, says a paper")
    told["levels"] = told["levels"][:1]
    unknown = case("A case of two answers")
    unknown["levels"][0]["candidates"][1]["label"] = 1
    for number, one in enumerate((early, told, unknown)):  # answers of their own
        for part in one["levels"]:
            if one is not told:
                part["candidates"][0]["event"] += f" number {number}"
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(early, told, unknown, FLAT)})
    assert statistics["excluded"]["sft"] == {
        "answer_in_the_prompt": 1,
        "dated_before_seed": 1,
        "not_one_answer": 1,
        "one_candidate": 2,
        "past_unknown": 1,
    }
    assert [len(rows["sft"]), len(rows["grpo"])] == [1, 3]
    assert statistics["levels"] == 7


def test_false_candidates_of_several_events_are_dropped(tmp_path):
    logged = []
    for number, event in enumerate(
        ("A comet is seen", "Bread prices double", "The king falls ill", "Mice invade")
    ):
        one = case(event)
        one["levels"] = [level(1, f"Answer {number}", "Nothing happens", f"Other {number}", parent=event)]
        logged.append(one)
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(*logged)})
    assert statistics["excluded"]["candidates"] == {"false_for_several_events": 4}
    for row in rows["sft"]:
        assert "Nothing happens" not in row["completion"][0]["content"]
        assert len(json.loads(row["completion"][0]["content"])) == 2


def test_copies_of_a_candidate_within_a_level_are_counted_as_such(tmp_path):
    copied = case("A fair opens")
    copied["levels"] = [
        level(1, "It rains", "it RAINS!", "Dry weather", "Dry weather.", parent="A fair opens")
    ]
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(copied)})
    assert statistics["excluded"]["candidates"] == {"copy_within_the_level": 2}
    assert len(json.loads(rows["sft"][0]["completion"][0]["content"])) == 2


def told(event, answer, **seed):
    """A case of one level."""
    one = case(event)
    one["seed"] |= seed
    one["levels"] = [level(1, answer, f"Nothing of {answer[:12]}", parent=event)]
    return one


NAMES = [sha256_bytes(bytes([number]))[:12] for number in range(20)]


def test_nearly_an_answer_of_another_event_is_that_event(tmp_path):
    logged = []
    for name in NAMES:
        seed = f"{name} closes its {name[:8]} factory in the {name[8:]} valley"
        logged += [told(seed, f"{name} is sold"), told(f"{name} borrows money", f"{seed} today")]
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(*logged)})
    assert (statistics["events"], statistics["events_in_two_splits"], len(rows["grpo"])) == (20, 0, 40)


def test_nearly_the_answer_of_two_events_is_not_asked_for(tmp_path):
    logged = []
    for name in NAMES:
        answer = f"{name} is charged with fraud in the capital court"
        logged += [told(f"{name} borrows", answer), told(f"Banks look at {name}", f"{answer} today")]
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(*logged)})
    assert (rows["grpo"], statistics["excluded"]["grpo"]) == ([], {"answer_of_another_event": 40})


def test_events_in_two_splits_are_measured():
    event = "A dam breaks above the three villages"
    shown = [("train", [event, "Boats come"]), ("test", [f"{event} today", "A trial"])]
    assert events_in_two_splits(shown) == 2
    assert events_in_two_splits([("train", [event]), ("train", [event]), ("test", ["A trial"])]) == 0


def test_a_later_or_longer_account_of_an_event_moves_no_case(tmp_path):
    def splits(folder, *more):
        first = [told(f"{name} opens its doors to visitors", f"{name} is full") for name in NAMES]
        rows, *_ = build(folder, {"a.jsonl": lines(*first, *more)})
        return {row["actual"]: (row["event"], row["split"]) for row in rows["grpo"]}

    more = []
    for name in NAMES:
        more.append(told(f"{name} opens its doors to visitors today", f"{name} is empty"))
        more.append(told(f"{name} opens doors to visitors", f"{name} is shut", date="2024-02-01"))
    before, after = splits(tmp_path / "before"), splits(tmp_path / "after", *more)
    assert len(after) == 60
    assert {answer: after[answer] for answer in before} == before


def test_what_still_tells_true_candidates_from_false_ones_is_reported_and_warned_of(tmp_path, caplog):
    logged = [told(f"{name} grows", f"{name} reportedly sells 12 of its shops") for name in NAMES]
    for number, one in enumerate(logged):
        one["levels"][0]["candidates"][1]["event"] = f"{NAMES[number]} keeps all the shops that it has now"
    _, leaks, *_ = build(tmp_path, {"a.jsonl": lines(*logged)})
    for picker in ("most_digits", "trained_on_wording"):
        assert leaks["after"][picker]["above_chance"] is True
        assert f"{picker} is right on" in caplog.text
    assert leaks["after"]["index_0"]["above_chance"] is False
    assert "index_0 is right" not in caplog.text


def test_cases_of_one_event_share_a_split(tmp_path):
    events = [f"{sha256_bytes(bytes([number]))[:12]} opens its doors to visitors" for number in range(30)]
    logged = []
    for number, event in enumerate(events):
        for copy, words in enumerate((event, event.upper() + "!", f"{event} today")):
            one = deepcopy(case(words))
            one["case_id"] = f"{number}-{copy}"
            one["levels"][0]["candidates"][0]["event"] = f"Answer {number} {copy}"
            one["levels"] = one["levels"][:1]
            logged.append(one)
    follower = case("Answer 3 1")
    follower["levels"] = [level(1, "Something else", "Or not", parent="Answer 3 1")]
    rows, _, statistics, _ = build(tmp_path, {"a.jsonl": lines(*logged, follower)})
    assert (statistics["events"], statistics["events_in_two_splits"]) == (30, 0)
    splits = {}
    for row in rows["grpo"]:
        assert row["id"] == f"{row['game']}#{row['depth']}"  # by which a case can be retracted
        splits.setdefault(row["event"], set()).add(row["split"])
    assert all(len(own) == 1 for own in splits.values())
    assert {split for own in splits.values() for split in own} == {"train", "validation", "test"}


def test_simulated_cases_leak_before_and_not_after(tmp_path):
    simulate_forecasts(0, range(150), tmp_path / "raw")
    rows, leaks, statistics, manifest = build(tmp_path, {})
    for picker in ("index_0", "closest_to_path_end", "closest_to_research", "closest_to_prompt"):
        assert leaks["before"][picker]["low"] > 2 * leaks["before"][picker]["chance"]
        assert leaks["after"][picker]["above_chance"] is False
    assert leaks["after"]["closest_to_research"]["levels_with_text"] == 0
    assert manifest["simulated"] is True
    assert statistics["sft_examples"] == len(rows["sft"]) > 300
    again = tmp_path / "again"
    build_forecasts(tmp_path / "out", again, {}, SPLITS, 0, simulated=True)
    assert (again / "sft.jsonl").read_bytes() == (tmp_path / "dataset" / "sft.jsonl").read_bytes()
    build_forecasts(tmp_path / "out", again, {}, SPLITS, 1, simulated=True)
    assert (again / "sft.jsonl").read_bytes() != (tmp_path / "dataset" / "sft.jsonl").read_bytes()


def test_a_leak_is_reported_as_one():
    told = [Question(["north wind", "south sea", "old bridge"], 0, "a north wind", "", "", "one event")] * 40
    report = leak_report([], told)["after"]
    assert report["closest_to_path_end"]["right"] == 40
    assert report["closest_to_path_end"]["above_chance"] is True
    # Nothing to compare with: a guess.
    assert report["closest_to_research"]["rate"] == pytest.approx(1 / 3, abs=1e-3)
    assert report["closest_to_research"]["above_chance"] is False


# Simulated cases -----------------------------------------------------------------------------------------


def test_a_simulated_case_depends_on_seed_and_index_alone(tmp_path):
    simulate_forecasts(5, [4, 2], tmp_path / "some")
    simulate_forecasts(5, range(6), tmp_path / "all")
    few = (tmp_path / "some" / "cases.jsonl").read_bytes().splitlines()
    assert few == [(tmp_path / "all" / "cases.jsonl").read_bytes().splitlines()[index] for index in (2, 4)]
    assert simulate_case(5, 2) != simulate_case(6, 2)
    assert orjson.loads(few[0])["case_id"] == "simulated_000002"


def test_simulated_cases_have_the_irregularities_of_real_ones(tmp_path):
    simulate_forecasts(0, range(300), tmp_path / "raw")
    *_, quality, quarantine = ingest(tmp_path, {})
    assert quarantine == []
    several = quality["levels"] - quality["levels_with_one_candidate"]
    for finding, low in (
        ("answers_first", 0.7),
        ("path_ends_giving_answer", 0.7),
        ("research_giving_answer", 0.7),
    ):
        assert low < quality[finding] / several < 1
    assert 0.4 < quality["cases_of_duplicate_events"] / quality["cases"] < 0.75
    assert 0.1 < quality["parents_unlike_answer"] / quality["levels"] < 0.3
    assert quality["dates_before_seed"] > 3
    assert len([times for times in quality["times_repeated"] if times > 10]) == 3
    assert quality["cases_as_chain"] > 5
