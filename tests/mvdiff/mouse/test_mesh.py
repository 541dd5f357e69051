import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mvdiff.mouse.anatomy import random_build
from mvdiff.mouse.coat import random_coat
from mvdiff.mouse.figure import figure
from mvdiff.mouse.mesh import Mesh, Part, ellipsoid, gathered, spline
from mvdiff.mouse.pose import random_pose
from mvdiff.mouse.raster import rasterise
from mvdiff.rig import rig

CAMERAS = rig("mouse")


def ball(centre, radius: float, colour, rows: int = 61, columns: int = 80) -> Part:
    along, side = np.array([0.0, 0.0, radius]), np.array([radius, 0.0, 0.0])
    points = ellipsoid(np.array(centre, float), along, side, rows, columns, radius)
    return Part(points, np.broadcast_to(np.array(colour, float), points.shape), np.zeros(points.shape[:-1]))


def animal(number: int) -> Mesh:
    rng = np.random.default_rng(number)
    return figure(random_build(rng), random_pose(rng), random_coat(rng))


def volume(mesh: Mesh, triangles: np.ndarray) -> float:
    a, b, c = (mesh.vertices[triangles[:, i]] for i in range(3))
    return float(np.sum(a * np.cross(b, c)) / 6)


def test_a_ball_has_its_volume_and_outward_normals():
    mesh = gathered([ball((0.1, 0.2, 0.3), 0.4, (1, 0, 0))])
    assert volume(mesh, mesh.triangles) == pytest.approx(4 / 3 * np.pi * 0.4**3, rel=0.01)
    outward = (mesh.vertices - [0.1, 0.2, 0.3]) / 0.4
    away_from_poles = np.abs(outward[:, 2]) < 0.99
    np.testing.assert_allclose(np.sum(outward * mesh.normals, -1)[away_from_poles], 1, atol=1e-3)


def test_a_ball_covers_the_disc_that_perspective_makes_of_it():
    radius, size = 0.3, 128
    mesh = gathered([ball((0, 0, 0), radius, (0.5, 0.5, 0.5))])
    (rows, columns), coverage, colour = rasterise(mesh, CAMERAS.w2c()[0], CAMERAS.intrinsics(size)[0], size, 4)
    disc = np.tan(np.arcsin(radius / CAMERAS.distance)) * CAMERAS.intrinsics(size)[0, 0, 0]
    assert coverage.sum() == pytest.approx(np.pi * disc**2, rel=0.005)
    assert (rows.start + rows.stop, columns.start + columns.stop) == (size, size)
    np.testing.assert_allclose(colour, 0.5 * coverage[..., None] * np.ones(3), atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.4), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05), st.integers(6, 60), st.integers(5, 60))
def test_no_sample_is_lost_between_triangles(radius: float, y: float, z: float, rows: int, columns: int):
    size, samples = 96, 3
    mesh = gathered([ball((0.01, y, z), radius, (1, 1, 1), rows, columns)])
    (top, left), coverage, _ = rasterise(mesh, CAMERAS.w2c()[0], CAMERAS.intrinsics(size)[0], size, samples)
    # a ball of triangles is convex: in every row of pixels what is covered in full has no gap
    for line in coverage:
        full = np.flatnonzero(line == 1)
        assert len(full) == 0 or len(full) == full[-1] - full[0] + 1
    assert coverage.max() <= 1 and top.stop <= size and left.stop <= size


def test_the_nearer_surface_is_seen():
    near, far = ball((0.3, 0, 0), 0.1, (1, 0, 0)), ball((-0.3, 0, 0), 0.1, (0, 1, 0))
    for parts in ([near, far], [far, near]):
        mesh = gathered(parts)
        for view, channel in ((0, 0), (3, 1)):
            _, coverage, colour = rasterise(mesh, CAMERAS.w2c()[view], CAMERAS.intrinsics(64)[view], 64, 2)
            middle = tuple(n // 2 for n in coverage.shape)
            assert colour[middle][channel] == pytest.approx(1) and coverage[middle] == 1


def test_nothing_in_the_frame_is_an_empty_box():
    mesh = gathered([ball((0, 5.0, 0), 0.1, (1, 0, 0))])
    box, coverage, _ = rasterise(mesh, CAMERAS.w2c()[0], CAMERAS.intrinsics(64)[0], 64, 2)
    assert coverage.size == 0 and np.zeros((64, 64))[box].size == 0


@pytest.mark.parametrize("number", range(6))
def test_every_surface_of_an_animal_faces_outwards(number: int):
    mesh = animal(number)
    # surfaces follow one another and share no vertex: a new one starts above all vertices of those before it
    lowest, highest = mesh.triangles.min(1), np.maximum.accumulate(mesh.triangles.max(1))
    surfaces = np.split(mesh.triangles, np.flatnonzero(lowest[1:] > highest[:-1]) + 1)
    # trunk, tail, nose, two eyes and ears; for each leg two bones, a foot and four toes
    assert len(surfaces) == 7 + 4 * 7
    assert all(volume(mesh, surface) > 0 for surface in surfaces)
    assert np.isfinite(mesh.vertices).all() and np.isfinite(mesh.normals).all()


@pytest.mark.parametrize("number", range(12))
def test_an_animal_stands_on_the_ground_on_four_feet(number: int):
    mesh = animal(number)
    low = mesh.vertices[mesh.vertices[:, 2] < 0.012]
    assert mesh.vertices[:, 2].min() > -0.01
    body = low[low[:, 0] > -0.45]
    corners = {(bool(x > 0), bool(y > 0)) for x, y, _ in body}
    assert len(corners) == 4


def test_hips_are_wider_than_shoulders():
    for number in range(8):
        build = random_build(np.random.default_rng(number))
        pose = random_pose(np.random.default_rng(0))
        straight = type(pose)(0, 0, 0, 0, 0, (0, 0, 0, 0), 0, 0, 0, 0)
        trunk = figure(build, straight, random_coat(np.random.default_rng(0))).vertices[:6000]
        shoulders, hips = (np.ptp(trunk[np.abs(trunk[:, 0] - x) < 0.02, 1]) for x in (0.08, -0.21))
        assert hips > 1.1 * shoulders


def test_a_spline_passes_through_its_points_without_overshoot():
    knots, values = np.array([0.0, 0.1, 0.5, 0.6, 1.0]), np.array([[0.0], [1.0], [1.0], [3.0], [2.0]])
    np.testing.assert_allclose(spline(knots, values, knots), values, atol=1e-12)
    between = spline(knots, values, np.linspace(0, 1, 500))
    assert between.min() >= 0 and between.max() <= 3
    flat = spline(knots, values, np.linspace(0.1, 0.5, 50))
    np.testing.assert_allclose(flat, 1, atol=1e-12)
