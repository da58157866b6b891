"""Mistakes are told at once: models, conditioners and arrays that would give wrong science without a word.

Each check raises ValueError with a sentence that says what is wrong and what is expected.
"""

import numbers

import numpy as np
from autograd.core import make_vjp

METHODS = ("add", "relax", "inverse_square", "inverse_square_at_0", "longest", "begin")


def check_positive(**values):
    """Whether each value is a finite number above 0."""
    for name, value in values.items():
        if not (isinstance(value, numbers.Real) and 0 < value < np.inf):
            raise ValueError(f"{name} must be a finite number above 0, not {value!r}")


def check_counts(**values):
    """Whether each value is a whole number from 1 on."""
    for name, value in values.items():
        if not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"{name} must be a whole number from 1 on, not {value!r}")


def chosen(about, names, known):
    """Some of the `known` names as a list: None is all of them, and a string is one."""
    names = list(known) if names is None else [names] if isinstance(names, str) else list(names)
    if not names or not set(names) <= set(known):
        raise ValueError(
            f"{about} must be some of {', '.join(known)}, not {', '.join(map(repr, names)) or 'none'}"
        )
    return names


def learning_rates(optimizers, lr, usual, **others):
    """A dict optimizer -> learning rate: `usual`, or what `others` have for some, where lr does not say.

    lr       None; a number for all; or a dict of some
    """
    rates = {name: others.get(name, usual) for name in optimizers}
    given = {} if lr is None else lr if isinstance(lr, dict) else dict.fromkeys(optimizers, lr)
    return rates | given


def as_parameters(model, w):
    """w as an array (..., p), p being the model's number of parameters; a list is taken as an array."""
    w = np.array(w, float) if isinstance(w, (list, tuple)) else w
    if w.shape[-1:] != (model.size,):
        raise ValueError(
            f"w must be (runs, {model.size}), a row of all parameters for each run, not {w.shape}"
        )
    return w


def as_runs(model, w, h=None):
    """w, or w and h, as arrays (runs, p), with the model's p and, for h, positive."""
    arrays = [np.asarray(a, float) for a in (w, h) if a is not None]
    for name, a in zip("wh", arrays):
        if a.ndim != 2 or a.shape[1] != model.size or len(a) != len(arrays[0]):
            asked = f"({len(arrays[0]) if name == 'h' else 'runs'}, {model.size})"
            raise ValueError(f"{name} must be {asked}, a row of all parameters for each run, not {a.shape}")
    if h is not None and not (arrays[1] > 0).all():
        raise ValueError("h must be positive in every component")
    return arrays[0] if h is None else arrays


def check_separates(q):
    """Whether the margins q (runs, N) of every run are positive."""
    for run in np.flatnonzero(~(q.min(-1) > 0))[:1]:
        least = f"the least margin of run {run} is {q[run].min():.3g}"
        raise ValueError(
            f"w must separate the data, but {least}; keep the runs whose margins are all above 0"
        )


def check_alone(about, alone, together):
    """Whether the first run's result is the same without the others."""
    off = np.abs(alone - together[:1]).max() if np.shape(alone) == (1, *together.shape[1:]) else np.inf
    if off > 1e-3 * np.abs(together).max():
        raise ValueError(f"{about} mixes the runs: one depends on the others (is an axis=-1 missing?)")


def check_model(model, x, outputs):
    """Whether Φ fits x (N, d) and `outputs` (1 or K), and is homogeneous of the degree that it states.

    At two random w and three samples: Φ(2w, x) = 2^D Φ(w, x), Euler's identity <w, ∂Φ> = D Φ, and Φ of one w
    does not depend on the other.
    """
    about = type(model).__name__
    if isinstance(model, type):
        raise ValueError(f"the model must be an object, not the class: {model.__name__}(...)")
    for name in ("size", "degree"):
        if not isinstance(getattr(model, name, None), (int, np.integer)) or getattr(model, name) < 1:
            raise ValueError(f"{about} must have a whole number `{name}`, not {getattr(model, name, None)}")
    x = x[:3]
    if getattr(model, "sizes", x.shape[1:])[0] != x.shape[1]:
        raise ValueError(f"{about} takes {model.sizes[0]} features, but the data have {x.shape[1]}")
    w = np.random.default_rng(0).normal(size=(2, model.size))
    try:
        backward, phi = make_vjp(lambda w: model(w, x), w)
        slope = (w * backward(phi)).sum()
    except Exception as problem:
        raise ValueError(
            f"{about} cannot be evaluated and differentiated at w {w.shape} and x {x.shape}: {problem} "
            "(the features must fit the model, and its functions be those of autograd.numpy)"
        ) from problem
    shape = (2, len(x)) if outputs == 1 else (2, len(x), outputs)
    if np.shape(phi) != shape:
        asked = f"{shape} for 2 runs, {len(x)} samples and these labels"
        raise ValueError(f"{about} must return {asked}, not {np.shape(phi)}")
    size, tolerance = np.abs(phi).max(), 1e-3 if x.dtype == np.float32 else 1e-6
    if not np.isfinite(size):
        raise ValueError(f"{about} must be finite, but its outputs at a random w are not")
    check_alone(about, model(w[:1], x), phi)
    D = model.degree
    doubled = np.abs(model(2 * w, x) - 2.0**D * phi).max()
    if doubled > tolerance * 2.0**D * size:
        off = f"Φ(2w) differs from 2^{D} Φ(w) by {doubled / size:.2g} times Φ"
        raise ValueError(
            f"{about} is not homogeneous of degree {D}: {off} (a constant, a bias, another degree?)"
        )
    euler = np.abs(slope - D * (phi * phi).sum())
    if euler > tolerance * D * (phi * phi).sum():
        raise ValueError(
            f"{about} breaks Euler's identity <w, ∂Φ> = {D} Φ: autograd does not see all of it "
            "(are its functions those of autograd.numpy?)"
        )


