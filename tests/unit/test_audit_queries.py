import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from probeline.cli import main
from probeline.lineage.games import games_in
from probeline.lineage.git import commit_of
from probeline.lineage.graph import read_lineage
from probeline.lineage.inputs_now import input_reasons, other_config
from probeline.lineage.present import reasons_now
from probeline.lineage.records import record_bytes
from probeline.lineage.why_tree import print_why
from tests.unit.lineage_records import content, digest, write_record

SHARDS = ("shard-0-of-2", "shard-1-of-2")
GAMES = {
    "shard-0-of-2": {"train": ["baseline/game0"], "test": ["baseline/game2"]},
    "shard-1-of-2": {"train": ["baseline/game1"], "validation": ["baseline/game3"]},
}
DUPLICATE = "archive/game9"  # left out as a copy of baseline/game2


def with_content(games: dict[str, list[str]]) -> dict[str, dict[str, str | None]]:
    return {split: {name: content(name) for name in names} for split, names in games.items()}


def log(name: str) -> str:
    return f"data/raw/own/{name}/game_stats.json"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw logs of five games, one of them a copy; one concept in two shards; a probe, a sweep."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    write_record("data/models/tiny", "fetch_model", files={"model.safetensors": digest("weights")})
    for shard in SHARDS:
        games = with_content(GAMES[shard])
        names = [name for members in games.values() for name in members]
        copies = {DUPLICATE: "baseline/game2"} if shard == SHARDS[1] else {}
        write_record(
            f"data/processed/own/shards/{shard}",
            "ingest_werewolf",
            dict.fromkeys(map(log, [*names, *copies]), "logs"),
            {"all": {name: content(name) for name in names}},
            params={"root": "data/raw/own", "duplicates": copies},
        )
        write_record(
            f"data/processed/dialogues/trust/{shard}",
            "build_dialogues",
            {f"data/processed/own/shards/{shard}": "corpus", "config/templates/w.yaml": "template"},
            games,
            code={"scripts/build_dialogues.py": "a" * 16},
        )
        # The chats of game 0 are too long for the model.
        kept = {s: {n: c for n, c in m.items() if n != "baseline/game0"} for s, m in games.items()}
        write_record(
            f"results/activations/trust/{shard}",
            "extract_activations",
            {f"data/processed/dialogues/trust/{shard}": "dialogues", "data/models/tiny": "model"},
            {split: members for split, members in kept.items() if members},
            cost={"figures": {"tokens": 300, "seconds": 2.0}},
        )
    used = with_content({"train": ["baseline/game1"], "validation": ["baseline/game3"]})
    inputs = {f"results/activations/trust/{shard}": "activations" for shard in SHARDS}
    write_record(
        "results/probes/trust_lr_l2",
        "train_probe",
        inputs,
        used | with_content({"test": ["baseline/game2"]}),
        params={"regularization": 100},
        code={"scripts/train_probe.py": "a" * 16},
    )
    write_record("results/sweeps/trust", "sweep_probes", inputs, used)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, Any]:
    status = main(["audit", *words, "--json"])
    return status, json.loads(capsys.readouterr().out)


def held(facts: dict[str, Any]) -> dict[str, str]:
    return {row["artifact"]: row["split"] for row in facts["contained_in"]}


def test_impact_of_a_game_is_precise_and_tells_the_split(store: Path, capsys: Any) -> None:
    status, facts = ask(capsys, "impact", "game:baseline/game2")
    assert status == 0
    assert held(facts) == {
        "data/processed/own/shards/shard-0-of-2": "all",
        "data/processed/dialogues/trust/shard-0-of-2": "test",
        "results/activations/trust/shard-0-of-2": "test",
        "results/probes/trust_lr_l2": "test",
    }
    # The sweep rests on the same shard and reads no test game; the job of the copy read it and left it out.
    assert "results/sweeps/trust" in facts["rests_on_the_same_files"]
    assert facts["copies_left_out"] == {DUPLICATE: "baseline/game2"}
    assert facts["raw_logs"] == [log(DUPLICATE), log("baseline/game2")]


