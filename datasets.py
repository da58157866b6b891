"""Data: made, checked, and read from files as people have them.

Nothing prints here. What a file was understood to hold is one line, `said`, beside its content.
"""

import csv
import gzip
import io
import math
import numbers
import pathlib
import re
import zipfile
import zlib
from statistics import mode
from typing import NamedTuple

import numpy as np

# ---------------------------------------------------------------------------------------------- made


def default_data(seed):
    """The authors' 100 points, uniform in boxes of half-width 0.6 around y (cos 0.5, sin 0.5), y in ±1."""
    centre = np.array([np.cos(0.5), np.sin(0.5)])
    x = np.random.default_rng([seed, 0]).uniform(-0.6, 0.6, (100, 2))
    y = np.repeat([1.0, -1.0], 50)
    return x + y[:, None] * centre, y


def three_classes(seed):
    """Five points in each of three sectors, 0.4 wide, at radii from 0.5 to 2: x (15, 2) and y in 0..2."""
    rng, y = np.random.default_rng([seed, 0]), np.arange(15) % 3
    angle, radius = 2 * np.pi / 3 * y + rng.uniform(-0.2, 0.2, 15), rng.uniform(0.5, 2, (15, 1))
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1), y


def exclusive_or():
    """Five points at 0.6 to 1.4 times each (±1, ±1): x (20, 2), y = 1 on one diagonal, -1 on the other."""
    corners = np.array([(1, 1), (-1, -1), (1, -1), (-1, 1)])
    return np.kron(np.linspace(0.6, 1.4, 5)[:, None], corners), np.tile([1.0, 1, -1, -1], 5)


def crossover_data():
    """Eight points in the plane whose ℓ∞ max-margin direction, a corner, is 0.46 away from the L2 one."""
    x = np.array([(0.3, 1), (0.6, 0.9), (1.2, 1.3), (0.5, 1.6)])
    return np.concatenate([x, -1.1 * x]), np.repeat([1.0, -1.0], 4)


# ---------------------------------------------------------------------------------------------- checked

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
MISSING = {"", *"? NA N/A #N/A <NA> null NULL None nan NaN".split()}  # no names of columns or classes


def classes(y):
    """How many outputs the labels y (N,) call for: 1 if they are ±1, K if they are all of 0..K-1, K >= 3.

    Raises ValueError for anything else, a single class included.
    """
    values = np.unique(y)
    if np.array_equal(values, [-1, 1]):
        return 1
    if len(values) >= 3 and np.array_equal(values, np.arange(len(values))):
        return len(values)
    there = listed([f"{value:g}" for value in values], 5)
    expected = (
        "-1 and +1, 0 and 1, every integer 0..K-1 with K >= 3, or names of classes, both or all present"
    )
    whole = len(values) > 1 and (values == np.round(values)).all()
    recode = "; np.unique(y, return_inverse=True)[1] numbers the classes from 0" if whole else ""
    raise ValueError(f"the labels must be {expected}, not {{{there}}}{recode}")


def labelled(x, y):
    """The samples as the library takes them: x (N, d), y (N,) in ±1 or 0..K-1, and the classes' names.

    x        numbers (N, d): an array, a list or a frame. They become float64, float32 stays
    y        (N,) or (N, 1): ±1; 0 and 1, or False and True, which become ±1; all of 0..K-1 with K >= 3; or
             names, which are sorted: two of them become -1 and +1, more become 0..K-1
    The names are a list in the order of the classes, or None where the labels stay as they are.
    Raises ValueError for other labels, one class alone, other shapes, masked or missing entries, numbers that
    are not finite, and an x whose squares would overflow or vanish.
    """
    columns = getattr(x, "columns", None)
    x, y = unmasked("x", x), one_column(unmasked("y", y))
    if x.ndim != 2 or y.ndim != 1 or len(x) != len(y) or x.shape[1] < 1:
        raise ValueError(f"x must be (N, d) and y (N,) with one N and d >= 1, not {x.shape} and {y.shape}")
    if len(x) == 0:
        raise ValueError("the data hold no samples, at least one of each class is needed")
    x = real_numbers(x, columns)
    largest = float(abs(x).max())  # a Python number, since float32 has no 1e50
    if not 1e-50 < largest < 1e50:
        raise ValueError(f"the largest entry of x must be in 1e-50..1e50, not {largest:g}; scale the data")
    return x, *coded(y)


def unmasked(name, a):
    """An array, a list or a frame as an array. Raises ValueError where entries are masked or rows ragged."""
    parts = a if isinstance(a, (list, tuple)) else [a]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(f"{name} has masked entries, expected an array without: leave those samples out")
    try:
        return np.asarray(a)
    except ValueError:
        raise ValueError(f"{name} must be an array, with as many entries in each row") from None


