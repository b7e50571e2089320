"""Direct preference optimisation: prefer the chosen completion, next to the model that it starts from."""

import copy
from collections.abc import Mapping
from typing import Any

from probeline.adapters.held_out import compared, completion_losses, mean_of, verdict
from probeline.adapters.training import Rows, Session, train
from probeline.compute.body import BodyFiles

COLUMNS = ("prompt_ids", "chosen_ids", "rejected_ids")


def train_dpo(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Train as a recipe of the method dpo says, see `training.train`."""
    train(spec, files, _trainer, _measure, _summary)


def _trainer(session: Session) -> Any:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            """Nothing: rows come as tokens, and this trainer would render chats in its own way."""
            return dataset

    def table(rows: Rows) -> Any:
        return Dataset.from_list([{key: row[key] for key in COLUMNS} for row in rows])

    return Trainer(
        model=session.model,
        # Of an adapter that is trained on, the trainer copies the start for its reference; a new one is put
        # out for it. A whole model is no reference to itself.
        ref_model=copy.deepcopy(session.model) if session.recipe["lora"] is None else None,
        args=DPOConfig(
            **session.arguments,
            train_sampling_strategy="sequential",
            beta=session.recipe["beta"],
            # What is too long was left out before.
            max_length=None,
        ),
        train_dataset=table(session.examples.train),
        eval_dataset=table(session.examples.held_out) if session.examples.held_out else None,
        processing_class=session.tokenizer,
        peft_config=session.lora,
        callbacks=[session.keeper],
    )


def _measure(trainer: Any, session: Session) -> Rows:
    rows = trainer.eval_dataset or []
    losses = {}
    for kind in ("chosen", "rejected"):
        shown = [
            (row["prompt_ids"] + row[f"{kind}_ids"], [-100] * len(row["prompt_ids"]) + row[f"{kind}_ids"])
            for row in rows
        ]
        losses[kind] = completion_losses(trainer.model, shown, session.tokenizer.pad_token_id)
    return [
        {
            "game": row["game"],
            "chosen": -chosen,
            "rejected": -rejected,
            "preferred": float(chosen < rejected),
            "margin": rejected - chosen,
        }
        for row, chosen, rejected in zip(
            session.examples.held_out, losses["chosen"], losses["rejected"], strict=True
        )
    ]


def _summary(before: Rows, after: Rows, session: Session) -> dict[str, Any]:
    likelier = compared(before, after, mean_of("preferred"), session.seed)
    margin = compared(before, after, mean_of("margin"), session.seed)
    pairs = [
        ({"game": one["game"], "wins": 0.5}, {"game": one["game"], "wins": _wins(one, other)})
        for one, other in zip(before, after, strict=True)
    ]
    accuracy = compared(
        [one for one, _ in pairs], [other for _, other in pairs], mean_of("wins"), session.seed
    )
    return {
        "split": "validation",
        # As DPO has it, next to where it started: there, every pair is a tie and counts one half.
        "preference_accuracy": accuracy,
        # The longer of two answers is seldom the likelier one, whatever is preferred.
        "chosen_is_likelier": likelier,
        "log_likelihood_margin": margin,
        "chosen_log_likelihood": compared(before, after, mean_of("chosen"), session.seed),
        "verdict": verdict(accuracy, 1),
        "verdict_of_margin": verdict(margin, 1),
        "verdict_of_likelier": verdict(likelier, 1),
    }


def _wins(before: Mapping[str, Any], after: Mapping[str, Any]) -> float:
    """1 where the chosen answer has gained more than the rejected one, 0 where less."""
    gain = after["margin"] - before["margin"]
    return 0.5 if gain == 0 else float(gain > 0)
