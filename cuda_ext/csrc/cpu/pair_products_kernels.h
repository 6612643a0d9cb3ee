// The two products of sparse convolution for one instruction set. No include guard: cpu/pair_products.h includes this once for
// each, in a namespace of its own, with FUSION3D_TARGET (function attribute), FUSION3D_BYTES (of a vector), FUSION3D_REGISTERS
// and FUSION3D_FUSED(fused multiply-add of vectors of floats, of doubles) defined.
//
// A block of sums, `Pairs` x `Vectors` vectors, stays in registers while a depth of 16 to 128 channels is walked: an element of
// the weight is loaded once for all pairs of the block.

template <class A>
struct VectorOf {
  typedef A type __attribute__((vector_size(FUSION3D_BYTES)));
  typedef A anywhere __attribute__((vector_size(FUSION3D_BYTES), aligned(sizeof(A)), may_alias));  // in memory
};
template <class A>
using Vector = typename VectorOf<A>::type;
template <class A>
constexpr int kLanes = FUSION3D_BYTES / sizeof(A);

// As many sums as registers allow beside the operands, and at least 8, the latency of a multiply-add times two a cycle.
constexpr int rows_at_once(int vectors) {
  if (FUSION3D_REGISTERS == 32) return vectors == 4 ? 6 : 8;
  return vectors == 4 ? 3 : 6;
}

template <class A>
FUSION3D_TARGET inline __attribute__((always_inline)) Vector<A> load(const A* from) {
  return *reinterpret_cast<const typename VectorOf<A>::anywhere*>(from);
}

template <class A>
FUSION3D_TARGET inline __attribute__((always_inline)) void store(A* to, const Vector<A>& vector) {
  *reinterpret_cast<typename VectorOf<A>::anywhere*>(to) = vector;
}

// sum += scalar * vector
template <class A>
FUSION3D_TARGET inline __attribute__((always_inline)) void multiply_add(Vector<A>& sum, A scalar, const Vector<A>& vector) {
  const Vector<A> wide = scalar - Vector<A>{};  // every lane
  if constexpr (sizeof(A) == 4)
    sum = FUSION3D_FUSED_FLOAT(wide, vector, sum);
  else
    sum = FUSION3D_FUSED_DOUBLE(wide, vector, sum);
}

// sum[r] += scalars[r] * vectors, one step of either product. What there is more of is loaded one after the other: 3 x 4 sums, 3
// scalars and 1 vector, like 6 x 2 sums, 2 vectors and 1 scalar, fill 16 registers and need no seventeenth.
template <class A, int Rows, int Vectors, class ScalarOf>
FUSION3D_TARGET inline __attribute__((always_inline)) void add_products(
    Vector<A> (&sum)[Rows][Vectors], const ScalarOf& scalar_of, const A* vectors) {
  if constexpr (Rows < Vectors) {
    A scalar[Rows];
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) scalar[r] = scalar_of(r);
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      const Vector<A> element = load(vectors + v * kLanes<A>);
#pragma GCC unroll 8
      for (int r = 0; r < Rows; ++r) multiply_add(sum[r][v], scalar[r], element);
    }
  } else {
    Vector<A> element[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) element[v] = load(vectors + v * kLanes<A>);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const A scalar = scalar_of(r);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) multiply_add(sum[r][v], scalar, element[v]);
    }
  }
}

