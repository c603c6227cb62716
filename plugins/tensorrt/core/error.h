// The exception of the core. Adapters catch it at TensorRT's ABI, log it and return an error code.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace acm {

class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

// Throws an Error whose message is the parts joined: what was found and what was expected.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  throw Error(text(parts...));
}

}  // namespace acm
