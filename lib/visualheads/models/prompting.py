"""How questions become model inputs: the form of the prompt, checked once, and the processor around it."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import jinja2
from jinja2 import nodes

from visualheads.cards import Card
from visualheads.errors import CheckpointError, ImageError, ParameterError, SampleError, checked_text, got
from visualheads.models.adapters import Adapter, image_token

if TYPE_CHECKING:
    from visualheads.tasks.sample import Sample

LONGEST = 200_000
"""Characters: the longest known templates, with tools and many languages, have a tenth of it."""
SECONDS = 2.0
"""More than a thousand times what a template takes for one question."""
GENERATION = re.compile(r"\{%-?\s*(end)?generation\s*-?%\}")
"""transformers' own tag, which marks the assistant's part."""


def check_template(template: str) -> None:
    """Refuse a template that is broken or multiplies texts; it is not run.

    Raises
    ------
    CheckpointError
    """
    if len(template) > LONGEST:
        raise CheckpointError(f"the chat_template has {len(template)} characters; {LONGEST} are allowed.")
    parser = jinja2.Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = parser.parse(GENERATION.sub("", template))
    except jinja2.TemplateError as error:
        raise CheckpointError(f"the chat_template is no Jinja template ({error}); fetch or write it again.") from error
    for kind in (nodes.Mul, nodes.Pow):
        for found in tree.find_all(kind):
            raise CheckpointError(
                f"the chat_template multiplies (line {found.lineno}), which can fill any memory; remove that."
            )


@contextmanager
def rendering() -> Iterator[None]:
    """Around the first rendering of a template: its faults become CheckpointError, and it has to end in SECONDS.

    Templates run in transformers' sandbox, which leaves them loops and macros; a trace function counts their time.
    """
    before = sys.gettrace()
    sys.settrace(_watch(time.monotonic() + SECONDS))
    try:
        yield
    except (jinja2.TemplateError, ArithmeticError, ValueError, TypeError, LookupError, AttributeError, RecursionError,
            MemoryError) as error:  # fmt: skip
        told = " ".join(str(error).split())[:200]
        raise CheckpointError(f"the chat_template fails ({type(error).__name__}: {told})") from error
    finally:
        sys.settrace(before)


def _watch(until: float) -> Any:
    def lines(_frame: FrameType, _event: str, _argument: object) -> Any:
        if time.monotonic() > until:
            raise OverflowError(f"it did not end in {SECONDS:g} seconds")
        return lines

    def calls(frame: FrameType, _event: str, _argument: object) -> Any:
        return lines if frame.f_code.co_filename == "<template>" else None

    return calls


ONE_AT_A_TIME = threading.RLock()
"""Held around every call that turns text into ids for a loaded model. Tokenizers keep padding as state that every call
sets anew, and prompts are encoded ahead in a thread of their own."""

PLAIN_PROMPT = "USER: <image>\n{question} ASSISTANT:"
"""For checkpoints without a chat template: the form of LLaVA-1.5."""
PROBE = "What is in the picture?"
HASH_LENGTH = 16


@dataclass(frozen=True)
class Prompts:
    """Questions → prompts → model inputs, for one processor and one form of prompt. Made by `prompts_of`.

    Attributes
    ----------
    processor, adapter
        Of the model.
    form : str
        Plain form with `<image>` and `{question}`; "" where the chat template is used.
    template : str
        The chat template; "" where the plain form is used.
    system : str
        System message of the chat template; "" for none.
    as_text : bool
        The template takes a message as one text with the image token in it, not as a list of parts.
    """

    processor: Any
    adapter: Adapter
    form: str = ""
    template: str = ""
    system: str = ""
    as_text: bool = False

    def prompt(self, question: str, answer_prefix: str = "") -> str:
        """The whole prompt of a question, with the forced beginning of the answer after it.

        Raises
        ------
        SampleError
            For a question or prefix with a token that stands for more than its text: it would count as a second
            picture, or end the turn.
        """
        for what, text in (("question", question), ("answer_prefix", answer_prefix)):
            found = self._special.search(text)
            if found:
                raise SampleError(
                    f"the {what} {text!r} contains {found[0]!r}, a special token of this model (position "
                    f"{found.start()}); remove or rewrite it: the prompt's form adds what is needed."
                )
        return self._rendered(question) + answer_prefix

    def of(self, sample: Sample) -> str:
        """The whole prompt of a sample."""
        return self.prompt(sample.question, sample.answer_prefix)

    def encode(self, samples: Sequence[Sample]) -> Any:
        """Model inputs of a batch on the CPU: a left-padded BatchFeature with input_ids, attention_mask, pixels …

        Raises
        ------
        ImageError, SampleError
            Naming the sample, for a picture that cannot be opened or that the processor refuses, and for a question
            that cannot be asked.
        """
        texts = [self.of(sample) for sample in samples]
        pictures = [sample.open() for sample in samples]
        try:
            return self._processed(texts, pictures)
        except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError):
            for sample, text, picture in zip(samples, texts, pictures, strict=True):
                self._tried(sample, text, picture)
            raise

    def identity(self) -> dict[str, str]:
        """What decides how a question is asked, hashed: `processor` (with its tokenizer) and `prompt`."""
        settings = self.processor.to_dict()
        words = self.processor.tokenizer
        core = getattr(words, "backend_tokenizer", None)
        with ONE_AT_A_TIME:
            if core is not None:
                core.no_padding()
                core.no_truncation()
            vocabulary = core.to_str() if core is not None else json.dumps(sorted(words.get_vocab().items()))
        told = json.dumps(settings, sort_keys=True, default=str)
        return {
            "processor": _hash(type(self.processor).__name__, told, vocabulary),
            "prompt": _hash(self.form, self.template, self.system, self._rendered(PROBE)),
        }

    @property
    def told(self) -> str:
        """The form of the prompt, as a reader sees it."""
        return self._rendered("{question}")

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Every special token, and what stands for a picture or a video."""
        words = self.processor.tokenizer
        tokens = {str(token) for token in words.added_tokens_decoder.values() if token.special}
        tokens |= set(words.all_special_tokens) | {self.adapter.placeholder(self.processor)}
        tokens |= {str(getattr(self.processor, name, "") or "") for name in ("image_token", "video_token")}
        return re.compile("|".join(re.escape(token) for token in sorted(tokens - {""}, key=len, reverse=True)))

    def _rendered(self, question: str, **more: Any) -> str:
        placeholder = self.adapter.placeholder(self.processor)
        if self.form:
            return self.form.replace("<image>", placeholder).replace("{question}", question)
        content: Any = [{"type": "image"}, {"type": "text", "text": question}]
        told: Any = [{"type": "text", "text": self.system}]
        if self.as_text:
            content, told = f"{placeholder}\n{question}", self.system
        messages = [{"role": "system", "content": told}] if self.system else []
        # the tokenizer's method: a processor's may ask for its video half
        return self.processor.tokenizer.apply_chat_template(
            [*messages, {"role": "user", "content": content}], chat_template=self.template,
            add_generation_prompt=True, tokenize=False, **more,
        )  # fmt: skip

    def _processed(self, texts: Sequence[str], pictures: Sequence[Any]) -> Any:
        start = self.processor.tokenizer.bos_token
        with ONE_AT_A_TIME:
            encoding = self.processor(
                text=list(texts),
                images=[[picture] for picture in pictures] if self.adapter.nested else list(pictures),
                padding=True,
                padding_side="left",
                # templates that write the begin token themselves must not get a second one
                add_special_tokens=not (start and texts[0].startswith(start)),
                return_tensors="pt",
            )
        encoding.pop("labels", None)  # PaliGemma's processor adds them for training
        return encoding

    def _tried(self, sample: Sample, text: str, picture: Any) -> None:
        try:
            self._processed([text], [picture])
        except (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError) as error:
            told = " ".join(str(error).split())[:200]
            raise ImageError(
                f"sample {sample.id!r}: {type(self.processor).__name__} refuses its picture of {picture.width} × "
                f"{picture.height} pixels ({told}); leave it out, or crop or enlarge the picture."
            ) from error


