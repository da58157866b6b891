"""Data as they are made, read and checked: every file here is one as people have them, or a damaged one."""

import gzip
import io
import pathlib
import re
import warnings
import zipfile

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

ROOT = pathlib.Path(__file__).parents[1]
X = [[2.1, 0.3], [1.7, 0.9], [-1.2, 0.4], [-0.8, -0.5]]
Y = [-1, -1, 1, 1]


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def read(tmp_path, content, name="points.csv"):
    """What `read_data` makes of a file with this content; its line begins with the file's name."""
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = read_data(path)
    assert data.said.startswith(f"{path}: ") and data.said.isprintable()
    assert data.x.dtype == data.y.dtype == np.float64
    return data._replace(said=data.said.removeprefix(f"{path}: "))


def refusal(read, path):
    """The sentence with which read() refuses the file; any other end is a failure."""
    with pytest.raises(ValueError) as problem:
        read()
    assert type(problem.value) is ValueError
    sentence = str(problem.value)
    assert str(path) in sentence and "\n" not in sentence and len(sentence) < 600
    return sentence


def refused(tmp_path, content, name="points.csv"):
    return refusal(lambda: read(tmp_path, content, name), tmp_path / name)


# ------------------------------------------------------------------------------------------ made and checked


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


# ---------------------------------------------------------------------------------------------- labels

LABELS = {  # each in numbers of the classes 0, 1 (, 2) -> labels, the names, what they become
    "signs": ([-1, 1], None),
    "bits": ([0, 1], ["0", "1"]),
    "truth": ([False, True], ["False", "True"]),
    "counts": ([0, 1, 2], None),
    "two names": (["no", "yes, it is"], ["no", "yes, it is"]),
    "three names": (["été", "née", "zoé; 2"], ["été", "née", "zoé; 2"]),
    "four counts": ([0.0, 1.0, 2.0, 3.0], None),
}


class Frame:
    """A table with names of columns, as pandas has it: NumPy makes an array of it."""

    def __init__(self, array, columns=None):
        self.array, self.columns = array, columns

    def __array__(self, dtype=None, copy=None):
        return self.array


@pytest.mark.parametrize("kind", LABELS)
def test_labels_in_every_form_mean_the_same_through_every_door(tmp_path, kind):
    labels, names = LABELS[kind]
    labels, K = np.array(labels), len(labels)
    outputs = 1 if K == 2 else K
    for seed in range(10):
        rng = np.random.default_rng(seed)
        k = rng.permutation(np.arange(rng.integers(K, 12)) % K)
        order = np.argsort(names) if names and K > 2 else np.arange(K)
        wanted = 2.0 * k - 1 if K == 2 else np.argsort(order)[k].astype(float)
        x, y = rng.normal(size=(len(k), 2)), labels[k]
        forms = [y, y.tolist(), y[:, None], y.astype(object), Frame(y.astype(object)), Frame(y[:, None])]
        forms += [y.astype(float), y.astype(np.float32), y.astype(np.int8)] if y.dtype.kind in "if" else []
        forms += [y.astype(str)] if y.dtype.kind == "i" else []
        for form in forms:
            for samples in (x, x.tolist(), Frame(x), Frame(x.astype(object))):
                got, signs, called = labelled(samples, form)
                assert got.tolist() == x.tolist() and signs.tolist() == wanted.tolist()
                assert called == (None if names is None else sorted(names))
                assert got.dtype == signs.dtype == np.float64
            problem = Problem(Linear(2, outputs), x, form)
            assert problem.y.tolist() == wanted.tolist() and problem.outputs == outputs
            assert problem.names == (None if names is None else sorted(names))
        run = {"optimizers": "gd", "forms": "discrete", "model": "linear", "runs": 1, "steps": 1}
        assert list(experiments.direction(data=(x, forms[seed % len(forms)]), **run)["data"]["y"]) == list(
            wanted
        )
        rows = [[repr(v) for v in row] + [f'"{label}"'] for row, label in zip(x.tolist(), y)]
        assert read(tmp_path, "\n".join(map(",".join, rows))).y.tolist() == wanted.tolist()
        assert read(tmp_path, npz(x=x, y=[y, y[:, None]][seed % 2]), "d.npz").y.tolist() == wanted.tolist()


