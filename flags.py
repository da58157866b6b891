"""The flags of all studies: their types, ranges, defaults and help."""

import argparse
import math
import os

import experiments
import mnist
from losses import LOSSES
from optimizers import CONDITIONERS


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


def some_of(*names):
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
        experiments.build_model(text, 1, 1)
    except ValueError:
        check(False, "neuron, linear or mlp:WIDTH[,WIDTH...]", text)
    return text


class Parser(argparse.ArgumentParser):
    """No abbreviations, and errors in one line."""

    def __init__(self, **kwargs):
        super().__init__(allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter, **kwargs)

    def error(self, message):
        raise ValueError(message)


def parser():
    top = Parser(description="The studies: python experiments.py STUDY [flags].")
    studies = top.add_subparsers(dest="study", required=True, metavar="STUDY")

    sub = studies.add_parser(
        "direction",
        help="the directions of h_∞ and the margins of many initialisations on a 2-D data set",
        description="""\
The slides' "Directions of h_∞": every optimizer from many initialisations on a small data set, as the
discrete update, as the flow (until log L <= -50) and in the limit of the flow, a KKT point of the max-margin
problem. It is certified, at kinks of a network with Clarke's subdifferential, and compared with a predicted
one. With several hidden units there are many KKT points: the predicted one is then the one found from where
the flow stopped, not a promise. RMSProp's and Adam's h_∞ is isotropic, AdaGrad's is not.
Prints a table, writes OUT/direction.json and OUT/direction.png.""",
        epilog="example: python experiments.py direction --data points.csv --model mlp:8 --runs 20",
    )
    common(sub, "exp", experiments.rates)
    forms = list(experiments.FORMS)
    flag(sub, "forms", some_of(*forms), forms, "some of discrete,flow,limit (all)")
    flag(sub, "runs", count, 100, "initialisations, from 1 on (%(default)s)")
    flag(sub, "steps", count, 5000, "discrete steps, from 1 on (%(default)s)")
    flag(sub, "momentum", below_one, 0.0, MOMENTUM)
    flag(sub, "model", model_name, "neuron", "neuron, linear or mlp:WIDTH[,WIDTH...] (%(default)s)")
    flag(sub, "slope", share, 0.5, "slope of the leaky ReLU below 0, in [0, 1]; 0 is ReLU (%(default)s)")
    flag(sub, "data", filled, None, f"{TABLE} (the authors' data)", metavar="FILE")
    sub.add_argument("--constant", action="store_true", help="append a feature of ones to the data")
    shown = "write OUT/direction.gif too: a neuron's decision lines turning to the predicted ones"
    sub.add_argument("--film", action="store_true", help=shown)

    sub = studies.add_parser(
        "claims",
        help="every statement of the slides that a computer can check, as a table of claims",
        description="""\
Measures every checkable statement of the slides on the authors' data, for all optimizers and both losses.
Prints a row for each, writes OUT/claims.json, OUT/claims.png and the rows as a page, OUT/claims.md. Exits 1
if a theorem fails. It takes about a minute on two cores. The bounds are meant for the default flags: with a
small --lr, say, the finite number of steps may not be enough.""",
        epilog="example: python experiments.py claims --seed 3",
    )
    common(sub, None, experiments.rates)
    flag(sub, "runs", count, 100, "initialisations, from 1 on (%(default)s)")

    sub = studies.add_parser(
        "margin",
        help="margins and accuracies of all optimizers on MNIST with the four-layer CNN",
        description="""\
The slides' "Observation of Margin": full-batch training of the four-layer CNN on MNIST with every optimizer
from the same initialisations. Prints a table and whether RMSProp's and Adam's margin and test accuracy exceed
AdaGrad's, at the last step and at the same training loss. Writes OUT/margin.json and OUT/margin.png;
checkpoints in OUT/margin.runs. Killed and started again it goes on from the last checkpoint. It takes about
two minutes on two cores.""",
        epilog="example: python experiments.py margin --optimizers adagrad,rmsprop --seeds 1 --steps 100",
    )
    image_flags(sub, tuple(CONDITIONERS), 400)

    sub = studies.add_parser(
        "epsilon",
        help="the effect of ε on margin and accuracy on MNIST with the four-layer CNN",
        description="""\
The slides' "Effect of ε": full-batch training of the four-layer CNN on MNIST with several ε from the same
initialisations. Prints a table and whether margin and test accuracy are larger with the largest ε than with
the smallest, at the last step and at the same training loss. Writes OUT/epsilon.json and OUT/epsilon.png;
checkpoints in OUT/epsilon.runs. Killed and started again it goes on from the last checkpoint. It takes about
four minutes on two cores.""",
        epilog="example: python experiments.py epsilon --optimizers rmsprop --epsilons 1e-7,1e-5,1e-3 "
        "--seeds 1",
    )
    image_flags(sub, ("rmsprop", "adam"), 300, eps=False)
    shown = "two or more, each above 0 (1e-6,1e-4,1e-2,1,100)"
    flag(sub, "epsilons", epsilons, [1e-6, 1e-4, 1e-2, 1.0, 100.0], shown)

    sub = studies.add_parser(
        "crossover",
        help="what ε hides: first towards the ℓ∞ max-margin direction, in the end towards the L2 one",
        description="""\
The flow of a linear model from w = 0 for several ε. While ε is small beside the squared gradients RMSProp and
Adam follow their signs, towards the ℓ∞ max-margin direction; once the gradients are small beside sqrt(ε) they
turn to the L2 one. The crossing is the last log 1/L that is nearer to ℓ∞. The smaller --lr is beside 1 - b,
the closer S follows the squared gradients, and the flow the signs.
Prints a table, writes OUT/crossover.json and OUT/crossover.png.""",
        epilog="example: python experiments.py crossover --lr 0.01 --epsilons 1e-5,1e-40,1e-80",
    )
    common(sub, "exp", experiments.flow_rates, ("rmsprop", "adam"), eps=False, seed=False)
    shown = f"two or more, from {experiments.SMALLEST_EPSILON:g} on (1e-80,1e-40,1e-20,1e-10,1e-5,1e-3)"
    flag(sub, "epsilons", epsilons, [1e-80, 1e-40, 1e-20, 1e-10, 1e-5, 1e-3], shown)
    flag(sub, "data", filled, None, f"{TABLE} (eight points in the plane)", metavar="FILE")

    sub = studies.add_parser(
        "starts",
        help="a map of the limits: where every start of a neuron ends under each optimizer",
        description="""\
The slides' "Discussions": AdaGrad is sensitive to initialization. Starts spread over spheres, in the three
parameters of a neuron, each with its certified limit under every optimizer. GD's, RMSProp's and Adam's are
the few KKT points of one problem, though not from the same starts; AdaGrad's are almost as many as its
starts. Then a dial: from AdaGrad with a small ε to one with a large ε, which is gradient descent.
Prints a table, writes OUT/starts.json and OUT/starts.png. It takes about a minute on two cores.""",
        epilog="example: python experiments.py starts --radii 1 --starts 500 --data points.csv",
    )
    common(sub, "exp", experiments.flow_rates)
    flag(sub, "radii", radii, [0.1, 1.0, 3.0], "lengths of the starts, each above 0 (0.1,1,3)")
    flag(sub, "starts", count, 2000, "starts of each length, from 1 on (%(default)s)")
    flag(sub, "data", filled, None, f"{TABLE}, in the plane (the authors' data)", metavar="FILE")
    return top


