// "Did you mean ...?": the nearest of a list of names.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace accrete {

// Insertions, deletions, replacements and swaps of neighbours that turn one word into the other (optimal string
// alignment distance).
size_t edit_distance(std::string_view a, std::string_view b);

// The candidate nearest to `word` when it is near enough to be a typing mistake (a third of the letters, at least one);
// "" otherwise.
std::string nearest(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace accrete
