"""Data as they are made, read and checked: every file here is one as people have them, or a damaged one."""

import gzip
import io
import pathlib
import re
import warnings
import zipfile

import numpy as np
import pytest

from datasets import (
    IDX_FILES,
    check_data,
    classes,
    crossover_data,
    default_data,
    read_data,
    read_images,
    three_classes,
)

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
        assert classes(check_data(*make())[1]) == outputs


def test_checked_data_are_float_and_float32_stays():
    y = np.array([1, -1])
    for dtype, kept in (
        (np.float32, np.float32),
        (np.float16, np.float64),
        (np.int8, np.float64),
        (bool, np.float64),
    ):
        x, labels = check_data(np.array([[0], [1]], dtype), y)
        assert x.dtype == kept and labels.dtype == np.float64


@pytest.mark.parametrize("place", [(0, 0), (2, 1)])
def test_what_is_not_finite_is_named_by_its_place(place):
    x, y = np.ones((3, 2)), np.array([1.0, -1, 1])
    x[place] = np.nan
    with pytest.raises(ValueError, match=re.escape(f"x[{place[0]}, {place[1]}] is nan")):
        check_data(x, y)
    y[place[0]] = -np.inf
    with pytest.raises(ValueError, match=re.escape(f"y[{place[0]}] is -inf")):
        check_data(np.ones((3, 2)), y)


# ---------------------------------------------------------------------------------------------- tables

