"""The door to all studies: python experiments.py STUDY [flags]; in a notebook experiments.direction(...).

A study is a file with measure(...), table(found) and figure(found). Its flags are made here, from the
signature of its measure and FLAGS. A default stands in that signature, and None there is explained in its
help. `jobs` alone differs: the command uses all cores. To add a study, import its file here and name it in
STUDIES. A parameter with a new name wants a line in FLAGS, and `lr` a dict RATES in the study's file.
"""

import os
import signal

if __name__ == "__main__":  # before NumPy is imported
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
        os.environ[name] = "1"  # numbers must not depend on the machine's cores
    heard = signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports: nothing to lose or to say

import argparse
import inspect
import math
import shutil
import sys
import time

import claims
import crossover
import direction
import jobs
import mnist
import starts
from datasets import read_data, read_images
from models import LOSSES
from optimizers import CONDITIONERS, learning_rates
from solvers import NotSeparable

STUDIES = {
    "direction": direction,
    "claims": claims,
    "margin": mnist,
    "epsilon": mnist,
    "crossover": crossover,
    "starts": starts,
}


def measure_of(study):
    """The function that measures a study: of the study's name where a file has several, else `measure`."""
    return getattr(STUDIES[study], study, None) or STUDIES[study].measure


# for a notebook: experiments.direction(...) and the others
globals().update({study: measure_of(study) for study in STUDIES})


def main(argv=None):
    """Run a study, by default the one that this process was asked for: its exit status.

    0, 1 if a theorem fails, or 2 after one line `error: ...` on stderr for bad input.
    """
    if argv is None:
        sys.stdout.reconfigure(errors="replace")  # a terminal without ε must not cost a result
    jobs.keep_freed_memory()
    try:
        return run(vars(parser().parse_args(argv)))
    except BrokenPipeError:  # whoever read the table has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("error: interrupted, no result file was touched", file=sys.stderr)
        return 130
    except (MemoryError, OverflowError) as problem:
        return failed(f"too large for this machine: {problem or 'out of memory'}")
    except (ValueError, OSError) as problem:
        about = getattr(problem, "filename", None)
        return failed(f"{about}: {problem.strerror}" if about else problem)


def failed(why):
    """Print why a command failed, in one line; its exit status."""
    print("error:", " ".join(str(why).split()), file=sys.stderr)
    return 2


def run(flags):
    """Measure the study that the flags ask for, write its files and print its table: the exit status."""
    study = flags.pop("study")
    module, measure = STUDIES[study], measure_of(study)
    known = parameters(measure)
    if "lr" in known:
        flags["lr"] = learning_rates(flags["optimizers"], flags["lr"], module.RATES)
    settings = {name: value for name, value in flags.items() if name in known and name != "data"}
    if "images" in known:
        flags["train"] = settings["train"] = flags["train"] or module.images_for(flags["limit"])
        settings["images"] = read_images(flags["data"] or module.SHIPPED, flags["train"], flags["test"])
        print(settings["images"].said)
    elif flags.get("data"):
        *settings["data"], said = read_data(flags["data"])
        print(said)
    files = [f"{study}.json", f"{study}.png", f"{study}.md"]
    out = jobs.prepare(flags["out"], *files[: 2 + hasattr(module, "page")])
    if "folder" in known:
        settings["folder"] = out / f"{study}.runs"
    if "report" in known:
        settings["report"] = Progress(study)
    try:
        found = measure(**settings)
    except NotSeparable:
        raise ValueError(f"{flags['data']}: no linear model without constant separates the data") from None
    about = {"config": flags, "versions": jobs.versions()}
    written = [
        jobs.write_json(
            out / files[0], about | {name: found[name] for name in found if name not in UNWRITTEN}
        )
    ]
    if hasattr(module, "page"):
        text = "\n".join(module.page(found)) + "\n"
        written.append(jobs.write(out / files[2], lambda path: path.write_text(text, "utf-8")))
    trouble = None
    try:
        written.insert(1, draw(module, found, flags.get("momentum"), out / files[1]))
    except (Exception, KeyboardInterrupt) as problem:
        trouble = problem
    for line in module.table(found):
        print(line)
    if trouble is not None:
        why = f"{type(trouble).__name__}: {trouble}"
        failed(f"the figure could not be drawn, {why}; the numbers are in {written[0]}")
        return 130 if isinstance(trouble, KeyboardInterrupt) else 2
    print("wrote", *written)
    return module.status(found) if hasattr(module, "status") else 0