def one_column(y):
    """Labels of shape (N, 1) as (N,)."""
    return y[:, 0] if y.shape[1:] == (1,) else y


def real_numbers(x, columns=None):
    """x (N, d) as floats; raises ValueError for what is no finite number, by its place or its column."""
    if x.dtype.kind not in "biuf":
        for (i, j), value in zip(np.ndindex(x.shape), x.ravel().tolist()):
            if not isinstance(value, (numbers.Real, np.bool_)):
                place = f"x[{i}, {j}]" if columns is None else f"its column {shown(str(columns[j]))!r}"
                raise ValueError(f"x must hold real numbers, but {place} holds {shown(repr(value))}")
    with np.errstate(over="ignore"):
        x = x if x.dtype == np.float32 else x.astype(float)
    for place in np.argwhere(~np.isfinite(x)).tolist()[:1]:
        raise ValueError(f"the data must be finite, but x{place} is {x[tuple(place)]}")
    return x


def coded(y):
    """Labels y (N,) in any form as floats, ±1 or 0..K-1, and the names of the classes or None: `labelled`."""
    if y.dtype.kind not in "biuf":
        cells = y.tolist()
        word = [isinstance(cell, str) and not NUMBER.fullmatch(cell) for cell in cells]
        for k, cell in enumerate(cells):
            if not isinstance(cell, (str, numbers.Real)) or word[k] != word[0] or cell in MISSING:
                expected = "the labels must be all numbers or all names of classes"
                raise ValueError(f"{expected}, but y[{k}] is {shown(repr(cell))}")
        if word[0]:
            names, y = np.unique(cells, return_inverse=True)
            if len(names) == 1:
                raise ValueError(f"the labels are all {shown(cells[0])!r}, expected two classes or more")
            return 2.0 * y - 1 if len(names) == 2 else y.astype(float), names.tolist()
        truth = all(isinstance(cell, bool) for cell in cells)
        y = np.array(cells if truth else [float(cell) for cell in cells])
    for k in np.flatnonzero(~np.isfinite(y))[:1]:
        raise ValueError(f"the data must be finite, but y[{k}] is {y[k]}")
    if np.array_equal(np.unique(y), [0, 1]):
        return 2 * y.astype(float) - 1, ["False", "True"] if y.dtype == bool else ["0", "1"]
    classes(y)
    return y.astype(float), None


# ---------------------------------------------------------------------------------------------- read


class Data(NamedTuple):
    """What `read_data` returns; `said` is a line that reports what was understood."""

    x: np.ndarray  # (N, d), float64
    y: np.ndarray  # (N,), in ±1 or 0..K-1
    said: str


