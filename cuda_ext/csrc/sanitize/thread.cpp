// Only in the library that cuda_ext/sanitize.sh runs under ThreadSanitizer: torch's threads are replaced, and a race is planted.
//
// ThreadSanitizer does not see what the barriers of torch's OpenMP threads order, so it would report every one of them. These
// definitions of two functions of torch's C interface come before torch's own when the library is linked: the bodies of
// parallel_for then run on threads that it does see. Work is cut into single items however small it is, so that small tests share
// memory between threads as large data would.
#include <torch/csrc/stable/c/shim.h>

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

namespace {

constexpr int64_t kWorkers = 4;
thread_local bool inside = false;  // a loop inside a loop is serial, as torch's is

}  // namespace

extern "C" AOTITorchError torch_get_num_threads(uint32_t* count) {
  *count = kWorkers;
  return AOTI_TORCH_SUCCESS;
}

extern "C" AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t, ParallelFunc work, void* context) {
  const int64_t items = end - begin, shares = inside ? 1 : std::min(items, kWorkers);
  std::atomic<bool> failed{false};
  const auto run = [&](int64_t share) {
    const bool outermost = !inside;
    inside = true;
    try {
      work(begin + items * share / shares, begin + items * (share + 1) / shares, context);
    } catch (...) {
      failed = true;
    }
    if (outermost) inside = false;
  };
  std::vector<std::thread> threads;
  for (int64_t share = 1; share < shares; ++share) threads.emplace_back(run, share);
  if (shares > 0) run(0);
  for (std::thread& thread : threads) thread.join();
  return failed ? AOTI_TORCH_FAILURE : AOTI_TORCH_SUCCESS;
}

// Whoever runs the sanitizer calls this first: a run that does not report it finds nothing else either.
extern "C" __attribute__((visibility("default"))) int fusion3d_planted_race() {
  int sum = 0;
  torch_parallel_for(
      0, kWorkers, 1, [](int64_t begin, int64_t, void* shared) { *static_cast<int*>(shared) += int(begin); }, &sum);
  return sum;
}
