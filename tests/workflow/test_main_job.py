"""From raw logs to a tested probe, as a user runs it."""

import json
import re
from collections import Counter
from html import unescape
from pathlib import Path

import pytest

from probeline.lineage.graph import read_lineage
from probeline.lineage.records import read_record
from probeline.lineage.root import root_digest
from tests.workflow.conftest import TINY, Project, written

pytestmark = pytest.mark.workflow


def metrics_of(project: Project, probe: str) -> dict:
    return json.loads((project.folder / "results/probes" / probe / "metrics.json").read_text())


def test_a_plain_run_makes_what_the_config_names(simulated_run: Project) -> None:
    for probe in ("trust_lr_l2", "collusion_mms_l1_2"):
        made = {file.name for file in (simulated_run.folder / "results/probes" / probe).iterdir()}
        assert {"detector.pt", "metrics.json", "scores.parquet", "suspects.parquet", "manifest.json"} <= made


def test_a_plain_run_ends_with_the_report_on_what_it_made(simulated_run: Project) -> None:
    report = (simulated_run.folder / "results/report.html").read_text()
    for probe in ("trust_lr_l2", "collusion_mms_l1_2"):
        assert metrics_of(simulated_run, probe)["verdict"] in unescape(report)
        assert f'id="errors-{probe}"' in report
    record = read_record(simulated_run.folder / "results/report.html.lineage.json")
    assert {dependency.role for dependency in record.dependencies} == {
        *("corpora", "activations", "probes", "transcripts")
    }


def test_the_second_run_has_nothing_to_do(simulated_run: Project) -> None:
    assert "Nothing to be done" in simulated_run.run()


