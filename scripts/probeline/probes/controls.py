"""What else a probe is held against: the probe that ran in the games, and itself without the actor's role."""

from typing import Any

import numpy as np
import numpy.typing as npt

from probeline.probes import baselines
from probeline.probes.detector import Detector, fit_detector
from probeline.probes.methods import Array, Labels, Settings
from probeline.probes.metrics import (
    Ranking,
    auroc_within_games,
    bootstrap_games,
    compare,
    is_small,
    over_games,
)
from probeline.schema import LOGGED_SCORES

Samples = list[dict[str, Any]]
SPLITS = ("train", "validation", "test")


def logged_scores(samples: Samples, scores: Array, resamples: int, seed: int) -> dict[str, Any]:
    """AUROC of every score that was logged in the games, beside the probe's on exactly the same test samples.

    Experiments ran different probes, whose scores have different scales: pooled, they can rank worse than any
    of them does. So the mean AUROC within a game, in which one probe ran, stands beside the pooled one.

    A logged score is taken as it is, larger for label 1: choosing its sign here would be fitting on test
    games. This project's splits had no part in training the logged probe, so it is shown on all of them, too;
    what it was trained on, the logs do not say.

    Args:
        samples: [n] rows of schema.SAMPLES, of every split.
        scores: [n] of the probe.
        resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    labels, games, split = _columns(samples)
    result: dict[str, Any] = {}
    for name, _, _ in LOGGED_SCORES:
        logged = np.array([np.nan if (value := row[name]) is None else value for row in samples])
        there = np.isfinite(logged)
        if not there.any():
            result[name] = {"reason": "no sample has it"}
            continue
        everywhere = bootstrap_games(games[there], labels[there], resamples, seed)
        within = auroc_within_games(labels[there], logged[there], games[there])
        result[name] = {
            "test": _beside(scores, logged, labels, games, there & (split == "test"), resamples, seed),
            "every_split": {
                **(counts := _counts(labels[there], games[there])),
                "small": is_small(counts),
                "auroc": everywhere.estimate(Ranking(labels[there], logged[there]).auroc),
                "within_games": over_games({"auroc": within}, resamples, seed)["auroc"]
                if len(within)
                else None,
            },
        }
    return result


def _beside(
    scores: Array,
    logged: Array,
    labels: Labels,
    games: npt.NDArray[Any],
    test: npt.NDArray[np.bool_],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The logged score and the probe on the same test samples, pooled and game by game."""
    counts = _counts(labels[test], games[test])
    if not test.any():
        return {**counts, "reason": "no test sample has it"}
    bootstrap = bootstrap_games(games[test], labels[test], resamples, seed)
    return {
        **counts,
        "small": is_small(counts),
        **compare(bootstrap, labels[test], scores[test], [logged[test]]),
        "probe": bootstrap.estimate(Ranking(labels[test], scores[test]).auroc),
        "within_games": _within_games(labels[test], games[test], logged[test], scores[test], resamples, seed),
    }


def _within_games(
    labels: Labels,
    games: npt.NDArray[Any],
    logged: Array,
    scores: Array,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The comparison game by game, averaged over the games that have both classes."""
    of_logged, of_probe = (auroc_within_games(labels, values, games) for values in (logged, scores))
    if not len(of_probe):
        return {"games": 0, "reason": "no game has both classes"}
    compared = {"auroc": of_logged, "probe": of_probe, "difference": of_probe - of_logged}
    return {"games": len(of_probe), **over_games(compared, resamples, seed)}


def role_masked(
    detector: Detector,
    samples: Samples,
    scores: Array,
    twins: Samples,
    twin_values: npt.NDArray[np.floating[Any]],
    sequences: dict[str, list[dict[str, str]]],
    settings: Settings,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The same kind of probe, trained and tested on the same samples whose input does not tell the role.

    Args:
        detector: the probe whose kind it is.
        samples: [n] rows of schema.SAMPLES that the probe was fitted and tested on.
        scores: [n] of the probe.
        twins: [m] rows of the role-masked samples.
        twin_values: [m, layers, width] their activations.
        sequences: messages of the role-masked sequences, by id.
        settings: of the method.
        resamples: of the bootstrap.
        seed: of the fit and of the bootstrap.

    Returns:
        AUROC on the test games, by how much the probe exceeds the role-masked one on the same samples, the
        AUROC of text alone on the masked input (what the masking left to be read), and counts.
    """
    rows = {twin["sample"]: row for row, twin in enumerate(twins)}
    common = [row for row, sample in enumerate(samples) if sample["sample"] in rows]
    places = [rows[samples[row]["sample"]] for row in common]
    shown = [twins[place] for place in places]
    labels, games, split = _columns(shown)
    train, validation, test = (split == name for name in SPLITS)
    result: dict[str, Any] = _counts(labels[test], games[test]) | {
        "only_with_role": len(samples) - len(common),
        "only_role_masked": len(twins) - len(common),
    }
    for name, inside in zip(SPLITS, (train, validation, test), strict=True):
        if len(set(labels[inside].tolist())) < 2:
            return result | {"reason": f"the {name} samples that both have are not of two classes"}
    values = twin_values[places]
    fitted = fit_detector(
        detector.method,
        detector.model,
        list(detector.layers),
        (values[train], labels[train]),
        (values[validation], labels[validation]),
        settings,
        seed,
    )
    bootstrap = bootstrap_games(games[test], labels[test], resamples, seed)
    with_role = scores[common][test]
    masked = baselines.text_features([twin["text"] for twin in shown], train)
    whole = baselines.input_features(sequences, shown, train)
    text = baselines.input_scores(whole, masked, labels, train, validation)
    return {
        **result,
        **compare(bootstrap, labels[test], with_role, [fitted.scores(values)[test]]),
        "text_input": {"auroc": bootstrap.estimate(Ranking(labels[test], text[test]).auroc)},
    }


def _columns(samples: Samples) -> tuple[Labels, npt.NDArray[Any], npt.NDArray[Any]]:
    """Labels, games and splits [n]."""
    labels = np.array([sample["label"] for sample in samples], dtype=np.int8)
    games = np.array([sample["game"] for sample in samples], dtype=np.str_)
    return labels, games, np.array([sample["split"] for sample in samples], dtype=np.str_)


def _counts(labels: Labels, games: npt.NDArray[Any]) -> dict[str, Any]:
    positive = int(labels.sum())
    return {
        "num_games": len(np.unique(games)),
        "num_interactions": len(labels),
        "num_positive": positive,
        "num_negative": len(labels) - positive,
    }
