import subprocess
import sys
from pathlib import Path

import pytest

from probeline.errors import ProbelineError
from probeline.files import atomic_directory, read_json, write_json, write_manifest


def test_a_failure_leaves_the_old_artifact_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    with atomic_directory(target) as draft:
        (draft / "data").write_text("old")

    def fail_half_way() -> None:
        with atomic_directory(target) as draft:
            (draft / "data").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert (target / "data").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]


def test_a_directory_is_replaced_whole(tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    target.mkdir()
    (target / "stale").touch()
    with atomic_directory(target) as draft:
        (draft / "fresh").touch()
    assert [path.name for path in target.iterdir()] == ["fresh"]


def test_json_has_the_same_bytes_whatever_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5, None]})
    write_json(tmp_path / "b.json", {"a": [1.5, None], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_broken_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(ProbelineError, match=r"metrics\.json is not valid JSON"):
        read_json(tmp_path / "metrics.json")


def test_a_manifest_lists_every_file_with_its_digest(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "data").write_text("abc")
    write_manifest(tmp_path, "probe", {"layers": [1]})
    manifest = read_json(tmp_path / "manifest.json")
    assert manifest["kind"] == "probe"
    assert manifest["layers"] == [1]
    assert manifest["files"]["inner/data"] == {
        "bytes": 3,
        "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    }


# A limit on the size of files makes the kernel refuse the write, as a full disk does, on any machine.
WRITES_TOO_MUCH = """
import resource, signal, sys
from pathlib import Path
from probeline.errors import ProbelineError
from probeline.files import atomic_directory
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with atomic_directory(Path(sys.argv[1]) / "artifact") as draft:
        (draft / "big").write_bytes(bytes(1_000_000))
except ProbelineError as error:
    print(error)
"""


def test_a_full_disk_is_said_in_words_and_leaves_nothing(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", WRITES_TOO_MUCH, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "The disk is full" in run.stdout
    assert "Free some space" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_drafts_of_killed_jobs_are_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / ".artifact.tmp-1234").mkdir()
    (tmp_path / ".artifact.tmp-1234" / "half").touch()
    (tmp_path / ".metrics.json.tmp-99").write_text("{")
    with atomic_directory(tmp_path / "artifact") as draft:
        (draft / "data").touch()
    write_json(tmp_path / "metrics.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "metrics.json"]
