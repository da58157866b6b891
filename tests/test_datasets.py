"""Data as they are made, read and checked: every file here is one as people have them, or a damaged one."""

import gzip
import io
import pathlib
import re
import zipfile
from itertools import product

import numpy as np
import pytest

import experiments
from datasets import (
    IDX_FILES,
    classes,
    crossover_data,
    default_data,
    labelled,
    read_data,
    read_images,
    three_classes,
)
from minibias import Problem
from models import Linear

pytestmark = pytest.mark.filterwarnings("error")
X = [[2.1, 0.3], [1.7, 0.9], [-1.2, 0.4], [-0.8, -0.5]]
Y = [-1, -1, 1, 1]


def read(tmp_path, content, name="points.csv"):
    """What `read_data` makes of a file with this content; its line begins with the file's name."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = read_data(path)
    assert data.said.startswith(f"{path}: ") and data.said.isprintable()
    assert data.x.dtype == data.y.dtype == np.float64
    return data._replace(said=data.said.removeprefix(f"{path}: "))


def attempt(read, path):
    """What read() returns, or None and the one sentence with which it refuses the file."""
    try:
        return read(), ""
    except ValueError as problem:
        sentence = str(problem)
        assert type(problem) is ValueError and str(path) in sentence
        assert "\n" not in sentence and len(sentence) < 600
        return None, sentence


def refused(tmp_path, content, name="points.csv"):
    return attempt(lambda: read(tmp_path, content, name), tmp_path / name)[1]


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def test_the_data_made_here_are_what_they_are_said_to_be():
    x, y = default_data(3)
    centre = np.array([np.cos(0.5), np.sin(0.5)])
    assert x.shape == (100, 2) and y.tolist() == [1] * 50 + [-1] * 50
    assert abs(x - y[:, None] * centre).max() < 0.6
    x, y = three_classes(3)
    from_middle = np.angle((x @ [1, 1j]) * np.exp(-2j * np.pi / 3 * y))
    assert abs(from_middle).max() < 0.2 and np.bincount(y).tolist() == [5, 5, 5]
    x, y = crossover_data()
    assert (y[:, None] * x > 0).all() and x.shape == (8, 2)
    for make, outputs in ((lambda: default_data(0), 1), (lambda: three_classes(0), 3), (crossover_data, 1)):
        assert classes(labelled(*make())[1]) == outputs


LABELS = {  # each in the order of the classes -> labels, the names, what they become
    "signs": ([-1, 1], None),
    "bits": ([0, 1], ["0", "1"]),
    "truth": ([False, True], ["False", "True"]),
    "counts": ([0, 1, 2, 3], None),
    "two names": (["no", "yes, it is"], ["no", "yes, it is"]),
    "three names": (["née", "zoé; 2", "été"], ["née", "zoé; 2", "été"]),
}


class Frame:
    """A table with names of columns, as pandas has it: NumPy makes an array of it."""

    def __init__(self, array, columns=None):
        self.array, self.columns = array, columns

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize("labels, names", LABELS.values(), ids=LABELS)
def test_labels_in_every_form_mean_the_same_through_every_door(tmp_path, labels, names):
    labels, K = np.array(labels), len(labels)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        k = rng.permutation(np.arange(rng.integers(K, 12)) % K)
        wanted = 2.0 * k - 1 if K == 2 else k.astype(float)
        x, y = rng.normal(size=(len(k), 2)), labels[k]
        forms = [y, y.tolist(), y[:, None], y.astype(object), Frame(y.astype(object)), Frame(y[:, None])]
        forms += [y.astype(float), y.astype(np.float32), y.astype(np.int8)] if y.dtype.kind in "if" else []
        forms += [y.astype(str)] if y.dtype.kind == "i" else []
        for form, samples in product(forms, (x, x.tolist(), Frame(x), Frame(x.astype(object)))):
            problem = Problem(Linear(2, 1 if K == 2 else K), samples, form)
            assert problem.x.tolist() == x.tolist() and problem.y.tolist() == wanted.tolist()
            assert problem.names == names
            assert problem.x.dtype == problem.y.dtype == np.float64
        run = {"optimizers": "gd", "forms": "discrete", "model": "linear", "runs": 1, "steps": 1}
        found = experiments.direction(data=(x, forms[seed % len(forms)]), **run)
        assert list(found["data"]["y"]) == list(wanted)
        rows = [[repr(v) for v in row] + [f'"{label}"'] for row, label in zip(x.tolist(), y)]
        assert read(tmp_path, "\n".join(map(",".join, rows))).y.tolist() == wanted.tolist()
        assert read(tmp_path, npz(x=x, y=[y, y[:, None]][seed % 2]), "d.npz").y.tolist() == wanted.tolist()


WRONG_LABELS = {
    "1 and 2": ([1, 2, 1], "not {1, 2}; np.unique(y, return_inverse=True)[1] numbers the classes from 0"),
    "measured": ([0.5, 0.7, 0.9], "not {0.5, 0.7, 0.9}"),
    "one class": ([1, 1, 1], "both or all present, not {1}"),
    "one name": (["a", "a", "a"], "the labels are all 'a', expected two classes or more"),
    "mixed": (["a", 1, "b"], "all numbers or all names of classes, but y[1] is "),
    "no name": (["a", "NA", "b"], "but y[1] is 'NA'"),
    "infinite": ([0, np.inf, 1], "y[1] is inf"),
    "complex": ([1j, 1, 1], "all numbers or all names of classes, but y[0] is 1j"),
    "two columns": ([[0, 1], [1, 0], [1, 1]], "x must be (N, d) and y (N,) with one N"),
}


@pytest.mark.parametrize("y, said", WRONG_LABELS.values(), ids=WRONG_LABELS)
def test_other_labels_are_refused_by_every_door(y, said):
    for form in (y, np.array(y, object)):
        for door in (Problem, lambda _, x, y: experiments.direction(data=(x, y))):
            with pytest.raises(ValueError, match=re.escape(said)):
                door(Linear(2), np.eye(3, 2), form)


def test_x_that_is_no_finite_number_is_refused_by_its_place_or_column():
    frame = Frame(np.array([[1.5, "a"], [2, "b"]], object), ["size", "kind"])
    for x, said in (
        (frame, "x must hold real numbers, but its column 'kind' holds 'a'"),
        ([[1.0], [None]], "x must hold real numbers, but x[1, 0] holds None"),
        ([["a"], ["b"]], "x must hold real numbers, but x[0, 0] holds 'a'"),
        ([[1], [1, 2]], "x must be an array, with as many entries in each row"),
        ([[1, 2], [3, np.nan]], "the data must be finite, but x[1, 1] is nan"),
    ):
        with pytest.raises(ValueError, match=re.escape(said)):
            labelled(x, [1, -1])


def test_pandas_is_taken_as_it_is():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2, 3], "b": [1, 2, 4], "kind": ["no", "yes", "no"]})
    for kind in (frame["kind"], frame["kind"].astype("category")):
        x, y, names = labelled(frame[["a", "b"]], kind)
        assert (x.tolist(), y.tolist(), names) == ([[1, 1], [2, 2], [3, 4]], [-1, 1, -1], ["no", "yes"])
    with pytest.raises(ValueError, match="its column 'kind' holds 'no'"):
        labelled(frame, frame["kind"])
    with pytest.raises(ValueError, match=r"x\[1, 0\] is nan|holds <NA>"):
        labelled(frame[["a"]].astype("Int64").replace(2, pandas.NA), frame["kind"])


BARE = "2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n"


def table(header="", first=""):
    """BARE with a header and, where `first` is given, a first column of these words."""
    rows = [f"{word},{row}" for word, row in zip(first.split(), BARE.split())] if first else BARE.split()
    return "\n".join([header] * bool(header) + rows)


INDEX = "left out: the first column ({}, {}, {}, ...)".format
TABLES = {  # all of them hold X and Y; what is printed about them. Random tables below have more forms
    "header": ("a,b,kind\n2.1,0.3,-1\n1.7,.9,-1\n-1.2,4e-1,1.0\n-0.8,-0.5,+1", "header a, b, kind"),
    "pandas' index": (table(",a,b,kind", "0 1 2 3"), "header nameless, a, b, kind; " + INDEX(0, 1, 2)),
    "R's short header": (table('"a","b","kind"', '"1" "2" "3" "4"'), "header a, b, kind; " + INDEX(1, 2, 3)),
    "R's names": (table("a,b,kind", 'Mazda Fiat "VW,old" Opel'), INDEX("Mazda", "Fiat", "VW,old")),
    "row numbers": (table("", "1 2 3 4"), "no header; " + INDEX(1, 2, 3)),
    "columns counted": (table("0,1,2"), "header 0, 1, 2"),
    "columns counted, with an index": (table(",0,1,2", "5 6 7 8"), INDEX(5, 6, 7)),
    "spaces": ("a, b, k\n 2.1, 0.3, -1\n1.7 ,0.9 ,-1\n\n-1.2,  0.4,\t1\n \n-0.8, -0.5, 1\n", "a, b, k"),
    "a label without a name": (table("a,b,"), "header a, b, nameless"),
    "a name of two lines": (table('"size\n(cm; dry)",b,kind'), "header size (cm; dry), b"),
    "NumPy's savetxt": (table("# a,b,kind"), "header # a, b, kind"),
}


@pytest.mark.parametrize("content, word", TABLES.values(), ids=TABLES)
def test_tables_as_people_have_them(tmp_path, content, word):
    x, y, said = read(tmp_path, content, "points.TSV")
    assert x.tolist() == X and y.tolist() == Y
    assert said.startswith("4 samples, 2 features, 2 classes: -1 (2), +1 (2); ") and word in said


def test_a_named_first_column_of_numbers_is_a_feature(tmp_path):
    x, _, said = read(tmp_path, "time,signal,y\n1700000000000,0.1,1\n1700000060000,-0.1,-1\n")
    assert x.tolist() == [[1700000000000, 0.1], [1700000060000, -0.1]]
    assert said == "2 samples, 2 features, 2 classes: -1 (1), +1 (1); header time, signal, y"
    said = read(tmp_path, table("Id,a,b,kind", "1 2 3 4")).said
    assert ", 3 features, " in said and said.endswith("Id, counts the lines, and is taken as a feature")
    assert read(tmp_path, "1,oak\n2,ash\n3,oak\n").x.tolist() == [[1], [2], [3]]  # the only feature


def test_the_mapping_of_names_is_printed_without_control_characters(tmp_path):
    x, y, said = read(tmp_path, "w,kind\n1,oak\n2,ash\n3,yew\n4,ash\n")
    assert y.tolist() == [1, 0, 2, 0] and x.tolist() == [[1], [2], [3], [4]]
    assert said == "4 samples, 1 feature, 3 classes: ash as 0 (2), oak as 1 (1), yew as 2 (1); header w, kind"
    said = read(tmp_path, "".join(f"{k + 1},name {k:02}\n" for k in range(30))).said
    assert "name 09 as 9 (1), ...; no header" in said
    said = read(tmp_path, f'1,"a\n\x1b[2J"\n2,{200 * "b"}\n').said
    assert "a  [2J as -1" in said and 61 * "b" not in said


def test_a_first_row_that_counts_is_a_header_only_if_it_cannot_be_a_sample(tmp_path):
    assert "line 2 (0, 1, 2) may be a header or a sample" in refused(tmp_path, "\n0,1,2\n1,2,2\n")
    assert len(read(tmp_path, "0,1,a\n1,2,a\n3,4,b\n").y) == 3  # a is a class
    assert len(read(tmp_path, "0,1,z\n1,2,a\n3,4,b\n").y) == 2  # z is none
    assert len(read(tmp_path, "1,2,3\n1,5,0\n1,6,1\n2,6,2\n3,6,3\n").y) == 5  # counts from 1: a sample


SAVE = "save the table as UTF-8 text separated by commas, with decimal points"
REFUSED = {  # what is wrong in one line of a table is in the random tables below
    "decimal commas": ("a;b;k\n2,1;0,3;-1\n", "line 2 holds '2,1' (a), expected a finite number; " + SAVE),
    "Excel's sep=": ("sep=;\n1;2;-1\n3;4;1\n", "line 1 has 2 columns, expected 3 columns separated by semi"),
    "latin-1": ("Größe,k\n1,später\n2,früher\n".encode("latin-1"), SAVE),
    "a spreadsheet's margin": ("a,b,kind,,\n2,1,-1,,\n3,4,1,,\n", "but the first and the last needs a name"),
    "two indices": (",Unnamed: 0,a,k\n0,5,1,1\n1,6,2,-1\n", "but the first and the last needs a name"),
    "comments": (BARE + "# a note\n", "line 5 has 1 column, expected 3 columns separated by commas; " + SAVE),
    "no label": ("a,b,k\n1,2,yes\n1,2,\n1,3,no\n", "line 3 holds '' as its label"),
    "a name among numbers": ("1,2,1\n1,2,yes\n1,3,-1\n", "y[1] is 'yes'"),
    "names in a named column": ("who,a,k\nbob,1,1\nann,2,-1\n", "line 2 holds 'bob' (who)"),
    "names without a header": ("bob,1,1\nann,2,-1\n", "line 1 holds 'bob' (column 1)"),
    "a word in the first row": ("zwei,yes\n1,yes\n2,no\n", "line 1 holds 'zwei'"),
    "a title with a comma": ("Spring, dry\n1,5;A\n2,5;B\n", "line 1 has 1 column, expected 2"),
    "an index and a label": (",k\n1,1\n2,-1\n", "line 1 has 2 columns, expected 3"),
    "blank": ("\n,,\n", "no samples"),
}


@pytest.mark.parametrize("content, word", REFUSED.values(), ids=REFUSED)
def test_other_tables_are_refused_with_the_line_and_the_reason(tmp_path, content, word):
    assert word in refused(tmp_path, content)


LABEL_SETS = "-1,+1; 0,1; 0,1,2; no,yes it is; née,zoé; no,yes it is,you too; née,zoé,été"
DAMAGE = {  # what becomes of a row, at its cell j
    "other": lambda rng, row, j: [*row[:j], rng.choice(WRONG_NUMBERS), *row[j + 1 :]],
    "missing": lambda rng, row, j: row[:j] + row[j + 1 :],
    "spare": lambda rng, row, j: row[: j + 1] + row[j:],
    "unlabelled": lambda rng, row, j: [*row[:-1], rng.choice(["", "nan", "NaN", "?"])],
}
WRONG_NUMBERS = ["nan", "", "inf", "zwei", "1e999", "NA", "1.2.3", "--1", "1 2", "1_0", "١"]


def random_table(rng, damage=None):
    """A random table: its bytes, x, y, and the line of one sample, which is damaged."""
    header, separator = rng.choice(["names", "count", "none"]), str(rng.choice([",", ";", "\t"]))
    index = rng.choice(["", "{}", "row {}", "{}700000000000"]) if header != "none" else rng.choice(["", "{}"])
    labels = str(rng.choice(LABEL_SETS.split("; "))).split(",")
    end = str(rng.choice(["\n", "\r\n", "\r"]))
    n, d, kinds = rng.integers(4, 10), rng.integers(1, 5), len(labels)
    x, y = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-12, 12, d), rng.permutation(np.arange(n) % kinds)
    style = rng.choice([repr, "{:.17g}".format, "{:+.16E}".format])
    cells = [[*map(style, row), labels[c]] for row, c in zip(x.tolist(), y)]
    wrong = rng.integers(1, n)  # not the first: it could become a header
    cells[wrong] = damage(rng, cells[wrong], rng.integers(0, d)) if damage else cells[wrong]
    names = [f"x{j}" if header == "names" else str(j) for j in range(d)] + ["größe"]
    if index:
        cells = [[index.format(k + 1), *row] for k, row in enumerate(cells)]
        names = [str(rng.choice(["", "Unnamed: 0"])), *names]
    quotes, lines, at = rng.random() < 0.3, [], []
    for row in [names] * (header != "none") + cells:
        if rng.random() < 0.2:
            lines.append(str(rng.choice(["", "  ", 2 * separator])))
        lines.append(separator.join(f'"{cell}"' if quotes else cell for cell in row))
        at.append(len(lines))
    text = end.join(lines) + end * int(rng.integers(0, 2))
    return text.encode(rng.choice(["utf-8", "utf-8-sig"])), x, 2 * y - 1 if kinds == 2 else y, at[wrong - n]


def test_random_tables_are_read_back(tmp_path):
    for seed in range(400):
        content, x, y, _ = random_table(np.random.default_rng(seed))
        data = read(tmp_path, content)
        assert data.x.tolist() == x.tolist() and data.y.tolist() == y.tolist(), f"seed {seed}: {content!r}"


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_in_a_random_table_is_named_by_its_line(tmp_path, kind):
    for seed in range(120):
        content, _, _, line = random_table(np.random.default_rng(seed), DAMAGE[kind])
        sentence = refused(tmp_path, content)
        assert f"line {line} h" in sentence, f"seed {seed}: {sentence}, {content!r}"  # holds or has


def damaged(rng, content):
    """The bytes with some flipped, cut, doubled or replaced."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        start, stop = sorted(rng.integers(0, len(content) + 1, 2))
        stop = min(stop, start + int(rng.integers(1, 30)))
        junk = [b"", b'"', b",", b";\n", b"\0", b"#", b"1e400", content[start:stop] * 2]
        junk.append(rng.bytes(stop - start))
        content[start:stop] = junk[rng.integers(len(junk))]
    return bytes(content)