WRONG_LABELS = {
    "1 and 2": ([1, 2, 1], "not {1, 2}; np.unique(y, return_inverse=True)[1] numbers the classes from 0"),
    "from 1": ([1, 2, 3], "not {1, 2, 3}; np.unique"),
    "with 0 between": ([-1, 0, 1], "not {-1, 0, 1}; np.unique"),
    "measured": ([0.5, 0.7, 0.9], "not {0.5, 0.7, 0.9}"),
    "one class": ([1, 1, 1], "both or all present, not {1}"),
    "one name": (["a", "a", "a"], "the labels are all 'a', expected two classes or more"),
    "mixed": (["a", "1", "b"], "all numbers or all names of classes, but y[1] is '1'"),
    "mixed objects": (["a", 1, "b"], "but y[1] is "),
    "a name missing": (["a", np.nan, "b"], "but y[1] is "),
    "no name": (["a", "NA", "b"], "but y[1] is 'NA'"),
    "None": ([None, 1, 1], "but y[0] is None"),
    "infinite": ([0, np.inf, 1], "y[1] is inf"),
    "complex": ([1j, 1, 1], "all numbers or all names of classes, but y[0] is 1j"),
    "two columns": ([[0, 1], [1, 0], [1, 1]], "x must be (N, d) and y (N,) with one N"),
    "ragged": ([[0, 1], [1], [1]], "y must be an array, with as many entries in each row"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_other_labels_are_refused_by_every_door(tmp_path, kind):
    y, word = WRONG_LABELS[kind]
    for form in (y, np.array(y, object)) if kind != "ragged" else (y,):
        for door in (Problem, lambda _, x, y: experiments.direction(data=(x, y))):
            with pytest.raises(ValueError, match=re.escape(word)):
                door(Linear(2), np.eye(3, 2), form)
    if kind == "1 and 2":
        assert labelled(np.eye(3, 2), np.unique(y, return_inverse=True)[1])[1].tolist() == [-1, 1, -1]


def test_a_frame_with_a_column_of_names_is_refused_by_the_name_of_the_column():
    frame = Frame(np.array([[1.5, "a"], [2, "b"]], object), ["size", "kind"])
    with pytest.raises(ValueError, match="x must hold real numbers, but its column 'kind' holds 'a'"):
        Problem(Linear(2), frame, [1, -1])
    with pytest.raises(ValueError, match=re.escape("x must hold real numbers, but x[1, 0] holds None")):
        labelled([[1.0], [None]], [1, -1])
    with pytest.raises(ValueError, match=re.escape("x[0, 0] holds 'a'")):
        labelled([["a"], ["b"]], [1, -1])


def test_pandas_is_taken_as_it_is():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2, 3], "b": [1, 2, 4], "kind": ["no", "yes", "no"]})
    x, y, names = labelled(frame[["a", "b"]], frame["kind"])
    assert x.tolist() == [[1, 1], [2, 2], [3, 4]] and y.tolist() == [-1, 1, -1] and names == ["no", "yes"]
    assert labelled(frame[["a"]], frame["kind"].astype("category"))[1].tolist() == [-1, 1, -1]
    with pytest.raises(ValueError, match="its column 'kind' holds 'no'"):
        labelled(frame, frame["kind"])
    with pytest.raises(ValueError, match=r"x\[1, 0\] is nan|holds <NA>"):
        labelled(frame[["a"]].astype("Int64").replace(2, pandas.NA), frame["kind"])


def test_labelled_x_is_float_and_float32_stays():
    for dtype, kept in ((np.float32, np.float32), (np.float16, float), (np.int8, float), (bool, float)):
        x, labels, _ = labelled(np.array([[0], [1]], dtype), [1, -1])
        assert x.dtype == kept and labels.dtype == np.float64


@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_what_is_not_finite_is_named_by_its_place(place):
    x, y = np.ones((3, 2)), np.array([1.0, -1, 1])
    x[place] = np.nan
    with pytest.raises(ValueError, match=re.escape(f"x[{place[0]}, {place[1]}] is nan")):
        labelled(x, y)
    y[place[0]] = -np.inf
    with pytest.raises(ValueError, match=re.escape(f"y[{place[0]}] is -inf")):
        labelled(np.ones((3, 2)), y)


