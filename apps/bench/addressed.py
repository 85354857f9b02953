"""Random numbers with an address, as engine/core/random.h draws them: what the PyTorch twins share with a run."""

import math

import numpy as np

MASK32, MASK64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF


def philox_words(seed, purpose, step, blocks):
    """Four 32-bit words for every block number: Philox 4x32-10, key = seed mixed with the FNV-1a hash of the purpose."""
    stream = 0xCBF29CE484222325
    for byte in purpose.encode():
        stream = (stream ^ byte) * 0x100000001B3 & MASK64
    key = seed ^ (stream * 0x9E3779B97F4A7C15 & MASK64)
    k0, k1 = key & MASK32, key >> 32
    blocks = np.asarray(blocks, dtype=np.uint64)
    low, high = np.uint64(MASK32), np.uint64(32)
    c = [blocks & low, blocks >> high, np.full_like(blocks, step & MASK32), np.full_like(blocks, step >> 32)]
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> high) ^ c[1] ^ np.uint64(k0), p1 & low, (p0 >> high) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = k0 + 0x9E3779B9 & MASK32, k1 + 0xBB67AE85 & MASK32
    return np.stack(c, axis=-1)


def random_below(seed, purpose, step, index, bound):
    w = philox_words(seed, purpose, step, [index])[0]
    return (int(w[0]) << 32 | int(w[1])) * bound >> 64


def normal(seed, purpose, count, stddev):
    """Box-Muller in double on the words (2i, 2i + 1), rounded to f32."""
    words = philox_words(seed, purpose, 0, np.arange((2 * count + 3) // 4)).reshape(-1)[: 2 * count].astype(np.float64)
    u, v = (words[0::2] + 1) / 2**32, words[1::2] / 2**32
    return np.float32(stddev) * (np.sqrt(-2 * np.log(u)) * np.cos(2 * math.pi * v)).astype(np.float32)


def uniform(seed, purpose, count, half_width):
    """One word each, its upper 24 bits, as f32 in [-half_width, half_width)."""
    words = philox_words(seed, purpose, 0, np.arange((count + 3) // 4)).reshape(-1)[:count]
    unit = (words >> np.uint64(8)).astype(np.float32) * np.float32(2**-24)
    half = np.float32(half_width)
    return -half + (half + half) * unit


def permuted(indices, count, seed, epoch, purpose="data.order"):
    """Entries of the epoch's permutation of 0 .. count-1: eight Feistel rounds, repeated until the number is in range."""
    half = max(1, ((count - 1).bit_length() + 1) // 2)
    mask, shift = np.uint64((1 << half) - 1), np.uint64(half)
    out = np.array(indices, dtype=np.uint64)
    todo = np.ones(len(out), dtype=bool)
    while todo.any():
        left, right = out[todo] >> shift, out[todo] & mask
        for r in range(8):
            mixed = philox_words(seed, purpose, epoch, np.uint64(r << 32) | right)[:, 0] & mask
            left, right = right, left ^ mixed
        out[todo] = left << shift | right
        todo = out >= count
    return out.astype(np.int64)
