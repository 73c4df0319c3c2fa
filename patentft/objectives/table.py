"""The objectives by name.

An objective is a module with INPUT (which tables it learns from: "pairs" or "packed"), METRIC (the one that chooses the
best weights, larger is better), UNITS_PER_BATCH, and build, head_name, wrap, backbone, units, weight, collate,
parameter_groups, loss, predict, metrics; for "pairs" also encode.
"""

from patentft.objectives import causal, classify, contrastive

OBJECTIVES = {"causal": causal, "classify": classify, "contrastive": contrastive}
