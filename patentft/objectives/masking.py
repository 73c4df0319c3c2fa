"""Which tokens of a text are masked, and what stands there instead: drawn by the text's own seed.

A draw is made in two halves, so that a batch can be made before it is known how many tokens are masked. `draw` puts
the candidates of a text in a random order and says what each would become; `masked` takes the first of them. The seed
is the text's (seed, epoch, row, segment): the draw is the same in any batch, on any rank and after a restart, packed or
padded, and another in each epoch.

The number of masked tokens is exact, not binomial: max(1, round(share * candidates)) of each text. A short text is
never without any, and how much a step weighs does not depend on luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from patentft.config import ConfigError
from patentft.objectives.encoded import SpecialTokens, Unit

MASKED, RANDOM = 0.8, 0.1
"""Of the chosen tokens: so many become the mask token, so many a random one, and the rest stay as they are (BERT,
Devlin et al. 2019, arXiv:1810.04805, section 3.1)."""
NEVER = np.iinfo(np.int32).max
"""The place in the random order of a token that is no candidate."""


def draw(
    ids: npt.NDArray[np.int64],
    candidates: npt.NDArray[np.bool_],
    seed: Sequence[int],
    mask: int,
    others: npt.NDArray[np.int64],
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(order, becomes) of one text's tokens, each (T,).

    ids, candidates: (T,). others: (K,) the ids that a random replacement is one of. order: from 0 over the candidates,
    NEVER elsewhere. becomes: the token that stands there if it is chosen.
    """
    rng = np.random.default_rng(seed)
    places = np.flatnonzero(candidates)
    order = np.full(len(ids), NEVER, dtype=np.int64)
    order[places] = rng.permutation(len(places))
    fate = rng.random(len(places))
    random = others[rng.integers(len(others), size=len(places))]
    becomes = ids.copy()
    becomes[places] = np.where(fate < MASKED, mask, np.where(fate < MASKED + RANDOM, random, ids[places]))
    return order, becomes


def draws(
    ids: npt.NDArray[np.int64],
    segments: npt.NDArray[np.int64],
    chosen: Sequence[Unit],
    tokens: SpecialTokens,
    *,
    first: bool,
) -> dict[str, npt.NDArray[np.int64]]:
    """order, becomes, candidates (in the token's text), each (B, T), of packed rows or padded segments.

    first: whether the first token of a text is a candidate. Special tokens never are, nor is a text of one token.
    Raises ConfigError for a tokenizer without a mask token.
    """
    if tokens.mask is None:
        raise ConfigError("the tokenizer has no mask token: choose a model that has one")
    special = np.fromiter(tokens.special, dtype=np.int64)
    candidates = (segments > 0) & ~np.isin(ids, special)
    begins = np.ones_like(candidates)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    if first:
        ends = np.ones_like(candidates)
        ends[:, :-1] = begins[:, 1:]
        candidates &= ~(begins & ends)
    else:
        candidates &= ~begins
    others = ordinary(tokens)
    found = {name: np.zeros_like(ids) for name in ("order", "becomes", "candidates")}
    for row, unit in enumerate(chosen):
        assert unit.draw, "a unit that is masked must have a draw"
        for start, stop in _runs(begins[row], segments[row]):
            here = slice(start, stop)
            own = unit.draw if len(unit.rows) > 1 else (*unit.draw, int(segments[row, start]))
            order, becomes = draw(ids[row, here], candidates[row, here], own, tokens.mask, others)
            found["order"][row, here], found["becomes"][row, here] = order, becomes
            found["candidates"][row, here] = candidates[row, here].sum()
    found["order"][~candidates] = NEVER
    return found


def _runs(begins: npt.NDArray[np.bool_], segments: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """(start, stop) of each text of a row."""
    starts = np.flatnonzero(begins)
    stops = np.append(starts[1:], len(begins))
    real = segments[starts] > 0
    return list(zip(starts[real].tolist(), stops[real].tolist(), strict=True))


@lru_cache(maxsize=4)
def ordinary(tokens: SpecialTokens) -> npt.NDArray[np.int64]:
    """The ids that are no special tokens, rising."""
    assert tokens.vocabulary_size > len(tokens.special)
    return np.setdiff1d(np.arange(tokens.vocabulary_size), np.fromiter(tokens.special, dtype=np.int64))


def masked(batch: Mapping[str, torch.Tensor], share: float) -> torch.Tensor:
    """(B, T) bool: the first max(1, round(share * candidates)) candidates of each text."""
    # in whole numbers: any device rounds the same way
    quota = torch.div(batch["candidates"] * round(share * 10_000) + 5_000, 10_000, rounding_mode="floor")
    return batch["order"] < quota.clamp(min=1)