# ---------------------------------------------------------------------------------------------- tables

BARE = "2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n"


def table(header="", first="", rows=BARE):
    """The table with a header and, where `first` is given, a first column of these words."""
    rows = "".join(f"{word},{row}\n" for word, row in zip(first.split(), rows.split())) if first else rows
    return f"{header}\n{rows}" if header else rows


INDEX = "left out: the first column ({}, {}, {}, ...)".format
TABLES = {  # all of them hold X and Y; what is printed about them
    "bare": (BARE, "no header"),
    "header": ("a,b,kind\n2.1,0.3,-1\n1.7,.9,-1\n-1.2,4e-1,1.0\n-0.8,-0.5,+1", "header a, b, kind"),
    "pandas' index": (table(",a,b,kind", "0 1 2 3"), "header nameless, a, b, kind; " + INDEX(0, 1, 2)),
    "pandas' index, read again": (table("Unnamed: 0,a,b,kind", "5 6 7 8"), INDEX(5, 6, 7)),
    "index of times": (
        table(",a,b,k", "1700000000 1700000060 1700000120 1700000180"),
        INDEX(1700000000, 1700000060, 1700000120),
    ),
    "R's row names": (table('"","a","b","kind"', '"1" "2" "3" "4"'), INDEX(1, 2, 3)),
    "R's short header": (table('"a","b","kind"', '"1" "2" "3" "4"'), "header a, b, kind; " + INDEX(1, 2, 3)),
    "R's short header, words": (
        table("a,b,kind", 'Mazda Fiat "VW,old" Opel'),
        INDEX("Mazda", "Fiat", "VW,old"),
    ),
    "row numbers": (table("", "1 2 3 4"), "no header; " + INDEX(1, 2, 3)),
    "columns counted": (table("0,1,2"), "header 0, 1, 2"),
    "columns counted, label named": (table("0,1,kind"), "header 0, 1, kind"),
    "columns counted, with an index": (table(",0,1,2", "5 6 7 8"), INDEX(5, 6, 7)),
    "semicolons": (BARE.replace(",", ";"), "no header"),
    "tabs": (table("a,b,kind").replace(",", "\t"), "header a, b, kind"),
    "all quoted": (re.sub("[^,\n]+", lambda cell: f'"{cell[0]}"', BARE), "no header"),
    "spaces": (
        "a, b, kind\n 2.1, 0.3, -1\n1.7 ,0.9 ,-1\n\n-1.2,  0.4,\t1\n   \n-0.8, -0.5, 1\n\n",
        "a, b, kind",
    ),
    "a label without a name": (table("a,b,"), "header a, b, nameless"),
    "a name of two lines": (table('"size\n(cm; dry)",b,kind'), "header size (cm; dry), b"),
    "NumPy's savetxt": (table("# a,b,kind"), "header # a, b, kind"),
    "old line ends": (table("a,b,kind").replace("\n", "\r"), "header a, b, kind"),
    "Windows line ends": (table("a,b,kind").replace("\n", "\r\n"), "header a, b, kind"),
}


@pytest.mark.parametrize("kind", TABLES)
def test_tables_as_people_have_them(tmp_path, kind):
    content, word = TABLES[kind]
    for encoding, name in (("utf-8", "points.csv"), ("utf-8-sig", "points.CSV")):
        x, y, said = read(tmp_path, content.encode(encoding), name)
        assert x.tolist() == X and y.tolist() == Y
        assert said.startswith("4 samples, 2 features, 2 classes: -1 (2), +1 (2); ") and word in said


def test_a_named_first_column_of_numbers_is_a_feature(tmp_path):
    x, y, said = read(tmp_path, "time,signal,y\n1700000000000,0.1,1\n1700000060000,-0.1,-1\n")
    assert x.tolist() == [[1700000000000, 0.1], [1700000060000, -0.1]] and y.tolist() == [1, -1]
    assert said == "2 samples, 2 features, 2 classes: -1 (1), +1 (1); header time, signal, y"
    x, _, said = read(tmp_path, "1700000000,0.3,1\n1700000060,-0.4,-1\n")
    assert x.shape == (2, 2) and "left out" not in said  # without a header too
    x, _, said = read(tmp_path, table("Id,a,b,kind", "1 2 3 4"))
    assert x.shape == (4, 3) and said.endswith(
        "the first column, Id, counts the lines, and is taken as a feature"
    )
    assert read(tmp_path, "1,oak\n2,ash\n3,oak\n").x.tolist() == [[1], [2], [3]]  # the only feature


