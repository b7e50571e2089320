"""The report: what its sections say of made results, and the page itself in a real browser."""

import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from playwright.sync_api import Browser, expect

from probeline.config import check_config
from probeline.errors import ProbelineError
from probeline.evaluation import estimates
from probeline.files import read_json, write_json
from probeline.probes.metrics import bootstrap_games
from probeline.reports.adapters import caution_of, grid_article, training_article
from probeline.reports.corpora import corpora_body, read_corpus
from probeline.reports.curves import GRID, Bin, reliability, roc
from probeline.reports.estimates import three_digits
from probeline.reports.page import Section, anchor, page, table
from probeline.reports.pictures import intervals, lines
from probeline.reports.probes import bins_caption, read_probe, summary_table, verdict_kind
from probeline.reports.write import report, write_report
from tests.unit.browser import HOSTILE, Visit, in_browser
from tests.unit.report_project import (
    SPEC,
    estimate,
    folders_of,
    write_activations,
    write_adapter,
    write_corpus,
    write_evaluation,
    write_grid,
    write_probe,
    write_shift,
    write_sweep,
    write_transfer,
)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_corpus(tmp_path, 24, ["the file is not UTF-8"])
    write_probe(tmp_path, 24)
    write_adapter(tmp_path)
    return tmp_path


def words(html: str) -> str:
    """What a reader sees."""
    return " ".join(unescape(re.sub(r"<(script|style).*?</\1>|<[^>]*>", " ", html, flags=re.S)).split())


def scored(seed: int, lead: float) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, 200)
    games = np.repeat(np.arange(20), 10).astype(str)
    return games, labels.astype(float), np.round(rng.normal(lead * labels), 1)


def test_the_roc_is_the_one_of_scikit_learn_inside_its_band() -> None:
    from sklearn.metrics import roc_auc_score, roc_curve

    games, labels, scores = scored(0, 1.0)
    curve = roc(bootstrap_games(games, labels, 200, 0), labels, scores)
    false, true, _ = roc_curve(labels, scores)
    assert np.allclose(np.interp(GRID[1:], false, true), np.interp(GRID[1:], curve.false, curve.true))
    area = float(np.trapezoid(curve.true, curve.false))
    assert area == pytest.approx(roc_auc_score(labels, scores))
    inner = slice(1, -1)
    own = np.interp(GRID, curve.false, curve.true)
    assert (curve.low[inner] <= own[inner] + 1e-9).all()
    assert (own[inner] <= curve.high[inner] + 1e-9).mean() > 0.95
    assert (curve.high - curve.low)[inner].mean() > 0.05


def test_one_game_has_a_curve_and_no_band() -> None:
    labels, scores = np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.1, 0.9, 0.4, 0.3])
    curve = roc(bootstrap_games(np.array(["g"] * 4), labels, 50, 0), labels, scores)
    assert len(curve.low) == 0
    assert (curve.false[-1], curve.true[-1]) == (1, 1)


def test_reliability_counts_every_sample_once() -> None:
    games, labels, scores = scored(1, 2.0)
    probabilities = 1 / (1 + np.exp(-scores))
    bins = reliability(bootstrap_games(games, labels, 100, 0), labels, probabilities)
    assert sum(one.count for one in bins) == len(labels)
    assert sum(one.count * one.share for one in bins) == pytest.approx(labels.sum())
    assert sum(one.count * one.mean for one in bins) == pytest.approx(probabilities.sum())
    assert all(one.low <= one.share <= one.high for one in bins if one.count > 20)


def test_a_bin_of_one_label_has_no_interval_that_could_miss_the_diagonal() -> None:
    games, labels = np.repeat(["a", "b", "c"], 4), np.array([0, 1, 0, 0] * 3, dtype=float)
    probabilities = np.tile([0.15, 0.55, 0.15, 0.55], 3)
    low, high = reliability(bootstrap_games(games, labels, 50, 0), labels, probabilities)
    assert (low.share, np.isnan(low.low), np.isnan(low.high)) == (0, True, True)
    assert high.low <= high.share <= high.high