def prompts_of(
    processor: Any,
    adapter: Adapter,
    card: Card | None = None,
    *,
    prompt: str | None = None,
    system: str | None = None,
    chat_template: str | Path | None = None,
) -> Prompts:
    """Decide the form of the prompt and check that it holds picture and question.

    Parameters
    ----------
    processor, adapter, card
        Of the model.
    prompt : str, optional
        A plain form with `<image>` and `{question}`, instead of any template.
    system : str, optional
        A system message for the chat template.
    chat_template : str or Path, optional
        A Jinja template, a file that holds one, or the name of one of the checkpoint's. Default: the processor's, else
        the tokenizer's; without any the card's form, else `PLAIN_PROMPT`, with a warning.

    Raises
    ------
    ParameterError
        For a form without picture or question, two forms at once, or a system message that the template leaves out.
    CheckpointError
        For a template that is broken, does not end, or leaves out picture or question.
    """
    for name, value in (("prompt", prompt), ("system", system)):
        if value is not None:
            checked_text(name, value, empty=False)
    if prompt is not None:
        if chat_template is not None or system is not None:
            raise ParameterError("prompt: got a chat_template or system message beside it; write all into prompt.")
        return Prompts(processor, adapter, form=_checked_form(prompt))
    template = _template(processor, chat_template)
    if template:
        return _checked(Prompts(processor, adapter, template=template, system=system or ""))
    if system is not None:
        raise ParameterError("system: got a message, and there is no chat template to put it into; give prompt=.")
    if card is not None and card.prompt:
        return Prompts(processor, adapter, form=card.prompt)
    warnings.warn(
        f"this checkpoint has no chat template; its prompts take the plain form {PLAIN_PROMPT!r}. If it was trained in "
        "another, give prompt= or chat_template=.",
        stacklevel=3,
    )
    return Prompts(processor, adapter, form=PLAIN_PROMPT)