def test_a_game_that_a_stage_left_out_is_in_nothing_below(store: Path, capsys: Any) -> None:
    _, facts = ask(capsys, "impact", "game:game0")
    assert "results/activations/trust/shard-0-of-2" not in held(facts)
    assert "results/activations/trust/shard-0-of-2" in facts["rests_on_the_same_files"]
    assert "results/probes/trust_lr_l2" in facts["rests_on_the_same_files"]


@pytest.mark.parametrize(
    "words",
    [f"game:{content('baseline/game2')[:10]}", f"game:{DUPLICATE}", log("baseline/game2"), log(DUPLICATE)],
)
def test_a_game_is_found_by_content_by_its_copy_and_by_its_logs(store: Path, capsys: Any, words: str) -> None:
    _, named = ask(capsys, "impact", "game:baseline/game2")
    _, found = ask(capsys, "impact", words)
    assert held(found) == held(named)


def test_simulated_logs_hold_the_games_that_were_read_from_them(store: Path, capsys: Any) -> None:
    logs, names = "data/simulated/own/shard-0-of-1", ("baseline/game2", "baseline/game8")
    files = {f"{name}/game_stats.json": digest(name) for name in names}
    write_record(logs, "simulate_logs", games={"all": dict.fromkeys(names)}, files=files)
    read = {"all": {name: content(f"simulated {name}") for name in names}}
    write_record("data/processed/simulated/shards/shard-0-of-1", "ingest_werewolf", {logs: "logs"}, read)
    _, facts = ask(capsys, "impact", f"game:{content('simulated baseline/game2')}")
    assert list(held(facts)) == [logs, "data/processed/simulated/shards/shard-0-of-1"]
    assert facts["raw_logs"] == [f"{logs}/baseline/game2/game_stats.json"]
    # The game of that name in the other corpus is not in these logs.
    _, other = ask(capsys, "impact", f"game:{content('baseline/game2')}")
    assert logs not in held(other)
    assert held(ask(capsys, "impact", f"{logs}/baseline/game2/game_stats.json")[1]) == held(facts)


def test_a_copy_in_another_corpus_is_found_under_its_own_name(store: Path, capsys: Any) -> None:
    copy = {"train": {"renamed/game77": content("baseline/game2")}}
    write_record("data/processed/dialogues/other/shard-0-of-2", "build_dialogues", games=copy)
    _, facts = ask(capsys, "impact", "game:baseline/game2")
    assert facts["game"] == ["baseline/game2", "renamed/game77"]
    assert {"split": "train", "as": "renamed/game77"}.items() <= facts["contained_in"][1].items()


def test_games_of_one_name_in_two_corpora_are_told_apart(store: Path, capsys: Any) -> None:
    other = {"train": {"baseline/game2": content("another")}}
    write_record("data/processed/dialogues/other/shard-0-of-2", "build_dialogues", games=other)
    assert main(["audit", "impact", "game:baseline/game2"]) == 1
    assert f"game:{content('another')}" in capsys.readouterr().err
    _, facts = ask(capsys, "impact", f"game:{content('another')}")
    assert list(held(facts)) == ["data/processed/dialogues/other/shard-0-of-2"]


def test_a_table_of_two_corpora_keeps_both_games_of_one_name() -> None:
    upstream = [{"test": {"game0": "a" * 32}}, {"test": {"game0": "b" * 32, "game1": "c" * 32}}]
    games = games_in({}, upstream)
    assert {c for members in games.values() for c in members.values()} == {"a" * 32, "b" * 32, "c" * 32}
    assert games["test"]["game1"] == "c" * 32


def test_an_unknown_game_gets_the_near_ones_not_all(store: Path, capsys: Any) -> None:
    many = {"all": {f"run/game{i}": content(str(i)) for i in range(500)}}
    write_record("data/processed/big/shards/shard-0-of-1", "ingest_werewolf", games=many)
    assert main(["audit", "impact", "game:baseline/gaem2"]) == 1
    said = capsys.readouterr().err
    assert "baseline/game2" in said
    assert "505 in all" in said
    assert len(said) < 500


