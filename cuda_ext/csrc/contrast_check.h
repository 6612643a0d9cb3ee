// The arguments of contrast, checked and brought to the type in which they are computed; the same for CPU and CUDA.
#pragma once

#include "binding.h"

namespace fusion3d {

// Dense memory in another float type; the tensor itself where it has both already.
inline Tensor in_type(const Tensor& tensor, ScalarType type) {
  if (tensor.scalar_type() == type) return torch::stable::contiguous(tensor);
  Tensor copy = torch::stable::new_empty(tensor, tensor.sizes(), type);
  return torch::stable::copy_(copy, tensor);
}

inline Tensor in_type_of(const Tensor& like, const Tensor& tensor) { return in_type(tensor, like.scalar_type()); }

inline bool is_float(const Tensor& tensor) {
  const ScalarType type = tensor.scalar_type();
  return type == ScalarType::Float || type == ScalarType::Double || type == ScalarType::Half || type == ScalarType::BFloat16;
}

// Half types are computed in float32.
inline ScalarType wide_type_of(const char* name, const Tensor& tensor) {
  if (!is_float(tensor)) refuse(name, " must be float32, float64, float16 or bfloat16");
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

struct ContrastTensors {
  ScalarType wide;
  int64_t rows, channels;
  Tensor query, key;
  std::optional<Tensor> position, scene;
  double limit;  // square of the radius

  ContrastTensors(const Tensor& query, const Tensor& key, const std::optional<Tensor>& position,
                  const std::optional<Tensor>& scene, double radius)
      : limit(radius * radius) {
    check_dimensions("query", query, 2);
    wide = wide_type_of("query", query);
    rows = query.size(0);
    channels = query.size(1);
    check_shape("key", key, rows, channels);
    check_like_query("key", key, query);
    this->query = in_type(query, wide);
    this->key = in_type(key, wide);
    if (!position) return;
    check_shape("position", *position, rows, 2);
    check_same_device("position", *position, "query", query);
    this->position = in_type(*position, wide_type_of("position", *position));
    if (!scene) return;
    check_int64("scene", *scene);
    check_same_device("scene", *scene, "query", query);
    if (scene->size(0) != rows) refuse("scene names ", scene->size(0), " rows but there are ", rows);
    this->scene = torch::stable::contiguous(*scene);
  }

  // One number of each row.
  Tensor per_row(const char* name, const Tensor& tensor) const {
    check_dimensions(name, tensor, 1);
    if (tensor.size(0) != rows) refuse(name, " has ", tensor.size(0), " entries but there are ", rows, " rows");
    wide_type_of(name, tensor);
    check_same_device(name, tensor, "query", query);
    return in_type(tensor, wide);
  }

  Tensor new_rows() const { return torch::stable::new_empty(query, {rows}); }
  Tensor new_matrix() const { return torch::stable::new_empty(query, {rows, channels}); }

 private:
  static void check_like_query(const char* name, const Tensor& tensor, const Tensor& query) {
    check_same_device(name, tensor, "query", query);
    if (tensor.scalar_type() != query.scalar_type()) refuse(name, " and query have different types; convert one");
  }
};

}  // namespace fusion3d
