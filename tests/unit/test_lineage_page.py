"""The lineage page in a real browser: search, click, follow, filter; hostile names stay text."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from playwright.sync_api import Browser, expect

from probeline.cli import main
from probeline.lineage.folding import fold
from probeline.lineage.graph import read_lineage
from tests.unit.browser import HOSTILE, Visit, in_browser
from tests.unit.graph_records import write_project, write_record

SELECTED = "#picture a.selected"


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a project with more than 1,000 artifacts."""
    folder = tmp_path_factory.mktemp("thousand")
    assert write_project(folder, concepts=20, shards=16, layers=18) > 1000
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["audit", "graph", "--html", "lineage.html"]) == 0
    return folder / "lineage.html"


@in_browser
def test_search_click_and_follow(browser: Browser, thousand: Path) -> None:
    visit = Visit(browser, thousand)
    page = visit.page
    assert "1,017 artifacts, 16 games" in page.locator("#panel").inner_text()
    assert page.locator("#picture a").count() == 63  # shards and sweeps over layers are folded
    page.keyboard.press("/")
    page.keyboard.type("concept7 l5")
    assert page.locator("#results li").all_inner_texts()[0].split("\n")[0] == "results/probes/concept7_lr_l5"
    page.keyboard.press("Enter")
    visit.shows("results/probes/concept7_lr_l5")
    assert page.url.endswith("#results/probes/concept7_lr_l5")
    panel = page.locator("#panel").inner_text()
    assert re.search(r"layers\s+\[5\]", panel)
    assert re.search(r"train\s+6 games", panel)
    assert page.locator("#picture a.up").count() == 5  # sources, tables, model, dialogues, activations
    page.get_by_text("32 inputs").click()
    page.get_by_role("link", name="record").first.click()
    visit.shows("results/activations/concept7/shard-00-of-16")
    page.locator("#picture a", has_text="tiny").click()
    visit.shows("data/models/tiny")
    assert page.locator("#picture a.down").count() == 40
    page.go_back()
    visit.shows("results/activations/concept7/shard-00-of-16")
    visit.end()


@in_browser
def test_a_game_shows_what_contains_it_and_in_which_split(browser: Browser, thousand: Path) -> None:
    visit = Visit(browser, thousand)
    page = visit.page
    page.get_by_role("combobox").fill("game4")
    page.keyboard.press("Enter")
    visit.shows("baseline/game4")
    assert page.locator("#picture a.hit").count() == 61  # all but the model and the raw logs
    # Game 4 is in the validation games, in every one of the 20 probes' boxes.
    badges = page.locator("#picture a.probes .badge").all_text_contents()
    assert badges == ["validation"] * 20
    assert page.locator("#picture a.tables .badge").text_content() == "holds it"
    page.locator("#picture a.probes").first.click()
    expect(page).to_have_url(re.compile("&game=baseline/game4$"))
    assert page.locator("#filter b").inner_text() == "baseline/game4"
    page.get_by_role("link", name="concept0_lr_l0", exact=False).first.click()
    visit.shows("results/probes/concept0_lr_l0")
    assert "validation 5 games with baseline/game4" in page.locator("#panel").inner_text()
    page.get_by_role("button", name="all games").click()
    expect(page.locator("#picture a.hit")).to_have_count(0)
    visit.shows("results/probes/concept0_lr_l0")
    visit.end()


@in_browser
def test_links_into_the_page_and_the_keyboard(browser: Browser, thousand: Path) -> None:
    visit = Visit(
        browser, thousand, "#results/activations/concept3/shard-02-of-16&game=baseline/game2", width=390
    )
    page = visit.page
    visit.shows("results/activations/concept3/shard-02-of-16")
    assert page.locator("#filter b").inner_text() == "baseline/game2"
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.locator(SELECTED).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    visit.shows("results/probes/concept3_lr_l*")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    visit.shows("results/activations/concept4/shard-*-of-16")
    box = page.locator(SELECTED).bounding_box()
    assert box is not None
    assert box["x"] >= 0
    visit.end()
    lost = Visit(browser, thousand, "#results/probes/nothing")
    assert "There is no results/probes/nothing here." in lost.page.locator("#panel").inner_text()
    lost.end()