def test_impact_of_files_and_sources(store: Path, capsys: Any) -> None:
    def made_from(path: str) -> dict[str, str]:
        return {row["artifact"]: row["how"] for row in ask(capsys, "impact", path)[1]["made_from_it"]}

    template = made_from("config/templates/w.yaml")
    assert template["data/processed/dialogues/trust/shard-0-of-2"] == "reads it as template"
    assert template["results/probes/trust_lr_l2"] == "through the above"
    assert "data/processed/own/shards/shard-0-of-2" not in template
    assert made_from("scripts/train_probe.py") == {"results/probes/trust_lr_l2": "its code"}
    assert "results/probes/trust_lr_l2" in made_from(str(store / "data/models/tiny"))
    assert set(made_from("results/activations/trust/shard-1-of-2/manifest.json")) == {
        "results/probes/trust_lr_l2",
        "results/sweeps/trust",
    }
    assert main(["audit", "impact", "no/such/file"]) == 1


def test_the_folder_of_a_game_is_the_game_and_a_larger_one_its_files(store: Path, capsys: Any) -> None:
    folder = "data/raw/own/baseline/game2"
    assert (
        ask(capsys, "impact", folder)[1]["contained_in"]
        == (ask(capsys, "impact", "game:baseline/game2")[1]["contained_in"])
    )
    _, facts = ask(capsys, "impact", "data/raw/own/baseline")
    assert {row["how"] for row in facts["made_from_it"]} >= {"reads files under it as logs"}


def test_a_folder_of_a_game_elsewhere_is_found_by_its_content(store: Path, capsys: Any) -> None:
    there = store.parent / f"{store.name}-logs/baseline/game2"
    there.mkdir(parents=True)
    (there / "game_stats.json").write_text(log("baseline/game2"))
    _, facts = ask(capsys, "impact", str(there))
    assert facts["game"] == ["baseline/game2"]


def test_a_game_without_its_prefix_is_named_with_it(store: Path, capsys: Any) -> None:
    for name in ("baseline/game2", "game2"):
        assert main(["audit", "impact", name]) == 1
        assert "Did you mean game:baseline/game2?" in capsys.readouterr().err


@pytest.mark.usefixtures("sources")
def test_stale_sees_an_edited_input_and_says_what_is_not_here(capsys: Any) -> None:
    template = Path("config/templates/w.yaml")
    template.parent.mkdir(parents=True)
    template.write_text("config/templates/w.yaml")  # what the hand-made records have as its content
    _, before = ask(capsys, "stale", "--code")
    template.write_text("other")
    _, after = ask(capsys, "stale", "--code")
    dialogues = "data/processed/dialogues/trust/shard-0-of-2"
    reason = "input changed: config/templates/w.yaml"
    assert reason not in before["stale"].get(dialogues, [])
    assert reason in after["stale"][dialogues]
    absent = input_reasons(read_lineage(), read_lineage().records.values(), None)[1]
    assert absent[0].startswith("data/raw/own: ")


def test_another_config_is_named_by_its_keys(store: Path) -> None:
    path = write_record("results/probes/p", "train_probe")
    statement = json.loads(path.read_bytes())
    external = statement["predicate"]["buildDefinition"]["externalParameters"]
    external["config"] = {"corpora": {}, "models": {"m": {}}, "model": "m", "seed": 1}
    path.write_bytes(record_bytes(statement))
    records = [read_lineage().find("p")]
    said = other_config(
        records, {"corpora": {}, "models": {"m": {}}, "model": "m", "seed": 2, "activations": {}}
    )
    assert said is not None
    assert "(seed, activations)" in said
    assert other_config(records, {"corpora": {}, "models": {"m": {}}, "model": "m", "seed": 1}) is None


