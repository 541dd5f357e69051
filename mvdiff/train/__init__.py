"""Training that can be stopped at any step and goes on as if it had not been.

Read ``trainer.py`` first, then ``order.py`` and ``draw.py`` (why a restart changes nothing) and ``checkpoint.py``
(what a restart finds).
"""