def test_a_bin_of_one_game_has_no_interval_and_one_of_one_label_is_said_to_have_none() -> None:
    games = np.array(["a"] * 6 + ["b"] * 6 + ["c"] * 6)
    labels = np.array([0, 1] * 3 + [0] * 6 + [0, 0, 1, 1, 1, 1], dtype=float)
    probabilities = np.array([0.15] * 6 + [0.35] * 6 + [0.75] * 6)
    bins = reliability(bootstrap_games(games, labels, 50, 0), labels, probabilities)
    assert [np.isnan(one.low) for one in bins] == [True, True, True]
    test = {"metrics": {"ece": estimate(0.2)}}
    said = bins_caption(test, bins)
    assert "no bin has 5 samples of both labels and several games, so it cannot be judged; 1 bin of" in said
    one = Bin(0.55, 9, 0.55, 0.5, 0.4, 0.6)
    assert "the interval of the bin that has one holds it; the ECE" in bins_caption(test, [one])


def test_a_figure_has_no_style_no_name_and_no_colour_of_its_own_and_the_same_bytes_again() -> None:
    rows = {"the $x$ <b>probe</b>": estimate(0.7), "text": {"value": 0.5, "low": None, "high": None}}
    drawn = intervals('a "title"', rows, "AUROC", chance=0.5)
    assert drawn == intervals('a "title"', rows, "AUROC", chance=0.5)
    assert not re.search(r"(style|id|clip-path|href)=|#[0-9a-f]{6}|<b>", drawn)
    assert "the $x$ &lt;b&gt;probe&lt;/b&gt;" in drawn
    assert 'fill="var(--' in drawn
    series = [
        {"name": "lr", "x": [0, 1], "y": [0.5, 0.6], "low": [0.4, 0.5], "high": [0.6, 0.7], "colour": "one"}
    ]
    assert len(lines("layers", series, "layer", "AUROC")) < 12_000


def test_a_corpus_says_why_files_are_left_out_and_whether_its_counts_add_up(tmp_path: Path) -> None:
    reasons = ["not UTF-8", "not UTF-8", "<script>alert(1)</script>\u202e"]
    body = words(corpora_body([read_corpus(write_corpus(tmp_path / "a", 20, reasons), True)]))
    assert "23 = 20 + 0 + 3 + 0" in body
    assert "2 not UTF-8 bad/game1" in body
    assert "<script>alert(1)</script><U+202E>" in body
    lost = words(corpora_body([read_corpus(write_corpus(tmp_path / "b", 20, reasons, lost=1), True)]))
    assert "24 is not 20 + 0 + 3 + 0" in lost


def test_a_probe_stands_beside_its_baselines_with_its_verdict_and_counts(project: Path) -> None:
    html = report(SPEC, folders_of(project))
    said = words(html)
    metrics = read_json(project / "results/probes/trust_lr_l2/metrics.json")
    auroc = metrics["test"]["metrics"]["auroc"]
    assert metrics["verdict"] in said
    assert f"{auroc['value']:.3f} ({auroc['low']:.3f} to {auroc['high']:.3f})" in said
    # With its figures, and again with its games over time.
    assert said.count("Label 1: same_team") == 2
    assert "test 12 144 72 72" in said
    assert "2 too long" in said
    assert 'href="../results/probes/trust_lr_l2/scores.parquet"' in html
    assert html.count("<figure>") == html.count("<figcaption>") == html.count("Data: ") - 1  # the corpus


@pytest.mark.parametrize(
    ("auroc", "masked", "whole", "kind"),
    [
        ((0.8, 0.1), (0.2, 0.1), (0.2, 0.1), "good"),
        ((0.8, 0.1), (0.05, 0.1), (0.2, 0.1), "open"),
        ((0.55, 0.1), (0.2, 0.1), (0.2, 0.1), "bad"),
        ((0.8, 0.1), (0.2, 0.1), (-0.2, 0.1), "bad"),
    ],
)
def test_only_a_probe_that_beats_both_texts_is_marked_good(
    tmp_path: Path,
    auroc: tuple[float, float],
    masked: tuple[float, float],
    whole: tuple[float, float],
    kind: str,
) -> None:
    folder = write_probe(tmp_path, 24)
    metrics = read_json(folder / "metrics.json")
    test = metrics["test"]
    test["metrics"]["auroc"] = estimate(*auroc)
    test["baselines"]["text_masked"]["difference"] = estimate(*masked)
    test["baselines"]["text_input"]["difference"] = estimate(*whole)
    test["difference_to_text"] = {"baseline": "text_input", **estimate(*whole)}
    write_json(folder / "metrics.json", metrics)
    assert verdict_kind(read_probe(folder)) == kind