// sums[p] += rows[p] @ weight for `Pairs` pairs, `weight` [depth, Vectors * lanes].
template <class A, int Pairs, int Vectors>
FUSION3D_TARGET void multiply_group(const A* const* rows, A* const* sums, int64_t column, const A* weight, int64_t depth) {
  constexpr int kLanesOf = kLanes<A>;
  Vector<A> sum[Pairs][Vectors];
  const A* row[Pairs];
  A* to[Pairs];
#pragma GCC unroll 8
  for (int p = 0; p < Pairs; ++p) {
    row[p] = rows[p];
    to[p] = sums[p] + column;
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[p][v] = load(to[p] + v * kLanesOf);
  }
  for (int64_t d = 0; d < depth; ++d)
    add_products<A, Pairs, Vectors>(sum, [&](int p) { return row[p][d]; }, weight + d * Vectors * kLanesOf);
#pragma GCC unroll 8
  for (int p = 0; p < Pairs; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(to[p] + v * kLanesOf, sum[p][v]);
}

template <class A, int Pairs, int Vectors>
FUSION3D_TARGET inline __attribute__((always_inline)) void multiply_rest(
    int64_t left, const A* const* rows, A* const* sums, int64_t column, const A* weight, int64_t depth) {
  if constexpr (Pairs > 0) {
    if (left == Pairs) return multiply_group<A, Pairs, Vectors>(rows, sums, column, weight, depth);
    multiply_rest<A, Pairs - 1, Vectors>(left, rows, sums, column, weight, depth);
  }
}

template <class A, int Vectors>
FUSION3D_TARGET inline __attribute__((always_inline)) void multiply_columns(
    const A* const* rows, A* const* sums, int64_t pairs, int64_t column, const A* weight, int64_t depth) {
  constexpr int kPairs = rows_at_once(Vectors);
  int64_t p = 0;
  for (; p + kPairs <= pairs; p += kPairs) multiply_group<A, kPairs, Vectors>(rows + p, sums + p, column, weight, depth);
  multiply_rest<A, kPairs - 1, Vectors>(pairs - p, rows + p, sums + p, column, weight, depth);
}

template <class A>
FUSION3D_TARGET void multiply(
    const A* const* rows, A* const* sums, int64_t pairs, const A* weight, int64_t depth, int64_t width) {
  int64_t column = 0;
  for (; column + 4 * kLanes<A> <= width; column += 4 * kLanes<A>)
    multiply_columns<A, 4>(rows, sums, pairs, column, weight + depth * column, depth);
  for (; column + 2 * kLanes<A> <= width; column += 2 * kLanes<A>)
    multiply_columns<A, 2>(rows, sums, pairs, column, weight + depth * column, depth);
  for (; column < width; column += kLanes<A>)
    multiply_columns<A, 1>(rows, sums, pairs, column, weight + depth * column, depth);
}

// sums[r] += sum over pairs of rows[p][r] * upstream[p] for `Rows` rows of `sums`, which is [.., width].
template <class A, int Rows, int Vectors>
FUSION3D_TARGET void outer_group(
    const A* const* rows, const A* const* upstream, int64_t pairs, int64_t first, int64_t column, A* sums, int64_t width) {
  constexpr int kLanesOf = kLanes<A>;
  Vector<A> sum[Rows][Vectors];
  A* const to = sums + first * width + column;
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[r][v] = load(to + r * width + v * kLanesOf);
  for (int64_t p = 0; p < pairs; ++p) {
    const A* const row = rows[p] + first;
    add_products<A, Rows, Vectors>(sum, [&](int r) { return row[r]; }, upstream[p] + column);
  }
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(to + r * width + v * kLanesOf, sum[r][v]);
}

template <class A, int Rows, int Vectors>
FUSION3D_TARGET inline __attribute__((always_inline)) void outer_rest(
    int64_t left, const A* const* rows, const A* const* upstream, int64_t pairs, int64_t first, int64_t column, A* sums,
    int64_t width) {
  if constexpr (Rows > 0) {
    if (left == Rows) return outer_group<A, Rows, Vectors>(rows, upstream, pairs, first, column, sums, width);
    outer_rest<A, Rows - 1, Vectors>(left, rows, upstream, pairs, first, column, sums, width);
  }
}

template <class A, int Vectors>
FUSION3D_TARGET inline __attribute__((always_inline)) void outer_columns(
    const A* const* rows, const A* const* upstream, int64_t pairs, int64_t column, A* sums, int64_t depth, int64_t width) {
  constexpr int kRows = rows_at_once(Vectors);
  int64_t first = 0;
  for (; first + kRows <= depth; first += kRows)
    outer_group<A, kRows, Vectors>(rows, upstream, pairs, first, column, sums, width);
  outer_rest<A, kRows - 1, Vectors>(depth - first, rows, upstream, pairs, first, column, sums, width);
}

template <class A>
FUSION3D_TARGET void outer(
    const A* const* rows, const A* const* upstream, int64_t pairs, A* sums, int64_t depth, int64_t width) {
  constexpr int64_t kPairs = 24;  // rows of 128 channels of as many pairs stay in the first cache while all sums are visited
  for (; pairs > 0; pairs -= kPairs, rows += kPairs, upstream += kPairs) {
    const int64_t some = pairs < kPairs ? pairs : kPairs;
    int64_t column = 0;
    for (; column + 4 * kLanes<A> <= width; column += 4 * kLanes<A>)
      outer_columns<A, 4>(rows, upstream, some, column, sums, depth, width);
    for (; column + 2 * kLanes<A> <= width; column += 2 * kLanes<A>)
      outer_columns<A, 2>(rows, upstream, some, column, sums, depth, width);
    for (; column < width; column += kLanes<A>) outer_columns<A, 1>(rows, upstream, some, column, sums, depth, width);
  }
}

template <class A>
PairProducts<A> products() {
  return {kLanes<A>, &multiply<A>, &outer<A>};
}
