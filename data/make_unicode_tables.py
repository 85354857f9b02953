#!/usr/bin/env python3
"""Writes data/unicode_tables.h: the code point ranges of the classes that tokenizers ask for.

    python3 data/make_unicode_tables.py > data/unicode_tables.h

The letters and numbers come from Python's unicodedata (the version is written into the file), White_Space is the list
of the Unicode property of that name (25 code points; Python's str.isspace accepts four control characters more).
"""
import unicodedata

SPACE = [0x20, 0x85, 0xA0, 0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
SPACE += list(range(0x09, 0x0E)) + list(range(0x2000, 0x200B))


def class_of(code):
    if code in SPACE:
        return "space"
    category = unicodedata.category(chr(code))[0]
    return {"L": "letter", "N": "number"}.get(category, "other")


def ranges():
    first, current = 0, class_of(0)
    for code in range(1, 0x110001):
        now = class_of(code) if code < 0x110000 else None
        if now != current:
            if current != "other":
                yield first, code - 1, current
            first, current = code, now


found = list(ranges())
letter = {"letter": "L", "number": "N", "space": "S"}
print("// Written by data/make_unicode_tables.py from Unicode", unicodedata.unidata_version + "; do not edit.")
print("#pragma once\n\n#include <cstdint>\n\nnamespace accrete::unicode_tables {\n")
print("// Code points first..last, both included, belong to the class: L letters, N numbers, S White_Space.")
print("struct Range {\n  uint32_t first, last;\n  char kind;\n};\n")
print("// clang-format off\ninline constexpr Range kRanges[] = {")
line = "   "
for first, last, kind in found:
    item = f" {{0x{first:X}, 0x{last:X}, '{letter[kind]}'}},"
    if len(line) + len(item) > 120:
        print(line)
        line = "   "
    line += item
print(line)
print("};\n// clang-format on\n\n}  // namespace accrete::unicode_tables")
