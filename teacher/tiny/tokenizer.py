"""The tokenizer of every built-in tiny model: one token per byte, and seven special ones.

Bytes make any text readable to the models (no unknown token), and give arithmetic its digits one by
one. `<think>` and `</think>` are ordinary added tokens, as in DeepSeek-R1's tokenizer, so that
decoding with special tokens skipped keeps them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BEGIN, END, PAD, USER, ASSISTANT = "<|begin|>", "<|end|>", "<|pad|>", "<|user|>", "<|assistant|>"
VOCAB_SIZE = 272
"""263 tokens are in use; the rest rounds the embedding up to a multiple of 16."""

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}{{ eos_token }}"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer() -> "PreTrainedTokenizerFast":
    """A byte-level tokenizer with the chat template `<|begin|><|user|>...<|assistant|>...<|end|>`.

    The template adds no `<think>`: whoever wants thinking forces it as the reply's first token.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens([BEGIN, END, PAD, USER, ASSISTANT])
    core.add_tokens(
        [AddedToken(t, normalized=False, special=False) for t in ("<think>", "</think>")]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