def check_conditioner(conditioner, size=3):
    """Whether an object can stand as a conditioner: its methods are there and fit each other.

    At some g² (2, size), and an S that comes of such: h^-2 is positive, also at S = 0, and no less for a
    larger S; `relax` agrees with `add` to first order; `longest` is a time in which h^-2 changes as little as
    it should.
    """
    if isinstance(conditioner, type):
        raise ValueError(f"the conditioner must be an object, not the class: {conditioner.__name__}()")
    about = type(conditioner).__name__
    for method in METHODS:
        if not callable(getattr(conditioner, method, None)):
            raise ValueError(f"{about} is no conditioner, it lacks the method {method}; subclass Conditioner")
    first, g2 = np.random.default_rng(0).uniform(0.4, 3, (2, 2, size))
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            S = conditioner.add(conditioner.add(conditioner.begin(g2), first), g2)
            check_inverse_square(conditioner, about, S, g2)
            for kind, old, new in (("a gradient", 0 * S, g2), ("forgetting", S, 0 * g2)):
                check_growth(conditioner, about, kind, old, new)
            for new in (g2, 0 * g2):
                check_longest(conditioner, about, S, new)
    except (TypeError, AttributeError, IndexError) as problem:
        raise ValueError(f"{about} fails at S and g² of shape {g2.shape}: {problem}") from problem


def check_inverse_square(conditioner, about, S, g2):
    before, after = conditioner.inverse_square(S, 5.0), conditioner.inverse_square(2 * S, 5.0)
    if np.shape(before) != g2.shape or not (np.isfinite(before) & (before > 0)).all():
        raise ValueError(
            f"{about}.inverse_square must be finite, above 0 and as (runs, p): it is h^-2, not h"
        )
    check_alone(f"{about}.inverse_square", conditioner.inverse_square(S[:1], 5.0), before)
    if (after < before).any():
        raise ValueError(f"{about}.inverse_square must not fall as S grows: it is h^-2, not h or h²")
    at_0 = conditioner.inverse_square_at_0(0 * g2)
    if not (np.isfinite(at_0) & (at_0 > 0)).all():
        raise ValueError(
            f"{about}.inverse_square must be finite and above 0 at S = 0 too: is ε missing? "
            "(inverse_square_at_0 is its limit at t = 0)"
        )


def check_growth(conditioner, about, kind, old, new):
    """Whether `relax` agrees with `add` to first order, from S = `old` with g² = `new`."""
    dt, S = 1e-6, old.copy()
    slow = (conditioner.relax(S, new, np.log(new), np.log(dt)) - old) / dt
    sudden = conditioner.add(S, new) - old
    if np.shape(sudden) != S.shape or np.shape(slow) != S.shape:
        raise ValueError(f"{about}.add and {about}.relax must return S as (runs, p)")
    if (S != old).any():
        raise ValueError(f"{about}.add and {about}.relax must return a new S, and not change it in place")
    check_alone(f"{about}.add", conditioner.add(S[:1], new[:1]), sudden + old)
    # what forgets at the rate 1 - b in time forgets 1 - e^-(1-b) at once: up to 1.6 times less
    low, high = (0.99, 1.01) if kind == "a gradient" else (0.5, 2)
    near = (np.abs(sudden) < 1e-12) & (np.abs(slow) < 1e-3) | (sudden * slow > 0)
    ratio = np.where(sudden == 0, 1, slow / sudden)
    if not (near & (low <= ratio) & (ratio <= high)).all():
        how = f"{sudden.ravel()[0]:.3g} in a step, at the rate {slow.ravel()[0]:.3g} in time"
        raise ValueError(f"{about}.relax must agree with add to first order; {kind} changes S by {how}")


def check_longest(conditioner, about, S, g2):
    """Whether h^-2 changes by no more than a tenth in the time that `longest` gives for that."""
    longest = conditioner.longest(S, 5.0, g2, np.log(g2), 0.1)
    if np.shape(longest) not in (g2.shape, (len(S), 1)):
        raise ValueError(f"{about}.longest must be (runs, p) or (runs, 1), not {np.shape(longest)}")
    log_dt = np.minimum(longest.min(-1, keepdims=True), 30.0)
    later = conditioner.relax(S, g2, np.log(g2), log_dt)
    change = conditioner.inverse_square(later, 5 + np.exp(log_dt)) / conditioner.inverse_square(S, 5.0) - 1
    if not (np.abs(change) < 0.13).all():  # Adam's is of first order only
        raise ValueError(
            f"{about}.longest must give a time in which h^-2 changes by no more than it may; "
            "longest = Conditioner.longest finds it by bisection"
        )
