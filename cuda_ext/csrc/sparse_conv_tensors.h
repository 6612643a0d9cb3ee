// What both bindings of sparse_conv check before any pair is read: shapes, dtypes, devices, and the offsets, which the host has.
#pragma once

#include "binding.h"
#include "core/kernel_pairs.h"

namespace fusion3d {

// A kernel map's tensors in dense memory. `like` has the device that the rows must be on; offsets are always on the CPU. The
// rows themselves are checked by the device that they are on: check_pairs.
class PairTensors {
 public:
  PairTensors(const Tensor& like, const Tensor& weight, const Tensor& in_rows, const Tensor& out_rows, const Tensor& offsets,
              int64_t inputs, int64_t outputs)
      : in_rows_(torch::stable::contiguous(in_rows)),
        out_rows_(torch::stable::contiguous(out_rows)),
        offsets_(torch::stable::contiguous(offsets)) {
    check_int64("in_rows", in_rows);
    check_int64("out_rows", out_rows);
    check_int64("offsets", offsets);
    check_same_device("in_rows", in_rows, "features", like);
    check_same_device("out_rows", out_rows, "features", like);
    check_same_device("weight", weight, "features", like);
    if (!offsets.is_cpu()) refuse("offsets must be on the CPU: they drive a loop over kernel elements");
    check_dimensions("weight", weight, 3);
    if (weight.scalar_type() != like.scalar_type()) refuse("weight and features have different dtypes; convert one");
    if (outputs < 0) refuse("outputs must not be negative, but is ", outputs);
    if (in_rows.numel() != out_rows.numel())
      refuse("in_rows has ", in_rows.numel(), " pairs but out_rows ", out_rows.numel());
    if (offsets.numel() != weight.size(0) + 1)
      refuse("offsets must have one entry more than weight has kernel elements, ", weight.size(0), ", not ", offsets.numel());
    const int64_t* const bounds = data<int64_t>(offsets_);
    bool fit = bounds[0] == 0 && bounds[weight.size(0)] == in_rows.numel();
    for (int64_t k = 0; k < weight.size(0); ++k) fit &= bounds[k] <= bounds[k + 1];
    if (!fit) refuse("offsets must rise from 0 to the number of pairs, ", in_rows.numel());
    pairs = {data<int64_t>(in_rows_), data<int64_t>(out_rows_), bounds, weight.size(0), inputs, outputs};
  }

  KernelPairs pairs;

 private:
  Tensor in_rows_, out_rows_, offsets_;
};

inline void refuse_fault(PairFault fault, const KernelPairs& pairs) {
  switch (fault) {
    case PairFault::none: return;
    case PairFault::in_outside: refuse("in_rows holds values outside [0, ", pairs.inputs, ")");
    case PairFault::out_outside: refuse("out_rows holds values outside [0, ", pairs.outputs, ")");
    case PairFault::in_order: refuse("in_rows must rise within each kernel element");
    case PairFault::out_order: refuse("out_rows must rise within each kernel element");
  }
}

// features [V_in, C_in] and weight [K, C_in, C_out] of one convolution; grad, where there is one, [V_out, C_out].
inline void check_channels(const Tensor& features, const Tensor& weight) {
  check_dimensions("features", features, 2);
  check_dimensions("weight", weight, 3);
  if (weight.size(1) != features.size(1))
    refuse("weight must have shape [K, ", features.size(1), ", C_out] for these features, but its second size is ",
           weight.size(1));
}

inline void check_grad(const Tensor& grad, const Tensor& features, const Tensor& weight) {
  check_dimensions("grad", grad, 2);
  check_shape("grad", grad, grad.size(0), weight.size(2));
  check_same_device("grad", grad, "features", features);
  if (grad.scalar_type() != features.scalar_type()) refuse("grad and features have different dtypes; convert one");
}

}  // namespace fusion3d
