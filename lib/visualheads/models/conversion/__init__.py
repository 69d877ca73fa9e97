"""Original-format LLaVA checkpoints → folders in transformers' format.

`sources` reads the original folder, `keys` maps its weights' names, `tokens`, `prompts` and `configs` make tokenizer,
chat template, configuration and processor, `planning` checks that everything is there, `writing` and `checking` write
and read back, `converting` puts it together.
"""

from __future__ import annotations

from visualheads.models.conversion.folder import Conversion, convert

__all__ = ["Conversion", "convert"]
