"""Examples that do not fit a model, measured in its own chat template: left out and counted, never cut."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Chat = Sequence[dict[str, str]]


def length_check(
    model: Path | None, max_tokens: int | None, counts: Counter[str]
) -> Callable[[Sequence[Chat]], bool]:
    """A function that says whether all chats of an example fit, and counts why they do not.

    Args:
        model: folder of the model; None to measure nothing.
        max_tokens: most tokens of a chat.
        counts: gets `excluded.more_than_<max_tokens>_tokens`, or `excluded.<why it cannot be rendered>`.
    """
    if model is None or max_tokens is None:
        return lambda chats: True
    from probeline.models.render import UnrenderableChatError, load_tokenizer, render_chat

    tokenizer: Any = load_tokenizer(model)

    def fits(chats: Sequence[Chat]) -> bool:
        try:
            longest = max(len(render_chat(tokenizer, chat).input_ids) for chat in chats)
        except UnrenderableChatError as error:
            counts[f"excluded.{error}".replace(" ", "_")] += 1
            return False
        counts[f"excluded.more_than_{max_tokens}_tokens"] += longest > max_tokens
        return longest <= max_tokens

    return fits
