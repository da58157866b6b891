"""The command line: from flags to files, tables and exit statuses. The only room that prints."""

import os

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"):
    os.environ[name] = "1"  # before NumPy is imported: numbers must not depend on the machine's cores

import shutil
import sys
import time

import experiments
import figures
import film
import maps
import mnist
import paths
import runs
import tables
from claims import claims
from datasets import classes, read_data, read_images
from flags import parser
from solvers import NotSeparable

# ------------------------------------------------------------------------------------ the studies' commands


def direction(args):
    data = own_data(args)
    out = prepared(args)
    animation = film_of_direction(args, data) if args.film else None
    found = experiments.direction(data=data, report=Progress("direction"), **settings(args))
    x, y = found["data"].values()
    model = experiments.build_model(args.model, x.shape[1], classes(y), args.slope)
    figure = figures.direction(x, y, found["results"], model, found.pop("ways"))
    written = publish(args, out, figure, found)
    if animation:
        save = lambda path: animation.save(path, writer=film.Gif(fps=10), dpi=100)
        written.append(runs.write(out / "direction.gif", save))
    return written, tables.direction(found["data"], found["results"])


def film_of_direction(args, data):
    """The animation of --film. Adam is left out where RMSProp is shown, on whose line its own lies."""
    if args.constant:
        raise ValueError("argument --film: the film shows lines through 0, expected no --constant")
    shown = [name for name in args.optimizers if name != "adam" or "rmsprop" not in args.optimizers]
    how = {name: getattr(args, name) for name in ("runs", "model", "slope", "eps", "b", "loss", "seed")}
    found = paths.film(shown, data=data, **how)
    return film.film(**found.pop("data"), **found)


def claims_table(args):
    out = prepared(args, "claims.md")
    found = claims(report=Progress("claims"), **settings(args, "optimizers"))
    rows = found["claims"]
    written = publish(args, out, figures.claims(found["proof"]), {"claims": rows})
    page = "\n".join(tables.claims_in_markdown(rows, runs.versions())) + "\n"
    written.append(runs.write(out / "claims.md", lambda path: path.write_text(page, "utf-8")))
    return written, tables.claims(rows), int(bool(tables.failing(rows)))


def margin(args):
    return image_study(args, mnist.margin)


def epsilon(args):
    return image_study(args, mnist.epsilon)


def image_study(args, study):
    args.train = args.train or mnist.images_for(args.limit)
    images = read_images(args.data or mnist.SHIPPED, args.train, args.test)
    print(images.said)
    out = prepared(args)
    here = {"folder": out / f"{args.study}.runs", "report": Progress(args.study)}
    found = study(images=images, **here, **settings(args))
    content = {name: found[name] for name in ("results", "answers")}
    return publish(args, out, mnist.figure(found), content), mnist.table(found)


def crossover(args):
    data = own_data(args)
    out = prepared(args)
    try:
        found = experiments.crossover(data=data, report=Progress("crossover"), **settings(args))
    except NotSeparable:
        raise ValueError(f"{args.data}: no linear model without constant separates the data") from None
    figure = figures.crossover(found["results"], found["slopes"])
    return publish(args, out, figure, found), tables.crossover(found)


def starts(args):
    data = own_data(args)
    out = prepared(args)
    found = experiments.starts(data=data, report=Progress("starts"), **settings(args))
    figure = maps.starts(found["kkt_points"], found["results"], found["dial"])
    return publish(args, out, figure, found), tables.starts(found)


COMMANDS = {
    "direction": direction,
    "claims": claims_table,
    "margin": margin,
    "epsilon": epsilon,
    "crossover": crossover,
    "starts": starts,
}

# ------------------------------------------------------------------------------------ files


def own_data(args):
    """x and y of --data, if there is such a file; what was understood of it is printed."""
    if not args.data:
        return None
    x, y, said = read_data(args.data)
    print(said)
    return x, y


def config(args):
    """The flags as used, for the result files."""
    return {name: value for name, value in vars(args).items() if name not in ("study", "rates")}


def settings(args, *others):
    """The flags that a study takes: all but the files, what becomes of them, and `others`."""
    apart = {"data", "out", "film", *others}
    return {name: value for name, value in config(args).items() if name not in apart}


def prepared(args, *more):
    """The folder for the study's files, OUT/STUDY.json, OUT/STUDY.png and `more`."""
    return runs.prepare(args.out, f"{args.study}.json", f"{args.study}.png", *more)


def publish(args, out, figure, content):
    """Write OUT/STUDY.json, `content` with the config and the versions, and OUT/STUDY.png: both paths."""
    content = {"config": config(args), "versions": runs.versions()} | content
    if getattr(args, "momentum", 0):
        said = f"discrete form with momentum {args.momentum:g}"
        figure.text(0.995, 0.005, said, ha="right", va="bottom", fontsize=9, color="0.3")
    draw = lambda path: figure.savefig(path, format="png", dpi=110)
    return runs.write_results(out, args.study, content, draw)


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


def main(argv=None):
    """Run a study, by default the one that this process was asked for: its exit status.

    0, 1 if a theorem fails, or 2 after one line `error: ...` on stderr for bad input.
    """
    if argv is None:
        sys.stdout.reconfigure(errors="replace")  # a terminal without ε must not cost a result
    runs.keep_freed_memory()
    try:
        args = parser().parse_args(argv)
        args.lr = args.rates(args.optimizers, args.lr)
        written, lines, *status = COMMANDS[args.study](args)
        for line in lines:
            print(line)
        print("wrote", *written)
        return sum(status)
    except BrokenPipeError:  # whoever read the table has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("error: interrupted, no result file was touched", file=sys.stderr)
        return 130
    except (MemoryError, OverflowError) as problem:
        what = " ".join(str(problem).split()) or "out of memory"
        print("error: too large for this machine:", what, file=sys.stderr)
        return 2
    except (ValueError, OSError) as problem:
        about = getattr(problem, "filename", None)
        text = f"{about}: {problem.strerror}" if about else str(problem)
        print("error:", " ".join(text.split()), file=sys.stderr)
        return 2
