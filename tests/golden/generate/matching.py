"""Section 4 of the design in fp64: which slots of a window survive, with which weights and values.

Letters: n reference queries i, w window slots j, t kept slots, d head width. S, A are [n, w].
"""
import fractions
import math

import numpy as np
from decoder import softmax


def local_scores(queries, window, scale):
    """S_ij = s q_i k_j + b_j over the window alone."""
    keys = np.stack([slot.key for slot in window])
    return scale * queries @ keys.T + np.array([slot.bias for slot in window])


def largest(importance, t):
    """The t largest, ties to the lower index, ascending; and how far the t-th is from the next, relatively."""
    order = sorted(range(len(importance)), key=lambda j: (-importance[j], j))
    margin = math.inf
    if 0 < t < len(order):
        margin = 1 - importance[order[t]] / importance[order[t - 1]]
    return sorted(order[:t]), margin


def pursuit(a, t):
    """Orthogonal matching pursuit of sum_j a_ij x_j = 1: the column that best explains what is left, again and again."""
    picked, margin = [], math.inf
    lengths = np.sqrt((a * a).sum(0))
    for _ in range(t):
        x = np.linalg.lstsq(a[:, picked], np.ones(len(a)), rcond=None)[0]
        score = np.abs(a.T @ (1 - a[:, picked] @ x)) / lengths
        score[picked] = -1
        (best,), gap = largest(score, 1)
        picked.append(best)
        margin = min(margin, gap if len(picked) < a.shape[1] else math.inf)
    return sorted(picked), margin


def choose(chooser, a, t):
    """Indices of the kept slots and the relative margin of the choice."""
    if chooser == "omp":
        return pursuit(a, t)
    if chooser == "mean":
        return largest(a.mean(0), t)
    if chooser == "max":
        return largest(a.max(0), t)
    return largest(np.sqrt((a * a).mean(0)), t)  # rms; attention is its name for evict


CARRYING = ("accumulated", "carried_max", "diverse")
OWN = 0.1  # of a slot's worth, what likeness to others cannot take away


def received(chooser, a):
    """What each slot receives at one event: for accumulated the sum of a_ij, for the others its rms."""
    return a.sum(0) if chooser == "accumulated" else np.sqrt((a * a).mean(0))


def with_earlier(chooser, now, earlier):
    return now + earlier if chooser == "accumulated" else max(now, earlier)


def shares(stretches, t):
    """t by largest remainders in proportion to positions; who has not so many slots keeps all. [(positions, slots)]"""
    given, open_ones = [0] * len(stretches), set(range(len(stretches)))
    while True:
        left = t - sum(given)
        quota = {i: fractions.Fraction(left * stretches[i][0], sum(stretches[k][0] for k in open_ones))
                 for i in open_ones}
        full = [i for i in open_ones if quota[i] > stretches[i][1]]
        if not full:
            break
        for i in full:
            given[i] = stretches[i][1]
        open_ones -= set(full)
    for i in open_ones:
        given[i] = math.floor(quota[i])
    for i in sorted(open_ones, key=lambda i: (math.floor(quota[i]) - quota[i], i))[:t - sum(given)]:
        given[i] += 1
    return given


def diverse(importance, keys, t):
    """Greedily the largest det of I_i I_j ((1 - r) cos(k_i, k_j) + r [i = j]), each candidate set's anew."""
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    kernel = np.outer(importance, importance) * ((1 - OWN) * unit @ unit.T + OWN * np.eye(len(keys)))
    picked, margin = [], math.inf
    for _ in range(t):
        others = [j for j in range(len(keys)) if j not in picked]
        gains = np.array([np.linalg.slogdet(kernel[np.ix_(picked + [j], picked + [j])])[1] for j in others])
        (best,), gap = largest(np.exp(gains - gains.max()), 1)
        picked.append(others[best])
        margin = min(margin, gap)
    return sorted(picked), margin


def choose_carried(chooser, importance, keys, stretches, t):
    """stretches: [(positions, slots)] of the window's blocks, in order."""
    if chooser == "accumulated":
        return largest(importance, t)
    if chooser == "diverse":
        return diverse(importance, keys, t)
    kept, margin, first = [], math.inf, 0
    for (_, slots), share in zip(stretches, shares(stretches, t)):
        mine, gap = largest(importance[first:first + slots], share)
        kept += [first + j for j in mine]
        margin, first = min(margin, gap), first + slots
    return kept, margin


def bounded_least_squares(h, c, lower, upper):
    """argmin 1/2 w'Hw - c'w in [lower, upper]: Newton on the free weights, walked back until the objective falls."""
    def objective(w):
        return w @ h @ w / 2 - c @ w

    w = np.clip(np.ones(len(c)), lower, upper)
    for _ in range(500):
        gradient = h @ w - c
        free = ~(((w <= lower) & (gradient > 0)) | ((w >= upper) & (gradient < 0)))
        if not free.any() or np.abs(gradient[free]).max() < 1e-13 * np.trace(h) / len(c):
            return w
        target = w.copy()
        target[free] = np.linalg.solve(h[np.ix_(free, free)], c[free] - h[np.ix_(free, ~free)] @ w[~free])
        step = 1.0
        while step > 1e-12 and objective(np.clip(w + step * (target - w), lower, upper)) >= objective(w):
            step /= 2
        if step <= 1e-12:  # rounding: the optimum to the last bits
            return w
        w = np.clip(w + step * (target - w), lower, upper)
    raise ArithmeticError("the weights do not converge")


def fit_weights(a_kept, p):
    """argmin sum_i (sum_j a_ij w_j - 1)^2 + mu sum_j (w_j - 1)^2 in e^[log_lower, log_upper]; mu relative to tr(G)/t."""
    gram = a_kept.T @ a_kept
    mu = p["mu"] * np.trace(gram) / len(gram)
    return bounded_least_squares(gram + mu * np.eye(len(gram)), a_kept.sum(0) + mu,
                                 math.exp(p["log_lower"]), math.exp(p["log_upper"]))


def fit_values(x, y, kept_values, p):
    """argmin |X V - Y|^2 + lambda |V - V_kept|^2, lambda relative to tr(X'X)/t."""
    gram = x.T @ x
    ridge = p["lambda"] * np.trace(gram) / len(gram)
    return np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ y + ridge * kept_values)


def errors(s, kept, weights, values, window_values):
    """Mean |sum_j a_ij w_j - 1| and |X V - Y| / |Y| (Frobenius) over the queries of s [n, w]."""
    a = softmax(s)
    mass = np.abs(a[:, kept] @ weights - 1).mean()
    y = a @ window_values
    out = softmax(s[:, kept] + np.log(weights)) @ values if kept else np.zeros_like(y)
    return mass, np.linalg.norm(out - y) / np.linalg.norm(y)
