// The kernels of contrast, thread after thread on the host and without torch: tests load this with ctypes. The blocks are those of
// cuda/contrast.cu; what it cannot check are barriers, which it has between all phases, and the launches.
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <type_traits>
#include <vector>

#include "core/contrast_kernel.h"

namespace fusion3d {
namespace {

// All threads of a block, first to last or last to first: a phase in which they wait for each other gives two results.
template <class T>
struct EveryThread {
  using Numbers = typename ContrastBlock<T>::Numbers;
  bool reversed;
  Numbers numbers[ContrastBlock<T>::kThreads];

  template <class Phase>
  void each(const Phase& phase) {
    constexpr int kThreads = ContrastBlock<T>::kThreads;
    for (int i = 0; i < kThreads; ++i) {
      const int thread = reversed ? kThreads - 1 - i : i;
      phase(thread, numbers[thread]);
    }
  }

  template <class Phase>
  void each_alone(const Phase& phase) {
    each(phase);
  }
};

// Calls block(threads, shared memory, tile) for every block of a launch; shared memory holds NaN at first.
template <class T, class Block>
void launch(unsigned tiles, bool reversed, const Block& block) {
  EveryThread<T> threads{};
  threads.reversed = reversed;
  const auto shared = std::make_unique<typename ContrastBlock<T>::Shared>();
  for (unsigned i = 0; i < tiles; ++i) {
    memset(static_cast<void*>(shared.get()), 0xff, sizeof *shared);
    block(threads, *shared, int(reversed ? tiles - 1 - i : i));
  }
}

struct Input {
  int32_t wide, wide_position, reversed;
  const void *query, *key;
  int64_t rows, channels;
  const void* position;
  const int64_t* scene;
  double limit;
  int64_t band_rows, chunk_keys;
};

// Memory of which few pages are ever touched.
template <class T>
struct Partials {
  explicit Partials(int64_t count) : memory(::operator new(count * sizeof(LogSumExp<T>))) {}
  ~Partials() { ::operator delete(memory); }
  LogSumExp<T>* get() const { return static_cast<LogSumExp<T>*>(memory); }
  void* memory;
};

template <class T>
void join(const LogSumExp<T>* partials, int64_t tiles, int64_t stride, int64_t rows, bool first, LogSumExp<T>* sums, T* results) {
  for (int64_t row = 0; row < rows; ++row) {
    sums[row] = fold_partials(first ? LogSumExp<T>() : sums[row], partials + row, tiles, stride);
    if (results) results[row] = sums[row].finish();
  }
}

template <class T, class P>
void sums(const Input& input, Band<T> band, const Exclusion<P>& exclusion, T* forth, T* back) {
  const Partials<T> row_partials(kChunkKeys / ContrastBlock<T>::kColumns * kBandRows);
  const Partials<T> key_partials(kBandRows / ContrastBlock<T>::kRows * kChunkKeys);
  std::vector<LogSumExp<T>> row_sums(input.rows), key_sums(input.rows);
  const auto work = [&](int64_t row, int64_t rows, int64_t key, int64_t keys) {
    band.first_row = row;
    band.rows = int(rows);
    band.first_key = key;
    band.keys = int(keys);
    launch<T>(tiles_of<T>(rows, keys), input.reversed, [&](auto& threads, auto& shared, int tile) {
      sum_tile(threads, shared, tile, band, exclusion, row_partials.get(), key_partials.get());
    });
    join(row_partials.get(), band.key_tiles(), kBandRows, rows, key == 0, &row_sums[row],
         key + keys == input.rows ? forth + row : nullptr);
    join(key_partials.get(), band.row_tiles(), kChunkKeys, keys, row == 0, &key_sums[key],
         row + rows == input.rows ? back + key : nullptr);
    return static_cast<const char*>(nullptr);
  };
  for_bands_and_chunks(input.rows, work, input.band_rows, input.chunk_keys);
}

template <class T, class P>
void gradients(
    const Input& input, Band<T> band, const Exclusion<P>& exclusion, const Softmaxes<T>& of_rows, const Softmaxes<T>& of_keys,
    T* grad_query, T* grad_key) {
  const std::unique_ptr<T[]> probabilities(new T[kBandRows * kChunkKeys]);  // of which few pages are ever touched
  const int64_t channels = input.channels;
  const auto work = [&](int64_t row, int64_t rows, int64_t key, int64_t keys) {
    band.first_row = row;
    band.rows = int(rows);
    band.first_key = key;
    band.keys = int(keys);
    launch<T>(tiles_of<T>(rows, keys), input.reversed, [&](auto& threads, auto& shared, int tile) {
      write_probabilities(threads, shared, tile, band, exclusion, of_rows, of_keys, probabilities.get());
    });
    const GradientProducts<T> products(band, probabilities.get());
    launch<T>(tiles_of<T>(rows, channels), input.reversed, [&](auto& threads, auto& shared, int tile) {
      multiply_tile<T, true>(
          threads, shared, tile, products.by_row, products.keys, int(keys), key > 0, grad_query + row * channels);
    });
    launch<T>(tiles_of<T>(keys, channels), input.reversed, [&](auto& threads, auto& shared, int tile) {
      multiply_tile<T, false>(
          threads, shared, tile, products.by_key, products.queries, int(rows), row > 0, grad_key + key * channels);
    });
    return static_cast<const char*>(nullptr);
  };
  for_bands_and_chunks(input.rows, work, input.band_rows, input.chunk_keys);
}

// Calls body(whole problem, exclusion) in the types of the input.
template <class Body>
void with_types(const Input& input, const Body& body) {
  const auto with_scalar = [&](auto scalar) {
    using T = decltype(scalar);
    Band<T> all{};
    all.query = {static_cast<const T*>(input.query), int32_t(input.channels), 1, input.rows};
    all.key = {static_cast<const T*>(input.key), int32_t(input.channels), 1, input.rows};
    all.channels = int32_t(input.channels);
    if (input.wide_position)
      body(all, Exclusion<double>{static_cast<const double*>(input.position), input.scene, input.limit});
    else
      body(all, Exclusion<float>{static_cast<const float*>(input.position), input.scene, float(input.limit)});
  };
  if (input.wide)
    with_scalar(double{});
  else
    with_scalar(float{});
}

template <class Band>
using ScalarOf = std::remove_const_t<std::remove_pointer_t<decltype(Band::query.data)>>;

}  // namespace
}  // namespace fusion3d

extern "C" __attribute__((visibility("default"))) void replay_contrast(const void* input, void* forth, void* back) {
  using namespace fusion3d;
  const Input& of = *static_cast<const Input*>(input);
  with_types(of, [&](const auto& band, const auto& exclusion) {
    using T = ScalarOf<std::decay_t<decltype(band)>>;
    sums(of, band, exclusion, static_cast<T*>(forth), static_cast<T*>(back));
  });
}

extern "C" __attribute__((visibility("default"))) void replay_contrast_backward(
    const void* input, const void* grad_forth, const void* grad_back, const void* forth, const void* back, void* grad_query,
    void* grad_key) {
  using namespace fusion3d;
  const Input& of = *static_cast<const Input*>(input);
  with_types(of, [&](const auto& band, const auto& exclusion) {
    using T = ScalarOf<std::decay_t<decltype(band)>>;
    const Softmaxes<T> of_rows{static_cast<const T*>(forth), static_cast<const T*>(grad_forth)};
    const Softmaxes<T> of_keys{static_cast<const T*>(back), static_cast<const T*>(grad_back)};
    gradients(of, band, exclusion, of_rows, of_keys, static_cast<T*>(grad_query), static_cast<T*>(grad_key));
  });
}