UNWRITTEN = {"ways", "model", "proof", "remarks"}  # what tables and figures alone need of what was found


def draw(module, found, momentum, path):
    """Write the study's figure, under matplotlib's own defaults, and return its path."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        figure = module.figure(found)
        if momentum:
            text = f"discrete form with momentum {momentum:g}"
            figure.text(0.995, 0.005, text, ha="right", va="bottom", fontsize=9, color="0.3")
        return jobs.write(path, lambda beside: figure.savefig(beside, format="png", dpi=110))


class Progress:
    """The share of all work that is done, with the time left or a word, on stderr if that is a terminal."""

    def __init__(self, label):
        self.label, self.begun, self.first = label, time.monotonic(), None

    def __call__(self, shares, word=""):
        if not (shares and sys.stderr.isatty()):
            return
        share = sum(shares) / len(shares)
        self.first = share if self.first is None else self.first
        when = f"; {word}" if word else ""
        if share > self.first:
            left = (time.monotonic() - self.begun) / (share - self.first) * (1 - share)
            when += f", about {left / 60:.0f} min left" if left > 90 else f", about {left:.0f} s left"
        text = f"{self.label}: {shares.count(1.0)} of {len(shares)} done, {100 * share:.0f} %{when}"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r{text[:width]:{width}}", end="\n" if share == 1 else "", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------ flags: their types


def check(good, expected, text):
    """Refuse the text of a flag, unless it is good."""
    if not good:
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")


def number(expected, good):
    """The type of a flag that takes the finite numbers for which `good` is true."""

    def parse(text):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        check(math.isfinite(value), "a finite number", text)
        check(good(value), expected, text)
        return value

    return parse


positive = number("a number above 0", lambda value: value > 0)
fraction = number("a number between 0 and 1, both excluded", lambda value: 0 < value < 1)
below_one = number("a number from 0 on, below 1", lambda value: 0 <= value < 1)
share = number("a number from 0 to 1", lambda value: 0 <= value <= 1)


def whole(text, least=0):
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    check(value >= least, f"a whole number from {least} on", text)
    return value


def count(text):
    return whole(text, least=1)


def some_of(names):
    """The type of a flag that takes some of `names`, separated by commas."""

    def parse(text):
        chosen = text.split(",")
        good = set(chosen) <= set(names) and len(set(chosen)) == len(chosen)
        check(good, f"some of {','.join(names)}, each once", text)
        return chosen

    return parse


def cnn_width(text):
    """Three counts separated by commas."""
    widths = [count(part) for part in text.split(",")]
    check(len(widths) == 3, "three whole numbers from 1 on, CHANNELS,CHANNELS,HIDDEN", text)
    return widths


def filled(text):
    """An empty name, say of a shell variable that is not set, is not the default."""
    if not text:
        raise argparse.ArgumentTypeError("expected a name, got nothing")
    return text


def epsilons(text):
    values = [positive(part) for part in text.split(",")]
    check(len(set(values)) >= max(2, len(values)), "two or more different numbers above 0", text)
    return sorted(values)


def radii(text):
    values = [positive(part) for part in text.split(",")]
    check(len(set(values)) == len(values), "different numbers above 0", text)
    return values


def model_name(text):
    try:
        STUDIES["direction"].build_model(text, 1, 1)
    except ValueError:
        check(False, "neuron, linear or mlp:WIDTH[,WIDTH...]", text)
    return text


# ------------------------------------------------------------------------------------ flags: their names

# name -> type, None for a switch, and help
FLAGS = {
    "optimizers": (some_of(CONDITIONERS), f"some of {','.join(CONDITIONERS)}"),
    "loss": (str, "exponential or logistic"),
    "forms": (some_of(STUDIES["direction"].FORMS), "some of discrete,flow,limit"),
    "eps": (positive, "ε > 0, inside the root"),
    "epsilons": (epsilons, "two or more, each above 0"),
    "b": (fraction, "decay of RMSProp and Adam, in (0, 1)"),
    "lr": (positive, "learning rate > 0"),
    "momentum": (below_one, "of the discrete form alone, in [0, 1); the theorem has none"),
    "steps": (count, "discrete steps with all samples, from 1 on"),
    "runs": (count, "initialisations, from 1 on"),
    "seeds": (count, "initialisations, the same for all optimizers, from 1 on"),
    "radii": (radii, "lengths of the starts, each above 0"),
    "starts": (count, "starts of each length, from 1 on"),
    "model": (model_name, "neuron, linear or mlp:WIDTH[,WIDTH...]"),
    "slope": (share, "slope of the leaky ReLU below 0, in [0, 1]; 0 is ReLU"),
    "width": (cnn_width, "channels, channels, hidden units; the paper's are 32,64,1024"),
    "data": (filled, ".npz with x (N, d), y (N,), or .csv, label last"),
    "images": (filled, "MNIST as Keras' .npz or as a folder of IDX files, in place of the subset in data/"),
    "constant": (None, "append a feature of ones to the data"),
    "train": (count, "the first so many training images (1000, with --limit 200)"),
    "test": (count, "the first so many test images"),
    "flow": (
        None,
        "after the steps go on with the flow (Euler, then Runge-Kutta-Chebyshev) to log L < -1000",
    ),
    "limit": (
        None,
        "go on from the flow, at log L < -60 or its end, by the margin flow towards a KKT point: about a "
        "quarter of an hour for a run on a core",
    ),
    "residual": (positive, "KKT residual at which --limit ends"),
    "seed": (whole, "whole number from 0 on: initial w, and data that are drawn"),
    "jobs": (count, "processes, from 1 on (the machine's cores)"),
    "dask": (filled, "tcp://HOST:PORT of a Dask cluster that does the runs, in place of processes"),
    "fresh": (None, "ignore checkpoints and finished runs of an earlier start"),
}
METAVARS = {"data": "FILE", "images": "FILE-OR-FOLDER", "dask": "ADDRESS"}


class Parser(argparse.ArgumentParser):
    """No abbreviations, and errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        raise ValueError(message)