def test_without_a_verdict_the_table_says_why(tmp_path: Path) -> None:
    folder = write_probe(tmp_path, 24)
    metrics = read_json(folder / "metrics.json")
    metrics["test"]["num_games"] = 3
    metrics["verdict"] = "No verdict: 3 test games with 2 positives and 9 negatives are too few. AUROC 0.781."
    write_json(folder / "metrics.json", metrics)
    html = summary_table([read_probe(folder)])
    assert ">No verdict: 3 test games with 2 positives and 9 negatives are too few<" in html
    assert 'class="mark none"' in html
    assert 'class="estimate none"' in html


def test_what_is_beside_probes_is_told_in_words_and_numbers(project: Path) -> None:
    folders = folders_of(project) | {
        "sweeps": [write_sweep(project)],
        "transfers": [write_transfer(project)],
        "shifts": [write_shift(project)],
        "evaluations": [write_evaluation(project, "adapters", "mafia_sft")],
        "comparisons": [write_evaluation(project)],
        "grids": [write_grid(project)],
    }
    folders = {
        name: [folder.relative_to(project) if folder.is_absolute() else folder for folder in found]
        for name, found in folders.items()
    }
    said = words(report(SPEC, folders))
    assert (
        "1 probe, 1 sweep, 1 transfer, 1 probe shift, 1 adapter and 3 evaluations, on werewolf "
        "(24 simulated games). Probes read activations of the model tiny. Every figure" in said
    )
    assert "the best of all, lr on layer 1 with 0.900 (0.800 to 1.000), is above the better text" in said
    assert "1 of 1 transfers off the diagonal lie above chance" in said
    assert "in 1 of 1 transfers the probe carries over more than words do" in said
    assert "0.75 0.65 to 0.85" in said
    assert "one game only" in said
    assert "With the adapter the probe's AUROC is lower: -0.200 (-0.300 to -0.100)" in said
    assert (
        "Told apart: tuned better than base in loss of held-out acts (caution: 9 groups); tuned higher than "
        "base in words of a statement (caution: 9 groups), of 3 comparisons." in said
    )
    assert "+1234 (+1234 to +1234)" in said
    assert "The best point first, by held-out loss (lower is better)" in said
    assert "rates@0.1 0.1 2 (1.9 to 2.1)" in said
    assert "On held-out validation data: better. Loss from 3 (2.9 to 3.1) to 2.5 (2.4 to 2.6)" in said
    assert (
        "Held-out loss changed by -0.5 (-0.6 to -0.4), on the same examples: the interval excludes 0." in said
    )


def test_targets_that_name_nothing_are_said_to(project: Path) -> None:
    said = words(report(SPEC, {name: [] for name in folders_of(project)}))
    assert "The targets name nothing: there is nothing to report on." in said


def test_few_games_are_no_ground_for_a_conclusion_wherever_an_interval_is_told(project: Path) -> None:
    write_probe(project, 4, "trust_few_l2")
    shift = write_shift(project)
    summary = project / "results/adapters/mafia_sft/training_summary.json"
    for file, place in ((shift / "metrics.json", []), (summary, ["held_out", "loss"])):
        found = part = read_json(file)
        for key in place:
            part = part[key]
        part |= {"num_games": 4, "games": 4}
        write_json(file, found)
    few = "So few games are no ground for a conclusion."
    said = words(report(SPEC, folders_of(project) | {"shifts": [shift]}))
    assert "No verdict: 2 test games" in said
    assert f"label 0 by 0.20 (+0.10 to +0.30) deviations. {few}".replace(" 0.20", " +0.20") in said
    assert f"the interval excludes 0. {few}" in said


def test_without_held_out_examples_nothing_is_said_to_be_measured(project: Path) -> None:
    file = project / "results/adapters/mafia_sft/training_summary.json"
    summary = read_json(file)
    none = {"value": None, "low": None, "high": None}
    summary["held_out"] |= {"verdict": "undecided"}
    summary["held_out"]["loss"] = {"before": none, "after": none, "difference": none} | {
        "examples": 0,
        "games": 0,
    }
    write_json(file, summary)
    said = words(report(SPEC, folders_of(project)))
    assert "Nothing was held out, so nothing was measured." in said
    assert "Held-out figures" not in said


def test_the_points_of_a_grid_that_began_apart_are_said_to_be_sorted_by_their_change(tmp_path: Path) -> None:
    said = words(grid_article(write_grid(tmp_path, alike=False)))
    assert "The best point first, by the change of held-out loss (lower is better)" in said
    assert "sorted by the difference that the training made, and what is after it cannot be compared" in said


