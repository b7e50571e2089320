"""Examples that do not fit a model, measured in its own chat template: left out and counted, never cut.

A chat that an answer is to follow, so one that does not end with the assistant, is measured with what the
template writes to ask for one.
"""

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
    asks = _generation_prompt(tokenizer)

    def tokens(chat: Chat) -> int:
        rendered = render_chat(tokenizer, chat)
        if chat[-1]["role"] == "assistant" or not asks:
            return len(rendered.input_ids)
        text = rendered.text + asks
        return len(tokenizer(text, add_special_tokens=not tokenizer.chat_template, verbose=False).input_ids)

    def fits(chats: Sequence[Chat]) -> bool:
        try:
            longest = max(map(tokens, chats))
        except UnrenderableChatError as error:
            counts[f"excluded.{error}".replace(" ", "_")] += 1
            return False
        counts[f"excluded.more_than_{max_tokens}_tokens"] += longest > max_tokens
        return longest <= max_tokens

    return fits


def _generation_prompt(tokenizer: Any) -> str:
    """What the template writes in front of an answer; nothing without a template."""
    if not tokenizer.chat_template:
        return ""
    chat = [{"role": "user", "content": "a"}]
    with_it, without = (
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=asked)
        for asked in (True, False)
    )
    return str(with_it).removeprefix(without)
