// contrast on the CPU. Schema, meaning and gradient formula: fusion3d/ops/contrast.py; the tiles: cpu/contrast_tiles.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <tuple>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "contrast_check.h"
#include "core/log_sum_exp.h"
#include "core/near.h"
#include "cpu/instruction_sets.h"
#include "cpu/parallel.h"

namespace fusion3d {
namespace {

// Zeros that start on a cache line.
template <class T>
class Buffer {
 public:
  explicit Buffer(int64_t count) : memory_(::operator new[](std::max<int64_t>(1, count) * sizeof(T), std::align_val_t(64))) {
    std::fill_n(get(), count, T(0));
  }
  ~Buffer() { ::operator delete[](memory_, std::align_val_t(64)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  T* get() { return static_cast<T*>(memory_); }
  T& operator[](int64_t at) { return get()[at]; }

 private:
  void* memory_;
};

// The matrix query x key^T, whose rows are rows of query. `bounded`: no similarity is far from 0, see is_bounded.
template <class T, class P>
struct Similarities {
  const T *query, *key;
  int64_t rows, channels;
  Exclusion<P> exclusion;
  bool bounded;
};

#if FUSION3D_HAS_INSTRUCTION_SETS
#pragma GCC push_options
#pragma GCC target("avx512f,avx512vl,avx512dq,avx512bw,fma")
namespace avx512 {
#define FUSION3D_VECTOR_BYTES 64
#define FUSION3D_REGISTER_ROWS 12
#include "cpu/simd.h"
#include "cpu/contrast_tiles.h"
#undef FUSION3D_VECTOR_BYTES
#undef FUSION3D_REGISTER_ROWS
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
#define FUSION3D_VECTOR_BYTES 32
#define FUSION3D_REGISTER_ROWS 6
#include "cpu/simd.h"
#include "cpu/contrast_tiles.h"
#undef FUSION3D_VECTOR_BYTES
#undef FUSION3D_REGISTER_ROWS
}  // namespace avx2
#pragma GCC pop_options
#endif

namespace every_machine {
#define FUSION3D_VECTOR_BYTES 16
#define FUSION3D_REGISTER_ROWS 6
#include "cpu/simd.h"
#include "cpu/contrast_tiles.h"
#undef FUSION3D_VECTOR_BYTES
#undef FUSION3D_REGISTER_ROWS
}  // namespace every_machine

// Calls body(Tiles<T, P>) of the widest instruction set of this machine.
template <class T, class P, class Body>
void with_tiles(const Similarities<T, P>& similarities, const Body& body) {
#if FUSION3D_HAS_INSTRUCTION_SETS
  if (vector_bytes() >= 64) return body(avx512::Tiles<T, P>(similarities));
  if (vector_bytes() >= 32) return body(avx2::Tiles<T, P>(similarities));
#endif
  body(every_machine::Tiles<T, P>(similarities));
}

// e^x and e^-x, and sums of 2^31 of them, are normal numbers up to here.
template <class T>
constexpr T kBound = sizeof(T) == 8 ? T(600) : T(60);

template <class T>
T largest_norm(const T* rows, int64_t count, int64_t channels) {
  T largest = 0;
  for (int64_t row = 0; row < count; ++row) {
    T square[8] = {};
    for (int64_t c = 0; c < channels; ++c) square[c % 8] += rows[row * channels + c] * rows[row * channels + c];
    T sum = 0;
    for (const T part : square) sum += part;
    if (!(sum <= largest)) largest = sum;  // a NaN as well, and then it stays
    if (largest != largest) break;
  }
  return std::sqrt(largest);
}

// Whether no similarity is further from 0 than kBound: by Cauchy and Schwarz none is larger than the product of two norms.
template <class T>
bool is_bounded(const T* query, const T* key, int64_t rows, int64_t channels) {
  return largest_norm(query, rows, channels) * largest_norm(key, rows, channels) <= kBound<T>;
}

template <class T, class Body>
void with_similarities(const ContrastTensors& tensors, const Body& body) {
  const T *const query = data<T>(tensors.query), *const key = data<T>(tensors.key);
  const int64_t rows = tensors.rows, channels = tensors.channels;
  const bool bounded = is_bounded(query, key, rows, channels);
  const auto with_positions_in = [&](auto position_type) {
    using P = decltype(position_type);
    const P* const position = tensors.position ? data<P>(*tensors.position) : nullptr;
    const int64_t* const scene = tensors.scene ? data<int64_t>(*tensors.scene) : nullptr;
    body(Similarities<T, P>{query, key, rows, channels, {position, scene, P(tensors.limit)}, bounded});
  };
  if (tensors.position && tensors.position->scalar_type() == ScalarType::Double)
    with_positions_in(double{});
  else
    with_positions_in(float{});
}

template <class Body>
void with_wide_type(ScalarType type, const Body& body) {
  if (type == ScalarType::Double)
    body(double{});
  else
    body(float{});
}

std::tuple<Tensor, Tensor> contrast(
    const Tensor& query, const Tensor& key, const std::optional<Tensor>& position, const std::optional<Tensor>& scene,
    double radius, int64_t) {
  const ContrastTensors tensors(query, key, position, scene, radius);
  Tensor forth = tensors.new_rows(), back = tensors.new_rows();
  with_wide_type(tensors.wide, [&](auto scalar) {
    using T = decltype(scalar);
    with_similarities<T>(tensors, [&](const auto& similarities) {
      with_tiles(similarities, [&](const auto& tiles) { tiles.log_sum_exp(output<T>(forth), output<T>(back)); });
    });
  });
  return {in_type_of(query, forth), in_type_of(query, back)};
}

std::tuple<Tensor, Tensor> contrast_backward(
    const Tensor& grad_forth, const Tensor& grad_back, const Tensor& forth, const Tensor& back, const Tensor& query,
    const Tensor& key, const std::optional<Tensor>& position, const std::optional<Tensor>& scene, double radius, int64_t) {
  const ContrastTensors tensors(query, key, position, scene, radius);
  const Tensor given[] = {tensors.per_row("forth", forth), tensors.per_row("grad_forth", grad_forth),
                          tensors.per_row("back", back), tensors.per_row("grad_back", grad_back)};
  Tensor grad_query = tensors.new_matrix(), grad_key = tensors.new_matrix();
  with_wide_type(tensors.wide, [&](auto scalar) {
    using T = decltype(scalar);
    with_similarities<T>(tensors, [&](auto similarities) {
      const int64_t rows = tensors.rows, room = rows + 64 / int64_t(sizeof(T));  // vectors of keys reach past the last one
      Buffer<T> level[2] = {Buffer<T>(room), Buffer<T>(room)}, grad[2] = {Buffer<T>(room), Buffer<T>(room)};
      for (int way = 0; way < 2; ++way) {
        std::copy_n(data<T>(given[2 * way]), rows, level[way].get());
        std::copy_n(data<T>(given[2 * way + 1]), rows, grad[way].get());
        for (int64_t row = 0; row < rows; ++row)
          similarities.bounded &= std::abs(level[way][row]) <= kBound<T> + 22;  // log(2^31)
      }
      if (similarities.bounded)
        for (Buffer<T>& of_way : level)
          for (int64_t row = 0; row < rows; ++row) of_way[row] = exponential(-of_way[row]);
      with_tiles(similarities, [&](const auto& tiles) {
        tiles.gradients({level[0].get(), grad[0].get()}, {level[1].get(), grad[1].get()}, output<T>(grad_query),
                        output<T>(grad_key));
      });
    });
  });
  return {in_type_of(query, grad_query), in_type_of(key, grad_key)};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("contrast", TORCH_BOX(&contrast));
  library.impl("contrast_backward", TORCH_BOX(&contrast_backward));
}

}  // namespace
}  // namespace fusion3d
