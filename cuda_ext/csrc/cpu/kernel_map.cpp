// kernel_map and strided_kernel_map on the CPU. Schema and meaning: fusion3d/ops/kernel_map.py.
//
// The wanted keys of one kernel element are the sorted origins of the output voxels plus a constant, so they rise as the keys
// do: one walk along both finds every pair, in order. Elements that differ in level alone share a walk, for their voxels are
// neighbours in the order of the keys.
#include <memory>
#include <tuple>
#include <vector>

#include "binding.h"
#include "core/kernel_map.h"
#include "cpu/key_sort.h"
#include "cpu/voxel_keys.h"

namespace fusion3d {
namespace {

constexpr int64_t kPart = 1 << 14;  // output voxels of one piece of work

// The keys of the input voxels, followed by kPastEveryKey: a walk needs no check for the end.
struct Keys {
  std::unique_ptr<int64_t[]> of;
  int64_t count;
  Bounds bounds;
};

// The elements first, first + plane, ... of a kernel: the same row and column, `levels` neighbouring levels.
struct Stack {
  int64_t first, levels;
};

// Calls visit(level, in, out) for every pair of a stack's elements and the output voxels begin..end, which rise.
template <class Visit>
void walk(const Keys& keys, const int64_t* origins, int64_t begin, int64_t end, int64_t step, int64_t levels, const Visit& visit) {
  const int64_t* const key = keys.of.get();
  int64_t in = first_not_below(key, 0, keys.count, origins[begin] + step);
  for (int64_t out = begin; out < end; ++out) {
    const int64_t wanted = origins[out] + step;
    while (key[in] < wanted) ++in;
    for (int64_t found = in; key[found] - wanted < levels; ++found) visit(key[found] - wanted, found, out);
  }
}

// Counts and then lists the pairs of stacks of elements. Elements without a stack are left to the caller.
class PairLists {
 public:
  PairLists(const Kernel& kernel, const Keys& keys, const int64_t* origins, int64_t outputs, std::vector<Stack> stacks)
      : kernel_(kernel), keys_(keys), origins_(origins), outputs_(outputs), stacks_(std::move(stacks)),
        parts_((outputs + kPart - 1) / kPart), pairs_(stacks_.size() * parts_ * kernel.size) {
    for_each_piece([&](const Stack& stack, int64_t begin, int64_t end, int64_t* pairs) {
      walk(keys_, origins_, begin, end, kernel_.step(stack.first), stack.levels, [&](int64_t level, int64_t, int64_t) {
        ++pairs[level];
      });
    });
  }

  // Puts the number of pairs of each element with a stack into counts[element], and turns pieces' numbers into their starts.
  void count(int64_t* counts) {
    for (size_t s = 0; s < stacks_.size(); ++s)
      for (int64_t level = 0; level < stacks_[s].levels; ++level) {
        int64_t sum = 0;
        for (int64_t part = 0; part < parts_; ++part) {
          int64_t& pairs = pairs_[(s * parts_ + part) * kernel_.size + level];
          sum += std::exchange(pairs, sum);
        }
        counts[stacks_[s].first + level * kernel_.plane()] = sum;
      }
  }

  // Calls put(element, position, in, out): the pair is the position-th of its element.
  template <class Put>
  void list(const Put& put) {
    for_each_piece([&](const Stack& stack, int64_t begin, int64_t end, int64_t* next) {
      walk(keys_, origins_, begin, end, kernel_.step(stack.first), stack.levels, [&](int64_t level, int64_t in, int64_t out) {
        put(stack.first + level * kernel_.plane(), next[level]++, in, out);
      });
    });
  }

 private:
  template <class Work>
  void for_each_piece(const Work& work) {
    for_each_item(int64_t(stacks_.size()) * parts_, [&](int64_t piece, int64_t) {
      const int64_t begin = piece % parts_ * kPart;
      work(stacks_[piece / parts_], begin, std::min(begin + kPart, outputs_), &pairs_[piece * kernel_.size]);
    });
  }

  Kernel kernel_;
  const Keys& keys_;
  const int64_t* origins_;
  int64_t outputs_;
  std::vector<Stack> stacks_;
  int64_t parts_;
  std::vector<int64_t> pairs_;  // [stacks, parts, kernel size]: how many in the piece, later where its next one goes
};

// Stacks of neighbouring levels; spread by a dilation, every element is a stack of its own.
void add_stack(std::vector<Stack>& stacks, const Kernel& kernel, int64_t first, int64_t levels) {
  if (levels == 0) return;
  if (kernel.dilation == 1) return stacks.push_back({first, levels});
  for (int64_t level = 0; level < levels; ++level) stacks.push_back({first + level * kernel.plane(), 1});
}

// Refuses coordinates out of range or out of order.
Keys rising_keys(const Tensor& coordinates) {
  const int64_t count = coordinates.size(0);
  Keys keys{std::unique_ptr<int64_t[]>(new int64_t[count + 1]), count, {}};
  keys.bounds = pack_voxels(data<int64_t>(coordinates), count, keys.of.get());
  keys.of[count] = kPastEveryKey;
  std::atomic<bool> falling{false};
  for_parts(count, 1, [&](int64_t begin, int64_t end) {
    bool wrong = false;
    for (int64_t i = begin; i < end; ++i) wrong |= keys.of[i] >= keys.of[i + 1];
    if (wrong) falling = true;
  });
  if (falling) refuse_order();
  return keys;
}

struct Pairs {
  Tensor in_rows, out_rows, offsets;
  int64_t *in, *out, *start;

