"""Rigs to test with."""

from hypothesis import strategies as st

from mvdiff.rig import RIGS, Rig, rig

MOUSE, FACELIFT, V11, V12 = (rig(name) for name in ("mouse", "facelift", "zero123plus-v1.1", "zero123plus-v1.2"))
TOWER = {"name": "tower", "azimuth": MOUSE.azimuth, "elevation": (30,) * 6, "fov": 30, "distance": MOUSE.distance}

azimuths = st.floats(-720, 720)
elevations = st.floats(-85, 85)
names = st.from_regex(r"\A[A-Za-z0-9._-]{1,64}\Z").filter(lambda name: name not in RIGS)


def six(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
    return st.lists(numbers, min_size=6, max_size=6)


rigs = st.builds(Rig, names, six(azimuths), six(elevations), st.floats(0.1, 179), st.floats(0.001, 1e6))