def test_random_damage_ends_in_data_or_in_one_sentence(tmp_path):
    read_back = 0
    for seed in range(900):
        rng = np.random.default_rng(seed)
        content, name = npz(x=rng.normal(size=(4, 2)), y=np.array([1, -1, 1, 1])), "points.npz"
        if seed % 3:
            content, name = random_table(rng)[0], "points.csv"
        data, _ = attempt(lambda: read(tmp_path, damaged(rng, content), name), tmp_path / name)
        assert data is None or (np.isfinite(data.x).all() and classes(data.y))
        read_back += data is not None
    assert 0 < read_back < 900


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "bool"])
def test_archives_are_read_as_float64_and_float32_stays_for_the_library(tmp_path, dtype):
    x, y = np.round(8 * np.array(X)).astype(dtype), np.array(Y)
    assert labelled(x, y)[0].dtype == (np.float32 if dtype == "float32" else np.float64)
    for labels, named in (
        (y.astype("int8"), "-1 (2), +1 (2)"),
        ((y + 1) // 2, "0 as -1 (2), 1 as +1 (2)"),
        ((y > 0)[:, None], "False as -1 (2), True as +1 (2)"),
    ):
        data = read(tmp_path, npz(x=x, y=labels), "d.NPZ")
        assert data.x.tolist() == x.tolist() and data.y.tolist() == Y
        assert data.said == f"4 samples, 2 features, 2 classes: {named}"


def test_other_archives_are_refused_with_the_reason(tmp_path):
    for word, content in (
        ("expected arrays named x and y, not X, y", npz(X=np.eye(2), y=[1, -1])),
        ("no samples", npz(x=np.ones((0, 2)), y=[])),
        ("pickle", npz(x=np.array([[None]]), y=[1])),
    ):
        assert word in refused(tmp_path, content, "d.npz")
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:  # of texts
        archive.writestr("x", "1,2")
        archive.writestr("y", "1,-1")
    assert "must be (N, d)" in refused(tmp_path, (tmp_path / "d.npz").read_bytes(), "d.npz")


def images(samples):
    rng, counts = np.random.default_rng(0), {"train": samples, "test": 12}
    x = {f"x_{part}": rng.integers(0, 256, (n, 28, 28), np.uint8) for part, n in counts.items()}
    return x | {f"y_{part}": np.arange(n, 0, -1, np.uint8) % 10 for part, n in counts.items()}


def idx(array):
    shape = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + shape + array.astype(np.uint8).tobytes()


def write_folder(folder, arrays, rename=lambda name: name):
    """The four IDX files under the names that rename() gives them; what ends in .gz is packed."""
    for key, name in IDX_FILES.items():
        path = folder / rename(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(idx(arrays[key])) if path.suffix == ".gz" else idx(arrays[key]))
    return folder


LAYOUTS = {
    "dots, gzip": lambda name: name.replace("-idx", ".idx") + ".gz",
    "torchvision, from its root": lambda name: f"MNIST/raw/{name}",
    "a folder for each, below": lambda name: f"archive/{name.replace('-idx', '.idx')}/{name}",
    "a folder for each, capitals": lambda name: f"{name}/{name}".upper(),
    "EMNIST": lambda name: f"gzip/emnist-digits-{name.replace('t10k', 'test')}.gz",
}


@pytest.mark.parametrize("kind", [*LAYOUTS, "a compressed npz of int64, with labels in a column"])
def test_all_layouts_give_the_first_so_many_images(tmp_path, kind):
    arrays, path = images(40), tmp_path / "mnist.npz"
    if kind in LAYOUTS:
        path = write_folder(tmp_path / "f", arrays, LAYOUTS[kind])
    else:
        wide = {k: a.astype(np.int64) for k, a in arrays.items()}
        np.savez_compressed(path, **{k: a[:, None] if k[0] == "y" else a for k, a in wide.items()})
    x_train, y_train, x_test, y_test, scale, said = read_images(path, 30, 12)
    np.testing.assert_array_equal(x_train, arrays["x_train"][:30].reshape(30, 784))
    np.testing.assert_array_equal(x_test, arrays["x_test"].reshape(12, 784))
    np.testing.assert_array_equal(y_train, arrays["y_train"][:30])
    np.testing.assert_array_equal(y_test, arrays["y_test"])
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)} and scale == 255
    assert said == f"{path}: 30 of 40 train images, 12 of 12 test images, pixels divided by 255"


