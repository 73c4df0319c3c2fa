"""Post-training quantization of a plain model folder to 8 or 4 bits a weight (bitsandbytes), saved as such.

Only the weights of linear layers inside the blocks are rounded: the embeddings and the heads stay as they are, so a
small model with a large vocabulary shrinks little.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, Literal

import torch

from patentft.models.adapters import qlora

Quantization = Literal["nf4", "int8"]


def write_quantized(source: Path, out: Path, kind: Quantization, auto_class: Any) -> None:
    """Write the model in `source` (a plain transformers folder) quantized, with its tokenizer, into the new folder
    `out`, which `auto_class.from_pretrained` loads as it is.

    nf4: blocks of 64 weights, their scales quantized too, products in fp32 (Dettmers et al. 2023, arXiv:2305.14314).
    int8: row by row, activations too (Dettmers et al. 2022, arXiv:2208.07339).
    """
    from transformers import AutoTokenizer, BitsAndBytesConfig

    # a line at every product of int8
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    settings = qlora.quantization(
        qlora.QloraConfig(base="nf4", compute_dtype="float32") if kind == "nf4" else qlora.QloraConfig(base="int8")
    )
    model = auto_class.from_pretrained(
        source,
        quantization_config=BitsAndBytesConfig(**settings),
        device_map={"": "cpu"},
        dtype=torch.float32,
        use_safetensors=True,
        trust_remote_code=False,
    )
    out.mkdir()
    model.save_pretrained(out, safe_serialization=True)  # before it is called: on a CPU that may repack the weights
    AutoTokenizer.from_pretrained(source, trust_remote_code=False).save_pretrained(out)


def weight_bytes(folder: Path) -> int:
    """Bytes of the weights' files, those of subfolders not counted."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
