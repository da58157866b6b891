"""The dynamics: an optimizer is its conditioner h, and it has two clocks, the discrete update and the flow."""

import numpy as np

from minibias import norm


class GD:
    """Gradient descent, h = 1 for ever: the yardstick, with no use for ε and b.

    A conditioner carries S (runs, p), the slide's sum (discrete) or integral (flow) of squared gradients, and turns it
    into h = square^-1/2. Times are in steps; g2 = ∂L², and the flow hands over log g2 as well, since g2 underflows.

    eps      ε > 0, inside the root as on the slides; PyTorch and Keras add theirs (about 1e-8) outside it
    b        the decay in (0, 1): RMSProp's and Adam's forget at the rate e^-(1-b), common libraries at b
    Raises ValueError for eps or b out of range.
    """

    def __init__(self, eps=1e-5, b=0.9):
        if not 0 < eps < np.inf:
            raise ValueError(f"eps must be a finite number above 0, not {eps:g}")
        if not 0 < b < 1:
            raise ValueError(f"b must lie between 0 and 1, both excluded, not {b:g}")
        self.eps, self.b = eps, b

    def add(self, S, g2):
        """The slide's sum after one more gradient."""
        return S

    def relax(self, S, g2, log_g2, log_dt):
        """The slide's integral after a time dt at a constant gradient."""
        return S

    def square(self, S, t, g2):
        """h^-2 at time t; g2 matters only to a conditioner whose value at t = 0 is a limit."""
        return np.ones_like(S)

    def longest(self, S, t, g2, log_g2, fraction):
        """log of the longest dt that changes h^-2 by no more than `fraction` of itself, per coordinate."""
        return np.full_like(S, np.inf)


class AdaGrad(GD):
    """AdaGrad: S_t = S_{t-1} + g_t², h = 1 / sqrt(ε + S) (slide "Adaptive Optimizers"); h_∞ depends on the whole path."""

    def add(self, S, g2):
        return S + g2

    def relax(self, S, g2, log_g2, log_dt):
        return S + np.exp(log_dt + log_g2)

    def square(self, S, t, g2):
        return self.eps + S

    def longest(self, S, t, g2, log_g2, fraction):
        return np.log(fraction * self.square(S, t, g2)) - log_g2


class RMSProp(AdaGrad):
    """RMSProp: S_t = e^-(1-b) S_{t-1} + (1-b) g_t², h = 1 / sqrt(ε + S), so h_∞ = 1/√ε in every coordinate.

    The integral of the flow relaxes to g² at the rate 1-b, here exactly for constant g. The slide's sum is larger than
    its integral by (1-b) / (1 - e^-(1-b)), 1.05 at b = 0.9. PyTorch and Keras use b in place of e^-(1-b).
    """

    def add(self, S, g2):
        return np.exp(self.b - 1) * S + (1 - self.b) * g2

    def relax(self, S, g2, log_g2, log_dt):
        x = (self.b - 1) * np.exp(log_dt)
        return np.exp(x) * S - np.expm1(x) * g2  # expm1: 1 - e^x would be 0 where g2 is huge and dt therefore tiny

    def longest(self, S, t, g2, log_g2, fraction):
        share = fraction * self.square(S, t, g2) / np.abs(g2 - S)
        return np.where(share < 1, np.log(-np.log1p(-np.minimum(share, 1)) / (1 - self.b)), np.inf)


class Adam(RMSProp):
    """Adam without momentum: RMSProp's S divided by 1 - b^t, h = 1 / sqrt(ε + S / (1 - b^t)).

    t counts gradients from 1: the slide's t = 0 term would divide by zero. In the flow the quotient has the limit
    (1-b) / (-log b) g² at t = 0. The correction b^t and the decay e^-(1-b)t are the slide's; PyTorch has b^t in both.
    """

    def square(self, S, t, g2):
        start = (1 - self.b) / -np.log(self.b) * g2
        return self.eps + np.where(t > 0, S / -np.expm1(t * np.log(self.b)), start)

    def longest(self, S, t, g2, log_g2, fraction):
        """To first order in dt: with two different decays the quotient's change has no inverse in closed form."""
        correction = -np.expm1(t * np.log(self.b))
        decay = S / correction * np.log(self.b) * np.exp(t * np.log(self.b))
        rate = np.where(t > 0, ((1 - self.b) * (g2 - S) + decay) / correction, 0.0)
        return np.log(fraction * self.square(S, t, g2)) - np.log(np.abs(rate))


