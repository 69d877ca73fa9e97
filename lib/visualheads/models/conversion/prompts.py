"""Prompt forms of the original recipes (code: `conversation.py` of LLaVA and ViP-LLaVA), as chat templates."""

from __future__ import annotations

import json
from dataclasses import dataclass

from visualheads.errors import ParameterError, got

VICUNA_USER = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. "
)
VICUNA_HUMAN = VICUNA_USER.replace("curious user", "curious human").replace("the user's", "the human's")
HELPFUL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)


@dataclass(frozen=True)
class Prompt:
    """What stands around the turns of a conversation; the picture comes first in the user's turn.

    start       before the first turn
    user        (before, after) the user's turn
    assistant   (before, after) the assistant's turn; `ask` is how the prompt for an answer ends
    stop        token that ends an answer
    """

    start: str
    user: tuple[str, str]
    assistant: tuple[str, str]
    ask: str
    stop: str

    def template(self) -> str:
        """The Jinja template, for messages whose content is a text or a list of images and texts."""
        start, before, after, own, end, ask = (
            json.dumps(text) for text in (self.start, *self.user, *self.assistant, self.ask)
        )
        text = (
            "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
            "{% for item in message['content'] %}{% if item['type'] == 'image' %}{{ '<image>\\n' }}{% endif %}"
            "{% endfor %}"
            "{% for item in message['content'] %}{% if item['type'] == 'text' %}{{ item['text'] }}{% endif %}"
            "{% endfor %}{% endif %}"
        )
        return (
            f"{{{{ {start} }}}}{{% for message in messages %}}{{% if message['role'] == 'user' %}}"
            f"{{{{ {before} }}}}{text}{{{{ {after} }}}}{{% elif message['role'] == 'assistant' %}}"
            f"{{{{ {own} }}}}{text}{{{{ {end} }}}}{{% endif %}}"
            f"{{% endfor %}}{{% if add_generation_prompt %}}{{{{ {ask} }}}}{{% endif %}}"
        )


def _vicuna(start: str) -> Prompt:
    return Prompt(start, ("USER: ", " "), ("ASSISTANT: ", "</s>"), "ASSISTANT:", "</s>")


def _llama_3(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


PROMPTS = {
    "vicuna_v1": _vicuna(VICUNA_USER),
    "llava_v1": _vicuna(VICUNA_HUMAN),
    "plain": _vicuna(""),
    "mistral_instruct": Prompt("", ("[INST] ", " [/INST]"), (" ", " </s>"), "", "</s>"),
    "llava_phi_3": Prompt(
        f"<|system|>\n{HELPFUL}<|end|>\n",
        ("<|user|>\n", "<|end|>\n"),
        ("<|assistant|>\n", "<|end|>\n"),
        "<|assistant|>\n",
        "<|end|>",
    ),
    "llava_llama_3": Prompt(
        f"<|begin_of_text|>{_llama_3('system')}{HELPFUL}<|eot_id|>",
        (_llama_3("user"), "<|eot_id|>"),
        (_llama_3("assistant"), "<|eot_id|>"),
        _llama_3("assistant"),
        "<|eot_id|>",
    ),
}
"""The original code's names. `plain` is the form without a system sentence that transformers' LLaVA-1.5 uses."""

LLAMA_3_MARK = "<|start_header_id|>"


def prompt_name(wanted: str | None, text_type: str, vip: bool, vocabulary: set[str]) -> str:
    """The form the checkpoint was tuned with, unless one is wanted by name.

    Vicuna: `vicuna_v1`, in ViP-LLaVA `llava_v1`; Mistral `mistral_instruct`; Phi-3 `llava_phi_3`; Llama-3 (told by its
    header token) `llava_llama_3`. Raises ParameterError for an unknown name.
    """
    if wanted is not None:
        if wanted not in PROMPTS:
            raise ParameterError(got("prompt", wanted, list(PROMPTS)))
        return wanted
    if text_type == "mistral":
        return "mistral_instruct"
    if text_type == "phi3":
        return "llava_phi_3"
    if LLAMA_3_MARK in vocabulary:
        return "llava_llama_3"
    return "llava_v1" if vip else "vicuna_v1"
