"""The page of a game in a real browser: nothing is given away before it is asked for."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from probeline import cli
from probeline.errors import ProbelineError
from probeline.files import write_manifest, write_parquet
from probeline.probes.token_scores import SampleTokens
from probeline.reports.view import Played, view_page
from probeline.reports.view_command import find_game
from probeline.schema import EVENTS, GAMES, make_table
from tests.unit.browser import HOSTILE, Visit, in_browser

PROBE = {
    **{"name": "collusion_lr_l2", "concept": "collusion", "method": "lr", "layers": [2], "model": "tiny"},
    **{"threshold": 0.5, "verdict": "It beats the text."},
}
NAMES = ("Ann", "Bob", "Cid")
ROLES = ("werewolf", "seer", "villager")
ACTS: list[tuple[str, int, str | None, str | None, str | None]] = [
    ("night_vote", 1, "Ann", "Dot", "Dot"),
    ("seer_check", 1, "Bob", "Ann", "Ann"),
    ("night_kill", 1, None, "Dot", None),
    ("statement", 1, "Ann", None, "I sleep at night"),
    ("statement", 1, "Bob", None, "so do I"),
    ("callout", 1, "Bob", "Cid", "and you?"),
    ("reply", 1, "Cid", "Bob", "all night"),
    ("day_vote", 1, "Ann", "Bob", "Bob"),
    ("day_elimination", 1, None, "Bob", None),
    ("statement", 2, "Ann", None, "oh no"),
]


def events(say: str = "", names: tuple[str, ...] = NAMES) -> list[dict[str, Any]]:
    called = dict(zip(NAMES, names, strict=True))
    roles = dict(zip(NAMES, ROLES, strict=True))
    rows = []
    for number, (kind, turn, actor, target, text) in enumerate(ACTS):
        row = dict.fromkeys(name for name, _, _ in EVENTS)
        words = say + text if text is not None and kind in ("statement", "reply", "callout") else text
        row |= {"game": "run/game1", "event": number, "turn": turn, "type": kind, "valid": True}
        row |= {"actor": called.get(actor or "", actor), "target": called.get(target or "", target)}
        row |= {"target_role": roles.get(target or ""), "text": words, "source": "log"}
        row["question"] = f"{say}and you?" if kind == "reply" else None
        row["reasoning"] = f"{say}As a werewolf I hide." if number == 3 else None
        rows.append(row)
    return rows


def played(say: str = "", names: tuple[str, ...] = NAMES, **changes: Any) -> Played:
    """A game in which the wolf is found by nobody, as a probe of all that was said sees it."""
    rows, scored, suspects = events(say, names), {}, []
    for number, score in ((3, 2.0), (4, -1.0), (6, 0.7), (9, 1.0)):
        row = rows[number]
        tokens, scores = (row["text"], "!"), (score, score)
        scored[number] = SampleTokens(f"run/game1#{number}", "run/game1", score, 5, tokens, scores)
        suspects.append(
            {"game": "run/game1", "split": "test", "actor": row["actor"], "target": None}
            | {"role": ROLES[names.index(row["actor"])], "label": int(row["actor"] == names[0])}
            | {"samples": 1, "mean_score": score, "rank": 1, "act": 1, "event": number}
            | {"turn": row["turn"], "score": score, "running_score": score, "reveal_score": None}
        )
    players = [
        {"name": name, "role": role, "team": "village", "survived": True, "role_reveal_score": None}
        for name, role in zip(names, ROLES, strict=True)
    ]
    game = {"game": "run/game1", "players": players, "turns": 2, "winner": "Werewolves"}
    reveals = [{"actor": names[0], "text": f"{say}Your role: werewolf."}]
    suspects.sort(key=lambda row: (row["actor"], row["event"]))
    facts = {"split": "test", "used": True, "reveals": reveals} | changes
    return Played(game, rows, "werewolf", scored=scored, suspects=suspects, **facts)


def write(file: Path, game: Played) -> Path:
    file.write_text(view_page(game, PROBE))
    return file


def words(visit: Visit) -> str:
    """The page as it stands: all texts and attributes, but for scripts and their data."""
    page: str = visit.page.evaluate(
        """() => {
            const body = document.body.cloneNode(true);
            body.querySelectorAll("script").forEach((script) => script.remove());
            return body.outerHTML;
        }"""
    )
    return page


@in_browser
@pytest.mark.parametrize("tells", [False, True])
def test_roles_are_nowhere_before_they_are_asked_for(browser: Browser, tmp_path: Path, tells: bool) -> None:
    visit = Visit(browser, write(tmp_path / "page.html", played(tells_roles=tells)))
    page = visit.page
    hidden = (
        "werewolf ",
        "werewolf.",
        "seer",
        "villager",
        "Werewolves",
        "wants to kill",
        "looks at",
        "guards",
    )
    before, text = words(visit), page.locator("body").inner_text()
    assert not [secret for secret in hidden if secret in before]
    assert "I sleep at night</" in before
    assert "<b>Dot</b> was killed" in before
    assert page.locator("#acts i").count() == (0 if tells else 8)
    assert page.locator("#chart polyline").count() == (0 if tells else 3)
    page.get_by_role("switch", name="roles").focus()
    page.keyboard.press("Space")
    after = page.locator("body").inner_text()
    assert all(
        secret in after for secret in ("Your role: werewolf.", "As a werewolf I hide.", "How it ended")
    )
    assert "Bob was voted out and was a seer." in after
    assert page.locator("#e0").inner_text().split("\n") == ["Ann", "werewolf", "wants to kill", "Dot"]
    assert page.locator("#acts i:visible").count() == 8
    assert page.locator("#chart polyline").count() == 3
    assert page.locator("#e6 .score.wrong:visible").count() == 1  # a villager above the threshold
    page.get_by_role("switch", name="roles").uncheck()
    assert page.locator("body").inner_text() == text
    assert not [secret for secret in hidden if secret in words(visit)]
    visit.end()


@pytest.mark.parametrize(
    ("mask", "tells", "shown"),
    [("action", False, True), ("prompt_last", False, False), ("reasoning", True, False)],
)
def test_what_was_said_stands_there_whatever_was_scored(mask: str, tells: bool, shown: bool) -> None:
    scored = {3: SampleTokens("run/game1#3", "run/game1", 2.0, 5, ("I think in private",), (2.0,))}
    game = replace(played(mask=mask, tells_roles=tells), scored=scored)
    page = view_page(game, PROBE).partition('<script type="application/json"')[0]
    assert ("I think in private" in page) == shown
    assert ("I sleep at night" in page) != shown
    assert ("+2.00</span>" in page) != tells


@pytest.mark.parametrize("tells", [False, True])
def test_what_is_asked_and_voted_is_scored_like_what_is_said(tells: bool) -> None:
    scored = {
        5: SampleTokens("run/game1#5", "run/game1", 2.0, 5, ("and ", "you?"), (2.5, 1.5)),
        7: SampleTokens("run/game1#7", "run/game1", -1.0, 5, ("Bob",), (-1.0,)),
    }
    page = view_page(replace(played(tells_roles=tells), scored=scored), PROBE)
    page = page.partition('<script type="application/json"')[0]
    assert ("asks</span> <b>Cid</b><span class='score a2'>+2.00</span></h4>" in page) != tells
    assert ('<i class=a3 title="+2.50">and </i>' in page) != tells
    assert ("votes against</span> <b>Bob</b><span class='score b2'>-1.00</span></h4>" in page) != tells


@in_browser
def test_an_act_is_wrong_by_its_whole_score_and_a_resize_keeps_what_is_chosen(
    browser: Browser, tmp_path: Path
) -> None:
    game = played()
    # Shown as 0.50, as the threshold is, and yet below it.
    suspects = [row | {"score": 0.499, "running_score": -0.0001} for row in game.suspects]
    visit = Visit(browser, write(tmp_path / "page.html", replace(game, suspects=suspects)))
    page = visit.page
    page.get_by_role("switch", name="roles").check()
    wrong = page.locator("#acts .wrong").evaluate_all("all => all.map((one) => one.closest('article').id)")
    assert wrong == ["e3", "e9"]  # the wolf's
    page.locator("#acts article:visible").last.scroll_into_view_if_needed()
    expect(page.locator("#strip button").first).to_have_class(re.compile(r"^b1 "))
    page.locator("#chart .keys button").first.click()
    page.set_viewport_size({"width": 1250, "height": 700})
    expect(page.locator("#chart .chosen")).to_have_count(2)  # a line and its key
    page.set_viewport_size({"width": 800, "height": 700})  # one column: wide enough for another drawing
    expect(page.locator("#chart .chosen")).to_have_count(0)
    visit.end()


@in_browser
def test_filters_jumps_and_the_strip(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, write(tmp_path / "page.html", played()))
    page = visit.page
    shown = page.locator("#acts article:visible")
    assert shown.count() == 8  # all but what was done by night in secret
    page.locator("#player").select_option(label="Cid")
    assert shown.evaluate_all("all => all.map((one) => one.id)") == ["e5", "e6"]
    assert page.locator("#acts h3:visible").all_inner_texts() == ["TURN 1, TALK"]
    page.locator("#player").select_option(label="all")
    page.get_by_label("vote").uncheck()
    page.get_by_label("night").uncheck()
    assert shown.count() == 5
    ann = page.locator("#strip").get_by_role("button", name="Ann")
    ann.click()
    at = page.locator("#acts article.here")
    expect(at).to_have_id("e3")
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(at).to_have_id("e5")
    page.keyboard.press("k")
    expect(at).to_have_id("e4")
    page.get_by_role("button", name="→").click()
    expect(at).to_have_id("e5")
    ann.click()
    expect(at).to_have_id("e9")
    expect(ann).to_have_text("Ann +1.0")  # so far, at the end of the page
    visit.end()


@in_browser
def test_on_a_phone_a_jump_lands_below_what_stays_on_top(browser: Browser, tmp_path: Path) -> None:
    visit = Visit(browser, write(tmp_path / "page.html", played("Listen to me. " * 40)), width=390)
    page = visit.page
    page.get_by_text("running suspicion").click()
    for _ in range(3):
        page.keyboard.press("j")
    aside, act = page.locator("#game aside").bounding_box(), page.locator("#acts .here").bounding_box()
    assert aside is not None
    assert act is not None
    assert aside["y"] == 0
    assert aside["height"] <= 0.6 * 800
    assert act["y"] >= aside["height"]
    visit.end()


@in_browser
def test_hostile_words_stay_text_and_a_phone_needs_no_sideways_scroll(
    browser: Browser, tmp_path: Path
) -> None:
    names = tuple(f"{HOSTILE}{name}" for name in NAMES)
    say = f"{HOSTILE}\u202egpj.exe {'x' * 300} "
    visit = Visit(browser, write(tmp_path / "page.html", played(say, names)), width=390)
    page = visit.page
    for _ in range(2):
        page.get_by_role("switch", name="roles").click()
        assert page.locator("img").count() == 0
        assert "\u202e" not in page.content()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.locator("#e3 .text").first.inner_text().startswith(HOSTILE)
    visit.end()


def test_what_label_1_is_stands_on_top() -> None:
    page = view_page(played(), PROBE | {"label": 'actor_team == "werewolves"'})
    assert "<code>actor_team == &quot;werewolves&quot;</code>" in page
    assert "label 1</th>" not in view_page(played(), PROBE)


def test_a_training_game_is_a_loud_warning_and_pages_are_the_same_bytes() -> None:
    page = view_page(played(split="train"), PROBE)
    assert "class='split warning'><b>train</b> The probe was trained on this game" in page
    assert "split warning" not in view_page(played(), PROBE)
    assert view_page(played(split="train"), PROBE) == page


CONFIG = {"corpora": {"werewolf": {}, "mine": {}}}


@pytest.fixture
def corpora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for corpus, games in (("werewolf", ("a/game1", "a/game2", "b/game2")), ("mine", ("c/game9",))):
        rows = []
        for number, game in enumerate(games):
            row = dict.fromkeys(name for name, _, _ in GAMES) | {"game": game, "content": f"{number}" * 64}
            row |= {"experiment": "a", "winner": "", "aborted": False, "turns": 1, "has_log": False}
            row |= {"players": [], "backend": "", "probe_enabled": False, "tallies": 0}
            row |= {"tallies_matched": 0, "votes_from": "none"}
            rows.append(row)
        write_parquet(tmp_path / f"data/processed/{corpus}/games.parquet", make_table(rows, GAMES))


@pytest.mark.usefixtures("corpora")
def test_games_are_named_as_elsewhere() -> None:
    for wanted in ("a/game1", "game1", "game:a/game1", "game:00000000"):
        assert find_game(wanted, "werewolf", CONFIG) == "a/game1"
    for wanted, said in (
        ("gane1", "Did you mean"),
        ("game2", "several games.*a/game2, b/game2"),
        ("game9", "in the corpus mine, but the probe reads werewolf"),
    ):
        with pytest.raises(ProbelineError, match=said):
            find_game(wanted, "werewolf", CONFIG)


@pytest.mark.usefixtures("corpora")
def test_an_imported_probe_has_no_games_and_no_config_that_could_name_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("config").symlink_to(Path(__file__).parents[2] / "config")
    probe = Path("results/probes/theirs")
    probe.mkdir(parents=True)
    facts = {"imported": True, "method": "lr", "layers": [2], "model": "tiny", "threshold": 0.0}
    facts |= {"hidden_size": 8, "dtype": "float32", "weights_sha256": None, "adapter_sha256": None}
    write_manifest(probe, "probe", facts)
    assert cli.main(["view", "game1"]) == 1
    said = capsys.readouterr().err
    assert "theirs was imported: it belongs to no concept of the config" in said
    assert "--configfile" not in said


@pytest.mark.usefixtures("corpora")
def test_without_a_probe_those_there_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    repository = Path(__file__).parents[2]
    Path("config").symlink_to(repository / "config")
    assert cli.main(["view", "game1"]) == 1
    assert "There is no probe yet" in capsys.readouterr().err
    for name in ("trust_lr_l22", "collusion_lr_l22"):
        Path("results/probes", name).mkdir(parents=True)
        write_manifest(Path("results/probes", name), "probe", {})
    assert cli.main(["view", "game1"]) == 1
    assert (
        "There are 2 probes; name one: --probe collusion_lr_l22, or trust_lr_l22" in capsys.readouterr().err
    )
