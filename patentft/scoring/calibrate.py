"""From log-odds to P(yes): temperature, Platt or isotonic, fitted on labels and checked out of fold.

1. `cross_fit` says which kind helps: every label is calibrated by a fit that saw none of its technique.
2. `fit` on all labels gives the `Calibrator` that scoring applies; `to_dict` is its JSON, there is no pickle.
3. `shift_prior` moves log-odds from the class balance of the labels to that of the search.

Rank by log-odds, not by P(yes): a float64 probability saturates beyond log-odds of 36, a float32 one beyond 16.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import scipy.optimize
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.model_selection import StratifiedGroupKFold

from patentft import stats

Floats = NDArray[np.float64]
Kind = Literal["temperature", "platt", "isotonic"]
_PARAMETERS = {"temperature": {"temperature"}, "platt": {"slope", "intercept"}, "isotonic": {"log_odds", "probability"}}


@dataclass(frozen=True)
class Calibrator:
    """A fitted, rising map from log-odds to P(yes), as plain numbers.

    temperature: sigmoid(z / temperature). platt: sigmoid(slope z + intercept). isotonic: linear between the knots
    (log_odds, probability), flat outside. ValueError for other kinds or parameters, and for maps that do not rise.
    """

    kind: Kind
    parameters: Mapping[str, float | list[float]]
    num_labels: int

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise ValueError(f"kind is {self.kind!r}, expected one of {', '.join(get_args(Kind))}")
        if set(self.parameters) != _PARAMETERS[self.kind]:
            raise ValueError(f"{self.kind} has {sorted(self.parameters)}, expected {sorted(_PARAMETERS[self.kind])}")
        if self.kind == "isotonic":
            x, p = self._array("log_odds"), self._array("probability")
            rises = x.size > 0 and x.shape == p.shape and (np.diff(x) > 0).all() and (np.diff(p) >= 0).all()
            valid = rises and p[0] > 0 and p[-1] < 1
        else:
            values = {name: float(self._array(name)) for name in self.parameters}
            valid = np.isfinite(list(values.values())).all() and values.get("temperature", values.get("slope", 0)) > 0
        if not valid:
            raise ValueError(f"{self.kind} parameters do not make a rising map into (0, 1): fit the calibrator again")

    def _array(self, name: str) -> Floats:
        return np.asarray(self.parameters[name], np.float64)

    def log_odds(self, log_odds: ArrayLike) -> Floats:
        """Calibrated log-odds (n,) float64 of the scorer's (n,), for `shift_prior`. ValueError for NaN or inf."""
        z = stats.as_scores(log_odds, "log_odds", finite=True)
        if self.kind == "temperature":
            return z / self._array("temperature")
        if self.kind == "platt":
            return self._array("slope") * z + self._array("intercept")
        return logit(np.interp(z, self._array("log_odds"), self._array("probability")))

    def apply(self, log_odds: ArrayLike) -> Floats:
        """Calibrated P(yes) (n,) float64 of the scorer's log-odds (n,). ValueError for NaN or inf."""
        return expit(self.log_odds(log_odds))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `from_dict` gives an equal calibrator."""
        return {"kind": self.kind, "parameters": dict(self.parameters), "num_labels": self.num_labels}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibrator:
        """The calibrator of `to_dict`, checked. ValueError names what is missing or unknown."""
        if set(values) != {"kind", "parameters", "num_labels"}:
            raise ValueError(f"a calibrator has kind, parameters and num_labels, got {sorted(values)}")
        return cls(values["kind"], values["parameters"], values["num_labels"])


def fit(kind: Kind, log_odds: ArrayLike, labels: ArrayLike, *, min_isotonic: int = 1000) -> Calibrator:
    """Fit P(yes) on labelled log-odds, both (n,).

    temperature: T > 0 of least NLL, ranking kept exactly (Guo et al. 2017 §4). platt: slope and intercept of least NLL
    on Platt's smoothed targets (Platt 1999 §2.2), slope > 0. isotonic: pool adjacent violators, clipped to
    [1/(n+2), 1 - 1/(n+2)] (Zadrozny & Elkan 2002); refused below `min_isotonic` labels, because it overfits.
    ValueError for one class, NaN, scores that run against the labels, and (temperature) labels separated at zero.
    """
    z = stats.as_scores(log_odds, "log_odds", finite=True)
    y = stats.as_labels(labels, z.size)
    if y.all() or not y.any():
        raise ValueError(f"all {y.size} labels are {int(y[0])}: calibration needs both, add labels of the other class")
    if kind == "temperature":
        return Calibrator(kind, {"temperature": _temperature(z, y)}, z.size)
    if kind == "platt":
        slope, intercept = _platt(z, y)
        return Calibrator(kind, {"slope": slope, "intercept": intercept}, z.size)
    if kind == "isotonic":
        if z.size < min_isotonic:
            raise ValueError(
                f"isotonic calibration on {z.size} labels would overfit (minimum {min_isotonic}): choose 'platt' or "
                "'temperature', or lower min_isotonic"
            )
        knots, values = _isotonic(z, y)
        return Calibrator(kind, {"log_odds": knots, "probability": values}, z.size)
    raise ValueError(f"kind is {kind!r}, expected one of {', '.join(get_args(Kind))}")


def _temperature(z: Floats, y: NDArray[np.bool_]) -> float:
    """NLL is convex in 1/T: the root of its derivative, which rises, is exact where a flat NLL stalls a line search."""

    def slope(inverse: float) -> float:
        return float(np.mean((expit(inverse * z) - y) * z))

    if slope(0.0) >= 0:
        raise ValueError(
            "log-odds do not rise with the labels, so no temperature > 0 fits: check the order of the yes and no "
            "tokens, or choose 'platt', which has an intercept"
        )
    if (np.where(y, z, -z) >= 0).all():
        raise ValueError(
            f"all {y.size} labels are separated at log-odds 0, so the temperature would be 0: "
            "add labels, or choose 'platt'"
        )
    high = 1.0 / float(np.abs(z).mean())
    while slope(high) <= 0:  # ends: at high enough 1/T the misclassified rows dominate
        high *= 2
    return 1.0 / scipy.optimize.root_scalar(slope, bracket=(0.0, high), xtol=high * 1e-14, rtol=1e-13).root


def _platt(z: Floats, y: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and intercept; the optimum is convex, its slope positive iff positives have the higher mean log-odds."""
    if not z[y].mean() > z[~y].mean():
        raise ValueError(
            f"mean log-odds of positives is {z[y].mean():.3g}, of negatives {z[~y].mean():.3g}: Platt's slope would "
            "not be positive; check the order of the yes and no tokens, or the labels"
        )
    positives, negatives = int(y.sum()), int((~y).sum())
    target = np.where(y, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    centre, scale = z.mean(), z.std()
    x = np.stack([(z - centre) / scale, np.ones_like(z)])  # (2, n)

    def value(w: Floats) -> tuple[float, Floats]:
        s = w @ x
        return float(np.mean(np.logaddexp(0, s) - target * s)), x @ (expit(s) - target) / z.size

    def hessian(w: Floats) -> Floats:
        p = expit(w @ x)
        return (x * (p * (1 - p))) @ x.T / z.size

    start = np.array([0.0, logit(target.mean())])
    w = scipy.optimize.minimize(value, start, jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-10}).x
    return float(w[0] / scale), float(w[1] - w[0] * centre / scale)