TABLES = {  # all of them hold X and Y; what is said about them
    "bare": ("2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n", "no header"),
    "header": ("a,b,kind\n2.1,0.3,-1\n1.7,.9,-1\n-1.2,4e-1,1.0\n-0.8,-0.5,+1", "header a, b, kind"),
    "pandas' index": (
        ",a,b,kind\n0,2.1,0.3,-1\n1,1.7,0.9,-1\n2,-1.2,0.4,1\n3,-0.8,-0.5,1\n",
        "header nameless, a, b, kind; left out: 1 column without a name (0, 1, 2, ...)",
    ),
    "pandas' index, twice": (
        ",Unnamed: 0,a,b,kind\n0,5,2.1,0.3,-1\n1,6,1.7,0.9,-1\n2,7,-1.2,0.4,1\n3,8,-0.8,-0.5,1\n",
        "header nameless, Unnamed: 0, a, b, kind; left out: 2 columns without a name (0, 1, 2, ...)",
    ),
    "index of times": (
        ",a,b,k\n1700000000,2.1,0.3,-1\n1700000060,1.7,0.9,-1\n1700000120,-1.2,0.4,1\n1700000180,-0.8,-0.5,1\n",
        "left out: 1 column without a name (1700000000, 1700000060, 1700000120, ...)",
    ),
    "R's row names": (
        '"","a","b","kind"\n"1",2.1,0.3,"-1"\n"2",1.7,0.9,"-1"\n"3",-1.2,0.4,"1"\n"4",-0.8,-0.5,"1"\n',
        "header nameless, a, b, kind; left out: 1 column without a name (1, 2, 3, ...)",
    ),
    "R's row names that are words": (
        '"","a","b","kind"\n"Mazda",2.1,0.3,-1\n"Fiat",1.7,0.9,-1\n"VW, old",-1.2,.4,1\n"Opel",-0.8,-0.5,1\n',
        "left out: 1 column without a name (Mazda, Fiat, VW, old, ...)",
    ),
    "R's short header": (
        '"a","b","kind"\n"1",2.1,0.3,-1\n"2",1.7,0.9,-1\n"3",-1.2,0.4,1\n"4",-0.8,-0.5,1\n',
        "header a, b, kind; left out: 1 column without a name (1, 2, 3, ...)",
    ),
    "columns counted": ("0,1,2\n2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n", "header 0, 1, 2"),
    "columns counted, label named": (
        "0,1,kind\n2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n",
        "header 0, 1, kind",
    ),
    "columns counted, with an index": (
        ",0,1,2\n5,2.1,0.3,-1\n6,1.7,0.9,-1\n7,-1.2,0.4,1\n8,-0.8,-0.5,1\n",
        "header nameless, 0, 1, 2; left out: 1 column without a name (5, 6, 7, ...)",
    ),
    "semicolons, decimal commas": (
        "a;b;kind\n2,1;0,3;-1\n1,7;0,9;-1\n-1,2;0,4;1\n-0,8;-0,5;1\n",
        "separated by semicolons; header a, b, kind; decimal commas",
    ),
    "semicolons, decimal points": (
        "2.1;0.3;-1\n1.7;0.9;-1\n-1.2;0.4;1\n-0.8;-0.5;1\n",
        "separated by semicolons",
    ),
    "Excel's sep=": ("sep=;\na;b;kind\n2,1;0,3;-1\n1,7;,9;-1\n-1,2;4E-01;1\n-0,8;-0,5;1\n", "decimal commas"),
    "tabs": ("a\tb\tkind\n2.1\t0.3\t-1\n1.7\t0.9\t-1\n-1.2\t0.4\t1\n-0.8\t-0.5\t1\n", "separated by tabs"),
    "all quoted": ('"2.1","0.3","-1"\n"1.7","0.9","-1"\n"-1.2","0.4","1"\n"-0.8","-0.5","1"\n', "no header"),
    "spaces": (
        "a, b, kind\n 2.1, 0.3, -1\n1.7 ,0.9 ,-1\n\n-1.2,  0.4,\t1\n   \n-0.8, -0.5, 1\n\n",
        "header a, b, kind",
    ),
    "a spreadsheet's margin": (
        "a;b;kind;;\n2,1;,3;-1;;\n1,7;0,9;-1;;\n-1,2;0,4;1;\n-0,8;-0,5;1\n;;;;\n",
        "header a, b, kind; decimal commas",
    ),
    "a label without a name": (
        "a,b,\n2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n",
        "header a, b, nameless",
    ),
    "a name of two lines": (
        '"size\n(cm; dry)",b,kind\n2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n',
        "header size (cm; dry), b",
    ),
    "marks in a header": (
        "size (cm; dry),\tb,kind\n2.1,0.3,-1\n1.7,0.9,-1\n-1.2,0.4,1\n-0.8,-0.5,1\n",
        "header size (cm; dry), b, kind",
    ),
    "NumPy's savetxt": (
        "# a,b,kind\n2.1,0.3,-1\n1.7,0.9,-1\n#5,5,1\n-1.2,0.4,1\n-0.8,-0.5,1\n",
        "2 lines left out that begin with #; no header",
    ),
    "old line ends": ("a,b,kind\r2.1,0.3,-1\r1.7,0.9,-1\r-1.2,0.4,1\r-0.8,-0.5,1\r", "header a, b, kind"),
    "Windows line ends": (
        "a,b,kind\r\n2.1,0.3,-1\r\n1.7,0.9,-1\r\n-1.2,0.4,1\r\n-0.8,-0.5,1\r\n",
        "header a, b, kind",
    ),
    "0 and 1": ("2.1,0.3,0\n1.7,0.9,0\n-1.2,0.4,1\n-0.8,-0.5,1\n", "2 classes: 0 as -1 (2), 1 as +1 (2)"),
    "two names": (
        "2.1,0.3,no\n1.7,0.9,no\n-1.2,0.4,yes\n-0.8,-0.5,yes\n",
        "2 classes: no as -1 (2), yes as +1 (2)",
    ),
    "False and True": (
        "2.1,0.3,False\n1.7,0.9,False\n-1.2,0.4,True\n-0.8,-0.5,True\n",
        "False as -1 (2), True as +1 (2)",
    ),
}


@pytest.mark.parametrize("kind", TABLES)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_tables_as_people_have_them(tmp_path, kind, encoding):
    content, word = TABLES[kind]
    mark = b"\xfe\xff" if encoding == "utf-16-be" else b""
    name = "points.CSV" if encoding == "utf-8-sig" else "points.csv"
    x, y, said = read(tmp_path, mark + content.encode(encoding), name)
    assert x.tolist() == X and y.tolist() == Y
    assert said.startswith("4 samples, 2 features, 2 classes: ") and word in said
    assert ("read as UTF-16" in said) == ("16" in encoding)


