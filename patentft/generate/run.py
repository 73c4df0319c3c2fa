"""The answer stage: one model answers the questions of a qa stage, part by part in a pool of actors.

    QA -> parts of fixed rows -> actors: prompts, batches, answers -> one committed part of ANSWERS each

A part that was committed is not asked again; with `cache` set, nor is a question that another stage or run has asked in
the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import torch

from patentft import schema
from patentft.cluster import map_parts, require, share_cpus
from patentft.config import ConfigError
from patentft.generate.cache import AnswerCache
from patentft.generate.chat import Chat
from patentft.generate.local import load_local
from patentft.generate.questions import AnswerConfig, Asker, Question, as_questions, draw_examples, final_answer
from patentft.location import Location
from patentft.models.load import fingerprint
from patentft.stage import Context, Stage
from patentft.store import StageFolder

Part = tuple[int, int, int]
"""(index of a part of QA, first row in it, number of rows)"""


def run(config: AnswerConfig, context: Context) -> dict[str, Any]:
    """Table answers, in the order of QA. Counts: questions, tokens, contexts cut, answers cut, empty or without a
    marker, and the ids of the examples.
    """
    require(
        config.workers * config.cpus_per_worker,
        config.workers * config.gpus_per_worker,
        f"stage {context.folder.name}",
        "workers, cpus_per_worker or gpus_per_worker",
    )
    source, folder = context.input(config.data), context.folder
    parts = _parts(source, config.rows_per_part)
    if not parts:
        raise ConfigError(f"stage {config.data!r} has no question to answer")
    examples, left_out = _examples(config, context)
    missing = folder.missing_parts("answers", len(parts))
    model = context.model(config.model)
    _, cpus = share_cpus(config.workers, config.cpus_per_worker, context.progress.say)
    arguments = {
        "config": config,
        "model": model,
        "identity": fingerprint(model) if config.cache and missing else "",  # reads all the weights
        "source": source,
        "folder": folder,
        "parts": parts,
        "examples": examples,
    }
    finished = map_parts(
        missing, AnswerWorker, arguments, workers=config.workers, cpus=cpus, gpus=config.gpus_per_worker
    )
    for _ in context.progress.bar(finished, len(missing), "parts answered"):
        pass
    counts = _counts(folder, len(parts))
    if config.examples:
        counts |= {"examples": [row.qa_id for row in examples], "examples_left_out": left_out}
    return counts


def _parts(source: StageFolder, rows_per_part: int) -> list[Part]:
    parts: list[Part] = []
    for index, entry in enumerate(source.parts("qa")):
        rows = entry.rows or 0
        parts += [(index, low, min(rows_per_part, rows - low)) for low in range(0, rows, rows_per_part)]
    return parts


def _examples(config: AnswerConfig, context: Context) -> tuple[list[Question], int]:
    if config.examples is None or config.num_examples is None:
        return [], 0
    asked: set[tuple[str | None, str]] = set()
    for part in context.input(config.data).iter_parts("qa", ["context", "question"]):
        asked |= {(row["context"], row["question"]) for row in part.to_pylist()}
    pool = as_questions(context.input(config.examples).read("qa").to_pylist())
    examples, left_out = draw_examples(pool, asked, config.num_examples, config.settings.seed)
    if left_out:
        context.progress.warn(
            f"{left_out:,} of {len(pool):,} questions of stage {config.examples!r} are asked here: none is an example"
        )
    return examples, left_out


def _counts(folder: StageFolder, num_parts: int) -> dict[str, Any]:
    totals: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    for index in range(num_parts):
        rows = folder.read_part(folder.entry("answers", index)).to_pylist()
        totals["questions"] += len(rows)
        for row in rows:
            totals["prompt_tokens"] += row["prompt_tokens"]
            totals["answer_tokens"] += row["answer_tokens"]
            totals["contexts_cut"] += row["context_cut"]
            totals["answers_cut"] += not row["finished"]
            if row["problem"]:
                problems[row["problem"]] += 1
    return {**totals, "problems": dict(sorted(problems.items()))}


class AnswerWorker:
    """Holds the model; answers and commits one part a call."""

    def __init__(
        self,
        config: AnswerConfig,
        model: str,
        identity: str,
        source: StageFolder,
        folder: StageFolder,
        parts: Sequence[Part],
        examples: Sequence[Question],
    ) -> None:
        device = torch.device("cuda" if config.gpus_per_worker else "cpu")
        if device.type == "cpu":
            torch.set_num_threads(max(1, int(config.cpus_per_worker)))
        self.config, self.source, self.folder, self.parts = config, source, folder, parts
        generator = load_local(
            model,
            template=config.prompt.template,
            identity=identity,
            device=device,
            dtype=config.dtype,
            tokens_per_batch=config.tokens_per_batch,
        )
        cache = AnswerCache(Location(config.cache)) if config.cache else None
        self.chat = Chat(generator, config.settings, cache)
        self.asker = Asker(config, generator.template, examples)

    def write(self, index: int) -> None:
        """Commit part `index` of ANSWERS."""
        part, low, count = self.parts[index]
        entry = self.source.parts("qa")[part]
        rows = self.source.read_part(entry, ["qa_id", "context", "question"]).slice(low, count).to_pylist()
        asked = [self.asker.messages(question) for question in as_questions(rows)]
        answers = self.chat.chat_many(
            [messages for messages, _ in asked], names=[f"question {row['qa_id']}" for row in rows]
        )
        written: list[dict[str, Any]] = []
        for row, (_, cut), answer in zip(rows, asked, answers, strict=True):
            final, problem = final_answer(answer.text, self.config.reasoning_steps)
            written.append(
                {
                    "qa_id": row["qa_id"],
                    "method": self.config.method,
                    "answer": final,
                    "text": answer.text,
                    "prompt_tokens": answer.prompt_tokens,
                    "answer_tokens": answer.answer_tokens,
                    "finished": answer.finished,
                    "context_cut": cut,
                    "problem": problem,
                }
            )
        self.folder.write_part("answers", index, pa.Table.from_pylist(written, schema=schema.ANSWERS))


ANSWER = Stage("answer", AnswerConfig, run)
