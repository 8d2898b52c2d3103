"""Between requests and token ids: rendering prompts, decoding replies, streaming text."""

import functools
from typing import Any

from ..engine import Prompt

INCOMPLETE = "\ufffd"
"""What a decoder puts where a character's bytes are not all there yet."""


class PromptError(ValueError):
    """A prompt cannot be given to the model. The message says why."""


class Text:
    """A tokenizer with a chat template, as the engine needs it."""

    def __init__(self, tokenizer: Any, vocabulary: int) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.encode = functools.lru_cache(maxsize=4096)(self._encode)
        """Ids of a rendered prompt; samples of one problem are rendered once."""

    def _encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of the conversation, the generation prompt and the prefill.

        Raises:
            PromptError: the template refuses it, or a token is not in the model's vocabulary.
        """
        messages = [{"role": m.role, "content": m.content} for m in prompt.messages]
        try:
            rendered = self.tokenizer.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=False
            )
        except Exception as error:  # templates are code; they raise what they like
            raise PromptError(f"the chat template refuses the prompt: {error}") from error
        ids = self.tokenizer(rendered + prompt.prefill, add_special_tokens=False).input_ids
        if not ids:
            raise PromptError("the prompt is empty")
        if max(ids) >= self.vocabulary:
            raise PromptError(f"token {max(ids)} is not in the model's {self.vocabulary} tokens")
        return tuple(ids)

    def decode(self, last_prompt_token: int, tokens: list[int]) -> str:
        """The text of generated tokens. Some tokenizers drop a blank at the start of a text, so
        the token in front is decoded along and cut off.
        """
        front = self._plain([last_prompt_token])
        whole = self._plain([last_prompt_token, *tokens])
        return whole[len(front) :] if whole.startswith(front) else self._plain(tokens)

    def _plain(self, tokens: list[int]) -> str:
        text: str = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


class Stream:
    """Decodes a reply token by token, holding back characters whose bytes are incomplete."""

    def __init__(self, text: Text, last_prompt_token: int) -> None:
        self.text, self.ids = text, [last_prompt_token]
        self.start, self.done = 0, 1
        self.sent = ""

    def push(self, token: int) -> str:
        """New text, often empty or one token's worth."""
        self.ids.append(token)
        old = self.text._plain(self.ids[self.start : self.done])
        new = self.text._plain(self.ids[self.start :])
        if len(new) <= len(old) or new.endswith(INCOMPLETE):
            return ""
        self.start, self.done = self.done, len(self.ids)
        self.sent += new[len(old) :]
        return new[len(old) :]

    def rest(self, whole: str) -> str:
        """What of the whole reply has not been sent."""
        return whole[len(self.sent) :] if whole.startswith(self.sent) else ""
