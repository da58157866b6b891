"""The studies: python experiments.py STUDY [flags]. `python experiments.py --help` lists them."""

import argparse
import csv
import ctypes
import gzip
import lzma
import math
import os
import pathlib
import sys
import time
import zipfile
import zlib
from itertools import pairwise

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[name] = "1"  # before NumPy is imported: numbers must not depend on the machine's cores
try:  # keep freed memory in the process: page faults on arrays that come and go cost up to four times the arithmetic
    for option in (-1, -3):  # glibc's M_TRIM_THRESHOLD and M_MMAP_THRESHOLD; elsewhere there is nothing to set
        ctypes.CDLL(None).mallopt(option, 1 << 25)
except (AttributeError, OSError, TypeError):
    pass

import numpy as np

import minibias
import optimizers
import runs
from cnn import CNN
from minibias import angle_to_ones, normalised_margin, unit
from models import MLP, Linear
from optimizers import CONDITIONERS

LOG_LOSS_END = -50.0  # where the flow stops: h has settled, see `follow`
LARGEST_LIMIT = 100  # parameters: Newton's method factors a p x p matrix for every run and step
RATES = {"gd": 0.001, "adagrad": 0.1, "rmsprop": 0.1, "adam": 0.1}  # default learning rates
IMAGE_RATES = {"gd": 0.0002, "adagrad": 0.01, "rmsprop": 0.01, "adam": 0.01}  # on MNIST: one for all that divide by the gradient's size
SETTLED = 1e-8  # the largest relative change of h from half of LOG_LOSS_END to its end that counts as settled


# ---------------------------------------------------------------------------------------------- input


def number(text):
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def positive(text):
    value = number(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}")
    return value


def fraction(text):
    value = number(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, both excluded, got {text!r}")
    return value


def whole(text, least=0):
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least} on, got {text!r}")
    return value


def count(text):
    return whole(text, least=1)


def some_of(*names):
    """The type of a flag that takes some of `names`, separated by commas."""

    def parse(text):
        chosen = text.split(",")
        if not set(chosen) <= set(names) or len(set(chosen)) < len(chosen):
            raise argparse.ArgumentTypeError(f"expected some of {','.join(names)}, each once, got {text!r}")
        return chosen

    return parse


def cnn_width(text):
    """Three counts separated by commas."""
    widths = [count(part) for part in text.split(",")]
    if len(widths) != 3:
        raise argparse.ArgumentTypeError(f"expected three whole numbers from 1 on, CHANNELS,CHANNELS,HIDDEN, got {text!r}")
    return widths


def filled(text):
    """An empty name, say of a shell variable that is not set, is not the default."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def epsilons(text):
    values = [positive(part) for part in text.split(",")]
    if len(set(values)) < max(2, len(values)):
        raise argparse.ArgumentTypeError(f"expected two or more different numbers above 0, got {text!r}")
    return sorted(values)


def model_name(text):
    kind, _, widths = text.partition(":")
    if text not in ("neuron", "linear") and not (kind == "mlp" and all(w.isdecimal() and int(w) for w in widths.split(","))):
        raise argparse.ArgumentTypeError(f"expected neuron, linear or mlp:WIDTH[,WIDTH...], got {text!r}")
    return text


def build_model(name, features, outputs):
    """The model that --model names, for data of so many features and outputs (1 for labels ±1)."""
    if name == "linear":
        return Linear(features, outputs)
    if name == "neuron":
        if outputs > 1:
            raise ValueError(f"the neuron cannot tell {outputs} classes apart, expected --model linear or mlp:WIDTH")
        return MLP((features, 1, 1))
    return MLP((features, *map(int, name.partition(":")[2].split(",")), outputs))


def default_data(seed):
    """The authors' data: 50 + 50 points uniform in boxes of half-width 0.6 around ±(cos 0.5, sin 0.5)."""
    centre = np.array([np.cos(0.5), np.sin(0.5)])
    x = np.random.default_rng([seed, 0]).uniform(-0.6, 0.6, (100, 2))
    y = np.repeat([1.0, -1.0], 50)
    return x + y[:, None] * centre, y


def read_data(path):
    """x (N, d) and y (N,) from an .npz with `x` and `y`, or a .csv whose last column is the label, header or not.

    Raises ValueError or OSError, naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected an .npz or .csv file")
    try:
        if path.suffix == ".npz":
            x, y = read_npz(path, ("x", "y")).values()
        elif path.suffix == ".csv":
            x, y = read_csv(path)
        else:
            raise ValueError("expected a file that ends in .npz or .csv")
        return minibias.check_data(x, y)
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None


def read_npz(path, names):
    """The arrays of these names in an .npz file, a dict. Raises ValueError for any other content, OSError."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("expected a whole .npz file, which this is not")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except KeyError:
        raise ValueError(f"expected arrays named {' and '.join(names)}") from None
    except (EOFError, AttributeError, RuntimeError, TypeError, IndexError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as problem:
        raise ValueError(problem) from None


def read_csv(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        try:
            rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file, strict=True), 1) if any(row)]
        except csv.Error as problem:
            raise ValueError(f"expected rows of numbers separated by commas, but {problem}") from None

    def is_number(cell):
        try:
            float(cell)
        except ValueError:
            return False
        return True

    if rows and not any(map(is_number, rows[0][1])):
        rows = rows[1:]  # a header
    if not rows:
        raise ValueError("the data hold no samples")
    for line, cells in rows:
        if len(cells) != len(rows[0][1]) or len(cells) < 2:
            raise ValueError(f"line {line} has {len(cells)} columns, expected {max(2, len(rows[0][1]))} separated by commas")
        if not all(map(is_number, cells)):
            raise ValueError(f"line {line} holds {next(c for c in cells if not is_number(c))!r}, expected a number")
    table = np.array([cells for _, cells in rows], float)
    return table[:, :-1], table[:, -1]


IDX_FILES = {"x_train": "train-images-idx3-ubyte", "y_train": "train-labels-idx1-ubyte",
             "x_test": "t10k-images-idx3-ubyte", "y_test": "t10k-labels-idx1-ubyte"}  # fmt: skip


