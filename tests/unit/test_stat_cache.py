import os
from pathlib import Path

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
