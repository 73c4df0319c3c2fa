"""The objectives by name."""

from patentft.objectives import classify, contrastive

OBJECTIVES = {"classify": classify, "contrastive": contrastive}
