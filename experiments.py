"""The studies: python experiments.py STUDY [flags]. `python experiments.py --help` lists them."""

import argparse
import csv
import ctypes
import math
import os
import pathlib
import sys
import time
import zipfile
import zlib

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
from models import MLP, Linear
from optimizers import CONDITIONERS

LOG_LOSS_END = -50.0  # where the flow stops: h has settled, see `follow`
LARGEST_LIMIT = 100  # parameters: Newton's method factors a p x p matrix for every run and step
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
            with np.load(path, allow_pickle=False) as arrays:
                x, y = arrays["x"], arrays["y"]
        elif path.suffix == ".csv":
            x, y = read_csv(path)
        else:
            raise ValueError("expected a file that ends in .npz or .csv")
        return minibias.check_data(x, y)
    except KeyError:
        raise ValueError(f"{path}: expected arrays named x and y") from None
    except (ValueError, EOFError, AttributeError, NotImplementedError, zipfile.BadZipFile, zlib.error) as problem:
        raise ValueError(f"{path}: {problem}") from None


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


# ---------------------------------------------------------------------------------------------- direction


def unit(a):
    """a / ||a|| over the last axis, for any finite a but 0."""
    a = a / np.abs(a).max(-1, keepdims=True)
    return a / minibias.norm(a)[..., None]


def angle_to_ones(h):
    """The angle in degrees between h (..., p) and (1, ..., 1), 0 if h is isotropic, exact for small angles too."""
    return 2 * np.degrees(np.arcsin(minibias.norm(unit(h) - unit(np.ones(h.shape[-1]))) / 2))


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
        w, log_loss, margin = end.w, end.log_loss, problem.margins(unit(end.w)).min(-1)
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
            log_loss, margin = problem.gradient(w)[0], problem.margins(unit(w)).min(-1)
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
                np.array([v for v in r[key] if v is not None], float)
                for key in ("direction_error", "kkt_residual", "kkt_residual_unweighted")
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
    return {name: value for name, value in vars(args).items() if name not in ("study", "run")}


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
    return top


def common(sub, loss):
    """The flags that every study of optimizers shares."""
    names = list(CONDITIONERS)
    sub.add_argument("--optimizers", type=some_of(*names), default=names, help=f"some of {','.join(names)} (all)")
    sub.add_argument("--eps", type=positive, default=1e-5, help="ε > 0, inside the root (%(default)s)")
    sub.add_argument("--b", type=fraction, default=0.9, help="decay of RMSProp and Adam, in (0, 1) (%(default)s)")
    sub.add_argument("--lr", type=positive, help="learning rate > 0 of the discrete update (0.1, and 0.001 for gd)")
    sub.add_argument("--loss", choices=minibias.LOSSES, default=loss, help="exponential or logistic (%(default)s)")
    sub.add_argument("--seed", type=whole, default=0, help="whole number from 0 on: data and initial w (%(default)s)")
    sub.add_argument("--out", default="results", help="folder for the result files (%(default)s)")
    sub.add_argument("--jobs", type=count, default=os.cpu_count() or 1, help="processes, from 1 on (the machine's cores)")


def main(argv=None):
    """Run a study; the exit status: 0, or 2 after one line `error: ...` on stderr for bad input."""
    try:
        args = parser().parse_args(argv)
        rates = {name: 0.001 if name == "gd" else 0.1 for name in args.optimizers}
        args.lr = {name: args.lr or rate for name, rate in rates.items()}
        args.run(args)
    except KeyboardInterrupt:
        print("error: interrupted, no result file was touched", file=sys.stderr)
        return 130
    except (ValueError, OSError) as problem:
        print("error:", " ".join(str(problem).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