def test_a_named_first_column_of_numbers_is_a_feature(tmp_path):
    x, y, said = read(tmp_path, "time,signal,y\n1700000000000,0.1,1\n1700000060000,-0.1,-1\n")
    assert x.tolist() == [[1700000000000, 0.1], [1700000060000, -0.1]] and y.tolist() == [1, -1]
    assert said == "2 samples, 2 features, 2 classes: -1 (1), +1 (1); header time, signal, y"
    x, _, said = read(tmp_path, "1700000000,0.3,1\n1700000060,-0.4,-1\n")
    assert x.shape == (2, 2) and "left out" not in said  # without a header too


def test_names_of_several_classes_are_sorted_and_the_mapping_is_said(tmp_path):
    x, y, said = read(tmp_path, "w,kind\n1,oak\n2,ash\n3,yew\n4,ash\n")
    assert y.tolist() == [1, 0, 2, 0] and x.tolist() == [[1], [2], [3], [4]]
    assert said == "4 samples, 1 feature, 3 classes: ash as 0 (2), oak as 1 (1), yew as 2 (1); header w, kind"
    _, y, said = read(tmp_path, "".join(f"{k + 1},name {k:02}\n" for k in range(30)))
    assert y.tolist() == list(range(30)) and "name 09 as 9 (1), ...; no header" in said
    assert read(tmp_path, "1,2\n2,0\n3,1\n").y.tolist() == [2, 0, 1]


def test_names_that_are_not_utf_8_are_read_as_latin_1(tmp_path):
    data = read(tmp_path, "Größe;kind\n1,5;später\n-1;früher\n".encode("latin-1"))
    assert data.x.tolist() == [[1.5], [-1]] and data.y.tolist() == [1, -1]
    assert "früher as -1 (1), später as +1 (1); not UTF-8, read as latin-1; separated by" in data.said
    assert data.said.endswith("; header Größe, kind; decimal commas")


def test_control_characters_in_names_do_not_reach_the_terminal(tmp_path):
    said = read(tmp_path, f'1,"a\n\x1b[2J"\n2,{200 * "b"}\n').said
    assert "a  [2J as -1" in said and 60 * "b" not in said


def test_a_first_row_that_counts_is_a_header_only_if_it_cannot_be_a_sample(tmp_path):
    rows = "1.5,2.5,0\n3.5,4.5,1\n5.5,6.5,2\n"
    assert len(read(tmp_path, "0,1,2\n" + rows).y) == 3  # all of the features have decimal points
    assert "header or a sample" in refused(tmp_path, "0,1,2\n" + rows.replace("2.5", "2"))
    assert len(read(tmp_path, "0,1,a\n1,2,a\n3,4,b\n").y) == 3  # a is a class
    assert len(read(tmp_path, "0,1,z\n1,2,a\n3,4,b\n").y) == 2  # z is none
    assert len(read(tmp_path, "1,2,3\n1,5,0\n1,6,1\n2,6,2\n").y) == 4  # counts from 1: a sample
    assert len(read(tmp_path, ",0,1,2\n0,1.5,2.5,0\n1,3.5,4.5,1\n2,5.5,6.5,2\n").y) == 3  # the index has none