def test_the_report_has_captions_and_the_root_digest_and_changes_nothing(
    simulated_run: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(simulated_run.folder)
    simulated_run.run("--report", str(tmp_path / "report.html"))
    report = (tmp_path / "report.html").read_text()
    assert root_digest(read_lineage()) in report
    assert "<strong>collusion</strong> on layers" in report.replace("\\n", " ")
    assert not re.search(r"""(src|href)=["']?https?://[^"']*\.(js|css)""", report)
    for category in ("Corpora", "Dialogues", "Probes"):
        assert f'"{category}"' in report
    assert "What was read from the logs of <strong>werewolf</strong>" in report
    assert simulated_run.planned() == {}


def test_metrics_are_of_games_never_seen_beside_what_the_text_gives_away(simulated_run: Project) -> None:
    import pyarrow.parquet as pq

    metrics = metrics_of(simulated_run, "collusion_mms_l1_2")
    auroc = metrics["test"]["metrics"]["auroc"]
    assert 0 <= auroc["low"] <= auroc["value"] <= auroc["high"] <= 1
    assert {"text_masked", "text_input", "length", "shuffled"} <= metrics["test"]["baselines"].keys()
    assert metrics["verdict"]
    scores = pq.read_table(
        simulated_run.folder / "results/probes/collusion_mms_l1_2/scores.parquet"
    ).to_pylist()
    games = {split: {row["game"] for row in scores if row["split"] == split} for split in ("train", "test")}
    assert games["train"]
    assert games["test"]
    assert not games["train"] & games["test"]


def test_the_counts_of_every_stage_add_up(simulated_run: Project) -> None:
    folder = simulated_run.folder
    quality = json.loads((folder / "data/processed/werewolf/quality.json").read_text())
    assert quality["files"] == 24
    assert quality["files"] == quality["games"] + quality["duplicates"] + quality["quarantined"]
    assert quality["prompts_recovered"] == quality["statements_with_log"] > 0
    assert quality["tallies"] == quality["tallies_matched"] + quality["tallies_without_votes"]
    assert quality["tallies_matched"] > 0
    dialogues = [
        json.loads(file.read_text())
        for file in (folder / "data/processed/dialogues/collusion").glob("*/manifest.json")
    ]
    activations = [
        json.loads(file.read_text())
        for file in (folder / "results/activations/collusion").glob("*/manifest.json")
    ]
    samples = sum(manifest["counts"]["samples"] for manifest in dialogues)
    excluded = sum(sum(manifest["excluded"].values()) for manifest in activations)
    assert samples == quality["statements"]
    assert sum(manifest["samples"] for manifest in activations) + excluded == samples
    metrics = metrics_of(simulated_run, "collusion_mms_l1_2")
    used = sum(metrics[split]["num_interactions"] for split in ("train", "validation", "test"))
    assert used == samples - excluded
    assert [manifest["reveals"] for manifest in activations] == [0] * 2
    reason = metrics["stages"]["probe"]["role_reveal"]["reason"]
    assert "no sentence of the input is known to tell" in reason


def test_the_last_lines_say_what_was_made(tmp_path: Path, simulated_run: Project) -> None:
    project = simulated_run.copy(tmp_path / "project")
    lines = project.run("results/probes/collusion_lr_l3")
    summary = lines[lines.index("(100%) done") :]
    assert "results/probes/collusion_lr_l3" in summary
    metrics = metrics_of(project, "collusion_lr_l3")
    assert f"{metrics['test']['metrics']['auroc']['value']:.3f}" in summary
    assert f"{metrics['test']['baselines']['text_masked']['auroc']['value']:.3f}" in summary
    counts = (metrics["test"][f"num_{key}"] for key in ("games", "interactions", "positive", "negative"))
    assert re.search(rf"^  test +{' +'.join(map(str, counts))}$", summary, re.MULTILINE)


TRANSFERS = """\
transfers:
  both: {train: [trust, collusion], test: [trust, collusion], method: mms, layers: [1, 2]}
  halves:
    concept: collusion
    groups: {scored: ["*probe*", "*short*"], others: [simulated_baseline, "*cot*", "*large", "*no_*"]}
    method: lr
    layers: [2]
"""


def test_transfers_are_made_from_the_activations_that_are_there(
    simulated_run: Project, tmp_path: Path
) -> None:
    project = simulated_run.copy(tmp_path / "project")
    project.write("transfers.yaml", TRANSFERS)
    config = (TINY, "transfers.yaml")
    targets = [f"results/evaluation/{name}" for name in ("both", "halves")]
    assert project.planned(*targets, config=config) == {"evaluate_transfer": 2}
    lines = project.run(*targets, config=config)
    summary = lines[lines.index("(100%) done") :]
    for target in targets:
        assert target in summary
        made = {file.name for file in (project.folder / target).iterdir()}
        assert {"metrics.json", "transfer.parquet", "transfer.png", "transfer.svg", "manifest.json"} <= made
    result = json.loads((project.folder / targets[0] / "metrics.json").read_text())
    diagonal = next(cell for cell in result["cells"] if (cell["train"], cell["test"]) == ("collusion",) * 2)
    alone = metrics_of(project, "collusion_mms_l1_2")["test"]
    assert diagonal["metrics"]["auroc"] == alone["metrics"]["auroc"]
    assert project.planned(*targets, config=config) == {}
    words = project.refused("results/evaluation/bothh", config=config)
    assert "unknown transfer 'bothh'. Did you mean both?" in words


def test_a_sweep_is_made_only_when_asked_for_and_rerun_alone(tmp_path: Path, simulated_run: Project) -> None:
    assert not (simulated_run.folder / "results/sweeps").exists()
    project, sweep = simulated_run.copy(tmp_path / "project"), "results/sweeps/collusion"
    lines = project.run(sweep)
    summary = lines[lines.index("(100%) done") :]
    made = json.loads((project.folder / sweep / "sweep.json").read_text())
    assert made["layers"] == [0, 1, 2, 3, 4]
    for method in ("lr", "mms", "lat"):
        chosen = made["choice"][method]
        assert f"{method}, best at layer {chosen['layer']}" in summary
        assert f"{chosen['auroc']['value']:.3f}" in summary
    assert project.planned(sweep) == Counter()
    for key in (
        "sweeps: {methods: [lr, mms]}",
        "sweeps: {layers: [1, 2]}",
        "methods: {lr: {regularization: 9}}",
    ):
        project.write("other.yaml", key)
        assert project.planned(sweep, config=(TINY, "other.yaml")) == Counter(sweep_probes=1)
    project.write("unrelated.yaml", "{evaluation: {threshold: f1}, methods: {lr: {backend: torch}}}")
    assert project.planned(sweep, config=(TINY, "unrelated.yaml")) == Counter()
    assert project.planned("results/probes/trust_lr_l2", config=(TINY, "other.yaml")) == Counter(
        train_probe=1
    )


def test_a_probe_that_is_told_the_role_is_compared_to_one_that_is_not(
    simulated_run: Project, tmp_path: Path
) -> None:
    trust = metrics_of(simulated_run, "trust_lr_l2")
    masked = trust["role_masked"]
    assert masked["num_interactions"] == trust["test"]["num_interactions"] - masked["only_with_role"]
    assert masked["auroc"]["value"] is not None
    assert "reason" in metrics_of(simulated_run, "collusion_mms_l1_2")["role_masked"]

    project = simulated_run.copy(tmp_path / "project")
    # Without the twin nothing but the probe is made anew; its dialogues and activations are not asked for.
    project.write("off.yaml", "probes: {trust: {role_masked: false}}")
    off = (TINY, "off.yaml")
    assert project.planned("results/probes/trust_lr_l2", config=off) == Counter(train_probe=1)


def test_nothing_written_holds_a_path_of_this_machine(simulated_run: Project) -> None:
    for name, data in written(simulated_run.folder).items():
        assert str(simulated_run.folder).encode() not in data, name
        assert str(Path.home()).encode() not in data, name


def test_the_number_of_shards_changes_no_sample(simulated_run: Project, tmp_path: Path) -> None:
    """Sums over shards and every activation stay, bit for bit, however the games are dealt."""
    from probeline.activations.store import read_activations

    other = simulated_run.copy(tmp_path / "other")
    other.write("shards.yaml", "shards: 3")
    other.run("results/probes/collusion_mms_l1_2", config=(TINY, "shards.yaml"))

    def by_sample(project: Project, shards: int) -> dict[str, bytes]:
        folders = sorted((project.folder / "results/activations/collusion").glob(f"*-of-{shards}"))
        assert len(folders) == shards
        read = read_activations(folders, [0, 1, 2, 3, 4])
        return {sample: values.tobytes() for sample, values in zip(read.samples, read.values, strict=True)}

    assert by_sample(other, 3) == by_sample(simulated_run, 2)
    assert metrics_of(other, "collusion_mms_l1_2") == metrics_of(simulated_run, "collusion_mms_l1_2")
