"""Procedural mice: articulated, with coats of their own, drawn by the six cameras of a rig."""

from mvdiff.mouse.colony import Colony, Counts, remaining, synthesise
from mvdiff.mouse.heading import Heading
from mvdiff.mouse.render import render_mouse

__all__ = ["Colony", "Counts", "Heading", "remaining", "render_mouse", "synthesise"]
