"""A tiny chat model that was taught a few questions, so that its likeliest tokens stand out."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from patentft.models.template import Template
from tests.tiny import save_tiny_chat

QUESTIONS = [
    ("The filter is heated with steam.", "What is heated?", "the filter"),
    ("Flue gas flows through a hot catalyst bed, where ammonia is added.", "What is added?", "ammonia"),
    (None, "Which gas is scrubbed?", "sulphur dioxide from the flue gas of the plant"),
    ("Dust.", "Which device?", "a bag filter"),
    ("Waste water is cleaned in a tank with sand, lime and air. " * 3, "Where?", "in a tank"),
    (None, "Why?", "less dust"),
]


def user_text(context: str | None, question: str) -> str:
    return f"{context or ''}\n\n{question}".strip()


def save_taught(folder: Path, steps: int = 120, seed: int = 0) -> str:
    """Trains every token of the answers, end token included; returns the folder."""
    save_tiny_chat(folder, seed=seed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    template = Template(tokenizer, "chat", "prompt")
    rows = []
    for context, question, answer in QUESTIONS:
        messages = [{"role": "user", "content": user_text(context, question)}]
        prompt = template.ids(template.text(messages, ask=True))
        rows.append((prompt, [*tokenizer(answer, add_special_tokens=False)["input_ids"], template.end]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, (prompt, answer) in enumerate(rows):
        whole = prompt + answer
        ids[row, : len(whole)], mask[row, : len(whole)] = torch.tensor(whole), 1
        labels[row, len(prompt) : len(whole)] = torch.tensor(answer)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for _ in range(steps):
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return str(folder)