@in_browser
def test_hostile_names_stay_text(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hostile = HOSTILE.replace("/", "\u2215")
    params = {HOSTILE: [HOSTILE, "\u202egpj.exe"], "__proto__": HOSTILE, "constructor": None}
    games = {HOSTILE: {f"{HOSTILE}/game1": HOSTILE, "__proto__": None}, "train": {"constructor/game2": None}}
    write_record(tmp_path, f"results/{hostile}/one", HOSTILE, games=games, files=[f"raw/{HOSTILE}/game1"])
    write_record(tmp_path, f"results/probes/{hostile}", HOSTILE, [f"results/{hostile}/one"], games, params)
    write_record(tmp_path, "results/probes/a\u202eb\u0007", "rule")
    (tmp_path / "results/broken.lineage.json").write_text(f'{{"{hostile}": ')
    assert main(["audit", "graph", "--html", "lineage.html", "--svg", "lineage.svg"]) == 1
    ElementTree.parse(tmp_path / "lineage.svg")  # well formed
    visit = Visit(browser, tmp_path / "lineage.html")
    page = visit.page
    assert "1 record could not be used" in page.locator("#panel").inner_text()
    for box in page.locator("#picture a").all():
        box.click()
        for summary in page.locator("summary").all():
            summary.click()
    page.get_by_role("combobox").fill("script")
    page.keyboard.press("Enter")
    expect(page.locator("#panel h2")).to_contain_text("<script>alert(1)")
    page.goto((tmp_path / "lineage.html").as_uri() + "#&game=__proto__")
    visit.shows("__proto__")
    text = page.locator("#picture").inner_html()
    assert "<script" not in text
    assert "\u202e" not in page.content()
    assert page.locator("img").count() == 0
    assert visit.complaints == []
    assert all(url.startswith("file:") for url in visit.requests)


def test_the_same_records_make_the_same_page_without_a_trace_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, concepts=2, shards=3, layers=2)
    names = ["one.html", "two.html", "one.svg", "two.svg"]
    for name in names:
        assert main(["audit", "graph", "concept1_lr_l0", f"--{name[-4:].lstrip('.')}", name]) == 0
    html, again, svg, same = ((tmp_path / name).read_bytes() for name in names)
    assert (html, svg) == (again, same)
    assert str(tmp_path).encode() not in html
    assert b"concept0" not in html  # neither above nor below the target
    assert not re.search(rb"""(src|href)=["']?(https?:|//)""", html)
    ElementTree.fromstring(svg)


@in_browser
def test_a_page_for_a_target_opens_with_it(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, concepts=2, shards=3, layers=2)
    assert main(["audit", "graph", "concept1_lr_l0", "--html", "lineage.html"]) == 0
    visit = Visit(browser, tmp_path / "lineage.html")
    visit.shows("results/probes/concept1_lr_l0")
    visit.page.get_by_role("link", name="Lineage").click()
    visit.shows("Lineage")
    visit.end()


@pytest.mark.parametrize(
    ("part", "value"),
    [("params", ["code"]), ("params", {"code": ["x"]}), ("rule", {"a": "b"}), ("wildcards", None)],
)
def test_a_record_of_another_form_is_named_not_obeyed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    part: str,
    value: object,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path, "results/probes/good", "rule")
    write_record(tmp_path, "results/probes/forged", "rule", forged={part: value})
    assert main(["audit", "graph", "--html", "lineage.html"]) == 1
    assert (
        "results/probes/forged.lineage.json is left out: it is no record of Probeline"
        in capsys.readouterr().err
    )
    assert "results/probes/good" in (tmp_path / "lineage.html").read_text()


def test_folding_and_columns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, concepts=1, shards=3, layers=9)
    lineage = read_lineage()
    nodes = {node.name: node for node in fold(lineage, lineage.ancestors(lineage.records.values()))}
    assert {name: (node.column, len(node.members)) for name, node in nodes.items()} == {
        "data/raw/games": (0, 3),
        "data/processed/games/shards/shard-*-of-3": (1, 3),
        "data/models/tiny": (2, 1),
        "data/processed/dialogues/concept0/shard-*-of-3": (2, 3),
        "results/activations/concept0/shard-*-of-3": (3, 3),
        "results/probes/concept0_lr_l*": (4, 9),
    }
    assert main(["audit", "graph"]) == 0
    tree = capsys.readouterr().out
    assert tree.splitlines()[0].split() == ["results/probes/concept0_lr_l*", "9", "probes"]
    assert "data/raw/games" in tree
    assert main(["audit", "graph", "concept0_lr_l8", "--json"]) == 0
    edges = {found["path"]: found for found in json.loads(capsys.readouterr().out)["artifacts"]}
    assert len(edges) == 1 + 3 * 3 + 1  # the model, three shards of three stages, and one probe of nine
    assert edges["results/activations/concept0/shard-00-of-3"]["made_from"] == [
        "data/processed/dialogues/concept0/shard-00-of-3",
        "data/models/tiny",
    ]


