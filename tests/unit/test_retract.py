"""Taking games out: the list, which games it means, and where they are still found."""

import io
import json
import shutil
from pathlib import Path

import pytest
import yaml

from probeline.cli import main
from probeline.errors import ProbelineError
from probeline.lineage.graph import read_lineage
from probeline.lineage.retraction_check import in_files
from probeline.logs.ingest import ingest_werewolf
from probeline.logs.listing import game_content
from probeline.logs.retracted import (
    RETRACTED,
    Retraction,
    read_retractions,
    retracted_games,
    write_retractions,
)
from probeline.logs.simulate_werewolf import simulate_game, simulate_games
from tests.unit.lineage_records import write_record

REPOSITORY = Path(__file__).parents[2]
A, B = "a" * 64, "b" * 64


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The config, a corpus of logs with a renamed copy in it, and a simulated one."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    (tmp_path / "Snakefile").touch()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").touch()
    simulate_games(7, range(4), tmp_path / "logs")
    shutil.copytree(tmp_path / "logs/simulated_baseline/game0", tmp_path / "logs/elsewhere/game77")
    own = {"own": {"format": "werewolf", "root": "logs"}, "werewolf": {"simulated_games": 12}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"corpora": own}))
    return tmp_path


def retract(*words: str) -> int:
    return main(["audit", "retract", *words, "--configfile", "own.yaml"])


def test_the_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    entries = [Retraction("w", "b/game2", B, "- odd: 'text' # é"), Retraction("w", "a/game1", A, "why")]
    write_retractions(entries, tmp_path / "list.yaml")
    assert read_retractions(tmp_path / "list.yaml") == sorted(entries)
    write_retractions([], tmp_path / "list.yaml")
    assert not (tmp_path / "list.yaml").exists()
    assert read_retractions(tmp_path / "list.yaml") == []


@pytest.mark.parametrize("text", ["a: 1", "- [1]", f"- {{corpus: w, game: g, content: {A}}}", "- : -", "[}"])
def test_a_broken_list_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "list.yaml").write_text(text)
    with pytest.raises(ProbelineError, match=r"list\.yaml"):
        read_retractions(tmp_path / "list.yaml")


def test_a_game_is_out_by_its_folder_or_by_its_content_in_any_corpus() -> None:
    entries = [Retraction("w", "game1", A, "why")]
    assert retracted_games("w", {"game1": B, "game2": A, "game3": B}, entries) == {
        "game1": "why",
        "game2": "a copy of game1 of w: why",
    }
    # Its log may be deleted: it is counted all the same. In another corpus its name means nothing.
    assert retracted_games("w", {}, entries) == {"game1": "why"}
    assert retracted_games("v", {"game1": B, "game9": A}, entries) == {"game9": "a copy of game1 of w: why"}


def test_retracting_lists_every_copy_and_undo_puts_all_back(project: Path) -> None:
    assert retract("game:simulated_baseline/game0", "--corpus", "own", "--reason", "consent withdrawn") == 0
    content = game_content((project / "logs/elsewhere/game77/game_stats.json").read_bytes())
    assert [(entry.corpus, entry.game) for entry in read_retractions()] == [
        ("own", "elsewhere/game77"),
        ("own", "simulated_baseline/game0"),
    ]
    assert {(entry.content, entry.reason) for entry in read_retractions()} == {(content, "consent withdrawn")}
    assert (project / "logs/simulated_baseline/game0/game_stats.json").exists()
    assert retract("game:elsewhere/game77", "--undo") == 0
    assert not RETRACTED.exists()


def test_a_simulated_game_is_named_like_any_other(project: Path) -> None:
    assert retract("simulated_baseline/game10", "--reason", "why") == 0
    (entry,) = read_retractions()
    stats = simulate_game(0, 10).stats
    assert entry == Retraction(
        "werewolf", "simulated_baseline/game10", game_content(json.dumps(stats).encode()), "why"
    )


