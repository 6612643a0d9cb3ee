// What every binding needs on the torch side: refusals in words, one switch on dtype, and checks of shapes and devices.
// Only LibTorch Stable ABI: no C++ symbol of torch is used, so one library serves every torch from 2.10 on.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "core/column_pool.h"
#include "core/csr.h"

namespace fusion3d {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// fusion3d.ops.native turns this prefix into ConfigError. Not to be thrown inside parallel_for, which loses the text.
template <class... Words>
[[noreturn]] void refuse(const Words&... words) {
  std::ostringstream text;
  text << "fusion3d: ";
  (text << ... << words);
  throw std::runtime_error(text.str());
}

// Calls body(S{}) with the core type S that a dtype stands for.
template <class Body>
void with_float_type(const char* name, ScalarType type, Body&& body) {
  switch (type) {
    case ScalarType::Float: return body(float{});
    case ScalarType::Double: return body(double{});
    case ScalarType::Half: return body(Half{});
    case ScalarType::BFloat16: return body(BFloat16{});
    default: refuse(name, " must be float32, float64, float16 or bfloat16");
  }
}

template <class S>
const S* data(const Tensor& tensor) {
  return static_cast<const S*>(tensor.const_data_ptr());
}

template <class S>
S* output(Tensor& tensor) {
  return static_cast<S*>(tensor.mutable_data_ptr());
}

inline void check_dimensions(const char* name, const Tensor& tensor, int64_t dimensions) {
  if (tensor.dim() != dimensions) refuse(name, " must have ", dimensions, " dimension(s), not ", tensor.dim());
}

inline void check_same_device(const char* name, const Tensor& tensor, const char* other_name, const Tensor& other) {
  if (tensor.is_cuda() != other.is_cuda() || tensor.get_device_index() != other.get_device_index())
    refuse(name, " and ", other_name, " are on different devices; move one");
}

inline void check_int64(const char* name, const Tensor& tensor) {
  if (tensor.dim() != 1 || tensor.scalar_type() != ScalarType::Long) refuse(name, " must be one-dimensional int64");
}

// There is one offset more than there are columns.
inline void check_columns(int64_t columns) {
  if (columns < 0 || columns == INT64_MAX) refuse("there cannot be ", columns, " columns");
}

inline void check_shape(const char* name, const Tensor& tensor, int64_t rows, int64_t columns) {
  check_dimensions(name, tensor, 2);
  if (tensor.size(0) != rows || tensor.size(1) != columns)
    refuse(name, " must have shape [", rows, ", ", columns, "], not [", tensor.size(0), ", ", tensor.size(1), "]");
}

// CSR offsets in dense memory, their shapes checked. Their values are checked by the device that they are on: check_csr.
class CsrTensors {
 public:
  CsrTensors(const char* name, const Tensor& tensor, const Tensor& row_splits, const std::optional<Tensor>& permutation,
             int64_t rows, int64_t channels)
      : rows(rows), splits_(torch::stable::contiguous(row_splits)) {
    check_int64("row_splits", row_splits);
    check_same_device("row_splits", row_splits, name, tensor);
    if (row_splits.numel() == 0) refuse("row_splits is empty; it needs one entry more than there are columns");
    if (rows < 0 || rows > int64_t(UINT32_MAX)) refuse(rows, " rows are outside [0, 2^32); pool the scene in blocks");
    if (permutation) {
      check_int64("permutation", *permutation);
      check_same_device("permutation", *permutation, name, tensor);
      permutation_ = torch::stable::contiguous(*permutation);
    }
    columns = {data<int64_t>(splits_), permutation_ ? data<int64_t>(*permutation_) : nullptr,
               permutation_ ? permutation_->numel() : rows, splits_.numel() - 1, channels};
  }

  // Whether some row belongs to no column.
  bool leaves_rows_out() const { return columns.places < rows; }

  int64_t rows;
  Columns columns;

 private:
  Tensor splits_;
  std::optional<Tensor> permutation_;
};

inline void refuse_fault(CsrFault fault, const CsrTensors& csr) {
  switch (fault) {
    case CsrFault::none: return;
    case CsrFault::splits: refuse("row_splits must rise from 0 to the number of rows, ", csr.columns.places);
    case CsrFault::outside: refuse("permutation holds values outside [0, ", csr.rows, ")");
    case CsrFault::twice: refuse("permutation names a row twice");
    case CsrFault::long_column: refuse("a column has 2^31 rows or more; use smaller columns");
  }
}

// [columns, channels] int64, as the forward pass returns it. Its values are only compared, never used as addresses.
inline void check_winner(const Tensor& winner, const Tensor& grad) {
  check_shape("winner", winner, grad.size(0), grad.size(1));
  check_same_device("winner", winner, "grad", grad);
  if (winner.scalar_type() != ScalarType::Long) refuse("winner must be int64");
}

inline Reduce reduce_of(const std::string& name) {
  if (name == "sum") return Reduce::sum;
  if (name == "mean") return Reduce::mean;
  if (name == "max") return Reduce::max;
  refuse("reduce must be one of sum, mean, max, not ", name);
}

// Calls body(constant) with `reduce` as a compile-time constant.
template <class Body>
void with_reduce(Reduce reduce, Body&& body) {
  switch (reduce) {
    case Reduce::sum: return body(std::integral_constant<Reduce, Reduce::sum>{});
    case Reduce::mean: return body(std::integral_constant<Reduce, Reduce::mean>{});
    case Reduce::max: return body(std::integral_constant<Reduce, Reduce::max>{});
  }
}

}  // namespace fusion3d