CONDITIONERS = {"gd": GD, "adagrad": AdaGrad, "rmsprop": RMSProp, "adam": Adam}


class Discrete:
    """The discrete update w(t+1) = w(t) - lr h(t) ⊙ ∂L(w(t)) of all runs at once (slide "discrete form").

    After `step()`: w, S, h (of the step just made), log_loss and u = ∂ log L at w, t steps made. A run whose next step
    would not be finite keeps its last finite state for ever: `overflow` (runs,). A run moves only while it is `alive`
    (runs,), which can be cleared from outside. With w, S and t of an earlier state it goes on from there,
    to the last bit; `gradient`, that state's (log_loss, u), saves computing it again.
    """

    def __init__(self, problem, conditioner, w, lr, S=None, t=0, gradient=None):
        if not 0 < lr < np.inf:
            raise ValueError(f"lr must be a finite number above 0, not {lr:g}")
        self.problem, self.conditioner, self.lr = problem, conditioner, lr
        self.t, self.w, self.S = t, np.array(w, float), np.zeros(np.shape(w)) if S is None else S
        with np.errstate(all="ignore"):
            self.log_loss, self.u = problem.gradient(self.w) if gradient is None else gradient
            self.h = 1 / np.sqrt(conditioner.square(self.S, t, self.S))
        self.alive = np.isfinite(self.log_loss) & np.isfinite(self.u).all(-1)
        self.overflow = ~self.alive

    def step(self):
        with np.errstate(all="ignore"):
            self.t += 1
            g = np.exp(self.log_loss)[:, None] * self.u
            S = self.conditioner.add(self.S, g * g)
            h = 1 / np.sqrt(self.conditioner.square(S, self.t, g * g))
            self.move(self.w - self.lr * h * g, S=S, h=h)

    def move(self, w, **state):
        """Go to w with the new state, a dict of names and arrays (runs, ...): those runs that stay finite."""
        log_loss, u = self.problem.gradient(w)
        state.update(w=w, log_loss=log_loss, u=u)
        if not (self.alive.all() and np.isfinite((u + state["S"]).sum())):
            finite = [np.isfinite(new).reshape(len(w), -1).all(-1) for new in state.values()]
            self.overflow |= self.alive & ~np.all(finite, axis=0)
            self.alive &= ~self.overflow
            for name, new in state.items():
                state[name] = np.where(self.alive.reshape(-1, *[1] * (new.ndim - 1)), new, getattr(self, name))
        self.__dict__.update(state)


class Flow(Discrete):
    """The flow dw/dt = -lr h ⊙ ∂L by explicit Euler with steps that follow the loss (slide "continuous form": lr = 1).

    Each run takes the longest dt that changes log L by at most c to first order, ||w|| by at most c max(1, ||w||), and
    any h_j^-2 by at most a fraction 4c, or 1/2, of itself. Time is carried as log_t (runs,): dt grows like 1 / L.
    After `step()`, h is that of the new time. With w, S and log_t of an earlier state, a discrete one's too, it goes on
    from there.
    """

    def __init__(self, problem, conditioner, w, lr=1.0, c=0.1, S=None, log_t=-np.inf, gradient=None):
        super().__init__(problem, conditioner, w, lr, S, 0, gradient)
        self.c, self.log_t = c, np.full(len(self.w), log_t)
        with np.errstate(all="ignore"):
            g2 = (np.exp(self.log_loss)[:, None] * self.u) ** 2
            h = 1 / np.sqrt(self.conditioner.square(self.S, np.exp(self.log_t)[:, None], g2))
        self.overflow |= ~(h > 0).all(-1)
        self.alive &= ~self.overflow
        self.h = np.where(self.alive[:, None], h, self.h)

    def step(self):
        with np.errstate(all="ignore"):
            t = np.exp(self.log_t)[:, None]
            log_g2 = 2 * (self.log_loss[:, None] + np.log(np.abs(self.u)))
            g2, velocity = np.exp(log_g2), self.h * self.u
            reach = self.c * np.maximum(1, norm(self.w))
            log_advance = np.log(np.minimum(self.c / (velocity * self.u).sum(-1), reach / norm(velocity)))
            log_rate = np.log(self.lr) + self.log_loss
            longest = self.conditioner.longest(self.S, t, g2, log_g2, min(4 * self.c, 0.5)).min(-1)
            log_dt = np.minimum(log_advance - log_rate, longest)
            S = self.conditioner.relax(self.S, g2, log_g2, log_dt[:, None])
            w = self.w - np.exp(log_dt + log_rate)[:, None] * velocity
            log_t = np.logaddexp(self.log_t, log_dt)
            h = 1 / np.sqrt(self.conditioner.square(S, np.exp(log_t)[:, None], g2))
            self.move(w, S=S, h=h, log_t=log_t)


