// A result of many files that appears as a whole: they are written into a hidden folder beside their place and moved
// there when all of them are complete.
#pragma once

#include <filesystem>
#include <string>

namespace accrete {

class Staging {
 public:
  // Makes the folder `out` when it does not exist, and removes what killed programs have left unfinished in it.
  explicit Staging(const std::filesystem::path& out);
  ~Staging();  // removes what was not published
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;

  const std::filesystem::path& folder() const { return folder_; }
  // Moves everything into place. `last` is what makes a result complete: the old one is removed first, the new one
  // comes last, so that a program killed in between leaves nothing that looks whole.
  void publish(const std::string& last);

 private:
  void move(const std::filesystem::path& file);
  std::filesystem::path out_, folder_;
};

}  // namespace accrete
