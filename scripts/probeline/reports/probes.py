"""The probes: what each is worth on games that it never saw, and the figures behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from probeline.files import MANIFEST, open_parquet, read_json
from probeline.reports.estimates import TOO_FEW, layers_told, many, side_of, told
from probeline.reports.page import anchor, facts, figure, figures, folded, link, table
from probeline.reports.pictures import HEIGHT, SENTINELS, intervals, svg
from probeline.visible import safe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from probeline.reports.curves import Bin, Curve

SPLITS = ("train", "validation", "test")
TEXTS = {"text_masked": "text, masked words", "text_input": "text, whole input"}
SHORT_TEXTS = {"text_masked": "masked words", "text_input": "whole input"}
RIVALS = {**TEXTS, "length": "length alone", "shuffled": "shuffled labels"}
METRICS = {
    "auroc": "AUROC",
    "auprc": "AUPRC",
    "recall_at_1_percent_fpr": "recall at 1 % false positives",
    "f1": "F1",
    "accuracy": "accuracy",
    "brier": "Brier score",
    "ece": "calibration error (ECE)",
}
RUNNING = "after {} act{}"
FEWEST_IN_BIN = 5


@dataclass(frozen=True)
class Probe:
    """A probe with what its evaluation has found.

    Attributes:
        name: of its folder.
        folder: that holds it.
        manifest: settings and provenance.
        metrics: of metrics.json.
        scores: columns of schema.SCORES, as lists.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    scores: Mapping[str, list[Any]]

    @property
    def key(self) -> str:
        """Its address in the page."""
        return f"probe-{anchor(self.name)}"

    @property
    def test(self) -> Mapping[str, Any]:
        """What was found on the test games."""
        found: Mapping[str, Any] = self.metrics["test"]
        return found

    @property
    def what(self) -> str:
        """Method, layers and model in words."""
        facts = self.manifest
        return f"{facts['method']}, {layers_told(facts['layers'])} of {facts['model']}"


def read_probe(folder: Path) -> Probe:
    """The probe in a folder."""
    manifest, metrics = read_json(folder / MANIFEST), read_json(folder / "metrics.json")
    with open_parquet(folder / "scores.parquet") as file:
        return Probe(folder.name, folder, manifest, metrics, file.read().to_pydict())


def summary_table(probes: Sequence[Probe]) -> str:
    """One line for each probe: AUROC beside the text's, and the verdict."""
    rows = []
    for probe in probes:
        kind = verdict_kind(probe)
        better = probe.test["difference_to_text"]["baseline"]
        text = probe.test["baselines"][better]["auroc"]
        rows.append(
            [
                f'<a href="#{probe.key}">{safe(probe.name)}</a>',
                _in_one_line(probe.test["metrics"]["auroc"], kind),
                f"{_in_one_line(text, kind)} <small>{safe(SHORT_TEXTS[better])}</small>",
                _in_one_line(probe.test["difference_to_text"], kind, "+.3f"),
                f'<span><span class="mark {kind}"></span>{safe(short_verdict(probe))}</span>',
            ]
        )
    return table(["probe", "AUROC", "text", "probe - text", "verdict"], rows, stacked=True)


def _in_one_line(estimate: Mapping[str, Any], kind: str, form: str = ".3f") -> str:
    return f'<span class="estimate {kind}">{safe(told(estimate, form))}</span>'


def verdict_kind(probe: Probe) -> str:
    """`good` where the probe beats both texts, `bad` where it does not beat chance or loses to the text.

    `none` where too little was tested for a verdict, else `open`.
    """
    test = probe.test
    if test["metrics"]["auroc"]["low"] is None or _is_small(test):
        return "none"
    leads = [side_of(test["baselines"][name]["difference"], 0) for name in TEXTS]
    if side_of(test["metrics"]["auroc"], 0.5) < 1 or side_of(test["difference_to_text"], 0) < 0:
        return "bad"
    return "good" if min(leads) > 0 else "open"


def short_verdict(probe: Probe) -> str:
    """The first words of the verdict, up to where its numbers begin; where there is none, why."""
    sentence = str(probe.metrics["verdict"]).partition(". ")[0]
    return sentence if verdict_kind(probe) == "none" else sentence.partition(":")[0]


def _is_small(test: Mapping[str, Any]) -> bool:
    from probeline.probes.metrics import is_small

    return is_small(test)


def label_line(probe: Probe, labels: Mapping[str, str]) -> str:
    """What label 1 of a probe's concept is, as a paragraph; empty where that is not known."""
    concept = probe.manifest["concept"]
    return f"<p class=faint>Label 1: <code>{safe(labels[concept])}</code></p>\n" if concept in labels else ""


