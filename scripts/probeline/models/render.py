"""Chats as the tokens that a model reads, with the exact place of every message in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

from probeline.files import read_json

# Classes that add nothing to what tokenizer.json says.
PLAIN_TOKENIZERS = ("PreTrainedTokenizerFast", "TokenizersBackend")

Messages = Sequence[Mapping[str, str]]

# Stand for the contents while the template's own text is found out: private-use characters, which
# neither a template nor its trimming touches.
OPEN, CLOSE = "\ue000", "\ue001"
BETWEEN_SYSTEM_AND_USER = "\n\n"

# What every template reads as today: its input, and so the activations, must not change with the clock.
# It is the day that templates of Llama 3 fall back to.
TODAY = date(2024, 7, 26)
CLOCK = "strftime_now"
DATE_CODES = "aAbBcdHIjmMpSuUVwWxXyY"


class UnrenderableChatError(Exception):
    """This chat cannot be shown to this model as it is; the text says why, in words that can be counted."""


@dataclass(frozen=True)
class RenderedChat:
    """A chat in the model's own format.

    Attributes:
        text: the whole chat.
        input_ids: its tokens, from one joint tokenisation.
        offsets: for each token its first character in `text`, and one past its last.
        message_starts: for each message the character in `text` at which its content begins (would
            begin, if the template trimmed white space from its front).
        message_bounds: for each message the first character in `text` of what the template left of its
            content, and one past the last.
    """

    text: str
    input_ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    message_starts: tuple[int, ...]
    message_bounds: tuple[tuple[int, int], ...]


def load_tokenizer(model: Path) -> Any:
    """The tokenizer in a model's folder; without importing torch, unless it has a class of its own."""
    config = model / "tokenizer_config.json"
    declared = read_json(config).get("tokenizer_class") if config.exists() else None
    if declared in PLAIN_TOKENIZERS:
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(model, local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model, local_files_only=True, trust_remote_code=False)


