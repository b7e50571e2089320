import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from probeline.lineage.code import code_closure

REPOSITORY = Path(__file__).parents[2]


def write_sources(folder: Path, helper: str) -> tuple[Path, Path]:
    """A script that imports one module of the package, which imports another inside a function."""
    sources = folder / "scripts"
    package = sources / "probeline"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").write_text("")
    (package / "unrelated.py").write_text("x = 1\n")
    (package / "middle.py").write_text(
        "def run():\n    from probeline.helper import help\n    return help()\n"
    )
    (package / "helper.py").write_text(helper)
    script = sources / "train_probe.py"
    script.write_text("from probeline.middle import run\nrun()\n")
    return script, sources


BASE = 'def help():\n    """Help."""\n    return 1\n'


def digest_of(folder: Path, helper: str) -> dict[str, str]:
    return code_closure(*write_sources(folder, helper))


def test_the_closure_follows_imports_also_inside_functions(tmp_path: Path) -> None:
    assert sorted(digest_of(tmp_path, BASE)) == [
        "scripts/probeline/__init__.py",
        "scripts/probeline/helper.py",
        "scripts/probeline/middle.py",
        "scripts/train_probe.py",
    ]


@pytest.mark.parametrize(
    "edited",
    [
        'def help():\n    """Help in other words."""\n    return 1\n',
        "# A comment.\ndef help():\n    return 1  # one\n",
        "def help():\n\n\n    return (1)\n",
        '"""A module."""\n\ndef help():\n    """Help."""\n    return 1\n    """Words below a name."""\n',
    ],
)
def test_comments_docstrings_and_formatting_cost_nothing(tmp_path: Path, edited: str) -> None:
    assert digest_of(tmp_path / "edited", edited) == digest_of(tmp_path / "base", BASE)


def test_a_change_of_code_changes_the_digest_of_its_file_alone(tmp_path: Path) -> None:
    before = digest_of(tmp_path / "base", BASE)
    after = digest_of(tmp_path / "edited", BASE.replace("return 1", "return 2"))
    assert [file for file in before if before[file] != after[file]] == ["scripts/probeline/helper.py"]


@pytest.mark.parametrize("script", sorted(path.stem for path in (REPOSITORY / "scripts").glob("*.py")))
def test_no_stage_depends_on_lineage(script: str) -> None:
    closure = code_closure(REPOSITORY / "scripts" / f"{script}.py", REPOSITORY / "scripts")
    assert len(closure) > 3
    assert not [file for file in closure if "lineage" in file]


@pytest.mark.parametrize(
    ("script", "apart"),
    [
        ("train_probe", {"cross_fit", "folds", "heatmap", "sweep", "sweep_figure", "transfer"}),
        ("sweep_probes", {"controls", "evaluate", "heatmap", "stages", "train", "transfer"}),
        ("evaluate_probe_shift", {"controls", "cross_fit", "folds", "stages", "sweep", "train", "transfer"}),
        ("evaluate_transfer", {"controls", "cross_fit", "folds", "stages", "sweep", "sweep_figure", "train"}),
        ("write_report", {"baselines", "detector", "evaluate", "methods", "solver", "token_scores", "train"}),
    ],
)
def test_an_edit_of_one_analysis_does_not_rerun_the_others(script: str, apart: set[str]) -> None:
    closure = code_closure(REPOSITORY / "scripts" / f"{script}.py", REPOSITORY / "scripts")
    probes = REPOSITORY / "scripts/probeline/probes"
    assert apart <= {path.stem for path in probes.glob("*.py")}  # a renamed module would be missed
    apart |= {"summary", "show", "page", "score", "watch", "importing", "texts"}
    assert not {Path(file).stem for file in closure if "/probes/" in file} & apart


