"""What tells a player its role, from the logs to the stage before the first act."""

import pyarrow.parquet as pq
import pytest

from probeline.activations.extract import Settings, extract_activations
from probeline.activations.store import read_activations, read_reveals
from probeline.datasets.dialogues import build_dialogues
from probeline.files import read_json, write_json, write_parquet
from probeline.logs.ingest import ingest_werewolf
from probeline.logs.simulate_werewolf import simulate_games, simulated_game_key
from probeline.probes.train import train_probe
from probeline.schema import REVEALS, make_table
from tests.unit import tiny
from tests.unit.test_dialogues import COLLUSION, SPLITS, TRUST, WORDING

GAMES = 24
CONCEPTS = {
    "collusion": COLLUSION | {"context": "private"},
    "public": COLLUSION,
    "trust": TRUST,
}
SPEC = {"method": "mms", "layers": [1], "model": "tiny", "bootstrap": 100}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reveals")
    simulate_games(0, range(GAMES), folder / "logs")
    games = [simulated_game_key(number) for number in range(GAMES)]
    ingest_werewolf(games, folder / "logs", {}, folder / "shard")
    write_json(folder / "quality.json", {"games": GAMES})
    tiny.make_model(folder / "tiny", layers=1, max_length=8192)
    for name, concept in CONCEPTS.items():
        for masked in (False, True):
            out = folder / "dialogues" / (f"{name}.masked" if masked else name)
            build_dialogues(folder / "shard", out, name, concept, WORDING, SPLITS, 0, role_masked=masked)
    for name in ("collusion", "collusion.masked", "public", "trust"):
        extract(folder, name)
    return folder


def extract(folder, name):
    settings = Settings([1], "float32", "float32", 1)
    extract_activations(
        [folder / "dialogues" / name], folder / "tiny", folder / "activations" / name, settings
    )


def train(folder, output, name, **changes):
    shards = [folder / "activations" / name], [folder / "dialogues" / name]
    train_probe(*shards, folder / "quality.json", output, SPEC | {"concept": name}, **changes)
    return read_json(output / "metrics.json")


def test_every_player_that_is_told_its_role_is_scored(folder, tmp_path):
    found = train(folder, tmp_path / "probe", "collusion")
    samples = pq.read_table(folder / "dialogues/collusion/samples.parquet").to_pylist()
    players = {(row["game"], row["actor"]): row for row in samples}
    tested = [row for row in players.values() if row["split"] == "test"]
    reveal = found["stages"]["probe"]["role_reveal"]
    assert (reveal["units"], reveal["positive"]) == (len(tested), sum(row["label"] for row in tested))
    assert reveal["low"] <= reveal["value"] <= reveal["high"]
    rows = pq.read_table(tmp_path / "probe" / "suspects.parquet").to_pylist()
    assert {(row["game"], row["actor"]) for row in rows if row["reveal_score"] is not None} == set(players)
    # One sentence for everybody, and one more for a werewolf with fellows.
    told = pq.read_table(folder / "dialogues/collusion/reveals.parquet").to_pylist()
    assert {row["actor"] for row in told if "fellow" in row["text"]} <= {
        actor for (_, actor), row in players.items() if row["label"]
    }
    assert len([row for row in told if row["text"].startswith("Your role: ")]) == len(players)


def test_nothing_else_changes_where_the_role_is_told(folder, tmp_path):
    """The same run over dialogues whose table of reveals is empty."""
    with_reveals = train(folder, tmp_path / "with", "collusion")
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("quality.json", "tiny"):
        (bare / name).symlink_to(folder / name)
    shard = bare / "dialogues/collusion"
    for name in ("samples", "sequences"):
        write_parquet(
            shard / f"{name}.parquet", pq.read_table(folder / f"dialogues/collusion/{name}.parquet")
        )
    write_parquet(shard / "reveals.parquet", make_table([], REVEALS))
    extract(bare, "collusion")
    without = train(bare, tmp_path / "without", "collusion")
    stage = without["stages"]["probe"].pop("role_reveal")
    assert "not measured" in stage["reason"]
    with_reveals["stages"]["probe"].pop("role_reveal")
    assert with_reveals == without
    stored = [read_activations([where / "activations/collusion"], [1]) for where in (folder, bare)]
    assert stored[0].samples == stored[1].samples
    assert stored[0].values.tobytes() == stored[1].values.tobytes()
    assert (tmp_path / "with/detector.pt").read_bytes() == (tmp_path / "without/detector.pt").read_bytes()


@pytest.mark.parametrize("name", ["public", "collusion.masked"])
def test_an_input_that_tells_no_role_says_so(folder, tmp_path, name):
    assert not read_reveals([folder / "activations" / name], [1]).players
    found = train(folder, tmp_path / "probe", name)
    assert found["stages"]["unit"] == "player"
    assert "no sentence of the input is known to tell" in found["stages"]["probe"]["role_reveal"]["reason"]


def test_a_label_of_pairs_has_no_score_at_role_reveal(folder, tmp_path):
    found = train(folder, tmp_path / "probe", "trust")
    assert found["stages"]["unit"] == "actor and target"
    assert "varies within a player" in found["stages"]["probe"]["role_reveal"]["reason"]