def test_numbers_and_cautions_are_those_of_the_reports_of_evaluations() -> None:
    for value in (0.0, 1e-5, 0.1234, -0.05, 999.4, 999.5, 1234.4, -12345.6):
        assert three_digits(value) == estimates.three_digits(value)
        assert three_digits(value, "+") == estimates.three_digits(value, "+")
    for groups in range(12):
        assert caution_of({"groups": groups}) == estimates.caution_of({"groups": groups})


def test_a_long_curve_ends_with_its_last_step(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, steps=998)
    log = folder / "training_log.jsonl"
    log.write_text(f'{log.read_text()}{{"step": 999, "loss": 1000}}\n')
    html = training_article(folder)
    assert "one of 3 steps" in html
    assert ">1000</text>" in html  # its tick, far above all others


def test_all_that_was_computed_for_the_targets_is_counted_and_in_the_digest(project: Path) -> None:
    shards = [write_activations(project, name) for name in ("trust", "trust.on.mafia_sft")]
    behind = [project / "results/adapters/mafia_sft", write_adapter(project, "mafia_dpo", 7)]
    folders = {name: [] for name in folders_of(project)} | {
        "comparisons": [write_evaluation(project)],
        "activations": shards,
        "trained": behind,
    }
    folders = {name: [folder.relative_to(project) for folder in found] for name, found in folders.items()}
    html = report(SPEC, folders)
    work = words(html.partition('<section id="work">')[2].partition("</section>")[0])
    assert "trust tiny 2 9 1,000 3 1 trust.on.mafia_sft tiny 2 9 1,000 3 1" in work
    assert "mafia_sft sft 3 12 1,000 mafia_dpo sft 7 28 1,000" in work
    assert "Probes read activations" not in words(html)
    assert "results/adapters/mafia_dpo/training_summary.json" in html
    assert 'id="adapter-mafia_dpo"' not in html


def test_equal_inputs_give_equal_bytes_and_the_digest_is_that_of_sha256sum(project: Path) -> None:
    folders = folders_of(project)
    manifests = {name: [folder / "manifest.json" for folder in found] for name, found in folders.items()}
    for name in ("one.html", "two.html"):
        write_report(SPEC, manifests, Path(name))
    assert Path("one.html").read_bytes() == Path("two.html").read_bytes()
    html = Path("one.html").read_text()
    listed = re.findall(r"^(?:<pre><code>)?([0-9a-f]{64})  (\S+)$", html, re.MULTILINE)
    assert len(listed) >= 9
    assert [hashlib.sha256(Path(path).read_bytes()).hexdigest() for _, path in listed] == [
        sha for sha, _ in listed
    ]
    text = "".join(f"{sha}  {path}\n" for sha, path in listed)
    assert hashlib.sha256(text.encode()).hexdigest() in html


def test_names_make_addresses_that_end_no_attribute() -> None:
    assert anchor('a" onload="x') == "a--onload--x"


