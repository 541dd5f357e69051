"""Weights to start from, found and judged on the machine that submits, without loading them and without torch.

Read ``source.py`` first (what is asked of a folder), then ``conformity.py`` (what a published one must be).
"""

from mvdiff.model.pretrained.source import Pretrained, find, inspect

__all__ = ["Pretrained", "find", "inspect"]
