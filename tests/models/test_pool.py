"""Pooling against loops over rows, whichever side the padding is on."""

from __future__ import annotations

import pytest
import torch

from patentft.models.pool import pool


def example(side: str) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
    """hidden, mask and the rows without padding; what stands at padding must not matter."""
    generator = torch.Generator().manual_seed(0)
    rows = [torch.randn(length, 5, generator=generator) for length in (4, 1, 7)]
    hidden, mask = torch.full((3, 7, 5), 99.0), torch.zeros(3, 7, dtype=torch.int64)
    for number, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(7 - len(row), 7)
        hidden[number, where], mask[number, where] = row, 1
    return hidden, mask, rows


@pytest.mark.parametrize("side", ["left", "right"])
def test_each_pooling(side: str) -> None:
    hidden, mask, rows = example(side)
    torch.testing.assert_close(pool(hidden, mask, "mean"), torch.stack([row.mean(0) for row in rows]))
    torch.testing.assert_close(pool(hidden, mask, "cls"), torch.stack([row[0] for row in rows]))
    torch.testing.assert_close(pool(hidden, mask, "last"), torch.stack([row[-1] for row in rows]))


def test_bf16_mean_is_accumulated_in_fp32() -> None:
    hidden = torch.ones(1, 1000, 2, dtype=torch.bfloat16)
    hidden[0, 0] = 512
    out = pool(hidden, torch.ones(1, 1000, dtype=torch.bool), "mean")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), torch.full((1, 2), 1.511), atol=0.01, rtol=0)


def test_what_is_refused() -> None:
    hidden, mask, _ = example("right")
    with pytest.raises(ValueError, match="expected 'mean', 'cls' or 'last'"):
        pool(hidden, mask, "max")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="no real token"):
        pool(hidden, torch.zeros_like(mask), "mean")
    with pytest.raises(ValueError, match=r"expected \(B, T, D\)"):
        pool(hidden, mask[:, :3], "mean")