def parameters(measure):
    """The parameters of a study and their defaults; `**settings` are those of the file's function `study`."""
    found = dict(inspect.signature(measure).parameters)
    if "settings" in found:
        del found["settings"]
        found = {**inspect.signature(inspect.getmodule(measure).study).parameters, **found}
    return {name: parameter.default for name, parameter in found.items()}


def parser():
    top = Parser(description="The studies: python experiments.py STUDY [flags].")
    studies = top.add_subparsers(dest="study", required=True, metavar="{" + ",".join(STUDIES) + "}")
    for study, module in STUDIES.items():
        known = parameters(measure_of(study))
        title, *text = inspect.getdoc(measure_of(study)).split("\n\n")
        examples = [k for k, part in enumerate(text) if part.startswith("example:")]
        described = text[: examples[0]] if examples else []
        files = f"Prints a table, writes OUT/{study}.json and OUT/{study}.png."
        sub = studies.add_parser(
            study,
            help=title.rstrip(".").replace("%", "%%"),
            description="\n\n".join([*(described or [title]), files]),
            epilog=text[examples[0]] if examples else f"example: python experiments.py {study}",
        )
        sub.set_defaults(optimizers=list(CONDITIONERS))
        for name in FLAGS:
            if name in known:
                add_flag(sub, module, name, known[name], known.get("optimizers"))
        shown = "folder for the result files (%(default)s)"
        sub.add_argument("--out", type=filled, default="results", help=shown)
    return top


def add_flag(sub, module, name, default, optimizers):
    """The flag of a parameter. Its help ends with its default in brackets, unless that is None."""
    type, text = FLAGS[name]
    flag = "--data" if name == "images" else f"--{name}"
    if type is None:
        sub.add_argument(flag, action="store_true", help=text)
        return
    how = {"choices": list(LOSSES)} if name == "loss" else {"metavar": METAVARS.get(name)}
    if name == "optimizers":
        default = list(default or CONDITIONERS)
    if name == "jobs":
        default = os.cpu_count() or 1
    elif name == "lr":
        shown = learning_rates(optimizers or CONDITIONERS, None, module.RATES).items()
        text += f" ({', '.join(f'{name} {rate:g}' for name, rate in shown)})"
    elif default is not None:
        default = list(default) if isinstance(default, tuple) else default
        values = default if isinstance(default, list) else [default]
        text += f" ({','.join(v if isinstance(v, str) else f'{v:g}' for v in values)})"
    sub.add_argument(flag, type=type, default=default, help=text, **how)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, heard)
    sys.exit(main())
