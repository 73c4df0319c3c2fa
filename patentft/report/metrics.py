"""The report's figures under flat keys, each documented: what metrics.json holds and what the page explains."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from patentft import stats

Value = float | int | str | bool | None

SYSTEMS = {
    "lexical": "TF-IDF (no training)",
    "untrained": "Untrained cosine",
    "encoder": "Fine-tuned encoder",
    "scorer": "Scorer",
}
STEPS = (("encoder", "untrained"), ("scorer", "encoder"), ("scorer", "untrained"))
LEXICAL_STEPS = (("scorer", "lexical"), ("encoder", "lexical"))
"""Shown beside the steps: what training gains over word overlap alone."""
FEATURES = {"cross": "cross_logit", "cosine": "cosine", "lexical": "lexical"}
"""The scorer's parts, as a score stage's weights call them -> column of SCORES."""
PARTS = {
    "lexical": ("lexical",),
    "cosine": ("cosine",),
    "cross_encoder": ("cross",),
    "cosine_and_lexical": ("cosine", "lexical"),
    "cross_encoder_and_lexical": ("cross", "lexical"),
    "cross_encoder_and_cosine": ("cross", "cosine"),
    "combined": ("cross", "cosine", "lexical"),
}
"""Ablations: name -> the parts of the score; combined is the scorer itself, whichever parts it has."""
ABLATION_STEPS = (
    ("combined", "cosine_and_lexical"),
    ("combined", "cross_encoder_and_lexical"),
    ("combined", "cross_encoder_and_cosine"),
    ("combined", "lexical"),
    ("combined", "cosine"),
    ("combined", "cross_encoder"),
    ("cross_encoder", "cosine"),
)
ABOVE, UNCLEAR, BELOW = "above 0", "not distinguishable from 0", "below 0"

KEYS = {
    "num_folds": "folds (technique splits) evaluated",
    "labels_exhaustive": (
        "whether a pair that is not a known match is truly negative; if not, AUC, precision and F1 are lower bounds"
    ),
    "role": "the side of the split that is evaluated: test, or all when nothing was held out",
    "leak.{what}": (
        "evaluated techniques (train or valid side) or patents (train side) that a model may have learned from; "
        "should be 0"
    ),
    "num_techniques": "evaluated techniques with a known match in the pool, summed over folds",
    "num_patents": "evaluated patents with a known match among the searched techniques, summed over folds",
    "num_matches": "known matches evaluated: one row per pair, summed over folds",
    "pool_patents": "patents ranked for each technique (the smallest pool of the folds)",
    "pool_techniques": "techniques ranked for each patent (the smallest pool of the folds)",
    "technique.{system}.{metric}": "search patents for a technique: macro mean over techniques",
    "patent.{system}.{metric}": (
        "search techniques for a patent: macro mean over patents; interval over their techniques"
    ),
    "difference.{step}.{side}.{metric}": (
        "paired difference of two systems on the same rows, bootstrap over techniques"
    ),
    "fold{i}.{side}.{system}.{metric}": "the same figure in one fold",
    "candidates.top_k": "candidates kept per technique (the largest number found)",
    "candidates.{system}.relevant": "known matches on which candidate recall is measured",
    "candidates.{system}.recall_at_{k}": (
        "share of known matches (pooled, not per technique) among the first k of their technique"
    ),
    "candidates.{system}.lower_bound_at_{k}": (
        "exact one-sided 95 % lower bound of that share, pairs taken as independent"
    ),
    "scored.{count}": "pairs scored on the evaluated side, known matches among them, techniques with at least one",
    "scored.prevalence": "share of known matches among the scored pairs",
    "scored.auc_pooled": "AUC over all scored pairs by log-odds, mean over folds (their models differ in scale)",
    "scored.auc_within_technique": "AUC within a technique's scored pairs, mean over techniques with both classes",
    "scored.auc_within_patent": "AUC within a patent's scored pairs, mean over patents with both classes",
    "scored.average_precision": "average precision of the scored pairs by log-odds, mean over folds",
    "scored.{decision}": "at the threshold chosen on the valid side, over the pooled pairs of all folds",
    "scored.always_yes_f1": "F1 of answering yes to every scored pair, 2p/(1+p)",
    "scored.{calibration}_{when}": (
        "expected calibration error (15 bins) or Brier score, before (sigmoid of the log-odds) or after calibration"
    ),
    "scored.distinct_share": "distinct log-odds / scored pairs: a low share betrays a 16-bit or saturated score",
    "fold{i}.threshold": "the fold's threshold of yes",
    "fold{i}.threshold_on": (
        "what the threshold is on: probability (chosen by the score stage) or log_odds (chosen here, on its valid rows)"
    ),
    "fold{i}.scored.{figure}": "the same figure of the scored pairs in one fold",
    "ablation.{score}.{metric}": (
        "on the scored pairs, ranked by some parts of the score, two parts with weights fitted for these two: mean "
        "over techniques with both classes"
    ),
    "ablation.difference.{parts}.{metric}": (
        "paired difference of two such rankings: combined minus some parts is what the others add; bootstrap over "
        "techniques"
    ),
    "fold{i}.weight.{feature}": "the fold's weight of a part in the log-odds; the parts differ in scale",
    "swap.num_pairs": "pairs scored again with another technique's section text",
    "swap.mean_absolute": "mean absolute change of the cross-encoder's log-odds when the section is swapped",
    "swap.share_moved": "share of pairs whose log-odds moved by more than .001",
    "swap.spearman": "rank correlation of the log-odds before and after the swap",
    "swap.mean_drop_{which}": (
        "mean log-odds with the own section less those with another's: known matches, other pairs"
    ),
    "swap.verdict": "the section-swap test in words",
    "funnel.{count}": (
        "techniques and patents of the corpus; pairs possible; pairs searched, kept as candidates, scored (all "
        "roles, sum of folds)"
    ),
    "fold{i}.funnel.{count}": "the same count in one fold",
    "counts.{stage}.{path}": "a count that the stage wrote into its manifest",
    "seconds.{stage}": "wall-clock seconds of the stage's last session",
}
"""Pattern of a key in metrics.json -> what it is. `{...}` stands for one name; `{path}` and `{stage}` may hold dots."""

SUFFIXES = {
    "low": "lower end of the 95 % interval",
    "high": "upper end of the 95 % interval",
    "p_value": "two-sided bootstrap p of no difference",
    "verdict": "above 0, not distinguishable from 0, or below 0",
    "not_defined": "why the value (or its interval) is null",
}
"""What may follow a key, after a dot."""

_NAMES = {
    "what": "techniques|patents",
    "system": "|".join(SYSTEMS),
    "score": "|".join(PARTS),
    "feature": "|".join(FEATURES),
    "step": "|".join(f"{a}_minus_{b}" for a, b in (*STEPS, *LEXICAL_STEPS)),
    "parts": "|".join(f"{a}_minus_{b}" for a, b in ABLATION_STEPS),
    "metric": r"recall_at_\d+|mrr|auc",
    "side": "technique|patent",
    "i": r"\d+",
    "k": r"\d+",
    "count": r"num_pairs|num_positives|num_techniques|techniques|patents|pairs_possible|searched|prefiltered|scored",
    "decision": "f1|precision|recall|mcc|share_yes",
    "calibration": "ece|brier",
    "when": "before|after",
    "figure": r"num_pairs|num_positives|auc_pooled|auc_within_technique|average_precision",
    "which": "matches|others",
    "stage": r".+?",
    "path": r".+",
}


def describe(key: str) -> str | None:
    """What a key of metrics.json means; None for a key that is not documented."""
    base, dot, suffix = key.rpartition(".")
    if dot and suffix in SUFFIXES and (text := describe(base)):
        return f"{text} ({SUFFIXES[suffix]})"
    for pattern, text in KEYS.items():
        parts = re.split(r"\{(\w+)\}", pattern)
        regex = "".join(re.escape(part) if n % 2 == 0 else f"(?:{_NAMES[part]})" for n, part in enumerate(parts))
        if re.fullmatch(regex, key, re.DOTALL):
            return text
    return None


class Metrics(dict[str, Value]):
    """Flat key -> value. What cannot be computed is None, with the reason under `<key>.not_defined`."""

    def put(self, key: str, compute: Callable[[], float]) -> None:
        """Set `key` to compute(); a ValueError or NaN becomes null with its reason."""
        try:
            value = compute()
        except ValueError as error:
            self.undefined(key, str(error))
            return
        if isinstance(value, float) and not math.isfinite(value):
            self.undefined(key, "the value is not a finite number on these rows")
        else:
            self[key] = value

    def undefined(self, key: str, reason: str) -> None:
        self[key] = None
        self[f"{key}.not_defined"] = reason
        if "difference." in key:
            self[f"{key}.verdict"] = None  # there whether or not the difference is defined

    def interval(self, key: str, compute: Callable[[], stats.Interval], point: Callable[[], float]) -> None:
        """Set key, key.low, key.high. Where only the interval is undefined, the point is kept and the reason given."""
        self.put(key, point)
        if self[key] is not None:
            self._ends(key, compute)

    def difference(self, key: str, compute: Callable[[], stats.PairedDifference], point: Callable[[], float]) -> None:
        """Set key, key.low, key.high, key.p_value and key.verdict."""
        self.put(key, point)
        found = self._ends(key, compute) if self[key] is not None else None
        self[f"{key}.p_value"] = found.p_value if isinstance(found, stats.PairedDifference) else None
        self[f"{key}.verdict"] = verdict(found.low, found.high) if found else None

    def _ends(self, key: str, compute: Callable[[], stats.Interval | stats.PairedDifference]):
        try:
            found = compute()
        except ValueError as error:
            self[f"{key}.low"] = self[f"{key}.high"] = None
            self[f"{key}.not_defined"] = f"no interval: {error}"
            return None
        self[f"{key}.low"], self[f"{key}.high"] = found.low, found.high
        return found


def verdict(low: float, high: float) -> str:
    """An interval of a difference in plain words."""
    return ABOVE if low > 0 else BELOW if high < 0 else UNCLEAR
