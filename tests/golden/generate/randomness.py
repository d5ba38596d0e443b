"""Counter-based draws, as common/base/random.h describes them: a draw is a function of what it is for."""
import math
import struct

MASK32, MASK64 = 2**32 - 1, 2**64 - 1


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 (Salmon et al., SC 2011): four words of 32 bits for a counter of four under a key of two."""
    a, b, c, d = counter
    left, right = key
    for _ in range(10):
        low, high = 0xD2511F53 * a, 0xCD9E8D57 * c
        a, b, c, d = (high >> 32) ^ b ^ left, high & MASK32, (low >> 32) ^ d ^ right, low & MASK32
        left, right = (left + 0x9E3779B9) & MASK32, (right + 0xBB67AE85) & MASK32
    return [a, b, c, d]


def halves(x: int) -> list[int]:
    return [x & MASK32, x >> 32]


def to_unit(low: int, high: int) -> float:
    """The upper 53 of 64 bits, in [0, 1)."""
    return (((high << 32) | low) >> 11) * 2.0**-53


def uniform(seed: int, sample: int, position: int) -> float:
    return to_unit(*philox(halves(position) + halves(sample), halves(seed))[:2])


def splitmix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & MASK64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK64
    return x ^ (x >> 31)


def mix(*parts: int | str) -> int:
    """One seed of many parts; a word stands for its FNV-1a hash."""
    seed = 0x243F6A8885A308D3
    for part in parts:
        seed = splitmix(seed ^ splitmix(fnv1a(part) if isinstance(part, str) else part))
    return seed


def fnv1a(word: str) -> int:
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = ((value ^ byte) * 0x100000001B3) & MASK64
    return value


def normals(seed: int, count: int) -> list[float]:
    """The first draws of a stream: Box-Muller over pairs of uniforms, rounded to fp32."""
    out = []
    for n in range(count):
        block = philox([*halves(n), 0, 0], halves(seed))
        radius, angle = 1 - to_unit(*block[:2]), to_unit(*block[2:])
        normal = math.sqrt(-2 * math.log(radius)) * math.cos(2 * math.pi * angle)
        out.append(struct.unpack("<f", struct.pack("<f", normal))[0])
    return out