def test_a_folder_holds_one_data_set_packed_and_unpacked_and_neither_two_nor_parts_of_two(tmp_path):
    read_folder = lambda: attempt(lambda: read_images(tmp_path, 30, 12), tmp_path)
    for first, other in (("emnist-digits-", "emnist-mnist-"), ("A/", "B/")):
        write_folder(tmp_path, images(40), lambda name: (first if "train" in name else other) + name)
        assert "expected the four IDX files" in read_folder()[1]
    for ending in ("", ".gz"):
        write_folder(tmp_path, images(40), lambda name: f"MNIST/raw/{name}{ending}")
        assert len(read_folder()[0].x_train) == 30
    write_folder(tmp_path, images(40), lambda name: f"FashionMNIST/raw/{name}.gz")
    assert re.search("expected the files of one data set.*FashionMNIST", read_folder()[1])


def test_images_that_hold_only_0_and_1_are_not_divided_by_255(tmp_path):
    arrays, path = {k: a > 127 if k[0] == "x" else a for k, a in images(40).items()}, tmp_path / "binary.npz"
    np.savez(path, **arrays)
    data = read_images(path, 30, 12)
    assert data.scale == 1 and data.said.endswith("pixels only 0 and 1, so not divided by 255")
    np.testing.assert_array_equal(data.x_train, arrays["x_train"][:30].reshape(30, 784))
    arrays["x_test"] = np.full((12, 28, 28), 2)  # one image of greys is enough
    np.savez(path, **arrays)
    assert read_images(path, 30, 12).scale == 255


