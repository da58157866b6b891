"""A table in a text file, as people have them: numbers and, in the last column, labels.

A row holds numbers and then a label. A first row that does not is a header; any other is refused.
"""

import codecs
import csv
import io
import math
import re
from itertools import dropwhile
from statistics import mode

import numpy as np

SEPARATORS = {"\t": "tabs", ";": "semicolons", ",": "commas"}
NUMBER = r"[+-]?(\d+[{0}]?\d*|[{0}]\d+)(e[+-]?\d+)?"  # {0}: the decimal marks
MISSING = {"", *"? NA N/A #N/A null NULL nan NaN inf -inf".split()}  # names neither of columns nor of classes


def read_table(path):
    """x (N, d), y (N,), the classes' names or None, and remarks on what was understood, a list.

    Columns are separated by tabs, semicolons or commas: by the first of these that most lines hold. Where it
    is not the comma, numbers may have decimal commas. Blank lines, lines that begin with #, and separators
    at the end of a line do not count. The first line may be a header, see `is_header`. Columns before its
    first name are left out: pandas' index, or R's row names, whose header may be one cell short. Labels are
    numbers, or names: sorted, two of these become -1 and +1, more become 0..K-1.
    Raises ValueError, naming the line and what is wrong with it, or OSError.
    """
    text, remarks = read_text(path)
    rows, separator = split(text, remarks)
    number = re.compile(NUMBER.format("." if separator == "," else ".,"), re.IGNORECASE | re.ASCII).fullmatch
    rows, names = columns(rows, SEPARATORS[separator], number, remarks)
    commas, points = ([n for n, row in rows for c in row if mark in c and number(c)] for mark in ",.")
    if commas and points:
        marks = f"a decimal comma on line {commas[0]} and a decimal point on line {points[0]}"
        raise ValueError(f"{marks}, expected only one of them")
    if commas:
        remarks.append("decimal commas")
    words = sum(bool(number(cells[-1])) for _, cells in rows) < len(rows) / 2  # the labels are
    table = np.empty((len(rows), len(names) - words))
    for k, (line, cells) in enumerate(rows):
        for j, cell in enumerate(cells[: table.shape[1]]):
            table[k, j] = float(cell.replace(",", ".")) if number(cell) else math.nan
            if not math.isfinite(table[k, j]):
                column = shown(names[j])
                raise ValueError(f"line {line} holds {shown(cell)!r} ({column}), expected a finite number")
        if words and (number(cells[-1]) or cells[-1] in MISSING):
            raise ValueError(f"line {line} holds {cells[-1]!r} as its label, expected the name of a class")
    if not words:
        return table[:, :-1], table[:, -1], None, remarks
    classes, y = np.unique([cells[-1] for _, cells in rows], return_inverse=True)
    if len(classes) == 1:
        raise ValueError(f"the labels are all {shown(classes[0])!r}, expected two classes or more")
    return table, 2.0 * y - 1 if len(classes) == 2 else y, classes.tolist(), remarks


def columns(rows, separated_by, number, remarks):
    """The rows (line, cells) without a header and without nameless columns, and the names of the columns.

    Adds to the remarks. Raises ValueError unless all rows have the same number of columns.
    """
    if not rows:
        raise ValueError("the data hold no samples")
    ends = [max(j for j, cell in enumerate(cells, 1) if cell) for _, cells in rows]  # the last filled cells
    width = mode(ends[1:] or ends)
    rows = [(line, cells[: max(width, end)]) for (line, cells), end in zip(rows, ends)]
    header = is_header(rows, width, number)
    names = rows.pop(0)[1] if header else [f"column {j}" for j in range(1, width + 1)]
    remarks.append(f"header {listed([name or 'nameless' for name in names])}" if header else "no header")
    if not rows:
        raise ValueError("the data hold no samples")
    if width < 2:
        raise ValueError("expected two columns at least, separated by commas, semicolons or tabs, label last")
    for line, cells in rows:
        if len(cells) != width:
            there = counted(len(cells), "column")
            raise ValueError(f"line {line} has {there}, expected {width} separated by {separated_by}")
    if len(names) == width - 1 and are_row_names([cells[0] for _, cells in rows], number):
        names = ["", *names]
    if len(names) != width:
        raise ValueError(f"the header has {counted(len(names), 'column')}, but the lines below have {width}")
    first = width - len(named(names))
    if first > width - 2:
        raise ValueError("expected a column with a name before the labels")
    if first:
        left_out = listed([cells[0] for _, cells in rows], 3)
        remarks.append(f"left out: {counted(first, 'column')} without a name ({left_out})")
    return [(line, cells[first:]) for line, cells in rows], names[first:]


