"""Rows that ride along in a verification and say what comes later: what they are made of, and drafts from them."""

from workbench.drafting.lookahead.base import LookaheadPart
from workbench.drafting.lookahead.prompt_tokens import PromptTokens
from workbench.drafting.lookahead.transfer import HiddenMaps

__all__ = ["HiddenMaps", "LookaheadPart", "PromptTokens"]
