"""What a probe is worth on games that it never saw, beside what the text alone gives away."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.probes import baselines
from probeline.probes.detector import Detector
from probeline.probes.methods import Array, Labels, Settings
from probeline.probes.metrics import FEWEST_GAMES, auroc, bootstrap_games, compare, is_small, metrics_of

SPLITS = ("train", "validation", "test")
FEW_GAMES, FEW_OF_A_CLASS = 10, 20

TEXT_BASELINES = {"text_masked": "the masked text", "text_input": "the whole input's text"}


def split_statistics(games: npt.NDArray[Any], labels: Labels, scores: Array) -> dict[str, Any]:
    """Counts, class means and the distribution of the scores of one split.

    Args:
        games: [n] game of each sample.
        labels: [n] of 0 and 1, both present.
        scores: [n].
    """
    positive, negative = scores[labels == 1], scores[labels == 0]
    quartiles = np.quantile(scores, [0, 0.25, 0.5, 0.75, 1])
    return {
        "num_games": len(np.unique(games)),
        "num_interactions": len(labels),
        "num_positive": len(positive),
        "num_negative": len(negative),
        "positive_mean_score": float(positive.mean()),
        "negative_mean_score": float(negative.mean()),
        "separation": float(positive.mean() - negative.mean()),
        "auroc": auroc(labels, scores),
        "score_distribution": {
            "mean": float(scores.mean()),
            "standard_deviation": float(scores.std()),
            **dict(
                zip(
                    ("minimum", "quartile_1", "median", "quartile_3", "maximum"),
                    quartiles.tolist(),
                    strict=True,
                )
            ),
        },
    }


def interactions_by_type(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Counts of samples by event type and role of the actor.

    Args:
        samples: rows of schema.SAMPLES.
    """
    groups: dict[tuple[str, str], Counter[str]] = {}
    for sample in samples:
        group = groups.setdefault((sample["type"], sample["actor_role"]), Counter())
        group["interactions"] += 1
        group["positive"] += sample["label"]
        group["with_target"] += sample["target"] is not None
        group["same_team"] += sample["same_team"] is True
        group["different_team"] += sample["same_team"] is False
    return [{"type": kind, "actor_role": role, **groups[kind, role]} for kind, role in sorted(groups)]


