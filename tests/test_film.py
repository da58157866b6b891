"""The film of `direction`: its lines end on the predicted ones, and its file is a GIF that plays."""

import numpy as np
import pytest
from PIL import Image

import experiments
import film
from cli import main


@pytest.fixture(scope="module")
def found():
    return experiments.film(("gd", "rmsprop", "adagrad"), runs=20)


def test_the_lines_turn_to_the_predicted_ones_and_the_clock_runs_from_1_to_1e13(found):
    levels, paths = found["levels"], found["paths"]
    assert (levels[0], levels[-1]) == (1, 1e13)
    for path in paths.values():
        distance = path["distance"]
        assert distance[0] > 0.01 and distance[-1] < 1e-6
        late = levels > 1e3  # the distance falls like a power of log 1/L, at least like its root
        assert np.polyfit(np.log(levels[late]), np.log(distance[late]), 1)[0] < -0.4
        assert np.all(np.diff(path["at"]) >= 0)
    w = experiments.unit(np.array([path["predicted"] for path in paths.values()]))
    np.testing.assert_allclose(w[0], w[1], atol=1e-10)  # GD's and RMSProp's problem is the same
    assert np.linalg.norm(w[0] - w[2]) > 0.05  # AdaGrad's is another


def test_the_file_is_a_small_gif_whose_last_frame_stays(found, tmp_path):
    levels = found["levels"][::26]
    paths = {
        name: path | {key: path[key][::26] for key in ("w", "h", "at", "distance")}
        for name, path in found["paths"].items()
    }
    animation = film.film(**found["data"], run=found["run"], levels=levels, paths=paths)
    animation.save(tmp_path / "film.tmp", writer=film.Gif(fps=10), dpi=50)
    gif = Image.open(tmp_path / "film.tmp")
    assert gif.format == "GIF" and gif.n_frames == len(levels) == 4
    gif.seek(3)
    assert gif.info["duration"] == 3000


@pytest.mark.parametrize("flags", (["--model", "linear"], ["--constant"]))
def test_a_film_of_anything_but_a_neuron_in_the_plane_is_refused(flags, tmp_path, capsys):
    assert main(["direction", "--film", "--runs", "2", "--out", str(tmp_path), *flags]) == 2
    assert capsys.readouterr().err.startswith("error: argument --film: the film shows")
    assert not list(tmp_path.iterdir())