MOMENTUM = "of the discrete form alone, in [0, 1); the theorem has none (%(default)s)"
TABLE = ".npz with x (N, d), y (N,), or .csv, label last"


def flag(sub, name, type, default, help, **more):
    sub.add_argument(f"--{name}", type=type, default=default, help=help, **more)


def image_flags(sub, optimizers, steps, eps=True):
    """The flags of the studies on MNIST."""
    common(sub, "log", mnist.rates, optimizers, eps)
    flag(sub, "train", count, None, "the first so many training images (1000, with --limit 200)")
    flag(sub, "test", count, 2000, "the first so many test images (%(default)s)")
    flag(sub, "steps", count, steps, "full-batch steps, from 1 on (%(default)s)")
    flag(sub, "momentum", below_one, 0.0, MOMENTUM)
    flag(sub, "seeds", count, 3, "initialisations, the same for all optimizers (%(default)s)")
    shown = "channels, channels, hidden units (8,16,64; the paper's: 32,64,1024)"
    flag(sub, "width", cnn_width, [8, 16, 64], shown)
    shown = "MNIST as Keras' .npz or as a folder of IDX files (the subset in data/)"
    flag(sub, "data", filled, None, shown, metavar="FILE-OR-FOLDER")
    shown = "after the steps go on with the flow (Euler, later Runge-Kutta-Chebyshev) to log L < -1000"
    sub.add_argument("--flow", action="store_true", help=shown)
    shown = "go on from the flow, at log L < -60 or its end, by the margin flow to a KKT point: "
    shown += "about XX minutes for a run on a core"
    sub.add_argument("--limit", action="store_true", help=shown)
    flag(sub, "residual", positive, 1e-2, "KKT residual at which --limit ends (%(default)s)")
    shown = "tcp://HOST:PORT of a Dask cluster that does the runs, in place of processes"
    flag(sub, "dask", filled, None, shown, metavar="ADDRESS")
    shown = "ignore checkpoints and finished runs of an earlier start"
    sub.add_argument("--fresh", action="store_true", help=shown)


def common(sub, loss, rates, optimizers=tuple(CONDITIONERS), eps=True, seed=True):
    """The flags that every study of optimizers shares; rates(names, lr) is a dict of learning rates."""
    names = list(CONDITIONERS)
    if loss:  # without one, a study is about all optimizers and both losses
        which = "all" if len(optimizers) == len(names) else ",".join(optimizers)
        flag(sub, "optimizers", some_of(*names), list(optimizers), f"some of {','.join(names)} ({which})")
        shown = "exponential or logistic (%(default)s)"
        sub.add_argument("--loss", choices=list(LOSSES), default=loss, help=shown)
    else:
        sub.set_defaults(optimizers=names)
    if eps:
        flag(sub, "eps", positive, 1e-5, "ε > 0, inside the root (%(default)s)")
    flag(sub, "b", fraction, 0.9, "decay of RMSProp and Adam, in (0, 1) (%(default)s)")
    shown = ", ".join(f"{name} {rate:g}" for name, rate in rates(names).items())
    flag(sub, "lr", positive, None, f"learning rate > 0 ({shown})")
    if seed:
        shown = "whole number from 0 on: initial w, and data that are drawn (%(default)s)"
        flag(sub, "seed", whole, 0, shown)
    flag(sub, "out", filled, "results", "folder for the result files (%(default)s)")
    flag(sub, "jobs", count, os.cpu_count() or 1, "processes, from 1 on (the machine's cores)")
    sub.set_defaults(rates=rates)
