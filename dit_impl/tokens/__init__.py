"""Patches and the DIT_TOKENS wire: cutting, selecting, editing, other patch sizes."""
