"""What a probe has to beat: the text alone, its length, and itself trained on shuffled labels.

Each is fitted on the training samples of the same split; where there is a choice (the penalty of the text
classifiers) the validation samples make it. Test samples are only ever scored.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from probeline.probes.detector import Detector, fit_detector
from probeline.probes.methods import Array, Labels, Settings
from probeline.probes.metrics import auroc

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS = r"(?u)\b\w+\b"  # the default of scikit-learn drops words of one letter, "I" for one
NGRAMS = (1, 2)
HASHED_FEATURES = 2**16
INVERSE_PENALTIES = (0.1, 1.0, 10.0, 100.0)
SHUFFLES = 5

Mask = npt.NDArray[np.bool_]


def text_features(texts: list[str], train: Mask) -> "csr_matrix":
    """TF-IDF of words and pairs of words [n, vocabulary], vocabulary and weights from the training texts."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(
        token_pattern=WORDS, ngram_range=NGRAMS, sublinear_tf=True, max_features=50_000
    )
    try:
        vectorizer.fit([text for text, inside in zip(texts, train, strict=True) if inside])
    except ValueError:
        # scikit-learn refuses texts without a single word; to a text classifier they are all the same.
        from scipy.sparse import csr_matrix

        return csr_matrix((len(texts), 1))
    return vectorizer.transform(texts)


def input_features(
    sequences: dict[str, list[dict[str, str]]], samples: list[dict[str, Any]], train: Mask
) -> "csr_matrix":
    """TF-IDF of everything that the model read up to the end of each sample's masked text [n, features].

    Args:
        sequences: messages of each sequence, by id.
        samples: rows with the columns sequence, message and end.
        train: [n] which of them are training samples.
    """
    return weighted_counts(input_counts(sequences, samples), train)


def weighted_counts(counts: "csr_matrix", train: Mask) -> "csr_matrix":
    """TF-IDF [n, features] of counts of words, weights from the training rows."""
    from sklearn.feature_extraction.text import TfidfTransformer

    return TfidfTransformer(sublinear_tf=True).fit(counts[np.flatnonzero(train)]).transform(counts)


def input_counts(sequences: dict[str, list[dict[str, str]]], samples: list[dict[str, Any]]) -> "csr_matrix":
    """Counts of words and pairs of words in all that the model read for each sample [n, features].

    The samples of a sequence share their beginnings, so each stretch of text between two masks is counted
    once and the counts are summed up; pairs of words do not reach over the end of a stretch.

    Args:
        sequences: messages of each sequence, by id.
        samples: rows with the columns sequence, message and end.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    by_sequence: dict[str, list[int]] = {}
    for row, sample in enumerate(samples):
        by_sequence.setdefault(sample["sequence"], []).append(row)
    stretches: list[str] = []
    rows: list[int] = []
    columns: list[int] = []
    for sequence, members in by_sequence.items():
        first = len(stretches)
        cuts = sorted({(samples[row]["message"], samples[row]["end"]) for row in members})
        stretches += _stretches([message["content"] for message in sequences[sequence]], cuts)
        for row in members:
            seen = cuts.index((samples[row]["message"], samples[row]["end"])) + 1
            rows += [row] * seen
            columns += range(first, first + seen)
    vectorizer = HashingVectorizer(
        token_pattern=WORDS,
        ngram_range=NGRAMS,
        n_features=HASHED_FEATURES,
        alternate_sign=False,
        norm=None,
    )
    shown = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(samples), len(stretches)))
    return shown @ vectorizer.transform(stretches)


def _stretches(contents: list[str], cuts: list[tuple[int, int]]) -> list[str]:
    """The text between each cut (message, end) and the one before it."""
    stretches = []
    message, start = 0, 0
    for last, end in cuts:
        parts = [contents[message][start:], *contents[message + 1 : last]] if message < last else []
        parts.append(contents[last][0 if message < last else start : end])
        stretches.append("\n".join(parts))
        message, start = last, end
    return stretches


def length_features(texts: list[str]) -> Array:
    """Logarithms of the numbers of characters and of words [n, 2]."""
    return np.log1p([[len(text), len(text.split())] for text in texts])


def classifier_scores(features: Any, labels: Labels, train: Mask, validation: Mask) -> Array:
    """Scores [n] of a class-balanced logistic regression fitted on the training rows.

    Its penalty is the one with the best AUROC on the validation rows, so that the baseline is no straw man.

    Args:
        features: [n, anything], sparse or dense.
        labels: [n] of 0 and 1.
        train: [n] which rows it is fitted on.
        validation: [n] which rows choose the penalty.
    """
    chosen = np.flatnonzero(validation)
    best, best_auroc = np.zeros(len(labels)), -1.0
    for inverse_penalty in INVERSE_PENALTIES:
        scores = fitted_scores(features, labels, train, inverse_penalty)
        on_validation = auroc(labels[chosen], scores[chosen])
        if on_validation > best_auroc:
            best, best_auroc = scores, on_validation
    return best


def fitted_scores(features: Any, labels: Labels, train: Mask, inverse_penalty: float) -> Array:
    """Scores [n] of a class-balanced logistic regression with one penalty, fitted on the training rows."""
    from sklearn.linear_model import LogisticRegression

    rows = np.flatnonzero(train)
    model = LogisticRegression(
        C=inverse_penalty, class_weight="balanced", solver="liblinear", random_state=0
    ).fit(features[rows], labels[rows])
    scores: Array = model.decision_function(features)
    return scores


def input_scores(
    whole: "csr_matrix", masked: "csr_matrix", labels: Labels, train: Mask, validation: Mask
) -> Array:
    """Scores [n] of a classifier that sees the whole input, and apart from it which text is masked."""
    from scipy.sparse import hstack

    return classifier_scores(hstack([whole, masked], format="csr"), labels, train, validation)


def length_scores(texts: list[str], labels: Labels, train: Mask, validation: Mask) -> Array:
    """Scores [n] of a classifier that sees the length of the masked text only."""
    from sklearn.preprocessing import StandardScaler

    features = length_features(texts)
    features = StandardScaler().fit(features[train]).transform(features)
    return classifier_scores(features, labels, train, validation)


def shuffled_scores(
    detector: Detector,
    values: npt.NDArray[np.floating[Any]],
    labels: Labels,
    train: Mask,
    validation: Mask,
    settings: Settings,
    seed: int,
) -> list[Array]:
    """Scores [n] of the same kind of probe, each fitted on another random order of the labels.

    The labels are permuted within the training samples, and within the validation samples, which tell the
    mlp when to stop. A probe that still scores above chance has found a leak.

    Args:
        detector: the probe whose kind it is.
        values: activations [n, layers, width].
        labels: [n] of 0 and 1.
        train: [n] which rows are fitted on.
        validation: [n] which rows the mlp stops by.
        settings: of the method.
        seed: of the orders.
    """
    random = np.random.default_rng(seed)
    repetitions = []
    for _ in range(SHUFFLES):
        shuffled = fit_detector(
            detector.method,
            detector.model,
            list(detector.layers),
            (values[train], random.permutation(labels[train])),
            (values[validation], random.permutation(labels[validation])),
            settings,
            seed,
        )
        repetitions.append(shuffled.scores(values))
    return repetitions