def test_the_shipped_subset_is_balanced_mnist():
    path = pathlib.Path(__file__).parents[1] / "data" / "mnist.npz"
    x_train, y_train, x_test, y_test, scale, _ = read_images(path, 5000, 2000)
    assert x_train.shape == (5000, 784) and x_test.shape == (2000, 784) and x_train.max() == scale == 255
    assert np.bincount(y_test).tolist() == [200] * 10 and np.bincount(y_train).tolist() == [500] * 10


BROKEN = {
    "truncated": ("x_train", lambda c: c[:-1], "holds"),
    "too long": ("y_test", lambda c: c + b"\0", "holds"),
    "empty": ("y_train", lambda c: b"", "magic number"),
    "wrong magic": ("x_train", lambda c: b"\0\0\x0d\x03" + c[4:], "magic number"),
    "labels for images": ("x_train", lambda c: idx(np.arange(40)), "magic number"),
    "damaged gzip": ("x_train", lambda c: gzip.compress(c)[:-20], "gzip"),
    "other count": ("y_train", lambda c: idx(np.arange(39) % 10), "(39,)"),
}


@pytest.mark.parametrize("key, damage, word", BROKEN.values(), ids=BROKEN)
def test_broken_idx_files_are_refused_with_the_reason(tmp_path, key, damage, word):
    path = write_folder(tmp_path, images(40)) / IDX_FILES[key]
    path.write_bytes(damage(path.read_bytes()))
    assert word in attempt(lambda: read_images(tmp_path, 30, 12), tmp_path)[1]


def test_random_damage_to_images_ends_in_images_or_in_one_sentence(tmp_path):
    arrays = images(20)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        path = target = tmp_path / "mnist.npz"
        np.savez(path, **arrays)
        if seed % 2 == 0:
            path = write_folder(tmp_path / str(seed), arrays, lambda name: name + ".gz" * (seed % 4 > 0))
            target = rng.choice(sorted(path.iterdir()))
        target.write_bytes(damaged(rng, target.read_bytes()))
        data, _ = attempt(lambda: read_images(path, 15, 10), path)
        assert data is None or (len(data.x_train) == 15 and data.y_train.max() == 9)
