// The tiles of cpu/contrast.cpp for one instruction set. Included once for each, inside a namespace of its own and without
// include guard, after cpu/simd.h.
//
// A tile is a square of similarities, kSide rows of query by kSide rows of key, that stays in a core's second-level cache from
// the product that makes it to the last use. Every product is made of blocks of kRows x kColumns that stay in registers:
//
//   similarity [rows, keys]      = query [rows, channels]    x key [keys, channels]^T
//   grad_query [rows, channels] += probability [rows, keys]  x key [keys, channels]
//   grad_key   [keys, channels] += probability^T [keys, rows] x query [rows, channels]

constexpr int kRows = FUSION3D_REGISTER_ROWS;
template <class T>
constexpr int kColumns = 2 * kLanes<T>;

constexpr int kSide = 192;           // a multiple of kRows and of kColumns for every instruction set
constexpr int kStride = kSide + 16;  // of a tile in memory: rows that lie a power of two apart would share cache sets
constexpr int64_t kDepth = 256;      // channels whose products are added up before the next are fetched
template <class T>
constexpr T kNothing = -std::numeric_limits<T>::infinity();

static_assert(kSide % kRows == 0 && kSide % kColumns<float> == 0 && kSide % kColumns<double> == 0);

// c (+)= a x b for one block: a is read at a[row * RowStride + k * DepthStride], b at b[k * kColumns + column].
template <class T, int RowStride, int DepthStride>
FUSION3D_BOTH void multiply_block(const T* a, const T* b, int64_t depth, bool add, T* c, int64_t stride) {
  Vector<T> sum[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) sum[r][0] = sum[r][1] = Vector<T>{};
#pragma GCC unroll 2
  for (int64_t k = 0; k < depth; ++k) {
    const Vector<T> left = load(b + k * kColumns<T>), right = load(b + k * kColumns<T> + kLanes<T>);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const Vector<T> factor = all<T>(a[r * RowStride + k * DepthStride]);
      sum[r][0] = multiply_add(factor, left, sum[r][0]);
      sum[r][1] = multiply_add(factor, right, sum[r][1]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    T* const to = c + r * stride;
    store(to, add ? load(to) + sum[r][0] : sum[r][0]);
    store(to + kLanes<T>, add ? load(to + kLanes<T>) + sum[r][1] : sum[r][1]);
  }
}

constexpr int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Panels of `Width` rows, channel after channel: to[panel][channel][row]. Rows that are missing are zeros.
template <int Width, class T>
void pack_rows(const T* rows, int64_t count, int64_t channels, T* to) {
  for (int64_t first = 0; first < kSide; first += Width, to += Width * channels) {
    if (first >= count) return;  // a panel that nobody reads
    for (int row = 0; row < Width; ++row)
      for (int64_t c = 0; c < channels; ++c)
        to[c * Width + row] = first + row < count ? rows[(first + row) * channels + c] : T(0);
  }
}

// Panels of kColumns channels, row after row: to[panel][row][channel]. Channels that are missing are zeros.
template <class T>
void pack_channels(const T* rows, int64_t count, int64_t channels, T* to) {
  constexpr int W = kColumns<T>;
  for (int64_t first = 0; first < channels; first += W, to += W * kSide)
    for (int64_t row = 0; row < count; ++row)
      for (int c = 0; c < W; ++c) to[row * W + c] = first + c < channels ? rows[row * channels + first + c] : T(0);
}

// `query` in panels of kRows, `key` in panels of kColumns.
template <class T>
void multiply_similarity(const T* query, const T* key, int64_t rows, int64_t keys, int64_t channels, T* tile) {
  constexpr int W = kColumns<T>;
  for (int64_t channel = 0; channel == 0 || channel < channels; channel += kDepth) {
    const int64_t depth = std::min(kDepth, channels - channel);
    for (int64_t j = 0; j < keys; j += W)
      for (int64_t i = 0; i < rows; i += kRows)
        multiply_block<T, 1, kRows>(query + i * channels + channel * kRows, key + j * channels + channel * W, depth, channel > 0,
                                    tile + i * kStride + j, kStride);
  }
}

// gradient [rows, padded channels] += tile x key, `key` in panels of channels; kSide rows are written.
template <class T>
void multiply_by_key(const T* tile, const T* key, int64_t rows, int64_t keys, int64_t padded, T* gradient) {
  constexpr int W = kColumns<T>;
  for (int64_t channel = 0; channel < padded; channel += W, key += W * kSide)
    for (int64_t i = 0; i < rows; i += kRows)
      multiply_block<T, kStride, 1>(tile + i * kStride, key, keys, true, gradient + i * padded + channel, padded);
}

// gradient [keys, padded channels] += tile^T x query, `query` in panels of channels.
template <class T>
void multiply_by_query(const T* tile, const T* query, int64_t rows, int64_t keys, int64_t padded, T* gradient) {
  constexpr int W = kColumns<T>;
  for (int64_t channel = 0; channel < padded; channel += W, query += W * kSide)
    for (int64_t j = 0; j < keys; j += kRows)
      multiply_block<T, 1, kStride>(tile + j, query, rows, true, gradient + j * padded + channel, padded);
}

// --- exclusion ---------------------------------------------------------------------------------------------------------------

// The places of the rows of one tile's side, and what surrounds them.
template <class P>
struct Places {
  alignas(64) P east[kSide], north[kSide];
  alignas(64) int64_t scene[kSide];
  P low[2], high[2];
  int64_t first_scene, last_scene;

  Places(const Exclusion<P>& exclusion, int64_t first, int64_t count) : first_scene(INT64_MAX), last_scene(INT64_MIN) {
    for (int axis = 0; axis < 2; ++axis) {
      low[axis] = std::numeric_limits<P>::infinity();
      high[axis] = -low[axis];
    }
    for (int64_t i = 0; i < count; ++i) {
      east[i] = exclusion.position[2 * (first + i)];
      north[i] = exclusion.position[2 * (first + i) + 1];
      scene[i] = exclusion.scene ? exclusion.scene[first + i] : 0;
      first_scene = std::min(first_scene, scene[i]);
      last_scene = std::max(last_scene, scene[i]);
      for (int axis = 0; axis < 2; ++axis) {  // a NaN is near to nothing and changes nothing
        const P value = axis ? north[i] : east[i];
        low[axis] = value < low[axis] ? value : low[axis];
        high[axis] = value > high[axis] ? value : high[axis];
      }
    }
  }

  // Whether rows inside the box may be near to this side. Subtraction, squares and sums round monotonically: the gap between two
  // boxes is rounded to no more than the distance of any two of their points.
  bool near(const P* other_low, const P* other_high, P limit) const {
    P gap[2];
    for (int axis = 0; axis < 2; ++axis) {
      const P below = low[axis] - other_high[axis], above = other_low[axis] - high[axis];
      gap[axis] = std::max(P(0), std::max(below, above));
    }
    return !(square_sum(gap[0], gap[1]) >= limit);
  }
};

// Puts -inf where a pair is excluded. `same`: the rows are the keys, and none is excluded from itself.
template <class T, class P>
void exclude(const Places<P>& rows, int64_t count, const Places<P>& keys, int64_t key_count, bool same, P limit, T* tile) {
  if (rows.first_scene > keys.last_scene || keys.first_scene > rows.last_scene) return;
  if (!rows.near(keys.low, keys.high, limit)) return;
  const bool one_scene =
      rows.first_scene == keys.first_scene && rows.last_scene == keys.last_scene && rows.first_scene == rows.last_scene;
  for (int64_t i = 0; i < count; ++i) {
    const P east = rows.east[i], north = rows.north[i], at[2] = {east, north};
    if (!keys.near(at, at, limit)) continue;
    T* const row = tile + i * kStride;
    const T itself = row[i];
    if (one_scene) {
#pragma omp simd
      for (int64_t j = 0; j < key_count; ++j)
        row[j] = square_sum(east - keys.east[j], north - keys.north[j]) < limit ? kNothing<T> : row[j];
    } else {
      const int64_t scene = rows.scene[i];
#pragma omp simd
      for (int64_t j = 0; j < key_count; ++j) {
        const bool near = square_sum(east - keys.east[j], north - keys.north[j]) < limit;
        row[j] = near & (scene == keys.scene[j]) ? kNothing<T> : row[j];
      }
    }
    if (same) row[i] = itself;
  }
}

// --- log-sum-exp -------------------------------------------------------------------------------------------------------------

// Peaks and totals of many LogSumExp, apart from each other so that vectors of them can be loaded.
template <class T>
struct Sums {
  T *peak, *total;
};

// Adds each row of a tile to rows.total and each column to keys.total. `bounded`: no exponential can overflow or vanish, so peaks
// are 0 and one exponential serves both ways; else each way has its own.
template <class T>
void add_bounded(const T* tile, int64_t rows, int64_t keys, Sums<T> row_sums, T* key_totals) {
  constexpr int L = kLanes<T>;
  alignas(64) T column[kSide] = {};
  for (int64_t i = 0; i < rows; ++i) {
    Vector<T> sum{};
    for (int64_t j = 0; j < keys; j += L) {
      const Vector<T> power = exponentials<T>(load(tile + i * kStride + j));
      sum += power;
      store(column + j, load(column + j) + power);
    }
    LogSumExp<T> row(0, row_sums.total[i] + sum_of<T>(sum));
    row_sums.peak[i] = row.peak;
    row_sums.total[i] = row.total;
  }
  for (int64_t j = 0; j < keys; ++j) key_totals[j] += column[j];
}

template <class T>
FUSION3D_BOTH Vector<T> finite(Vector<T> value) {
  const Vector<T> highest = all<T>(LogSumExp<T>::kHighest);
  value = value > highest ? highest : value;
  return value > -highest ? value : -highest;  // NaN as well
}

template <class T>
void add_with_peaks(const T* tile, int64_t rows, int64_t keys, Sums<T> row_sums, Sums<T> key_sums) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < rows; ++i) {
    const T* const row = tile + i * kStride;
    Vector<T> highest = all<T>(-LogSumExp<T>::kHighest), sum{};
    for (int64_t j = 0; j < keys; j += L) highest = larger(load(row + j), highest);
    LogSumExp<T> part(LogSumExp<T>::finite(largest_of<T>(highest)), 0), whole(row_sums.peak[i], row_sums.total[i]);
    for (int64_t j = 0; j < keys; j += L) sum += exponentials<T>(load(row + j) - part.peak);
    part.total = sum_of<T>(sum);
    whole.combine(part);
    row_sums.peak[i] = whole.peak;
    row_sums.total[i] = whole.total;
  }
  for (int64_t j = 0; j < keys; j += L) {
    Vector<T> highest = all<T>(-LogSumExp<T>::kHighest), sum{};
    for (int64_t i = 0; i < rows; ++i) highest = larger(load(tile + i * kStride + j), highest);
    highest = finite<T>(highest);
    for (int64_t i = 0; i < rows; ++i) sum += exponentials<T>(load(tile + i * kStride + j) - highest);
    for (int lane = 0; lane < L && j + lane < keys; ++lane) {
      LogSumExp<T> whole(key_sums.peak[j + lane], key_sums.total[j + lane]);
      whole.combine({highest[lane], sum[lane]});
      key_sums.peak[j + lane] = whole.peak;
      key_sums.total[j + lane] = whole.total;
    }
  }
}