class LateFlow(Flow):
    """The flow with h held at its limit, for any number of parameters: Runge-Kutta-Chebyshev steps of many stages.

    An explicit Euler step must be shorter than 2 over the largest curvature, which the samples of nearly least margin make steep. s
    stages, one gradient each, arranged by Chebyshev polynomials, are stable over about s² times that, to the same first order
    (van der Houwen and Sommeijer, 1980; damping 0.05). A step is to add the share `reach` (runs,) to log 1/L, `growth` at most, in the time
    τ = ∫ lr L dt, in which dw/dτ = -h ⊙ ∂ log L. A run whose log L would rise stays where it was and tries half of the step; where it
    falls by less than a quarter of that, the next step has more stages: `steep` (runs,) is their square for a fall of one. `overflow` says that no
    step, however short, falls any more. Needs log L < 0.
    """

    damping = 0.05

    def __init__(self, problem, conditioner, w, lr=1.0, growth=0.05, S=None, log_t=-np.inf, gradient=None, steep=64.0, reach=1.0):
        super().__init__(problem, conditioner, w, lr, S=S, log_t=log_t, gradient=gradient)
        self.growth, self.stages = growth, 0
        self.steep, self.reach = np.full(len(self.w), steep), np.minimum(np.full(len(self.w), reach), growth)

    def step(self):
        with np.errstate(all="ignore"):
            fall = -self.reach * self.log_loss
            tau = (fall / (self.h * self.u * self.u).sum(-1))[:, None]
            self.stages = s = int(max(2, np.sqrt((self.steep * fall * self.alive).max()))) + 1
            w_0 = 1 + self.damping / s**2
            T, slope = [1.0, w_0], [0.0, 1.0]  # Chebyshev polynomials and their derivatives at w_0
            for _ in range(s - 1):
                slope.append(2 * T[-1] + 2 * w_0 * slope[-1] - slope[-2])
                T.append(2 * w_0 * T[-1] - T[-2])
            w_1 = T[s] / slope[s]
            before, w = self.w, self.w - w_1 / w_0 * tau * self.h * self.u
            for j in range(2, s + 1):
                pull = self.h * self.problem.gradient(w)[1]
                now = 2 * w_0 * w - 2 * w_1 * tau * pull
                before, w = w, (T[j - 1] * now - T[j - 2] * before) / T[j]
            log_loss, u = self.problem.gradient(w)
            fell = self.log_loss - log_loss
            good = self.alive & (fell > 0)
            # at a kink of Φ neither more stages nor shorter steps make a full fall, so that both have an end
            self.steep = np.minimum(self.steep * np.where(fell > fall / 4, 0.97, 1.5), 2000)
            self.reach = np.where(good, np.minimum(1.2 * self.reach, self.growth), np.where(self.alive, self.reach / 2, self.reach))
            self.overflow |= self.reach < 1e-9
            self.alive &= ~self.overflow
            # dt = dτ / (lr L), with log L falling evenly along the step
            log_dt = np.log(tau[:, 0]) - np.log(self.lr) - log_loss + np.log(-np.expm1(-fell) / fell)
            self.log_t = np.where(good, np.logaddexp(self.log_t, log_dt), self.log_t)
            self.log_loss = np.where(good, log_loss, self.log_loss)
            self.w, self.u = np.where(good[:, None], w, self.w), np.where(good[:, None], u, self.u)


def descend(problem, conditioner, w, lr, steps, record=()):
    """The discrete update for `steps` steps, and snapshots [(t, w, h, log_loss)] after the steps in `record`."""
    state, snapshots, record = Discrete(problem, conditioner, w, lr), [], set(record)
    for _ in range(steps):
        state.step()
        if state.t in record:
            snapshots.append((state.t, state.w, state.h, state.log_loss))
    return state, snapshots


SEPARATES_WITHIN = 20_000  # steps of the flow; the default study needs about 700


