"""Canaries: small programs that run as jobs on a user's cluster and show what can be relied on there.

Each module but ``report``, ``finding`` and ``wire`` is one part: what it measures on a node, and what the figures mean.
"""