def test_the_mapping_of_names_is_printed_without_control_characters(tmp_path):
    x, y, said = read(tmp_path, "w,kind\n1,oak\n2,ash\n3,yew\n4,ash\n")
    assert y.tolist() == [1, 0, 2, 0] and x.tolist() == [[1], [2], [3], [4]]
    assert said == "4 samples, 1 feature, 3 classes: ash as 0 (2), oak as 1 (1), yew as 2 (1); header w, kind"
    said = read(tmp_path, "".join(f"{k + 1},name {k:02}\n" for k in range(30))).said
    assert "name 09 as 9 (1), ...; no header" in said
    said = read(tmp_path, f'1,"a\n\x1b[2J"\n2,{200 * "b"}\n').said
    assert "a  [2J as -1" in said and 61 * "b" not in said
    assert "0 as -1 (1), 1 as +1 (1)" in read(tmp_path, "5,0\n7,1\n").said


def test_a_first_row_that_counts_is_a_header_only_if_it_cannot_be_a_sample(tmp_path):
    assert "header or a sample" in refused(tmp_path, "0,1,2\n1.5,2.5,0\n3.5,4.5,1\n5.5,6.5,2\n")
    assert len(read(tmp_path, "0,1,a\n1,2,a\n3,4,b\n").y) == 3  # a is a class
    assert len(read(tmp_path, "0,1,z\n1,2,a\n3,4,b\n").y) == 2  # z is none
    assert len(read(tmp_path, "1,2,3\n1,5,0\n1,6,1\n2,6,2\n3,6,3\n").y) == 5  # counts from 1: a sample


