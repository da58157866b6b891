"""The studies: python experiments.py STUDY [flags]. `python experiments.py --help` lists them."""

import argparse
import csv
import ctypes
import gzip
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


def whole_list(text):
    """Counts separated by commas, three of them: the width of the CNN."""
    widths = [count(part) for part in text.split(",")]
    if len(widths) != 3:
        raise argparse.ArgumentTypeError(f"expected three whole numbers from 1 on, CHANNELS,CHANNELS,HIDDEN, got {text!r}")
    return widths


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
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except KeyError:
        raise ValueError(f"expected arrays named {' and '.join(names)}") from None
    except (EOFError, AttributeError, NotImplementedError, TypeError, IndexError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(problem) from None


def read_csv(path):
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = [(number, [cell.strip() for cell in row]) for number, row in enumerate(csv.reader(file), 1) if any(row)]

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
            raise ValueError(f"line {line} has {len(cells)} columns, expected {max(2, len(rows[0][1]))}")
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
            found = [p for p in (path / name, path / f"{name}.gz", path / name.replace("-idx", ".idx")) if p.is_file()]
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
    out = runs.prepare(args.out)
    x, y = read_data(args.data) if args.data else default_data(args.seed)
    size = build_model(args.model, x.shape[1], minibias.classes(y)).size
    if "limit" in args.forms and size > LARGEST_LIMIT:
        raise ValueError(f"form limit needs {LARGEST_LIMIT} parameters at most, not {size}: use --forms discrete,flow")
    results = []
    tasks = [(args, optimizer, x, y) for optimizer in args.optimizers]
    for done in runs.spread(direction_job, tasks, args.jobs):
        results += done
        if sys.stderr.isatty():
            print(f"{done[0]['optimizer']}: done", file=sys.stderr)
    print(f"{'optimizer':9} {'form':8} {'separated':>9} {'angle of h to (1, ..., 1)':>25} {'normalised margin':>31}  seconds")
    print(f"{'':9} {'':8} {'runs':>9} {'median':>12} {'largest':>12} {'median':>9} {'smallest':>10} {'largest':>10}")
    for r in results:
        angle, margin = angle_to_ones(r["h_inf"]), r["margin"]
        print(
            f"{r['optimizer']:9} {r['form']:8} {r['separated'].sum():>5}/{len(margin):<3} "
            f"{np.median(angle):>11.2g}° {angle.max():>11.2g}° "
            f"{np.median(margin):>9.4f} {margin.min():>10.4f} {margin.max():>10.4f} {r['seconds']:>8.2f}"
        )
    for r in results:
        if r["form"] == "limit" and (r["status"] == "ok").any():
            errors, residuals, unweighted = (
                np.array([v for v in r[key] if v is not None], float) for key in ("direction_error", "kkt_residual", "kkt_residual_unweighted")
            )
            print(
                f"{r['optimizer']}, limit: direction error at most {errors.max():.1e}, KKT residual at most "
                f"{residuals.max():.1e} with h_∞, median {np.median(unweighted):.1e} without"
            )
    for r in results:
        for status in sorted(set(r["status"]) - {"ok"}):
            print(f"{r['optimizer']}, {r['form']}: {(r['status'] == status).sum()} of {args.runs} runs: {EXPLAINED[status]}")
    if not any(r["separated"].any() for r in results):
        print("no run separates the data, so the theorem says nothing about them")
    content = {"config": config(args), "versions": runs.versions(), "data": {"x": x, "y": y}, "results": results}
    written = [runs.write_json(out / "direction.json", content)]
    import figures

    written.append(runs.write(out / "direction.png", lambda beside: figures.direction(beside, x, y, results)))
    print("wrote", *written)


EXPLAINED = {
    "overflow": "overflow, float64 cannot hold the loss or h at the next step; smaller data or a smaller --lr help",
    "newton failed": "newton failed, the implicit step was not solved, so w is short of the limit",
    "not separated": "not separated, the end point misclassifies some sample",
    "h still moving": f"h still moving, by more than {SETTLED:g} of itself from log L = {LOG_LOSS_END / 2:g} to {LOG_LOSS_END:g}",
}


def config(args):
    return {name: value for name, value in vars(args).items() if name not in ("study", "run", "rates")}


# ---------------------------------------------------------------------------------------------- claims

RECORDED = (300, 2000, 2500, 3000, 4000, 5000, 8000, 10_000, 16_000, 30_000)  # discrete steps
LIMIT_LEVELS = 10.0 ** np.arange(3, 14)  # log 1/L


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


def claims_job(task):
    """Everything that is measured of one optimizer with one loss: a dict."""
    args, optimizer, loss, x, y = task
    model = build_model("neuron", 2, 1)
    problem = minibias.Problem(model, x, y, loss)
    w0 = model.init(np.random.default_rng([args.seed, 1]), args.runs)
    conditioner = CONDITIONERS[optimizer](args.eps, args.b)
    flow, h_half, path, m = flow_measures(problem, conditioner, w0)
    ones = np.ones_like(w0)
    m |= {"log_loss": flow.log_loss, "h": flow.h, "settled": np.abs(h_half / flow.h - 1).max(-1)}

    root, beta = np.sqrt(flow.h), (half := optimizers.follow(problem, conditioner, w0, (-2.0,))[0]).h / flow.h
    v, step = half.w / root, 1e-6  # dv/dt = -β ⊙ ∂L̃(v), both sides over L, the right one by differences of log L̃
    moved = [[problem.gradient(root * (v + s * step * e))[0] for s in (1, -1)] for e in np.eye(3)]
    right = -beta * np.stack([(a - b) / (2 * step) for a, b in moved], -1)
    m["flow_of_v"] = minibias.norm(right + half.h * half.u / root) / minibias.norm(right)

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


def claim_rows(args, measures):
    """The rows: (id, slide, statement, kind, measured, relation, bound). Each bound's reason stands beside it."""
    rows = []

    def add(id, slide, statement, measured, relation, bound, kind="theorem"):
        holds = bool(measured <= bound if relation == "<=" else measured >= bound)
        value = float(measured)
        rows.append({"id": id, "slide": slide, "statement": statement, "kind": kind, "measured": value if math.isfinite(value) else None}
                    | {"relation": relation, "bound": bound, "holds": holds and math.isfinite(value)})  # fmt: skip

    homogeneity, euler = model_measures(args.seed)
    # 1e-12: four layers of sums of a few products, each rounded to 1e-16
    add("homogeneity", "Assumptions", "Φ(αw, x) = α^L Φ(w, x), relative defect", homogeneity, "<=", 1e-12)
    add("euler", "Assumptions", "<w, ∂Φ> = L Φ for every Clarke choice, relative defect", euler, "<=", 1e-12)
    for (optimizer, loss), m in measures.items():
        tag = f"{optimizer}.{loss}"
        # the flow is followed to there: a run that stalls stays above
        add(f"loss_to_zero.flow.{tag}", "Proof Sketch", "largest log L that the flow reaches", m["log_loss"].max(), "<=", -50.0)
        # L ~ 1/t or faster would give -log 2 over a doubling of t; half of it leaves room for logarithms
        add(f"loss_to_zero.discrete.{tag}", "Main Theorem", "change of log L from step 5,000 to 10,000, largest",
            m["discrete_fall"].max(), "<=", -0.35)  # fmt: skip
        if optimizer == "adagrad":
            # what is left of ∫ g² after log L = -25 is of the order e^-25 = 1e-11
            add(
                f"h_exists.flow.{tag}",
                "Proof Sketch",
                "relative change of h from log L = -25 to -50, largest",
                m["settled"].max(),
                "<=",
                1e-8,
            )
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
        # central differences with a step of 1e-6 are good to about 1e-9
        add(
            f"agf.{tag}",
            "Proof Sketch",
            "dv/dt = -β ⊙ ∂L̃(v), relative defect against differences",
            m["flow_of_v"].max(),
            "<=",
            1e-6,
        )
        add(f"beta_to_one.{tag}", "Proof Sketch", "|β - 1| at log L = -25, largest", m["settled"].max(), "<=", 1e-8)
        # the same e^-25; a variation that diverged would go on at its pace
        add(f"beta_variation.{tag}", "Proof Sketch", "total variation of log β after log L = -25, largest",
            m["late_variation"].max(), "<=", 1e-8)  # fmt: skip
        # the proof's bound on the exact flow; 2 % are for Euler's steps of 0.1 in log L
        add(f"surrogate.{tag}", "Proof Sketch", "smallest surrogate margin over its first value, over the proof's bound, smallest",
            (m["surrogate"] / m["floor"]).min(), ">=", 0.98)  # fmt: skip
        # one support vector gives -1/2, two give -1; 0.1 and 0.2 for the fit over five decades
        add(
            f"epsilon_falls.{tag}",
            "Proof Sketch",
            "slope of ε_i in log 1/L from 1e3 to 1e8, largest",
            m["slopes"].max(),
            "<=",
            -0.4,
        )
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
        add(f"network.{tag}", "Main Theorem", f"eight neurons: KKT residual over that five decades of log 1/L earlier, largest; "
            f"at 1e3, 1e8, 1e13: {shown}", max(late / early for early, late in pairwise(m["mlp"])), "<=", 1.0)  # fmt: skip
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
            add(f"margin.{optimizer}.{loss}", "Discussions", f"L2 margin at the prediction minus AdaGrad's, smallest of the {same.sum()} "
                f"runs of {len(same)} that end with the same sign of v", (m["margin"] - ada["margin"])[same].min(), ">=", -1e-9)  # fmt: skip
    spread = {o: minibias.norm(unit(measures[o, "exp"]["h"]) - unit(measures[o, "exp"]["h"])[0]).max() for o in CONDITIONERS}
    seen = "observation"
    add(
        "h_varies.adagrad",
        "Directions of h_∞",
        "distance between directions of h_∞, largest from run 0",
        spread["adagrad"],
        ">=",
        0.1,
        seen,
    )
    ends = measures["adagrad", "exp"]["w"] * np.sign(measures["adagrad", "exp"]["w"][:, 2:])
    alike = np.sign(measures["adagrad", "exp"]["w"][:, 2]) == np.sign(measures["adagrad", "exp"]["w"][0, 2])
    add("direction_varies.adagrad", "Directions of h_∞", "distance between limit directions with one sign of v, largest from run 0",
        minibias.norm(ends[alike] - ends[alike][:1]).max(), ">=", 0.1, seen)  # fmt: skip
    for o in ("rmsprop", "adam"):
        add(
            f"h_varies.{o}",
            "Directions of h_∞",
            "distance between directions of h_∞, largest from run 0",
            spread[o],
            "<=",
            1e-8,
            seen,
        )
        m, ada = measures[o, "exp"], measures["adagrad", "exp"]
        add(f"faster_than_adagrad.{o}", "Discussions", f"sign test that it separates sooner than AdaGrad at learning rate 0.1, medians "
            f"{np.median(m['first']):g} and {np.median(ada['first']):g} steps", sign_test(m["first"], ada["first"]), "<=", 0.01, seen)  # fmt: skip
        add(f"epsilon_speeds_up.{o}", "Discussions", f"sign test that ε = 1e-3 separates sooner than 1e-7, medians "
            f"{np.median(m['first_large']):g} and {np.median(m['first_small']):g} steps",
            sign_test(m["first_large"], m["first_small"]), "<=", 0.01, seen)  # fmt: skip
    return rows


def claims(args):
    """Every statement of the slides that a computer can check, on the default data with the neuron."""
    out = runs.prepare(args.out)
    x, y = default_data(args.seed)
    keys = [(optimizer, loss) for optimizer in args.optimizers for loss in minibias.LOSSES]
    tasks = [(args, *key, x, y) for key in keys]
    measures = dict(zip(keys, runs.spread(claims_job, tasks, args.jobs)))
    rows = claim_rows(args, measures)
    for row in rows:
        verdict = "holds" if row["holds"] else "FAILS" if row["kind"] == "theorem" else "not shown"
        measured = "undefined" if row["measured"] is None else f"{row['measured']:.3g}"
        print(f"{verdict:9} {row['id']:34} {measured:>10} {row['relation']} {row['bound']:<7g} {row['statement']}")
    failed = [row["id"] for row in rows if row["kind"] == "theorem" and not row["holds"]]
    print(f"{len(rows)} claims, {sum(row['holds'] for row in rows)} hold, {len(failed)} theorems fail", *failed)
    written = [runs.write_json(out / "claims.json", {"config": config(args), "versions": runs.versions(), "claims": rows})]
    import figures

    written.append(runs.write(out / "claims.png", lambda beside: figures.claims(beside, measures, LIMIT_LEVELS)))
    print("wrote", *written)
    return 1 if failed else 0


# ---------------------------------------------------------------------------------------------- margin and epsilon

FLOW_END = -1000.0  # log L that form `flow` passes
FLOW_C = 0.3  # a step of its first part changes log L by no more
FLOW_LATE = -25.0  # log L from which on h has settled, S / ε being of the order e^-50 / ε
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
    at = state or task["start"] or {"w": problem.model.init(np.random.default_rng([task["seed"], 1]), 1), "S": None}
    made, rows, spent = (int(state["made"]), list(state["rows"]), float(state["seconds"])) if state else (0, [], 0.0)
    gradient = (state["log_loss"], state["u"]) if state else None
    late = min(FLOW_LATE, math.log(task["eps"]) / 2 - 15)
    if not flow:
        run = optimizers.Discrete(problem, conditioner, at["w"], task["lr"], at["S"], made, gradient)
        recorded = set(np.geomspace(1, task["steps"], 50).round())
    else:
        log_t = state["log_t"] if state else math.log(task["steps"])
        run = optimizers.Flow(problem, conditioner, at["w"], task["lr"], FLOW_C, at["S"], log_t, gradient)
    steep = state["steep"] if state else 64.0

    def record():
        w = unit(run.w)
        q = problem.margins(w)
        rows.append((made, run.log_loss[0], q.min(), accuracy(q), accuracy(test.margins(w))))

    if flow and not state:
        record()
    ended, until = False, time.monotonic() + seconds
    while not ended and (time.monotonic() < until or made == (state or {"made": 0})["made"]):
        if flow and run.log_loss[0] < late and not isinstance(run, optimizers.LateFlow):
            now = (run.S, run.log_t, (run.log_loss, run.u))
            run = optimizers.LateFlow(problem, conditioner, run.w, task["lr"], 0.05, *now, steep)
        start = time.perf_counter()
        run.step()
        spent += time.perf_counter() - start
        made += 1
        log_loss = run.log_loss[0]
        ended = not run.alive[0] or (log_loss < FLOW_END if flow else made == task["steps"])
        if ended or (log_loss <= min(1.1 * rows[-1][1], rows[-1][1] - 1) if flow else made in recorded):
            record()
    share = np.clip(run.log_loss[0] / FLOW_END, 0, 1) if flow else made / task["steps"]
    return {
        "w": run.w, "S": run.S, "u": run.u, "log_loss": run.log_loss, "log_t": getattr(run, "log_t", 0.0), "steep": getattr(run, "steep", steep),
        "made": made, "rows": np.array(rows).reshape(-1, len(RECORDS)), "seconds": spent, "overflow": run.overflow[0],
        "done": ended, "share": 1.0 if ended else share,
    }  # fmt: skip


class Progress:
    """The share of all work that is done, with the time left, on stderr if that is a terminal."""

    def __init__(self, label):
        self.label, self.begun, self.first = label, time.monotonic(), None

    def __call__(self, states):
        shares = [0.0 if state is None else float(state["share"]) for state in states.values()]
        share = sum(shares) / len(shares)
        if self.first is None:
            self.first = share - 1e-9
        left = (time.monotonic() - self.begun) / (share - self.first) * (1 - share)
        if sys.stderr.isatty():
            when = "" if left > 1e6 else f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
            end = "\n" if share == 1 else ""
            text = f"{self.label}: {shares.count(1.0)} of {len(shares)} runs done, {100 * share:.0f} %{when}"
            print(f"\r{text:75}", end=end, file=sys.stderr, flush=True)


def image_study(args, title, pairs, keys):
    """The runs with these (optimizer, ε), for every seed: table, answers, files and figure of `margin` and `epsilon`.

    pairs    (claim, larger, smaller): two keys that the slides compare
    """
    out = runs.prepare(args.out)
    images = read_images(args.data or pathlib.Path(__file__).with_name("data") / "mnist.npz", args.train, args.test)
    common = {"images": images, "steps": args.steps, "loss": args.loss, "b": args.b, "width": tuple(args.width), "form": "discrete", "start": None}
    settings = {name: value for name, value in config(args).items() if name not in ("out", "jobs", "dask", "fresh")}
    stamp = runs.fingerprint(title, settings, *images)
    common["stamp"] = stamp.hex()
    tasks = {
        f"{optimizer}-{eps}-{seed}": common | {"optimizer": optimizer, "eps": eps, "seed": seed, "lr": args.lr[optimizer]}
        for optimizer, eps in keys
        for seed in range(args.seed, args.seed + args.seeds)
    }
    resume = lambda tasks, label: runs.resume(  # noqa: E731
        train_job, tasks, out / f"{title}.runs", stamp, args.jobs, args.dask, args.fresh, Progress(label)
    )
    states = resume(tasks, title)
    results = [image_result(task, states[name]) for name, task in tasks.items()]
    if args.flow:
        late = {f"{n}-flow": t | {"form": "flow", "start": states[n]} for n, t in tasks.items() if states[n]["rows"][-1][2] > 0}
        states |= resume(late, f"{title} --flow")
        results += [image_result(task, states[name]) for name, task in late.items()]
    for name, state in states.items():
        if state["overflow"]:
            print(f"{name}: overflow after {state['made']} steps, float32 cannot hold the next one; a smaller --lr helps")
        elif not name.endswith("-flow") and state["rows"][-1][2] <= 0:
            print(f"{name}: does not separate the training images after {state['made']} steps; more --steps or another --lr help")
    summary = summarise(results)
    image_table(summary)
    verdicts = [a for pair in pairs for form in ("discrete", "flow") for a in answers(results, form, *pair)]
    for a in verdicts:
        error = "" if a["standard_error"] is None else f" ± {a['standard_error']:.2g}"
        print(f"{a['answer']}: {a['claim']}, {a['at']}: difference {a['mean']:.3g}{error}, {len(a['differences'])} seeds")
    content = {"config": config(args), "versions": runs.versions(), "results": results, "answers": verdicts}
    written = [runs.write_json(out / f"{title}.json", content)]
    import figures

    draw = (lambda beside: figures.margin(beside, results)) if title == "margin" else (lambda beside: figures.epsilon(beside, summary))
    written.append(runs.write(out / f"{title}.png", draw))
    print("wrote", *written)


def image_result(task, state):
    columns = dict(zip(RECORDS, state["rows"].T))
    columns["step"] = columns["step"].astype(int)
    return {key: task[key] for key in ("optimizer", "eps", "seed", "form")} | columns | {"seconds": float(state["seconds"])}


def at_level(result, key, level):
    """result[key] where log L fell through `level` for the last time, linear in log L between two records."""
    log_loss, values = result["log_loss"], result[key]
    above = np.flatnonzero(log_loss > level)
    k = above[-1] if len(above) else -1
    if k in (-1, len(values) - 1):
        return values[k + 1 if k == -1 else k]
    share = (log_loss[k] - level) / (log_loss[k] - log_loss[k + 1])
    return values[k] + share * (values[k + 1] - values[k])


def common_level(results):
    """The lowest log L that all of them reach."""
    return max(r["log_loss"][-1] for r in results)


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
        print(f"{r['optimizer']:9} {r['eps']:>7g}  {r['form']:8} {r['separates']:>9} {cell(r['log_loss'], '.1f'):>13} {cell(r['margin'], '.1e'):>19}"
              f" {100 * r['train_accuracy'].mean():>6.2f} {cell(r['test_accuracy'], '.2f', 100):>14}   {r['level']:>11.4g}"
              f" {cell(r['margin_same'], '.1e'):>19} {cell(r['test_accuracy_same'], '.2f', 100):>14} {r['seconds']:>8.1f}")  # fmt: skip


def margin(args):
    """Normalised margins and accuracies of all optimizers (slide "Observation of Margin"): RMSProp and Adam above AdaGrad."""
    keys = [(optimizer, args.eps) for optimizer in args.optimizers]
    pairs = [(f"{o}'s is larger than adagrad's", (o, args.eps), ("adagrad", args.eps)) for o in ("rmsprop", "adam")]
    image_study(args, "margin", pairs, keys)


def epsilon(args):
    """Margins and accuracies against ε (slide "Effect of ε"): larger with a larger ε."""
    keys = [(optimizer, eps) for optimizer in args.optimizers for eps in args.epsilons]
    low, high = args.epsilons[0], args.epsilons[-1]
    pairs = [(f"{o}'s is larger with ε = {high:g} than with {low:g}", (o, high), (o, low)) for o in args.optimizers]
    image_study(args, "epsilon", pairs, keys)


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
    sub.add_argument("--data", metavar="FILE", help=".npz with x (N, d), y (N,), or .csv, label last (the authors' data)")
    sub.set_defaults(run=direction)
    sub = studies.add_parser(
        "claims",
        help="every statement of the slides that a computer can check, as a table of claims",
        description="Measures every checkable statement of the slides on the authors' data, for all optimizers and both losses.\n"
        "Prints a row for each, writes OUT/claims.json and OUT/claims.png, and exits 1 if a theorem fails.",
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
    return top


def image_flags(sub, optimizers, eps):
    """The flags of the studies on MNIST."""
    common(sub, "log", optimizers, IMAGE_RATES, eps)
    sub.add_argument("--train", type=count, default=1000, help="the first so many training images (%(default)s)")
    sub.add_argument("--test", type=count, default=2000, help="the first so many test images (%(default)s)")
    sub.add_argument("--steps", type=count, default=400 if eps else 300, help="full-batch steps, from 1 on (%(default)s)")
    sub.add_argument("--seeds", type=count, default=3, help="initialisations, the same for all optimizers (%(default)s)")
    sub.add_argument("--width", type=whole_list, default=[8, 16, 64], help="channels, channels, hidden units (8,16,64; the paper's: 32,64,1024)")
    sub.add_argument("--data", metavar="FILE-OR-FOLDER", help="MNIST as Keras' .npz or as a folder of IDX files (the subset in data/)")
    sub.add_argument("--flow", action="store_true", help="after the steps go on with the Euler flow to log L < -1000")
    sub.add_argument("--dask", metavar="ADDRESS", help="tcp://HOST:PORT of a Dask cluster that does the runs, in place of processes")
    sub.add_argument("--fresh", action="store_true", help="ignore checkpoints and finished runs of an earlier start")


def common(sub, loss, optimizers=tuple(CONDITIONERS), rates=RATES, eps=True):
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
    sub.add_argument("--lr", type=positive, help=f"learning rate > 0 of the discrete update ({shown})")
    sub.add_argument("--seed", type=whole, default=0, help="whole number from 0 on: data and initial w (%(default)s)")
    sub.add_argument("--out", default="results", help="folder for the result files (%(default)s)")
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
    except (ValueError, OSError) as problem:
        print("error:", " ".join(str(problem).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    import experiments  # under its own name, so that other processes find what they are handed

    sys.exit(experiments.main())
