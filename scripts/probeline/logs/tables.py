"""Parquet tables that are written and merged game by game, never held in memory as a whole."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from heapq import merge
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.files import draft_beside, flush, open_parquet
from probeline.schema import arrow_schema, make_table

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_PER_GROUP = 1024
"""Rows that are held in memory before they are written; groups consist of whole games."""


@contextmanager
def table_writer(path: Path, columns: list[tuple[str, str, str]]) -> Iterator[Callable[["pa.Table"], None]]:
    """A function that appends tables to a Parquet file, which appears at `path` when all went well."""
    import pyarrow.parquet as pq

    with draft_beside(path) as draft:
        with pq.ParquetWriter(
            draft, arrow_schema(columns), compression="zstd", write_statistics=False
        ) as writer:
            yield lambda table: writer.write_table(table, max(table.num_rows, 1))
        flush(draft)
        draft.replace(path)


@contextmanager
def row_writer(
    path: Path, columns: list[tuple[str, str, str]]
) -> Iterator[Callable[[list[dict[str, Any]]], None]]:
    """A function that takes the rows of whole games and keeps few of them in memory; as `table_writer`."""
    pending: list[dict[str, Any]] = []
    with table_writer(path, columns) as write:

        def add(rows: list[dict[str, Any]]) -> None:
            pending.extend(rows)
            if len(pending) >= ROWS_PER_GROUP:
                write(make_table(pending, columns))
                pending.clear()

        yield add
        write(make_table(pending, columns))


def merge_tables(shards: list[Path], output: Path, name: str, columns: list[tuple[str, str, str]]) -> None:
    """One table of those that the shards hold under a name, each sorted by game; sorted as they are."""
    with table_writer(output / name, columns) as write:
        tables = (games_in(shard / name) for shard in shards)
        for group in row_groups(merge(*tables, key=itemgetter(0))):
            write(group)


def games_in(path: Path) -> Iterator[tuple[str, "pa.Table"]]:
    """The rows of each game in a table that is sorted by game, with one row group in memory at a time."""
    with open_parquet(path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            games = table["game"].to_pylist()
            start = 0
            for end in range(1, len(games) + 1):
                if end == len(games) or games[end] != games[start]:
                    yield games[start], table.slice(start, end - start)
                    start = end


def rows_in(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a table, with a batch of them in memory at a time."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=ROWS_PER_GROUP):
            yield from batch.to_pylist()


def row_groups(games: Iterable[tuple[str, "pa.Table"]]) -> Iterator["pa.Table"]:
    """Row groups of whole games."""
    import pyarrow as pa

    pending: list[pa.Table] = []
    for _, table in games:
        pending.append(table)
        if sum(part.num_rows for part in pending) >= ROWS_PER_GROUP:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.concat_tables(pending).combine_chunks()
