"""What fine-tuning does to a probe, as one target: only what is new is computed."""

import json
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.unit.tiny import make_adapter
from tests.workflow.conftest import TINY, Project

pytestmark = pytest.mark.workflow

SHIFT = "results/evaluation/probe_shift/trust_with_lora"
CONFIG = (TINY, "shift.yaml")
NEW = Counter(extract_activations=2, evaluate_probe_shift=1)


@pytest.mark.slow
def test_a_probe_shift_reads_the_dialogues_once_more_and_trains_nothing_again(
    simulated_run: Project, tmp_path: Path
) -> None:
    project = simulated_run.copy(tmp_path / "project")
    adapter = make_adapter(project.folder / "data/models/tiny", tmp_path / "lora")
    shift = {"probe": "trust_lr_l2", "adapter": str(adapter)}
    settings = {"probe_shifts": {"trust_with_lora": shift}, "targets": {"probe_shifts": ["trust_with_lora"]}}
    project.write("shift.yaml", json.dumps(settings))
    assert project.planned(SHIFT, config=CONFIG) == NEW
    said = project.run(config=CONFIG)
    told = json.loads((project.folder / SHIFT / "metrics.json").read_text())
    assert told["relative_change"]["2"] > 0
    assert told["adapter"]["known"] is False
    assert f"AUROC {told['auroc']['base']['value']:.3f} without the adapter" in " ".join(said.split())
    probe = json.loads((project.folder / "results/probes/trust_lr_l2/metrics.json").read_text())
    assert told["auroc"]["base"] == probe["test"]["metrics"]["auroc"]
    assert not project.planned(config=CONFIG)

    audit = project.command(sys.executable, "-m", "probeline.cli", "audit", "leakage", SHIFT)
    assert "raw/adapters/lora: no record says which games it was trained on" in audit.stdout
    assert str(tmp_path) not in (project.folder / f"{SHIFT}.lineage.json").read_text()

    written = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps(written | {"lora_alpha": 99}))
    assert project.planned(SHIFT, config=CONFIG) == NEW
    (adapter / "adapter_config.json").unlink()
    assert "is not a PEFT adapter: it lacks adapter_config.json" in project.refused(SHIFT, config=CONFIG)
