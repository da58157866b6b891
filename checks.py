"""Mistakes end at once: models, conditioners and arrays that would give wrong science without a word.

Each check raises ValueError with a sentence: what is wrong and what is expected.
"""

import numbers

import numpy as np
from autograd.core import make_vjp

METHODS = ("begin", "add", "relax", "inverse_square", "inverse_square_at_0", "longest")


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


def unmasked(name, a):
    """An array, a list or a frame as an array. Raises ValueError where entries are masked or rows ragged."""
    parts = a if isinstance(a, (list, tuple)) else [a]
    if any(np.ma.is_masked(part) for part in parts):
        raise ValueError(f"{name} has masked entries, expected an array without: leave those samples out")
    try:
        return np.asarray(a)
    except ValueError:
        raise ValueError(f"{name} must be an array, with as many entries in each row") from None


def as_parameters(model, w):
    """w as an array (..., p), p being the model's number of parameters; a list is taken as an array."""
    w = unmasked("w", w).astype(float) if isinstance(w, (list, tuple, np.ma.MaskedArray)) else w
    if w.shape[-1:] != (model.size,):
        raise ValueError(f"w must be (runs, {model.size}), one row for each run, not {w.shape}")
    return w


def as_runs(model, w, h=None):
    """w, or w and h, as float arrays (runs, p), with the model's p and, for h, positive."""
    arrays = [unmasked(name, a).astype(float, copy=False) for name, a in zip("wh", (w, h)) if a is not None]
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
        least = f"the least margin of run {run} is {q[run].min() + 0.0:.3g}"  # a -0 becomes 0
        raise ValueError(f"w must separate the data, but {least}; keep the runs whose margins are above 0")


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
    about, x = type(model).__name__, x[:3]
    if isinstance(model, type):
        raise ValueError(f"the model must be an object, not the class: {model.__name__}(...)")
    for name in ("size", "degree"):
        value = getattr(model, name, None)
        if not (isinstance(value, numbers.Integral) and value >= 1):
            raise ValueError(f"{about} must have a whole number `{name}` from 1 on, not {value!r}")
    if getattr(model, "sizes", x.shape[1:])[0] != x.shape[1]:
        raise ValueError(f"{about} takes {model.sizes[0]} features, but the data have {x.shape[1]}")
    w, D = np.random.default_rng(0).normal(size=(2, model.size)), model.degree
    try:
        backward, phi = make_vjp(lambda w: model(w, x), w)
        slope = (w * backward(phi)).sum()
    except Exception as problem:
        at = f"{about} cannot be evaluated and differentiated at w {w.shape} and x {x.shape}"
        why = "the features must fit the model, and its functions be those of autograd.numpy"
        raise ValueError(f"{at}: {problem} ({why})") from problem
    shape = (2, len(x)) if outputs == 1 else (2, len(x), outputs)
    if np.shape(phi) != shape:
        asked = f"{shape} for 2 runs, {len(x)} samples and these labels"
        raise ValueError(f"{about} must return {asked}, not {np.shape(phi)}")
    size, tolerance = np.abs(phi).max(), 1e-3 if x.dtype == np.float32 else 1e-6
    if not np.isfinite(size):
        raise ValueError(f"{about} must be finite, but its outputs at a random w are not")
    check_alone(about, model(w[:1], x), phi)
    doubled = np.abs(model(2 * w, x) - 2.0**D * phi).max()
    if doubled > tolerance * 2.0**D * size:
        off = f"Φ(2w) differs from 2^{D} Φ(w) by {doubled / size:.2g} times Φ"
        raise ValueError(f"{about} is not homogeneous of degree {D}: {off} (a bias, another degree?)")
    if np.abs(slope - D * (phi * phi).sum()) > tolerance * D * (phi * phi).sum():
        why = "autograd does not see all of it (are its functions those of autograd.numpy?)"
        raise ValueError(f"{about} breaks Euler's identity <w, ∂Φ> = {D} Φ: {why}")


def check_conditioner(conditioner, size=3):
    """Whether an object can stand as a conditioner, by what it makes of two random g² (2, size).

    Its methods return the right shapes, change no S in place, mix no runs and keep nothing but in S; h^-2 is
    above 0 and does not fall as S grows; and `relax` agrees with `add` to first order.
    """
    if isinstance(conditioner, type):
        raise ValueError(f"the conditioner must be an object, not the class: {conditioner.__name__}()")
    about, g2 = type(conditioner).__name__, np.random.default_rng(0).uniform(0.4, 3, (2, size))
    for method in METHODS:
        if not callable(getattr(conditioner, method, None)):
            raise ValueError(f"{about} is no conditioner, it lacks the method {method}; subclass Conditioner")

    def result(method, shapes, *arguments):
        try:
            found = np.array(getattr(conditioner, method)(*arguments), float)
        except (TypeError, AttributeError, IndexError, ValueError) as problem:
            at = ", ".join(str(np.shape(a)) for a in arguments)
            raise ValueError(f"{about}.{method} fails at arguments of shape {at}: {problem}") from problem
        if shapes and found.shape not in shapes:
            raise ValueError(f"{about}.{method} must return shape {shapes[0]}, not {found.shape}")
        if method.startswith("inverse") and not (np.isfinite(found) & (found > 0)).all():
            raise ValueError(
                f"{about}.{method} must be h^-2, finite and above 0, also at S = 0: is ε missing?"
            )
        return found

    with np.errstate(all="ignore"):
        zero = result("begin", None, np.ones_like(g2))
        if zero.shape[:1] != (2,):
            raise ValueError(f"{about}.begin must return shape (2, ...), 2 being the runs, not {zero.shape}")
        begun = zero.copy()
        S, dt = result("add", [zero.shape], zero, g2), 1e-6
        inverse = result("inverse_square", [g2.shape], S, 5.0)
        after = result("inverse_square", [g2.shape], result("add", [zero.shape], S, 2 * g2), 5.0)
        again = result("add", [zero.shape], zero, g2), result("inverse_square", [g2.shape], S, 5.0)
        result("inverse_square_at_0", [g2.shape], 0 * g2)
        result("longest", [g2.shape, (2, 1)], S, 5.0, g2, np.log(g2), 0.1)
        relaxed = [
            (old, new, result("relax", [zero.shape], old, new, np.log(new), np.log(dt)))
            for old, new in ((zero, g2), (S, 0 * g2))
        ]
        if (zero != begun).any():
            raise ValueError(f"{about} must return a new S, and not change it in place")
        if (again[0] != S).any() or (again[1] != inverse).any():
            raise ValueError(f"{about} must keep what it remembers in S, which begin(w) begins, not in self")
        check_alone(f"{about}.add", result("add", None, zero[:1], g2[:1]), S)
        check_alone(f"{about}.inverse_square", result("inverse_square", None, S[:1], 5.0), inverse)
        if (after < inverse).any():
            raise ValueError(f"{about}.inverse_square must not fall as S grows: it is h^-2, not h or h²")
        for old, new, later in relaxed:
            sudden, slow = result("add", None, old, new) - old, (later - old) / dt
            # what forgets at the rate 1 - b in time forgets 1 - e^-(1-b) at once: up to 1.6 times less
            if not (abs(slow - sudden) <= 0.6 * abs(sudden) + 1e-6).all():
                how = f"{sudden.ravel()[0]:.3g} in a step, at the rate {slow.ravel()[0]:.3g} in time"
                raise ValueError(f"{about}.relax must agree with add to first order, but S changes by {how}")