SAVE = "save the table as UTF-8 text separated by commas, with decimal points"
REFUSED = {
    "decimal commas": (
        "a;b;k\n2,1;0,3;-1\n1,7;0,9;1\n",
        "line 2 holds '2,1' (a), expected a finite number; " + SAVE,
    ),
    "quoted decimal commas": ('"2,1","0,3",-1\n"1,7","0,9",1\n', SAVE),
    "Excel's sep=": ("sep=;\n1;2;-1\n3;4;1\n", SAVE),
    "UTF-16": (BARE.encode("utf-16"), SAVE),
    "UTF-16 without its mark": (BARE.encode("utf-16-le"), "expected"),
    "latin-1": ("Größe,k\n1,später\n2,früher\n".encode("latin-1"), SAVE),
    "a spreadsheet's own format": (b"PK\3\4\x14\0\x06\0\xff", SAVE),
    "a spreadsheet's margin": ("a,b,kind,,\n2,1,-1,,\n3,4,1,,\n", "each column but the first and the last"),
    "a header of two lines, after a blank one": ("\n0,1,2\n1,2,2\n", "line 2 (0, 1, 2) may be a header"),
    "a margin without a header": ("2,1,-1,\n3,4,1,\n", "line 1 holds '' as its label"),
    "two nameless columns": (
        ",Unnamed: 0,a,k\n0,5,1,1\n1,6,2,-1\n",
        "each column but the first and the last",
    ),
    "comments": (BARE + "# a note\n", SAVE),
    "a commented sample": (BARE + "#5,5,1\n", "line 5 holds '#5'"),
    "nan": ("a,b,k\n1,2,1\n3,nan,-1\n", "line 3 holds 'nan' (b), expected a finite number"),
    "empty": ("a,b,k\n1,2,1\n,5,-1\n", "line 3 holds '' (a)"),
    "NA in the first row": ("NA,5,1\n1,2,-1\n", "line 1 holds 'NA' (column 1)"),
    "infinite": ("1,2,1\n3,1e999,-1\n", "line 2 holds '1e999' (column 2)"),
    "infinite label": ("1,2,1\n3,4,inf\n", "y[1] is 'inf'"),
    "no label": ("a,b,k\n1,2,yes\n1,2,\n1,3,no\n", "line 3 holds '' as its label"),
    "NaN for a label": ("1,2,yes\n1,2,NaN\n1,3,no\n", "line 2 holds 'NaN' as its label"),
    "a number among names": ("1,2,yes\n1,2,1\n1,3,no\n", "y[1] is '1'"),
    "a name among numbers": ("1,2,1\n1,2,yes\n1,3,-1\n", "y[1] is 'yes'"),
    "1 and 2": ("1,2,1\n1,3,2\n", "not {1, 2}; np.unique"),
    "underscores": ("1_0,2,1\n3,4,-1\n", "'1_0'"),
    "other digits": ("١,2,1\n3,4,-1\n", "'١'"),
    "units": ("a,b,k\ncm,kg,\n1,2,1\n3,4,-1\n", "line 2 holds 'cm'"),
    "names in a named column": ("who,a,k\nbob,1,1\nann,2,-1\n", "line 2 holds 'bob' (who)"),
    "names without a header": ("bob,1,1\nann,2,-1\n", "line 1 holds 'bob'"),
    "a word in the first row": ("zwei,yes\n1,yes\n2,no\n", "line 1 holds 'zwei'"),
    "spaces": ("a b k\n1 2 1\n3 4 -1\n", SAVE),
    "short row": (
        "a;b;k\n1;2;1\n3;4\n5;6;1\n",
        "line 3 has 2 columns, expected 3 columns separated by semicolons",
    ),
    "long row": ("1,2,1\n1,2,3,1\n3,4,-1\n5,6,1\n", "line 2 has 4 columns"),
    "a title": ("Spring, 2024; a and b\n1,5;2;A\n2,5;3;B\n", "line 1 "),
    "a title with a comma": ("Spring, dry\n1,5;A\n2,5;B\n", "line 1 has 1 column, expected 2"),
    "long header": ("a,b,c,k\n1,2,1\n3,4,-1\n", "line 1 has 4 columns, expected 3"),
    "header of the features alone": ("a,b\n1.5,2,1\n3.5,4,-1\n", "line 1 has 2 columns, expected 3"),
    "header of the features, whole numbers": ("a,b\n5,2,1\n3,4,-1\n", "line 1 has 2 columns, expected 3"),
    "an index and a label": (",k\n1,1\n2,-1\n", "line 1 has 2 columns, expected 3"),
    "blank": ("\n,,\n", "no samples"),
    "stray quote": ('1,2,1\n"1,2,-1\n', SAVE),
    "a page": ("<!DOCTYPE html>\n<html>\n<body>404</body>\n", SAVE),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_tables_are_refused_with_the_line_and_the_reason(tmp_path, kind):
    content, word = REFUSED[kind]
    assert word in refused(tmp_path, content)


def random_table(rng, damage=lambda cells: None):
    """A random table: its bytes, x, y, and the line on which each sample stands.

    damage(cells) may change the cells of the samples before they are written.
    """
    header, separator = rng.choice(["names", "count", "none"]), str(rng.choice([",", ";", "\t"]))
    index = rng.choice(["", "{}", "row {}", "{}700000000000"]) if header != "none" else rng.choice(["", "{}"])
    label, end = (
        rng.choice(["signs", "bits", "counts", "two", "three"]),
        str(rng.choice(["\n", "\r\n", "\r"])),
    )
    n, d, kinds = rng.integers(4, 10), rng.integers(1, 5), 3 if label in ("counts", "three") else 2
    x, y = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-12, 12, d), rng.permutation(np.arange(n) % kinds)
    style = rng.choice([repr, "{:.17g}".format, "{:+.16E}".format])
    words = ["née", "zoé", "été"] if rng.random() < 0.5 else ["no", "yes it is", "you too"]
    labels = {"signs": ["-1", "+1"], "bits": ["0", "1"], "counts": ["0", "1", "2"]}.get(label, sorted(words))
    cells = [[*map(style, row), labels[c]] for row, c in zip(x.tolist(), y)]
    damage(cells)
    names = (
        [f"x{j}" for j in range(d)] + ["größe"] if header == "names" else [str(j) for j in range(d)] + ["k"]
    )
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
    return text.encode(rng.choice(["utf-8", "utf-8-sig"])), x, 2 * y - 1 if kinds == 2 else y, at[-n:]


