"""The tables that the studies print: results in, lines out."""

import math
import re

import numpy as np

from limits import AT_REST, CERTIFIED, H_SETTLED, LATE
from minibias import angle_to_ones
from optimizers import CONDITIONERS, SEPARATES_WITHIN

EXPLAINED = {
    "overflow": "overflow, float64 cannot hold the loss or h at the next step; "
    "smaller data or a smaller --lr help",
    "still turning": f"still turning, no limit with a KKT residual of {CERTIFIED:g} or less was reached",
    "not separated": "not separated, the end point misclassifies some sample",
    "h still moving": f"h still moving, by over {H_SETTLED:g} of itself since log L = {AT_REST / 2:g}, or "
    f"the flow did not come to {AT_REST:g} (for limits {LATE:g})",
    "not finished": f"not finished in {5 * SEPARATES_WITHIN} steps; features of one scale help",
}


def reason(status, r, mine, x):
    """What stopped these runs of a result on the data x, as far as the result can tell."""
    started = (r["w"] == r["w0"]).all(-1) & mine  # and never moved
    if status in ("overflow", "not separated") and started.any() and abs(x).max() > 1e3:
        return (
            f"{status}, {started.sum()} at the start: float64 cannot follow the loss of data as large as "
            f"{abs(x).max():.0e}; divide the features by that"
        )
    if status == "not separated" and not x.any(-1).all():
        zero = np.flatnonzero(~x.any(-1))[0] + 1
        return f"not separated, since sample {zero} is all zeros: its margin is 0 for every w"
    if status == "not separated" and r["form"] != "discrete" and started.any():
        return f"{EXPLAINED[status]}; {started.sum()} have no gradient at their start, another may do better"
    if status == "still turning":
        moved = r["last_move"][mine].astype(float)
        stuck = np.isnan(moved).sum()  # for them every step failed
        said = f" (by at most {np.fmax.reduce(moved):.0e} in the last step)" if stuck < len(moved) else ""
        said += f"; {stuck} could not take a single step, for rounding" if stuck else ""
        return EXPLAINED[status] + said
    return EXPLAINED[status]


def direction(data, results):
    """A row for each optimizer and form, then what the limits say, then what went wrong."""
    yield (
        f"{'optimizer':9} {'form':8} {'separated':>9} {'angle of h to (1, ..., 1)':>25}"
        f" {'normalised margin':>31}  seconds"
    )
    yield (
        f"{'':9} {'':8} {'runs':>9} {'median':>12} {'largest':>12}"
        f" {'median':>9} {'smallest':>10} {'largest':>10}"
    )
    for r in results:
        angle, margin = angle_to_ones(r["h_inf"]), r["margin"]
        yield (
            f"{r['optimizer']:9} {r['form']:8} {r['separated'].sum():>5}/{len(margin):<3} "
            f"{np.median(angle):>11.2g}° {angle.max():>11.2g}° "
            f"{np.median(margin):>9.4g} {margin.min():>10.4g} {margin.max():>10.4g} {r['seconds']:>8.2f}"
        )
    for r in results:
        ok = r["status"] == "ok"
        if r["form"] == "limit" and ok.any():
            yield from limit(r, ok)
    for r in results:
        about = f"{r['optimizer']}, {r['form']}:"
        for status in sorted(set(r["status"]) - {"ok"}):
            mine = r["status"] == status
            yield f"{about} {mine.sum()} of {len(mine)} runs: {reason(status, r, mine, data['x'])}"
        still = (r["status"] == "ok") & (r["w"] == r["w0"]).all(-1)
        if r["form"] == "flow" and still.any():
            yield f"{about} {still.sum()} of {len(still)} runs begin below log L = {AT_REST:g}"
    if not any(r["separated"].any() for r in results):
        yield "no run separates the data, so the theorem says nothing about them"