def probe_article(probe: Probe, labels: Mapping[str, str]) -> str:
    """A probe with its verdict, its counts and its figures.

    Args:
        probe: to show.
        labels: concept → the expression that is true of label 1.
    """
    concept = probe.manifest["concept"]
    label = f" Label 1: <code>{safe(labels[concept])}</code>." if concept in labels else ""
    head = (
        f'<article id="{probe.key}" class="probe"><h3>{safe(probe.name)}</h3>\n'
        f"<p class=faint>{safe(concept)}: {safe(probe.what)}.{label}</p>\n"
    )
    return (
        f'{head}<p class="verdict {verdict_kind(probe)}">{safe(probe.metrics["verdict"])}</p>\n'
        f"{figures(*_figures(probe))}"
        f"{folded('Counts and scores of each split', _splits(probe) + _left_out(probe), opened=True)}"
        f"{folded('All figures on the test games', _numbers(probe))}"
        f"{folded('Per player: how early it knows', _stages(probe))}</article>\n"
    )


def _figures(probe: Probe) -> list[str]:
    folder = probe.folder.as_posix()
    metrics = {"metrics.json": f"{folder}/metrics.json"}
    drawn = [figure(_beside(probe), _beside_caption(probe), metrics)]
    inside = [place for place, split in enumerate(probe.scores["split"]) if split == "test"]
    labels = {probe.scores["label"][place] for place in inside}
    if labels != {0, 1}:
        return drawn
    return drawn + _of_scores(probe, inside, {"scores.parquet": f"{folder}/scores.parquet"})


def _of_scores(probe: Probe, inside: Sequence[int], data: Mapping[str, str]) -> list[str]:
    """The figures that are drawn from the scores of the test games, on the evaluation's own resamples."""
    import numpy as np

    from probeline.probes.metrics import bootstrap_games
    from probeline.reports.curves import reliability, roc

    test = probe.test
    games, labels, scores, probabilities = (
        np.array(probe.scores[name])[inside] for name in ("game", "label", "score", "probability")
    )
    bootstrap = bootstrap_games(games, labels, test["bootstrap"]["resamples"], probe.manifest["seed"])
    truth = labels.astype(np.float64)
    curve, bins = roc(bootstrap, truth, scores), reliability(bootstrap, truth, probabilities)
    threshold = probe.manifest["threshold"]
    by_class = [scores[labels == label].tolist() for label in (0, 1)]
    return [
        figure(_draw_roc(probe, curve), _roc_caption(test, curve), data),
        figure(_draw_scores(probe, by_class, threshold), _scores_caption(by_class, threshold), data),
        figure(_draw_bins(probe, bins), bins_caption(test, bins), data),
    ]


def _rivals(probe: Probe) -> dict[str, Mapping[str, Any]]:
    """All AUROCs on the test games that the probe's stands beside."""
    test = probe.test
    rows = {"the probe": test["metrics"]["auroc"]}
    rows |= {title: test["baselines"][name]["auroc"] for name, title in RIVALS.items()}
    masked = probe.metrics.get("role_masked") or {}
    if "auroc" in masked:
        rows["role masked"] = masked["auroc"]
    logged = probe.metrics.get("logged", {}).get("logged_score", {}).get("test", {})
    if logged.get("auroc", {}).get("value") is not None and not logged.get("small"):
        rows["logged in the games"] = logged["auroc"]
    return rows


def _beside(probe: Probe) -> str:
    rows = _rivals(probe)
    title = f"AUROC of {probe.name} beside its baselines"
    return intervals(title, rows, "AUROC on the test games, 95 % intervals", chance=0.5)


def _beside_caption(probe: Probe) -> str:
    test = probe.test
    auroc, difference = test["metrics"]["auroc"], test["difference_to_text"]
    found = {1: "lies above it, interval and all", 0: "cannot be told from it", -1: "lies below it"}
    text = TEXTS[difference["baseline"]]
    chance = {1: "excludes chance (0.5)", 0: "does not exclude chance (0.5)", -1: "lies below chance (0.5)"}
    says = "has no interval" if auroc["low"] is None else chance[side_of(auroc, 0.5)]
    rival = _number(test["baselines"][difference["baseline"]]["auroc"])
    return (
        f"The probe's AUROC of {_number(auroc)} {says}; beside the text that did better on validation "
        f"({text}, {rival}) it {found[side_of(difference, 0)]}: "
        f"the difference is {told(difference, '+.3f')}.{caution(test)}"
    )


def caution(test: Mapping[str, Any]) -> str:
    """A sentence where there are so few games, or samples of a class, that an interval is no guide."""
    return TOO_FEW if _is_small(test) else ""