def test_records_that_name_each_other_are_drawn_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_record(tmp_path, "results/probes/a", "rule")
    write_record(tmp_path, "results/sweeps/b", "rule", ["results/probes/a"])
    write_record(tmp_path, "results/probes/a", "rule", ["results/sweeps/b"])
    write_record(tmp_path, "results/probes/c", "rule")
    assert main(["audit", "graph", "results/probes/a", "--svg", "x.svg"]) == 0
    assert main(["audit", "graph"]) == 0
    tree = capsys.readouterr().out
    assert all(tree.count(name) >= 1 for name in ("results/probes/a", "results/sweeps/b", "results/probes/c"))
    assert (tmp_path / "x.svg").read_text().count("<title>") == 2


def test_a_missing_record_is_no_quiet_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_project(tmp_path, concepts=1, shards=2, layers=1)
    gone = "results/activations/concept0/shard-00-of-2"
    Path(f"{gone}.lineage.json").unlink()
    assert main(["audit", "graph", "--html", "lineage.html"]) == 1
    assert f"{gone} has no record" in capsys.readouterr().err
    assert main(["audit", "graph", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["missing"] == [gone]
    assert main(["audit", "export", "--ro-crate", "crate"]) == 1
    assert f"{gone} has no record. Nothing was exported" in capsys.readouterr().err
    assert not Path("crate").exists()
    assert f'"missing":["{gone}"]' in Path("lineage.html").read_text()


def test_an_export_tells_programs_what_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text("rule all:\n    input: []\n")
    write_record(tmp_path, "data/models/tiny", "fetch_model")
    write_record(tmp_path, "results/probes/a", "train_probe", ["data/models/tiny"])
    assert main(["audit", "export", "--ro-crate", "crate", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "crate": "crate",
        "with_data": False,
        "artifacts": ["data/models/tiny", "results/probes/a"],
    }


def test_a_terminal_without_the_letters_gets_numbers(tmp_path: Path) -> None:
    write_record(tmp_path, "results/probes/caf\u00e9", "rule")

    def ask(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "probeline.cli", "audit", "graph", *words],
            cwd=tmp_path,
            env=os.environ | {"PYTHONIOENCODING": "ascii"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "results/probes/caf\\xe9" in ask()
    assert json.loads(ask("--json"))["artifacts"][0]["path"] == "results/probes/caf\u00e9"


@in_browser
def test_games_are_told_apart_by_content_not_by_name(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one, other = "1" * 32, "2" * 32
    write_record(tmp_path, "results/probes/a", "rule", games={"train": {"run/game0": one}})
    write_record(tmp_path, "results/probes/b", "rule", games={"test": {"renamed/game9": one}})
    write_record(tmp_path, "results/sweeps/c", "rule", games={"test": {f"run/game0#{other}": other}})
    assert main(["audit", "graph", "--html", "lineage.html"]) == 0
    visit = Visit(browser, tmp_path / "lineage.html", "#&game=renamed/game9")
    page = visit.page
    assert page.locator("#picture a.hit").count() == 2
    text = page.locator("#panel").inner_text()
    assert "in 2 artifacts" in text
    assert "The same content under another name: run/game0" in text
    page.get_by_role("combobox").fill(other[:8])
    page.keyboard.press("Enter")
    expect(page.locator("#panel h2")).to_have_text("run/game0")
    assert page.locator("#picture a.hit.sweeps").count() == 1
    assert page.locator("#picture a.hit").count() == 1
    visit.end()
    several = Visit(browser, tmp_path / "lineage.html", "#&game=run/game0")
    assert "2 games are called run/game0" in several.page.locator("#panel").inner_text()
    several.end()
