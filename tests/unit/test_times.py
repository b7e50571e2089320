"""Where the time went, and the copy of the report that says so."""

import json
from pathlib import Path

import pytest

from probeline.cli import main
from probeline.errors import ProbelineError
from probeline.lineage.graph import read_lineage
from probeline.lineage.report_copy import with_measures
from probeline.lineage.root import root_digest
from probeline.lineage.times import read_times
from tests.unit.lineage_records import write_record

HEAD = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"
PAGE = '<p>before</p><section id="measured">\n<p>not here</p></section>\n<section id="last"></section>'


def measure(rule: str, job: str, seconds: float, memory: str = "NA", processor: str = "NA") -> None:
    """A benchmark as Snakemake writes it."""
    file = Path("benchmarks", rule, f"{job}.tsv")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{HEAD}{seconds:.4f}\t0:00:00\t{memory}\tNA\tNA\tNA\tNA\tNA\tNA\t{processor}\n")


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Snakefile").touch()


def test_times_are_summed_by_rule_and_the_slowest_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    measure("train_probe", "trust_lr_l22", 4)
    for shard, seconds in enumerate((60, 10, 30)):
        measure("extract_activations", f"trust/shard-{shard}-of-3", seconds, f"{seconds}.50", "2.5")
    Path("benchmarks/extract_activations/trust/shard-0-of-3.json").write_text("{}")  # figures of a body
    extract, train = read_times()
    assert (extract.rule, extract.jobs, extract.seconds) == ("extract_activations", 3, 100)
    assert (extract.median, extract.longest, extract.slowest) == (30, 60, "trust/shard-0-of-3")
    assert (extract.processor_seconds, extract.peak_bytes) == (7.5, 60.5 * 2**20)
    assert (train.jobs, train.peak_bytes) == (1, None)
    assert main(["times", "--json"]) == 0
    assert [rule["rule"] for rule in json.loads(capsys.readouterr().out)] == [
        "extract_activations",
        "train_probe",
    ]
    assert main(["times"]) == 0
    shown = capsys.readouterr().out
    assert "96%" in shown
    assert "1 min 44 s" in shown.splitlines()[-1]


def test_where_nothing_was_measured_that_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["times"]) == 1
    assert "No job has been measured here" in capsys.readouterr().err
    Path("benchmarks/train_probe").mkdir(parents=True)
    Path("benchmarks/train_probe/x.tsv").write_text(HEAD)
    assert main(["times"]) == 1
    assert "benchmarks/train_probe/x.tsv is no benchmark" in capsys.readouterr().err


def test_a_copy_of_the_report_has_time_cost_and_root_and_is_otherwise_the_same(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["report"]) == 1
    assert "Make it with: snakemake --cores 4 results/report.html" in capsys.readouterr().err
    write_record("data/models/tiny", "fetch_model", cost={"seconds": 75.0, "usd": 0.5})
    Path("results").mkdir()
    Path("results/report.html").write_text(PAGE)
    measure("train_probe", "<img src=x onerror=alert(1)>", 12, "100.0")
    assert main(["report"]) == 0
    copy = Path("exported/report.html").read_text()
    assert copy.startswith('<p>before</p><section id="measured">\n')
    assert copy.endswith('</section>\n<section id="last"></section>')
    assert "not here" not in copy
    for shown in (
        "12.0&nbsp;s",
        "100&nbsp;MiB",
        "&lt;img src=x",
        "fetch_model",
        "1 job, 1 min 15 s",
        ">0.50<",
    ):
        assert shown in copy
    assert root_digest(read_lineage()) in copy
    assert "<img" not in copy
    assert "style=" not in copy  # the page's policy would refuse it
    Path("benchmarks/train_probe/<img src=x onerror=alert(1)>.tsv").unlink()
    assert main(["report", "--output", "elsewhere/copy.html"]) == 0
    assert "No job ran in this folder" in Path("elsewhere/copy.html").read_text()


def test_a_report_that_was_changed_is_not_sent(capsys: pytest.CaptureFixture[str]) -> None:
    write_record("results/report.html", "write_report")
    Path("results/report.html").write_text(PAGE)
    assert main(["report"]) == 1
    assert "results/report.html is not what its record says" in capsys.readouterr().err
    assert main(["report", "--output", "./results/report.html"]) == 1
    assert "is the report itself. Name another --output" in capsys.readouterr().err
    assert Path("results/report.html").read_text() == PAGE
    assert not Path("exported").exists()
    with pytest.raises(ProbelineError, match="has no section for what was measured"):
        with_measures("<p>another page</p>", "")