// --- gradient of the similarities ----------------------------------------------------------------------------------------------

// What the two softmaxes of a row, or of a key, need: `level` is its log-sum-exp, or exp(-level) when bounded.
template <class T>
struct Softmax {
  const T *level, *grad;
};

template <class T, bool Bounded>
void similarity_to_gradient(T* tile, int64_t rows, int64_t keys, Softmax<T> of_rows, Softmax<T> of_keys) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < rows; ++i) {
    const T level = of_rows.level[i], grad = of_rows.grad[i];
    T* const row = tile + i * kStride;
    for (int64_t j = 0; j < keys; j += L) {
      const Vector<T> similarity = load(row + j), key_level = load(of_keys.level + j), key_grad = load(of_keys.grad + j);
      if constexpr (Bounded) {
        const Vector<T> power = exponentials<T>(similarity);
        store(row + j, multiply_add(power * level, all<T>(grad), power * key_level * key_grad));
      } else {
        store(row + j, multiply_add(exponentials<T>(similarity - level), all<T>(grad),
                                    exponentials<T>(similarity - key_level) * key_grad));
      }
    }
  }
}

// --- all tiles -----------------------------------------------------------------------------------------------------------------
//
// Tiles are taken band after band of query rows. Inside a band, the keys are shared out between groups that run at the same time.
// A group owns its keys' results; what it adds to the band's rows is kept apart and joined in the order of the groups. Bands and
// groups depend on the sizes alone, so results do not depend on the number of threads.

