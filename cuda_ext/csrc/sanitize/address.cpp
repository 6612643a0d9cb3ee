// Only in the library that cuda_ext/sanitize.sh runs under AddressSanitizer and UndefinedBehaviorSanitizer. Whoever runs them
// calls these first: a run that does not report them finds nothing else either.
#include <cstdint>
#include <memory>

extern "C" __attribute__((visibility("default"))) int fusion3d_planted_overrun(int64_t past) {
  const std::unique_ptr<int[]> numbers(new int[4]());
  return numbers[4 + past];
}

extern "C" __attribute__((visibility("default"))) int64_t fusion3d_planted_overflow(int64_t added) { return INT64_MAX + added; }
