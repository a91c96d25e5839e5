"""Patches and the DIT_TOKENS wire: cut, choose, edit, and other patch sizes."""
