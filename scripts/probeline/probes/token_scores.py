"""What a probe says of every token of whole games, as the extraction put them through the model."""

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.activations.extract import Row, read_games, tokenise
from probeline.errors import ProbelineError
from probeline.files import MANIFEST, atomic_directory, open_parquet, read_json, write_manifest, write_parquet
from probeline.models.adapter import adapter_digest
from probeline.models.render import RenderedChat, load_tokenizer, render_chat, token_span
from probeline.probes.detector import load_detector
from probeline.progress import progress
from probeline.schema import TOKENS, TRANSCRIPTS, make_table

if TYPE_CHECKING:
    from probeline.activations.engine import HeldDecoder
    from probeline.probes.detector import Detector

log = logging.getLogger(__name__)

FALSE_ALARM, MISS = "false alarm", "miss"
LINES_BEFORE = 4
"""Of what the model read before an act."""
MOST_APART = 0.01
"""Deviations of the training scores: from here on, a score is another one than the stored one."""


@dataclass(frozen=True)
class SampleTokens:
    """A sample's words, cut into the tokens that its mask holds.

    Attributes:
        sample: its id.
        game: its game.
        score: the probe's, of the mean activation over the tokens.
        first: position of the first token in its sequence.
        tokens: their texts; one after the other, they are the masked text without white space at its ends.
            A token that holds only a later part of a character is empty.
        token_scores: of each token's own activation. For a linear probe their mean is `score`; for an mlp it
            need not be, as what it makes of a mean is not the mean of what it makes of each.
    """

    sample: str
    game: str
    score: float
    first: int
    tokens: tuple[str, ...]
    token_scores: tuple[float, ...]


class TokenScorer:
    """A detector together with its model, for the games of dialogues."""

    def __init__(
        self,
        detector: "Detector",
        model: Path,
        dtype: str,
        threads: int,
        token_budget: int,
        adapter: Path | None = None,
        held: "HeldDecoder | None" = None,
    ) -> None:
        """Load the model, up to the deepest layer that the detector reads.

        Args:
            detector: what scores.
            model: a model's folder, as `fetch_model` makes it.
            dtype: number type of the forward pass.
            threads: processor threads.
            token_budget: most tokens in one row of the model's input.
            adapter: a folder with a PEFT adapter that is put on the model.
            held: the model, where it is in memory already.
        """
        # Only now: it takes seconds to import.
        from probeline.activations.engine import ActivationEngine

        facts = read_json(model / MANIFEST)
        detector.require_width(facts["hidden_size"], model.name)
        layers = sorted(detector.layers)
        self._detector = detector
        self._columns = [layers.index(layer) for layer in detector.layers]
        self._max_length: int = facts["max_length"]
        self._tokenizer = load_tokenizer(model)
        self._engine = ActivationEngine(
            model,
            layers,
            dtype,
            threads,
            token_budget,
            token_layers=layers,
            adapter=adapter,
            held=held,
        )

    def score_game(
        self, samples: list[Row], reveals: list[Row], chats: Mapping[str, list[dict[str, str]]]
    ) -> list[SampleTokens]:
        """The samples of one game, each sequence run once; those that cannot be measured are left out.

        Args:
            samples: rows of schema.SAMPLES, at least one.
            reveals: rows of schema.REVEALS: run along as in the extraction, so that the same bits come out.
            chats: sequence → its messages.
        """
        game = tokenise(self._tokenizer, samples, reveals, chats, self._max_length)
        if not game.index:
            return []
        found = self._engine.launch(game.sequences).result()
        lengths = [len(span) for sequence in game.sequences for span in sequence.measured]
        ordered = found.in_order(game.order, lengths)
        scores = self._detector.scores(ordered.means[:, self._columns]).tolist()
        token_scores = self._detector.scores(ordered.tokens[:, self._columns]).tolist()
        rendered: dict[str, RenderedChat] = {}
        by_id = {sample["sample"]: sample for sample in samples}
        cut, place = [], 0
        for row, score in zip(game.index, scores, strict=True):
            sample = by_id[row["sample"]]
            sequence = sample["sequence"]
            if sequence not in rendered:
                rendered[sequence] = render_chat(self._tokenizer, chats[sequence])
            texts = _texts(rendered[sequence], sample)
            own = tuple(token_scores[place : place + len(texts)])
            place += len(texts)
            first = row["position"] - len(texts) + 1
            cut.append(SampleTokens(row["sample"], row["game"], score, first, texts, own))
        return cut


