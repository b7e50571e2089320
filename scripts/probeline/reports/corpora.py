"""The corpora: what was read, what was mended, what was left out and why, in figures that add up."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from probeline.files import MANIFEST, read_json
from probeline.reports.estimates import many
from probeline.reports.page import anchor, folded, link, table
from probeline.visible import safe

PARTS = ("duplicates", "quarantined", "retracted")
WHOLES = ("found", "files")
"""Keys of quality.json that count everything which was found; the first there is."""
KEPT = ("cases", "dialogues", "games")
MEND_WORDS = ("mended", "repair", "merged", "dropped", "counted", "unreadable", "_invalid", "_retried")
MOST_REASONS = 12
"""Reasons of quarantine that are listed; the file has all."""
ACCOUNTS = {
    "files": ("files_read", "files_quarantined", "files_skipped"),
    "games": ("logs_read", "logs_unreadable", "logs_missing"),
    "tallies": ("tallies_matched", "tallies_mismatched", "tallies_without_votes"),
}
"""Other wholes of a corpus, of files, logs of calls and tallies → what they come to."""


@dataclass(frozen=True)
class Corpus:
    """A corpus with its account.

    Attributes:
        name: of its folder.
        folder: that holds its tables.
        quality: of quality.json.
        quarantine: lines of quarantine.jsonl.
        simulated: whether its logs were made by this program.
    """

    name: str
    folder: Path
    quality: Mapping[str, Any]
    quarantine: Sequence[Mapping[str, Any]]
    simulated: bool

    @property
    def kept(self) -> tuple[int, str]:
        """How many games, cases or dialogues are kept, and what they are called."""
        noun = next(name for name in KEPT if name in self.quality)
        return self.quality[noun], noun

    @property
    def found(self) -> int:
        """How many were found, with those that are left out."""
        return int(self.quality[next(name for name in WHOLES if name in self.quality)])

    @property
    def left_out(self) -> dict[str, int]:
        """Why → how many are left out."""
        return {part: int(self.quality.get(part, 0)) for part in PARTS}

    @property
    def adds_up(self) -> bool:
        """Whether everything that was found is kept or accounted for."""
        return self.found == self.kept[0] + sum(self.left_out.values())


def read_corpus(folder: Path, simulated: bool) -> Corpus:
    """The corpus in a folder."""
    lines = (folder / "quarantine.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    quality = read_json(folder / "quality.json")
    return Corpus(folder.name, folder, quality, rows, simulated)


def corpora_body(corpora: Sequence[Corpus]) -> str:
    """Each corpus: everything that was found, kept or left out, and why."""
    rows = [
        [
            f'<a href="#corpus-{anchor(corpus.name)}">{safe(corpus.name)}</a>',
            "simulated" if corpus.simulated else "logs",
            f"{corpus.found:,}",
            f"{corpus.kept[0]:,} {safe(corpus.kept[1])}",
            *(f"{number:,}" for number in corpus.left_out.values()),
            _sum(corpus),
        ]
        for corpus in corpora
    ]
    head = ["corpus", "from", "found", "kept", *(part for part in PARTS), "adds up"]
    articles = "".join(map(_article, corpora))
    return f'{table(head, rows, numbers=range(2, 7), stacked=True)}<div class="corpora">{articles}</div>\n'


def _sum(corpus: Corpus) -> str:
    said = " + ".join(f"{number:,}" for number in (corpus.kept[0], *corpus.left_out.values()))
    if corpus.adds_up:
        return f"{corpus.found:,} = {said}"
    return f'<span class="mark bad"></span>{corpus.found:,} is not {said}'


def _article(corpus: Corpus) -> str:
    quality = {key: value for key, value in corpus.quality.items() if value not in (0, [], {}, None)}
    mended = {key: value for key, value in quality.items() if any(word in key for word in MEND_WORDS)}
    names = ("quality.json", "quarantine.jsonl", MANIFEST)
    data = ", ".join(link((corpus.folder / name).as_posix(), name) for name in names)
    return (
        f'<article id="corpus-{anchor(corpus.name)}"><h3>{safe(corpus.name)}</h3>\n'
        f"{_accounts(corpus.quality)}{_quarantine(corpus)}"
        f"{folded('Mended, dropped or not to be used: ' + many(len(mended), 'count'), _counts(mended))}"
        f"{folded('All that was counted: ' + many(len(quality), 'count'), _counts(quality))}"
        f"<p class=faint>Data: {data}</p></article>\n"
    )


def _accounts(quality: Mapping[str, Any]) -> str:
    """Sums within what is kept, where the corpus has them."""
    found = []
    for whole, parts in ACCOUNTS.items():
        if all(part in quality for part in (whole, *parts)):
            sums = " + ".join(
                f"{quality[part]:,} {part.split('_', 1)[1].replace('_', ' ')}" for part in parts
            )
            right = quality[whole] == sum(quality[part] for part in parts)
            title = "logs of calls" if whole == "games" else whole
            found.append(f"{title}: {quality[whole]:,} {'=' if right else 'is not'} {sums}")
    if "pairs" in quality and "kept" in quality and isinstance(quality.get("dropped"), dict):
        dropped = quality["dropped"]
        right = quality["pairs"] == quality["kept"] + sum(dropped.values())
        sums = " + ".join(f"{number:,} {reason.replace('_', ' ')}" for reason, number in dropped.items())
        found.append(
            f"acts: {quality['pairs']:,} {'=' if right else 'is not'} {quality['kept']:,} kept + {sums}"
        )
    return "".join(f"<p class=faint>{safe(line)}</p>\n" for line in found)


def _quarantine(corpus: Corpus) -> str:
    """Why files are in quarantine: the reasons, most frequent first, with an example of each."""
    if not corpus.quarantine:
        return ""
    reasons = Counter(str(line.get("reason", "no reason")) for line in corpus.quarantine)
    example = {str(line.get("reason", "no reason")): str(line.get("path", "")) for line in corpus.quarantine}
    rows = [
        [f"{number:,}", safe(reason), safe(example[reason])]
        for reason, number in reasons.most_common(MOST_REASONS)
    ]
    others = len(reasons) - len(rows)
    more = f"<p class=faint>and {many(others, 'other reason')}, in quarantine.jsonl</p>\n" if others else ""
    title = f"In quarantine: {many(len(corpus.quarantine), 'line')}"
    return folded(title, table(["lines", "reason", "for example"], rows, numbers=(0,)) + more)


def _counts(quality: Mapping[str, Any]) -> str:
    rows = []
    for key, value in quality.items():
        name = safe(key.replace("_", " "))
        if isinstance(value, dict):
            rows += [
                [f"{name}: {safe(str(part).replace('_', ' '))}", _number(number)]
                for part, number in value.items()
            ]
        elif isinstance(value, list):
            rows.append([name, f"{len(value):,} listed"])
        else:
            rows.append([name, _number(value)])
    return table(["what", "count"], rows, numbers=(1,))


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else safe(value)
