"""The multi-view diffusion model: one picture of a mouse in, six views out.

Read ``multiview.py`` first (how the parts join), then ``attention.py`` (views and condition meet in self-attention) and
``pipeline.py`` (sampling).
"""