def _texts(chat: RenderedChat, sample: Row) -> tuple[str, ...]:
    """The part of a sample's masked text in each of its tokens."""
    message, start = sample["message"], chat.message_starts[sample["message"]]
    low, high = chat.message_bounds[message]
    low, high = max(low, start + sample["start"]), min(high, start + sample["end"])
    content = chat.text[low:high]
    first, last = high - len(content.lstrip()), low + len(content.rstrip())
    span = token_span(chat, message, sample["start"], sample["end"]) or range(0)
    ends = [min(chat.offsets[position][1], last) for position in span]
    starts = [first, *ends[:-1]]
    return tuple(chat.text[begin:end] for begin, end in zip(starts, ends, strict=True))


def score_tokens(
    probe: Path,
    dialogues: Sequence[Path],
    model: Path,
    output: Path,
    spec: Mapping[str, Any],
    adapter: Path | None = None,
    held: "HeldDecoder | None" = None,
) -> None:
    """Write the token-by-token scores of the test games that hold a probe's worst errors.

    Files: tokens.parquet (schema.TOKENS), transcripts.parquet (schema.TRANSCRIPTS; both hold every tested
    sample of these games) and manifest.json, which names the games, each with the error that it was chosen
    for.

    Args:
        probe: made by `train_probe`.
        dialogues: the shards of its concept.
        model: the model that it reads.
        output: the folder to make.
        spec: `games`, how many at most; dtype, threads and token_budget of the extraction.
        adapter: a folder with the adapter on the model, where the activations were read with one.
        held: the model, where it is in memory already.

    Raises:
        ProbelineError: the probe is of another model or adapter, or the dialogues are not those it was
            tested on.
    """
    facts = read_json(probe / MANIFEST)
    _require_same(probe, facts, model, adapter)
    tested = [row for row in _rows(probe / "scores.parquet") if row["split"] == "test"]
    errors = worst_errors(tested, facts["threshold"])
    chosen = _first_of_games(errors, spec["games"])
    stored = {row["sample"]: row["score"] for row in tested if row["game"] in chosen}
    places = {error["sample"]: (error["error"], place) for place, error in enumerate(errors, 1)}
    scored: list[SampleTokens] = []
    shown: list[Row] = []
    if chosen:
        scorer = TokenScorer(
            load_detector(probe), model, spec["dtype"], spec["threads"], spec["token_budget"], adapter, held
        )
        games = progress(games_of(dialogues, chosen), "Scoring tokens", len(chosen), "game")
        for samples, reveals, chats in games:
            scored += scorer.score_game(samples, reveals, chats)
            shown += [
                _shown(sample, stored[sample["sample"]], chats[sample["sequence"]], places)
                for sample in samples
                if sample["sample"] in stored
            ]
    _compare(probe, scored, stored)
    kept = [one for one in scored if one.sample in stored]
    order = {one["sample"]: number for number, one in enumerate(sorted(shown, key=_order))}
    kept.sort(key=lambda one: order[one.sample])
    kinds = Counter(error["error"] for error in errors)
    with atomic_directory(output) as draft:
        write_parquet(draft / "tokens.parquet", make_table(_token_rows(kept), TOKENS))
        write_parquet(draft / "transcripts.parquet", make_table(sorted(shown, key=_order), TRANSCRIPTS))
        write_manifest(
            draft,
            "transcripts",
            {
                **{key: facts[key] for key in ("concept", "method", "layers", "model", "threshold")},
                "dtype": spec["dtype"],
                "games": list(chosen.values()),
                "samples": len(kept),
                "tokens": sum(len(one.tokens) for one in kept),
                "tested": len(tested),
                "false_alarms": kinds[FALSE_ALARM],
                "misses": kinds[MISS],
            },
        )
    log.info("%d test games in tokens: %s", len(chosen), ", ".join(chosen) or "the probe makes no error")


def worst_errors(rows: Sequence[Row], threshold: float) -> list[dict[str, Any]]:
    """A probe's errors: false alarms and misses in turn, of each kind the farthest from the threshold first.

    Args:
        rows: of schema.SCORES.
        threshold: scores from here on count as label 1.

    Returns:
        For each error its sample, game, label, score and `error`, the kind. Equal distances are ordered by
        sample.
    """
    wrong = [
        {key: row[key] for key in ("sample", "game", "label", "score")}
        | {"error": MISS if row["label"] else FALSE_ALARM}
        for row in rows
        if (row["score"] >= threshold) != bool(row["label"])
    ]
    wrong.sort(key=lambda error: (-abs(error["score"] - threshold), error["sample"]))
    kinds = ([error for error in wrong if error["error"] == kind] for kind in (FALSE_ALARM, MISS))
    return [error for pair in zip_longest(*kinds) for error in pair if error is not None]


