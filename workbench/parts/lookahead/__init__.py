"""Rows that ride along in a verification and say what comes later: what they are made of, and drafts from them."""

from workbench.parts.lookahead.base import LookaheadPart
from workbench.parts.lookahead.prompt_tokens import PromptTokens
from workbench.parts.lookahead.transfer import HiddenMaps
from workbench.parts.trained import import_all

__all__ = ["HiddenMaps", "LookaheadPart", "PromptTokens"]

import_all(__name__, __path__)