def read_data(path):
    """The samples in an .npz with `x` and `y`, or in a .csv or .tsv as `read_table` reads it: see `labelled`.

    Raises ValueError or OSError, which name the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an .npz or .csv file")
    try:
        if path.suffix.lower() == ".npz":
            (x, y), remarks = read_npz(path, ("x", "y")).values(), []
        elif path.suffix.lower() in (".csv", ".tsv"):
            x, y, remarks = read_table(path)
        else:
            raise ValueError("expected a file that ends in .npz or .csv")
        x, y, names = labelled(x, y)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None
    values, counts = np.unique(y, return_counts=True)
    values = [f"{value:+g}" if len(values) == 2 else f"{value:g}" for value in values]
    names = values if names is None else [f"{shown(name)} as {value}" for name, value in zip(names, values)]
    found = listed([f"{name} ({count})" for name, count in zip(names, counts)])
    said = f"{path}: {len(x)} samples, {counted(x.shape[1], 'feature')}, {len(values)} classes: {found}"
    return Data(x.astype(float), y, shown("; ".join([said, *remarks]), 1000))


SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
SAVE = "save the table as UTF-8 text separated by commas, with decimal points"


def read_table(path):
    """x (N, d), the labels (N,) as text, and remarks on what was understood, a list.

    A line holds numbers and then a label, separated by commas, semicolons or tabs. The first line may name
    the columns. The first column is left out if it has no name (pandas' index; R's row names, whose header
    is one cell short) or, without a header, counts the lines.
    Raises ValueError, which names the line and what is wrong with it or how to save the file, or OSError.
    """
    try:
        lines = list(io.StringIO(path.read_bytes().decode("utf-8-sig"), newline=""))
        marks = [next((m for m in SEPARATORS if m in line), ",") for line in lines if line.strip()]
        separator = mode(marks or [","])
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        rows = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader]
    except (UnicodeDecodeError, csv.Error) as problem:
        raise ValueError(f"{problem}; {SAVE}") from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    named = is_header(rows)
    names, samples = rows[0][1] if named else None, rows[named:]
    if not samples:
        raise ValueError("the data hold no samples")
    width = mode(len(cells) for _, cells in samples)
    first = [cells[0] for _, cells in samples]
    numbered = [str(k) for k in range(len(first) + 1)]
    counts = width > 2 and len(first) > 2 and first in (numbered[:-1], numbered[1:])
    remarks = [f"header {listed([name or 'nameless' for name in names])}" if names else "no header"]
    if names and len(names) == width - 1 and (counts or all(word[:1].isalpha() for word in first)):
        names.insert(0, "")
    left_out = nameless(names[0]) if names else counts
    for line, cells in rows:
        if len(cells) != width or width < 2 + left_out:
            expected = f"expected {max(width, 2 + left_out)} columns separated by {SEPARATORS[separator]}"
            raise ValueError(f"line {line} has {counted(len(cells), 'column')}, {expected}; {SAVE}")
    names = names or [f"column {j}" for j in range(1, width + 1)]
    if any(map(nameless, names[1:-1])):
        raise ValueError(f"each column but the first and the last needs a name, not {listed(names)}")
    for line, cells in samples:
        for name, cell in list(zip(names, cells))[left_out:-1]:
            if not (NUMBER.fullmatch(cell) and math.isfinite(float(cell))):
                expected = f"expected a finite number{'; ' + SAVE if ',' in cell else ''}"
                raise ValueError(f"line {line} holds {shown(cell)!r} ({shown(name)}), {expected}")
        if cells[-1] in MISSING:
            raise ValueError(f"line {line} holds {cells[-1]!r} as its label, expected a number or a name")
    if left_out:
        remarks.append(f"left out: the first column ({listed(first, 3)}), which names or counts the lines")
    elif counts:
        remarks.append(f"the first column, {shown(names[0])}, counts the lines, and is taken as a feature")
    table = np.array([cells for _, cells in samples])
    return table[:, left_out:-1].astype(float), table[:, -1], remarks


def is_header(rows):
    """Whether the first of the rows (line, cells) names the columns: by words, or by 0, 1, 2, ....

    A row that ends in the name of a class, which stands again below, is a sample. Raises ValueError for a row
    that counts and may be either.
    """
    if not rows:
        return False
    (line, first), *below = rows
    label, again = first[-1], first[-1] in {cells[-1] for _, cells in below} - {""}
    counting = first[nameless(first[0]) :] if NUMBER.fullmatch(label) else first[nameless(first[0]) : -1]
    counts = len(first) > 1 and counting == [str(j) for j in range(max(1, len(counting)))]
    if counts and again and NUMBER.fullmatch(label):
        raise ValueError(f"line {line} ({listed(first)}) may be a header or a sample, expected names there")
    words = not any(NUMBER.fullmatch(cell) or cell in MISSING - {""} for cell in first)
    return (words or counts) and not again


def nameless(name):
    """Whether a column has no name; pandas reads and writes such a one as Unnamed."""
    return not name or name.startswith("Unnamed:")


def shown(text, most=60):
    """The text as it may stand in a line: without control characters, and cut to `most` characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


def counted(n, what):
    return f"{n} {what}{'s' * (n != 1)}"


def listed(items, most=10):
    """The first few of the items, in one line."""
    return ", ".join([shown(item) for item in items[:most]] + ["..."] * (len(items) > most))


def read_npz(path, names):
    """The arrays of these names in an .npz file, a dict. Raises ValueError for any other content, OSError."""
    content = io.BytesIO(path.read_bytes())
    if not zipfile.is_zipfile(content):
        raise ValueError("expected a whole .npz file, which this is not")
    try:
        with np.load(content, allow_pickle=False) as arrays:
            there = arrays.files
            found = {name: np.asarray(arrays[name]) for name in names if name in there}
    except Exception as problem:  # a damaged archive fails in as many ways as zipfile, zlib and NumPy have
        reason = shown(str(problem) or repr(problem), 200)
        raise ValueError(f"expected a whole .npz file, but {reason}") from None
    if len(found) < len(names):
        raise ValueError(f"expected arrays named {' and '.join(names)}, not {listed(there) or 'none'}")
    return found


IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
IDX_NAME = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(\.gz)?")


class Images(NamedTuple):
    """What `read_images` returns: pixels and labels as bytes, and a line that says what was understood.

    x / scale lies in [0, 1]: scale is 255, or 1 where the file holds no pixels but 0 and 1.
    """

    x_train: np.ndarray  # (N, 784)
    y_train: np.ndarray  # (N,) in 0..9
    x_test: np.ndarray
    y_test: np.ndarray
    scale: int
    said: str


