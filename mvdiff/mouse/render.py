"""One sample of the procedural data set: a mouse drawn by the six cameras of a rig."""

import numpy as np
from numpy.typing import NDArray

from mvdiff.mouse import light
from mvdiff.mouse.anatomy import Build, random_build
from mvdiff.mouse.coat import Coat, random_coat
from mvdiff.mouse.figure import figure
from mvdiff.mouse.heading import Heading
from mvdiff.mouse.mesh import Mesh
from mvdiff.mouse.pose import Pose, random_pose
from mvdiff.mouse.raster import rasterise
from mvdiff.rig import Rig
from mvdiff.shard.schema import Sample

FRAMES = 4
"""Consecutive samples that show the same animal in different poses: one recording."""

_SAMPLES = 3
_SIZE = 0.64
_RADIUS = 0.465
"""Everything stays inside this ball; at a distance of 0.5 / tan 15, a field of view of 30 degrees holds one of .483."""


def render_mouse(seed: int, index: int, *, rig: Rig, size: int, heading: Heading) -> Sample:
    """Draw mouse number ``index`` of the data set ``seed``, ``size`` pixels square.

    A pure function of its arguments: the animal (build, coat) comes from the seed and the recording, its pose and
    heading from the seed and the index, and nothing is shared between calls.
    """
    recording = index // FRAMES
    animal, moment = _generator(seed, 0, recording), _generator(seed, 1, index)
    build, coat = random_build(animal), random_coat(animal)
    degrees, pose = heading.draw(moment), random_pose(moment)
    views, alpha = draw(place(build, pose, coat, degrees), rig, size)
    return Sample(
        sample_id=sample_name(seed, index),
        recording=recording_name(seed, index),
        views=views,
        alpha=alpha,
        w2c=rig.w2c(),
        intrinsics=rig.intrinsics(size),
        azimuth=np.array(rig.azimuth, np.float32),
        elevation=np.array(rig.elevation, np.float32),
    )


def sample_name(seed: int, index: int) -> str:
    """Id of sample ``index``."""
    return f"mouse-{seed}-{index:06d}"


def recording_name(seed: int, index: int) -> str:
    """Recording that sample ``index`` belongs to."""
    return f"mouse-{seed}-r{index // FRAMES:05d}"


def place(build: Build, pose: Pose, coat: Coat, heading: float) -> Mesh:
    """The animal in the rig's world, lit: centred on the origin, facing ``heading`` degrees, inside a ball of .465."""
    mesh = figure(build, pose, coat)
    low, high = mesh.vertices.min(0), mesh.vertices.max(0)
    vertices = mesh.vertices - 0.5 * (low + high)
    farthest = np.sqrt(np.max(np.sum(vertices**2, -1)))
    vertices, normals = (
        _turned(vectors, heading) for vectors in (vertices * min(_SIZE * build.size, _RADIUS / farthest), mesh.normals)
    )
    colours = light.lit(mesh.colours, normals, mesh.occlusion)
    return Mesh(vertices, normals, colours, mesh.occlusion, mesh.triangles)


def draw(mesh: Mesh, rig: Rig, size: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Views uint8 [6, size, size, 3] on white and alpha uint8 [6, size, size] (coverage) of a lit mesh."""
    views = np.full((len(rig.azimuth), size, size, 3), 255, np.uint8)
    alpha = np.zeros((len(rig.azimuth), size, size), np.uint8)
    for k, (w2c, intrinsics) in enumerate(zip(rig.w2c(), rig.intrinsics(size), strict=True)):
        box, coverage, colour = rasterise(mesh, w2c, intrinsics, size, _SAMPLES)
        alpha[k][box] = np.round(255 * coverage)
        views[k][box] = np.round(255 * (colour + (1 - coverage)[..., None]))
    return views, alpha


def _turned(vectors: NDArray[np.float64], degrees: float) -> NDArray[np.float64]:
    """Vectors [V, 3] turned counter-clockwise about Z."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    x, y, z = vectors[:, 0], vectors[:, 1], vectors[:, 2]
    return np.stack([c * x - s * y, s * x + c * y, z], -1)


def _generator(seed: int, stream: int, number: int) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, stream, number])))
