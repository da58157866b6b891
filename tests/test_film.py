"""The ways to the limits and the film of one: both end on what is predicted, the film is a GIF that plays."""

import numpy as np
import pytest
from PIL import Image

import direction
from figures import film
from minibias import unit

AHEAD = [(film.measure, ("gd", "rmsprop", "adagrad"), 20)]  # the best of twenty runs


def test_the_lines_turn_to_the_predicted_ones_and_the_clock_runs_from_1_to_1e13(computed_ahead):
    levels, along = computed_ahead[0]["levels"], computed_ahead[0]["paths"]
    assert (levels[0], levels[-1]) == (1, 1e13)
    for path in along.values():
        distance = path["distance"]
        assert distance[0] > 0.01 and distance[-1] < 1e-6
        late = levels > 1e3  # the distance falls like a power of log 1/L, at least like its root
        assert np.polyfit(np.log(levels[late]), np.log(distance[late]), 1)[0] < -0.4
        assert np.all(np.diff(path["at"]) >= 0)
    w = unit(np.array([path["predicted"] for path in along.values()]))
    np.testing.assert_allclose(w[0], w[1], atol=1e-10)  # GD's and RMSProp's problem is the same
    assert np.linalg.norm(w[0] - w[2]) > 0.05  # AdaGrad's is another


def test_the_file_is_a_small_gif_whose_last_frame_stays(computed_ahead, tmp_path):
    found = dict(computed_ahead[0], levels=computed_ahead[0]["levels"][::20])
    for name, path in found["paths"].items():
        some = {key: path[key][::20] for key in ("w", "h", "at", "distance")}
        found["paths"] = found["paths"] | {name: path | some}
    film.animation(found).save(tmp_path / "film.tmp", writer=film.Gif(fps=10), dpi=50)
    gif = Image.open(tmp_path / "film.tmp")
    assert gif.format == "GIF" and gif.n_frames == 4
    gif.seek(3)
    assert gif.info["duration"] == 3000


@pytest.mark.parametrize("x, y", [(np.eye(3, 2), [0, 1, 2]), (np.eye(3), [-1, 1, 1])])
def test_a_film_of_anything_but_two_classes_in_the_plane_is_refused(x, y):
    with pytest.raises(ValueError, match="the film shows the decision lines of a neuron of two features"):
        film.measure(data=(x, y))


def test_the_ways_of_a_neuron_in_the_plane_lead_along_the_flow_to_the_limits():
    assert direction.measure(["gd"], ["limit"], runs=2, model="mlp:2")["ways"] == {}
    found = direction.measure(["adagrad"], ["flow", "limit"], runs=4)
    flow, limit = found["results"]
    far, w = found["ways"]["adagrad"].values()
    assert far.shape == w.shape[:2] and np.all(np.diff(far, axis=0) >= 0) and far[0].tolist() == [0] * 4
    np.testing.assert_array_equal(w[len(direction.WAY) - 1], flow["w"])
    np.testing.assert_array_equal(w[-1], limit["w"])
    figure = direction.figure(found)
    (axes,) = (a for a in figure.axes if a.get_ylabel().startswith("angle of the decision"))
    *lines, predicted = (line.get_xydata() for line in axes.lines)
    ends, predicted = np.array([line[-1, 1] for line in lines]), predicted[:, 1]
    np.testing.assert_allclose(ends, predicted, atol=1e-8)  # degrees
    n = np.sign(limit["w"][:, 2:]) * limit["w"][:, :2]
    np.testing.assert_allclose(np.tan(np.radians(ends)), n[:, 1] / n[:, 0])
