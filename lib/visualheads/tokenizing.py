"""One user of a tokenizer at a time.

Tokenizers keep padding as state that every call sets anew. Prompts are encoded ahead in a thread of their own, so a
call without padding between that thread's setting and its encoding would leave its batch unpadded.
"""

from __future__ import annotations

import threading

ONE_AT_A_TIME = threading.RLock()
"""Held around every call that turns text into ids for a loaded model."""
