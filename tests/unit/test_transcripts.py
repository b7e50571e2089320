"""Worst errors and timelines in a real browser: what they show, what they hide, and hostile text."""

from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, expect

from probeline import schema
from probeline.files import write_manifest, write_parquet
from probeline.reports.page import Section, page
from probeline.reports.transcripts import errors_section, script, style, timelines_section
from probeline.schema import make_table
from tests.unit.browser import HOSTILE, Visit, in_browser

MINUS = "\u2212"


def transcripts(folder: Path, text: str = "I trust you", before: str = "Ann: who is it?") -> Path:
    """A probe's worst errors: two false alarms and a miss, and a right statement between them."""
    rows: list[dict[str, Any]] = []
    tokens: list[dict[str, Any]] = []
    scores = {"alarm": (0, 3.0, 1), "worse": (0, 2.0, 3), "missed": (1, -2.0, 2), "right": (1, 2.5, None)}
    for event, (name, (label, score, place)) in enumerate(scores.items()):
        error = None if place is None else "miss" if label else "false alarm"
        rows.append(
            {"game": "g/1", "sample": name, "event": event, "turn": 1, "type": "statement", "actor": "Bob"}
            | {"actor_role": "villager", "target": None, "label": label, "score": score, "error": error}
            | {"place": place, "before": [{"role": "user", "content": before}]}
        )
        for position, word in enumerate((text, f" {name}", "")):
            tokens.append({"game": "g/1", "sample": name, "position": position, "text": word, "score": score})
    folder.mkdir(parents=True)
    write_parquet(folder / "transcripts.parquet", make_table(rows, schema.TRANSCRIPTS))
    write_parquet(folder / "tokens.parquet", make_table(tokens, schema.TOKENS))
    facts = {"threshold": 0.5, "games": ["g/1"], "tested": 40, "false_alarms": 2, "misses": 1}
    write_manifest(folder, "transcripts", facts)
    return folder


def probe(folder: Path, games: int, player: str = "Ann", role: str = "werewolf") -> Path:
    """A probe with suspects in test games, and one in a training game."""
    rows = []
    for game in range(games + 1):
        for number, actor in enumerate((player, "Bob", "Cid")):
            for act in range(3):
                score = float(number - act)
                rows.append(
                    {"game": f"run/game{game:03}", "split": "test" if game < games else "train"}
                    | {"actor": actor, "target": None, "role": role if number == 0 else "villager"}
                    | {"label": int(number == 0), "samples": 3, "mean_score": 0.0, "rank": 1, "act": act + 1}
                    | {"event": act * 4 + number, "turn": act + 1, "score": score, "running_score": score}
                    | {"reveal_score": None}
                )
    folder.mkdir(parents=True)
    write_parquet(folder / "suspects.parquet", make_table(rows, schema.SUSPECTS))
    write_manifest(folder, "probe", {"threshold": 0.25})
    return folder


def write(file: Path, *bodies: str) -> Path:
    sections = [Section(f"part{number}", "Part", body) for number, body in enumerate(bodies)]
    file.write_text(page("Words", sections, style=style(), script=script()))
    return file


def test_the_worst_errors_come_first_and_no_more_than_asked(tmp_path: Path) -> None:
    html = errors_section(transcripts(tmp_path / "t"), most=2)
    assert html.index("trust you</i>") < html.index(" missed</i>")
    assert html.count("<article") == 2
    assert " worse</i>" not in html
    assert " right</i>" not in html
    assert "false alarms and misses in turn, of 2 false alarms and 1 miss among 40 tested acts" in html
    assert '<i class=a3 title="+3.00"> alarm</i>' in html
    assert "<article" not in errors_section(tmp_path / "t", most=0)


def test_two_hundred_games_are_light_and_further_ones_are_said_to_be_missing(tmp_path: Path) -> None:
    html = timelines_section(probe(tmp_path / "p", games=210))
    assert html.count("<option") == 200
    assert "Of 210 test games the first 200 are here." in html
    assert len(html) < 100_000
    assert "game210" not in html  # a training game


@in_browser
def test_a_game_is_chosen_and_roles_come_on_demand(browser: Browser, tmp_path: Path) -> None:
    body = timelines_section(probe(tmp_path / "p", games=3))
    visit = Visit(
        browser, write(tmp_path / "page.html", body, errors_section(transcripts(tmp_path / "t"), 8))
    )
    part = visit.page.locator(".timelines")
    assert part.locator("polyline").count() == 3
    assert "werewolf" not in part.inner_text()
    assert [key.split("\n") for key in part.locator("button").all_inner_texts()] == [
        ["Cid", "+0.00"],
        ["Bob", f"{MINUS}1.00"],
        ["Ann", f"{MINUS}2.00"],
    ]
    part.get_by_role("checkbox").check()
    assert part.locator("button").last.inner_text().split("\n") == ["Ann", f"{MINUS}2.00", "werewolf"]
    part.locator("button").last.click()
    expect(part.locator("polyline.chosen")).to_have_count(1)
    part.locator("select").select_option("2")
    expect(part.locator("polyline.chosen")).to_have_count(0)
    visit.end()


@in_browser
def test_hostile_words_and_names_stay_text_on_a_phone(browser: Browser, tmp_path: Path) -> None:
    text = f"{HOSTILE}\u202egpj.exe\n"
    words = errors_section(transcripts(tmp_path / "t", text, before=text), 8)
    lines = timelines_section(probe(tmp_path / "p", 2, player=f"{HOSTILE}\u202e", role=HOSTILE))
    assert "\u202e" not in words + lines
    visit = Visit(browser, write(tmp_path / "page.html", words, lines), width=390)
    page = visit.page
    page.get_by_role("checkbox").check()
    assert page.locator("img").count() == 0
    assert page.locator(".tokens").first.inner_text().startswith(HOSTILE)
    assert page.locator(".keys button", has_text="alert(1)").count() == 1
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    visit.end()