def test_why_counts_games_and_tells_what_is_the_same(store: Path, capsys: Any) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    shard = "results/activations/trust/shard-0-of-2"
    games = {f"g{index}": content(str(index)) for index in range(12)}
    split = {"train": dict(list(games.items())[:9]), "test": dict(list(games.items())[9:])}
    name = "results/probes/p"
    write_record(name, "train_probe", {shard: "activations", "x/a": "x"}, split, params={"retracted": {}})
    commit("first")
    write_record(name, "train_probe", {}, params={"retracted": {"baseline/game2": "c"}})
    main(["audit", "why", "p"])
    said = capsys.readouterr().out
    assert "12 games gone: 9 train, 3 test (--full)" in said
    assert "input  results/activations/trust/shard-*" in said
    assert "retracted: was empty" in said
    assert "{}" not in said
    main(["audit", "why", "--full", "p"])
    assert "- g0 (" in capsys.readouterr().out
    main(["audit", "why", "p", "HEAD", "HEAD"])
    assert "the same record in both" in capsys.readouterr().out


def test_a_file_elsewhere_is_found_by_its_content(store: Path, capsys: Any) -> None:
    (store / "elsewhere.json").write_text(log("baseline/game2"))  # the record has the digest of this text
    _, facts = ask(capsys, "impact", str(store / "elsewhere.json"))
    assert facts["game"] == ["baseline/game2"]


def test_trace_folds_shards_and_fits_80_columns(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "trace", "trust_lr_l2"]) == 0
    text = capsys.readouterr().out
    assert "results/activations/trust (2 shards)" in text
    assert "shard-0-of-2" not in text
    assert "regularization=100" in text
    assert "3 files that no rule made" not in text  # it has five
    assert "5 files that no rule made" in text
    assert max(map(len, text.splitlines())) <= 80
    assert main(["audit", "trace", "trust_lr_l2", "--full"]) == 0
    full = capsys.readouterr().out
    assert "shard-1-of-2" in full
    assert "archive/game9" in full


def test_trace_names_a_record_that_is_missing(store: Path, capsys: Any) -> None:
    Path("results/activations/trust/shard-0-of-2.lineage.json").unlink()
    status, facts = ask(capsys, "trace", "trust_lr_l2")
    assert status == 1
    assert facts["missing"] == ["results/activations/trust/shard-0-of-2"]
    assert main(["audit", "trace", "trust_lr_l2"]) == 1
    assert "its record is missing" in " ".join(capsys.readouterr().out.split())


def test_a_hostile_name_is_shown_and_not_obeyed(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_record("results/probes/evil", "train_probe", games={"test": {"[red]game\x1b[31m": content("x")}})
    assert main(["audit", "impact", f"game:{content('x')}"]) == 0
    out = capsys.readouterr().out
    assert "[red]game?[31m" in out
    assert "\x1b" not in out


@pytest.mark.parametrize("query", ["trace", "impact", "leakage", "stale", "cost"])
def test_an_answer_that_lacks_a_record_says_so(store: Path, capsys: Any, query: str) -> None:
    record = Path("results/activations/trust/shard-0-of-2.lineage.json")
    record.write_text(record.read_text().replace("local", "elsewhere"))
    words = {"trace": ["trust_lr_l2"], "impact": ["game:baseline/game2"], "stale": ["--code"]}.get(query, [])
    assert main(["audit", query, *words]) == 1
    assert f"{record} is left out" in capsys.readouterr().err


@pytest.mark.parametrize("query", ["leakage", "stale", "cost", "graph", "export --ro-crate crate", "trace x"])
def test_nothing_is_vouched_for_without_records(tmp_path: Path, monkeypatch: Any, query: str) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["audit", *query.split()]) == 1


def test_a_target_without_a_name_is_none(store: Path, capsys: Any) -> None:
    assert main(["audit", "trace", ""]) == 1
    assert "The target has no name" in capsys.readouterr().err


def test_what_shows_a_probe_leaves_its_name_to_it(store: Path) -> None:
    write_record("results/transcripts/trust_lr_l2", "score_tokens", {"results/probes/trust_lr_l2": "probe"})

    assert read_lineage().find("trust_lr_l2").name == "results/probes/trust_lr_l2"
    assert read_lineage().find("results/transcripts/trust_lr_l2").rule == "score_tokens"


