"""Supervised fine-tuning: learn the completions; the loss is on them alone."""

from collections.abc import Mapping
from typing import Any

from probeline.adapters.held_out import compared, completion_losses, per_token, verdict
from probeline.adapters.training import Rows, Session, train
from probeline.compute.body import BodyFiles


def train_sft(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Train as a recipe of the method sft says, see `training.train`."""
    train(spec, files, _trainer, _measure, _summary)


def _trainer(session: Session) -> Any:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    def table(rows: Rows) -> Any:
        return Dataset.from_list([_tokens(row) for row in rows])

    return SFTTrainer(
        model=session.model,
        args=SFTConfig(
            **session.arguments,
            train_sampling_strategy="sequential",
            # What is too long was left out before.
            max_length=None,
        ),
        train_dataset=table(session.examples.train),
        eval_dataset=table(session.examples.held_out) if session.examples.held_out else None,
        processing_class=session.tokenizer,
        peft_config=session.lora,
        callbacks=[session.keeper],
    )


def _tokens(row: Mapping[str, Any]) -> dict[str, list[int]]:
    """An example as the trainer takes it; the loss is on its completion alone."""
    prompt, completion = row["prompt_ids"], row["completion_ids"]
    return {"input_ids": prompt + completion, "labels": [-100] * len(prompt) + completion}


def _measure(trainer: Any, session: Session) -> Rows:
    rows = trainer.eval_dataset or []
    shown = [(row["input_ids"], row["labels"]) for row in rows]
    losses = completion_losses(trainer.model, shown, session.tokenizer.pad_token_id)
    return [
        {"game": row["game"], "loss": loss, "tokens": sum(label != -100 for label in labels)}
        for row, loss, (_, labels) in zip(session.examples.held_out, losses, shown, strict=True)
    ]


def _summary(before: Rows, after: Rows, session: Session) -> dict[str, Any]:
    loss = compared(before, after, per_token, session.seed)
    return {"split": "validation", "loss": loss, "verdict": verdict(loss, -1)}