constexpr int64_t kBand = 4 * kSide;
constexpr int64_t kMostGroups = 32;

template <class T, class P>
class Tiles {
 public:
  explicit Tiles(const Similarities<T, P>& of) : of_(of), padded_(blocks(of.channels, kColumns<T>) * kColumns<T>) {}

  void log_sum_exp(T* forth, T* back) const {
    const int64_t groups = std::min(kMostGroups, blocks(of_.rows, kSide));
    Buffer<T> packed(kBand * of_.channels), peak(of_.rows), total(of_.rows), row_peak(groups * kBand), row_total(groups * kBand);
    const T lowest = -LogSumExp<T>::kHighest;
    std::fill_n(peak.get(), of_.rows, of_.bounded ? T(0) : lowest);
    for (int64_t band = 0; band < of_.rows; band += kBand) {
      const int64_t band_rows = std::min(kBand, of_.rows - band);
      pack_band(band, band_rows, packed.get(), nullptr);
      torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
        Buffer<T> tile(kSide * kStride), keys(kSide * of_.channels);
        for (int64_t group = begin; group < end; ++group) {
          std::fill_n(&row_peak[group * kBand], kBand, lowest);
          std::fill_n(&row_total[group * kBand], kBand, T(0));
          for_keys(group, groups, [&](int64_t key, int64_t count) {
            pack_rows<kColumns<T>>(of_.key + key * of_.channels, count, of_.channels, keys.get());
            for_rows(band_rows, [&](int64_t row, int64_t rows) {
              similarities(&packed[row * of_.channels], keys.get(), band + row, rows, key, count, tile.get());
              const Sums<T> row_sums{&row_peak[group * kBand + row], &row_total[group * kBand + row]};
              if (of_.bounded)
                add_bounded(tile.get(), rows, count, row_sums, &total[key]);
              else
                add_with_peaks(tile.get(), rows, count, row_sums, {&peak[key], &total[key]});
            });
          });
        }
      });
      for_parts(band_rows, groups, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          LogSumExp<T> whole;
          for (int64_t group = 0; group < groups; ++group)
            whole.combine({row_peak[group * kBand + row], row_total[group * kBand + row]});
          forth[band + row] = whole.finish();
        }
      });
    }
    for (int64_t key = 0; key < of_.rows; ++key) back[key] = LogSumExp<T>(peak[key], total[key]).finish();
  }

  void gradients(Softmax<T> of_rows, Softmax<T> of_keys, T* grad_query, T* grad_key) const {
    const int64_t partial = std::max<int64_t>(1, kBand * padded_);
    const int64_t most = std::max<int64_t>(2, kPartialBytes / int64_t(sizeof(T)) / partial);
    const int64_t groups = std::min({kMostGroups, most, blocks(of_.rows, kSide)});
    Buffer<T> packed(kBand * of_.channels), packed_channels(kBand * padded_), row_gradients(groups * partial);
    for (int64_t band = 0; band < of_.rows; band += kBand) {
      const int64_t band_rows = std::min(kBand, of_.rows - band);
      pack_band(band, band_rows, packed.get(), packed_channels.get());
      torch::stable::parallel_for(0, groups, 1, [&](int64_t begin, int64_t end) {
        Buffer<T> tile(kSide * kStride), keys(kSide * of_.channels), key_channels(kSide * padded_), key_gradient(kSide * padded_);
        for (int64_t group = begin; group < end; ++group) {
          T* const row_gradient = &row_gradients[group * partial];
          std::fill_n(row_gradient, partial, T(0));
          for_keys(group, groups, [&](int64_t key, int64_t count) {
            const T* const rows_of_key = of_.key + key * of_.channels;
            pack_rows<kColumns<T>>(rows_of_key, count, of_.channels, keys.get());
            pack_channels(rows_of_key, count, of_.channels, key_channels.get());
            std::fill_n(key_gradient.get(), kSide * padded_, T(0));
            for_rows(band_rows, [&](int64_t row, int64_t rows) {
              similarities(&packed[row * of_.channels], keys.get(), band + row, rows, key, count, tile.get());
              const Softmax<T> rows_here{of_rows.level + band + row, of_rows.grad + band + row};
              const Softmax<T> keys_here{of_keys.level + key, of_keys.grad + key};
              if (of_.bounded)
                similarity_to_gradient<T, true>(tile.get(), rows, count, rows_here, keys_here);
              else
                similarity_to_gradient<T, false>(tile.get(), rows, count, rows_here, keys_here);
              multiply_by_key(tile.get(), key_channels.get(), rows, count, padded_, row_gradient + row * padded_);
              multiply_by_query(tile.get(), &packed_channels[row * padded_], rows, count, padded_, key_gradient.get());
            });
            for (int64_t j = 0; j < count; ++j)
              for (int64_t c = 0; c < of_.channels; ++c) {
                T& to = grad_key[(key + j) * of_.channels + c];
                to = (band == 0 ? T(0) : to) + key_gradient[j * padded_ + c];
              }
          });
        }
      });
      for_parts(band_rows, groups * of_.channels, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          T* const to = grad_query + (band + row) * of_.channels;
          std::fill_n(to, of_.channels, T(0));
          for (int64_t group = 0; group < groups; ++group)
            for (int64_t c = 0; c < of_.channels; ++c) to[c] += row_gradients[group * partial + row * padded_ + c];
        }
      });
    }
  }

 private:
  static constexpr int64_t kPartialBytes = 32 << 20;

  // work(first key, number of keys) for every tile of a group.
  template <class Work>
  void for_keys(int64_t group, int64_t groups, const Work& work) const {
    const int64_t sides = blocks(of_.rows, kSide);
    for (int64_t side = group * sides / groups; side < (group + 1) * sides / groups; ++side)
      work(side * kSide, std::min<int64_t>(kSide, of_.rows - side * kSide));
  }

  // work(row inside the band, number of rows) for every tile of a band.
  template <class Work>
  static void for_rows(int64_t band_rows, const Work& work) {
    for (int64_t row = 0; row < band_rows; row += kSide) work(row, std::min<int64_t>(kSide, band_rows - row));
  }

  void pack_band(int64_t band, int64_t band_rows, T* rows, T* channels) const {
    for_parts(blocks(band_rows, kSide), kSide * of_.channels, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin * kSide; row < std::min(end * kSide, band_rows); row += kSide) {
        const T* const from = of_.query + (band + row) * of_.channels;
        const int64_t count = std::min<int64_t>(kSide, band_rows - row);
        pack_rows<kRows>(from, count, of_.channels, rows + row * of_.channels);
        if (channels) pack_channels(from, count, of_.channels, channels + row * padded_);
      }
    });
  }

  void similarities(const T* query, const T* keys, int64_t row, int64_t rows, int64_t key, int64_t count, T* tile) const {
    multiply_similarity(query, keys, rows, count, of_.channels, tile);
    if (of_.exclusion.position) {
      const P limit = of_.exclusion.limit;
      exclude(Places<P>(of_.exclusion, row, rows), rows, Places<P>(of_.exclusion, key, count), count, row == key, limit, tile);
    }
    for (int64_t j = count; j % kLanes<T> != 0; ++j)  // a vector's lanes past the last key
      for (int64_t i = 0; i < rows; ++i) tile[i * kStride + j] = kNothing<T>;
  }

  const Similarities<T, P>& of_;
  const int64_t padded_;
};