@pytest.mark.parametrize("target", ["trust_lr_l2", "results/probes/trust_lr_l2/manifest.json"])
def test_an_edited_record_is_named_under_each_name_of_its_artifact(
    store: Path, capsys: Any, target: str
) -> None:
    record = store / "results/probes/trust_lr_l2.lineage.json"
    record.write_bytes(record.read_bytes().replace(b"100", b"101", 1))
    for query in ("trace", "cost"):
        assert main(["audit", query, target]) == 1
        assert "trust_lr_l2.lineage.json" in capsys.readouterr().err.splitlines()[0]


def test_a_file_that_is_not_in_the_artifact_is_refused(store: Path, capsys: Any) -> None:
    assert main(["audit", "trace", "results/probes/trust_lr_l2/manifests.json"]) == 1
    fault = capsys.readouterr().err
    assert "lists no file manifests.json" in fault
    assert "manifest.json" in fault.partition("manifests.json")[2]


def test_get_copies_nothing_that_is_not_what_its_record_says(store: Path, capsys: Any) -> None:
    probe, record = store / "results/probes/p", store / "results/probes/p.lineage.json"
    write_record("results/probes/p", "train_probe")
    probe.mkdir()
    (probe / "manifest.json").write_text('{"files": {}}')
    assert main(["get", "p", "--output", "copy"]) == 1
    assert "not what its record says" in capsys.readouterr().err
    record.write_bytes(record.read_bytes().replace(b"train_probe", b"other_probe"))
    assert main(["get", "p", "--output", "copy"]) == 1
    assert "p.lineage.json" in capsys.readouterr().err
    assert not Path("copy").exists()