def test_random_tables_are_read_back(tmp_path):
    for seed in range(400):
        content, x, y, _ = random_table(np.random.default_rng(seed))
        data = read(tmp_path, content)
        assert data.x.tolist() == x.tolist() and data.y.tolist() == y.tolist(), f"seed {seed}: {content!r}"


@pytest.mark.parametrize("kind", ["other", "missing", "spare", "unlabelled"])
def test_what_is_wrong_in_a_random_table_is_named_by_its_line(tmp_path, kind):
    def damage(cells):
        nonlocal wrong
        wrong = rng.integers(1, len(cells))  # not the first: it could become a header
        row = cells[wrong]
        place = rng.integers(0, len(row) - 1)
        if kind == "other":
            row[place] = str(rng.choice(["nan", "", "inf", "zwei", "1e999", "NA", "1.2.3", "--1", "1 2"]))
        elif kind == "missing":
            del row[place]
        elif kind == "spare":
            row.insert(place, row[place])
        else:
            row[-1] = str(rng.choice(["", "nan", "?"]))

    for seed in range(120):
        rng, wrong = np.random.default_rng(seed), None
        content, _, _, at = random_table(rng, damage)
        sentence = refused(tmp_path, content)
        assert f"line {at[wrong]} h" in sentence, f"seed {seed}: {sentence}, {content!r}"  # holds or has


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def damaged(rng, content):
    """The bytes with some flipped, cut, doubled or replaced."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        start, stop = sorted(rng.integers(0, len(content) + 1, 2))
        stop = min(stop, start + int(rng.integers(1, 30)))
        junk = [
            b"",
            rng.bytes(stop - start),
            b'"',
            b",",
            b";\n",
            b"\0",
            b"#",
            content[start:stop] * 2,
            b"1e400",
        ]
        content[start:stop] = junk[rng.integers(len(junk))]
    return bytes(content)


def test_random_damage_ends_in_data_or_in_one_sentence(tmp_path):
    read_back = 0
    for seed in range(900):
        rng = np.random.default_rng(seed)
        if seed % 3:
            content, name = random_table(rng)[0], "points.csv"
        else:
            content, name = npz(x=rng.normal(size=(4, 2)), y=np.array([1, -1, 1, 1])), "points.npz"
        try:
            data = read(tmp_path, damaged(rng, content), name)
        except ValueError as problem:
            assert type(problem) is ValueError and "\n" not in str(problem) and name in str(problem)
        else:
            read_back += 1
            assert np.isfinite(data.x).all() and classes(data.y)
    assert 0 < read_back < 900


# ---------------------------------------------------------------------------------------------- archives


@pytest.mark.parametrize("labels", ["int8", "float32", "bool", "column", "bool column", "bits"])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64"])
def test_archives_as_people_have_them(tmp_path, labels, dtype):
    x, y = 8 * np.array(X), np.array(Y)
    x = np.round(x).astype(dtype)
    made = {"bool": y > 0, "column": y[:, None], "bool column": (y > 0)[:, None], "bits": (y + 1) // 2}
    data = read(
        tmp_path,
        npz(x=x, y=made.get(labels, y.astype(labels if labels in ("int8", "float32") else int))),
        "d.NPZ",
    )
    assert data.x.tolist() == x.tolist() and data.y.tolist() == Y
    named = "0 as -1 (2), 1 as +1 (2)" if labels == "bits" else "-1 (2), +1 (2)"
    named = "False as -1 (2), True as +1 (2)" if "bool" in labels else named
    assert data.said == f"4 samples, 2 features, 2 classes: {named}"


BAD_ARCHIVES = {
    "other names": ({"X": np.eye(2), "y": [1, -1]}, "expected arrays named x and y, not X, y"),
    "two columns of labels": ({"x": np.eye(2), "y": np.eye(2)}, "must be (N, d) and y (N,)"),
    "a row of labels": ({"x": np.eye(2), "y": [[1, -1]]}, "must be (N, d) and y (N,)"),
    "names": ({"x": [["no"], ["yes"]], "y": ["no", "yes"]}, "real numbers"),
    "nan": ({"x": np.array([[1, 2], [np.nan, 3]]), "y": [1, -1]}, "x[1, 0] is nan"),
    "no samples": ({"x": np.ones((0, 2)), "y": []}, "no samples"),
    "labels from 1": ({"x": np.eye(3), "y": [1, 2, 3]}, "not {1, 2, 3}"),
    "objects": ({"x": np.array([[None]]), "y": [1]}, "pickle"),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_other_archives_are_refused_with_the_reason(tmp_path, kind):
    arrays, word = BAD_ARCHIVES[kind]
    assert word in refused(tmp_path, npz(**arrays), "d.npz")


def test_an_archive_of_something_else_is_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x", "1,2")
        archive.writestr("y", "1,-1")
    assert "must be (N, d)" in refused(tmp_path, buffer.getvalue(), "d.npz")


# ---------------------------------------------------------------------------------------------- images


def images(samples, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (samples, 28, 28)).astype(np.uint8),
        "y_train": np.arange(samples, dtype=np.uint8) % 10,
        "x_test": rng.integers(0, 256, (12, 28, 28)).astype(np.uint8),
        "y_test": rng.integers(0, 10, 12).astype(np.uint8),
    }


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
    "plain": lambda name: name,
    "gzip": lambda name: f"{name}.gz",
    "dots": lambda name: name.replace("-idx", ".idx"),
    "dots, gzip": lambda name: name.replace("-idx", ".idx") + ".gz",
    "torchvision, from its root": lambda name: f"MNIST/raw/{name}",
    "torchvision, Fashion-MNIST, packed": lambda name: f"FashionMNIST/raw/{name}.gz",
    "torchvision, from below": lambda name: f"raw/{name}",
    "a folder for each": lambda name: f"{name}/{name}",
    "a folder for each, dots": lambda name: f"{name}/{name.replace('-idx', '.idx')}",
    "a folder for each, below": lambda name: f"archive/{name.replace('-idx', '.idx')}/{name}",
    "EMNIST": lambda name: f"gzip/emnist-digits-{name.replace('t10k', 'test')}.gz",
    "EMNIST's mnist": lambda name: f"emnist-mnist-{name.replace('t10k', 'test')}",
    "capitals": lambda name: name.upper(),
}


@pytest.mark.parametrize("kind", [*LAYOUTS, "npz", "compressed", "int64", "column"])
def test_all_layouts_give_the_first_so_many_images(tmp_path, kind):
    arrays = images(40)
    path = tmp_path / "mnist.npz"
    if kind in LAYOUTS:
        path = write_folder(tmp_path / "f", arrays, LAYOUTS[kind])
    elif kind == "compressed":
        np.savez_compressed(path, **arrays)
    elif kind == "column":
        np.savez(path, **{k: a[:, None] if k[0] == "y" else a for k, a in arrays.items()})
    else:
        np.savez(path, **{k: a.astype(np.int64) if kind == "int64" else a for k, a in arrays.items()})
    x_train, y_train, x_test, y_test, scale, said = read_images(path, 30, 12)
    np.testing.assert_array_equal(x_train, arrays["x_train"][:30].reshape(30, 784))
    np.testing.assert_array_equal(x_test, arrays["x_test"].reshape(12, 784))
    np.testing.assert_array_equal(y_train, arrays["y_train"][:30])
    np.testing.assert_array_equal(y_test, arrays["y_test"])
    assert {a.dtype for a in (x_train, y_train, x_test, y_test)} == {np.dtype(np.uint8)} and scale == 255
    assert said == f"{path}: 30 of 40 train images, 12 of 12 test images, pixels divided by 255"


def test_files_that_lie_there_packed_and_unpacked_are_one_data_set(tmp_path):
    folder = write_folder(tmp_path, images(40), LAYOUTS["torchvision, from its root"])
    write_folder(folder, images(40), lambda name: f"MNIST/raw/{name}.gz")
    assert len(read_images(folder, 30, 12).x_train) == 30
    write_folder(folder, images(40), LAYOUTS["torchvision, Fashion-MNIST, packed"])
    sentence = refusal(lambda: read_images(folder, 30, 12), folder)
    assert "expected the files of one data set" in sentence and "FashionMNIST" in sentence
    assert len(read_images(folder / "FashionMNIST", 30, 12).x_train) == 30


def test_files_of_two_data_sets_are_not_put_together(tmp_path):
    arrays = images(40)
    write_folder(tmp_path, arrays, lambda name: f"emnist-{'digits' if 'train' in name else 'mnist'}-{name}")
    assert "expected the four IDX files" in refusal(lambda: read_images(tmp_path, 30, 12), tmp_path)
    write_folder(tmp_path, arrays, lambda name: ("A/" if "train" in name else "B/") + name)
    assert "expected the four IDX files" in refusal(lambda: read_images(tmp_path, 30, 12), tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "bool"])
def test_images_that_hold_only_0_and_1_are_not_divided_by_255(tmp_path, dtype):
    arrays = {k: (a > 127 if k[0] == "x" else a) for k, a in images(40).items()}
    path = tmp_path / "binary.npz"
    np.savez(path, **{k: a.astype(dtype) if k[0] == "x" else a for k, a in arrays.items()})
    data = read_images(path, 30, 12)
    assert data.scale == 1 and data.said.endswith("pixels only 0 and 1, so not divided by 255")
    np.testing.assert_array_equal(data.x_train, arrays["x_train"][:30].reshape(30, 784))
    arrays["x_test"] = np.full((12, 28, 28), 2)  # one image of greys is enough
    np.savez(path, **arrays)
    assert read_images(path, 30, 12).scale == 255


def test_the_shipped_subset_is_balanced_mnist():
    x_train, y_train, x_test, y_test, scale, _ = read_images(ROOT / "data" / "mnist.npz", 5000, 2000)
    assert x_train.shape == (5000, 784) and x_test.shape == (2000, 784) and x_train.max() == scale == 255
    assert np.bincount(y_test).tolist() == [200] * 10 and np.bincount(y_train).tolist() == [500] * 10


BROKEN = {
    "truncated": ("x_train", lambda c: c[:-1], "holds"),
    "too long": ("y_test", lambda c: c + b"\0", "holds"),
    "header only": ("x_test", lambda c: c[:7], "holds"),
    "empty": ("y_train", lambda c: b"", "magic number"),
    "wrong magic": ("x_train", lambda c: b"\0\0\x0d\x03" + c[4:], "magic number"),
    "labels for images": ("x_train", lambda c: idx(np.arange(40)), "magic number"),
    "damaged gzip": ("x_train", lambda c: gzip.compress(c)[:-20], "gzip"),
    "labels out of range": ("y_test", lambda c: c[:-1] + b"\x0a", "0..9"),
    "other count": ("y_train", lambda c: idx(np.arange(39) % 10), "(39,)"),
    "other size": ("x_train", lambda c: idx(np.zeros((40, 28, 27))), "(N, 28, 28)"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_idx_files_are_refused_with_the_reason(tmp_path, name):
    folder = write_folder(tmp_path / "f", images(40))
    key, damage, word = BROKEN[name]
    path = folder / IDX_FILES[key]
    path.write_bytes(damage(path.read_bytes()))
    assert word in refusal(lambda: read_images(folder, 30, 12), folder)


def test_random_damage_to_images_ends_in_images_or_in_one_sentence(tmp_path):
    arrays = images(20)
    for seed in range(60):
        rng = np.random.default_rng(seed)
        if seed % 2:
            path, target = tmp_path / "mnist.npz", tmp_path / "mnist.npz"
            np.savez(path, **arrays)
        else:
            path = write_folder(tmp_path / "f", arrays, LAYOUTS["gzip" if seed % 4 else "plain"])
            target = rng.choice(sorted(path.iterdir()))
        target.write_bytes(damaged(rng, target.read_bytes()))
        try:
            data = read_images(path, 15, 10)
        except ValueError as problem:
            assert type(problem) is ValueError and "\n" not in str(problem) and str(path) in str(problem)
        else:
            assert len(data.x_train) == 15 and data.y_train.max() == 9
