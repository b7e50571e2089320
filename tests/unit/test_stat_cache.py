import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from probeline import stat_cache
from probeline.digests import sha256_file
from probeline.stat_cache import StatCache


def test_a_value_is_computed_again_only_when_the_file_may_have_changed(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one")
    computed = []

    def compute(path: Path) -> str:
        computed.append(path)
        return sha256_file(path)

    cache = StatCache(tmp_path / "cache.sqlite")
    first = cache.values("digest", [file], compute)
    assert cache.values("digest", [file], compute) == first
    assert len(computed) == 1
    cache.close()
    assert StatCache(tmp_path / "cache.sqlite").values("digest", [file], compute) == first
    assert len(computed) == 1


def test_an_edit_of_equal_size_with_its_mtime_put_back_is_seen(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one")
    cache = StatCache(tmp_path / "cache.sqlite")
    [before] = cache.values("digest", [file], sha256_file)
    stat = file.stat()
    file.write_text("two")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    [after] = cache.values("digest", [file], sha256_file)
    assert after != before
    assert after == sha256_file(file)


def test_a_file_that_cannot_be_read_has_no_value_and_is_tried_again(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a", "b", "missing")]
    for file in files[:2]:
        file.write_text(file.name)
    cache = StatCache(tmp_path / "cache.sqlite")

    def refuse_b(path: Path) -> str:
        if path.name == "b":
            raise PermissionError(13, "Permission denied", str(path))
        return sha256_file(path)

    assert cache.values("digest", files, refuse_b) == [sha256_file(files[0]), None, None]
    assert cache.values("digest", files, sha256_file) == [*map(sha256_file, files[:2]), None]


def test_an_interruption_costs_one_batch_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stat_cache, "BATCH", 3)
    files = [tmp_path / f"log{number}" for number in range(8)]
    for file in files:
        file.write_text(file.name)

    def interrupted(path: Path) -> str:
        if path == files[7]:
            raise KeyboardInterrupt
        return sha256_file(path)

    with pytest.raises(KeyboardInterrupt):
        StatCache(tmp_path / "cache.sqlite").values("digest", files, interrupted)
    announced: list[int] = []
    values = StatCache(tmp_path / "cache.sqlite").values("digest", files, sha256_file, announced.append)
    assert values == [sha256_file(file) for file in files]
    assert announced == [2]


def test_a_file_is_read_only_when_a_later_edit_must_leave_another_ctime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Where the kernel's clock for files ticks slowly, two edits in a row have one ctime: it is waited out.
    waited: list[float] = []
    monkeypatch.setattr("probeline.stat_cache.time.sleep", waited.append)
    cache = StatCache(tmp_path / "cache.sqlite")
    fresh = tmp_path / "log"
    fresh.write_text("one")
    monkeypatch.setattr("probeline.stat_cache.time.time_ns", lambda: fresh.stat().st_ctime_ns + 5_000_000)
    cache.values("digest", [fresh], sha256_file)
    assert waited == [stat_cache.TICK]
    monkeypatch.setattr("probeline.stat_cache.time.time_ns", lambda: fresh.stat().st_ctime_ns + 50_000_000)
    cache.values("other", [fresh], sha256_file)
    assert waited == [stat_cache.TICK]


def test_a_damaged_cache_is_made_anew_and_one_that_cannot_be_made_is_done_without(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one")
    (tmp_path / "damaged").write_text("no database")
    for path in (tmp_path / "damaged", file / "below-a-file"):
        assert StatCache(path).values("digest", [file], sha256_file) == [sha256_file(file)]
    announced: list[int] = []
    StatCache(tmp_path / "damaged").values("digest", [file], sha256_file, announced.append)
    assert announced == [0]


def _damage_late_pages(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    path.write_bytes(content)


def _put_another_table(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE entries (path TEXT)")


@pytest.mark.parametrize("damage", [_damage_late_pages, _put_another_table])
def test_damage_that_is_seen_only_while_reading_costs_no_more_than_reading_again(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    files = [tmp_path / f"log{number}" for number in range(300)]
    for file in files:
        file.write_text(file.name)
    path = tmp_path / "cache.sqlite"
    cache = StatCache(path)
    digests = cache.values("digest", files, sha256_file)
    cache.close()
    damage(path)
    announced: list[int] = []
    for _ in range(2):
        cache = StatCache(path)
        assert cache.values("digest", files, sha256_file, announced.append) == digests
        cache.close()
    assert announced == [300, 0]


def test_a_cache_that_is_damaged_while_it_is_used_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "log"
    file.write_text("one")
    path = tmp_path / "cache.sqlite"
    cache = StatCache(path)
    path.write_bytes(b"no database" * 1000)
    assert cache.values("digest", [file], sha256_file) == [sha256_file(file)]
    cache.close()
    announced: list[int] = []
    StatCache(path).values("digest", [file], sha256_file, announced.append)
    assert announced in ([0], [1])
