// A signature as the bytes that IPluginV2 stores in an engine.
#pragma once

#include <cstddef>

#include "core/signature.h"

namespace acm {

constexpr std::size_t kSerializedSize = 6 * sizeof(std::int32_t);

void serialize(const Signature& signature, void* buffer);

// Throws if the bytes were not written by `serialize` for this operator.
Signature deserialize(Operator op, const void* buffer, std::size_t size);

}  // namespace acm