def _number(estimate: Mapping[str, Any]) -> str:
    return "none" if estimate["value"] is None else f"{estimate['value']:.3f}"


def _draw_roc(probe: Probe, curve: "Curve") -> str:
    from probeline.reports.curves import GRID

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=SENTINELS["edge"], linewidth=1, linestyle=(0, (4, 3)))
        if len(curve.low):
            axes.fill_between(GRID, curve.low, curve.high, color=SENTINELS["one"], alpha=0.18, linewidth=0)
        axes.plot(curve.false, curve.true, color=SENTINELS["one"], linewidth=1.8)
        axes.set(xlim=(0, 1), ylim=(0, 1.005), xlabel="false positive rate", ylabel="true positive rate")
        axes.grid()

    return svg(f"ROC of {probe.name} on its test games", draw, HEIGHT + 20)


def _roc_caption(test: Mapping[str, Any], curve: "Curve") -> str:
    from probeline.reports.curves import GRID

    games = many(test["num_games"], "test game")
    if not len(curve.low):
        return f"The ROC over {games}; there is no band, which takes at least two games with both classes."
    inner = (GRID >= 0.05) & (GRID <= 0.95)
    above = float((curve.low[inner] > GRID[inner]).mean())
    over = "all" if above == 1 else f"{above:.0%}"
    said = f"lies above chance (dashed) over {over} of the false positive rates between 5 and 95 %"
    if above == 0:
        said = "nowhere lies above chance (dashed)"
    return f"The band, 95 % from a bootstrap over {games}, {said}.{caution(test)}"


def _draw_scores(probe: Probe, by_class: Sequence[Sequence[float]], threshold: float) -> str:
    import numpy as np

    everything = np.concatenate([np.asarray(scores) for scores in by_class])
    edges = np.linspace(min(everything.min(), threshold), max(everything.max(), threshold) + 1e-9, 26)

    def draw(figure: "Figure") -> None:
        axes = figure.subplots()
        for label, colour in ((0, "one"), (1, "two")):
            scores = by_class[label]
            shares = np.histogram(scores, edges)[0] / len(scores)
            axes.stairs(shares, edges, fill=True, color=SENTINELS[colour], alpha=0.3)
            axes.stairs(
                shares,
                edges,
                color=SENTINELS[colour],
                linewidth=1.4,
                label=f"label {label} ({len(scores):,})",
            )
        axes.axvline(
            threshold, color=SENTINELS["ink"], linewidth=1.2, linestyle=(0, (2, 2)), label="threshold"
        )
        axes.set(xlabel="score, in deviations of training scores", ylabel="share of the class")
        axes.set_ylim(bottom=0)
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside lower left",
            ncols=3,
            handlelength=1.2,
            columnspacing=1,
        )

    return svg(f"Scores of {probe.name} by class on its test games", draw, HEIGHT + 20)


def _scores_caption(by_class: Sequence[Sequence[float]], threshold: float) -> str:
    alarms, hits = (sum(score >= threshold for score in scores) for scores in by_class)
    return (
        f"At the threshold {threshold:+.2f}, set on the validation games, {hits:,} of "
        f"{many(len(by_class[1]), 'sample')} of label 1 are found, with {many(alarms, 'false alarm')} among "
        f"{len(by_class[0]):,} of label 0: the more the two shapes overlap, the less the probe tells."
    )


def _draw_bins(probe: Probe, bins: Sequence["Bin"]) -> str:
    def draw(figure: "Figure") -> None:
        upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [4, 1]})
        upper.plot([0, 1], [0, 1], color=SENTINELS["edge"], linewidth=1, linestyle=(0, (4, 3)))
        for one in bins:
            colour = SENTINELS["one" if one.count >= FEWEST_IN_BIN else "edge"]
            if one.low == one.low:  # not NaN
                upper.plot([one.mean] * 2, [one.low, one.high], color=colour, linewidth=1.6)
            upper.plot([one.mean], [one.share], "o", color=colour, markersize=5)
            lower.bar(one.middle, one.count, width=0.09, color=SENTINELS["one"], alpha=0.45)
            lower.annotate(
                f"{one.count:,}",
                (one.middle, one.count),
                ha="center",
                va="bottom",
                fontsize=9,
                color=SENTINELS["faint"],
            )
        upper.set(xlim=(-0.04, 1.04), ylim=(-0.03, 1.03), ylabel="share of label 1")
        upper.grid()
        lower.set_ylabel("n", rotation=0)
        lower.set(xlabel="probability that the probe gives", yticks=[])
        lower.set_ylim(0, max(one.count for one in bins) * 1.6)
        lower.spines["left"].set_visible(False)

    return svg(f"Calibration of {probe.name} on its test games", draw, HEIGHT + 40)