def follow(problem, conditioner, w, levels=(-25.0, -50.0), lr=1.0, c=0.1):
    """The flow until every run's log L is at the last of the falling `levels`, and (w, h) where it passed each of them.

    Returns the state, w and h of shape (levels, runs, p) and `reached` (levels, runs). A run that has not separated
    the data after 20,000 steps stops, one that is not at the last level after five times as many too.
    """
    state = Flow(problem, conditioner, w, lr, c)
    passed_w, passed_h = (np.repeat(a[None], len(levels), 0) for a in (state.w, state.h))
    reached = np.zeros((len(levels), len(state.w)), bool)
    for steps in range(5 * SEPARATES_WITHIN):
        for k, level in enumerate(levels):
            new = ~reached[k] & (state.log_loss <= level)
            passed_w[k, new], passed_h[k, new] = state.w[new], state.h[new]
            reached[k] |= new
        state.alive &= ~reached[-1]
        if steps == SEPARATES_WITHIN:
            state.alive &= problem.margins(state.w).min(-1) > 0
        if not state.alive.any():
            break
        state.step()
    return state, passed_w, passed_h, reached


def ascend(problem, h, w, target=1e13, growth=4.0, iterations=100):
    """The flow with h held at its limit, to log 1/L >= target by implicit Euler in the time of φ = -log log(1/L).

    Each step solves w_new = w - Δ h ⊙ ∂φ(w_new), that is, minimises φ(w_new) + ||h^-1/2 (w_new - w)||² / (2 Δ), by
    Newton's method, with Δ proportional to ||h^-1/2 w||² such that log 1/L grows about `growth`-fold.
    w, h (runs, p), L(w) < 1; returns w and `solved` (runs,): whether Newton's method converged in every step.
    """
    L = problem.model.degree
    ratio = growth ** (1 / L)
    w, solved = np.array(w), np.ones(len(w), bool)
    with np.errstate(all="ignore"):
        while True:
            todo = np.flatnonzero(solved & (problem.gradient(w)[0] > -target))
            if not len(todo):
                return w, solved
            at = w[todo]
            stretch = np.sqrt(h[todo] * ratio * (ratio - 1) / L) * norm(at / np.sqrt(h[todo]))[:, None]
            w[todo], solved[todo] = implicit_step(problem, at, stretch, ratio, iterations)


def implicit_step(problem, w, stretch, ratio, iterations):
    """The minimiser v of F(v) = φ(stretch ⊙ v) + ||v - v_0||² / 2 for every run, as w = stretch ⊙ v, and whether it was found.

    At large log 1/L, F is nearly piecewise smooth, with a crease wherever the sample of least margin changes. A step that
    overshoots a crease is therefore cut back by bisection of the slope along it, which ends on the crease, and not by halving
    until F falls, which would bounce from side to side.
    """
    v0 = w / stretch
    v, found = ratio * v0, np.zeros(len(w), bool)

    def slope(v, rows):
        """log L, ∂ φ(stretch ⊙ v) and ∂F for these rows; ∂F is NaN where φ does not exist, L >= 1."""
        log_loss, u = problem.gradient(stretch[rows] * v)
        log_loss = np.where(log_loss < 0, log_loss, np.nan)[:, None]
        du = stretch[rows] * u / -log_loss
        return log_loss, du, du + v - v0[rows]

    for _ in range(iterations):
        rows = np.flatnonzero(~found)
        if not len(rows):
            break
        here, D = v[rows], stretch[rows]
        log_loss, du, gradient = slope(here, rows)
        curve = problem.hessian(D * here) * D[:, :, None] * D[:, None, :] / -log_loss[:, :, None]
        curve += du[:, :, None] * du[:, None, :] + np.eye(w.shape[-1])
        broken = ~np.isfinite(curve).all((1, 2))
        values, vectors = np.linalg.eigh(np.where(broken[:, None, None], np.eye(w.shape[-1]), curve))
        step = np.einsum("rji,rj->ri", vectors, -gradient) / np.maximum(np.abs(values), 1e-3)
        step = np.einsum("rij,rj->ri", vectors, step)
        short, long = np.zeros(len(rows)), np.ones(len(rows))
        beyond = np.flatnonzero(~((slope(here + step, rows)[2] * step).sum(-1) <= 1e-3 * np.abs(gradient * step).sum(-1)))
        for _ in range(50 if len(beyond) else 0):
            middle = (short[beyond] + long[beyond]) / 2
            rising = ~((slope(here[beyond] + middle[:, None] * step[beyond], rows[beyond])[2] * step[beyond]).sum(-1) <= 0)
            long[beyond], short[beyond] = np.where(rising, middle, long[beyond]), np.where(rising, short[beyond], middle)
        length = np.where(long == 1, 1.0, (short + long) / 2)
        v[rows] = np.where(broken[:, None], here, here + length[:, None] * step)
        found[rows] = ~broken & (norm(step) <= 1e-11 * norm(here))
    return stretch * v, found