@pytest.mark.usefixtures("store")
def test_what_is_piped_breaks_no_name(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.delenv("COLUMNS")
    name = f"results/probes/{'long' * 30}"
    write_record(name, "train_probe", {"results/activations/trust/shard-0-of-2": "activations"})
    assert main(["audit", "impact", "results/activations/trust/shard-0-of-2"]) == 0
    assert name in capsys.readouterr().out


def test_trace_shows_no_digest_of_another_manifest(store: Path, capsys: Any) -> None:
    Path("data/models/tiny").mkdir()
    manifest = Path("data/models/tiny/manifest.json")
    manifest.write_text(json.dumps({"weights_sha256": "f" * 64}))
    main(["audit", "trace", "data/models/tiny"])
    assert "weights  model.safetensors" in capsys.readouterr().out
    own = {"model.safetensors": digest("weights"), "manifest.json": digest(manifest.read_text())}
    write_record("data/models/tiny", "fetch_model", files=own)
    main(["audit", "trace", "data/models/tiny"])
    assert "weights  ffffffffffff" in capsys.readouterr().out


def test_the_log_of_a_game_in_quarantine_has_its_readers(store: Path, capsys: Any) -> None:
    shard = Path("data/processed/bad/shards/shard-0-of-1")
    shard.mkdir(parents=True)
    row = {"path": "run/game1", "file": "llm_log.txt", "reason": "no llm_log.txt", "sha256": None}
    (shard / "quarantine.jsonl").write_text(json.dumps(row) + "\n")
    name = "data/raw/bad/run/game1/game_stats.json"
    write_record(
        shard.as_posix(),
        "ingest_werewolf",
        {name: "logs"},
        files={"quarantine.jsonl": digest((shard / "quarantine.jsonl").read_text())},
        params={"root": "data/raw/bad"},
    )
    status, facts = ask(capsys, "impact", name)
    assert status == 0
    assert facts["made_from_it"] == [{"artifact": shard.as_posix(), "how": "reads it as logs"}]
    assert facts["quarantined"] == [
        {"artifact": shard.as_posix(), "file": "llm_log.txt", "reason": "no llm_log.txt"}
    ]
    main(["audit", "impact", name])
    assert "quarantine" in capsys.readouterr().out
    (shard / "quarantine.jsonl").write_text("")  # no longer what the record says
    assert "quarantined" not in ask(capsys, "impact", name)[1]


def adapter(games: dict[str, dict[str, str | None]], name: str = "results/adapters/sft") -> None:
    """A model trained on games, and a probe on its activations that is tested on baseline/game2."""
    write_record(name, "train_sft", {"data/models/tiny": "model"}, games)
    write_record(
        "results/activations/adapted/shard-0-of-1",
        "extract_activations",
        {"data/processed/dialogues/trust/shard-0-of-2": "dialogues", name: "adapter"},
    )
    write_record(
        "results/probes/adapted_lr_l2",
        "train_probe",
        {"results/activations/adapted/shard-0-of-1": "activations"},
        with_content({"train": ["baseline/game1"], "test": ["baseline/game2"]}),
    )


def test_leakage_says_that_there_is_nothing_to_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    games = with_content({"train": ["baseline/game0"], "test": ["baseline/game2"]})
    write_record("data/processed/sft/mafia_sft", "build_sft", {}, games)
    assert main(["audit", "leakage"]) == 0
    assert "0 artifacts checked: no record is of a probe" in capsys.readouterr().out


def test_no_leakage_where_there_is_none(store: Path, capsys: Any) -> None:
    adapter(with_content({"train": ["baseline/game1"], "test": ["baseline/game2"]}))
    status, facts = ask(capsys, "leakage")
    assert (status, facts["found"]) == (0, [])
    assert len(facts["checked"]) == 4


@pytest.mark.parametrize("split", ["train", "validation"])
def test_leakage_finds_a_renamed_copy_in_the_training_of_an_adapter(
    store: Path, capsys: Any, split: str
) -> None:
    adapter({split: {"elsewhere/game5": content("baseline/game2")}})
    status, facts = ask(capsys, "leakage", "adapted_lr_l2")
    assert status == 1
    assert facts["found"] == [
        {
            "artifact": "results/probes/adapted_lr_l2",
            "game": "baseline/game2",
            "split": "test",
            "trained": "results/adapters/sft",
            "as": "elsewhere/game5",
            "trained_split": split,
            "content": content("baseline/game2"),
        }
    ]
    # The probe without the adapter is none the worse.
    assert ask(capsys, "leakage", "trust_lr_l2")[0] == 0


def test_leakage_inside_a_probe_and_a_sweep(store: Path, capsys: Any) -> None:
    same = content("baseline/game2")
    write_record("results/probes/p", "train_probe", games={"train": {"a": same}, "test": {"b": same}})
    write_record("results/sweeps/s", "sweep_probes", games={"train": {"a": same}, "validation": {"b": same}})
    _, facts = ask(capsys, "leakage")
    assert [(row["artifact"], row["game"], row["as"]) for row in facts["found"]] == [
        ("results/probes/p", "b", "a"),
        ("results/sweeps/s", "a", "b"),
    ]


@pytest.mark.parametrize(("of_test", "of_training"), [(None, "x"), ("x", None)])
def test_a_game_with_a_digest_on_one_side_is_known_by_its_name(
    store: Path, capsys: Any, of_test: str | None, of_training: str | None
) -> None:
    games = {"train": {"a": of_training, "b": content("b")}, "test": {"a": of_test, "c": content("c")}}
    write_record("results/probes/p", "train_probe", games=games)
    status, facts = ask(capsys, "leakage", "results/probes/p")
    assert (status, [row["game"] for row in facts["found"]]) == (1, ["a"])


@pytest.mark.parametrize("name", ["results/probes/p", "results/sweeps/p", "results/evaluation/p"])
@pytest.mark.parametrize("words", [[], ["p"]])
def test_what_shows_no_games_is_not_vouched_for(
    store: Path, capsys: Any, name: str, words: list[str]
) -> None:
    write_record(name, "rule")
    status, facts = ask(capsys, "leakage", *words)
    assert (status, facts["unknown"]) == (1, [name])


def test_a_transfer_leaves_out_what_its_sources_were_trained_on(store: Path, capsys: Any) -> None:
    both = {"train": {"a": content("x")}, "test": {"b": content("x"), "c": content("y")}}
    write_record("results/evaluation/t", "evaluate_transfer", games=both)
    status, facts = ask(capsys, "leakage", "results/evaluation/t")
    assert (status, facts["left_out"]) == (0, {"results/evaluation/t": 1})


def test_an_adapter_from_outside_is_said_to_be_unknown(store: Path, capsys: Any) -> None:
    write_record(
        "results/probes/p",
        "train_probe",
        {"raw/adapters/mine/adapter_config.json": "adapter"},
        {"test": {"a": content("a")}},
    )
    status, facts = ask(capsys, "leakage", "results/probes/p")
    assert (status, facts["unknown"]) == (1, ["raw/adapters/mine"])


def write_dialogues(folder: str, games: dict[str, tuple[str, list[str]]]) -> None:
    """Dialogues of games, each a split and its statements; every statement is a sample."""
    samples, sequences = [], []
    for game, (split, statements) in games.items():
        messages = [{"role": "system", "content": "A game."}]
        for turn, words in enumerate(statements):
            messages.append({"role": "assistant", "content": words})
            samples.append(
                {
                    **{"sequence": game, "game": game, "content": content(game), "split": split},
                    **{"message": turn + 1, "end": len(words)},
                }
            )
        sequences.append({"sequence": game, "messages": messages})
    Path(folder).mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(samples), f"{folder}/samples.parquet")
    pq.write_table(pa.Table.from_pylist(sequences), f"{folder}/sequences.parquet")


