"""Where two files differ first, in words."""

from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import save_file

from probeline.lineage.file_differences import first_difference


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"a": 1, "b": {"c": [1, 2]}}, {"a": 1, "b": {"c": [1, 3]}}, "b.c.1: 2, now 3"),
        ({"a": 1}, {"a": 1, "b": 2}, "b is new"),
        ({"a": 1, "b": 2}, {"a": 1}, "b is missing"),
        ({"a": [1]}, {"a": [1, 2]}, "a: [1], now [1,2]"),
    ],
)
def test_json_differs_at_a_key(tmp_path: Path, old: object, new: object, said: str) -> None:
    for name, value in (("a", old), ("b", new)):
        (tmp_path / f"{name}.json").write_bytes(orjson.dumps(value))
    assert first_difference(tmp_path / "a.json", tmp_path / "b.json") == said


def test_the_same_values_in_other_bytes_differ_at_a_byte(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}')
    (tmp_path / "b.json").write_text('{"a":1}')
    assert first_difference(tmp_path / "a.json", tmp_path / "b.json") == "byte 5 of 8 (7 now)"


@pytest.mark.parametrize(
    ("new", "said"),
    [
        ({"x": [1, 2], "y": ["a", "c"]}, "column y, row 1: b, now c"),
        ({"x": [1], "y": ["a"]}, "2 rows, now 1"),
        ({"x": [1, 2]}, "columns x, y, now x"),
    ],
)
def test_tables_differ_at_a_column_and_row(tmp_path: Path, new: dict[str, list[object]], said: str) -> None:
    pq.write_table(pa.table({"x": [1, 2], "y": ["a", "b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table(new), tmp_path / "b.parquet")
    assert first_difference(tmp_path / "a.parquet", tmp_path / "b.parquet") == said


def test_tensors_differ_in_so_many_values_by_so_much(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4), "v": torch.ones(2)}, tmp_path / "a.safetensors")
    save_file({"w": torch.tensor([0, 0, 0.5, 0]), "v": torch.ones(2)}, tmp_path / "b.safetensors")
    said = first_difference(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert said == "tensor w: 1 of 4 values, at most by 0.5"


def test_a_file_that_cannot_be_read_is_said_to_be_so(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text("{}")
    assert "cannot be read" in first_difference(tmp_path / "a.json", tmp_path / "b.json")


def test_not_a_number_is_no_difference(tmp_path: Path) -> None:
    nan = float("nan")
    pq.write_table(pa.table({"x": [nan, 1.0], "y": [[nan], [2.0]], "z": ["a", "b"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"x": [nan, 1.0], "y": [[nan], [2.0]], "z": ["a", "c"]}), tmp_path / "b.parquet")
    assert first_difference(tmp_path / "a.parquet", tmp_path / "b.parquet") == "column z, row 1: b, now c"
    pq.write_table(
        pa.table({"x": [nan, 1.0], "y": [[nan], [2.0]], "z": ["a", "b"]}),
        tmp_path / "c.parquet",
        compression="gzip",
    )
    assert first_difference(tmp_path / "a.parquet", tmp_path / "c.parquet").startswith("byte ")