def limit(r, ok):
    """What the limits in a result say of the runs that are `ok`, which have a certified one."""
    numbers = lambda *names: [r[name][ok].astype(float) for name in names]
    error, kinks, far = numbers("direction_error", "kinks", "log10_log_inverse_loss")
    residuals = "kkt_residual", "kkt_residual_unweighted", "kkt_residual_one_gradient"
    residual, unweighted, one_gradient = numbers(*residuals)
    optimizer, predicted = r["optimizer"], np.isfinite(error)
    said = f"direction error at most {error[predicted].max():.1e}" if predicted.any() else "no prediction"
    if 0 < predicted.sum() < len(error):
        said += f" ({predicted.sum()} of {len(error)} predicted)"
    if error[predicted].max(initial=0) > 1e-3:
        said += " (another KKT point, of which a network has many)"
    yield (
        f"{optimizer}, limit: {said}, KKT residual at most {residual.max():.1e} with h_∞, "
        f"median {np.median(unweighted):.1e} with h = 1"
    )
    if kinks.any():
        yield (
            f"{optimizer}, limit: {np.count_nonzero(kinks)} of {len(kinks)} runs on kinks, where one "
            f"gradient per sample leaves a residual of {np.median(one_gradient[kinks > 0]):.1e}, median"
        )
    yield f"{optimizer}, limit: reached at log 1/L up to 10^{far.max():.0f}"


def claims(rows):
    for row in rows:
        verdict, measured = judged(row)
        found = f"{measured:>10} {row['relation']} {row['bound']:<7g}"
        yield f"{verdict:9} {row['id']:34} {found} {row['statement']}"
    yield summary_of_claims(rows)
    if failing(rows):
        why = "with others, finite steps may not be enough for one"
        yield f"the bounds are meant for the default flags; {why}"


def judged(row):
    """The verdict on a claim and its measured value, in words."""
    verdict = "holds" if row["holds"] else "FAILS" if row["kind"] == "theorem" else "not shown"
    return verdict, "undefined" if row["measured"] is None else f"{row['measured']:.3g}"


def failing(rows):
    """The theorems that fail, by their ids."""
    return [row["id"] for row in rows if row["kind"] == "theorem" and not row["holds"]]


def summary_of_claims(rows):
    failed = failing(rows)
    hold = sum(row["holds"] for row in rows)
    fail = f"{len(failed)} theorem{'s' * (len(failed) != 1)} fail"
    return " ".join([f"{len(rows)} claims, {hold} hold, {fail}", *failed])


def claims_in_markdown(rows, versions):
    """The claims as the table of docs/claims.md, the same statement about several optimizers together."""
    about = lambda row: re.split(rf"\.(?:{'|'.join(CONDITIONERS)})\b", row["id"])[0]
    order = list(dict.fromkeys(map(about, rows)))
    yield "<!-- the table: from here on this page is results/claims.md -->"
    made = ", ".join(f"{name} {version}" for name, version in versions.items() if name != "matplotlib")
    yield f"{summary_of_claims(rows)} ({made}):"
    yield ""
    yield "| claim | from | what is measured | measured | bound | verdict |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for row in sorted(rows, key=lambda row: order.index(about(row))):
        verdict, measured = judged(row)
        bound = f"{'≤' if row['relation'] == '<=' else '≥'} {row['bound']:g}"
        source = row["slide"].removeprefix("Related Work: ")
        cells = f"`{row['id']}`", source, row["statement"], measured, bound, verdict
        yield "| " + " | ".join(cell.replace("|", r"\|").replace("<", "&lt;") for cell in cells) + " |"