REFUSED = {
    "nan": ("a,b,k\n1,2,1\n3,nan,-1\n", "line 3 holds 'nan' (b), expected a finite number"),
    "empty": ("a,b,k\n1,2,1\n,5,-1\n", "line 3 holds '' (a)"),
    "NA in the first row": ("NA,5,1\n1,2,-1\n", "line 1 holds 'NA' (column 1)"),
    "all of the first row missing": ("NA,NA,1\n1,2,-1\n", "line 1 holds 'NA'"),
    "infinite": ("1,2,1\n3,1e999,-1\n", "line 2 holds '1e999' (column 2)"),
    "infinite label": ("1,2,1\n3,4,inf\n", "line 2 holds 'inf'"),
    "no label": ("a,b,k\n1,2,yes\n1,2,\n1,3,no\n", "line 3 holds '' as its label"),
    "NaN for a label": ("1,2,yes\n1,2,NaN\n1,3,no\n", "line 2 holds 'NaN' as its label"),
    "a number among names": (
        "1,2,yes\n1,2,1\n1,3,no\n",
        "line 2 holds '1' as its label, expected the name of a class",
    ),
    "a name among numbers": ("1,2,1\n1,2,yes\n1,3,-1\n", "line 2 holds 'yes' (column 3)"),
    "one name": ("1,2,yes\n1,2,yes\n", "the labels are all 'yes'"),
    "1, 2, 3": ("1,2,1\n1,3,2\n1,4,3\n", "not {1, 2, 3}"),
    "1 and 2": ("1,2,1\n1,3,2\n", "in files also 0 and 1, in a .csv also names"),
    "measurements as labels": ("1,0.5\n1,0.7\n2,0.9\n", "not {0.5, 0.7, 0.9}"),
    "mixed marks": ("a;b;k\n1,5;2;1\n3;4.5;-1\n", "a decimal comma on line 2 and a decimal point on line 3"),
    "thousands": ("1.234,5;2;1\n3;4;-1\n", "line 1 holds '1.234,5'"),
    "quoted decimal commas": ('"2,1","0,3",-1\n"1,7","0,9",1\n', "line 1 holds '2,1'"),
    "underscores": ("1_0,2,1\n3,4,-1\n", "'1_0'"),
    "other digits": ("١,2,1\n3,4,-1\n", "'١'"),
    "units": ("a,b,k\ncm,kg,\n1,2,1\n3,4,-1\n", "line 2 holds 'cm'"),
    "names in a named column": ("who,a,k\nbob,1,1\nann,2,-1\n", "line 2 holds 'bob' (who)"),
    "names without a header": ("bob,1,1\nann,2,-1\n", "line 1 holds 'bob'"),
    "a word in the first row": ("zwei,yes\n1,yes\n2,no\n", "line 1 holds 'zwei'"),
    "spaces": ("a b k\n1 2 1\n3 4 -1\n", "separated by commas, semicolons or tabs"),
    "short row": ("a;b;k\n1;2;1\n3;4\n5;6;1\n", "line 3 has 2 columns, expected 3 separated by semicolons"),
    "short first row": ("1,1\n1,2,1\n3,4,-1\n", "line 1 has 2 columns, expected 3 separated by commas"),
    "a title": ("Spring, 2024; a and b\n1,5;2;A\n2,5;3;B\n", "the header has 2 columns"),
    "a title with a comma": ("Spring, dry\n1,5;A\n2,5;B\n", "the header has 1 column,"),
    "long row": ("1,2,1\n1,2,3,1\n3,4,-1\n5,6,1\n", "line 2 has 4 columns"),
    "long header": ("a,b,c,k\n1,2,1\n3,4,-1\n", "the header has 4 columns, but the lines below have 3"),
    "header of the features alone": (
        "a,b\n1.5,2,1\n3.5,4,-1\n",
        "the header has 2 columns, but the lines below have 3",
    ),
    "two columns of one name each": ("a,b\n1,2,1\n1,4,-1\n", "the header has 2 columns"),
    "an index and a label": (",k\n1,1\n2,-1\n", "expected a column with a name"),
    "only comments": ("# 1,2,1\n", "no samples"),
    "blank": ("\n,,\n", "no samples"),
    "stray quote": ('1,2,1\n"1,2,-1\n', "separated by commas, semicolons or tabs, but"),
    "UTF-16 without its mark": ("1,2,1\n3,4,-1\n".encode("utf-16-le"), "NUL characters"),
    "half of UTF-16": ("1,2,1\n3,4,-1\n".encode("utf-16")[:-1], "can't decode"),
    "a spreadsheet's own format": (b"PK\3\4\x14\0\x06\0", "NUL characters"),
    "no text at all": (bytes(range(128, 256)), "no samples"),
    "a page": ("<!DOCTYPE html>\n<html>\n<body>404</body>\n", "separated by commas"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_other_tables_are_refused_with_the_line_and_the_reason(tmp_path, kind):
    content, word = REFUSED[kind]
    assert word in refused(tmp_path, content)


def random_table(rng, damage=lambda cells: None):
    """A random table in a random dialect: its bytes, x, y, and the line on which each sample stands.

    damage(cells) may change the cells of the samples before they are written.
    """
    header = rng.choice(["names", "count", "none"])
    indices = {"names": 5, "count": 2, "none": 1}[header]  # so many of these go with the header
    index = rng.choice(["none", "rows", "times", "words", "short"][:indices])
    label = rng.choice(["signs", "bits", "counts", "two", "three"])
    separator = str(rng.choice([",", ";", "\t"]))
    mark = "," if separator != "," and rng.random() < 0.5 else "."
    quotes, end = rng.choice(["needed", "words", "all"]), str(rng.choice(["\n", "\r\n", "\r"]))
    trailing = separator * int(rng.integers(0, 3)) if index != "short" else ""

    n, d, kinds = rng.integers(4, 10), rng.integers(1, 5), 3 if label in ("counts", "three") else 2
    x, y = rng.normal(size=(n, d)) * 10.0 ** rng.integers(-12, 12, d), rng.permutation(np.arange(n) % kinds)
    style = repr
    if header == "names":  # without names a column of whole numbers may begin with what looks like a header
        x = rng.integers(-3, 4, (n, d)) + np.eye(n, d) if rng.random() < 0.3 else x
        style = rng.choice([repr, "{:.17g}".format, "{:+.16E}".format])
    words = ["née", "zoé", "été"] if rng.random() < 0.5 else ["no", "yes, it is", "you; too"]
    shown = {"signs": ["-1", "+1"], "bits": ["0", "1"], "counts": ["0", "1", "2"]}.get(label, words)
    cells = [[style(v).replace(".", mark) for v in row] + [shown[c]] for row, c in zip(x.tolist(), y)]
    damage(cells)
    if index != "none":
        first = {"times": "{}700000000000", "words": "row {}"}.get(index, "{}")
        cells = [[first.format(k + 1), *row] for k, row in enumerate(cells)]
    names = [str(j) for j in range(d + 1)]
    if header == "names":
        names = [f"x{j}" for j in range(d)] + ["größe"]
    if index not in ("none", "short"):
        names = [str(rng.choice(["", "Unnamed: 0"])), *names]

    def written(cell):
        number = cell[-1:].isdigit() and not cell.startswith("row")
        quoted = quotes == "all" or (not number and (quotes == "words" or set(cell) & set(",; ")))
        return f'"{cell}"' if quoted else cell

    lines, at = [], []
    for row in [names] * (header != "none") + cells:
        if rng.random() < 0.2:
            lines.append(str(rng.choice(["", "  ", "# a note; of, no use", 2 * separator])))
        lines.append(separator.join(map(written, row)) + trailing)
        at.append(len(lines))
    encoding = rng.choice(["utf-8", "utf-8-sig", "utf-16", "latin-1"])
    text = end.join(lines) + end * int(rng.integers(0, 2))
    return text.encode(encoding), x, 2 * y - 1 if kinds == 2 else y, at[-n:]


def test_random_tables_in_random_dialects_are_read_back(tmp_path):
    for seed in range(400):
        content, x, y, _ = random_table(np.random.default_rng(seed))
        data = read(tmp_path, content)
        assert data.x.tolist() == x.tolist() and data.y.tolist() == y.tolist(), f"seed {seed}: {content!r}"


@pytest.mark.parametrize("kind", ["other", "missing", "spare", "unlabelled"])
def test_what_is_wrong_in_a_random_table_is_named_by_its_line(tmp_path, kind):
    for seed in range(120):
        rng, wrong = np.random.default_rng(seed), None

        def damage(cells, rng=rng):
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

        content, _, _, at = random_table(rng, damage)
        sentence = refused(tmp_path, content)
        said = f"line {at[wrong]} h" in sentence or "may be a header" in sentence  # holds or has
        assert said, f"seed {seed}: {sentence}, {content!r}"


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
    named = "0 as -1 (2), 1 as +1 (2)" if labels in ("bool", "bool column", "bits") else "-1 (2), +1 (2)"
    assert data.said == f"4 samples, 2 features, 2 classes: {named}"


BAD_ARCHIVES = {
    "other names": ({"X": np.eye(2), "y": [1, -1]}, "expected arrays named x and y, not X, y"),
    "two columns of labels": ({"x": np.eye(2), "y": np.eye(2)}, "must be (N, d) and y (N,)"),
    "a row of labels": ({"x": np.eye(2), "y": [[1, -1]]}, "must be (N, d) and y (N,)"),
    "names": ({"x": np.eye(2), "y": ["no", "yes"]}, "real numbers"),
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
    assert "real numbers" in refused(tmp_path, buffer.getvalue(), "d.npz")


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