def render_chat(tokenizer: Any, messages: Messages) -> RenderedChat:
    """Render a chat with the model's chat template, without the prompt for a further answer.

    A model without a chat template reads lines `role: content`. Where a template refuses the role
    `system`, that message is put in front of the first user message. A template that writes today's date
    writes 26 July 2024.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: dicts with `role` (system, user or assistant) and `content`.

    Raises:
        UnrenderableChatError: a content holds one of the tokenizer's special tokens, or the template
            refuses, reorders or rewrites this chat.
    """
    _refuse_special_tokens(tokenizer, messages)
    text, places = _apply_template(tokenizer, messages) if tokenizer.chat_template else _join(messages)
    encoding = tokenizer(
        text,
        # A chat template writes BOS itself where the model wants it: no second one.
        add_special_tokens=not tokenizer.chat_template,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    return RenderedChat(
        text=text,
        input_ids=tuple(encoding["input_ids"]),
        offsets=tuple(encoding["offset_mapping"]),
        message_starts=tuple(start for start, _, _ in places),
        message_bounds=tuple((first, last) for _, first, last in places),
    )


def prompt_tokens(tokenizer: Any, messages: Messages) -> list[int]:
    """The tokens of a chat up to where the assistant's answer begins, as the chat template asks for one.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: dicts with `role` and `content`.

    Raises:
        UnrenderableChatError: as `render_chat` does.
    """
    return _ids(tokenizer, _prompt_text(tokenizer, messages), begins=True)


def answer_tokens(tokenizer: Any, messages: Messages, answer: str) -> list[int]:
    """The tokens of an answer as the chat template writes it, with the one that ends the turn.

    They follow `prompt_tokens`: what a model generates, and what is trained on.

    Args:
        tokenizer: a fast tokenizer of transformers.
        messages: the chat before the answer.
        answer: what the assistant says.

    Raises:
        UnrenderableChatError: as `render_chat` does.
    """
    prompt = _prompt_text(tokenizer, messages)
    _refuse_special_tokens(tokenizer, [{"content": answer}])
    end = tokenizer.eos_token or ""
    if not tokenizer.chat_template:
        # A space before the answer is a part of its first token.
        return _ids(tokenizer, f" {answer}{end}", begins=False)
    said = [*messages, {"role": "assistant", "content": answer}]
    whole = _render(tokenizer, said if _takes(tokenizer, messages) else _without_system(said))
    # A template may trim an answer, or show old ones otherwise than the one that it asks for.
    told = whole.removeprefix(prompt) if whole.startswith(prompt) else f"{answer}{end}"
    told = told[: told.index(end) + len(end)] if end and end in told else told
    return _ids(tokenizer, told, begins=False)


def _ids(tokenizer: Any, text: str, *, begins: bool) -> list[int]:
    special = begins and not tokenizer.chat_template
    ids: list[int] = tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
    return ids


def _prompt_text(tokenizer: Any, messages: Messages) -> str:
    _refuse_special_tokens(tokenizer, messages)
    if not tokenizer.chat_template:
        text, _ = _join([*messages, {"role": "assistant", "content": ""}])
        # A space before the answer is a part of its first token.
        return text.rstrip()
    return _render(tokenizer, messages if _takes(tokenizer, messages) else _without_system(messages), True)


def _takes(tokenizer: Any, messages: Messages) -> bool:
    """Whether the template shows these roles; else without a system message of its own."""
    if _literals(tokenizer, messages) is not None:
        return True
    if messages[0]["role"] == "system" and _literals(tokenizer, _without_system(messages)) is not None:
        return False
    raise UnrenderableChatError("refused or reordered by the model's chat template")


def _refuse_special_tokens(tokenizer: Any, messages: Messages) -> None:
    if any(token in message["content"] for token in _special_tokens(tokenizer) for message in messages):
        raise UnrenderableChatError("holds a special token of the model")


def token_span(rendered: RenderedChat, message: int, start: int, end: int) -> range | None:
    """The tokens that hold characters `start` to `end` (exclusive) of a message's content.

    White space at both ends is left out first: many tokenizers join a space to the word that follows,
    which would otherwise count the first word after the span. A token that holds a part of the span
    counts as a whole; a token of the template alone never does.

    Returns:
        Positions in `input_ids`, or None when the span holds nothing but white space.
    """
    first, last = rendered.message_bounds[message]
    first = max(first, rendered.message_starts[message] + start)
    last = min(last, rendered.message_starts[message] + end)
    masked = rendered.text[first:last]
    first += len(masked) - len(masked.lstrip())
    last -= len(masked) - len(masked.rstrip())
    if first >= last:
        return None
    hits = [
        position
        for position, (begin, stop) in enumerate(rendered.offsets)
        if begin < stop and begin < last and stop > first
    ]
    return range(hits[0], hits[-1] + 1) if hits else None


# A place is (start, first, last): where the content's character 0 is or would be, the first character that
# the template left of it, and one past the last.
Place = tuple[int, int, int]


def _special_tokens(tokenizer: Any) -> set[str]:
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added.union(tokenizer.all_special_tokens)


def _join(messages: Messages) -> tuple[str, list[Place]]:
    """The format for models without a chat template."""
    literals = [f"{message['role']}: " for message in messages]
    literals = [*literals[:1], *(f"\n{literal}" for literal in literals[1:]), "\n"]
    contents = [message["content"] for message in messages]
    text = "".join(part for pair in zip(literals, [*contents, ""], strict=True) for part in pair)
    return text, _locate(text, literals, contents)


def _apply_template(tokenizer: Any, messages: Messages) -> tuple[str, list[Place]]:
    chat, literals = messages, _literals(tokenizer, messages)
    if literals is None and messages[0]["role"] == "system":
        chat = _without_system(messages)
        literals = _literals(tokenizer, chat)
    if literals is None:
        raise UnrenderableChatError("refused or reordered by the model's chat template")
    text = _render(tokenizer, chat)
    places = _locate(text, literals, [message["content"] for message in chat])
    if len(chat) < len(messages):
        start, first, last = places[0]
        system_end = start + len(messages[0]["content"])
        user = system_end + len(BETWEEN_SYSTEM_AND_USER)
        places[:1] = [(start, first, min(last, system_end)), (user, max(first, user), last)]
    return text, places


def _render(tokenizer: Any, messages: Messages, asks: bool = False) -> str:
    template = tokenizer.get_chat_template()
    if CLOCK in template:
        template = _stopped_clock() + template
    return tokenizer.apply_chat_template(
        list(messages), chat_template=template, tokenize=False, add_generation_prompt=asks
    )


@cache
def _stopped_clock() -> str:
    """A macro that hides transformers' `strftime_now` from a template, and knows one day only.

    It is a part of the template because transformers hands no functions over to templates. It ends in a
    line break, which is dropped, so that what follows still begins a line, as `lstrip_blocks` needs.
    """
    codes = [f"%{code}" for code in DATE_CODES] + [f"%-{code}" for code in "dmHIMSj"]
    filled = "".join(f" | replace({code!r}, {TODAY.strftime(code)!r})" for code in codes)
    return f"{{% macro {CLOCK}(format) %}}{{{{ format{filled} }}}}{{% endmacro %}}\n"


def _without_system(messages: Messages) -> Messages:
    """The chat with its system message as part of the first user message, or as one of its own."""
    system, *others = messages
    if not others or others[0]["role"] != "user":
        return [{"role": "user", "content": system["content"]}, *others]
    content = f"{system['content']}{BETWEEN_SYSTEM_AND_USER}{others[0]['content']}"
    return [{"role": "user", "content": content}, *others[1:]]


def _literals(tokenizer: Any, messages: Messages) -> list[str] | None:
    """The template's own text before, between and after the contents.

    Found with marks in the contents' places, never by searching for a content. None if the template
    refuses these roles, or does not show every message once and in order.
    """
    from jinja2 import TemplateError

    marks = [f"{OPEN}{index}{CLOSE}" for index in range(len(messages))]
    marked = [
        {"role": message["role"], "content": mark} for message, mark in zip(messages, marks, strict=True)
    ]
    try:
        rest = _render(tokenizer, marked)
    except TemplateError:
        return None
    if rest.count(OPEN) != len(marks):
        return None
    literals = []
    for mark in marks:
        literal, found, rest = rest.partition(mark)
        if not found:
            return None
        literals.append(literal)
    return [*literals, rest]


def _locate(text: str, literals: Sequence[str], contents: Sequence[str]) -> list[Place]:
    """The places of the contents in `text`, which the template may have trimmed but not rewritten."""
    rewritten = UnrenderableChatError("rewritten by the model's chat template")
    if not text.startswith(literals[0]):
        raise rewritten
    position = len(literals[0])
    places = []
    for content, following in zip(contents, literals[1:], strict=True):
        ways = (content, content.strip(), content.lstrip(), content.rstrip())
        kept = next((way for way in ways if text.startswith(way + following, position)), None)
        if kept is None:
            raise rewritten
        cut = 0 if content.startswith(kept) else len(content) - len(content.lstrip())
        places.append((position - cut, position, position + len(kept)))
        position += len(kept) + len(following)
    if position != len(text):
        raise rewritten
    return places
