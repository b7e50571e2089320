"""A probe's worst games in tokens: the scores are those that it was tested with, whatever the chat."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from probeline import schema
from probeline.activations.extract import Settings, extract_activations
from probeline.errors import ProbelineError
from probeline.files import read_json, write_json, write_manifest, write_parquet
from probeline.models.fetch import fetch_model
from probeline.probes.token_scores import FALSE_ALARM, MISS, score_tokens, worst_errors
from probeline.probes.train import train_probe
from tests.unit.tiny import NOTHING_LOGGED

SAID = ("I trust the village", "the wolf lied\nto us ☂", "who is it", "a wolf spoke")
SPEC = {"games": 3, "dtype": "float32", "threads": 1, "token_budget": 2048}


def public_game(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """One chat of a whole game, whose lines are the samples; what they say tells little of their labels."""
    game, content, samples = f"game{number:02}", "Turn 1", []
    for event in range(6):
        text = SAID[(number + event * (1 + number % 2)) % 4] + "!" * ((number + event) % 3)
        start = len(content) + len("\nAnn: ")
        content += f"\nAnn: {text}"
        samples.append(
            {
                "sample": f"{game}#{event}",
                "sequence": f"{game}#public",
                "game": game,
                "content": game,
                "experiment": "",
                "split": ("train", "validation", "test")[number % 3],
                "label": (number + event) % 2,
                "type": "statement",
                "turn": 1,
                "event": event,
                "actor": "Ann",
                "actor_role": "villager",
                "target": None,
                "same_team": None,
                "message": 1,
                "start": start,
                "end": start + len(text),
                "text": text,
                **NOTHING_LOGGED,
            }
        )
    messages = [{"role": "system", "content": "A game."}, {"role": "user", "content": content}]
    return {"sequence": f"{game}#public", "game": game, "messages": messages}, samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokens")
    shape = {"architecture": "llama", "layers": 3, "heads": 2, "vocabulary": 400, "max_length": 512}
    fetch_model({"random": shape | {"width": 16, "seed": 0}}, folder / "tiny")
    for shard in range(2):
        games = [public_game(number) for number in range(30) if number % 2 == shard]
        dialogues = folder / f"dialogues/{shard}"
        samples = [sample for _, its in games for sample in its]
        write_parquet(dialogues / "samples.parquet", schema.make_table(samples, schema.SAMPLES))
        chats = [sequence for sequence, _ in games]
        write_parquet(dialogues / "sequences.parquet", schema.make_table(chats, schema.SEQUENCES))
        write_parquet(dialogues / "reveals.parquet", schema.make_table([], schema.REVEALS))
        write_manifest(dialogues, "dialogues", {})
        settings = Settings(None, "float32", "float32", 1)
        extract_activations([dialogues], folder / "tiny", folder / f"activations/{shard}", settings)
    write_json(folder / "quality.json", {"games": 30})
    return folder


def make_probe(folder: Path, method: str, layers: list[int], **settings: Any) -> Path:
    probe = folder / f"lies_{method}_l{'_'.join(map(str, layers))}"
    spec = {
        "concept": "lies",
        "method": method,
        "layers": layers,
        "model": "tiny",
        "bootstrap": 50,
    } | settings
    shards = [[folder / kind / str(shard) for shard in range(2)] for kind in ("activations", "dialogues")]
    train_probe(*shards, folder / "quality.json", probe, spec)
    return probe


def run(folder: Path, probe: Path, **spec: Any) -> Path:
    output = folder / "transcripts" / probe.name
    dialogues = [folder / "dialogues/1", folder / "dialogues/0"]
    score_tokens(probe, dialogues, folder / "tiny", output, SPEC | spec)
    return output


def of_samples(output: Path) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    tokens = pq.read_table(output / "tokens.parquet").to_pylist()
    for row in pq.read_table(output / "transcripts.parquet").to_pylist():
        yield row, [token for token in tokens if token["sample"] == row["sample"]]


@pytest.mark.parametrize(
    ("method", "layers", "settings"),
    [("lr", [2], {}), ("mms", [1, 3], {}), ("lat", [1, 2], {"ensemble": "concat"})],
)
def test_the_mean_of_the_tokens_is_the_score_that_was_tested(
    folder: Path, method: str, layers: list[int], settings: dict[str, Any]
) -> None:
    probe = make_probe(folder, method, layers, **settings)
    output = run(folder, probe)
    stored = {row["sample"]: row for row in pq.read_table(probe / "scores.parquet").to_pylist()}
    shown = list(of_samples(output))
    assert len(shown) == 6 * len(read_json(output / "manifest.json")["games"])
    for row, tokens in shown:
        assert np.mean([token["score"] for token in tokens]) == pytest.approx(row["score"], abs=1e-3)
        assert (row["score"], row["label"]) == (
            stored[row["sample"]]["score"],
            stored[row["sample"]]["label"],
        )
        assert stored[row["sample"]]["split"] == "test"


def test_of_an_mlp_the_score_of_the_mean_is_the_tested_one_and_not_the_mean_of_the_scores(
    folder: Path,
) -> None:
    from probeline.probes.detector import load_detector
    from probeline.probes.token_scores import TokenScorer, games_of

    probe = make_probe(folder, "mlp", [2])
    stored = {row["sample"]: row["score"] for row in pq.read_table(probe / "scores.parquet").to_pylist()}
    scorer = TokenScorer(load_detector(probe), folder / "tiny", "float32", 1, 2048)
    shards = [folder / "dialogues/0", folder / "dialogues/1"]
    scored = [one for game in games_of(shards, {"game02", "game05"}) for one in scorer.score_game(*game)]
    assert len(scored) == 12
    for one in scored:
        assert one.score == pytest.approx(stored[one.sample], abs=1e-3)
    assert max(abs(np.mean(one.token_scores) - one.score) for one in scored) > 1e-3


def test_the_tokens_are_the_words_and_what_was_read_before_stands_beside(folder: Path) -> None:
    output = run(folder, make_probe(folder, "lr", [2]))
    for row, tokens in of_samples(output):
        _, samples = public_game(int(row["game"].removeprefix("game")))
        sample = samples[row["event"]]
        assert "".join(token["text"] for token in tokens) == sample["text"]
        positions = [token["position"] for token in tokens]
        assert positions == list(range(positions[0], positions[0] + len(tokens)))
        said = [
            "Turn 1",
            *(line for one in samples[: row["event"]] for line in f"Ann: {one['text']}".split("\n")),
        ]
        assert [line["content"] for line in row["before"]] == said[-4:]


def test_the_games_are_those_of_the_worst_errors_and_the_same_bytes_again(folder: Path) -> None:
    probe = make_probe(folder, "lr", [2])
    output = run(folder, probe)
    facts = read_json(output / "manifest.json")
    errors = worst_errors(
        [row for row in pq.read_table(probe / "scores.parquet").to_pylist() if row["split"] == "test"],
        facts["threshold"],
    )
    worst = list(dict.fromkeys(error["game"] for error in errors))[:3]
    assert len(worst) == 3
    assert [game["game"] for game in facts["games"]] == worst
    assert facts["games"][0] == errors[0]
    places = {row["place"]: row for row, _ in of_samples(output) if row["place"]}
    assert places[1]["sample"] == errors[0]["sample"]
    first = {file.name: file.read_bytes() for file in output.iterdir()}
    assert {file.name: file.read_bytes() for file in run(folder, probe).iterdir()} == first
    none = run(folder, probe, games=0)
    assert read_json(none / "manifest.json")["games"] == []
    assert pq.read_table(none / "tokens.parquet").num_rows == 0


def row(sample: str, label: int, score: float) -> dict[str, Any]:
    return {"sample": sample, "game": sample[0], "split": "test", "label": label, "score": score}


def test_errors_come_in_turn_the_farthest_first_and_ties_by_name() -> None:
    rows = [row("b1", 0, 3.0), row("a1", 0, 3.0), row("c1", 0, 9.0), row("d1", 1, -1.0), row("e1", 1, 1.0)]
    rows += [row("f1", 0, -5.0)]
    found = [(error["sample"], error["error"]) for error in worst_errors(rows, 1.0)]
    assert found == [("c1", FALSE_ALARM), ("d1", MISS), ("a1", FALSE_ALARM), ("b1", FALSE_ALARM)]


def test_another_model_is_refused(folder: Path) -> None:
    probe = make_probe(folder, "lr", [2])
    shape = {"architecture": "llama", "layers": 3, "heads": 2, "vocabulary": 400, "max_length": 512}
    fetch_model({"random": shape | {"width": 16, "seed": 1}}, folder / "other")
    with pytest.raises(ProbelineError, match=rf"{probe.name} .* other weights .*results/probes/{probe.name}"):
        score_tokens(probe, [folder / "dialogues/0"], folder / "other", folder / "x", SPEC)
    assert not (folder / "x").exists()
