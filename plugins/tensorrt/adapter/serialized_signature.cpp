#include "adapter/serialized_signature.h"

#include <cstring>
#include <iterator>

#include "core/error.h"

namespace acm {
namespace {

// Read as characters: "ACM", "ACM8", "GLU" and "GLU8", by operator.
constexpr std::int32_t kMagic[] = {0x4d4341, 0x384d4341, 0x554c47, 0x38554c47};
static_assert(std::size(kMagic) == std::size(kOperators));

constexpr std::int32_t kVersion = 1;

struct Record {
  std::int32_t magic;
  std::int32_t version;
  std::int32_t num_learners;
  std::int32_t min_learners;
  std::int32_t activation;
  std::int32_t allow_tf32;
};

static_assert(sizeof(Record) == kSerializedSize);

std::int32_t magic_of(Operator op) { return kMagic[static_cast<std::size_t>(op)]; }

}  // namespace

void serialize(const Signature& signature, void* buffer) {
  const Record record{magic_of(signature.op),
                      kVersion,
                      signature.num_learners,
                      signature.min_learners,
                      static_cast<std::int32_t>(signature.activation),
                      signature.allow_tf32};
  std::memcpy(buffer, &record, sizeof record);
}

Signature deserialize(Operator op, const void* buffer, std::size_t size) {
  if (!buffer || size != kSerializedSize) {
    fail("the serialized plugin has ", buffer ? size : 0, " bytes, expected ", kSerializedSize);
  }
  Record record;
  std::memcpy(&record, buffer, sizeof record);
  if (record.magic != magic_of(op) || record.version != kVersion) {
    fail("the serialized plugin begins with ", record.magic, " and ", record.version, ", expected ",
         magic_of(op), " and ", kVersion);
  }
  const Signature signature{op, record.num_learners, record.min_learners,
                            activation_numbered(record.activation), record.allow_tf32 != 0};
  check(signature);
  return signature;
}

}  // namespace acm