def bins_caption(test: Mapping[str, Any], bins: Sequence["Bin"]) -> str:
    """What the bins of a reliability diagram say of a probe.

    Args:
        test: the test part of metrics.json.
        bins: of `curves.reliability`.
    """
    sure = [one for one in bins if one.low == one.low and one.count >= FEWEST_IN_BIN]
    off = [one for one in sure if not one.low <= one.mean <= one.high]
    pure = sum(one.share in (0, 1) for one in bins)
    if not sure:
        said = f"no bin has {FEWEST_IN_BIN} samples of both labels and several games, so it cannot be judged"
    elif not off:
        said = f"the interval of {'the' if len(sure) == 1 else 'each'} bin that has one holds it"
    else:
        said = f"{len(off)} of {many(len(sure), 'bin')} with an interval miss{'es' * (len(off) == 1)} it"
    if pure:
        said += f"; {many(pure, 'bin')} of one label alone can have none"
    ece = told(test["metrics"]["ece"])
    return f"On the diagonal, probabilities are true frequencies: {said}; the ECE is {ece}."


def _splits(probe: Probe) -> str:
    rows = []
    for split in SPLITS:
        part = probe.metrics.get(split)
        if part is None:
            continue
        counts = ("num_games", "num_interactions", "num_positive", "num_negative")
        rows.append(
            [
                split,
                *(f"{part[name]:,}" for name in counts),
                *(f"{part[name]:+.2f}" for name in ("positive_mean_score", "negative_mean_score")),
                "-" if part["auroc"] is None else f"{part['auroc']:.3f}",
            ]
        )
    head = ["split", "games", "samples", "label 1", "label 0", "mean score, 1", "mean score, 0", "AUROC"]
    note = "The probe was fitted to the samples of the row train: only the row test counts."
    return f"{table(head, rows, numbers=range(1, 8), stacked=True)}<p class=faint>{note}</p>\n"


def _left_out(probe: Probe) -> str:
    samples = probe.metrics["samples"]
    parts = [f"{number:,} {reason.replace('_', ' ')}" for reason, number in samples["excluded"].items()]
    if samples["beyond_max_samples"]:
        parts.append(f"{samples['beyond_max_samples']:,} beyond max_samples")
    left_out = safe(", ".join(parts) or "none")
    return (
        f"<p class=faint>Used: {many(samples['used'], 'sample')} of the concept; of its samples left out: "
        f"{left_out}.</p>\n"
    )


def _numbers(probe: Probe) -> str:
    test = probe.test
    rows = {title: safe(told(test["metrics"][name])) for name, title in METRICS.items()}
    for name, title in RIVALS.items():
        rival = test["baselines"][name]
        rows[title] = (
            f"{safe(told(rival['auroc']))}, probe minus it {safe(told(rival['difference'], '+.3f'))}"
        )
    masked = probe.metrics.get("role_masked")
    if masked:
        rows["role masked"] = safe(
            f"{told(masked['auroc'])}, probe minus it {told(masked['difference'], '+.3f')}"
            if "auroc" in masked
            else masked["reason"]
        )
    bootstrap = test["bootstrap"]
    rows["bootstrap"] = (
        f"{bootstrap['resamples']:,} resamples of {many(bootstrap['games'], 'game')}, "
        f"{bootstrap['skipped_with_one_class']:,} left out with one class"
    )
    rows["all of it"] = link(f"{probe.folder.as_posix()}/metrics.json")
    return facts(rows)


def _stages(probe: Probe) -> str:
    stages = probe.metrics.get("stages") or {}
    found = stages.get("probe")
    if not found:
        reason = stages.get("reason", "the evaluation holds none")
        return f"<p>No figures per player: {safe(reason)}.</p>\n"
    moments = {"the first act": found.get("first_action")}
    moments |= {
        RUNNING.format(acts, "s" * (acts != "1")): estimate
        for acts, estimate in sorted((found.get("running") or {}).items(), key=lambda item: int(item[0]))
    }
    moments["the whole game"] = found.get("whole_game")
    rows = {
        name: f"AUROC {safe(told(estimate))}, within a game {safe(told(estimate['within_games']))}"
        for name, estimate in moments.items()
        if estimate and "value" in estimate and estimate.get("within_games")
    }
    suspects = stages.get("suspects") or {}
    if "top_is_positive" in suspects:
        top = suspects["top_is_positive"]
        rows["highest mean is of label 1"] = f"{safe(told(top, '.0%'))}; by chance {top['chance']:.0%}"
    return facts(rows) if rows else "<p>No figures per player.</p>\n"