@pytest.fixture(scope="module")
def many_games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on 200 games, two of three probes of hostile content."""
    folder = tmp_path_factory.mktemp("many")
    hostile = f"run/{HOSTILE}"
    write_corpus(folder, 200, [HOSTILE, "\u202eturned"])
    write_probe(folder, 200, "trust_lr_l2")
    write_probe(folder, 40, "trust_mms_l2", hostile)
    write_probe(folder, 40, "collusion_lr_l2")
    write_adapter(folder, "mafia_sft", steps=300)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        html = report(SPEC, folders_of(folder))
    file = folder / "results/report.html"
    file.write_text(html)
    return file


@in_browser
def test_two_hundred_games_weigh_little_and_ask_nobody(browser: Browser, many_games: Path) -> None:
    assert many_games.stat().st_size < 5_000_000
    visit = Visit(browser, many_games)
    assert visit.page.locator("figure").count() > 15
    visit.page.locator("nav a", has_text="trust_mms_l2").first.click()
    expect(visit.page).to_have_url(re.compile("#probe-trust_mms_l2$"))
    visit.end()


@in_browser
def test_colours_follow_the_switch_and_stay_when_the_page_is_loaded_anew(
    browser: Browser, many_games: Path
) -> None:
    visit = Visit(browser, many_games)
    ground = "getComputedStyle(document.body).backgroundColor"
    line = "getComputedStyle(document.querySelector('figure path[stroke]')).stroke"
    light = visit.page.evaluate(ground), visit.page.evaluate(line)
    visit.page.get_by_text("dark", exact=True).click()
    dark = visit.page.evaluate(ground), visit.page.evaluate(line)
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    visit.page.reload()
    assert visit.page.evaluate(ground) == dark[0]
    visit.page.get_by_text("light", exact=True).click()
    assert visit.page.evaluate(ground) == light[0]
    assert visit.complaints == []
    visit.page.close()


@in_browser
def test_probes_are_filtered_and_tables_sorted(browser: Browser, many_games: Path) -> None:
    visit = Visit(browser, many_games)
    probes = visit.page.locator("article.probe:visible h3")
    visit.page.get_by_role("searchbox").fill("trust mms")
    expect(probes).to_have_text(["trust_mms_l2"])
    visit.page.get_by_role("searchbox").fill("")
    expect(probes).to_have_count(3)
    first = visit.page.locator(".lead tbody tr td:first-child")
    assert first.all_inner_texts() == ["collusion_lr_l2", "trust_lr_l2", "trust_mms_l2"]
    visit.page.get_by_role("button", name="probe", exact=True).click()
    visit.page.get_by_role("button", name="probe", exact=True).click()
    assert first.all_inner_texts() == ["trust_mms_l2", "trust_lr_l2", "collusion_lr_l2"]
    visit.end()


@in_browser
@pytest.mark.parametrize("width", [390, 1280])
def test_no_window_scrolls_sideways_and_hostile_text_stays_text(
    browser: Browser, many_games: Path, width: int
) -> None:
    visit = Visit(browser, many_games, width=width)
    visit.page.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true })")
    assert visit.page.evaluate("document.documentElement.scrollWidth") <= width
    assert visit.page.locator("main img, main script:not([type])").count() == 0
    shown = visit.page.locator("#corpora").inner_text()
    assert "<img" in shown
    assert "\u202e" not in shown
    visit.end()


def test_an_unknown_adapter_to_report_is_refused_with_its_near_misses() -> None:
    folder = Path(__file__).parents[2] / "config"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["targets"]["adapters"] = ["mafia_dpo", "mafia_sfd"]
    with pytest.raises(ProbelineError, match=r"targets.adapters: unknown adapter 'mafia_sfd'.*mafia_sft"):
        check_config(config, folder / "schemas/config.schema.yaml")


@in_browser
@pytest.mark.parametrize(
    ("cells", "order"),
    [
        (
            ["1,000", "9", "-", "\u22120.05", "0.8", "0.791 (0.7 to 0.9)", "-1e-05"],
            ["\u22120.05", "-1e-05", "0.791 (0.7 to 0.9)", "0.8", "9", "1,000", "-"],
        ),
        (["2.1 (1 to 3)", "+2.05", "none (no games)", "50% b"], ["+2.05", "2.1 (1 to 3)", "50% b"]),
        (["game10", "game9", "7b-model", "7"], ["7", "7b-model", "game9", "game10"]),
    ],
)
def test_a_click_sorts_numbers_as_numbers_and_names_as_names(
    browser: Browser, tmp_path: Path, cells: list[str], order: list[str]
) -> None:
    file = tmp_path / "page.html"
    file.write_text(page("T", [Section("a", "A", table(["n"], [[cell] for cell in cells]))]))
    visit = Visit(browser, file)
    shown = visit.page.locator("tbody td")
    visit.page.get_by_role("button", name="n").click()
    last = [cell for cell in cells if cell not in order]
    assert shown.all_inner_texts() == order + last
    visit.page.get_by_role("button", name="n").click()
    without = [cell for cell in (*order, *last) if cell == "-" or cell.startswith("none")]
    assert shown.all_inner_texts() == [cell for cell in reversed(order) if cell not in without] + without
    visit.end()


@in_browser
def test_the_table_of_contents_opens_where_there_is_room(browser: Browser, many_games: Path) -> None:
    visit = Visit(browser, many_games, width=390)
    first = visit.page.locator("nav a").first
    expect(first).to_be_hidden()
    visit.page.set_viewport_size({"width": 1280, "height": 800})
    expect(first).to_be_visible()
    visit.page.set_viewport_size({"width": 390, "height": 800})
    expect(first).to_be_hidden()
    visit.end()