def test_texts_find_a_game_cut_short_and_not_one_that_opens_alike(store: Path, capsys: Any) -> None:
    words = ["It is you.", "No.", "I vote for 3.", "He was a wolf."]
    long = ["Good day.", "Who is it?", "I do not know."]
    folder = "data/processed/dialogues/near/shard-0-of-1"
    games = {
        "whole": ("test", words),
        "cut": ("train", words[:3]),
        "alike": ("train", [*words[:2], "Hm.", "I vote for 5."]),
        "long": ("test", [*long, *"abcde"]),
        "long alike": ("train", [*long, *"fghij"]),
    }
    write_dialogues(folder, games)
    splits = with_content({"train": ["cut", "alike", "long alike"], "test": ["whole", "long"]})
    write_record(folder, "build_dialogues", games=splits)
    write_record("results/probes/near", "train_probe", {folder: "dialogues"}, splits)
    assert ask(capsys, "leakage", "results/probes/near")[0] == 0
    status, facts = ask(capsys, "leakage", "results/probes/near", "--texts")
    assert status == 1
    assert [(pair["game"], pair["as"], pair["shared"]) for pair in facts["near_copies"]] == [
        ("whole", "cut", 3)
    ]
    Path(folder, "samples.parquet").unlink()
    status, facts = ask(capsys, "leakage", "results/probes/near", "--texts")
    assert (status, facts["unread"]) == (1, [folder])


def test_texts_compare_the_folds_of_a_sweep_and_no_game_that_it_does_not_read(
    store: Path, capsys: Any
) -> None:
    words = ["It is you.", "No.", "I vote for 3.", "He was a wolf."]
    folder = "data/processed/dialogues/near/shard-0-of-1"
    games = {"whole": ("test", words), "cut": ("train", words[:3]), "other": ("validation", ["Hm.", "Yes."])}
    write_dialogues(folder, games)
    write_record(folder, "build_dialogues", games=with_content({"train": ["cut"], "test": ["whole"]}))
    used = with_content({"train": ["cut"], "validation": ["other"]})
    write_record("results/sweeps/near", "sweep_probes", {folder: "dialogues"}, used)
    assert ask(capsys, "leakage", "results/sweeps/near", "--texts")[0] == 0
    both = with_content({"train": ["cut", "whole"], "validation": ["other"]})
    write_record("results/sweeps/near", "sweep_probes", {folder: "dialogues"}, both)
    status, facts = ask(capsys, "leakage", "results/sweeps/near", "--texts")
    assert status == 1
    assert [(pair["game"], pair["as"]) for pair in facts["near_copies"]] == [("cut", "whole")]


