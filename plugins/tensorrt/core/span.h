// A view of an array (std::span comes with C++20).
#pragma once

#include <cstddef>

namespace acm {

template <typename T>
struct Span {
  const T* first;
  std::size_t count;

  const T* begin() const { return first; }
  const T* end() const { return first + count; }
  std::size_t size() const { return count; }
  const T& operator[](std::size_t index) const { return first[index]; }
};

}  // namespace acm