def crossover(found):
    linf, l2, results = found["predictions"]["linf"], found["predictions"]["l2"], found["results"]
    yield f"ℓ∞ max margin {linf['margin']:.6g}, duality gap {linf['gap']:.1e}"
    yield f"L2 max margin {l2['margin']:.6g}, KKT residual {l2['kkt_residual']:.1e}"
    yield f"distance between the two directions {found['predictions']['distance']:.4f}"
    if not linf["unique"]:
        yield "the ℓ∞ max-margin direction may not be the only one, so distances to it say little"
    yield (
        f"{'optimizer':9} {'ε':>7} {'½ log 1/ε':>10} {'distance to ℓ∞ there':>21} {'crossing at log 1/L':>20}"
        f" {'distance to L2 at the end':>26}"
    )
    for r in results:
        half, at = -math.log(r["eps"]) / 2, "none" if r["crossing"] is None else f"{r['crossing']:.1f}"
        about = f"{r['optimizer']:9} {r['eps']:7g} {half:>10.1f}"
        if r["status"] != "ok":
            reached = max(r["log_inverse_loss"], default=0)
            yield f"{about} {EXPLAINED[r['status']]}, at log 1/L = {reached:.3g}"
            continue
        before = r["distance_linf"][np.searchsorted(r["log_inverse_loss"], half)]
        yield f"{about} {before:>21.4f} {at:>20} {r['distance_l2'][-1]:>26.4f}"
    for optimizer, slope in found["slopes"].items():
        shown = "undefined" if slope is None else f"{slope:.3f}"
        yield f"{optimizer}: crossing against log 1/ε, slope {shown}"
    if any(r["status"] == "ok" and r["crossing"] is None for r in results):
        yield "none: the run was never nearer to ℓ∞, or still is at its end"


def starts(found):
    """Where the starts end, a row for each optimizer and radius, and the dial, a row for each ε."""
    points = found["kkt_points"]
    for w, margin in zip(points["w"], points["margin"]):
        yield f"KKT point of the L2 problem: ({w[0]:.6f}, {w[1]:.6f}, {w[2]:.6f}), margin {margin:.6g}"
    yield (
        f"{'optimizer':9} {'radius':>6} {'ok':>11} {'limits':>7} {'others than GD':>15}"
        f" {'margin: smallest':>17} {'median':>9} {'largest':>9} {'KKT residual':>13}  seconds"
    )
    for r in found["results"]:
        ok = r["status"] == "ok"
        about = f"{r['optimizer']:9} {r['radius']:6g} {ok.sum():>5}/{len(ok):<5} {r['limits']:>7}"
        if ok.any():
            differs = "" if r["differs_from_gd"] is None else f"{100 * r['differs_from_gd']:.2f} %"
            margin, residual = r["margin"][ok].astype(float), r["kkt_residual"][ok].max()
            about += f" {differs:>15} {margin.min():>17.4g} {np.median(margin):>9.4g} {margin.max():>9.4g}"
            about += f" {residual:>13.1e} {r['seconds']:>8.1f}"
        yield about
    for r in found["results"]:
        for status in sorted(set(r["status"]) - {"ok"}):
            number = f"{np.sum(r['status'] == status)} of {len(r['status'])} starts"
            yield f"{r['optimizer']}, radius {r['radius']:g}: {number}: {EXPLAINED[status]}"
    if not any((r["status"] == "ok").any() for r in found["results"]):
        yield "no start leads to a limit, so there is nothing to draw a map of"
    if found["dial"]:
        yield (
            f"{'AdaGrad, ε':>12} {'starts ok':>10} {'max ∫ g² dt / ε: median':>24}"
            f" {'1 - margin / largest: median':>29} {'most':>9}"
        )
    for eps in dict.fromkeys(r["eps"] for r in found["dial"]):
        mine = [r for r in found["dial"] if r["eps"] == eps]
        ok, moved, ratio = (np.concatenate([r[name] for r in mine]) for name in ("status", "moved", "ratio"))
        about, ok = f"{eps:>12g} {np.sum(ok == 'ok'):>5}/{len(ok):<4}", ok == "ok"
        if ok.any():
            moved, lost = moved[ok].astype(float), 1 - ratio[ok].astype(float)
            about += f" {np.median(moved):>24.2e} {np.median(lost):>29.2e} {lost.max():>9.2e}"
        yield about