def test_a_game_is_named_by_the_end_of_its_folder_or_by_its_content(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retract("game:game10", "--reason", "why") == 0
    (entry,) = read_retractions()
    assert entry.game == "simulated_baseline/game10"
    assert retract("game:game10", "--reason", "other") == 1
    assert "is retracted already (why). To change" in capsys.readouterr().err
    assert retract(f"game:{entry.content[:12]}", "--undo") == 0
    assert not RETRACTED.exists()
    assert retract(f"game:{entry.content[:12]}", "--reason", "why") == 0
    assert read_retractions() == [entry]
    capsys.readouterr()
    assert retract("game:game10", "--undo") == 0
    assert "is back among the inputs. It was out for: why" in capsys.readouterr().out
    # A digest means the game with all its copies, in several corpora.
    content = game_content((project / "logs/elsewhere/game77/game_stats.json").read_bytes())
    assert retract(f"game:{content[:12]}", "--reason", "why") == 0
    assert {entry.content for entry in read_retractions()} == {content}
    assert "elsewhere/game77" in {entry.game for entry in read_retractions()}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["game:baseline/game0", "--reason", "x"], "simulated_baseline/game0"),
        (["game:simulated_baseline/game0", "--reason", "x"], "say which with --corpus"),
        (["game:simulated_baseline/game0", "--reason", "x", "--corpus", "onw"], "Did you mean own"),
        (["game:elsewhere/game77"], "--reason TEXT"),
        (["game:elsewhere/game77", "--undo"], "is not retracted"),
        (["game:elsewhere/game77", "--undo", "--reason", "x"], "--undo keeps no reason"),
        (["--check", "game:elsewhere/game77"], "give nothing beside it"),
        (["--check", "--corpus", "own"], "give nothing beside it"),
        ([], "say which game"),
    ],
)
def test_what_cannot_be_done_is_said_and_changes_nothing(
    project: Path, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert retract(*words) == 1
    assert said in capsys.readouterr().err
    assert not RETRACTED.exists()


def test_what_is_named_like_a_game_is_looked_for_in_its_corpus_alone(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert retract("game:elsewhere/game77", "--reason", "why") == 0
    capsys.readouterr()
    for words in (["--undo"], ["--reason", "why"]):
        assert retract("game:elsewhere/game78", "--corpus", "werewolf", *words) == 1
        assert "elsewhere/game77" not in capsys.readouterr().err


def test_every_count_adds_up(project: Path) -> None:
    games = ["simulated_probe/game1", "simulated_public_cot/game2", "archive/simulated_short_scores/game3"]
    ingest_werewolf(games, project / "logs", {}, project / "out", {"simulated_baseline/game0": "why"})
    quality = json.loads((project / "out/quality.json").read_text())
    assert (quality["files"], quality["retracted"], quality["games"]) == (4, 1, 3)
    assert quality["files"] == sum(quality[k] for k in ("games", "duplicates", "quarantined", "retracted"))
    assert b"game0" not in (project / "out/games.parquet").read_bytes()


def test_a_game_is_found_in_tables_and_texts_that_no_record_covers(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    retract("game:elsewhere/game77", "--reason", "x")
    table = project / "data/processed/forgotten"
    ingest_werewolf(["elsewhere/game77"], project / "logs", {}, table)
    (project / "results").mkdir()
    (project / "results/note.json").write_text('{"seen": ["elsewhere/game77/"], "not": "elsewhere/game777"}')
    (project / "results/other.json").write_text('{"not": ["elsewhere/game777", "old/elsewhere/game77"]}')
    found = {place.artifact for place in in_files(read_lineage(), read_retractions())}
    assert found == {
        "data/processed/forgotten/events.parquet",
        "data/processed/forgotten/games.parquet",
        "results/note.json",
    }
    capsys.readouterr()
    assert main(["audit", "retract", "--check", "--json"]) == 1
    assert {place["artifact"] for place in json.loads(capsys.readouterr().out)["found"]} == found
    shutil.rmtree(table)
    (project / "results/note.json").unlink()
    assert main(["audit", "retract", "--check"]) == 0


def test_a_game_is_found_in_a_folder_that_lies_on_another_disk(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("scratch")
    (elsewhere / "note.json").write_text('["elsewhere/game77"]')
    (project / "results").mkdir()
    (project / "results/activations").symlink_to(elsewhere)
    retract("game:elsewhere/game77", "--reason", "x")
    found = {place.artifact for place in in_files(read_lineage(), read_retractions())}
    assert found == {"results/activations/note.json"}


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("page.html", "<td>R&amp;D/gamé8</td>"),
        ("page.html", "<a href='R%26D/gam%C3%A98'>"),
        ("a.json", '{"log": "logs/R&D/gamé8/llm_log.txt"}'),
        ("a.json", '["R&D/gam\\u00e98"]'),
        ("a.json", '["R\\u0026D\\/gam\\u00e98"]'),
        ("a.yaml", '- "R&D/gam\\xE98"'),
        ("a.yml", "- ./R&D/gamé8"),
        ("a.xml", "<game>R&#38;D/gamé8</game>"),
        ("a.log", "Read /home/someone/logs/R&D/gamé8."),
    ],
)
def test_a_name_is_found_as_texts_write_it(project: Path, file: str, text: str) -> None:
    entry = Retraction("own", "R&D/gamé8", A, "why")
    (project / "results").mkdir()
    (project / "results" / file).write_text(text)
    assert [found.artifact for found in in_files(read_lineage(), [entry], ["logs"])] == [f"results/{file}"]
    # Another game's name that ends so, or goes on.
    (project / "results" / file).write_text(text.replace("8", "88").replace("é8", "é88"))
    assert not list(in_files(read_lineage(), [entry], ["logs"]))
    (project / "results" / file).write_text("old/R&D/gamé8")
    assert not list(in_files(read_lineage(), [entry], ["logs"]))


def test_names_are_said_where_the_terminal_lacks_their_letters(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii", write_through=True))
    assert retract("game:elsewhere/game77", "--reason", "naïve") == 0
    (project / "results").mkdir()
    (project / "results/é.txt").write_text("elsewhere/game77")
    assert main(["audit", "retract", "--check"]) == 1
    said = raw.getvalue().decode("ascii")
    assert "na\\xefve" in said
    assert "results/\\xe9.txt" in said


def test_counts_of_one_are_said_in_the_singular(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_retractions([Retraction("own", "x/game1", A, "why")])
    write_record("data/models/tiny", "fetch_model")
    assert main(["audit", "retract", "--check"]) == 0
    assert "1 retracted game: in none of 1 record, nor" in capsys.readouterr().out