def _isotonic(z: Floats, y: NDArray[np.bool_]) -> tuple[list[float], list[float]]:
    floor = 1 / (z.size + 2)
    model = IsotonicRegression(y_min=floor, y_max=1 - floor).fit(z, y.astype(np.float64))
    return model.X_thresholds_.tolist(), model.y_thresholds_.tolist()


@dataclass(frozen=True)
class CrossFit:
    """Out-of-fold results: P(yes) and calibrated log-odds (n,) float64, fold (n,) int64, one calibrator per fold.

    `before` and `after` hold ece (15 bins), brier and nll (nats, exact from log-odds) of the same n labels.
    """

    probabilities: Floats
    log_odds: Floats
    fold: NDArray[np.int64]
    calibrators: tuple[Calibrator, ...]
    before: dict[str, float]
    after: dict[str, float]


def cross_fit(
    kind: Kind,
    log_odds: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    folds: int = 5,
    seed: int = 0,
    *,
    min_isotonic: int = 1000,
) -> CrossFit:
    """Calibrate each labelled pair by a fit on other groups' labels, and say what calibration gains.

    log_odds, labels, groups (n,); no group (technique, or patent) is in two folds, and folds have like shares of
    positives as far as groups allow (scikit-learn's StratifiedGroupKFold). `min_isotonic` is asked of all n labels.
    ValueError as in `fit`, naming the fold, and when groups or positives are fewer than folds.
    """
    z = stats.as_scores(log_odds, "log_odds", finite=True)
    y = stats.as_labels(labels, z.size)
    ids = np.asarray(groups)
    if ids.shape != z.shape:
        raise ValueError(f"groups have shape {ids.shape}, expected {z.shape}: pass one technique id per label")
    if kind == "isotonic" and z.size < min_isotonic:
        fit(kind, z, y, min_isotonic=min_isotonic)  # refuses, with the reason
    codes = np.unique(ids, return_inverse=True)[1]
    fold = grouped_folds(y, codes, folds, seed)
    out, calibrators = np.empty(z.size), []
    for k in range(folds):
        try:
            calibrators.append(fit(kind, z[fold != k], y[fold != k], min_isotonic=0))
        except ValueError as error:
            raise ValueError(f"fold {k} of {folds}: {error}") from error
        out[fold == k] = calibrators[-1].log_odds(z[fold == k])
    return CrossFit(expit(out), out, fold, tuple(calibrators), _summary(z, y), _summary(out, y))


