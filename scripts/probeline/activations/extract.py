"""Shards of dialogues become one shard of activations."""

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from probeline.activations.machine import decisive_variables, device_name, matrix_peak, processor
from probeline.activations.memory import return_freed_memory
from probeline.activations.reuse import PastResults, line_of
from probeline.activations.tensor_file import TensorFile
from probeline.digests import canonical_digest
from probeline.errors import ProbelineError
from probeline.files import (
    MANIFEST,
    atomic_directory,
    open_parquet,
    read_json,
    write_json,
    write_json_lines,
    write_manifest,
    write_parquet,
)
from probeline.models.adapter import adapter_digest, adapter_files, check_base
from probeline.models.render import UnrenderableChatError, load_tokenizer, render_chat, token_span
from probeline.progress import progress
from probeline.schema import ACTIVATION_INDEX, REVEAL_INDEX, make_table

if TYPE_CHECKING:
    import pyarrow as pa

    from probeline.activations.engine import (
        ActivationEngine,
        HeldDecoder,
        RunningGame,
        SpannedSequence,
    )

log = logging.getLogger(__name__)

TOO_LONG = "context longer than the model's limit"
NO_TEXT = "empty text"
NO_TOKEN = "no token in the mask"

MEANS, TOKENS, REVEALS = "activations.safetensors", "tokens.safetensors", "reveals.safetensors"
SPAN_COLUMNS = ["sequence", "game", "message", "start", "end"]
# Packages that decide about the bits of a result; peft only where there is an adapter.
PACKAGES = ("torch", "transformers", "accelerate")
# After so many games that went through the model, the holes in the heap are given back.
GAMES_PER_HEAP = 32

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How activations are computed and stored. The result's bits depend on each of these.

    Attributes:
        layers: layers whose means are stored: 0 the embeddings, L the residual stream after L blocks; None
            for all.
        dtype: number type of the forward pass, `float32` or `bfloat16`.
        store_dtype: number type of what is stored, `float32` or `float16`.
        threads: processor threads.
        token_layers: layers that are stored token by token, too.
        token_budget: most tokens in one row of the model's input; a longer sequence is a row of its own.
    """

    layers: Sequence[int] | None
    dtype: str
    store_dtype: str
    threads: int
    token_layers: Sequence[int] = ()
    token_budget: int = 2048


@dataclass(frozen=True)
class Workplace:
    """Where results of earlier runs lie, and what they must agree on.

    Attributes:
        folder: the work folder; not an artifact, and safe to delete.
        name: the job's name, unique among those that share the folder.
        code: digest of the code that the engine runs.
        shared: whether other projects work there, too, whose results are left alone.
    """

    folder: Path
    name: str
    code: str
    shared: bool = False


@dataclass
class _Tally:
    """What a job has done."""

    games: int = 0
    samples: int = 0
    reveals: int = 0
    tokens: int = 0
    forwarded_games: int = 0
    forwarded_tokens: int = 0
    started: float = 0.0
    seconds: float = 0.0
    excluded: list[dict[str, str]] = field(default_factory=list)

    def speed(self) -> float:
        """Tokens of the texts per second, since the first game went into the model."""
        seconds = time.monotonic() - self.started
        return self.forwarded_tokens / seconds if self.started and seconds else 0.0

    def pace(self) -> float:
        """Games through the model per second, from which the rest is reckoned: loading it does not count."""
        seconds = time.monotonic() - self.started
        return self.forwarded_games / seconds if self.started and seconds else 0.0


@dataclass(frozen=True)
class Game:
    """A game's texts as the engine takes them.

    Attributes:
        sequences: its chats that have samples.
        index: rows of ACTIVATION_INDEX, in the order of the samples.
        order: for each of those, the number of its span in `sequences`.
        reveals: rows of REVEAL_INDEX: what tells the players of these samples their roles.
        reveal_order: for each of those, the number of its span.
        excluded: samples that cannot be measured, each with the reason.
    """

    name: str
    sequences: "list[SpannedSequence]"
    index: list[Row]
    order: list[int]
    reveals: list[Row]
    reveal_order: list[int]
    excluded: list[dict[str, str]]

    @property
    def tokens(self) -> int:
        """Tokens of its sequences, up to the last span of each: what comes after it is never run."""
        return sum(sequence.stop for sequence in self.sequences)

    @property
    def key(self) -> str:
        """Digest of all that its results depend on, apart from the settings."""
        spans = [
            [
                list(sequence.input_ids),
                *(
                    [[span.start, span.stop] for span in spans]
                    for spans in (sequence.spans, sequence.besides)
                ),
            ]
            for sequence in self.sequences
        ]
        return canonical_digest([spans, self.order, self.reveal_order])


def extract_activations(
    dialogues: Sequence[Path],
    model: Path,
    output: Path,
    settings: Settings,
    *,
    adapter: Path | None = None,
    workplace: Workplace | None = None,
    figures: Path | None = None,
    held: "HeldDecoder | None" = None,
    checkpoint: Callable[[], None] = lambda: None,
) -> None:
    """Write the mean residual stream over each sample's masked tokens, for every layer asked for.

    Game after game, each sequence is run once, however many samples it holds; a game that was computed
    before, with the same settings on the same machine, is not computed again. A sample that cannot be
    measured as it is (context longer than the model's limit, no token in the mask, …) is left out and counted
    with its reason; nothing is truncated. Beside the samples, the sentences that tell their players the roles
    are measured in the same forward pass.

    Args:
        dialogues: shards with `sequences.parquet` and `samples.parquet`, the games in the same order in both,
            and `reveals.parquet`.
        model: a model's folder, as `fetch_model` makes it.
        output: the folder to make: `activations.safetensors` with the tensor `mean` [samples, layers, width];
            where token layers are asked for, `tokens.safetensors` with the tensor `token` [masked tokens of
            all samples, token layers, width]; `index.parquet` (row i describes row i of `mean`; the tokens of
            a sample follow those of the one before), `excluded.jsonl`, `reveals.safetensors` with the tensor
            `reveal` [sentences, layers, width] and its index `reveals.parquet`, manifest.
        settings: how to compute.
        adapter: a folder with a PEFT adapter that is put on the model.
        workplace: where to look for results of earlier runs; nothing is reused without.
        figures: a file to write speed and reuse to. They are no part of the artifact, which is the same
            however it came about.
        held: the model, where it is in memory already.
        checkpoint: called after each game that went through the model; what is computed is on the disk then.

    Raises:
        ProbelineError: the model lacks a layer, the shards contradict themselves, or activations are not
            finite in the number types asked for.
    """
    facts = read_json(model / MANIFEST)
    if "parameters" not in facts:
        raise ProbelineError(
            f"{model / MANIFEST} does not say how many parameters the model has: an older version of "
            f"Probeline made it. Delete {model} to have it made again."
        )
    if adapter is not None:
        adapter_files(adapter)
        check_base(adapter, model)
    layers = _check_layers(settings.layers, model.name, facts["depth"], "activations.layers")
    token_layers: list[int] = []
    if settings.token_layers:
        token_layers = _check_layers(
            settings.token_layers, model.name, facts["depth"], "activations.token_layers"
        )
    described = {
        "model": model.name,
        "weights_sha256": facts["weights_sha256"],
        "adapter_sha256": adapter_digest(adapter),
        "parameters": facts["parameters"],
        "hidden_size": facts["hidden_size"],
        **asdict(settings),
        "layers": layers,
        "token_layers": token_layers,
    }
    config_sha256 = facts["files"]["config.json"]["sha256"]
    job = _Job(model, adapter, described, facts["max_length"], config_sha256, workplace, held, checkpoint)
    with atomic_directory(output) as draft:
        job.run(dialogues, draft)
    job.finish(output, figures)


class _Job:
    """One extraction on its way."""

    def __init__(
        self,
        model: Path,
        adapter: Path | None,
        described: dict[str, Any],
        max_length: int,
        config_sha256: str,
        workplace: Workplace | None,
        held: "HeldDecoder | None",
        checkpoint: Callable[[], None],
    ) -> None:
        self._model = model
        self._held = held
        self._checkpoint = checkpoint
        self._adapter = adapter
        self._described = described
        self._max_length = max_length
        self._device = device_name()
        self._past: PastResults | None = None
        if workplace is not None:
            packages = PACKAGES if adapter is None else (*PACKAGES, "peft")
            # How large the model is follows from its weights, which are in there.
            decisive = {name: value for name, value in described.items() if name != "parameters"}
            identity = {
                **decisive,
                "model": None,  # a name; the digest says which it is
                "device": self._device,
                "processor": processor(),
                "code": workplace.code,
                "config_sha256": config_sha256,
                "packages": {package: version(package) for package in packages},
                "environment": decisive_variables(),
            }
            self._past = PastResults(
                workplace.folder, canonical_digest(identity), workplace.name, workplace.shared
            )
        self._engine: ActivationEngine | None = None
        self._peak = 0.0
        self._tally = _Tally()
        self._lines: list[Row] = []
        self._index: list[pa.Table] = []
        self._reveals: list[pa.Table] = []
        self._files: dict[str, TensorFile] = {}

    def run(self, dialogues: Sequence[Path], draft: Path) -> None:
        """Fill the artifact's folder."""
        total = sum(_count_games(shard) for shard in dialogues)
        self._index = [make_table([], ACTIVATION_INDEX)]
        self._reveals = [make_table([], REVEAL_INDEX)]
        width, dtype = self._described["hidden_size"], self._described["store_dtype"]
        with ExitStack() as stack:
            # One file for the means, one for the tokens if they are asked for, one for what is no sample.
            shapes = {MEANS: ("mean", len(self._described["layers"]))}
            if self._described["token_layers"]:
                shapes[TOKENS] = ("token", len(self._described["token_layers"]))
            shapes[REVEALS] = ("reveal", len(self._described["layers"]))
            self._files = {
                name: stack.enter_context(TensorFile(draft / name, tensor, (count, width), dtype))
                for name, (tensor, count) in shapes.items()
            }
            games = progress(
                self._games(dialogues),
                "Extracting activations",
                total,
                "game",
                note=lambda: f"{self._tally.speed():.0f} tokens/s",
                pace=lambda: self._tally.pace(),
            )
            # On a GPU, the next game is prepared while one is on its way.
            running: deque[tuple[Game, list[bytes] | RunningGame]] = deque()
            for game in games:
                running.append((game, self._start(game)))
                if len(running) > 1:
                    self._write(*running.popleft())
            while running:
                self._write(*running.popleft())
        if self._tally.started:
            self._tally.seconds = time.monotonic() - self._tally.started
        self._describe(draft)

    def _games(self, dialogues: Sequence[Path]) -> Iterator[Game]:
        """All games with their texts as tokens."""
        tokenizer: Any = None
        for shard in dialogues:
            for samples, reveals, chats in read_games(shard):
                if tokenizer is None:
                    tokenizer = load_tokenizer(self._model)
                yield tokenise(tokenizer, samples, reveals, chats, self._max_length)

    def _start(self, game: Game) -> "list[bytes] | RunningGame":
        """What was stored of the game, or its way through the model."""
        self._tally.excluded += game.excluded
        if not game.index:
            return []
        self._tally.games += 1
        self._tally.samples += len(game.index)
        self._tally.reveals += len(game.reveals)
        self._tally.tokens += game.tokens
        found = self._past.find(game.key) if self._past else None
        if found is not None:
            return found
        if self._engine is None:
            self._engine = self._load()
            # Before the work, so that nothing can fail after it.
            self._peak = matrix_peak(self._described["dtype"], self._engine.device)
            self._tally.started = time.monotonic()
        if self._tally.forwarded_games % GAMES_PER_HEAP == GAMES_PER_HEAP - 1:
            return_freed_memory()
        self._tally.forwarded_games += 1
        self._tally.forwarded_tokens += game.tokens
        return self._engine.launch(game.sequences)

    def _load(self) -> "ActivationEngine":
        from probeline.activations.engine import ActivationEngine

        return ActivationEngine(
            self._model,
            self._described["layers"],
            self._described["dtype"],
            self._described["threads"],
            self._described["token_budget"],
            token_layers=self._described["token_layers"],
            store_dtype=self._described["store_dtype"],
            adapter=self._adapter,
            held=self._held,
        )

    def _write(self, game: Game, result: "list[bytes] | RunningGame") -> None:
        """Append a game's results to the files."""
        if not game.index:
            return
        if isinstance(result, list):
            parts = [
                np.frombuffer(part, dtype=self._described["store_dtype"]).reshape(-1, *file.row_shape)
                for part, file in zip(result, self._files.values(), strict=True)
            ]
        else:
            parts = self._ordered(game, result)
        data = [part.tobytes() for part in parts]
        budget = self._described["token_budget"]
        # Smaller rows, for want of memory, are other bits than another run would compute: not for reuse.
        whole = isinstance(result, list) or result.token_budget == budget
        if self._past and whole and not isinstance(result, list):
            self._past.keep(game.key, data)
            self._checkpoint()
        ranges = [
            (name, *file.append(part)) for (name, file), part in zip(self._files.items(), parts, strict=True)
        ]
        if whole:
            self._lines.append(line_of(game.key, ranges, data))
        self._index.append(make_table(game.index, ACTIVATION_INDEX))
        self._reveals.append(make_table(game.reveals, REVEAL_INDEX))

    def _ordered(self, game: Game, result: "RunningGame") -> list[np.ndarray]:
        """The results in the order of the samples and of the reveals, as the files take them."""
        from probeline.activations.engine import BeyondRangeError

        try:
            found = result.result()
        except BeyondRangeError as error:
            raise ProbelineError(f"Activations of the game {game.name} are {error}.") from error
        lengths = [len(span) for sequence in game.sequences for span in sequence.measured]
        ordered = found.in_order(game.order, lengths)
        tokens = [ordered.tokens] if TOKENS in self._files else []
        return [ordered.means, *tokens, found.means[game.reveal_order]]

    def _describe(self, draft: Path) -> None:
        import pyarrow as pa

        excluded = Counter(row["reason"] for row in self._tally.excluded)
        if excluded:
            log.warning(
                "%d of %d samples are excluded: %s",
                excluded.total(),
                excluded.total() + self._tally.samples,
                ", ".join(f"{count} for {reason}" for reason, count in sorted(excluded.items())),
            )
        write_parquet(draft / "index.parquet", pa.concat_tables(self._index).combine_chunks())
        write_parquet(draft / "reveals.parquet", pa.concat_tables(self._reveals).combine_chunks())
        write_json_lines(draft / "excluded.jsonl", self._tally.excluded)
        budget = self._described["token_budget"]
        write_manifest(
            draft,
            "activations",
            {
                **self._described,
                "device": self._device if self._tally.samples else None,
                "smallest_token_budget": self._engine.smallest_token_budget if self._engine else budget,
                "games": self._tally.games,
                "samples": self._tally.samples,
                "reveals": self._tally.reveals,
                "tokens": self._tally.tokens,
                "excluded": dict(excluded),
            },
        )

    def finish(self, output: Path, figures: Path | None) -> None:
        """Leave the results for later runs, and say how fast it went."""
        tally, engine = self._tally, self._engine
        if self._past:
            try:
                self._past.finish({name: output / name for name in self._files}, self._lines)
            except (OSError, ProbelineError) as error:  # the artifact is complete: only time is lost
                log.warning("What was computed cannot be kept for later runs: %s", error)
        said: dict[str, Any] = {
            "games": tally.games,
            "games_computed": tally.forwarded_games,
            "games_reused": tally.games - tally.forwarded_games,
            "samples": tally.samples,
        }
        if engine is not None:
            peak = self._peak
            said |= {
                "seconds": tally.seconds,
                "tokens": tally.forwarded_tokens,
                "tokens_per_second": tally.forwarded_tokens / tally.seconds,
                "tokens_through_the_model": engine.tokens,
                "matrix_peak_flops": peak,
                "share_of_matrix_peak": 2 * engine.linear_weights * engine.tokens / tally.seconds / peak,
                "device": engine.device_name,
                "processor": processor(),
                "threads": self._described["threads"],
            }
            log.info(
                "%d of %d games went through the model: %d tokens in %.1f s (%.0f tokens/s, %.0f %% of the "
                "matrix peak)",
                tally.forwarded_games,
                tally.games,
                tally.forwarded_tokens,
                tally.seconds,
                said["tokens_per_second"],
                100 * said["share_of_matrix_peak"],
            )
        if said["games_reused"]:
            log.info(
                "%d of %d games were computed before and are taken from there.",
                said["games_reused"],
                tally.games,
            )
        if figures is not None:
            figures.parent.mkdir(parents=True, exist_ok=True)
            write_json(figures, said)


def _check_layers(layers: Sequence[int] | None, model: str, depth: int, key: str) -> list[int]:
    if layers is None:
        return list(range(depth + 1))
    wrong = sorted(layer for layer in set(layers) if not 0 <= layer <= depth)
    if wrong or not layers:
        raise ProbelineError(
            f"The model {model} has no layer {', '.join(map(str, wrong)) or '(none given)'}. Its depth is "
            f"{depth}: {key} may hold 0 (the embeddings) to {depth}."
        )
    return sorted(set(layers))


def _count_games(shard: Path) -> int:
    games = open_parquet(shard / "samples.parquet").read(columns=["game"])["game"]
    return len(games.unique())


def read_games(shard: Path) -> Iterator[tuple[list[Row], list[Row], dict[str, list[dict[str, str]]]]]:
    """Samples, reveals and chats of one game after the other, a few games in memory at a time."""
    chats = _by_game(shard / "sequences.parquet", ["sequence", "game", "messages"])
    # Places only, one or two for each player: all of them at once.
    told: dict[str, list[Row]] = {}
    for game, reveals in _by_game(shard / "reveals.parquet", [*SPAN_COLUMNS, "actor"]):
        told.setdefault(game, []).extend(reveals)
    seen: set[str] = set()
    for game, samples in _by_game(shard / "samples.parquet", [*SPAN_COLUMNS, "sample"]):
        # Some games have chats but no samples.
        rows = next((rows for name, rows in chats if name == game), None)
        if rows is None or game in seen:
            raise ProbelineError(
                f"{shard / 'samples.parquet'} contradicts sequences.parquet: the game {game} is not where it "
                f"belongs. Delete {shard} to have it built again."
            )
        seen.add(game)
        if len({sample["sample"] for sample in samples}) < len(samples):
            raise ProbelineError(
                f"{shard / 'samples.parquet'} holds a sample of the game {game} twice. Delete {shard} to "
                "have it built again."
            )
        found = {row["sequence"]: row["messages"] for row in rows}
        for sample in samples:
            what = f"mask of sample {sample['sample']}"
            _check_span(sample, what, found.get(sample["sequence"]), shard / "samples.parquet")
        for reveal in told.get(game, []):
            what = f"sentence that tells {reveal['actor']} its role"
            _check_span(reveal, what, found.get(reveal["sequence"]), shard / "reveals.parquet")
        yield samples, told.get(game, []), found


def _by_game(path: Path, columns: list[str]) -> Iterator[tuple[str, list[Row]]]:
    with open_parquet(path) as file:
        batches = file.iter_batches(batch_size=1024, columns=columns)
        rows = (row for batch in batches for row in batch.to_pylist())
        for game, members in groupby(rows, key=itemgetter("game")):
            yield game, list(members)


def _check_span(row: Row, what: str, messages: list[dict[str, str]] | None, table: Path) -> None:
    """Raise if a span lies outside its chat: a defect of the shard, not of one log."""
    if (
        messages is None
        or not 0 <= row["message"] < len(messages)
        or not 0 <= row["start"] <= row["end"] <= len(messages[row["message"]]["content"])
    ):
        raise ProbelineError(
            f"{table} contradicts sequences.parquet: the {what} lies outside sequence {row['sequence']}. "
            f"Delete {table.parent} to have it built again."
        )


def tokenise(
    tokenizer: Any,
    samples: list[Row],
    reveals: list[Row],
    chats: Mapping[str, list[dict[str, str]]],
    max_length: int,
) -> Game:
    """Tokenise each chat of a game once, and locate in it the samples and what tells its player the role."""
    from probeline.activations.engine import SpannedSequence

    told = _by_sequence(reveals)
    sequences: list[SpannedSequence] = []
    masks: dict[str, range | str] = {}
    numbers: dict[str, int] = {}
    reveal_index: list[Row] = []
    reveal_order: list[int] = []
    for sequence, its_samples in _by_sequence(samples).items():
        its_reveals = told.get(sequence, [])
        tokens, found = _locate(tokenizer, chats[sequence], [*its_samples, *its_reveals], max_length)
        spans: list[range] = []
        besides: list[range] = []
        first = len(numbers) + len(reveal_order)
        for sample, mask in zip(its_samples, found[: len(its_samples)], strict=True):
            masks[sample["sample"]] = mask
            if isinstance(mask, range):
                numbers[sample["sample"]] = first + len(spans)
                spans.append(mask)
        if not spans:
            continue
        for reveal, place in zip(its_reveals, found[len(its_samples) :], strict=True):
            if isinstance(place, range):
                reveal_order.append(first + len(spans) + len(besides))
                reveal_index.append({"game": reveal["game"], "actor": reveal["actor"], "tokens": len(place)})
                besides.append(place)
        sequences.append(SpannedSequence(tokens, tuple(spans), tuple(besides)))
    index: list[Row] = []
    excluded = []
    for sample in samples:
        mask = masks[sample["sample"]]
        if isinstance(mask, str):
            excluded.append({"sample": sample["sample"], "reason": mask})
        else:
            row = {"sample": sample["sample"], "game": sample["game"]}
            index.append(row | {"tokens": len(mask), "position": mask[-1]})
    order = [numbers[row["sample"]] for row in index]
    return Game(samples[0]["game"], sequences, index, order, reveal_index, reveal_order, excluded)


def _by_sequence(rows: list[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["sequence"], []).append(row)
    return found


def _locate(
    tokenizer: Any, messages: list[dict[str, str]], rows: Iterable[Row], max_length: int
) -> tuple[tuple[int, ...], list[range | str]]:
    """A chat's tokens, and those of each row's span, or the reason why it cannot be measured."""
    try:
        rendered = render_chat(tokenizer, messages)
    except UnrenderableChatError as error:
        return (), [str(error) for _ in rows]
    found: list[range | str] = []
    for row in rows:
        message, start, end = row["message"], row["start"], row["end"]
        mask = token_span(rendered, message, start, end)
        if not messages[message]["content"][start:end].strip():
            found.append(NO_TEXT)
        elif mask is None:
            found.append(NO_TOKEN)
        elif mask.stop > max_length:
            found.append(TOO_LONG)
        else:
            found.append(mask)
    return rendered.input_ids, found