@pytest.mark.parametrize("script", ["train_sft", "train_dpo", "train_grpo"])
def test_an_edit_of_what_the_config_or_a_run_says_trains_nothing_anew(script: str) -> None:
    closure = code_closure(REPOSITORY / "scripts" / f"{script}.py", REPOSITORY / "scripts")
    adapters = REPOSITORY / "scripts/probeline/adapters"
    apart = {"recipes", "headline", "status"}
    assert apart <= {path.stem for path in adapters.glob("*.py")}  # a renamed module would be missed
    assert not {Path(file).stem for file in closure if "/adapters/" in file} & apart


def test_styles_and_scripts_of_a_page_are_code_of_what_writes_it(tmp_path: Path) -> None:
    sources = REPOSITORY / "scripts"
    kept = {Path(file).name for file in code_closure(sources / "write_report.py", sources)}
    assert {"page.css", "page.js", "transcripts.css", "transcripts.js"} <= kept
    assert not {"view.css", "view.js", "view.py"} & kept
    script, own = write_sources(tmp_path, BASE)
    (own / "probeline/helper.css").write_text("p {}")
    before = code_closure(script, own)
    (own / "probeline/helper.css").write_text("p { color: red }")
    after = code_closure(script, own)
    assert [file for file in after if before[file] != after[file]] == ["scripts/probeline/helper.css"]


def test_stages_meet_only_through_files() -> None:
    """Arrows run one way: what builds dialogues or reads logs never imports a later stage."""
    later = {
        "ingest_werewolf": ("datasets", "models", "activations", "probes"),
        "build_dialogues": ("models", "activations", "probes"),
        "fetch_model": ("logs", "datasets", "activations", "probes"),
        "extract_activations": ("logs", "datasets", "probes"),
        "train_probe": ("logs", "datasets"),
        "sweep_probes": ("logs", "datasets", "models"),
        "evaluate_transfer": ("logs", "datasets", "models"),
        "evaluate_probe_shift": ("logs", "datasets", "models"),
        "evaluate_adapter": ("probes",),
        "score_tokens": ("logs", "datasets", "reports"),
        "write_report": ("logs", "datasets", "models", "activations", "evaluation", "bodies"),
    }
    for script, packages in later.items():
        closure = code_closure(REPOSITORY / "scripts" / f"{script}.py", REPOSITORY / "scripts")
        for package in packages:
            wrong = [file for file in closure if f"/probeline/{package}/" in file]
            assert not wrong, f"{script} imports {wrong}"


REMEMBERING = """
import sys
import ast
import json
import subprocess
import sys
from pathlib import Path
from probeline.lineage.code import code_closure, remember_code

script, file = map(Path, sys.argv[1:])
remember_code(file)
print(code_closure(script, script.parent))
"""


def test_what_is_remembered_of_the_code_goes_by_content(tmp_path: Path) -> None:
    file = tmp_path / "state/code.json"

    def told(helper: str) -> dict[str, str]:
        script, _ = write_sources(tmp_path, helper)
        words = [sys.executable, "-c", REMEMBERING, str(script), str(file)]
        return ast.literal_eval(subprocess.run(words, check=True, text=True, stdout=subprocess.PIPE).stdout)

    other = BASE.replace("return 1", "return 2")
    base = digest_of(tmp_path / "apart", BASE)
    assert told(BASE) == base
    assert told(other) == digest_of(tmp_path / "other", other) != base
    assert told(BASE) == base
    # It is what is read, where it is whole and of this version; and made anew where it is not.
    helper = base["scripts/probeline/helper.py"]
    whole = file.read_text()
    file.write_text(whole.replace(helper, "0" * 16))
    assert told(BASE)["scripts/probeline/helper.py"] == "0" * 16
    for damaged in (whole.replace(helper, "0" * 16)[:-20], whole.replace('"reader":"', '"reader":"x'), "[]"):
        file.write_text(damaged)
        assert told(BASE) == base
        assert base["scripts/probeline/helper.py"] in str(json.loads(file.read_text())["sources"])