  // `offsets` holds the number of pairs of each element behind its place.
  Pairs(const Tensor& like, Tensor counted) : offsets(counted), start(output<int64_t>(offsets)) {
    const int64_t elements = offsets.numel() - 1;
    start[0] = 0;
    for (int64_t element = 0; element < elements; ++element) start[element + 1] += start[element];
    in_rows = torch::stable::new_empty(like, {start[elements]});
    out_rows = torch::stable::new_empty(like, {start[elements]});
    in = output<int64_t>(in_rows);
    out = output<int64_t>(out_rows);
    prefer_huge_pages(in, start[elements] * sizeof(int64_t));
    prefer_huge_pages(out, start[elements] * sizeof(int64_t));
  }

  void put(int64_t element, int64_t position, int64_t in_row, int64_t out_row) const {
    in[start[element] + position] = in_row;
    out[start[element] + position] = out_row;
  }
};

std::tuple<Tensor, Tensor, Tensor> kernel_map(const Tensor& coordinates, int64_t kernel_size, int64_t dilation) {
  check_coordinates(coordinates);
  const Kernel kernel = submanifold_kernel(kernel_size, dilation);
  const Tensor given = torch::stable::contiguous(coordinates);
  const int64_t voxels = given.size(0), centre = kernel.elements() / 2, last = kernel.elements() - 1;
  const Keys keys = rising_keys(given);
  // The opposite element joins the same voxels the other way round: half of the rows and columns is walked, and half of the
  // middle stack.
  std::vector<Stack> stacks;
  for (int64_t first = 0; first < kernel.plane() / 2; ++first) add_stack(stacks, kernel, first, kernel.size);
  add_stack(stacks, kernel, kernel.plane() / 2, kernel.size / 2);
  PairLists lists(kernel, keys, keys.of.get(), voxels, std::move(stacks));
  Tensor offsets = torch::stable::new_zeros(given, {kernel.elements() + 1});
  int64_t* const counts = output<int64_t>(offsets) + 1;
  lists.count(counts);
  for (int64_t element = 0; element <= last; ++element) counts[element] = std::max(counts[element], counts[last - element]);
  counts[centre] = voxels;
  const Pairs pairs(given, offsets);
  lists.list([&](int64_t element, int64_t position, int64_t in, int64_t out) {
    pairs.put(element, position, in, out);
    pairs.put(last - element, position, out, in);
  });
  for_parts(voxels, 2, [&](int64_t begin, int64_t end) {
    for (int64_t voxel = begin; voxel < end; ++voxel) pairs.put(centre, voxel, voxel, voxel);
  });
  return {pairs.in_rows, pairs.out_rows, pairs.offsets};
}

template <class Word>
Tensor distinct_voxels(const Tensor& like, const int64_t* keys, int64_t count, const ShortKeys& format) {
  const Scratch<Pair<Word>> pairs(count);
  const SortedKeys<Word> sorted(keys, count, format, pairs.get());
  Tensor voxels = torch::stable::new_empty(like, {sorted.distinct(), 4});
  int64_t* const voxel = output<int64_t>(voxels);
  sorted.for_each([&](int64_t, int64_t, int64_t which, bool first, const auto& key) {
    if (first) unpack(key(), voxel + 4 * which);
  });
  return voxels;
}

// The coarse voxels that hold a voxel, in order.
Tensor coarse_voxels(const Tensor& given, const Bounds& bounds, int64_t stride) {
  const int64_t voxels = given.size(0);
  if (voxels == 0) return torch::stable::new_empty(given, {0, 4});
  const std::unique_ptr<int64_t[]> keys(new int64_t[voxels]);
  for_parts(voxels, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) keys[i] = coarse_key(data<int64_t>(given) + 4 * i, stride);
  });
  const int64_t count = std::unique(keys.get(), keys.get() + voxels) - keys.get();  // neighbours above and beside; less to sort
  Bounds coarse = bounds;
  for (int axis = 1; axis < 4; ++axis) {
    coarse.low[axis] = floor_divide(bounds.low[axis], stride);
    coarse.high[axis] = floor_divide(bounds.high[axis], stride);
  }
  const ShortKeys format(coarse);
  return SortedKeys<uint32_t>::fits(count, format) ? distinct_voxels<uint32_t>(given, keys.get(), count, format)
                                                  : distinct_voxels<uint64_t>(given, keys.get(), count, format);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> strided_kernel_map(const Tensor& coordinates, int64_t kernel_size, int64_t stride) {
  check_coordinates(coordinates);
  const Kernel kernel = strided_kernel(kernel_size, stride);
  const Tensor given = torch::stable::contiguous(coordinates);
  const Keys keys = rising_keys(given);
  const Tensor coarse = coarse_voxels(given, keys.bounds, stride);
  const int64_t outputs = coarse.size(0);
  const std::unique_ptr<int64_t[]> origins(new int64_t[outputs]);
  for_parts(outputs, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) origins[i] = origin_key(data<int64_t>(coarse) + 4 * i, stride);
  });
  std::vector<Stack> stacks;
  for (int64_t first = 0; first < kernel.plane(); ++first) add_stack(stacks, kernel, first, kernel.size);
  PairLists lists(kernel, keys, origins.get(), outputs, std::move(stacks));
  Tensor offsets = torch::stable::new_zeros(given, {kernel.elements() + 1});
  lists.count(output<int64_t>(offsets) + 1);
  const Pairs pairs(given, offsets);
  lists.list([&](int64_t element, int64_t position, int64_t in, int64_t out) { pairs.put(element, position, in, out); });
  return {coarse, pairs.in_rows, pairs.out_rows, pairs.offsets};
}

STABLE_TORCH_LIBRARY_IMPL(fusion3d, CPU, library) {
  library.impl("kernel_map", TORCH_BOX(&kernel_map));
  library.impl("strided_kernel_map", TORCH_BOX(&strided_kernel_map));
}

}  // namespace
}  // namespace fusion3d
