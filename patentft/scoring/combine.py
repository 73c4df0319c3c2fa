"""How much the cross-encoder's logit, the cosine and word overlap count in the log-odds: weights fitted listwise."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

from patentft.config import ConfigError

Features = Mapping[str, npt.NDArray[np.float32]]
"""Name ("cross", "cosine", "lexical") -> (pairs,) float32."""


def log_odds(features: Features, weights: Mapping[str, float]) -> npt.NDArray[np.float32]:
    """(pairs,) float32: "bias" plus the sum of weight x feature, in float64, over the features that have a weight."""
    total = np.full(len(next(iter(features.values()))), weights.get("bias", 0.0))
    for name, weight in weights.items():
        if name != "bias":
            total += weight * features[name]
    return total.astype(np.float32)


def fit_weights(features: Features, labels: npt.NDArray[np.bool_], groups: npt.NDArray) -> dict[str, float]:
    """Weight of each feature, none negative, that minimise the listwise loss: -log softmax of each match in its group.

    labels (pairs,) bool; groups (pairs,): the technique whose candidates they are. Convex in the weights. Raises
    ConfigError when no group holds both a match and another pair.
    """
    matrix = np.stack([features[name] for name in features], axis=1).astype(np.float64)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[labels])]
    members = [rows for rows in members if labels[rows].any() and not labels[rows].all()]
    if not members:
        raise ConfigError("no technique of the valid side has both a match and another pair among its candidates")
    scale = matrix.std(axis=0) + 1e-9  # the features differ a hundredfold in size

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        total, gradient = 0.0, np.zeros(len(scale))
        for rows in members:
            standard = matrix[rows] / scale
            scores = standard @ weights
            normalizer = logsumexp(scores)
            hits = labels[rows]
            share = np.exp(scores - normalizer)
            total += float((normalizer - scores[hits]).mean())
            gradient += share @ standard - standard[hits].mean(axis=0)
        return total / len(members), gradient / len(members)

    start = np.full(len(scale), 0.5)
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] * len(scale))
    return dict(zip(features, (found.x / scale).tolist(), strict=True))
