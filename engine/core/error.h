// The one exception type of the project. A message reads: [where] what; expected ...; got ...; hint
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace accrete {

// Thrown for every mistake a user or a file can make. Programs print what() as one line and exit with 1.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// fail("safetensors", "header is not JSON; expected ", a, "; got ", b) throws Error("[safetensors] header is not JSON;
// ...").
template <class... Parts>
[[noreturn]] void fail(std::string_view where, const Parts&... parts) {
  std::ostringstream text;
  text << '[' << where << "] ";
  (text << ... << parts);
  throw Error(text.str());
}

// check(condition, where, parts...): fail unless the condition holds. The parts are only evaluated, not formatted, when
// it does.
template <class... Parts>
void check(bool condition, std::string_view where, const Parts&... parts) {
  if (!condition) fail(where, parts...);
}

}  // namespace accrete