def is_header(rows, width, number):
    """Whether the first of the rows (line, cells) names the columns; `number` tells numbers from words.

    It does if it holds no number. It also does if it counts the columns, 0, 1, 2, ..., as pandas does for
    want of names; the first column may still be nameless, and the last have a name.
    But a row that ends in the name of a class is a sample: the name stands again below. And a sample may
    happen to count. Where its label stands again below, and whole numbers among the features, ValueError says
    that the row may be either.
    """
    (line, first), *below = rows
    *features, label = named(first) or [""]
    is_label = label in {cells[-1] for _, cells in below}
    if is_label and not number(label):
        return False
    if not any(number(cell) or cell in MISSING for cell in first if cell):
        return True
    counting = features + [label] * bool(number(label))
    if len(first) != width or not features or counting != [str(j) for j in range(len(counting))]:
        return False
    integer = re.compile(r"[+-]?\d+").fullmatch
    if is_label and any(integer(cell) for _, cells in below for cell in cells[-1 - len(features) : -1]):
        raise ValueError(f"line {line} ({listed(first)}) may be a header or a sample, expected names there")
    return True


def are_row_names(cells, number):
    """Whether R could have written them before the rows: all different, and words or whole numbers."""
    return len(set(cells)) == len(cells) and all(cell.isdecimal() or not number(cell) for cell in cells)


def named(header):
    """The columns of a header from the first name on; pandas reads a column without a name as Unnamed."""
    return list(dropwhile(lambda name: not name or name.startswith("Unnamed:"), header))


def split(text, remarks):
    """The rows that are not blank, a list of (line, cells), and what separates cells. Adds to the remarks."""
    lines = list(io.StringIO(text, newline=""))
    comments = sum(line.startswith("#") for line in lines)
    lines = ["\n" if line.startswith("#") else line for line in lines]
    unquoted = re.sub('"[^"]*"', "cell", "".join(lines)).splitlines()
    votes = [[mark for mark in SEPARATORS if mark in line] for line in unquoted]
    separator = mode([marks[0] for marks in votes if marks] or [","])
    lines = ["\n" if line.startswith("sep=") else line for line in lines]  # Excel's line that names it
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as problem:
        raise ValueError(f"expected cells separated by commas, semicolons or tabs, but {problem}") from None
    if comments:
        remarks.append(f"{counted(comments, 'line')} left out that begin with #")
    if separator != ",":
        remarks.append(f"separated by {SEPARATORS[separator]}")
    return [(line, cells) for line, cells in rows if any(cells)], separator


def read_text(path):
    """The text of a file, in UTF-8, UTF-16 with a byte order mark or else latin-1, and remarks on that."""
    content = path.read_bytes()
    if content[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        text, remarks = content.decode("utf-16"), ["read as UTF-16"]
    else:
        try:
            text, remarks = content.decode("utf-8-sig"), []
        except UnicodeDecodeError:
            text, remarks = content.decode("latin-1"), ["not UTF-8, read as latin-1"]
    if "\0" in text:
        raise ValueError("holds NUL characters, expected text in UTF-8, or in UTF-16 with a byte order mark")
    return text, remarks


def shown(text, most=60):
    """The text as it may stand in a line: without control characters, and cut to `most` characters."""
    text = "".join(c if c.isprintable() else " " for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


def counted(n, what):
    return f"{n} {what}{'s' * (n != 1)}"


def listed(items, most=10):
    """The first few of the items, in one line."""
    return ", ".join([shown(item) for item in items[:most]] + ["..."] * (len(items) > most))
