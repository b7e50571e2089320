"""`probeline generate`: answers side by side, and faults in words."""

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import yaml

from probeline.cli import main
from probeline.datasets.mafia_acts import prompt_input
from probeline.datasets.mafia_scenarios import mafia_scenarios
from probeline.models import generate as module
from probeline.models import loading
from probeline.models.adapter import base_digest, merged_name
from tests.unit.test_generate import make_adapter
from tests.unit.tiny import make_model

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a config, a tiny model in data/models, and the adapters of two recipes."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(REPOSITORY / "config", folder / "config")
    config = yaml.safe_load((folder / "config/config.yaml").read_text())
    sft = {"method": "sft", "model": "tiny", "dataset": "mafia_sft"}
    recipes = {
        "mafia_sft": sft,
        "merged": {"method": "sft", "from": "mafia_sft", "merge": True, "dataset": "mafia_sft"},
        "not_made": sft,
    }
    random = {"architecture": "llama", "layers": 2, "width": 32, "heads": 2, "vocabulary": 400}
    config["models"]["tiny"] = {"random": random | {"max_length": 2048, "seed": 0}}
    config |= {"model": "tiny", "recipes": recipes, "comparisons": {}}
    config["targets"]["probes"] = []
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config))
    model = make_model(folder / "data/models/tiny", max_length=2048)
    adapters = folder / "results/adapters"
    make_adapter(model, adapters / "mafia_sft")
    make_adapter(model, adapters / "mafia_sft/checkpoints/step-20", 2)
    merged = make_adapter(model, adapters / "merged", 3)
    digest = base_digest(model, [adapters / "mafia_sft"])
    declared = json.loads((merged / "adapter_config.json").read_text())
    declared["base_model_name_or_path"] = merged_name("tiny", ["mafia_sft"], digest)
    (merged / "adapter_config.json").write_text(json.dumps(declared))
    return folder


@pytest.fixture(autouse=True)
def inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["generate", *words]) == 1
    return capsys.readouterr().err


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert main(["generate", *words, "--max-tokens", "6", "--json"]) == 0
    rows: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return rows


def test_adapters_answer_the_same_prompts_side_by_side_after_one_load(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    loads: list[Path] = []

    class Counting(module.Generator):
        def __init__(self, model: Path, *others: Any, **named: Any) -> None:
            loads.append(model)
            super().__init__(model, *others, **named)

    monkeypatch.setattr(module, "Generator", Counting)
    output = tmp_path / "answers.jsonl"
    names = ["none", "mafia_sft", "mafia_sft@20", "results/adapters/mafia_sft"]
    rows = said(capsys, "--adapter", *names, "--prompt", "Who?", "Why?", "--output", str(output))
    assert len(loads) == 1
    assert [(row["prompt"], row["adapter"]) for row in rows] == [
        (p, a) for p in ("Who?", "Why?") for a in names
    ]
    none, sft, step, folder, *_ = [row["completion"] for row in rows]
    assert sft == folder
    assert len({none, sft, step}) == 3
    assert [json.loads(line) for line in output.read_text().splitlines()] == rows
    # What else is asked changes nothing.
    (alone,) = said(capsys, "--adapter", "mafia_sft", "--prompt", "Why?")
    assert alone["completion"] == rows[5]["completion"]
    assert main(["generate", "--adapter", "none", "--prompt", "Who?", "--max-tokens", "6"]) == 0
    assert "none" in capsys.readouterr().out


def test_an_adapter_of_a_merged_base_gets_its_base_and_no_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[weakref.ref[Any]] = []
    load = loading.load_weights

    def loads(*given: Any) -> Any:
        assert all(base() is None for base in loaded)
        loaded.append(weakref.ref(found := load(*given)))
        return found

    monkeypatch.setattr(loading, "load_weights", loads)
    rows = said(capsys, "--adapter", "merged", "none", "--prompt", "Who?")
    assert len(loaded) == 2
    assert rows[0]["completion"] != rows[1]["completion"]
    assert "mafia_sft merged into it" in refused(
        capsys, "--adapter", str(Path("results/adapters/merged").rename("elsewhere")), "--prompt", "Who?"
    )
    Path("elsewhere").rename("results/adapters/merged")


def test_the_scenarios_of_mafia_have_the_form_of_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    scenarios = mafia_scenarios()
    for one, role in zip(scenarios, ["Detective", "Mafia", "Doctor"], strict=True):
        system, user = one.prompt
        assert f"Your role: {role}" in system["content"]
        _, turn, _, *seen = user["content"].split("\n")
        shown = "\n".join(seen).partition("\n\nValid targets")[0]
        assert user["content"] == prompt_input(one.phase, int(turn.split()[1]), shown, one.targets)
        assert bool(one.targets) == (one.phase == "vote")
    rows = said(capsys, "--scenarios", "mafia", "--adapter", "none", "mafia_sft")
    assert len(rows) == 6
    assert rows[-1]["targets"] == [0, 1, 3, 4]


def test_prompts_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    messages = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    file.write_text(json.dumps({"prompt": "Who?"}) + "\n\n" + json.dumps({"messages": messages}) + "\n")
    rows = said(capsys, "--prompts", str(file))
    assert [row["messages"] for row in rows] == [messages[1:], messages]
    for line in ("[]", "no json", '{"prompt": 3}', '{"messages": [{"role": "robot", "content": "x"}]}'):
        file.write_text('{"prompt": "Who?"}\n' + line)
        assert f"{file}, line 2: expected" in refused(capsys, "--prompts", str(file))


@pytest.mark.parametrize(
    ("words", "fault"),
    [
        (["--adapter", "not_made"], "Make it with: snakemake --cores 4 results/adapters/not_made"),
        (["--adapter", "mafia_sfft"], "neither a recipe of the config nor a folder. Did you mean mafia_sft"),
        (["--adapter", "mafia_sft@²"], "neither a recipe of the config nor a folder"),
        (["--adapter", "mafia_sft@30"], "has kept no checkpoint of step 30. Allowed: 20."),
        (["--model", "smollm2-135m"], "Make it with: snakemake --cores 4 data/models/smollm2-135m"),
        (["--model", "tny"], "neither a model of the config nor a folder that holds one. Did you mean tiny"),
        (["--max-tokens", "0"], "--max-tokens is 0; give at least 1."),
        (["--temperature", "-1"], "The temperature is -1.0"),
    ],
)
def test_what_is_not_there_is_said_with_how_to_make_it(
    capsys: pytest.CaptureFixture[str], words: list[str], fault: str
) -> None:
    assert fault in refused(capsys, *words, "--prompt", "Who?")


def test_a_tree_of_what_may_follow_an_event(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = json.dumps(
        [{"event": "It ends", "probability": 0.97}, {"event": "It goes on", "probability": 0.03}]
    )

    def forecast(self: Any, chats: list[Any], **_: Any) -> list[str]:
        return [answer for _ in chats]

    monkeypatch.setattr(module.Generator, "generate", forecast)
    assert main(["generate", "--adapter", "none", "mafia_sft", "--tree", "A strike", "--depth", "2"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown.count("A strike") == 2
    assert shown.count("   97%  It ends") == 2
    rows = said(capsys, "--tree", "A strike", "--depth", "2")
    assert rows[0]["asked"] == 3
    assert rows[0]["root"]["children"][1]["event"] == "It goes on"
    assert "--depth is 0" in refused(capsys, "--tree", "A strike", "--depth", "0")
    assert "--tree is empty" in refused(capsys, "--tree", " ")