def test_cost_counts_what_is_shared_once(store: Path, capsys: Any) -> None:
    _, facts = ask(capsys, "cost", "trust_lr_l2", "results/sweeps/trust")
    assert [target["jobs"] for target in facts["targets"].values()] == [8, 8]
    assert facts["total"]["jobs"] == 9
    assert facts["total"]["seconds"] == pytest.approx(13.5)
    assert facts["rules"]["extract_activations"]["tokens_per_second"] == 150
    assert main(["audit", "cost"]) == 0
    assert "extract_activations" in capsys.readouterr().out


@pytest.mark.usefixtures("sources")
def test_stale_names_the_source_the_param_and_the_input() -> None:
    present = {
        "params": {"regularization": 10, "code": {}},
        "inputs": {"results/activations/trust/shard-0-of-2/manifest.json": "activations"},
    }
    lineage = read_lineage()
    reasons = reasons_now(lineage, lineage.find("trust_lr_l2"), present)
    assert reasons[0] == "code: scripts/train_probe.py"
    assert "lock: another constraints.txt" in reasons
    assert "param regularization: 100 → 10" in reasons
    assert "inputs: no longer reads results/activations/trust/shard-1-of-2" in reasons


@pytest.fixture
def sources(store: Path) -> None:
    Path("scripts/probeline").mkdir(parents=True)
    Path("scripts/train_probe.py").write_text("x = 1\n")


def commit(words: str) -> None:
    subprocess.run(["git", "add", "-A"], check=True)
    identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
    subprocess.run(["git", *identity, "commit", "-qm", words], check=True)


def test_why_follows_a_change_up_to_its_cause(store: Path, capsys: Any) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    commit("first")
    _, once = ask(capsys, "why", "trust_lr_l2")
    assert "one version" in once["between"]["note"]
    dialogues = "data/processed/dialogues/trust/shard-0-of-2"
    activations = "results/activations/trust/shard-0-of-2"
    write_record(
        dialogues,
        "build_dialogues",
        {"data/processed/own/shards/shard-0-of-2": "corpus"},
        files={"manifest.json": digest("other")},
        params={"splits": {"test": 0.3}},
    )
    write_record(
        activations, "extract_activations", {dialogues: "dialogues"}, files={"manifest.json": digest("o")}
    )
    write_record(
        "results/probes/trust_lr_l2",
        "train_probe",
        {activations: "activations"},
        params={"regularization": 10},
    )
    for words in ((), ("HEAD",)):
        _, facts = ask(capsys, "why", "trust_lr_l2", *words)
        tree = facts["between"]["tree"]
        changed = {change["name"]: (change["old"], change["new"]) for change in tree["differences"]["params"]}
        assert changed == {"regularization": (100, 10)}
        cause = tree["above"][0]["above"][0]
        assert cause["artifact"] == dialogues
        assert cause["differences"]["params"] == [{"name": "splits.test", "old": "(absent)", "new": 0.3}]
        assert cause["differences"]["inputs"][0]["name"] == "config/templates/w.yaml"
    commit("second")
    assert ask(capsys, "why", "trust_lr_l2")[1]["between"]["new"].endswith("second")
    assert main(["audit", "why", "trust_lr_l2", "nonsense"]) == 1
    assert "git knows no commit nonsense" in capsys.readouterr().err
    main(["audit", "why", "trust_lr_l2"])
    assert "regularization: 100 → 10" in capsys.readouterr().out


def test_a_fault_keeps_its_line_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    print_why({"between": {"note": "one\ntwo"}, "now": {"fault": "three\nfour\x1b"}})
    assert capsys.readouterr().out.splitlines() == ["one", "two", "", "three", "four?"]


def test_a_revision_is_no_option_of_git(store: Path, capsys: Any) -> None:
    subprocess.run(["git", "init", "-q"], check=True)
    commit("first")
    assert commit_of("HEAD") is not None
    assert commit_of("--all") is None
    assert commit_of("--output=x") is None
    assert not Path("x").exists()


def test_every_query_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for query in ("trace", "impact", "why", "leakage", "stale", "cost"):
        with pytest.raises(SystemExit) as ended:
            main(["audit", query, "--help"])
        assert ended.value.code == 0
        said = capsys.readouterr().out
        assert f"probeline audit {query}" in said.partition("examples:")[2]
        assert "exit status" in said
