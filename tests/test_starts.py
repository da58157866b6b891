"""The map of starts: evenly spread starts, certified limits, GD's few KKT points, and the dial to them."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure

import starts
from datasets import crossover_data, default_data
from experiments import main
from limits import to_rest
from minibias import Problem, certificate, norm, normalised_margin, unit
from models import MLP
from optimizers import GD, AdaGrad
from starts import distinct, ends, kkt_points, share_of_best, sphere


@pytest.fixture(scope="module")
def problem():
    return Problem(MLP((2, 1, 1)), *default_data(0))


def small_study(radii):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(starts, "DIAL", (1e-5, 1e7, 1e9))
        return starts.measure(radii=radii, starts=40)


AHEAD = [(small_study, (1.0, 3.0))]


@pytest.fixture(scope="module")
def found(computed_ahead):
    return computed_ahead[0]


@pytest.fixture(scope="module")
def limits(found):
    """The limits by optimizer and radius."""
    return {(r["optimizer"], r["radius"]): r["w"].astype(float) for r in found["results"]}


@pytest.mark.parametrize("n", (20, 2000))
def test_the_starts_are_spread_evenly_over_the_sphere(n):
    """The mean is 0, the second moments are I / 3, and no two starts are near each other."""
    w = sphere(n)
    np.testing.assert_allclose(norm(w), 1, atol=1e-14)
    assert norm(w.mean(0)) < 2 / n
    np.testing.assert_allclose(w.T @ w / n, np.eye(3) / 3, atol=2 / n)
    apart = norm(w[:, None] - w) + 10 * np.eye(n)
    assert apart.min() > 0.8 * np.sqrt(4 * np.pi / n)  # the side of a square of each start's area


def test_a_neuron_has_two_kkt_points_one_for_each_sign_of_v_with_all_of_the_largest_margin(problem):
    points = kkt_points(problem)
    assert sorted(np.sign(points[:, 2])) == [-1, 1]
    assert certificate(problem, points, np.ones_like(points)).max() < 1e-12
    np.testing.assert_allclose(points[:, 2] ** 2, 0.5, atol=1e-12)  # both layers carry the same share
    np.testing.assert_allclose(share_of_best(problem, 3 * points, points), 1, atol=1e-12)
    assert np.isnan(share_of_best(problem, points, points[:0])).all()
    # of eight points in the plane, known in closed form
    points = kkt_points(Problem(MLP((2, 1, 1)), *crossover_data()))
    np.testing.assert_allclose(points[points[:, 2] > 0], [np.sqrt([0.05, 0.45, 0.5])], atol=1e-12)


def test_isotropic_limits_are_those_kkt_points_adagrads_all_others_and_none_has_more_margin(problem, found):
    points = found["kkt_points"]["w"]
    assert len(found["results"]) == 8
    for r in found["results"]:
        w = r["w"].astype(float)
        assert (r["status"] == "ok").all() and share_of_best(problem, w, points).max() <= 1 + 1e-12
        if r["optimizer"] == "adagrad":
            assert r["limits"] == 40 and r["differs_from_gd"] == 1 and r["kkt_residual"].max() < 1e-10
        else:
            assert r["limits"] == 2 and norm(w[:, None] - points).min(1).max() < 1e-10


def test_gd_and_rmsprop_share_their_kkt_points_but_not_the_starts_that_lead_there(found, limits):
    differs = {(r["optimizer"], r["radius"]): r["differs_from_gd"] for r in found["results"]}
    gd, rmsprop = (np.sign(limits[name, 3.0][:, 2]) for name in ("gd", "rmsprop"))
    assert 0 < differs["rmsprop", 3.0] < 0.2 and differs["rmsprop", 3.0] == (gd != rmsprop).mean()
    assert differs["gd", 1.0] == 0


@pytest.mark.parametrize("radius", (1.0, 3.0))
def test_along_the_dial_the_lost_margin_falls_like_the_square_of_the_distance_of_h_to_gds(found, radius):
    """The limit moves like h, to first order, and the margin is flat at its maximum."""
    own = [r for r in found["dial"] if r["radius"] == radius]
    moved, ratio = (np.array([r[name] for r in own], float) for name in ("moved", "ratio"))
    slopes = np.log((1 - ratio[1]) / (1 - ratio[2])) / np.log(moved[1] / moved[2])
    assert abs(np.median(slopes) - 2) < 0.05 and np.median(1 - ratio[0]) > 0.01


def test_the_moved_number_is_the_integral_of_squared_gradients(problem):
    """Against the change of h^-2, which is ∫ g² dt."""
    result = ends(problem, AdaGrad(100.0), sphere(5))
    _, h, _ = to_rest(problem, AdaGrad(100.0), sphere(5))
    np.testing.assert_allclose(result["S"], h**-2 - 100, rtol=1e-10, atol=1e-10)


def test_distinct_counts_clusters_whatever_their_order_and_leaves_nan_out():
    rng = np.random.default_rng(0)
    centres = unit(rng.normal(size=(5, 3)))
    w = np.repeat(centres, 7, axis=0) + rng.uniform(-1e-8, 1e-8, (35, 3))
    w = np.concatenate([w, np.full((2, 3), np.nan)])
    assert len(distinct(rng.permutation(w))) == len(distinct(w)) == 5
    assert distinct(w[-2:]).shape == (0, 3)


def test_a_start_that_does_not_separate_is_named_and_has_no_limit(problem):
    result = ends(problem, GD(), np.array([[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]))
    assert list(result["status"]) == ["not separated", "ok"]
    assert np.isnan(result["w"][0]).all() and np.isnan(result["margin"][0])
    np.testing.assert_allclose(result["margin"][1], normalised_margin(problem, result["w"][1:])[0])


def test_jobs_do_not_change_a_number(limits, monkeypatch):
    monkeypatch.setattr(starts, "DIAL", (1e-5,))
    two = starts.measure(("gd", "adagrad"), radii=(1.0,), starts=40, jobs=2)
    for r in two["results"]:
        np.testing.assert_array_equal(r["w"].astype(float), limits[r["optimizer"], 1.0])


def test_a_disc_shows_its_half_of_the_sphere_and_keeps_areas():
    w = sphere(300)
    for side in (1, -1):
        near = starts.nearest_starts(w, side)
        assert (near[0, 0], near[0, -1]) == (-1, -1)  # the corners lie outside
        inside, pixels = np.unique(near[near >= 0], return_counts=True)
        whole = side * w[inside, 2] > 0.2  # those at the edge lie partly on the other disc
        assert (side * w[inside, 2] > -0.2).all()
        share = pixels[whole] / (near >= 0).sum() * 150
        assert 0.8 < share.min() and share.max() < 1.2
        np.testing.assert_array_equal(near, starts.nearest_starts(5 * w, side))


def test_directions_across_the_cut_of_the_circle_are_near_each_other():
    turn = np.radians([179.0, -179.0, 178.0])
    w = np.stack([np.cos(turn), np.sin(turn), np.ones(3)], 1)
    [angles] = starts.angles_of_decision([w])
    np.testing.assert_allclose(np.sort(np.abs(angles - angles.mean())), [1 / 3, 4 / 3, 5 / 3], atol=1e-9)
    # a neuron -w decides like w, with the sign of v
    np.testing.assert_allclose(starts.angles_of_decision([-w])[0] % 360, angles % 360, atol=1e-9)


def test_the_command_writes_finite_numbers_and_the_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(starts, "DIAL", (1e9,))
    flags = ["--radii", "1,1000", "--starts", "4", "--optimizers", "adagrad", "--jobs", "1"]
    assert main(["starts", *flags, "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "KKT point" in said and "AdaGrad, ε" in said and "overflow" in said  # at radius 1000
    content = json.loads((tmp_path / "starts.json").read_text(), parse_constant=pytest.fail)
    near, far = content["results"]
    assert (near["optimizer"], near["radius"], far["radius"]) == ("adagrad", 1.0, 1000.0)
    assert near["differs_from_gd"] is None and len(content["dial"]) == 2  # GD was not asked for
    assert {"starts", "w", "kkt_residual", "margin", "status", "limits"} <= set(near)
    assert (tmp_path / "starts.png").stat().st_size > 10_000


def test_the_dial_is_drawn_however_far_it_is_turned():
    """With long starts ∫ g² dt / ε was seen to come to 1e262, where a logarithmic axis overflows."""
    moved, ratio = np.array([1e-5, 1.0, 1e262]), np.array([1.0, 0.9, 0.5])
    dial = [{"radius": 8.0, "eps": eps, "moved": moved, "ratio": ratio} for eps in (1e-6, 1.0)]
    figure = Figure()
    starts.draw_dial(*figure.subplots(1, 2, sharey=True), [8.0], dial)
    figure.draw_without_rendering()


BAD_INPUT = [
    ("1,1\n-1,-1", "", "two classes in the plane, not for 1 features"),
    ("1,0,0\n0,1,1\n-1,-1,2", "", "not for 2 features and 3 classes"),
    ("1,0,1\n-1,0,-1", "--radii 1,0", "--radii: expected a number above 0"),
    ("1,0,1\n-1,0,-1", "--radii 1,1.0", "--radii: expected different numbers"),
    ("1,0,1\n-1,0,-1", "--starts 0", "--starts: expected a whole number from 1 on"),
]


@pytest.mark.parametrize("points, flags, said", BAD_INPUT)
def test_bad_input_is_one_line(points, flags, said, tmp_path, capsys):
    (tmp_path / "points.csv").write_text(points)
    out = tmp_path / "out"
    command = ["starts", "--data", str(tmp_path / "points.csv"), *flags.split(), "--out", str(out)]
    assert main(command) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and said in errors
    assert not list(out.glob("*"))