def grouped_folds(y: NDArray[np.bool_], codes: NDArray[np.intp], folds: int, seed: int) -> NDArray[np.int64]:
    """(n,) the fold of each label: no group (codes (n,) from 0) is in two, shares of positives are alike.

    ValueError when groups or positives are fewer than folds.
    """
    smallest, num_groups = int(min(y.sum(), (~y).sum())), int(codes.max()) + 1
    if folds < 2 or folds > min(smallest, num_groups):
        raise ValueError(
            f"{folds} folds over {num_groups} groups, {int(y.sum())} positives and {int((~y).sum())} negatives: "
            "folds must be 2 or more and at most the least of these; lower folds or add labels"
        )
    fold = np.full(y.size, -1, np.int64)
    splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
    for k, (_, held_out) in enumerate(splitter.split(np.zeros((y.size, 1)), y, codes)):
        if held_out.size == 0 or held_out.size == y.size:
            raise ValueError(f"{num_groups} groups do not fill {folds} folds: lower folds or change seed")
        fold[held_out] = k
    return fold


def _summary(z: Floats, y: NDArray[np.bool_]) -> dict[str, float]:
    p = expit(z)
    return {"ece": stats.ece(p, y), "brier": stats.brier(p, y), "nll": float(np.mean(np.logaddexp(0, z) - y * z))}


def intervals(
    log_odds: ArrayLike,
    labels: ArrayLike,
    groups: ArrayLike,
    *,
    num_resamples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, stats.Interval]:
    """ece, brier and nll of calibrated log-odds (n,), such as those of `cross_fit`, with bootstraps over groups (n,).

    An ECE of few labels is too high, for bins of a calibrated scorer are off by chance; a resample's is by as much
    higher still. So its interval is the basic one (Davison & Hinkley 1997, §5.2), which takes that off twice, and cut
    at 0: the estimate may stand above it.
    """
    z = stats.as_scores(log_odds, "log_odds", finite=True)
    y = stats.as_labels(labels, z.size)
    p = expit(z)
    given = (groups, num_resamples, seed, level)
    ece = stats.bootstrap_statistic(stats.ece, (p, y), *given)
    low, high = (max(0.0, 2 * ece.estimate - end) for end in (ece.high, ece.low))
    return {
        "ece": replace(ece, low=low, high=high),
        "brier": stats.bootstrap_mean((p - y) ** 2, *given),
        "nll": stats.bootstrap_mean(np.logaddexp(0, z) - y * z, *given),
    }


def shift_prior(log_odds: ArrayLike, train_prevalence: float, target_prevalence: float) -> Floats:
    """Move calibrated log-odds (n,) from the share of positives they were fitted on to that of the pairs to score.

    Adds logit(target) - logit(train): exact when the classes look alike and only their shares differ (Elkan 2001 §2;
    methods §1). For probabilities: expit(shift_prior(logit(p), ...)). ValueError unless both shares are in (0, 1).
    """
    z = stats.as_scores(log_odds, "log_odds", finite=True)
    for name, share in (("train_prevalence", train_prevalence), ("target_prevalence", target_prevalence)):
        if not 0 < share < 1:
            raise ValueError(f"{name} is {share}, expected strictly between 0 and 1")
    return z + logit(target_prevalence) - logit(train_prevalence)