def evaluate(
    detector: Detector,
    samples: list[dict[str, Any]],
    values: npt.NDArray[np.floating[Any]],
    scores: Array,
    sequences: dict[str, list[dict[str, str]]],
    settings: Settings,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Metrics, baselines and the difference to the text, all on the test games.

    Args:
        detector: calibrated.
        samples: [n] rows of schema.SAMPLES, of every split.
        values: activations [n, layers, width] of the samples.
        scores: [n] of the detector.
        sequences: messages of each sequence, by id.
        settings: of the method, for the shuffled probe.
        resamples: of the bootstrap.
        seed: of the bootstrap and of the shuffles.
    """
    split = np.array([sample["split"] for sample in samples])
    labels = np.array([sample["label"] for sample in samples], dtype=np.int8)
    games = np.array([sample["game"] for sample in samples])
    train, validation, test = (split == name for name in SPLITS)
    bootstrap = bootstrap_games(games[test], labels[test], resamples, seed)
    metrics = {
        name: bootstrap.estimate(metric)
        for name, metric in metrics_of(
            labels[test], scores[test], detector.probability(scores[test]), detector.threshold
        ).items()
    }

    texts = [sample["text"] for sample in samples]
    masked = baselines.text_features(texts, train)
    whole = baselines.input_features(sequences, samples, train)
    rivals = {
        "text_masked": [baselines.classifier_scores(masked, labels, train, validation)],
        "text_input": [baselines.input_scores(whole, masked, labels, train, validation)],
        "length": [baselines.length_scores(texts, labels, train, validation)],
        "shuffled": baselines.shuffled_scores(detector, values, labels, train, validation, settings, seed),
    }
    compared = {
        name: compare(bootstrap, labels[test], scores[test], [rival[test] for rival in repetitions])
        for name, repetitions in rivals.items()
    }
    on_validation = {name: rivals[name][0][validation] for name in TEXT_BASELINES}
    stronger = stronger_text(labels[validation], on_validation)
    difference = {"baseline": stronger, **compared[stronger]["difference"]}
    counts = {
        name: split_statistics(games[inside], labels[inside], scores[inside])
        for name, inside in zip(SPLITS, (train, validation, test), strict=True)
    }
    counts["test"] |= {
        "metrics": metrics,
        "baselines": compared,
        "difference_to_text": difference,
        "bootstrap": {
            "unit": "game",
            "games": len(np.unique(games[test])),
            "resamples": resamples,
            "skipped_with_one_class": bootstrap.skipped,
        },
    }
    return {**counts, "by_type": interactions_by_type(samples)}


def stronger_text(labels: Labels, scores: Mapping[str, Array]) -> str:
    """The text baseline that ranks the validation samples better: chosen where nothing is tested.

    Args:
        labels: [n] of the validation samples.
        scores: baseline → its scores [n] of them.
    """
    return max(scores, key=lambda name: auroc(labels, scores[name]))


def verdict(test: dict[str, Any], role_masked: dict[str, Any] | None) -> str:
    """Says in words whether the probe beats the text on unseen games.

    Args:
        test: the test part of `evaluate`'s result.
        role_masked: what `controls.role_masked` found; None where the input does not tell the role anyhow.
    """
    probe = test["metrics"]["auroc"]
    difference = test["difference_to_text"]
    rivals = {name: {"baseline": name, **test["baselines"][name]["difference"]} for name in TEXT_BASELINES}
    if (difference["low"] or 0) > 0 and not is_small(test):
        # Better than the text that was chosen is not enough: a probe beats the text if it beats both.
        difference = min(rivals.values(), key=lambda rival: (rival["low"] is not None, rival["low"] or 0))
    text = test["baselines"][difference["baseline"]]["auroc"]["value"]
    name = TEXT_BASELINES[difference["baseline"]]
    if is_small(test):
        return (
            f"No verdict: {test['num_games']} test games with {test['num_positive']} positives and "
            f"{test['num_negative']} negatives are too few for one. AUROC {probe['value']:.3f}, {text:.3f} "
            f"from {name}; an interval over so few understates how uncertain they are."
        )
    if probe["low"] is None or difference["low"] is None:
        reason = probe.get("reason") or difference.get("reason")
        sentence = f"No verdict: AUROC {probe['value']:.3f} without an interval ({reason})."
    elif probe["low"] <= 0.5:
        below = "is worse than" if probe["high"] < 0.5 else "cannot be told from"
        sentence = (
            f"On unseen games the probe {below} chance: AUROC {_with_interval(probe)}; "
            f"{name} reaches {text:.3f}."
        )
    elif difference["low"] > 0:
        sentence = (
            f"The probe beats the text on unseen games: AUROC {_with_interval(probe)} against {text:.3f} "
            f"from {name}, a difference of {_with_interval(difference)}."
        )
    elif difference["high"] < 0 and difference["baseline"] == test["difference_to_text"]["baseline"]:
        sentence = (
            f"The text does better than the probe on unseen games: AUROC {text:.3f} from {name} against "
            f"{_with_interval(probe)}, a difference of {_with_interval(difference)}."
        )
    else:
        sentence = (
            f"The probe is above chance on unseen games, but the text does about as well: AUROC "
            f"{_with_interval(probe)} against {text:.3f} from {name}, a difference of "
            f"{_with_interval(difference)}."
        )
    without = (role_masked or {}).get("auroc", {"low": None})
    enough = role_masked is not None and role_masked["num_games"] >= FEWEST_GAMES
    if enough and (probe["low"] or 0) > 0.5 and without["low"] is not None and without["low"] <= 0.5:
        below = "is worse than" if without["high"] < 0.5 else "cannot be told from"
        sentence += (
            f" Without the role in the prompt the same kind of probe {below} chance: AUROC "
            f"{_with_interval(without)}."
        )
    games, positives, negatives = test["num_games"], test["num_positive"], test["num_negative"]
    if games < FEW_GAMES or min(positives, negatives) < FEW_OF_A_CLASS:
        sentence += (
            f" Caution: the test side is small ({games} games, {positives} positives, {negatives} "
            "negatives), so another draw of games could say otherwise."
        )
    return sentence


def _with_interval(estimate: dict[str, Any]) -> str:
    return f"{estimate['value']:.3f} ({estimate['low']:.3f} to {estimate['high']:.3f})"
