import json
import os
from pathlib import Path

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


def forbid(monkeypatch, *paths):
    """Make paths as unreadable as they are to another user; tests may run as one whom nothing stops."""

    def guard(function):
        def guarded(self, *arguments, **keywords):
            if self in paths:
                raise PermissionError(13, "Permission denied", str(self))
            return function(self, *arguments, **keywords)

        return guarded

    for name in ("open", "stat"):
        monkeypatch.setattr(Path, name, guard(getattr(Path, name)))


def test_games_are_found_at_any_depth_in_order(tmp_path):
    for game in ("game2", "b/deep/game10", "b/game1", "a/not_numbered"):
        put(tmp_path, game)
    (tmp_path / "b" / "game3").mkdir()
    (tmp_path / "b" / "notes").mkdir()
    assert list_games(tmp_path, "mine") == ["a/not_numbered", "b/deep/game10", "b/game1", "b/game3", "game2"]


def test_linked_folders_are_followed_once_and_loops_end(tmp_path):
    put(tmp_path / "root", "exp/game1")
    put(tmp_path / "store" / "one", "game2")
    put(tmp_path / "store" / "two", "game3")
    (tmp_path / "root" / "a_copy").symlink_to(tmp_path / "root" / "exp")
    (tmp_path / "root" / "loop").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "one").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "root" / "one_again").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "store" / "one" / "two").symlink_to(tmp_path / "store" / "two")
    (tmp_path / "store" / "two" / "back").symlink_to(tmp_path / "store" / "one")
    (tmp_path / "root" / "gone").symlink_to(tmp_path / "nowhere")
    assert list_games(tmp_path / "root", "mine") == ["exp/game1", "one/game2", "one/two/game3"]


def test_a_game_may_be_a_link(tmp_path):
    put(tmp_path / "store", "abc")
    (tmp_path / "root" / "exp").mkdir(parents=True)
    (tmp_path / "root" / "exp" / "game5").symlink_to(tmp_path / "store" / "abc")
    assert list_games(tmp_path / "root", "mine") == ["exp/game5"]


def test_a_folder_above_games_is_no_game_whatever_its_name(tmp_path):
    root = tmp_path / "game0"
    put(root, "game1/game2")
    (root / "game3" / "game4").mkdir(parents=True)
    put(root, "game5")
    put(root, "game5/game6")
    assert list_games(root, "mine") == ["game1/game2", "game3/game4", "game5", "game5/game6"]


def test_an_empty_root_that_is_named_like_a_game_holds_none(tmp_path):
    (tmp_path / "game1").mkdir()
    with pytest.raises(ProbelineError, match=r"^No game data found"):
        list_games(tmp_path / "game1", "mine")


def test_a_root_that_is_itself_a_game_is_refused(tmp_path):
    put(tmp_path, "game1")
    with pytest.raises(ProbelineError, match=r"it is one game.*corpora\.mine\.root to the folder above"):
        list_games(tmp_path / "game1", "mine")


def test_a_folder_that_cannot_be_read_is_named_without_its_escape_codes(tmp_path, monkeypatch):
    put(tmp_path, "a\x1b[2J/game1")
    forbid(monkeypatch, tmp_path / "a\x1b[2J")
    with pytest.raises(ProbelineError, match=r"a\?\[2J cannot be read \(Permission denied\)") as error:
        list_games(tmp_path, "mine")
    assert "\x1b" not in str(error.value)


@pytest.mark.parametrize("name", ["missing", "file", "empty"])
def test_a_root_without_games_is_explained(tmp_path, name):
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ProbelineError, match=r"^No game data found") as error:
        list_games(tmp_path / name, "mine")
    for part in (str(tmp_path / name), "/**/gameN/game_stats.json", "corpora.mine.root"):
        assert part in str(error.value)


def test_the_files_of_a_game_are_those_that_exist(tmp_path):
    put(tmp_path, "game1", log=True)
    put(tmp_path, "game2")
    (tmp_path / "game3").mkdir()
    assert [file.name for file in game_files(tmp_path, "game1")] == ["game_stats.json", "llm_log.txt"]
    assert [file.name for file in game_files(tmp_path, "game2")] == ["game_stats.json"]
    assert game_files(tmp_path, "game3") == []


def test_a_file_that_must_not_be_read_is_no_input(tmp_path, monkeypatch):
    put(tmp_path, "game1", log=True)
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path.name != "llm_log.txt" and access(path, mode))
    assert [file.name for file in game_files(tmp_path, "game1")] == ["game_stats.json"]


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
    assert find_duplicates(tmp_path, list_games(tmp_path, "mine"), cache) == {
        "a/game1": "b/game1",
        "c/game1": "b/game1",
        "e/game9": "d/game1",
    }


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    put(tmp_path, "game1", '{"x": 1}')
    put(tmp_path, "game2", '{"x": 1}')
    games = list_games(tmp_path, "mine")
    cache = StatCache(tmp_path / "cache.db")
    first = find_duplicates(tmp_path, games, cache)
    read = []
    monkeypatch.setattr(listing, "game_content", lambda data: read.append(data) or "same")
    assert find_duplicates(tmp_path, games, cache) == first == {"game2": "game1"}
    assert read == []
    put(tmp_path, "game2", '{"x": 2}')
    find_duplicates(tmp_path, games, cache)
    assert read == [b'{"x": 2}']


def test_a_game_that_cannot_be_read_is_no_copy_and_is_tried_again(tmp_path, monkeypatch):
    for game in ("game1", "game2", "game3", "game4"):
        put(tmp_path, game)
    games = list_games(tmp_path, "mine")
    cache = StatCache(tmp_path / "cache.db")
    with monkeypatch.context() as patch:
        forbid(patch, *(tmp_path / game / "game_stats.json" for game in ("game1", "game3")))
        assert find_duplicates(tmp_path, games, cache) == {"game4": "game2"}
    assert find_duplicates(tmp_path, games, cache) == dict.fromkeys(("game2", "game3", "game4"), "game1")


def test_a_long_first_look_at_the_logs_is_announced_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(listing, "MANY_FILES", 2)
    for game in ("game1", "game2", "game3"):
        put(tmp_path, game)
    cache = StatCache(tmp_path / "cache.db")
    find_duplicates(tmp_path, ["game1", "game2"], cache)
    assert capsys.readouterr().err == ""
    (tmp_path / "cache.db").unlink()
    cache = StatCache(tmp_path / "cache.db")
    for _ in range(2):
        find_duplicates(tmp_path, ["game1", "game2", "game3"], cache)
    assert capsys.readouterr().err == "Reading 3 game logs once, to find copies …\n"