def _first_of_games(errors: Sequence[dict[str, Any]], most: int) -> dict[str, dict[str, Any]]:
    """Game → the first of its errors, for the games that come first."""
    chosen: dict[str, dict[str, Any]] = {}
    for error in errors:
        if len(chosen) < most:
            chosen.setdefault(error["game"], error)
    return chosen


def games_of(
    dialogues: Sequence[Path], wanted: Collection[str]
) -> Iterator[tuple[list[Row], list[Row], dict[str, list[dict[str, str]]]]]:
    """Samples, reveals and chats of some games; shards that hold none of them are not read.

    Args:
        dialogues: shards.
        wanted: names of games; one that no shard holds is passed over.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for shard in dialogues:
        table = open_parquet(shard / "samples.parquet").read()
        whole = table.filter(pc.is_in(table["game"], pa.array(sorted(wanted), pa.string())))
        rows = {row["sample"]: row for row in whole.to_pylist()}
        if not rows:
            continue
        for samples, reveals, chats in read_games(shard):
            if samples[0]["game"] in wanted:
                yield [rows[sample["sample"]] for sample in samples], reveals, chats


def _require_same(probe: Path, facts: Mapping[str, Any], model: Path, adapter: Path | None) -> None:
    weights = read_json(model / MANIFEST)["weights_sha256"]
    if facts["weights_sha256"] != weights or facts["adapter_sha256"] != adapter_digest(adapter):
        raise ProbelineError(
            f"The probe {probe.name} was trained on other weights than those of {model.name}, or another "
            f"adapter. {_again(probe)}"
        )


def _again(probe: Path) -> str:
    return f"Make it again with: snakemake --cores 4 results/probes/{probe.name}"


def _compare(probe: Path, scored: Sequence[SampleTokens], stored: Mapping[str, float]) -> None:
    """Say so if this machine computes otherwise than the one that read the activations."""
    apart = [abs(one.score - stored[one.sample]) for one in scored if one.sample in stored]
    if apart and max(apart) > MOST_APART:
        log.warning(
            "Scores are up to %.3f from the stored ones: the activations were read by another machine, or "
            "by other versions of the libraries.",
            max(apart),
        )
    lost = stored.keys() - {one.sample for one in scored}
    if lost:
        raise ProbelineError(
            f"{len(lost)} samples that the probe {probe.name} was tested on are not in the dialogues, for "
            f"example {min(lost)}. {_again(probe)}"
        )


def _order(row: Row) -> tuple[str, int, str]:
    return row["game"], row["event"], row["sample"]


def _shown(
    sample: Row,
    score: float,
    messages: Sequence[Mapping[str, str]],
    places: Mapping[str, tuple[str, int]],
) -> Row:
    """A row of schema.TRANSCRIPTS."""
    error, place = places.get(sample["sample"], (None, None))
    kept = ("game", "sample", "event", "turn", "type", "actor", "actor_role", "target", "label")
    return {
        **{key: sample[key] for key in kept},
        "score": score,
        "error": error,
        "place": place,
        "before": lines_before(sample, messages),
    }


def lines_before(sample: Row, messages: Sequence[Mapping[str, str]]) -> list[dict[str, str]]:
    """The last whole lines before a sample's masked words, each with its message's role."""
    parts = [*messages[: sample["message"]], dict(messages[sample["message"]])]
    # The line in which the words stand says no more than whose they are.
    head = parts[-1]["content"][: sample["start"]]
    parts[-1] = {"role": parts[-1]["role"], "content": head[: head.rfind("\n") + 1]}
    lines = [
        {"role": part["role"], "content": line}
        for part in parts
        if part["role"] != "system"
        for line in part["content"].split("\n")
        if line.strip()
    ]
    return lines[-LINES_BEFORE:]


def _token_rows(scored: Sequence[SampleTokens]) -> list[dict[str, Any]]:
    return [
        {
            "game": one.game,
            "sample": one.sample,
            "position": one.first + number,
            "text": text,
            "score": score,
        }
        for one in scored
        for number, (text, score) in enumerate(zip(one.tokens, one.token_scores, strict=True))
    ]


def _rows(path: Path) -> list[Row]:
    rows: list[Row] = open_parquet(path).read().to_pylist()
    return rows
