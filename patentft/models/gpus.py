"""GPUs by name: memory and rates of their makers' data sheets, for estimates before a run."""

from __future__ import annotations

from dataclasses import dataclass

from patentft.config import ConfigError, nearest


@dataclass(frozen=True)
class Gpu:
    memory_gib: float
    """As the driver reports it."""
    bf16_tflops: float
    """Of dense matrix products with fp32 sums, by the maker's data sheet."""
    fp32_tflops: float
    """Without TF32."""
    utilization: float
    """Share of that rate a training reaches (MFU). Assumed, not measured."""

    def hours(self, flop: float, *, bf16: bool) -> float:
        """At the utilization that the table assumes."""
        rate = self.bf16_tflops if bf16 else self.fp32_tflops
        return flop / (rate * 1e12 * self.utilization) / 3600


GPUS = {
    "a100-40": Gpu(39.4, 312, 19.5, 0.4),
    "a100-80": Gpu(79.1, 312, 19.5, 0.4),
    "h100-80": Gpu(79.1, 989, 67, 0.35),
    "h200": Gpu(139.8, 989, 67, 0.35),
    "l40s": Gpu(44.4, 362, 91.6, 0.35),
    "l4": Gpu(22.0, 121, 30.3, 0.3),
    "a10g": Gpu(22.0, 70, 31.2, 0.35),
    "rtx-4090": Gpu(23.5, 165, 82.6, 0.35),
    "rtx-3090": Gpu(23.6, 71, 35.6, 0.35),
    "t4": Gpu(14.6, 65, 8.1, 0.25),
    "4gb": Gpu(3.9, 18, 9, 0.25),
}
"""t4: has no units for bf16, its rate is that of fp16 and bf16 is slower. 4gb: a small card, a laptop's RTX 3050."""
SAME_GPU = {"a100": "a100-80", "h100": "h100-80", "4090": "rtx-4090", "3090": "rtx-3090", "a10": "a10g"}


def gpu_of(name: str) -> tuple[str, Gpu]:
    """By name, however it is spelled ("H100 80GB", "rtx 4090"). Raises ConfigError naming the nearest known one."""
    plain = name.lower().strip().replace(" ", "-").replace("_", "-").removeprefix("nvidia-")
    if plain not in GPUS:
        plain = plain.removesuffix("gb")
    plain = SAME_GPU.get(plain, plain)
    if plain not in GPUS:
        raise ConfigError(f"--gpu {name!r}: not in the table{nearest(plain, list(GPUS))}")
    return plain, GPUS[plain]
