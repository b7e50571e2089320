"""Forecasting cases in, checked tables and an account of everything read out.

`quality.json` counts what `probeline.logs.units` says, and of the cases that are kept:

- cases_as_levels + cases_as_chain = cases; candidates; levels = levels_with_one_candidate + all of
  levels_with_<n>_candidates.
- levels_without_one_answer: none or several candidates are true.
- answers_first: the true candidate stands at index 0, of levels with several.
- paths_beyond_parent: `path` has more than `depth` items; path_ends_giving_answer: its last item shares more
  words with the answer than with any other candidate; research_giving_answer: the same of the research text.
- parents_unlike_answer: `parent_event` differs from the answer of the level before;
  parents_unlike_seed: on the first level, from the seed event.
- dates_before_seed, dates_before_parent: the level is dated before the seed event, or the level before.
- duplicate_events: seed events of several cases, and cases_of_duplicate_events; negatives_repeated: false
  candidates that stand in three levels or more, and times_repeated, how often each of them does.
- all other keys: what was mended or is absent.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from probeline.digests import sha256_bytes
from probeline.errors import ProbelineError
from probeline.files import open_parquet
from probeline.logs.forecasts import MAX_CASE_BYTES, Case, event_key, findings, read_forecast, words_of
from probeline.logs.formats import unit_key
from probeline.logs.listing import BOM
from probeline.logs.units import Fault, Format, Unit, collect_units, counts_column, ingest_units
from probeline.schema import CASES, LEVELS

_OFTEN = 3
"""Levels that a false candidate stands in before it is called repeated."""


def ingest_forecasts(files: list[Path], root: Path, output: Path, retracted: Mapping[str, str]) -> None:
    """Read the jsonl files of one shard into cases.parquet and levels.parquet (CASES, LEVELS of the schema).

    Args:
        files: the shard's files.
        root: the folder of the corpus.
        output: the folder to make, with quality.json, quarantine.jsonl and manifest.json beside the tables.
        retracted: key of each case that is taken out → the reason.
    """
    ingest_units(_FORMAT, files, root, output, retracted)


def collect_forecasts(shards: list[Path], output: Path) -> None:
    """Merge the shards of a corpus, copies in several of them once; see `units.collect_units`."""
    collect_units(_FORMAT, shards, output)


def _read(path: Path, root: Path) -> Iterator[Unit | Fault]:
    """The cases of a file, line by line."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(MAX_CASE_BYTES + 1):
            number += 1
            if len(line) > MAX_CASE_BYTES:
                reason = f"the line has more than {MAX_CASE_BYTES} bytes"
                yield Fault(number, reason, _digest_of_line(line, file))
                continue
            line = line.strip()
            if not line.removeprefix(BOM):
                continue
            try:
                yield _unit(read_forecast(line))
            except ProbelineError as error:
                yield Fault(number, str(error), sha256_bytes(line))


def _digest_of_line(line: bytes, file: BinaryIO) -> str:
    """The digest of a line without its end, of which `line` is the beginning; reads the rest in pieces."""
    digest = hashlib.sha256(line.removesuffix(b"\n"))
    while not line.endswith(b"\n") and (line := file.readline(MAX_CASE_BYTES)):
        digest.update(line.removesuffix(b"\n"))
    return digest.hexdigest()


def _unit(case: Case) -> Unit:
    counts = Counter(case.repairs)
    counts[f"cases_as_{case.form}"] += 1
    key = unit_key(case.content)
    parts = []
    for number, level in enumerate(case.levels):
        found = findings(case, number)
        counts.update(found)
        counts.update({"levels": 1, "candidates": len(level.candidates)})
        if len(level.candidates) > 1:  # one alone is a finding
            counts[f"levels_with_{len(level.candidates)}_candidates"] += 1
        parts.append(
            {
                "game": key,
                "depth": level.depth,
                "parent_event": level.parent,
                "path": level.path,
                "timeframe_months": level.timeframe,
                "date": level.date,
                "research_summary": level.research,
                "candidates": [{"event": one.event, "label": one.label} for one in level.candidates],
                "answer": level.true_index,
                "findings": found,
            }
        )
    row = {
        "game": key,
        "content": case.content,
        "case_id": case.case_id,
        "form": case.form,
        "event": case.event,
        "event_key": event_key(case.event),
        "date": case.date,
        "context": case.context,
        "domain": case.domain,
        "knowledge_cutoff": case.knowledge_cutoff,
        "levels": len(case.levels),
        "counts": counts_column(counts),
    }
    return Unit(case.content, row, parts)


def _extra(cases: Path, levels: Path) -> dict[str, Any]:
    with open_parquet(cases) as file:
        events = Counter(file.read(["event_key"])["event_key"].to_pylist())
    negatives: Counter[bytes] = Counter()
    with open_parquet(levels) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["candidates"]):
            for candidates in batch["candidates"].to_pylist():
                texts = {" ".join(words_of(one["event"])) for one in candidates if not one["label"]}
                negatives.update(sha256_bytes(text.encode()).encode()[:24] for text in texts)
    repeated = sorted((count for count in negatives.values() if count >= _OFTEN), reverse=True)
    shared = [count for count in events.values() if count > 1]
    return {
        "duplicate_events": len(shared),
        "cases_of_duplicate_events": sum(shared),
        "negatives_repeated": len(repeated),
        "times_repeated": repeated,
    }


_FORMAT = Format(
    noun="cases",
    parts="levels",
    unit_columns=CASES,
    part_columns=LEVELS,
    read=_read,
    rank=lambda row: 0,
    extra=_extra,
    counted=(
        "cases_as_levels",
        "cases_as_chain",
        "levels",
        "candidates",
        "levels_without_one_answer",
        "levels_with_one_candidate",
        "answers_first",
        "paths_beyond_parent",
        "path_ends_giving_answer",
        "research_giving_answer",
        "parents_unlike_answer",
        "parents_unlike_seed",
        "dates_before_seed",
        "dates_before_parent",
    ),
)