def read_images(path, train, test):
    """The first `train` and `test` images of MNIST's layout, as `Images`.

    path     an .npz with x_train, y_train, x_test, y_test as Keras has it, or a folder with the four IDX
             files of MNIST, Fashion-MNIST or EMNIST's digits, see `find_idx`
    Raises ValueError or OSError, naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        arrays = {key: read_idx(file, 3 if key[0] == "x" else 1) for key, file in find_idx(path).items()}
    else:
        try:
            arrays = read_npz(path, IDX_FILES)
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}; or give the folder of the four IDX files") from None
    scale, said = 1, []
    for part, wanted in (("train", train), ("test", test)):
        x, y = arrays[f"x_{part}"], one_column(arrays[f"y_{part}"])
        if x.dtype.kind not in "biu" or y.dtype.kind not in "iu":
            raise ValueError(f"{path}: pixels and labels must be whole numbers, not {x.dtype} and {y.dtype}")
        if x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
            shapes = f"x_{part} {x.shape} and y_{part} {y.shape}"
            raise ValueError(f"{path}: expected images (N, 28, 28) and labels (N,), not {shapes}")
        if len(x) < wanted:
            raise ValueError(f"{path}: --{part} {wanted} asks for more than the {len(x)} images there are")
        if x.min() < 0 or x.max() > 255:
            raise ValueError(f"{path}: pixels must lie in 0..255, but x_{part} holds {x.min()}..{x.max()}")
        if y.min() < 0 or y.max() > 9:
            raise ValueError(f"{path}: labels must lie in 0..9, but y_{part} holds {y.min()}..{y.max()}")
        scale = 255 if x.max() > 1 else scale
        said.append(f"{wanted} of {len(x)} {part} images")
        arrays[f"x_{part}"] = x[:wanted].reshape(wanted, -1).astype(np.uint8)
        arrays[f"y_{part}"] = y[:wanted].astype(np.uint8)
    missing = ", ".join(str(digit) for digit in range(10) if digit not in arrays["y_train"])
    if missing:
        raise ValueError(f"{path}: the first {train} train images must show all of 0..9, but lack {missing}")
    said.append("pixels divided by 255" if scale == 255 else "pixels only 0 and 1, so not divided by 255")
    return Images(*(arrays[key] for key in IDX_FILES), scale, shown(f"{path}: {', '.join(said)}", 1000))


def find_idx(folder):
    """The four IDX files in a folder, a dict by the keys of IDX_FILES.

    They may be gzipped, and named with dashes or with a dot, after a data set's name (EMNIST's). They lie in
    the folder or up to two folders below (torchvision's MNIST/raw), together or each in a folder of its own
    name.
    Raises ValueError unless there is one data set and no other.
    """
    found = {}  # (folder, name of the data set) -> a dict as returned
    paths = [path for level in ("*", "*/*", "*/*/*") for path in folder.glob(level)]
    for path in sorted(paths, reverse=True):  # what is unpacked comes after its .gz, and replaces it
        match = IDX_NAME.fullmatch(path.name.lower())
        if match and path.is_file():
            home = path.parent.parent if IDX_NAME.fullmatch(path.parent.name.lower()) else path.parent
            key = f"{'x' if match[3] == 'images' else 'y'}_{'train' if match[2] == 'train' else 'test'}"
            found.setdefault((home, match[1]), {})[key] = path
    whole = [files for files in found.values() if len(files) == 4]
    if len(whole) > 1:
        names = listed([str(files["x_train"].relative_to(folder)) for files in whole])
        raise ValueError(f"{folder}: expected the files of one data set, not of several: {names}")
    if not whole:
        most = max(found.values(), key=len, default={})
        name = next(name for key, name in IDX_FILES.items() if key not in most)
        raise ValueError(f"{folder}: expected the four IDX files, gzipped or not, {name} is missing")
    return whole[0]


def read_idx(path, dimensions):
    """The array of bytes in an IDX file, gzipped or not, of so many dimensions.

    Raises ValueError, naming the file and what is wrong with it, or OSError.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as problem:
            raise ValueError(f"{path}: damaged gzip, {problem}") from None
    magic, head = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        found = content[:4].hex() or "missing"
        raise ValueError(f"{path}: the magic number is {found}, expected {magic.hex()}")
    shape = [int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(dimensions)]
    size = head + math.prod(shape)
    if len(content) != size:
        raise ValueError(f"{path}: holds {len(content)} bytes, expected {size} for the shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def given(data, default):
    """x (N, d) and y (N,) of a study's `data`: such a pair, the name of a file, or None for the default."""
    if isinstance(data, (str, pathlib.Path)):
        return read_data(data)[:2]
    return default if data is None else labelled(*data)[:2]
