"""`probeline view`: a game as it was played, and what a probe makes of it."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.errors import ProbelineError
from probeline.lineage.commands import add_configfile
from probeline.text import plain_text

if TYPE_CHECKING:
    from probeline.probes.token_scores import SampleTokens
    from probeline.reports.view import Played

EXAMPLES = """\
examples:
  probeline view simulated_baseline/game7                        with the only probe there is
  probeline view game7 --probe collusion_lr_l22                  the end of a name, where only one game has it
  probeline view game:3f2a9c41 --probe trust_lr_l22 --output exported/game.html
  probeline view game7 --configfile mine.yaml --probe trust_lr_l22

Games are named as `probeline audit impact game:<key>` takes them. The model is loaded here, and the game goes
through it once. Roles, acts by night and private reasoning are hidden until the page's switch shows them.
"""
PROBES = Path("results/probes")
DIALOGUES = Path("data/processed/dialogues")


def add_command(commands: Any, find_probe: Callable[[str], Path]) -> None:
    """Declare the command.

    Args:
        commands: the subparsers of `probeline`.
        find_probe: the folder of a probe, by its name or path; raises in words.
    """
    parser = commands.add_parser(
        "view",
        help="a game as it was played, coloured by a probe, as a page for the browser",
        description="Write one page with a game: what was said and done in its order, each scored statement "
        "coloured by token, and the running suspicion of each player.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("game", metavar="GAME", help="a game's key, its end, or digits of its content")
    parser.add_argument("--probe", metavar="NAME", help="a probe in results/probes (default: the only one)")
    parser.add_argument("--output", type=Path, metavar="PATH", help="default: exported/<game>.html")
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="the folder of its model (default: data/models/<name>)"
    )
    parser.add_argument(
        "--adapter", type=Path, metavar="FOLDER", help="the adapter on the model (default: the config's)"
    )
    add_configfile(parser)
    parser.set_defaults(run=lambda options: _run(options, find_probe))


def _run(options: argparse.Namespace, find_probe: Callable[[str], Path]) -> None:
    from probeline.compute.jobs import prepare_process
    from probeline.config import load_config
    from probeline.files import write_bytes
    from probeline.probes.score import read_probe

    config = load_config(options.configfile)
    probe = _only_probe() if options.probe is None else find_probe(options.probe)
    facts = read_probe(probe)
    corpus = _corpus_of(probe, facts, config)
    game = find_game(options.game, corpus, config)
    # Before torch is imported: how many threads decides about last bits.
    prepare_process(facts.get("threads", 1))
    played = play(game, corpus, probe, facts, config, options.model, options.adapter)
    from probeline.reports.view import view_page

    shown = {key: facts[key] for key in ("concept", "method", "layers", "model", "threshold")}
    verdict = (facts.get("headline") or {}).get("verdict", "")
    output = options.output or Path("exported") / f"{game.replace('/', '_')}.html"
    label = config["probes"][facts["concept"]]["label"]
    page = view_page(played, shown | {"name": probe.name, "verdict": verdict, "label": label})
    write_bytes(output, page.encode("utf-8", "backslashreplace"))
    print(
        f"{plain_text(str(output))}: {plain_text(game)} ({played.split}), {len(played.events)} events, "
        f"{len(played.scored)} of them scored by {probe.name}, {len(page) / 1000:,.0f} kB"
    )


def _only_probe() -> Path:
    """The one probe there is.

    Raises:
        ProbelineError: there is none, or there are several; names them.
    """
    there = sorted(manifest.parent for manifest in PROBES.glob("*/manifest.json"))
    if len(there) == 1:
        return there[0]
    if there:
        raise ProbelineError(
            f"There are {len(there)} probes; name one: --probe {there[0].name}, or "
            f"{', '.join(probe.name for probe in there[1:])}."
        )
    raise ProbelineError(
        "There is no probe yet. Make one, for example: snakemake --cores 4 results/probes/collusion_lr_l22"
    )


def _corpus_of(probe: Path, facts: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    concept = facts.get("concept")
    if concept is None:
        raise ProbelineError(
            f"{probe} was imported: it belongs to no concept of the config, so what it reads of a game is "
            "not known. Name a probe that was trained here, or score texts with this one: "
            f"probeline score --probe {probe.name}"
        )
    if concept not in config["probes"]:
        raise ProbelineError(
            f"{probe} is a probe for {concept}, which the config does not declare under probes: its games "
            "are not known. Name the settings that it was made with: --configfile FILE."
        )
    return str(config["probes"][concept]["corpus"])


def find_game(wanted: str, corpus: str, config: Mapping[str, Any]) -> str:
    """The key of a game of a corpus.

    Args:
        wanted: `game:` may stand before it; a key, its end, or 8 and more digits of a content digest.
        corpus: where the probe's games are.
        config: checked; its other corpora are looked at for a better answer.

    Raises:
        ProbelineError: there is none, or there are several; with the near ones.
    """
    from probeline.lineage.games import contents_like, names_like
    from probeline.lineage.graph import closest

    wanted = wanted.removeprefix("game:")
    known = _games(corpus)
    if known is None:
        raise ProbelineError(
            f"data/processed/{corpus}/games.parquet is not there: no log has been read. Make it with: "
            f"snakemake --cores 4 data/processed/{corpus}/quality.json"
        )
    contents = contents_like(wanted, known.values())
    found = names_like(wanted, known) or {game for game, content in known.items() if content in contents}
    if len(found) > 1:
        raise ProbelineError(f"{wanted} names several games. {closest(wanted, found)}")
    if found:
        return found.pop()
    for other in config["corpora"]:
        if other != corpus and names_like(wanted, _games(other) or {}):
            raise ProbelineError(
                f"The game {wanted} is in the corpus {other}, but the probe reads {corpus}. Name a probe of "
                f"{other} with --probe."
            )
    raise ProbelineError(f"The corpus {corpus} has no game {wanted}. {closest(wanted, known)}")


def _games(corpus: str) -> dict[str, str] | None:
    """Game → content, of a corpus that was read; None where it was not, or is of another kind."""
    from probeline.files import open_parquet

    path = Path("data/processed") / corpus / "games.parquet"
    if not path.is_file():
        return None
    rows = open_parquet(path).read(columns=["game", "content"]).to_pylist()
    return {row["game"]: row["content"] for row in rows}


def play(
    game: str,
    corpus: str,
    probe: Path,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    model: Path | None = None,
    adapter: Path | None = None,
) -> "Played":
    """Read a game, and score what the probe scores of it.

    Args:
        game: its key.
        corpus: where it is.
        probe: the probe's folder.
        facts: its manifest.
        config: checked.
        model: the model's folder; by default the one in data/models.
        adapter: the folder of the adapter on it; by default the config's, where the probe has one.

    Raises:
        ProbelineError: the dialogues or the model are not there, or it is another model than the probe's.
    """
    from probeline.datasets.concepts import ROLE_COLUMNS, filter_expression
    from probeline.datasets.dialogues import game_split, read_game_rows
    from probeline.files import open_parquet
    from probeline.probes.token_scores import games_of
    from probeline.reports.view import SECRET, Played

    concept = config["probes"][facts["concept"]]
    shards = sorted((DIALOGUES / facts["concept"]).glob(f"*-of-{config['shards']}"))
    if len(shards) < config["shards"]:
        raise ProbelineError(
            f"{DIALOGUES / facts['concept']} does not hold all dialogues that the probe reads. Make them "
            f"with: snakemake --cores 4 {probe}"
        )
    tables = Path("data/processed") / corpus
    row = read_game_rows(tables)[game]
    used = [one for one in open_parquet(probe / "scores.parquet").read().to_pylist() if one["game"] == game]
    scored: list[SampleTokens] = []
    suspects: list[dict[str, Any]] = []
    told: list[dict[str, str]] = []
    for samples, reveals, chats in games_of(shards, {game}):
        scored, suspects = _scored(samples, reveals, chats, probe, facts, config, model, adapter)
        told = [
            {
                "actor": reveal["actor"],
                "text": chats[reveal["sequence"]][reveal["message"]]["content"][
                    reveal["start"] : reveal["end"]
                ],
            }
            for reveal in reveals
        ]
    condition = filter_expression(facts["concept"], concept)
    chosen = condition.columns & ROLE_COLUMNS if condition else frozenset()
    return Played(
        game=row,
        events=_table(tables / "events.parquet", game),
        corpus=corpus,
        split=used[0]["split"] if used else game_split(row, config["splits"], config["seed"]),
        used=bool(used),
        scored={int(one.sample.rpartition("#")[2]): one for one in scored},
        suspects=suspects,
        reveals=told,
        tells_roles=bool(chosen)
        or bool(set(SECRET) & set(concept["events"]))
        or concept["mask"] in ("reasoning", "generation"),
        mask=concept["mask"],
    )


def _scored(
    samples: list[dict[str, Any]],
    reveals: list[dict[str, Any]],
    chats: Mapping[str, list[dict[str, str]]],
    probe: Path,
    facts: Mapping[str, Any],
    config: Mapping[str, Any],
    model: Path | None,
    adapter: Path | None,
) -> "tuple[list[SampleTokens], list[dict[str, Any]]]":
    """The tokens of a game's samples with their scores, and its rows of schema.SUSPECTS."""
    import numpy as np

    from probeline.probes.detector import load_detector
    from probeline.probes.score import check_model, model_folder, read_model
    from probeline.probes.stages import suspect_rows
    from probeline.probes.token_scores import TokenScorer

    detector, folder = load_detector(probe), model_folder(dict(facts), model)
    if adapter is None and facts["adapter_sha256"] is not None:
        adapter = _adapter_of(config)
    check_model(detector, dict(facts), folder, read_model(folder), adapter)
    scorer = TokenScorer(
        detector, folder, facts["dtype"], facts.get("threads", 1), facts.get("token_budget", 2048), adapter
    )
    scored = scorer.score_game(samples, reveals, chats)
    found = {one.sample: one.score for one in scored}
    kept = [sample for sample in samples if sample["sample"] in found]
    scores = np.array([found[sample["sample"]] for sample in kept])
    return scored, suspect_rows(kept, scores, {}) if kept else []


def _adapter_of(config: Mapping[str, Any]) -> Path | None:
    from probeline.config import adapter_of, adapter_path

    adapter = adapter_of(config)
    return None if adapter is None else adapter_path(adapter, config)


def _table(path: Path, game: str) -> list[dict[str, Any]]:
    """The rows of a game in a table, without the prompts of its events."""
    import pyarrow.compute as pc

    from probeline.datasets.dialogues import PROMPT_COLUMNS
    from probeline.files import open_parquet

    rows: list[dict[str, Any]] = []
    with open_parquet(path) as file:
        columns = [name for name in file.schema_arrow.names if name not in PROMPT_COLUMNS]
        for batch in file.iter_batches(batch_size=8192, columns=columns):
            rows += batch.filter(pc.equal(batch["game"], game)).to_pylist()
    return rows
