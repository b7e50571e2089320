"""Group-relative policy optimisation: completions of one prompt, each rewarded next to the group's mean."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from probeline.adapters.held_out import compared, in_both, mean_of, verdict
from probeline.adapters.training import Rows, Session, train
from probeline.compute.body import BodyFiles
from probeline.compute.workplace import shared_folder

COLUMNS = {"tree": ("id", "prompt", "actual"), "judge": ("id", "prompt", "ground_truth", "rubric")}
PARTS = ("calibration", "sharpness", "diversity")


def train_grpo(spec: Mapping[str, Any], files: BodyFiles) -> None:
    """Train as a recipe of the method grpo says, see `training.train`."""
    with _rewarder(spec, files) as rewarder:
        train(spec, files, lambda session: _trainer(session, rewarder), _measure, _summary)


def _trainer(session: Session, rewarder: Callable[[Rows], Rows]) -> Any:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    from probeline.models.render import prompt_tokens

    recipe = session.recipe

    class Trainer(GRPOTrainer):
        def _tokenize_prompts(self, prompts: Any) -> Any:
            """Prompts as the model is asked with them later, too; no pictures, and nothing else."""
            return [prompt_tokens(session.tokenizer, prompt) for prompt in prompts], None, {}

        def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> tuple[None, None, None]:
            """Completions and their rewards, without the loss of them: nobody reads it; it takes as long."""
            self._prepare_inputs(inputs)
            return None, None, None

    def table(rows: Rows) -> Any:
        return Dataset.from_list([{key: row[key] for key in COLUMNS[recipe["reward"]]} for row in rows])

    return Trainer(
        model=session.model,
        reward_funcs=Rewards(session.keeper.rewards, rewarder),
        args=GRPOConfig(
            **session.arguments,
            # The order is that of the rows, each prompt once for each completion of its group.
            shuffle_dataset=False,
            num_generations=recipe["generations"],
            num_generations_eval=1,
            per_device_eval_batch_size=16,
            temperature=recipe["temperature"],
            max_completion_length=recipe["completion_tokens"],
            beta=recipe["beta"],
        ),
        train_dataset=table(session.examples.train),
        eval_dataset=table(session.examples.held_out) if session.examples.held_out else None,
        processing_class=session.tokenizer,
        peft_config=session.lora,
        callbacks=[session.keeper],
    )


class Rewards:
    """A reward function of TRL that remembers what it gave.

    Attributes:
        given: rows about completions of the training.
        held_out: the same while held-out prompts are measured; None while it trains.
    """

    __name__ = "reward"

    def __init__(self, given: Rows, rewarder: Callable[[Rows], Rows]) -> None:
        """Begin.

        Args:
            given: as above.
            rewarder: gives each row with its completion its reward, None where there is no telling.
        """
        self.given = given
        self.held_out: Rows | None = None
        self._rewarder = rewarder

    def __call__(
        self, *, prompts: Any, completions: Any, trainer_state: Any, **columns: Any
    ) -> list[float | None]:
        """The rewards of completions; None takes one out of its group (it is never 0)."""
        asked = [
            {
                "step": trainer_state.global_step + 1,
                "prompt": prompt,
                "completion": completion[0]["content"],
                **{key: values[place] for key, values in columns.items() if key in ROW_COLUMNS},
            }
            for place, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]
        rewarded = self._rewarder(asked)
        rows = self.given if self.held_out is None else self.held_out
        rows += [{key: row[key] for key in row if key not in UNKEPT} for row in rewarded]
        return [row["reward"] for row in rewarded]


ROW_COLUMNS = ("id", "actual", "ground_truth", "rubric")
UNKEPT = ("prompt", "actual", "ground_truth", "rubric")
"""Of a row about a completion, what the dataset tells by its id."""


def _rewarder(spec: Mapping[str, Any], files: BodyFiles) -> AbstractContextManager[Callable[[Rows], Rows]]:
    """What gives rows with a `completion` their `reward`, 0 to 1, while it is open."""
    if spec["recipe"]["reward"] == "tree":
        return nullcontext(_tree_rewards())
    return _judge_rewards(spec, files)


def _tree_rewards() -> Callable[[Rows], Rows]:
    from probeline.adapters.rewards import tree_reward
    from probeline.models.sentences import sentence_model

    # Now, and not with the first completion: loading a model draws random numbers.
    similarity = sentence_model().similarity

    def rewards(rows: Rows) -> Rows:
        rewarded = []
        for row in rows:
            reward = tree_reward(row["completion"], [row["actual"]], similarity)
            parts = {part: getattr(reward, part) for part in PARTS}
            rewarded.append(row | {"reward": reward.total, "parsed": reward.parsed} | parts)
        return rewarded

    return rewards


@contextmanager
def _judge_rewards(spec: Mapping[str, Any], files: BodyFiles) -> Iterator[Callable[[Rows], Rows]]:
    from probeline.judges import CACHE, JudgeRequest, conversation_text, open_judge

    settings = files.judge or spec["judge"]["settings"]
    with open_judge(spec["judge"]["name"], settings, shared_folder(files) / CACHE.name) as judge:

        def rewards(rows: Rows) -> Rows:
            requests = [
                JudgeRequest(
                    conversation_text(row["prompt"]), row["rubric"], row["ground_truth"], row["completion"]
                )
                for row in rows
            ]
            return [row | {"reward": score} for row, score in zip(rows, judge.scores(requests), strict=True)]

        yield rewards


def _measure(trainer: Any, session: Session) -> Rows:
    from transformers import set_seed

    rewards = trainer.reward_funcs[0]
    if not session.examples.held_out:
        return []
    # The same draws before and after: what differs is the model.
    set_seed(session.seed)
    rewards.held_out = []
    trainer.evaluate()
    rows, rewards.held_out = rewards.held_out, None
    games = {row["id"]: row["game"] for row in session.examples.held_out}
    return [{"game": games[row["id"]], **{key: row[key] for key in row if key != "step"}} for row in rows]


def _summary(before: Rows, after: Rows, session: Session) -> dict[str, Any]:
    masked = sum(row["reward"] is None for row in [*before, *after])
    held_out = len(before)
    before, after = in_both(before, after, "reward")
    reward = compared(before, after, mean_of("reward"), session.seed)
    parts = [part for part in (*PARTS, "parsed") if before and part in before[0]]
    return {
        "split": "validation",
        "reward": reward,
        **{part: compared(before, after, mean_of(part), session.seed) for part in parts},
        "masked": masked,
        # Without a reward before or after, they are in none of these figures.
        "not_compared": held_out - len(before),
        "verdict": verdict(reward, 1),
        "training": groups_told(session.keeper.rewards, session.recipe["generations"]),
    }


def groups_told(rows: Sequence[Mapping[str, Any]], generations: int) -> dict[str, Any]:
    """What became of the groups of a training.

    Args:
        rows: about its completions, those of a group one after the other: a prompt may have two in one step.
        generations: completions of a group.

    Returns:
        `groups`; `without_gradient`, those with equal rewards or fewer than two; `masked`, completions
        without a reward; `unparsed`, those that could not be read (of the reward tree); `first_reward` and
        `last_reward`, means over the first and the last fifth of the steps.
    """
    starts = range(0, len(rows), generations)
    groups = [[row["reward"] for row in rows[start : start + generations]] for start in starts]
    groups = [[reward for reward in group if reward is not None] for group in groups]
    steps = sorted({row["step"] for row in rows})
    fifth = max(len(steps) // 5, 1)
    counts = Counter(row.get("parsed", True) for row in rows)
    mean = mean_of("reward")
    return {
        "groups": len(groups),
        "without_gradient": sum(len(set(group)) < 2 for group in groups),
        "masked": sum(row["reward"] is None for row in rows),
        "unparsed": counts[False],
        "first_reward": mean([row for row in rows if row["step"] in steps[:fifth]]),
        "last_reward": mean([row for row in rows if row["step"] in steps[-fifth:]]),
    }
