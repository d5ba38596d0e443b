"""The slope of a series that jumps, with an interval: Sen's estimator (P. K. Sen, JASA 63, 1968).

The median of the slopes between all pairs of points. Its interval lies between two of these slopes, whose ranks follow from the
variance of Kendall's S when there is no trend: n (n - 1) (2n + 5) / 18, for points without ties.
"""
import math

Z = 1.96  # 95 %


def slope(times, values):
    """(lower end, median, upper end), of values per unit of time. `times` rise; three points or more."""
    n = len(times)
    slopes = sorted((values[j] - values[i]) / (times[j] - times[i]) for i in range(n) for j in range(i + 1, n))
    half = Z * math.sqrt(n * (n - 1) * (2 * n + 5) / 18) / 2
    middle = (len(slopes) - 1) / 2
    return tuple(slopes[min(max(place, 0), len(slopes) - 1)]
                 for place in (math.floor(middle - half), round(middle), math.ceil(middle + half)))
