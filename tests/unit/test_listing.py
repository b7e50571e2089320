import json

import pytest

from probeline.errors import ProbelineError
from probeline.logs import listing
from probeline.logs.listing import find_duplicates, game_content, game_files, list_games
from probeline.stat_cache import StatCache


def put(root, game, text="{}", log=False):
    folder = root / game
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "game_stats.json").write_text(text)
    if log:
        (folder / "llm_log.txt").write_text("log")


def test_games_are_found_at_any_depth_in_order(tmp_path):
    for game in ("game2", "b/deep/game10", "b/game1", "a/not_numbered"):
        put(tmp_path, game)
    (tmp_path / "b" / "game3").mkdir()
    (tmp_path / "b" / "notes").mkdir()
    assert list_games(tmp_path) == ["a/not_numbered", "b/deep/game10", "b/game1", "b/game3", "game2"]


def test_links_to_folders_are_not_followed(tmp_path):
    put(tmp_path / "root", "game1")
    put(tmp_path / "outside", "game2")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "away").symlink_to(tmp_path / "outside")
    assert list_games(tmp_path / "root") == ["game1"]


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_root_without_games_is_explained(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProbelineError, match=r"^No game data found") as error:
        list_games(tmp_path / name)
    for part in (str(tmp_path / name), "/**/gameN/game_stats.json", "corpora.<corpus>.root"):
        assert part in str(error.value)


def test_the_files_of_a_game_are_those_that_exist(tmp_path):
    put(tmp_path, "game1", log=True)
    put(tmp_path, "game2")
    (tmp_path / "game3").mkdir()
    assert [file.name for file in game_files(tmp_path, "game1")] == ["game_stats.json", "llm_log.txt"]
    assert [file.name for file in game_files(tmp_path, "game2")] == ["game_stats.json"]
    assert game_files(tmp_path, "game3") == []


def test_content_ignores_formatting_and_key_order_only():
    value = {"b": [1, {"d": "x", "c": None}], "a": 1.5}
    other = {"b": [1, {"d": "y", "c": None}], "a": 1.5}
    assert game_content(json.dumps(value).encode()) == game_content(
        json.dumps(value, indent=3, sort_keys=True).encode()
    )
    assert game_content(json.dumps(value).encode()) != game_content(json.dumps(other).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 2000, b"[" * 500 + b"]" * 500, b"NaN"])
def test_content_of_what_is_not_json_is_that_of_its_bytes(data):
    assert game_content(data) == game_content(data)
    assert game_content(data) != game_content(data + b" ")


def test_of_copies_the_one_with_a_log_is_kept_then_the_first(tmp_path):
    put(tmp_path, "a/game1", '{"x": 1, "y": 2}')
    put(tmp_path, "b/game1", '{"y": 2,  "x": 1}', log=True)
    put(tmp_path, "c/game1", '{"x": 1, "y": 2}', log=True)
    put(tmp_path, "d/game1", '{"x": 2}')
    put(tmp_path, "e/game9", '{"x": 2}')
    (tmp_path / "game7").mkdir()
    cache = StatCache(tmp_path / "cache.db")
    assert find_duplicates(tmp_path, list_games(tmp_path), cache) == {
        "a/game1": "b/game1",
        "c/game1": "b/game1",
        "e/game9": "d/game1",
    }


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    put(tmp_path, "game1", '{"x": 1}')
    put(tmp_path, "game2", '{"x": 1}')
    games = list_games(tmp_path)
    cache = StatCache(tmp_path / "cache.db")
    first = find_duplicates(tmp_path, games, cache)
    read = []
    monkeypatch.setattr(listing, "game_content", lambda data: read.append(data) or "same")
    assert find_duplicates(tmp_path, games, cache) == first == {"game2": "game1"}
    assert read == []
    put(tmp_path, "game2", '{"x": 2}')
    find_duplicates(tmp_path, games, cache)
    assert read == [b'{"x": 2}']
