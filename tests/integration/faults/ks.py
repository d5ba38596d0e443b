"""The two-sample test of Kolmogorov and Smirnov."""
import bisect
import math


def distance(a, b):
    """The largest difference of the two empirical distributions, in [0, 1]. Both are not empty."""
    a, b = sorted(a), sorted(b)
    return max(abs(bisect.bisect_right(a, x) / len(a) - bisect.bisect_right(b, x) / len(b)) for x in a + b)


def critical(n, m, alpha):
    """The distance that samples of sizes n and m of one distribution exceed with probability alpha at most, asymptotically.
    Conservative where values repeat."""
    return math.sqrt(-math.log(alpha / 2) / 2) * math.sqrt((n + m) / (n * m))