def read_idx(path, dimensions):
    """The array of bytes in an IDX file, gzipped or not, of so many dimensions. Raises ValueError, naming the file, or OSError."""
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as problem:
            raise ValueError(f"{path}: damaged gzip, {problem}") from None
    magic, head = bytes([0, 0, 8, dimensions]), 4 + 4 * dimensions
    if content[:4] != magic:
        raise ValueError(f"{path}: the magic number is {content[:4].hex() or 'missing'}, expected {magic.hex()}")
    shape = [int.from_bytes(content[4 + 4 * k : 8 + 4 * k], "big") for k in range(dimensions)]
    if len(content) != head + math.prod(shape):
        raise ValueError(f"{path}: holds {len(content)} bytes, expected {head + math.prod(shape)} for the shape {tuple(shape)}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def read_images(path, train, test):
    """The first `train` and `test` images of MNIST's layout: x_train (N, 784) and y_train (N,) bytes, x_test, y_test.

    path     an .npz with x_train, y_train, x_test, y_test as Keras has it, or a folder with the four IDX files, gzipped or not
    Raises ValueError or OSError, naming the file and what is wrong with it.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        arrays = {}
        for key, name in IDX_FILES.items():
            dotted = name.replace("-idx", ".idx")
            found = [p for p in (path / name, path / f"{name}.gz", path / dotted, path / f"{dotted}.gz") if p.is_file()]
            if not found:
                raise ValueError(f"{path}: expected the four IDX files, gzipped or not, {name} is missing")
            arrays[key] = read_idx(found[0], 3 if key[0] == "x" else 1)
    else:
        try:
            arrays = read_npz(path, IDX_FILES)
        except ValueError as problem:
            raise ValueError(f"{path}: {problem}") from None
    for part, wanted in (("train", train), ("test", test)):
        x, y = arrays[f"x_{part}"], arrays[f"y_{part}"]
        if x.dtype.kind not in "iu" or y.dtype.kind not in "iu":
            raise ValueError(f"{path}: pixels and labels must be whole numbers, not {x.dtype} and {y.dtype}")
        if x.shape[1:] != (28, 28) or y.shape != x.shape[:1]:
            raise ValueError(f"{path}: expected images (N, 28, 28) and labels (N,), not x_{part} {x.shape} and y_{part} {y.shape}")
        if len(x) < wanted:
            raise ValueError(f"{path}: --{part} {wanted} asks for more than the {len(x)} images there are")
        x, y = x[:wanted], y[:wanted]
        if x.min() < 0 or x.max() > 255:
            raise ValueError(f"{path}: pixels must lie in 0..255, but x_{part} holds {x.min()}..{x.max()}")
        if y.min() < 0 or y.max() > 9:
            raise ValueError(f"{path}: labels must lie in 0..9, but y_{part} holds {y.min()}..{y.max()}")
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x.reshape(wanted, -1).astype(np.uint8), y.astype(np.uint8)
    missing = sorted(set(range(10)) - set(arrays["y_train"].tolist()))
    if missing:
        raise ValueError(f"{path}: the first {train} training images must show all of 0..9, but lack {', '.join(map(str, missing))}")
    return [arrays[key] for key in IDX_FILES]


# ---------------------------------------------------------------------------------------------- output


def config(args):
    """The flags as used, for the result files."""
    return {name: value for name, value in vars(args).items() if name not in ("study", "run", "rates")}


def publish(args, out, draw, **content):
    """Write OUT/STUDY.json, `content` with the config and the versions, and OUT/STUDY.png by draw(figures, path): both paths."""
    import figures

    content = {"config": config(args), "versions": runs.versions()} | content
    return runs.write_results(out, args.study, content, lambda beside: draw(figures, beside))


def prepared(args):
    """The folder for the study's files."""
    return runs.prepare(args.out, f"{args.study}.json", f"{args.study}.png")


class Progress:
    """The share of all work that is done, with the time left, on stderr if that is a terminal: for `runs.spread` and `runs.resume`."""

    def __init__(self, label):
        self.label, self.begun, self.first = label, time.monotonic(), None

    def __call__(self, shares):
        if not (shares and sys.stderr.isatty()):
            return
        share = sum(shares) / len(shares)
        self.first = share if self.first is None else self.first
        left = math.inf if share == self.first else (time.monotonic() - self.begun) / (share - self.first) * (1 - share)
        when = "" if left == math.inf else f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
        text = f"{self.label}: {shares.count(1.0)} of {len(shares)} done, {100 * share:.0f} %{when}"
        print(f"\r{text:75}", end="\n" if share == 1 else "", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------- direction


def with_nulls(a):
    """The array with None, JSON's null, for NaN: where there is nothing to say."""
    return np.where(np.isnan(a), None, a)


def direction_job(task):
    """Every form asked for of one optimizer: a list of results, JSON-ready but for arrays."""
    args, optimizer, x, y = task
    model = build_model(args.model, x.shape[1], minibias.classes(y))
    problem = minibias.Problem(model, x, y, args.loss)
    w0 = model.init(np.random.default_rng([args.seed, 1]), args.runs)
    conditioner = CONDITIONERS[optimizer](args.eps, args.b)
    results, settled = [], np.ones(args.runs, bool)
    if "flow" in args.forms or "limit" in args.forms:
        start = time.perf_counter()
        flow, _, passed_h, reached = optimizers.follow(problem, conditioner, w0, (LOG_LOSS_END / 2, LOG_LOSS_END))
        flow_seconds = time.perf_counter() - start
        settled = reached[-1] & (np.abs(passed_h[0] / passed_h[1] - 1).max(-1) <= SETTLED)
    for form in args.forms:
        if form == "discrete":
            start = time.perf_counter()
            end, _ = optimizers.descend(problem, conditioner, w0, args.lr[optimizer], args.steps)
            seconds = time.perf_counter() - start
        else:
            end, seconds = flow, flow_seconds
        w, log_loss, margin = end.w, end.log_loss, normalised_margin(problem, end.w)
        unsettled = ~settled & (form != "discrete")
        status = np.select([end.overflow, margin <= 0, unsettled], ["overflow", "not separated", "h still moving"], "ok")
        extra = {}
        if form == "limit":
            good = status == "ok"
            start, w = time.perf_counter(), w.copy()
            w[good], solved = optimizers.ascend(problem, end.h[good], w[good])
            seconds += time.perf_counter() - start
            status = status.astype(object)
            status[np.flatnonzero(good)[~solved]] = "newton failed"
            log_loss, margin = problem.gradient(w)[0], normalised_margin(problem, w)
            extra = limit_checks(problem, flow, w, good)
        results.append(
            {"optimizer": optimizer, "form": form, "w0": w0, "w": w, "h_inf": end.h, "log_loss": log_loss}
            | {"margin": margin, "separated": margin > 0, "status": status, "seconds": seconds}
            | extra
        )
    return results


def limit_checks(problem, flow, w, good):
    """The predictions from where the flow stopped, the distance of the limits w to them, and the certificates of the limits."""
    predicted, error, residual, unweighted = np.full(w.shape, np.nan), *np.full((3, len(w)), np.nan)
    if good.any():
        h = flow.h[good]
        predicted[good] = unit(minibias.predict(problem, flow.w[good], h))
        error[good] = minibias.norm(unit(w[good]) - predicted[good])
        residual[good] = minibias.certificate(problem, w[good], h)
        unweighted[good] = minibias.certificate(problem, w[good], np.ones_like(h))
    names = ("predicted", "direction_error", "kkt_residual", "kkt_residual_unweighted")
    return dict(zip(names, map(with_nulls, (predicted, error, residual, unweighted))))


def direction(args):
    """The directions of h_∞ (slide "Directions of h_∞"): isotropic for RMSProp and Adam, not for AdaGrad."""
    x, y = read_data(args.data) if args.data else default_data(args.seed)
    size = build_model(args.model, x.shape[1], minibias.classes(y)).size
    if "limit" in args.forms and size > LARGEST_LIMIT:
        raise ValueError(f"form limit needs {LARGEST_LIMIT} parameters at most, not {size}: use --forms discrete,flow")
    out = prepared(args)
    tasks = [(args, optimizer, x, y) for optimizer in args.optimizers]
    results = [result for done in runs.spread(direction_job, tasks, args.jobs, Progress("direction")) for result in done]
    written = publish(args, out, lambda figures, path: figures.direction(path, x, y, results), data={"x": x, "y": y}, results=results)
    print(f"{'optimizer':9} {'form':8} {'separated':>9} {'angle of h to (1, ..., 1)':>25} {'normalised margin':>31}  seconds")
    print(f"{'':9} {'':8} {'runs':>9} {'median':>12} {'largest':>12} {'median':>9} {'smallest':>10} {'largest':>10}")
    for r in results:
        angle, margin = angle_to_ones(r["h_inf"]), r["margin"]
        print(
            f"{r['optimizer']:9} {r['form']:8} {r['separated'].sum():>5}/{len(margin):<3} "
            f"{np.median(angle):>11.2g}° {angle.max():>11.2g}° "
            f"{np.median(margin):>9.4g} {margin.min():>10.4g} {margin.max():>10.4g} {r['seconds']:>8.2f}"
        )
    for r in results:
        ok = r["status"] == "ok"
        if r["form"] == "limit" and ok.any():
            error, residual, unweighted = (r[key][ok].astype(float) for key in ("direction_error", "kkt_residual", "kkt_residual_unweighted"))
            print(
                f"{r['optimizer']}, limit: direction error at most {error.max():.1e}, KKT residual at most "
                f"{residual.max():.1e} with h_∞, median {np.median(unweighted):.1e} without"
            )
    for r in results:
        for status in sorted(set(r["status"]) - {"ok"}):
            mine = r["status"] == status
            where = "" if status != "newton failed" else f" (log L {r['log_loss'][mine].max():.2g} at most)"
            print(f"{r['optimizer']}, {r['form']}: {mine.sum()} of {args.runs} runs: {EXPLAINED[status]}{where}")
    if not any(r["separated"].any() for r in results):
        print("no run separates the data, so the theorem says nothing about them")
    print("wrote", *written)


EXPLAINED = {
    "overflow": "overflow, float64 cannot hold the loss or h at the next step; smaller data or a smaller --lr help",
    "newton failed": "newton failed, the implicit step was not solved, so w is short of the limit",
    "not separated": "not separated, the end point misclassifies some sample",
    "h still moving": f"h still moving, by over {SETTLED:g} of itself from log L = {LOG_LOSS_END / 2:g} to {LOG_LOSS_END:g}, or the end not reached",
}


# ---------------------------------------------------------------------------------------------- claims

RECORDED = (300, 2000, 2500, 3000, 4000, 5000, 8000, 10_000, 16_000, 30_000)  # discrete steps
LIMIT_LEVELS = 10.0 ** np.arange(3, 14)  # log 1/L
QIAN_RATES, QIAN_STEPS = (0.5, 0.1), 100_000  # Qian and Qian's learning rates; they went on to 1e8 steps


def flow_measures(problem, conditioner, w0):
    """The flow to log L = -50 and the integrals that the proof needs, accumulated step by step: a dict of arrays (runs,).

    `square` is ∫ ||∂L||² dt, `variation` Σ max_j |Δ log h_j| and each `late_` one its part after log L = -25; `surrogate` is
    the smallest surrogate margin over its value at the first ℓ^-1(L) >= 1, `floor` the proof's bound on it.
    """
    flow = optimizers.Flow(problem, conditioner, w0)
    L, zero = problem.model.degree, np.zeros(len(w0))
    total = {name: zero.copy() for name in ("square", "late_square", "variation", "late_variation", "shrinking")}
    first, smallest, h_half, path = zero + np.nan, zero + np.inf, flow.h, []
    steps = 0
    while flow.alive.any() and steps < 5 * optimizers.SEPARATES_WITHIN:
        log_t, log_loss, u, h = flow.log_t, flow.log_loss, flow.u, flow.h
        surrogate = minibias.surrogate_margin(log_loss, problem.kind, flow.w, h, L)
        begun = minibias.inverse_loss(log_loss, problem.kind) >= 1
        first = np.where(begun & np.isnan(first), surrogate, first)
        smallest = np.where(begun, np.minimum(smallest, surrogate), smallest)
        path.append((log_t[0], log_loss[0], surrogate[0], h[0]))
        flow.step()
        flow.alive &= flow.log_loss > LOG_LOSS_END
        with np.errstate(divide="ignore"):
            log_dt = flow.log_t + np.log(-np.expm1(log_t - flow.log_t))
        square = np.exp(log_dt + 2 * log_loss) * (u * u).sum(-1)
        change, late = np.log(flow.h / h), log_loss <= LOG_LOSS_END / 2
        h_half = np.where(late[:, None], h_half, h)
        total["square"] += square
        total["late_square"] += late * square
        total["variation"] += np.abs(change).max(-1)
        total["late_variation"] += late * np.abs(change).max(-1)
        total["shrinking"] += begun * np.maximum(-change, 0).max(-1)
        steps += 1
    floor = np.exp(-L / 2 * total["shrinking"])
    return flow, h_half, path, total | {"surrogate": smallest / first, "floor": floor}


def first_separation(problem, conditioner, w0, lr, most=5000):
    """The number of discrete steps after which each run first separates the data, `most` if it never does: (runs,)."""
    state, first = optimizers.Discrete(problem, conditioner, w0, lr), np.full(len(w0), most)
    while state.t < most and (first == most).any():
        first = np.where((first == most) & (problem.margins(state.w).min(-1) > 0), state.t, first)
        state.step()
    return first


def sign_test(sooner, later):
    """The one-sided probability of at least so many runs with sooner < later if both orders were as likely; ties are left out."""
    wins, losses = (sooner < later).sum(), (sooner > later).sum()
    n = int(wins + losses)
    return sum(math.comb(n, k) for k in range(int(wins), n + 1)) / 2**n


def call(task):
    """A job of its own for every task, which is the job and its arguments."""
    job, *arguments = task
    return job(*arguments)


def claims_job(args, optimizer, loss, x, y):
    """Everything that is measured of one optimizer with one loss: a dict."""
    model = build_model("neuron", 2, 1)
    problem = minibias.Problem(model, x, y, loss)
    w0 = model.init(np.random.default_rng([args.seed, 1]), args.runs)
    conditioner = CONDITIONERS[optimizer](args.eps, args.b)
    flow, h_half, path, m = flow_measures(problem, conditioner, w0)
    ones = np.ones_like(w0)
    m |= {"log_loss": flow.log_loss, "h": flow.h, "settled": np.abs(h_half / flow.h - 1).max(-1)}

    # dv/dt = -β ⊙ ∂L̃(v) at log L = -2, both sides over L: the left one from a tiny step of the flow, the right one by differences of log L̃
    half, root, tiny = optimizers.follow(problem, conditioner, w0, (-2.0,))[0], np.sqrt(flow.h), 1e-6
    moved = optimizers.Flow(problem, conditioner, half.w, c=tiny, S=half.S, log_t=half.log_t)
    moved.step()
    L_dt = np.exp(half.log_loss + half.log_t) * np.expm1(moved.log_t - half.log_t)
    left, v = (moved.w - half.w) / root / L_dt[:, None], half.w / root
    slopes = [[problem.gradient(root * (v + s * tiny * e))[0] for s in (1, -1)] for e in np.eye(3)]
    right = -half.h / flow.h * np.stack([(a - b) / (2 * tiny) for a, b in slopes], -1)
    m["flow_of_v"] = minibias.norm(right - left) / minibias.norm(right)

    predicted = minibias.predict(problem, flow.w, flow.h)
    w, epsilons, deltas, errors = flow.w, [], [], []
    for level in LIMIT_LEVELS:
        w, solved = optimizers.ascend(problem, flow.h, w, level)
        for values, value in zip((epsilons, deltas), minibias.approximate_kkt(problem, w, flow.h)):
            values.append(np.where(solved, value, np.nan))
        errors.append(minibias.norm(unit(w) - unit(predicted)))
    early = LIMIT_LEVELS <= 1e8
    m["slopes"] = np.polyfit(np.log(LIMIT_LEVELS[early]), np.log(np.array(epsilons)[early]), 1)[0]
    m["error_slopes"] = np.polyfit(np.log(LIMIT_LEVELS[early]), np.log(np.array(errors)[early]), 1)[0]
    m |= {"direction_error": errors[-1], "predicted": unit(predicted), "w": unit(w)}
    m |= {"kkt": minibias.certificate(problem, w, flow.h), "kkt_unweighted": minibias.certificate(problem, w, ones)}
    m["margin"] = normalised_margin(problem, predicted)
    m["delta"] = np.array(deltas)[early][-1]

    m["mlp"] = network_residuals(args, optimizer, loss, x, y)
    m["several"] = several_classes(args, conditioner, loss)

    _, snapshots = optimizers.descend(problem, conditioner, w0, args.lr[optimizer], RECORDED[-1], RECORDED)
    w, h, log_loss = ({t: snapshot[k] for t, *snapshot in snapshots} for k in range(3))
    m["discrete_fall"] = log_loss[10_000] - log_loss[5000]
    square = {t: h[t] ** -2 for t in (2500, 5000, 10_000)}
    with np.errstate(invalid="ignore"):  # GD's h does not move
        m["discrete_growth"] = (square[10_000] - square[5000]) / (square[5000] - square[2500])
        gaps = [np.abs(h[t] * np.sqrt(args.eps) - 1).max(-1) for t in (2000, 4000, 8000, 16_000)]
        m["discrete_slopes"] = np.log2([late / early for early, late in pairwise(gaps)])
    weight = (lambda t: h[t]) if optimizer == "adagrad" else (lambda t: ones)
    m["decades"] = [np.nanmedian(minibias.certificate(problem, w[t], weight(t))) for t in (300, 3000, 30_000)]
    if loss == "exp" and optimizer != "gd":
        m["first"] = first_separation(problem, conditioner, w0, 0.1)
        m["first_large"] = first_separation(problem, CONDITIONERS[optimizer](1e-3, args.b), w0, 0.1)
        m["first_small"] = first_separation(problem, CONDITIONERS[optimizer](1e-7, args.b), w0, 0.1)
    m["path"], m["epsilons"], m["deltas"] = path, np.array(epsilons)[:, 0], np.array(deltas)[:, 0]
    return m


def network_residuals(args, optimizer, loss, x, y):
    """Median KKT residual over ten initialisations of eight hidden neurons, at log 1/L = 1e3, 1e8 and 1e13."""
    model = build_model("mlp:8", 2, 1)
    problem = minibias.Problem(model, x, y, loss)
    w0 = model.init(np.random.default_rng([args.seed, 1]), 10)
    flow, *_ = optimizers.follow(problem, CONDITIONERS[optimizer](args.eps, args.b), w0)
    w, residuals = flow.w, []
    for level in (1e3, 1e8, 1e13):
        w, _ = optimizers.ascend(problem, flow.h, w, level)
        residuals.append(np.nanmedian(minibias.certificate(problem, w, flow.h)))
    return residuals


def three_classes(seed):
    """Five points in each of three sectors of the plane, 0.4 wide, at radii from 0.5 to 2: x (15, 2), y in 0..2."""
    rng, y = np.random.default_rng([seed, 0]), np.arange(15) % 3
    angle, radius = 2 * np.pi / 3 * y + rng.uniform(-0.2, 0.2, 15), rng.uniform(0.5, 2, (15, 1))
    return radius * np.stack([np.cos(angle), np.sin(angle)], 1), y


def several_classes(args, conditioner, loss):
    """The limits of the linear model on three classes, and the median KKT residual of five hidden neurons at log 1/L = 1e2 and 1e6."""
    x, y = three_classes(args.seed)
    m, medians = {}, []
    for name, count in (("linear", 10), ("mlp:5", 5)):
        model = build_model(name, 2, 3)
        problem = minibias.Problem(model, x, y, loss)
        flow, *_ = optimizers.follow(problem, conditioner, model.init(np.random.default_rng([args.seed, 1]), count))
        if name == "linear":
            w, solved = optimizers.ascend(problem, flow.h, flow.w)
            m = limit_checks(problem, flow, w, solved)
        else:
            w = flow.w
            for level in (1e2, 1e6):  # some runs stick to a kink, where twenty of Newton's steps are as good as a hundred
                w, _ = optimizers.ascend(problem, flow.h, w, level, iterations=20)
                medians.append(np.nanmedian(minibias.certificate(problem, w, flow.h)))
    return {name: np.array(values[:], float) for name, values in m.items()} | {"mlp": medians}


def qian_job(lr):
    """Qian and Qian's example: where AdaGrad with this learning rate heads, and its distance to its own prediction and to L2's.

    After 1e5 discrete steps the rest of the sum S turns the limit by 0.003° at most. The flow of the same learning rate takes it from
    there, S kept, to log L = -50: steps of c = 0.02 are good to a hundredth of that rest, the flow itself to about L = 1e-3 of it.
    """
    angle, y = np.pi / np.array([8, 20]), np.array([1.0, -1.0])
    problem = minibias.Problem(Linear(2), y[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), y)
    conditioner = CONDITIONERS["adagrad"](1e-8)
    state, _ = optimizers.descend(problem, conditioner, np.zeros((1, 2)), lr, QIAN_STEPS)
    flow = optimizers.Flow(problem, conditioner, state.w, lr, 0.02, state.S, math.log(QIAN_STEPS))
    while flow.alive[0] and flow.log_loss[0] > LOG_LOSS_END:
        flow.step()
    w, solved = optimizers.ascend(problem, flow.h, flow.w)
    w = unit(np.where(solved[:, None], w, np.nan))[0]
    own, l2 = (unit(minibias.predict(problem, flow.w, h))[0] for h in (flow.h, np.ones((1, 2))))
    degrees = [np.degrees(np.arctan2(v[1], v[0])) for v in (w, l2)]
    return {"w": w, "degrees": degrees, "own": minibias.norm(w - own), "l2": minibias.norm(w - l2)}


def risks(X, beta, sigma, t):
    """E||β̂ - β||² for y = Xβ + noise of deviation σ: of gradient flow from 0 at the times t, and of ridge with λ = 1/t: (T,) each.

    The flow is that of ||y - Xβ̂||²/(2n), ridge minimises ||y - Xβ̂||²/n + λ||β̂||². With s_i, v_i the eigenpairs of XᵀX/n the flow's is
    Σ (v_i.β)² e^(-2 t s_i) + σ²/n (1 - e^(-t s_i))² / s_i, ridge's Σ ((v_i.β)² + σ²/n t² s_i) / (1 + t s_i)² (Ali, Kolter and Tibshirani 2019).
    """
    n, p = X.shape
    _, values, V = np.linalg.svd(X)
    s = np.zeros(p)
    s[: len(values)] = values**2 / n
    signal, noise, t = (V @ beta) ** 2, sigma**2 / n, t[:, None]
    flow = signal * np.exp(-2 * t * s) + noise * np.expm1(-t * s) ** 2 / np.where(s > 0, s, 1)
    return flow.sum(1), ((signal + noise * t**2 * s) / (1 + t * s) ** 2).sum(1)


def model_measures(seed):
    """The largest relative defects of homogeneity and of Euler's identity over models, slopes and Clarke choices, at kinks too."""
    rng, defects = np.random.default_rng([seed, 0]), []
    for sizes in ((2, 1), (2, 1, 1), (3, 4, 1), (2, 5, 4, 1), (2, 4, 3)):
        for slope, clarke in ((0.5, 0.5), (0.5, 0.8), (0.5, 1), (0, 0), (0, 1)):
            model = MLP(sizes, slope, clarke)
            w = np.concatenate([rng.normal(size=(5, model.size)), rng.integers(-1, 2, (5, model.size)) / 2])
            x = np.concatenate([rng.normal(size=(5, sizes[0])), rng.integers(-1, 2, (5, sizes[0])) / 2])
            backward, phi = minibias.make_vjp(lambda w, model=model, x=x: model(w, x), w)
            size = np.abs(phi).max()
            weights = rng.normal(size=phi.shape)
            euler = (w * backward(weights)).sum(-1) - model.degree * (weights * phi).reshape(len(w), -1).sum(-1)
            defects.append((np.abs(model(3 * w, x) / 3**model.degree - phi).max() / size, np.abs(euler).max() / size))
    return np.max(defects, axis=0)


def claim_rows(args, measures, qian):
    """The rows: (id, slide, statement, kind, measured, relation, bound). Each bound's reason stands beside it.

    qian     what `qian_job` says of the learning rates 0.5 and 0.1
    """
    rows = []

    def add(id, slide, statement, measured, relation, bound, kind="theorem"):
        holds = bool(measured <= bound if relation == "<=" else measured >= bound)
        value = float(measured)
        rows.append({"id": id, "slide": slide, "statement": statement, "kind": kind, "measured": value if math.isfinite(value) else None}
                    | {"relation": relation, "bound": bound, "holds": holds and math.isfinite(value)})  # fmt: skip

    homogeneity, euler = model_measures(args.seed)
    # 1e-12: four layers of sums of a few products, each rounded to 1e-16
    add("homogeneity", "Assumptions", "Φ(αw, x) = α^D Φ(w, x), relative defect", homogeneity, "<=", 1e-12)
    add("euler", "Assumptions", "<w, ∂Φ> = D Φ for every Clarke choice, relative defect", euler, "<=", 1e-12)
    for (optimizer, loss), m in measures.items():
        tag = f"{optimizer}.{loss}"
        # the flow is followed to there: a run that stalls stays above
        add(f"loss_to_zero.flow.{tag}", "Proof Sketch", "largest log L that the flow reaches", m["log_loss"].max(), "<=", -50.0)
        # L ~ 1/t or faster would give -log 2 over a doubling of t; half of it leaves room for logarithms
        add(f"loss_to_zero.discrete.{tag}", "Main Theorem", "change of log L from step 5,000 to 10,000, largest",
            m["discrete_fall"].max(), "<=", -0.35)  # fmt: skip
        if optimizer == "adagrad":
            # what is left of ∫ g² after log L = -25 is of the order e^-25 = 1e-11
            add(f"h_exists.flow.{tag}", "Proof Sketch", "relative change of h from log L = -25 to -50, largest", m["settled"].max(), "<=", 1e-8)
            add(f"h_positive.flow.{tag}", "Proof Sketch", "smallest component of h_∞", m["h"].min(), ">=", 1e-6)
            # g_t² ~ 1/t² makes the ratio 1/2, a divergent sum of 1/t would make it 1: three quarters is between
            add(f"h_exists.discrete.{tag}", "Proof Sketch", "(S_2T - S_T) / (S_T - S_T/2) at T = 5,000, median",
                np.median(m["discrete_growth"]), "<=", 0.75)  # fmt: skip
            add(f"not_l2.{tag}", "Discussions", "the limit's KKT residual for the unweighted problem, median",
                np.median(m["kkt_unweighted"]), ">=", 0.1)  # fmt: skip
        elif optimizer != "gd":
            # S has relaxed to g² ~ e^-100 by then: what is left is rounding
            gap = np.abs(m["h"] * np.sqrt(args.eps) - 1).max()
            add(f"h_isotropic.flow.{tag}", "Proof Sketch", "|h sqrt(ε) - 1| at log L = -50, largest", gap, "<=", 1e-8)
            # S ~ g² ~ t^-2, with logarithms that make the local slope somewhat shallower
            add(f"h_isotropic.discrete.{tag}", "Proof Sketch", "local slope of |h sqrt(ε) - 1| in t from step 2,000, largest",
                m["discrete_slopes"].max(), "<=", -1.9)  # fmt: skip
        # after log L = -25 the integrand has lost e^-25 of itself or more
        add(f"square_integrable.{tag}", "Proof Sketch", "share of ∫ ||∂L||² dt after log L = -25, largest",
            (m["late_square"] / m["square"]).max(), "<=", 1e-8)  # fmt: skip
        # central differences with a step of 1e-6, and a step of the flow that short, are good to about 1e-9
        add(f"agf.{tag}", "Proof Sketch", "dv/dt = -β ⊙ ∂L̃(v), relative defect of a step of the flow against differences",
            m["flow_of_v"].max(), "<=", 1e-6)  # fmt: skip
        add(f"beta_to_one.{tag}", "Proof Sketch", "|β - 1| at log L = -25, largest", m["settled"].max(), "<=", 1e-8)
        # the same e^-25; a variation that diverged would go on at its pace
        add(f"beta_variation.{tag}", "Proof Sketch", "total variation of log β after log L = -25, largest",
            m["late_variation"].max(), "<=", 1e-8)  # fmt: skip
        # the proof's bound on the exact flow; 2 % are for Euler's steps of 0.1 in log L
        add(f"surrogate.{tag}", "Proof Sketch", "smallest surrogate margin over its first value, over the proof's bound, smallest",
            (m["surrogate"] / m["floor"]).min(), ">=", 0.98)  # fmt: skip
        # one support vector gives -1/2, two give -1; 0.1 and 0.2 for the fit over five decades
        add(f"epsilon_falls.{tag}", "Proof Sketch", "slope of ε_i in log 1/L from 1e3 to 1e8, largest", m["slopes"].max(), "<=", -0.4)
        add(f"epsilon_rate.{tag}", "Proof Sketch", "the same, smallest", m["slopes"].min(), ">=", -1.2)
        # δ is at most log(N) / log(1/L) up to a constant
        add(f"delta_falls.{tag}", "Proof Sketch", "δ_i at log 1/L = 1e8, largest", m["delta"].max(), "<=", 1e-6)
        # what no active constraint moves fades like (log 1/L)^-1/2, to 3e-7 at 1e13
        problem = "weighted" if optimizer == "adagrad" else "unweighted"
        source = "Related Work: Lyu and Li (2019)" if optimizer == "gd" else "Main Theorem"
        residual = m["kkt"] if optimizer == "adagrad" else m["kkt_unweighted"]
        add(f"kkt.{tag}", source, f"the limit's KKT residual for the {problem} problem, largest", residual.max(), "<=", 1e-6)
        add(f"predicted.{tag}", "Main Theorem", "distance of the limit's direction to the predicted one, largest",
            m["direction_error"].max(), "<=", 1e-6)  # fmt: skip
        # -1/2 where no active constraint moves some direction, -1 elsewhere; 0.1 for the fit
        add(f"error_rate.{tag}", "Main Theorem", "slope of the direction error in log 1/L from 1e3 to 1e8, largest",
            m["error_slopes"].max(), "<=", -0.4)  # fmt: skip
        # a network has many KKT points and kinks, and no rate is proved: only that the residual falls is asserted
        shown = ", ".join(f"{r:.0e}" for r in m["mlp"])
        add(f"network.{tag}", "Main Theorem", f"eight neurons: largest ratio of the KKT residual to that five decades of log 1/L earlier; "
            f"at 1e3, 1e8, 1e13 it is {shown}", max(late / early for early, late in pairwise(m["mlp"])), "<=", 1.0)  # fmt: skip
        several = m["several"]
        # the linear model's limit is exact but for log(log 1/L) / log 1/L = 3e-12 and for rounding, as for two classes
        add(f"several.kkt.{tag}", "Extensions", f"three classes, linear: the limit's KKT residual for the {problem} problem, largest",
            several["kkt_residual" if optimizer == "adagrad" else "kkt_residual_unweighted"].max(), "<=", 1e-6)  # fmt: skip
        add(f"several.predicted.{tag}", "Extensions", "three classes, linear: distance of the limit's direction to the predicted one, largest",
            several["direction_error"].max(), "<=", 1e-6)  # fmt: skip
        # no rate is proved, as for two classes
        early, late = several["mlp"]
        add(f"several.network.{tag}", "Extensions", f"three classes, five neurons: median KKT residual {late:.0e} at log 1/L = 1e6 over "
            f"{early:.0e} at 1e2", late / early, "<=", 1.0)  # fmt: skip
        falls = max(late / early for early, late in pairwise(m["decades"]))
        add(f"discrete_heads.{tag}", "Main Theorem", "KKT residual of the discrete update, median, over that ten times earlier, "
            "t = 300 to 30,000, largest", falls, "<=", 1.0)  # fmt: skip
    for loss in minibias.LOSSES:
        ada = measures["adagrad", loss]
        for optimizer in ("rmsprop", "adam"):
            m = measures[optimizer, loss]
            same = np.sign(m["predicted"][:, 2]) == np.sign(ada["predicted"][:, 2])
            if not same.any():
                continue
            # equal margins are possible; 1e-9 is the prediction's own accuracy
            add(f"margin.{optimizer}.{loss}", "Discussions", f"L2 margin at the prediction minus AdaGrad's, smallest over the runs "
                f"that end with its sign of v ({same.sum()} of {len(same)})", (m["margin"] - ada["margin"])[same].min(), ">=", -1e-9)  # fmt: skip
    related_rows(args, add, *qian)
    spread = {o: minibias.norm(unit(measures[o, "exp"]["h"]) - unit(measures[o, "exp"]["h"])[0]).max() for o in CONDITIONERS}
    seen = "observation"
    add("h_varies.adagrad", "Directions of h_∞", "distance between directions of h_∞, largest from run 0", spread["adagrad"], ">=", 0.1, seen)
    ends = measures["adagrad", "exp"]["w"] * np.sign(measures["adagrad", "exp"]["w"][:, 2:])
    alike = np.sign(measures["adagrad", "exp"]["w"][:, 2]) == np.sign(measures["adagrad", "exp"]["w"][0, 2])
    add("direction_varies.adagrad", "Directions of h_∞", "distance between limit directions with one sign of v, largest from run 0",
        minibias.norm(ends[alike] - ends[alike][:1]).max(), ">=", 0.1, seen)  # fmt: skip
    for o in ("rmsprop", "adam"):
        add(f"h_varies.{o}", "Directions of h_∞", "distance between directions of h_∞, largest from run 0", spread[o], "<=", 1e-8, seen)
        m, ada = measures[o, "exp"], measures["adagrad", "exp"]
        add(f"faster_than_adagrad.{o}", "Discussions", f"sign test that it separates sooner than AdaGrad at learning rate 0.1, medians "
            f"{np.median(m['first']):g} and {np.median(ada['first']):g} steps", sign_test(m["first"], ada["first"]), "<=", 0.01, seen)  # fmt: skip
        add(f"epsilon_speeds_up.{o}", "Discussions", f"sign test that ε = 1e-3 separates sooner than 1e-7, medians "
            f"{np.median(m['first_large']):g} and {np.median(m['first_small']):g} steps",
            sign_test(m["first_large"], m["first_small"]), "<=", 0.01, seen)  # fmt: skip
    return rows


def related_rows(args, add, *qian):
    """The results that the slide "Related Work" names, Lyu and Li's apart, which are the rows kkt.gd."""
    source = "Related Work: Qian and Qian (2019)"
    for lr, m in zip(QIAN_RATES, qian):
        w, l2 = m["degrees"]
        # the linear model's limit is exact to 1e-12; 1e-6 is what the other limits are held to
        add(f"qian.predicted.{lr:g}", source, f"AdaGrad, linear, learning rate {lr:g}: the limit, at {w:.2f}°, from its weighted max-margin "
            "direction", m["own"], "<=", 1e-6)  # fmt: skip
        # it is 14° = 0.25 away; the rest of S beyond 1e5 steps moves it by less than 1e-4
        add(f"qian.not_l2.{lr:g}", source, f"the same limit from the L2 max-margin direction, at {l2:.2f}°", m["l2"], ">=", 0.1)
    first, second = qian
    # a tenth of a degree; the rest of S moves either limit by 0.003°
    add("qian.learning_rate", source, f"the limits of the learning rates {QIAN_RATES[0]:g} and {QIAN_RATES[1]:g} from each other, "
        f"{abs(first['degrees'][0] - second['degrees'][0]):.2f}°", minibias.norm(first["w"] - second["w"]), ">=", 0.0017, "observation")  # fmt: skip
    rng, ratios = np.random.default_rng([args.seed, 0]), []
    for n, p in ((100, 10), (60, 60), (20, 80), (200, 1)):
        for sigma in (0.1, 1, 10):
            flow, ridge = risks(rng.normal(size=(n, p)), rng.normal(size=p), sigma, np.logspace(-6, 6, 1201))
            ratios.append((flow / ridge).max())
    # the ratio of the variances is ((1 - e^-x) (1 + x) / x)² with x = t s, at most 1.6859; the theorem's constant is 1.6862
    add("ali.ridge", "Related Work: Ali, Kolter and Tibshirani (2019), behind Ali et al. (2020)", "least squares: risk of gradient flow at "
        "time t over that of ridge with λ = 1/t, largest of all t, four shapes, three levels of noise; the stochastic version is not simulated",
        max(ratios), "<=", 1.69)  # fmt: skip


def claims(args):
    """Every statement of the slides that a computer can check, on the default data with the neuron, and on others' data where it names them."""
    out = prepared(args)
    x, y = default_data(args.seed)
    keys = [(optimizer, loss) for optimizer in args.optimizers for loss in minibias.LOSSES]
    tasks = [(claims_job, args, *key, x, y) for key in keys] + [(qian_job, lr) for lr in QIAN_RATES]
    measured = runs.spread(call, tasks, args.jobs, Progress("claims"))
    measures = dict(zip(keys, measured))
    rows = claim_rows(args, measures, measured[len(keys) :])
    written = publish(args, out, lambda figures, path: figures.claims(path, measures, LIMIT_LEVELS), claims=rows)
    for row in rows:
        verdict = "holds" if row["holds"] else "FAILS" if row["kind"] == "theorem" else "not shown"
        measured = "undefined" if row["measured"] is None else f"{row['measured']:.3g}"
        print(f"{verdict:9} {row['id']:34} {measured:>10} {row['relation']} {row['bound']:<7g} {row['statement']}")
    failed = [row["id"] for row in rows if row["kind"] == "theorem" and not row["holds"]]
    print(f"{len(rows)} claims, {sum(row['holds'] for row in rows)} hold, {len(failed)} theorem{'s' * (len(failed) != 1)} fail", *failed)
    if failed:
        print("the bounds are meant for the default flags; with others, finite steps may not be enough for one")
    print("wrote", *written)
    return 1 if failed else 0


# ---------------------------------------------------------------------------------------------- margin and epsilon

FLOW_END = -1000.0  # log L that form `flow` passes
FLOW_C = 0.3  # a step of its first part changes log L by no more
FLOW_LATE = -25.0  # log L from which on h has settled: what AdaGrad adds is of the order e^-25, what the others keep e^-50
RECORDS = ("step", "log_loss", "margin", "train_accuracy", "test_accuracy")
PROBLEMS = {}  # what this process has made of the images it works on


def image_problems(task, dtype):
    """The training and the test images as problems for the CNN, made once in each process."""
    key = (task["stamp"], task["width"], dtype)
    if key not in PROBLEMS:
        PROBLEMS.clear()
        model = CNN(task["width"], dtype=dtype)
        x_train, y_train, x_test, y_test = task["images"]
        PROBLEMS[key] = (
            minibias.Blocks(model, scaled(x_train), y_train, task["loss"], 10, model.block),
            minibias.Blocks(model, scaled(x_test), y_test, task["loss"], 10, model.block, keep=0),
        )
    return PROBLEMS[key]


def scaled(pixels):
    return pixels.astype(np.float32) / 255


def accuracy(q):
    """The share of samples whose K - 1 margins are all positive, from the margins (N (K-1),) of ten classes."""
    return float((q.reshape(-1, 9).min(-1) > 0).mean())


def train_job(task, state, seconds):
    """Go on with one run for about so many seconds, for `runs.resume`: its new state.

    Form `discrete` makes task["steps"] steps. Form `flow` goes on from a discrete run's end, task["start"], until log L < -1000: Euler
    steps until h has settled, then Runge-Kutta-Chebyshev steps. The model computes in float32 on a w kept in float64; in the flow it
    computes in float64 too, since a rounding error of 1e-6 of q = 1000 would show in e^-q.
    """
    flow = task["form"] == "flow"
    problem, test = image_problems(task, np.float64 if flow else np.float32)
    conditioner = CONDITIONERS[task["optimizer"]](task["eps"], task["b"])
    at = state
    if at is None:
        begin = task["start"] or {"w": problem.model.init(np.random.default_rng([task["seed"], 1]), 1), "S": None}
        at = {"w": begin["w"], "S": begin["S"], "log_t": math.log(task["steps"]), "steep": 64.0, "reach": 1.0, "made": 0, "rows": (), "seconds": 0.0}
    made, rows, spent = int(at["made"]), list(at["rows"]), float(at["seconds"])
    gradient = (state["log_loss"], state["u"]) if state else None
    late = min(FLOW_LATE, math.log(task["eps"]) / 2 - 15)
    if not flow:
        run = optimizers.Discrete(problem, conditioner, at["w"], task["lr"], at["S"], made, gradient)
        recorded = set(np.geomspace(1, task["steps"], 50).round())
    else:
        run = optimizers.Flow(problem, conditioner, at["w"], task["lr"], FLOW_C, at["S"], at["log_t"], gradient)

    def record():
        w = unit(run.w)
        q = problem.margins(w)
        rows.append((made, run.log_loss[0], q.min(), accuracy(q), accuracy(test.margins(w))))

    if flow and not state:
        record()
    ended, first, until = False, made, time.monotonic() + seconds
    while not ended and (made == first or time.monotonic() < until):
        if flow and run.log_loss[0] < late and not isinstance(run, optimizers.LateFlow):
            now = (run.S, run.log_t, (run.log_loss, run.u), at["steep"], at["reach"])
            run = optimizers.LateFlow(problem, conditioner, run.w, task["lr"], 0.05, *now)
        start = time.perf_counter()
        run.step()
        spent += time.perf_counter() - start
        made += 1
        log_loss = run.log_loss[0]
        ended = not run.alive[0] or (log_loss < FLOW_END if flow else made == task["steps"])
        lowest = min(row[1] for row in rows) if rows else math.inf
        if ended or log_loss <= (min(1.1 * lowest, lowest - 1) if flow else lowest - 0.5) or (not flow and made in recorded):
            record()  # often enough to see where log L falls through a level for the first time
    share = np.clip(run.log_loss[0] / FLOW_END, 0, 1) if flow else made / task["steps"]
    return {
        "w": run.w, "S": run.S, "u": run.u, "log_loss": run.log_loss,
        **{name: getattr(run, name, at[name]) for name in ("log_t", "steep", "reach")},
        "made": made, "rows": np.array(rows).reshape(-1, len(RECORDS)), "seconds": spent, "overflow": run.overflow[0],
        "done": ended, "share": 1.0 if ended else share,
    }  # fmt: skip


def image_study(args, pairs, keys, draw):
    """The runs with these (optimizer, ε), for every seed: table, answers, files and figure of `margin` and `epsilon`.

    pairs    (claim, larger, smaller): two keys that the slides compare
    draw     draw(figures, path, results, summary)
    """
    images = read_images(args.data or pathlib.Path(__file__).with_name("data") / "mnist.npz", args.train, args.test)
    out = prepared(args)
    shared = {"images": images, "steps": args.steps, "loss": args.loss, "b": args.b, "width": tuple(args.width), "form": "discrete", "start": None}
    settings = {name: value for name, value in config(args).items() if name not in ("out", "jobs", "dask", "fresh")}
    stamp = runs.fingerprint(args.study, settings, *images)
    shared["stamp"] = stamp.hex()
    tasks = {
        f"{optimizer}-{eps}-{seed}": shared | {"optimizer": optimizer, "eps": eps, "seed": seed, "lr": args.lr[optimizer]}
        for optimizer, eps in keys
        for seed in range(args.seed, args.seed + args.seeds)
    }
    resume = lambda tasks, label: runs.resume(  # noqa: E731
        train_job, tasks, out / f"{args.study}.runs", stamp, args.jobs, args.dask, args.fresh, Progress(label)
    )
    states = resume(tasks, args.study)
    results = [image_result(task, states[name]) for name, task in tasks.items()]
    if args.flow:
        late = {f"{n}-flow": t | {"form": "flow", "start": states[n]} for n, t in tasks.items() if states[n]["rows"][-1][2] > 0}
        states |= resume(late, f"{args.study} --flow")
        results += [image_result(task, states[name]) for name, task in late.items()]
    summary = summarise(results)
    verdicts = [a for pair in pairs for form in ("discrete", "flow") for a in answers(results, form, *pair)]
    written = publish(args, out, lambda figures, path: draw(figures, path, results, summary), results=results, answers=verdicts)
    for name, state in states.items():
        if state["overflow"]:
            print(f"{name}: overflow after {state['made']} steps, the next one is beyond the precision; a smaller --lr helps")
        elif not name.endswith("-flow") and state["rows"][-1][2] <= 0:
            print(f"{name}: does not separate the training images after {state['made']} steps; more --steps or another --lr help")
    image_table(summary)
    answer_table(verdicts)
    print("wrote", *written)


def image_result(task, state):
    columns = dict(zip(RECORDS, state["rows"].T))
    columns["step"] = columns["step"].astype(int)
    return {key: task[key] for key in ("optimizer", "eps", "seed", "form")} | columns | {"seconds": float(state["seconds"])}


def at_level(result, key, level):
    """result[key] where log L fell through `level` for the first time, linear in log L between two records."""
    log_loss, values = result["log_loss"], result[key]
    k = int(np.argmax(log_loss <= level))
    if log_loss[k] > level or k == 0:
        return values[-1 if log_loss[k] > level else 0]
    share = (log_loss[k - 1] - level) / (log_loss[k - 1] - log_loss[k])
    return values[k - 1] + share * (values[k] - values[k - 1])


def common_level(results):
    """The lowest log L that all of them reach."""
    return max(min(r["log_loss"]) for r in results)


def verdict(differences):
    """`shown` if all differences are positive and their mean exceeds twice its standard error, `opposite` the other way round."""
    error = np.std(differences, ddof=1) / math.sqrt(len(differences)) if len(differences) > 1 else math.inf
    for name, sign in (("shown", 1), ("opposite", -1)):
        if (sign * differences > 0).all() and sign * differences.mean() > 2 * error:
            return name, error
    return "not distinguishable", error


def answers(results, form, claim, larger, smaller):
    """The verdicts on one claim, at the last step and at the lowest log L that all runs of the two kinds reach."""
    groups = [[r for r in results if (r["optimizer"], r["eps"]) == key and r["form"] == form] for key in (larger, smaller)]
    seeds = sorted(set.intersection(*({r["seed"] for r in group} for group in groups)))
    if not seeds:
        return []
    level, rows = common_level(groups[0] + groups[1]), []
    for metric in ("margin", "test_accuracy"):
        for at in (f"{form} form, last step", f"{form} form, log L = {level:.4g}"):
            value = (lambda r: r[metric][-1]) if at.endswith("step") else (lambda r: at_level(r, metric, level))
            by_seed = [{r["seed"]: value(r) for r in group} for group in groups]
            differences = np.array([by_seed[0][seed] - by_seed[1][seed] for seed in seeds])
            name, error = verdict(differences)
            rows.append({"claim": f"{claim}: {metric.replace('_', ' ')}", "at": at, "form": form, "metric": metric}
                        | {"larger": larger, "smaller": smaller, "seeds": seeds, "differences": differences, "mean": differences.mean()}
                        | {"standard_error": error if math.isfinite(error) else None, "answer": name})  # fmt: skip
    return rows


def summarise(results):
    """One dict for each optimizer, ε and form, of arrays over the seeds: the last step, and `_same` at the log L that all of the form reach."""
    levels = {form: common_level([r for r in results if r["form"] == form]) for form in {r["form"] for r in results}}
    rows = []
    for key in dict.fromkeys((r["optimizer"], r["eps"], r["form"]) for r in results):
        group = [r for r in results if (r["optimizer"], r["eps"], r["form"]) == key]
        row = dict(zip(("optimizer", "eps", "form"), key)) | {"level": levels[key[2]]}
        row |= {name: np.array([r[name][-1] for r in group]) for name in (*RECORDS[1:], "step")}
        row |= {f"{name}_same": np.array([at_level(r, name, row["level"]) for r in group]) for name in ("margin", "test_accuracy")}
        row["separates"] = max(r["step"][np.argmax(r["margin"] > 0)] if r["margin"][-1] > 0 else math.inf for r in group)
        row["seconds"] = np.mean([r["seconds"] for r in group])
        rows.append(row)
    return rows


def image_table(summary):
    """Mean ± standard deviation over the seeds."""

    def cell(values, form, scale=1):
        spread = f" ± {np.std(values, ddof=1) * scale:{form}}" if len(values) > 1 else ""
        return f"{np.mean(values) * scale:{form}}{spread}"

    print(f"{'':27} {'separates':>9} {'last step: normalised':>33} {'accuracy (%)':>21}   {'at the same':>11}  {'normalised':>12} {'test':>18}")
    print(f"{'optimizer':9} {'ε':>7}  {'form':8} {'at step':>9} {'log L':>13} {'margin':>19} {'train':>6} {'test':>14}   {'log L':>11}"
          f" {'margin':>19} {'accuracy (%)':>14}  seconds")  # fmt: skip
    for r in summary:
        separates = "" if r["form"] == "flow" else "never" if r["separates"] == math.inf else r["separates"]
        print(f"{r['optimizer']:9} {r['eps']:>7g}  {r['form']:8} {separates:>9} {cell(r['log_loss'], '.1f'):>13} {cell(r['margin'], '.1e'):>19}"
              f" {100 * r['train_accuracy'].mean():>6.2f} {cell(r['test_accuracy'], '.2f', 100):>14}   {r['level']:>11.4g}"
              f" {cell(r['margin_same'], '.1e'):>19} {cell(r['test_accuracy_same'], '.2f', 100):>14} {r['seconds']:>8.1f}")  # fmt: skip


def answer_table(verdicts):
    """One line for each verdict, with the mean of the paired differences over the seeds and its standard error."""
    if verdicts:
        width = max(len(a["claim"]) for a in verdicts)
        print(f"{'verdict':19}  {'claim':{width}}  {'at':33} {'mean difference':>15} ± standard error")
    for a in verdicts:
        error = "" if a["standard_error"] is None else f" ± {a['standard_error']:.1e}"
        print(f"{a['answer']:19}  {a['claim']:{width}}  {a['at']:33} {a['mean']:>15.1e}{error}")


def margin(args):
    """Normalised margins and accuracies of all optimizers (slide "Observation of Margin"): RMSProp and Adam above AdaGrad."""
    keys = [(optimizer, args.eps) for optimizer in args.optimizers]
    pairs = [(f"{o}'s is larger than adagrad's", (o, args.eps), ("adagrad", args.eps)) for o in ("rmsprop", "adam")]
    image_study(args, pairs, keys, lambda figures, path, results, summary: figures.margin(path, results))


def epsilon(args):
    """Margins and accuracies against ε (slide "Effect of ε"): larger with a larger ε."""
    keys = [(optimizer, eps) for optimizer in args.optimizers for eps in args.epsilons]
    low, high = args.epsilons[0], args.epsilons[-1]
    pairs = [(f"{o}'s is larger with ε = {high:g} than with {low:g}", (o, high), (o, low)) for o in args.optimizers]
    image_study(args, pairs, keys, lambda figures, path, results, summary: figures.epsilon(path, summary))


# ---------------------------------------------------------------------------------------------- crossover

SMALLEST_EPSILON = 1e-290  # the sum S of squares must be resolved beside ε, and float64 ends at 1e-308


def crossover_data():
    """Eight points in the plane whose ℓ∞ max-margin direction, a corner, is 0.46 away from the L2 one."""
    x = np.array([(0.3, 1), (0.6, 0.9), (1.2, 1.3), (0.5, 1.6)])
    return np.concatenate([x, -1.1 * x]), np.repeat([1.0, -1.0], 4)


def crossover_job(task):
    """One flow from w = 0 with its distances to both directions, JSON-ready but for arrays.

    S falls below ε at about log 1/L = ½ log 1/ε; the flow goes on to six times that, and 50 more. Before that S forgets at the rate
    1 - b: an lr well below it lets S follow g², and h ⊙ g the signs, while a larger one keeps the proportions that S once had.
    """
    args, problem, optimizer, eps, directions = task
    flow = optimizers.Flow(problem, CONDITIONERS[optimizer](eps, args.b), np.zeros((1, problem.model.size)), args.lr[optimizer])
    end, path = -50 + 3 * min(0, math.log(eps)), []
    while flow.alive[0] and flow.log_loss[0] > end and len(path) < 5 * optimizers.SEPARATES_WITHIN:
        flow.step()
        if flow.alive[0]:
            path.append((-flow.log_loss[0], *minibias.norm(unit(flow.w) - directions)))
    log_inverse, linf, l2 = np.reshape(path, (-1, 3)).T
    finished, nearer = flow.log_loss[0] <= end, np.flatnonzero(linf < l2 - 1e-9)  # neither is, where the two coincide
    turned = finished and len(nearer) and nearer[-1] < len(path) - 1
    return {
        **{"optimizer": optimizer, "eps": eps, "status": "ok" if finished else "overflow" if flow.overflow[0] else "not finished"},
        **{"log_inverse_loss": log_inverse, "distance_linf": linf, "distance_l2": l2, "crossing": log_inverse[nearer[-1]] if turned else None},
    }


def crossover(args):
    """What ε hides: RMSProp and Adam head for the ℓ∞ max-margin direction before they turn to the L2 one."""
    if min(args.epsilons) < SMALLEST_EPSILON:
        raise ValueError(f"argument --epsilons: expected {SMALLEST_EPSILON:g} or more, what float64 resolves, not {min(args.epsilons):g}")
    x, y = read_data(args.data) if args.data else crossover_data()
    problem = minibias.Problem(build_model("linear", x.shape[1], minibias.classes(y)), x, y, args.loss)
    try:
        corner, multipliers, unique = minibias.predict_linf(problem)
    except minibias.NotSeparable:
        raise ValueError(f"{args.data}: no linear model without constant separates the data") from None
    out = prepared(args)
    ones = np.ones((1, problem.model.size))
    svm = minibias.predict(problem, 0 * ones, ones)
    directions = np.concatenate([unit(corner[None]), unit(svm)])
    margin, dual = problem.margins(corner).min(), np.abs(multipliers @ problem.jacobian(0 * ones)[0]).sum()
    predictions = {
        "linf": {"direction": directions[0], "margin": margin, "gap": dual / margin - 1, "multipliers": multipliers, "unique": unique},
        "l2": {"direction": directions[1], "margin": normalised_margin(problem, svm)[0], "kkt_residual": minibias.certificate(problem, svm, ones)[0]},
        "distance": minibias.norm(directions[0] - directions[1]),
    }
    tasks = [(args, problem, optimizer, eps, directions) for optimizer in args.optimizers for eps in args.epsilons]
    results = runs.spread(crossover_job, tasks, args.jobs, Progress("crossover"))
    slopes = {}
    for optimizer in args.optimizers:
        crossed = np.array([(-math.log(r["eps"]), r["crossing"]) for r in results if r["optimizer"] == optimizer and r["crossing"] is not None])
        slopes[optimizer] = np.polyfit(*crossed.T, 1)[0] if len(crossed) > 1 else None
    content = {"data": {"x": x, "y": y}, "predictions": predictions, "results": results, "slopes": slopes}
    written = publish(args, out, lambda figures, path: figures.crossover(path, results, slopes), **content)
    print(f"ℓ∞ max margin {margin:.6g}, duality gap {predictions['linf']['gap']:.1e}")
    print(f"L2 max margin {predictions['l2']['margin']:.6g}, KKT residual {predictions['l2']['kkt_residual']:.1e}")
    print(f"distance between the two directions {predictions['distance']:.4f}")
    if not unique:
        print("the ℓ∞ max-margin direction may not be the only one, so distances to it say little")
    print(f"{'optimizer':9} {'ε':>7} {'½ log 1/ε':>10} {'distance to ℓ∞ there':>21} {'crossing at log 1/L':>20} {'distance to L2 at the end':>26}")
    for r in results:
        half, at = -math.log(r["eps"]) / 2, "none" if r["crossing"] is None else f"{r['crossing']:.1f}"
        if r["status"] != "ok":
            print(f"{r['optimizer']:9} {r['eps']:7g} {half:>10.1f} {EXPLAINED.get(r['status'], r['status'])}")
            continue
        before = r["distance_linf"][np.searchsorted(r["log_inverse_loss"], half)]
        print(f"{r['optimizer']:9} {r['eps']:7g} {half:>10.1f} {before:>21.4f} {at:>20} {r['distance_l2'][-1]:>26.4f}")
    for optimizer, slope in slopes.items():
        print(f"{optimizer}: crossing against log 1/ε, slope {'undefined' if slope is None else f'{slope:.3f}'}")
    if any(r["status"] == "ok" and r["crossing"] is None for r in results):
        print("none: the run was never nearer to ℓ∞, or still is at its end")
    print("wrote", *written)


# ---------------------------------------------------------------------------------------------- command line


class Parser(argparse.ArgumentParser):
    """No abbreviations, and errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        raise ValueError(message)


def parser():
    top = Parser(description=__doc__)
    studies = top.add_subparsers(dest="study", required=True, metavar="STUDY")
    sub = studies.add_parser(
        "direction",
        help="the directions of h_∞ and the margins of many initialisations on a 2-D data set",
        description='The slides\' "Directions of h_∞": every optimizer from many initialisations on a small data set, as the\n'
        "discrete update, as the flow (until log L <= -50) and in the limit of the flow (log L = -1e13), which is\n"
        "compared with the predicted KKT point of the max-margin problem and certified.\n"
        "RMSProp's and Adam's h_∞ is isotropic, AdaGrad's is not.\n"
        "Prints a table, writes OUT/direction.json and OUT/direction.png.",
        epilog="example: python experiments.py direction --data points.csv --model mlp:8 --runs 20",
    )
    common(sub, loss="exp")
    forms = ["discrete", "flow", "limit"]
    sub.add_argument("--forms", type=some_of(*forms), default=forms, help="some of discrete,flow,limit (all)")
    sub.add_argument("--runs", type=count, default=100, help="initialisations, from 1 on (%(default)s)")
    sub.add_argument("--steps", type=count, default=5000, help="discrete steps, from 1 on (%(default)s)")
    sub.add_argument("--model", type=model_name, default="neuron", help="neuron, linear or mlp:WIDTH[,WIDTH...] (%(default)s)")
    sub.add_argument("--data", type=filled, metavar="FILE", help=".npz with x (N, d), y (N,), or .csv, label last (the authors' data)")
    sub.set_defaults(run=direction)
    sub = studies.add_parser(
        "claims",
        help="every statement of the slides that a computer can check, as a table of claims",
        description="Measures every checkable statement of the slides on the authors' data, for all optimizers and both losses.\n"
        "Prints a row for each, writes OUT/claims.json and OUT/claims.png, and exits 1 if a theorem fails. The bounds are\n"
        "meant for the default flags: with a small --lr, say, the finite number of steps may not be enough.",
        epilog="example: python experiments.py claims --seed 3",
    )
    common(sub, loss=None)
    sub.add_argument("--runs", type=count, default=100, help="initialisations, from 1 on (%(default)s)")
    sub.set_defaults(run=claims)
    sub = studies.add_parser(
        "margin",
        help="margins and accuracies of all optimizers on MNIST with the four-layer CNN",
        description='The slides\' "Observation of Margin": full-batch training of the four-layer CNN on MNIST with every optimizer from\n'
        "the same initialisations. Prints a table and whether RMSProp's and Adam's margin and test accuracy exceed AdaGrad's,\n"
        "at the last step and at the same training loss. Writes OUT/margin.json and OUT/margin.png; checkpoints in OUT/margin.runs.\n"
        "Killed and started again it goes on from the last checkpoint.",
        epilog="example: python experiments.py margin --optimizers adagrad,rmsprop --seeds 1 --steps 100",
    )
    image_flags(sub, tuple(CONDITIONERS), eps=True)
    sub.set_defaults(run=margin)
    sub = studies.add_parser(
        "epsilon",
        help="the effect of ε on margin and accuracy on MNIST with the four-layer CNN",
        description='The slides\' "Effect of ε": full-batch training of the four-layer CNN on MNIST with several ε from the same\n'
        "initialisations. Prints a table and whether margin and test accuracy are larger with the largest ε than with the smallest,\n"
        "at the last step and at the same training loss. Writes OUT/epsilon.json and OUT/epsilon.png; checkpoints in OUT/epsilon.runs.\n"
        "Killed and started again it goes on from the last checkpoint.",
        epilog="example: python experiments.py epsilon --optimizers rmsprop --epsilons 1e-7,1e-5,1e-3 --seeds 1",
    )
    image_flags(sub, ("rmsprop", "adam"), eps=False)
    sub.add_argument("--epsilons", type=epsilons, default=[1e-6, 1e-4, 1e-2, 1.0, 100.0], help="two or more, each above 0 (1e-6,1e-4,1e-2,1,100)")
    sub.set_defaults(run=epsilon)
    sub = studies.add_parser(
        "crossover",
        help="what ε hides: first towards the ℓ∞ max-margin direction, in the end towards the L2 one",
        description="The flow of a linear model from w = 0 for several ε. While ε is small beside the squared gradients RMSProp and Adam\n"
        "follow their signs, towards the ℓ∞ max-margin direction; once the gradients are small beside sqrt(ε) they turn\n"
        "to the L2 one. The crossing is the last log 1/L that is nearer to ℓ∞. The smaller --lr is beside 1 - b, the closer S\n"
        "follows the squared gradients, and the flow the signs.\n"
        "Prints a table, writes OUT/crossover.json and OUT/crossover.png.",
        epilog="example: python experiments.py crossover --lr 0.01 --epsilons 1e-5,1e-40,1e-80",
    )
    common(sub, "exp", ("rmsprop", "adam"), dict.fromkeys(CONDITIONERS, 1.0), eps=False, seed=False)
    sub.add_argument("--epsilons", type=epsilons, default=[1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3],
                     help=f"two or more, from {SMALLEST_EPSILON:g} on (1e-80,1e-40,1e-20,1e-10,1e-5,1e-3)")  # fmt: skip
    sub.add_argument("--data", type=filled, metavar="FILE", help=".npz with x (N, d), y (N,), or .csv, label last (eight points in the plane)")
    sub.set_defaults(run=crossover)
    return top


def image_flags(sub, optimizers, eps):
    """The flags of the studies on MNIST."""
    common(sub, "log", optimizers, IMAGE_RATES, eps)
    sub.add_argument("--train", type=count, default=1000, help="the first so many training images (%(default)s)")
    sub.add_argument("--test", type=count, default=2000, help="the first so many test images (%(default)s)")
    sub.add_argument("--steps", type=count, default=400 if eps else 300, help="full-batch steps, from 1 on (%(default)s)")
    sub.add_argument("--seeds", type=count, default=3, help="initialisations, the same for all optimizers (%(default)s)")
    sub.add_argument("--width", type=cnn_width, default=[8, 16, 64], help="channels, channels, hidden units (8,16,64; the paper's: 32,64,1024)")
    sub.add_argument("--data", type=filled, metavar="FILE-OR-FOLDER", help="MNIST as Keras' .npz or as a folder of IDX files (the subset in data/)")
    sub.add_argument("--flow", action="store_true", help="after the steps go on with the flow (Euler, later Runge-Kutta-Chebyshev) to log L < -1000")
    sub.add_argument("--dask", type=filled, metavar="ADDRESS", help="tcp://HOST:PORT of a Dask cluster that does the runs, in place of processes")
    sub.add_argument("--fresh", action="store_true", help="ignore checkpoints and finished runs of an earlier start")


def common(sub, loss, optimizers=tuple(CONDITIONERS), rates=RATES, eps=True, seed=True):
    """The flags that every study of optimizers shares, with these defaults; `rates` a dict optimizer -> learning rate."""
    names = list(CONDITIONERS)
    if loss:  # without one, a study is about all optimizers and both losses
        which = "all" if len(optimizers) == len(names) else ",".join(optimizers)
        sub.add_argument("--optimizers", type=some_of(*names), default=list(optimizers), help=f"some of {','.join(names)} ({which})")
        sub.add_argument("--loss", choices=minibias.LOSSES, default=loss, help="exponential or logistic (%(default)s)")
    else:
        sub.set_defaults(optimizers=names)
    if eps:
        sub.add_argument("--eps", type=positive, default=1e-5, help="ε > 0, inside the root (%(default)s)")
    sub.add_argument("--b", type=fraction, default=0.9, help="decay of RMSProp and Adam, in (0, 1) (%(default)s)")
    shown = ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
    sub.add_argument("--lr", type=positive, help=f"learning rate > 0 ({shown})")
    if seed:
        sub.add_argument("--seed", type=whole, default=0, help="whole number from 0 on: initial w, and data that are drawn (%(default)s)")
    sub.add_argument("--out", type=filled, default="results", help="folder for the result files (%(default)s)")
    sub.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="processes, from 1 on (the machine's cores)")
    sub.set_defaults(rates=rates)


def main(argv=None):
    """Run a study; the exit status: 0, 1 if a theorem fails, or 2 after one line `error: ...` on stderr for bad input."""
    try:
        args = parser().parse_args(argv)
        args.lr = {name: args.lr or args.rates[name] for name in args.optimizers}
        return args.run(args) or 0
    except KeyboardInterrupt:
        print("error: interrupted, no result file was touched", file=sys.stderr)
        return 130
    except (MemoryError, OverflowError) as problem:
        print("error: too large for this machine:", " ".join(str(problem).split()) or "out of memory", file=sys.stderr)
        return 2
    except (ValueError, OSError) as problem:
        print("error:", " ".join(str(problem).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    import experiments  # under its own name, so that other processes find what they are handed

    sys.stdout.reconfigure(errors="replace")  # a terminal without ε must not cost a result

    sys.exit(experiments.main())
