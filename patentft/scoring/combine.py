"""Two weights, fitted listwise: how much the cross-encoder's logit and the cosine count in the log-odds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import logsumexp

from patentft.config import ConfigError


def fit_weights(
    cross: npt.NDArray[np.float32], cosine: npt.NDArray[np.float32], labels: npt.NDArray[np.bool_], groups: npt.NDArray
) -> dict[str, float]:
    """{"cross", "cosine"}, neither negative, that minimise the listwise loss: -log softmax of each match in its group.

    cross, cosine (n,) float32; labels (n,) bool; groups (n,): a technique's candidates. Convex in the weights. Raises
    ConfigError when no group holds both a match and another pair.
    """
    features = np.stack([cross, cosine], axis=1).astype(np.float64)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups[labels])]
    members = [rows for rows in members if labels[rows].any() and not labels[rows].all()]
    if not members:
        raise ConfigError("no technique of the valid side has both a match and another pair among its candidates")
    scale = features.std(axis=0) + 1e-9  # the two features differ a hundredfold in size

    def loss(weights: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        total, gradient = 0.0, np.zeros(2)
        for rows in members:
            standard = features[rows] / scale
            scores = standard @ weights
            normalizer = logsumexp(scores)
            hits = labels[rows]
            share = np.exp(scores - normalizer)
            total += float((normalizer - scores[hits]).mean())
            gradient += share @ standard - standard[hits].mean(axis=0)
        return total / len(members), gradient / len(members)

    found = minimize(loss, np.array([0.1, 1.0]), jac=True, method="L-BFGS-B", bounds=[(0.0, None), (0.0, None)])
    cross_weight, cosine_weight = (found.x / scale).tolist()
    return {"cross": cross_weight, "cosine": cosine_weight}