def _checked_form(prompt: str) -> str:
    for part in ("<image>", "{question}"):
        if prompt.count(part) != 1:
            raise ParameterError(got("prompt", prompt, "one <image> and one {question}", suggest=False))
    return prompt


def _template(processor: Any, asked: str | Path | None) -> str:
    """The chat template that is meant, "" where there is none."""
    known = getattr(processor, "chat_template", None) or processor.tokenizer.chat_template or ""
    named = known if isinstance(known, dict) else {"default": known}
    if asked is None:
        if known and "default" not in named:
            raise CheckpointError(got("chat_template", None, sorted(named), "name one of the checkpoint's templates"))
        return str(named.get("default", ""))
    text = str(asked)
    if named.get(text):
        return str(named[text])
    if "{" in text:
        return text
    try:
        return Path(text).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):
        raise ParameterError(
            got("chat_template", text, "a Jinja template, a file that holds one, or a name of the checkpoint's own "
                f"({', '.join(name for name in named if named[name]) or 'it has none'})")
        ) from None  # fmt: skip


def _checked(asked: Prompts) -> Prompts:
    """With parts or with text, whichever the template takes."""
    check_template(asked.template)
    marker = image_token(asked.processor)
    faults: list[str] = []
    for as_text in (False, True):
        made = Prompts(asked.processor, asked.adapter, template=asked.template, system=asked.system, as_text=as_text)
        try:
            with rendering():
                text, again = made._rendered(PROBE), made._rendered(PROBE, strftime_now=str)
        except CheckpointError as error:
            faults.append(str(error))
            continue
        if made.system and made.system not in text:
            faults.append(f"it leaves out the system message {made.system[:60]!r}; write it into prompt= instead")
        elif text.count(marker) != 1 or PROBE not in text:
            faults.append(
                f"it writes {text.count(marker)} image tokens {marker!r}, or not the question: {text[:120]!r}"
            )
        elif again != text:
            faults.append("it writes another prompt each time, as with the date")
        else:
            return made
    if asked.system and "leaves out the system message" in faults[0]:
        raise ParameterError(got("system", asked.system, "none for this chat template", faults[0]))
    raise CheckpointError(
        f"the chat_template cannot be used: {faults[0]}; give another one (chat_template=), or a plain form (prompt=)."
    )


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:HASH_LENGTH]
